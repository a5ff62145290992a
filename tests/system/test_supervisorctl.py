"""The real supervisorctl, and calls as Telegraf and Ansible make them, against a real daemon."""

from __future__ import annotations

import base64
import contextlib
import gc
import io
import os
import pwd
import signal
import socket
import subprocess
import sys
import warnings
import xmlrpc.client
from collections.abc import Iterator

import pytest
from instance import COMMAND, Instance, Status
from lending import Lend
from supervisor import supervisorctl
from supervisor.xmlrpc import SupervisorTransport
from waiting import wait_for

SUPERVISORCTL = [f"{os.path.dirname(sys.executable)}/supervisorctl"]
EVERY_KEY = {
    *("name", "group", "start", "stop", "now", "state", "statename", "spawnerr", "exitstatus", "logfile"),
    *("stdout_logfile", "stderr_logfile", "pid", "description"),
}


GATEWAY = """[gateway]
socket = ${RUN_DIR}/gateway.sock
xmlrpc = unix:${RUN_DIR}/supervisor.sock mode=0666
ceiling = admin
"""


class Ctl:
    """supervisorctl on an instance that has a gateway."""

    def __init__(self, impetusd: Instance) -> None:
        self._impetusd = impetusd
        self.url = f"unix://{impetusd.run_dir}/supervisor.sock"
        impetusd.root.chmod(0o755)  # nobody, who serves it, gets to its folder

    def start(self, ini: str) -> Status:
        return self._impetusd.start(GATEWAY + ini)

    def write(self, ini: str) -> None:
        self._impetusd.write(GATEWAY + ini)

    def pids(self) -> dict[str, int]:
        """Of programs."""
        pids = self._impetusd.status().pids
        return {name: pid for name, pid in pids.items() if name.partition(":")[0] not in {"gateway", "observer"}}

    def popen(self, *words: str, user: str | None = None, stdin: int | None = None) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [*SUPERVISORCTL, "-s", self.url, *words],
            user=user,
            group=user and pwd.getpwnam(user).pw_gid,
            extra_groups=None if user is None else [],
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=self._impetusd.root,
        )

    def __call__(self, *words: str, code: int | None = 0, user: str | None = None) -> str:
        """What it says. In a process of its own for another user only: one takes longer than what it asks for."""
        if user is None:
            found, said = self._here(*words)
        else:
            process = self.popen(*words, user=user)
            said = "".join(process.communicate(timeout=60))
            found = process.returncode
        assert code in {found, None}, (said, self._impetusd.log())
        return said

    def _here(self, *words: str) -> tuple[object, str]:
        said = io.StringIO()
        with warnings.catch_warnings(), contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            warnings.simplefilter("ignore", ResourceWarning)  # it leaves its connection open
            with pytest.raises(SystemExit) as ended:
                supervisorctl.main(["-s", self.url, *words])
            code = ended.value.code
            del ended
            gc.collect()
        return code, said.getvalue()


@pytest.fixture
def ctl(impetusd: Instance) -> Ctl:
    return Ctl(impetusd)


WRITES = "sh -c 'echo one; echo two >&2; exec sleep 300'"


