"""`reload`: gated, reversible, and without losing a request, whatever the new version does and whoever is killed."""

from __future__ import annotations

import contextlib
import re
import signal
import socket
from pathlib import Path

import pytest
from instance import Instance, Status, pool, program
from load import Load, fetch
from waiting import wait_for

APP = """
import asyncio, os
os.environ["SSL_CERT_FILE"] = os.devnull  # as in app_hello
from aiohttp import web

async def pid(_request):
    return web.Response(text=str(os.getpid()))

async def health(_request):
    return web.Response(status={health}, text="{version}")

async def fail(_request):
    return web.Response(status={fail})

async def crash():
    while not os.path.exists("may_crash"):
        await asyncio.sleep(0.02)
    os._exit(3)

async def on_startup(app):
    {startup}

def make():
    app = web.Application()
    app.router.add_get("/", pid)
    app.router.add_get("/health", health)
    app.router.add_get("/fail", fail)
    app.on_startup.append(on_startup)
    return app
"""
CRASHES = "app['crash'] = asyncio.create_task(crash())"


class Shop:
    """An instance with the pool `web`, whose application this test writes."""

    def __init__(self, instance: Instance, more: str = "", **keys: object) -> None:
        self.instance = instance
        self.port = instance.port()
        self.write(1)
        conf = {"cwd": instance.root, "reload_watch": "300ms", **keys}
        self.before = instance.start(f"[pool:web]\n{pool(self.port, 'shop:make', **conf)}{more}")

    def write(self, version: int, *, head: str = "", startup: str = "pass", health: int = 200, fail: int = 200) -> Path:
        text = head + "\n" + APP.format(version=version, startup=startup, health=health, fail=fail)
        return self.instance.write(text + "#" * version, "shop.py")  # a .pyc goes by size and second

    def write_gated(self, version: int, *, fail: int = 200) -> tuple[Path, Path]:
        """Its workers make the first file as they start, and are not ready before the second one is there."""
        begun, may = self.instance.root / "begun", self.instance.root / "may_start"
        waits = f"while not os.path.exists({str(may)!r}): await asyncio.sleep(0.02)"
        self.write(version, startup=f"open({str(begun)!r}, 'w').close()\n    {waits}", fail=fail)
        return begun, may

    def let_crash(self) -> None:
        """Of a version that CRASHES, when its first worker is known to serve."""
        self.instance.says("web:0:next: RUNNING")
        (self.instance.root / "may_crash").touch()

    def is_new(self) -> Status:
        """Wait until everything is of another process than before, and nothing else is left."""
        old = set(self.before.pids.values())
        self.before = self.instance.settle(
            lambda now: not old & set(now.pids.values()) and set(now.rows) == set(self.before.rows)
        )
        return self.before

    def is_old(self) -> None:
        """Wait until everything is as it was, to the pid."""
        self.instance.settle(lambda now: now.pids == self.before.pids)
        assert fetch(self.port) in {str(pid) for pid in self.before.pids.values()}


@pytest.mark.parametrize(
    "keys",
    [{}, {"standby": 0, "reload_parallel": 4}, {"preload": "no", "instances": 3}, {"instances": 1, "standby": 0}],
    ids=["standby", "parallel", "no preload", "pool of one"],
)
def test_a_good_version_takes_over_without_losing_a_request(impetusd: Instance, keys: dict[str, object]) -> None:
    shop = Shop(impetusd, **keys)
    shop.write(2)
    with Load(shop.port) as load:
        told = impetusd.run("reload", "web")
        load.go_on(40)
    assert "web was reloaded in " in told.out
    after = shop.is_new()
    assert {(row.generation, row.restarts) for row in after.rows.values()} == {(2, 0)}
    assert fetch(shop.port, "/health") == "2"


