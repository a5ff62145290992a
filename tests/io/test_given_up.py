"""A pool of which nobody can serve refuses connections, though its template and its parked workers hold its sockets."""

from __future__ import annotations

import asyncio
import errno
import socket
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from probe_server import unused_port
from supervisor_world import Life, Shim
from waiting import PATIENCE, until

from impetusd.core.reasons import errno_of, read

KEYS = "min_uptime = 0\nexp_backoff_restart_delay = 10ms\nexp_backoff_max_delay = 10ms\nmax_restarts = 2\nrestart_window = 1h\n"
WORKERS, HELD = ("web:0", "web:1"), ("web:template", "web:standby")
REFUSED = {errno.ECONNREFUSED, errno.ENOENT}


class Pool:
    """Two workers, a template and a standby, on a shim that is played; the sockets are real."""

    def __init__(self, folder: Path, kind: str, keys: str = "") -> None:
        self.unix = kind == "unix"
        self.reserved = ExitStack()
        port = self.reserved.enter_context(unused_port())
        self.path = folder / "web.sock"
        self.at = str(self.path) if self.unix else ("127.0.0.1", port)
        listen = f"unix:{self.path}" if self.unix else f"127.0.0.1:{port}"
        self.text = f"[impetusd]\n[pool:web]\napp = nosuch:make\ninstances = 2\nstandby = 1\nlisten = {listen}\n{KEYS}"
        self.shim = Shim(str(folder), self.text + keys)
        self.shim.ready = True

    @contextmanager
    def client(self) -> Iterator[socket.socket]:
        with socket.socket(socket.AF_UNIX if self.unix else socket.AF_INET) as sock:
            sock.settimeout(PATIENCE)
            yield sock

    def connects(self) -> bool:
        with self.client() as sock:
            code = sock.connect_ex(self.at)
        assert code in {0, *REFUSED}, errno.errorcode.get(code, code)
        return code == 0

    async def kill(self, life: Life, *names: str) -> None:
        """Whatever runs in these slots dies, at once; a parked worker may have come there from another slot."""
        pids = {row["pid"] for row in (await life.rows()).values() if row["name"] in names}
        for child in [each for each in self.shim.children.values() if each.pid in pids and each.ended is None]:
            self.shim.end(child, signal=9)
        self.shim.tell()
        await life.until(lambda rows: not (pids - {None}) & {row["pid"] for row in rows.values()}, "them to be missed")

    async def begin(self, life: Life, command: str) -> None:
        """A parked worker takes the place of web:0, and says that it serves."""
        asked = asyncio.ensure_future(life.ask(command, names=["web:0"]))
        rows = await life.until(lambda rows: rows["web:0"]["pid"], "the parked worker to take the place")
        assert self.connects()
        life.daemon.engine.reports.ready(rows["web:0"]["pid"])
        await asked

    async def give_up(self, life: Life, *names: str) -> None:
        """Each of these slots is started in vain until it is FATAL."""
        self.shim.cannot |= dict.fromkeys(names, "Exec format error")
        rows = await life.rows()
        while any(rows[name]["state"] != "FATAL" for name in names):
            await self.kill(life, *names)
            rows = await life.until(
                lambda rows: all(rows[name]["pid"] or rows[name]["state"] == "FATAL" for name in names)
            )


@pytest.fixture
def pool() -> Iterator[Callable[..., Pool]]:
    made: list[Pool] = []
    with tempfile.TemporaryDirectory() as folder:  # short: the path of a unix socket has 107 bytes at most

        def make(kind: str, keys: str = "") -> Pool:
            made.append(Pool(Path(folder), kind, keys))
            return made[-1]

        yield make
        for each in made:
            each.shim.close()
            each.reserved.close()