@pytest.fixture(scope="module")
def shared(lend: Lend) -> Iterator[tuple[Instance, Ctl]]:
    """One for those that leave it as they find it, and at last for the one that ends it."""
    with lend(None) as instance:
        ctl = Ctl(instance)
        ctl.start(f"[program:a]\ncommand = {WRITES}\n[program:b]\ncommand = sleep 300\n")
        yield instance, ctl


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
wait_ready = yes
autostart = no
[group:x]
members = b, c
"""


def test_each_command_of_supervisorctl(impetusd: Instance, ctl: Ctl) -> None:
    before = ctl.start(INI)
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
    assert ctl.popen("version").communicate(timeout=60)[0] == ctl("version") == "4.3.0\n"
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

    wait_for(lambda: ctl("tail", "a").endswith("one\none\n\n"), lambda: ctl("tail", "a"))
    wait_for(lambda: ctl("tail", "a", "stderr").endswith("two\ntwo\n\n"), lambda: ctl("tail", "a", "stderr"))
    assert ctl("tail", "-2", "a") == "e\n\n"
    assert ctl("tail", "nope", code=1) == "nope: ERROR (no such process name)\n"
    assert len(ctl("maintail", "-100")) <= 101
    assert ctl("clear", "a") == "a: cleared\n"
    assert ctl("tail", "a") == "\n"
    stopped = ctl("stop", "all").splitlines()
    assert stopped == ["a: stopped", "x:b: stopped", "x:c:0: stopped", "x:c:1: stopped"]
    assert impetusd.status().supervisor == before.supervisor
    assert "a: started" in ctl("start", "all", code=7).splitlines()


def test_update_does_what_the_file_says(impetusd: Instance, ctl: Ctl) -> None:
    one = "[program:{}]\ncommand = sleep {}\n"
    ctl.start(one.format("a", 300) + one.format("b", 300) + one.format("c", 300))
    assert ctl("reread") == "No config updates to processes\n"
    assert ctl("update") == ""
    before = ctl.pids()
    ctl.write(one.format("a", 300) + one.format("b", 301) + one.format("d", 300) + "[group:x]\nmembers = a\n")
    said = ctl("reread").splitlines()
    assert said == ["[group:x]: changed", "b: changed", "c: disappeared", "d: available"]
    assert "d                                avail     auto" in ctl("avail")
    assert set(ctl("update").splitlines()) == {
        *("c: stopped", "c: removed process group", "b: stopped", "b: updated process group"),
        *("[group:x]: stopped", "[group:x]: updated process group", "d: added process group"),
    }
    impetusd.settle()
    now = ctl.pids()
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
    ctl.write(one.format("a", 300) + one.format("d", 300) + "enabled = no\n")
    assert "b: removed process group" in ctl("update")
    assert ctl("update") == ""
    ctl.write("[program:a]\ncommand =\n")
    assert ctl("reread", code=1).startswith("ERROR: CANT_REREAD: ")
    # The gateway itself, which carries this out, is changed by it as well.
    was = impetusd.status()
    ctl.write("metrics = open\n" + one.format("a", 301))
    assert set(ctl("update").splitlines()) >= {"[gateway]: updated process group", "a: updated process group"}
    after = impetusd.wait_status(lambda status: status["gateway:0"].pid not in {None, was["gateway:0"].pid})
    assert after["a"].pid != was["a"].pid
    wait_for(
        lambda: ctl("reread") == "No config updates to processes\n", "the end of what the gateway could not wait for"
    )


def test_calls_of_other_clients(shared: tuple[Instance, Ctl]) -> None:
    impetusd, ctl = shared
    transport = SupervisorTransport(None, None, ctl.url)
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


def test_a_log_is_followed(shared: tuple[Instance, Ctl]) -> None:
    impetusd, ctl = shared
    for words, expected in ((["tail", "-f", "a"], "one\n"), (["maintail", "-f"], "a:0: RUNNING")):
        following = ctl.popen(*words)
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
    assert "Cannot read, status code 404" in ctl("tail", "-f", "nope")


def test_fg_shows_what_a_program_writes_and_says_why_it_takes_nothing(shared: tuple[Instance, Ctl]) -> None:
    _, ctl = shared
    foreground = ctl.popen("fg", "a", stdin=subprocess.PIPE)
    try:
        text = ""
        while "one\n" not in text:
            text += foreground.stdout.readline()
        foreground.stdin.write("typed\n")
        foreground.stdin.flush()
        while "ERROR" not in text:
            text += foreground.stdout.readline()
        assert "NO_FILE: a reads /dev/null, so that fg only shows what it writes, as tail -f does" in text
    finally:
        foreground.kill()  # it waits for its thread, which waits for the log
        foreground.communicate(timeout=60)
    assert "bad process name" in ctl("fg", "nope", code=1)


def test_reload_and_shutdown(shared: tuple[Instance, Ctl]) -> None:
    impetusd, ctl = shared
    before = impetusd.status()
    ctl.write("[program:a]\ncommand = sleep 300\n[program:c]\ncommand = sleep 300\n")
    assert ctl("reload") == "Restarted supervisord\n"
    # By one look: between two it may be gone.
    wait_for(lambda: (now := ctl.pids()).keys() == {"a", "c"} and now["a"] != before["a"].pid, ctl.pids)
    now = impetusd.status()
    assert now.shim == before.shim
    assert ctl("shutdown") == "Shut down\n"
    wait_for(lambda: not impetusd.members(), "the end of the daemon")


def test_a_user_may_what_its_role_on_the_control_socket_and_the_ceiling_allow(
    impetusd: Instance, ctl: Ctl, command_of_anyone: list[str]
) -> None:
    programs = "[program:a]\ncommand = sleep 300\n"
    ctl.start(programs)
    assert "403 your user has no role" in ctl("status", user="nobody", code=1)
    ctl.write(f"{programs}[impetusd]\nviewers = nobody\n")
    impetusd.run("apply")
    wait_for(
        lambda: "RUNNING" in ctl("status", user="nobody", code=None), lambda: ctl("status", user="nobody", code=None)
    )
    refused = ctl("stop", "a", user="nobody", code=1)
    assert "403 stop requires the role operator, but yours is viewer" in refused
    assert "403 tail requires the role operator" in ctl("tail", "a", user="nobody", code=1)
    assert "status code 403" in ctl("tail", "-f", "a", user="nobody")
    impetusd.write(GATEWAY.replace("ceiling = admin", "") + f"{programs}[impetusd]\nadmins = nobody\n")
    impetusd.run("apply")
    wait_for(lambda: ctl("restart", "a", user="nobody", code=None) == "a: stopped\na: started\n")
    impetusd.write(GATEWAY.replace("ceiling = admin", "") + f"{programs}[program:b]\ncommand = sleep 300\n")
    assert set(ctl("reread").splitlines()) == {"[gateway]: changed", "[impetusd]: changed", "b: available"}
    assert "403 apply requires the role admin, but yours is operator" in ctl("update", code=1)
    wait_for(lambda: "nobody via gateway" in impetusd.run("events", "a").out, "who it was, in the ledger", apart=0.1)


def test_on_a_port_it_takes_a_user_of_the_gateway_with_its_password(impetusd: Instance, ctl: Ctl) -> None:
    def passwd(user: str, password: str, *more: str) -> None:
        words = [*COMMAND, "-c", str(impetusd.conf), "passwd", user, *more]
        subprocess.run(words, input=f"{password}\n", text=True, check=True, capture_output=True, env=impetusd.environ)

    def rpc(path: str, user: str, password: str) -> int:
        with socket.create_connection(("127.0.0.1", port)) if not path else unix(path) as sock:
            login = base64.b64encode(f"{user}:{password}".encode()).decode()
            body = xmlrpc.client.dumps((), "supervisor.getPID").encode()
            head = (
                f"POST /RPC2 HTTP/1.1\r\nHost: localhost\r\nAuthorization: Basic {login}\r\nContent-Type: text/xml\r\n"
            )
            sock.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
            return int(sock.recv(4096).split()[1])

    def unix(path: str) -> socket.socket:
        sock = socket.socket(socket.AF_UNIX)
        sock.connect(path)
        return sock

    port = impetusd.port()
    keys = f"[gateway]\nsocket = ${{RUN_DIR}}/gateway.sock\nxmlrpc = 127.0.0.1:{port}\n"
    impetusd.start(f"{keys}[program:a]\ncommand = sleep 300\n")
    passwd("alice", "correct horse battery", "--role", "operator")
    passwd("eve", "staple of a viewer", "--role", "viewer")
    ctl.url = f"http://127.0.0.1:{port}"
    alice = ("-u", "alice", "-p", "correct horse battery")
    wait_for(lambda: "RUNNING" in ctl(*alice, "status", code=None), lambda: ctl(*alice, "status", code=None))
    assert ctl(*alice, "restart", "a") == "a: stopped\na: started\n"
    wait_for(lambda: "alice via gateway" in impetusd.run("events", "a").out, "who it was, in the ledger", apart=0.1)
    assert "Server requires authentication" in ctl("-u", "alice", "-p", "wrong", "version", code=1)
    assert "403 stop requires the role operator" in ctl("-u", "eve", "-p", "staple of a viewer", "stop", "a", code=1)
    assert rpc("", "alice", "correct horse battery") == 200
    assert rpc(f"{impetusd.run_dir}/gateway.sock", "alice", "correct horse battery") in {401, 404}
    passwd("alice", "another horse battery")
    wait_for(lambda: rpc("", "alice", "correct horse battery") == 401)
    assert rpc("", "alice", "another horse battery") == 200
