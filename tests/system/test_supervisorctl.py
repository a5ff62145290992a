"""The real supervisorctl, and calls as Telegraf and Ansible make them, against a real daemon."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
import xmlrpc.client

import pytest
from aiohttp import web
from supervisor.xmlrpc import SupervisorTransport
from waiting import wait_for

from impetusd.client import async_control
from impetusd.client.async_control import AsyncControl
from impetusd.interop.xmlrpc import Supervisord

SUPERVISORCTL = [f"{os.path.dirname(sys.executable)}/supervisorctl"]
EVERY_KEY = {
    *("name", "group", "start", "stop", "now", "state", "statename", "spawnerr", "exitstatus", "logfile"),
    *("stdout_logfile", "stderr_logfile", "pid", "description"),
}


class Direct:
    def __init__(self, path):
        self.client = AsyncControl(async_control.at(path))

    async def call(self, method, params, caller, progress=None):
        return await self.client.call(method, params, progress)


class Caller:
    role = "admin"


@pytest.fixture
def ctl(impetusd):
    path = str(impetusd.root / "sv.sock")
    loop = asyncio.new_event_loop()
    server = Supervisord(Direct(str(impetusd.control_socket)), lambda peer: Caller(), None)

    async def up():
        @web.middleware
        async def all_of_it(request, handler):
            return await server.handle(request)

        runner = web.AppRunner(web.Application(middlewares=[all_of_it]), access_log=None, shutdown_timeout=1)
        await runner.setup()
        await web.UnixSite(runner, path).start()
        return runner

    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    runner = asyncio.run_coroutine_threadsafe(up(), loop).result()

    def run(*args, code=0, err=False):
        done = subprocess.run(
            [*SUPERVISORCTL, "-s", f"unix://{path}", *args],
            check=False,
            capture_output=True,
            text=True,
            timeout=60,
            cwd=impetusd.root,
        )
        assert done.returncode == code, done
        return done.stderr if err else done.stdout

    run.path = path
    yield run
    asyncio.run_coroutine_threadsafe(runner.cleanup(), loop).result()
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()


WRITES = "sh -c 'echo one; echo two >&2; exec sleep 300'"
INI = f"""[program:a]
command = {WRITES}
[program:b]
command = sleep 300
[program:c]
command = sleep 300
instances = 2
[program:bad]
command = /no/such
autostart = no
[program:ends]
command = false
autostart = no
[group:x]
members = b, c
"""


def test_each_command_of_supervisorctl(impetusd, ctl):
    before = impetusd.start(INI)
    said = ctl("status", code=3).splitlines()
    assert [line.split()[:2] for line in said] == [
        ["a", "RUNNING"],
        ["bad", "STOPPED"],
        ["ends", "STOPPED"],
        ["x:b", "RUNNING"],
        ["x:c:0", "RUNNING"],
        ["x:c:1", "RUNNING"],
    ]
    assert f"pid {before['a'].pid}, uptime 0:00:" in ctl("status", "a")
    assert len(ctl("status", "x:*").splitlines()) == 3
    assert ctl("status", "nope", code=4) == "nope: ERROR (no such process)\n"
    assert ctl("pid") == f"{before.shim}\n"
    assert ctl("pid", "a") == f"{before['a'].pid}\n"
    assert ctl("version") == "4.3.0\n"
    avail = [line.split()[:3] for line in ctl("avail").splitlines()]
    assert ["a", "in", "use"] in avail
    assert len(avail) == 6

    assert ctl("stop", "a") == "a: stopped\n"
    assert ctl("stop", "a") == "a: ERROR (not running)\n"
    assert impetusd.status()["a"].state == "STOPPED"
    assert ctl("start", "a") == "a: started\n"
    assert ctl("start", "a") == "a: ERROR (already started)\n"
    assert ctl("restart", "a") == "a: stopped\na: started\n"
    assert ctl("stop", "x:*") == "x:b: stopped\nx:c:0: stopped\nx:c:1: stopped\n"
    assert ctl("start", "x:*") == "x:b: started\nx:c:0: started\nx:c:1: started\n"
    assert ctl("restart", "x:c:0", "b") == "x:c:0: stopped\nb: stopped\nx:c:0: started\nb: started\n"
    assert ctl("start", "bad", code=1) == "bad: ERROR (no such file)\n"
    assert ctl("start", "ends", code=7) == "ends: ERROR (abnormal termination)\n"
    assert ctl("start", "nope", code=1) == "nope: ERROR (no such process)\n"
    assert ctl("stop", "nope:*", code=1) == "nope: ERROR (no such group)\n"
    assert ctl("signal", "NO", "a", code=1) == "a: ERROR (bad signal name)\n"
    ctl("stop", "ends")
    pid = impetusd.status()["a"].pid
    assert ctl("signal", "HUP", "a") == "a: signalled\n"
    impetusd.wait_status(lambda status: status["a"].pid not in {None, pid} and status["a"].state == "RUNNING")

    assert ctl("tail", "a").endswith("one\none\n\n")
    assert ctl("tail", "a", "stderr").endswith("two\ntwo\n\n")
    assert ctl("tail", "-2", "a") == "e\n\n"
    assert ctl("tail", "nope", code=1) == "nope: ERROR (no such process name)\n"
    assert len(ctl("maintail", "-100")) <= 101
    assert ctl("clear", "a") == "a: cleared\n"
    assert ctl("tail", "a") == "\n"
    stopped = ctl("stop", "all").splitlines()
    assert stopped == ["a: stopped", "x:b: stopped", "x:c:0: stopped", "x:c:1: stopped"]
    assert impetusd.status().supervisor == before.supervisor
    assert "a: started" in ctl("start", "all", code=7).splitlines()


def test_update_does_what_the_file_says(impetusd, ctl):
    one = "[program:{}]\ncommand = sleep {}\n"
    impetusd.start(one.format("a", 300) + one.format("b", 300) + one.format("c", 300))
    assert ctl("reread") == "No config updates to processes\n"
    assert ctl("update") == ""
    before = impetusd.status().pids
    impetusd.write(one.format("a", 300) + one.format("b", 301) + one.format("d", 300) + "[group:x]\nmembers = a\n")
    said = ctl("reread").splitlines()
    assert said == ["b: changed", "c: disappeared", "d: available", "group:x: changed"]
    assert "d                                avail     auto" in ctl("avail")
    assert set(ctl("update").splitlines()) == {
        *("c: stopped", "c: removed process group", "b: stopped", "b: updated process group"),
        *("group:x: stopped", "group:x: updated process group", "d: added process group"),
    }
    now = impetusd.settle().pids
    assert now.keys() == {"a", "b", "d"}
    assert now["a"] == before["a"]
    assert now["b"] != before["b"]
    assert ctl("update") == ""
    assert ctl("add", "d") == "ERROR: process group already active\n"
    assert ctl("remove", "d", code=1) == "ERROR: process/group still running: d\n"
    ctl("stop", "d")
    assert ctl("remove", "d") == "d: removed process group\n"
    assert "d" not in impetusd.status().rows
    assert ctl("add", "d") == "d: added process group\n"
    assert impetusd.wait_state("d", "RUNNING")
    assert ctl("add", "nope", code=1) == "ERROR: no such process/group: nope\n"
    impetusd.write("[program:a]\ncommand =\n")
    assert ctl("reread", code=1).startswith("ERROR: CANT_REREAD: ")


def test_a_log_is_followed(impetusd, ctl):
    impetusd.start(f"[program:a]\ncommand = {WRITES}\n")
    for words, expected in ((["tail", "-f", "a"], "one\n"), (["maintail", "-f"], "a:0: RUNNING")):
        following = subprocess.Popen(
            [*SUPERVISORCTL, "-s", f"unix://{ctl.path}", *words], stdout=subprocess.PIPE, text=True, cwd=impetusd.root
        )
        try:
            text = ""
            while expected not in text:
                text += following.stdout.readline()
            assert text.startswith("==> Press Ctrl-C to exit <==")
            if "tail" in words:
                impetusd.run("restart", "a")
                assert following.stdout.readline() == "one\n"
        finally:
            following.send_signal(signal.SIGINT)
            following.communicate(timeout=60)
    assert "Cannot read, status code 404" in ctl("tail", "-f", "nope", err=True)


def test_reload_and_shutdown(impetusd, ctl):
    before = impetusd.start("[program:a]\ncommand = sleep 300\n[program:b]\ncommand = sleep 300\n")
    impetusd.write("[program:a]\ncommand = sleep 300\n[program:c]\ncommand = sleep 300\n")
    assert ctl("reload") == "Restarted supervisord\n"
    now = impetusd.wait_status(lambda status: status.pids.keys() == {"a", "c"} and status["a"].pid != before["a"].pid)
    assert now.shim == before.shim
    assert ctl("shutdown") == "Shut down\n"
    wait_for(lambda: not impetusd.members(), "the end of the daemon")


def test_calls_of_other_clients(impetusd, ctl):
    impetusd.start(f"[program:a]\ncommand = {WRITES}\n[program:b]\ncommand = sleep 300\n")
    transport = SupervisorTransport(None, None, f"unix://{ctl.path}")
    proxy = xmlrpc.client.ServerProxy("http://127.0.0.1", transport=transport)
    try:
        assert proxy.supervisor.getAPIVersion() == proxy.supervisor.getVersion() == "3.0"
        assert proxy.supervisor.getIdentification() == "impetusd"
        assert proxy.supervisor.getState() == {"statecode": 1, "statename": "RUNNING"}
        infos = proxy.supervisor.getAllProcessInfo()
        assert [info["name"] for info in infos] == ["a", "b"]
        assert infos[0].keys() == EVERY_KEY
        assert infos[0]["pid"] == impetusd.status()["a"].pid
        assert 0 <= infos[0]["now"] - infos[0]["start"] < 60
        wait_for(lambda: proxy.supervisor.tailProcessStdoutLog("a", 0, 100) == ["one\n", 4, False])
        assert proxy.supervisor.tailProcessStdoutLog("a", 0, 2) == ["e\n", 4, True]
        assert proxy.supervisor.tailProcessStdoutLog("a", 4, 100) == ["", 4, False]
        assert proxy.supervisor.readProcessStdoutLog("a", 0, 2) == "on"
        assert proxy.supervisor.readProcessStdoutLog("a", -3, 0) == "ne\n"
        assert proxy.supervisor.stopProcess("b", False) is True
        impetusd.wait_state("b", "STOPPED")
        assert proxy.supervisor.startProcess("b", False) is True
        impetusd.wait_state("b", "RUNNING")
        assert proxy.supervisor.stopProcessGroup("b")[0]["status"] == 80
        assert "supervisor.tailProcessStderrLog" in proxy.system.listMethods()
        assert "GROUP:*" in proxy.system.methodHelp("supervisor.startProcess")
        assert proxy.system.methodSignature("supervisor.startProcess") == ["boolean", "string", "boolean"]
        calls = xmlrpc.client.MultiCall(proxy)
        calls.supervisor.getPID()
        calls.supervisor.startProcess("nope")
        calls.supervisor.getSupervisorVersion()
        found = calls().results
        assert found[0] == impetusd.status().shim
        assert found[1]["faultCode"] == 10
        assert found[2] == "4.3.0"
        for call in (
            proxy.supervisor.startProcess,
            lambda: proxy.supervisor.startProcess("b", "x"),
            lambda: proxy.supervisor.readProcessStdoutLog("a", -3, 3),
            lambda: proxy.supervisor.startProcess("a"),
            lambda: proxy.supervisor.sendProcessStdin("a", "x"),
            lambda: proxy.supervisor.readLog.im_func("x"),
        ):
            with pytest.raises(xmlrpc.client.Fault):
                call()
    finally:
        transport.close()