@pytest.mark.parametrize("kind", ["tcp", "unix"])
def test_a_pool_that_is_given_up_refuses_until_a_start_is_tried(pool: Callable[..., Pool], kind: str) -> None:
    web = pool(kind)

    async def scenario(life: Life) -> None:
        await life.ask("start")
        with web.client() as waiting:
            waiting.connect(web.at)
            await web.give_up(life, *WORKERS)
            with pytest.raises(ConnectionResetError) if kind == "tcp" else _ended():
                assert waiting.recv(1) == b""
        await life.until_state("RUNNING", *HELD)
        assert not web.connects()
        await web.kill(life, *HELD)  # they come back, and serve nobody
        await life.until_state("RUNNING", *HELD)
        assert not web.connects()
        await until(lambda: "refusing connections until one starts" in life.log(), "the log")
        web.shim.cannot.clear()
        await web.begin(life, "restart")
        assert not list(web.path.parent.glob(".web*"))
        assert life.log().count("refusing connections until one starts") == 1

    web.shim.live(scenario)


@contextmanager
def _ended() -> Iterator[None]:
    yield


@pytest.mark.parametrize("kind", ["tcp", "unix"])
def test_it_refuses_over_a_killed_supervisor_and_serves_again(pool: Callable[..., Pool], kind: str) -> None:
    web = pool(kind)

    async def first(life: Life) -> None:
        await life.ask("start")
        await web.give_up(life, *WORKERS)

    async def second(life: Life) -> None:
        assert not web.connects()
        web.shim.cannot.clear()
        await life.ask("restart", names=["web"])
        assert web.connects()
        await life.ask("stop")
        assert not web.connects()
        assert not list(web.path.parent.glob("*web*"))

    web.shim.live(first)
    web.shim.live(second)


def test_it_refuses_while_its_workers_wait_for_a_template_that_is_given_up(pool: Callable[..., Pool]) -> None:
    web = pool("tcp")

    async def scenario(life: Life) -> None:
        await life.ask("start")
        await web.give_up(life, "web:template")
        assert web.connects()  # its workers live
        rows = await life.rows()
        while any(rows[name]["pid"] for name in WORKERS):
            await web.kill(life, *WORKERS)
            rows = await life.until(lambda rows: all(rows[name]["state"] == "STARTING" for name in WORKERS))
        assert rows["web:0"]["cause"]["facts"]["state"] == "FATAL"
        assert not web.connects()
        web.shim.cannot.clear()
        await life.ask("restart", names=["web:template"])
        await life.until_state("RUNNING", *WORKERS)
        assert web.connects()

    web.shim.live(scenario)


@pytest.mark.parametrize("down", [[WORKERS], [WORKERS, ("web:standby",), ("web:template",)]])
def test_with_hold_clients_wait_for_the_next_start(pool: Callable[..., Pool], down: list[tuple[str, ...]]) -> None:
    web = pool("tcp", "on_fatal = hold\n")

    async def scenario(life: Life) -> None:
        await life.ask("start")
        for names in down:
            await web.give_up(life, *names)
        with web.client() as waiting:
            waiting.connect(web.at)
            web.shim.cannot.clear()
            await life.ask("restart", names=["web"])
            waiting.setblocking(False)
            with pytest.raises(BlockingIOError):  # nobody answers, for no process of this shim lives; it was not reset
                waiting.recv(1)
        await life.ask("stop")
        assert not web.connects()

    web.shim.live(scenario)


def test_workers_that_are_stopped_by_name_leave_nobody_waiting(pool: Callable[..., Pool]) -> None:
    web = pool("tcp")

    async def scenario(life: Life) -> None:
        await life.ask("start")
        await life.ask("stop", names=list(WORKERS))
        assert "web:template" in web.shim.pids()
        assert not web.connects()
        await web.begin(life, "start")

    web.shim.live(scenario)


def test_a_port_that_another_process_has_taken_meanwhile_is_told(pool: Callable[..., Pool]) -> None:
    web = pool("tcp")

    async def scenario(life: Life) -> None:
        await life.ask("start")
        await web.give_up(life, *WORKERS)
        web.shim.cannot.clear()
        with socket.create_server(web.at):
            await life.ask("restart", names=["web:0"])
            rows = await life.until_state("FATAL", "web:0")
        why = read(rows["web:0"]["cause"])
        assert why.find("start_failed").facts["stage"] == "listen"
        assert errno_of(why) == errno.EADDRINUSE
        await web.begin(life, "restart")

    web.shim.live(scenario)