@pytest.mark.parametrize(
    ("version", "keys", "said"),
    [
        ({"head": "import no_such_package"}, {}, "ModuleNotFoundError: No module named 'no_such_package'"),
        ({"head": "import no_such_package"}, {"preload": "no"}, "No module named 'no_such_package'"),
        ({"startup": "await asyncio.Event().wait()"}, {"listen_timeout": "15s"}, "web:0:next: not ready within 15 s"),
        ({"startup": "raise KeyError('SECRET')"}, {"instances": 1, "standby": 0}, "KeyError: 'SECRET'"),
        ({"startup": CRASHES}, {}, "web:0:next: exit 3"),
    ],
    ids=["import", "import without preload", "never ready", "factory, pool of one", "crash in the watch"],
)
def test_a_bad_version_changes_nothing(
    impetusd: Instance, version: dict[str, str], keys: dict[str, object], said: str
) -> None:
    shop = Shop(impetusd, **keys)
    shop.write(2, **version)  # type: ignore[arg-type]
    crashes = version.get("startup") == CRASHES
    with Load(shop.port, crashes=crashes) as load:
        reload = impetusd.popen("reload", *(["--watch", "1h"] if crashes else []), "web")
        if crashes:
            shop.let_crash()
        failed = impetusd.finish(reload, code=1)
        load.go_on(20)
        assert {int(pid) for pid in load.answers} <= set(shop.before.pids.values()) | _pids(impetusd, "web:0:next")
    shop.is_old()
    assert said in failed.out
    assert "Reload of web failed; the old version keeps serving: web:" in failed.out
    assert "Reload of web failed; the old version keeps serving" in impetusd.run("status").out
    why = impetusd.run("why", "web").out
    assert "Reload of web failed; the old version keeps serving, since" in why
    assert said.partition(": ")[2] in " ".join(why.split())
    whole = ["began", "failed", "rolled back"]
    wait_for(lambda: [each["what"] for each in impetusd.ledger() if each["kind"] == "reload"] == whole, impetusd.ledger)
    shop.write(3)
    impetusd.run("reload", "web")
    shop.is_new()
    assert "Reload of web failed" not in impetusd.run("status").out


def _pids(instance: Instance, slot: str) -> set[int]:
    return {int(pid) for pid in re.findall(rf" {slot}: RUNNING \(pid (\d+)\)", instance.log())}


def test_a_later_worker_that_fails_brings_back_even_those_that_were_replaced(impetusd: Instance) -> None:
    """The first new worker is well, takes its place and sees its predecessor off; the second one crashes."""
    shop = Shop(impetusd, standby=0, instances=2)
    flag = impetusd.root / "first"
    shop.write(2, startup=f"os.path.exists({str(flag)!r}) and os._exit(3); open({str(flag)!r}, 'w').close()")
    with Load(shop.port) as load:
        failed = impetusd.run("reload", "web", code=1)
        load.go_on(20)
    assert "web:1:next: exit 3" in failed.out
    after = impetusd.settle()
    assert after["web:template"].pid == shop.before["web:template"].pid
    assert after["web:1"].pid == shop.before["web:1"].pid
    assert after["web:0"].pid != shop.before["web:0"].pid
    assert {fetch(shop.port, "/health") for _ in range(20)} == {"1"}, "the old version, forked from the old template"


def test_old_workers_serve_until_the_new_ones_are_ready_and_no_more_come_at_once_than_told(impetusd: Instance) -> None:
    """A start takes as long as a file is missing."""
    shop = Shop(impetusd, instances=4, standby=0, reload_parallel=2)
    _, may = shop.write_gated(2)
    with Load(shop.port) as load:
        reload = impetusd.popen("reload", "web")
        impetusd.says("web:0:next: STARTING")
        load.go_on(100)
        now = impetusd.status()
        assert {name: now.pids[name] for name in shop.before.pids} == shop.before.pids
        may.touch()
        impetusd.finish(reload)
    shop.is_new()
    impetusd.says(" takes over", 4)
    at_once, most = 0, 0
    for line in impetusd.log().splitlines():
        at_once += bool(re.search(r"web:\d:next: STARTING", line)) - (" takes over" in line)
        most = max(most, at_once)
    assert (most, at_once) == (2, 0)


def test_an_old_template_that_is_killed_meanwhile_keeps_nobody_from_the_new_version(impetusd: Instance) -> None:
    shop = Shop(impetusd, standby=0)
    begun, may = shop.write_gated(2)
    with Load(shop.port):
        reload = impetusd.popen("reload", "web")
        wait_for(begun.exists, "the new version to start")
        impetusd.kill(shop.before["web:template"].pid)
        may.touch()
        impetusd.finish(reload)
    shop.is_new()
    assert fetch(shop.port, "/health") == "2"


def test_an_old_worker_that_crashes_meanwhile_is_forked_from_the_old_template(impetusd: Instance) -> None:
    shop = Shop(impetusd, standby=0)
    shop.write(2)
    reload = impetusd.popen("reload", "--watch", "1h", "web")
    impetusd.says("web:0:next: RUNNING")
    impetusd.kill(shop.before["web:1"].pid)
    wait_for(lambda: impetusd.status()["web:1"].restarts == 1, "the crashed one to be replaced")
    impetusd.wait_state("web:1", "RUNNING")
    assert "already being reloaded (watch)" in impetusd.run("reload", "web", code=1).err
    impetusd.write(impetusd.conf.read_text() + "[env:web]\nA = b\n")
    assert "web is being reloaded; nothing was changed" in impetusd.run("apply", code=1).err
    impetusd.run("reload", "--cancel", "web")
    assert "cancelled" in impetusd.finish(reload, code=1).out
    assert {fetch(shop.port, "/health") for _ in range(20)} == {"1"}


def test_a_health_check_that_fails_keeps_the_old_version(impetusd: Instance) -> None:
    shop = Shop(impetusd, "[health:web]\nhttp = /health\ninterval = 1h\nfailures = 1\n")
    shop.write(2, health=503)
    failed = impetusd.run("reload", "web", code=1)
    assert "web:0:next: GET /health: 503 Service Unavailable" in failed.out
    shop.is_old()
    shop.write(3)
    impetusd.run("reload", "web")
    shop.is_new()


def test_a_canary_that_answers_worse_than_the_old_ones_goes(impetusd: Instance) -> None:
    """Its watch begins when it has failed often: the supervisor stands still until then."""
    shop = Shop(impetusd, standby=0)
    begun, may = shop.write_gated(2, fail=500)
    reload = impetusd.popen("reload", "--canary", "1", "web")
    wait_for(begun.exists, "the canary to start")
    impetusd.kill(shop.before.supervisor, signal.SIGSTOP)
    may.touch()
    _fail(shop.port, 10)
    impetusd.kill(shop.before.supervisor, signal.SIGCONT)
    assert "new workers failed 10 of " in impetusd.finish(reload, code=1).out
    shop.is_old()


def _fail(port: int, times: int) -> None:
    """Have a new worker fail so often: over one connection, for of those that are closed it gets few. The others stay open."""
    with contextlib.ExitStack() as stack:

        def failing() -> socket.socket | None:
            connection = stack.enter_context(socket.create_connection(("127.0.0.1", port)))
            return connection if _fails(connection) else None

        connection = wait_for(failing, "a connection to the new worker", apart=0.0)
        assert all(_fails(connection) for _ in range(times - 1))


def _fails(connection: socket.socket) -> bool:
    connection.sendall(b"GET /fail HTTP/1.1\r\nHost: test\r\n\r\n")
    answer = b""
    while not answer.endswith(b"\r\n\r\n"):
        part = connection.recv(4096)
        assert part, answer
        answer += part
    return b" 500 " in answer


STEPS = (
    "web: reload: starting the next version",
    "web:template:next: RUNNING",
    "web:0:next: STARTING",
    "web: reload: the new version is ready",
    r"web:0: pid \d+ takes over",
    r"web:1: pid \d+ takes over",
    "web:template: STOPPING",
)


def test_a_supervisor_that_is_killed_at_any_step_changes_nothing_about_the_end(impetusd: Instance) -> None:
    """The next one goes on; the command, which asks it again, gets its answer; no request is lost."""
    shop = Shop(impetusd)
    with Load(shop.port) as load:
        for number, mark in enumerate(STEPS):
            so_far = len(impetusd.log())
            shop.write(number + 2)
            reload = impetusd.popen("reload", "web")
            wait_for(lambda: re.search(mark, impetusd.log()[so_far:]), mark)  # noqa: B023
            impetusd.kill(impetusd.status().supervisor)
            impetusd.finish(reload)
            shop.is_new()
            load.go_on(10)
            assert fetch(shop.port, "/health") == str(number + 2), mark


def test_a_supervisor_that_is_killed_on_the_way_back_goes_on_back(impetusd: Instance) -> None:
    shop = Shop(impetusd)
    shop.write(2, startup=CRASHES)
    with Load(shop.port, kept=0, fresh=2, crashes=1):
        reload = impetusd.popen("reload", "--watch", "1h", "web")
        shop.let_crash()
        impetusd.says("web: reload: web:0:next: exit 3")
        impetusd.kill(impetusd.status().supervisor)
        assert "web:0:next: exit 3" in impetusd.finish(reload, code=1).out
    shop.is_old()


def test_a_version_that_starts_threads_at_import_is_executed_afresh(impetusd: Instance) -> None:
    shop = Shop(impetusd)
    shop.write(2, head="import threading, time\nthreading.Thread(target=time.sleep, args=(1000,), daemon=True).start()")
    with Load(shop.port) as load:
        impetusd.run("reload", "web")
        load.go_on(20)
    status = impetusd.status()
    assert (status["web:template"].state, status["web:template"].pid) == ("STOPPED", None)
    assert fetch(shop.port, "/health") == "2"
    shop.write(3)
    impetusd.run("reload", "web")
    assert impetusd.settle()["web:template"].state == "RUNNING"
    assert fetch(shop.port, "/health") == "3"


def test_a_plain_program_overlaps_when_it_has_listen_and_wait_ready(impetusd: Instance) -> None:
    port = impetusd.port()
    before = impetusd.start(
        f"[program:p]\ncommand = {program('answer_pid')}\nwait_ready = yes\nlisten = 127.0.0.1:{port}\n"
        f"reload_watch = 0\n[program:q]\ncommand = {program('tell_ready', 'self')}\nwait_ready = yes\n"
    )
    told = impetusd.run("reload", "p", "q").out
    assert "p was reloaded in " in told
    assert "q was restarted, not reloaded: it has no listen" in told
    after = impetusd.settle(lambda now: not set(before.pids.values()) & set(now.pids.values()))
    with socket.create_connection(("127.0.0.1", port)) as connection:
        assert connection.recv(100).decode() == f"{after['p'].pid} p"
    impetusd.says("p:0:leaving: STOPPING")
    log = impetusd.log()
    assert log.index("p:0:next: RUNNING") < log.index("p:0:leaving: STOPPING"), "ready before the old one ends"
    assert impetusd.run("reload", "--watch", "1s", "q", code=2).err.startswith("impetusd: q can only be restarted")


def test_what_does_not_run_is_started_and_one_slot_is_not_reloaded(impetusd: Instance) -> None:
    shop = Shop(impetusd)
    impetusd.run("stop", "web")
    assert "web was not running and has been started" in impetusd.run("reload", "web").out
    impetusd.settle()
    assert "web:0 is one slot of web" in impetusd.run("reload", "web:0", code=2).err
    assert shop.port


def test_requests_that_were_cut_off_are_counted_in_the_answer_the_ledger_and_why(impetusd: Instance) -> None:
    port = impetusd.port()
    impetusd.start(f"[pool:web]\n{pool(port, instances=1, drain_timeout='300ms', kill_timeout='20s', reload_watch=0)}")
    with (
        socket.create_connection(("127.0.0.1", port)) as cut,
        socket.create_connection(("127.0.0.1", port)) as idle,
    ):
        idle.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert idle.recv(1000).startswith(b"HTTP/1.1 200")
        cut.sendall(b"GET /slow HTTP/1.1\r\nHost: x\r\n\r\n")
        wait_for(lambda: "slow has begun" in impetusd.log("web-0-out.log"), "the request to be under way")
        told = impetusd.run("reload", "web").out
    said = "1 request was cut off after drain_timeout = 300ms"
    assert said in told
    wait_for(lambda: said in impetusd.run("events", "web").out, said, apart=0.1)
    assert said in " ".join(impetusd.run("why", "web").out.split())
    impetusd.says(said)
    assert "cut off" not in impetusd.run("reload", "web").out
