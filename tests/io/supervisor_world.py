"""A whole supervisor in this process, on a shim that is played: it starts nothing, and says what a real one would say.

`Shim.live` is one life of a supervisor. What the shim knows outlives it, so the next life takes over. No pid that is told
belongs to a process of this host.
"""

from __future__ import annotations

import asyncio
import os
import socket
import tempfile
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

from waiting import until

from impetusd.core.config.location import Paths, locate
from impetusd.core.protocol import Request, check_params
from impetusd.shim import wire
from impetusd.supervisor import lifeline
from impetusd.supervisor.daemon import Daemon
from impetusd.supervisor.start.link import Link

NOBODYS = 1 << 23  # the kernel gives no pid as high as this (PID_MAX_LIMIT)
Scenario = Callable[["Life"], Awaitable[None]]


class Child:
    """What the shim holds of one process."""

    def __init__(self, process: int, pid: int, spec: dict[str, Any]) -> None:
        self.process = process
        self.pid = pid
        self.spec = spec
        self.name = (spec["env"] or {}).get("IMPETUSD_NAME", "")
        self.ended: dict[str, Any] | None = None

    def row(self) -> dict[str, Any]:
        return {"process": self.process, "pid": self.pid, "ended": self.ended, "left": False, "acked": False}


class Shim:
    """What is held between the lives of supervisors, and what was asked."""

    def __init__(self, folder: str, text: str) -> None:
        self.conf = f"{folder}/impetusd.ini"
        self.write(text)
        self.paths: Paths = locate(text, self.conf, {})
        for path in (self.paths.run_dir, self.paths.state_dir, self.paths.log_dir):
            os.makedirs(path, exist_ok=True)
        self.children: dict[int, Child] = {}
        self.blobs: dict[str, str] = {}
        self.kept: dict[str, int] = {}
        self.started: list[Child] = []  # ever
        self.messages: list[list[dict[str, Any]]] = []
        self.cannot: dict[str, str] = {}  # by slot: why no process can be started for it
        self.deaf: set[str] = set()  # slots whose processes end on nothing but SIGKILL
        self.ready = False  # whether what is started says at once that it is ready
        self._events: list[dict[str, Any]] = []
        self._next = NOBODYS
        self._channel: socket.socket | None = None

    def write(self, text: str) -> None:
        with open(self.conf, "w", encoding="utf-8") as file:
            file.write(text)

    def live(self, scenario: Scenario) -> None:
        """One life of a supervisor."""
        # This process goes on, whatever becomes of the supervisor.
        alone = patch.object(lifeline, "take", lambda _: SimpleNamespace(release=tuple))
        died: list[int] = []
        with ExitStack() as after, alone, patch.object(os, "_exit", died.append):
            asyncio.run(self._live(scenario, after))
        assert not died, f"the supervisor ended with {died}"

    async def _live(self, scenario: Scenario, after: ExitStack) -> None:
        """`after` closes everything once the loop has ended: while it turns, starts that were put off still begin."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._channel, loop = theirs, asyncio.get_running_loop()
        link = Link(ours, lambda event: daemon._hear(event))  # noqa: PLW0108  # it is made below
        daemon = Daemon(self.conf, self.paths, boot=False, link=link)
        after.callback(theirs.close)
        after.callback(daemon.close)
        daemon._hand_over = lambda _why: daemon.starter.outbox.flush()  # type: ignore[method-assign]
        loop.add_reader(theirs, self._readable)
        run = loop.create_task(daemon.run())
        self._events = []
        self._say(
            {"event": "hello", "pid": os.getpid(), "shutdown": False, "command": [], "blobs": self.blobs}
            | {"table": [child.row() for child in self.children.values()]}
        )
        names = list(self.kept)
        if names:
            self._say({"event": "fds", "names": names}, [self.kept[name] for name in names])
        self._say({"event": "begin"})
        life = Life(self, daemon)
        try:
            await until(lambda: run.done() or os.path.exists(self.paths.control_socket), "the supervisor")
            if run.done():
                run.result()
                raise AssertionError(life.log())
            self.engine = daemon.engine
            await scenario(life)
        finally:
            daemon._done.set()
            await run
            loop.remove_reader(theirs)

    # What the supervisor says.

    def _readable(self) -> None:
        assert self._channel is not None
        while True:
            try:
                packet = wire.recv(self._channel)
            except BlockingIOError:
                break
            if packet is None:
                return
            message, fds = packet
            self.messages.append(message["ops"])
            for op in message["ops"]:
                getattr(self, f"_{op['op']}", lambda *_: None)(op, fds)
            assert not fds
        self.tell()

    def _put(self, op: dict[str, Any], _: list[int]) -> None:
        if op["blob"] is None:
            self.blobs.pop(op["key"], None)
        else:
            self.blobs[op["key"]] = op["blob"]

    def _keep(self, op: dict[str, Any], fds: list[int]) -> None:
        self._drop(op, fds)
        self.kept[op["name"]] = fds.pop(0)

    def _drop(self, op: dict[str, Any], _: list[int]) -> None:
        if op["name"] in self.kept:
            os.close(self.kept.pop(op["name"]))

    def _spawn(self, op: dict[str, Any], _: list[int]) -> None:
        self._next += 1
        child = self.children[op["process"]] = Child(op["process"], self._next, op["spec"])
        self.started.append(child)
        if child.name in self.cannot:
            self.end(child, stage="executing it", error=self.cannot[child.name])
        else:
            missing = [name for name in _names(op["spec"]["fds"]) if name and name not in self.kept]
            assert not missing, f"{child.name} is to get {missing}, which are not held"
            self._events.append({"event": "spawned", "process": child.process, "pid": child.pid})

    _fork = _spawn

    def _signal(self, op: dict[str, Any], _: list[int]) -> None:
        child = self.children.get(op["process"])
        if child is None or child.ended is not None or op["scope"] == "rest":
            return
        if op["number"] == 9 or (op["number"] == 15 and child.name not in self.deaf):
            self.end(child, signal=op["number"])

    def _ack(self, op: dict[str, Any], _: list[int]) -> None:
        child = self.children.pop(op["process"], None)  # none: it was acknowledged twice
        assert child is None or child.ended is not None, f"{child.name} was acknowledged and runs"

    # What the shim says.

    def end(self, child: Child, **how: Any) -> None:
        """It has ended; told with the rest of this round."""
        child.ended = {"at": 1.0, **how}
        self._events.append({"event": "exited", "process": child.process, "left": False, **child.ended})

    def kill(self, *names: str) -> None:
        """Somebody kills these, in this order, at once: one message tells it."""
        for name in names:
            self.end(self.child(name), signal=9)
        self.tell()

    def tell(self) -> None:
        """One message with what has happened."""
        events, self._events = self._events, []
        if events:
            self._say_all(events)
        for event in events if self.ready else ():
            if event["event"] == "spawned":
                asyncio.get_running_loop().call_soon(self._say_ready, event["pid"])

    def _say_ready(self, pid: int) -> None:
        lives = any(child.pid == pid and child.ended is None for child in self.children.values())
        if lives and not self.engine.reports.ready(pid):  # it was not told of the pid yet
            asyncio.get_running_loop().call_soon(self._say_ready, pid)

    def _say(self, event: dict[str, Any], fds: Iterable[int] = ()) -> None:
        self._say_all([event], fds)

    def _say_all(self, events: list[dict[str, Any]], fds: Iterable[int] = ()) -> None:
        assert self._channel is not None
        wire.send(self._channel, {"events": events}, list(fds))

    # What there is.

    def child(self, name: str) -> Child:
        """The living process of a slot, of which there is one."""
        (child,) = [each for each in self.children.values() if each.name == name and each.ended is None]
        return child

    def pids(self) -> dict[str, int]:
        """Of what lives, by slot. No slot has two."""
        living = [child for child in self.children.values() if child.ended is None]
        found = {child.name: child.pid for child in living}
        assert len(found) == len(living), [child.name for child in living]
        return found

    def close(self) -> None:
        for fd in self.kept.values():
            os.close(fd)
        self.kept.clear()


@contextmanager
def in_a_folder(text: str) -> Iterator[Shim]:
    """Under which whatever is started is ready. Its folder has a short name, for there are sockets in it."""
    with tempfile.TemporaryDirectory(prefix="impw", dir="/tmp") as folder:
        shim = Shim(os.path.realpath(folder), text)
        shim.ready = True
        yield shim
        shim.close()


class Life:
    """One supervisor, asked as the control socket asks it."""

    def __init__(self, shim: Shim, daemon: Daemon) -> None:
        self.shim = shim
        self.daemon = daemon

    async def ask(self, method: str, **params: Any) -> dict[str, Any]:
        request = Request(1, method, check_params(method, params))
        answer = dict(await self.daemon.commands.handle(request, lambda *_: None))
        if isinstance(answer.get("units"), Iterator):  # of rows, which are made as they are sent
            answer["units"] = list(answer["units"])
        return answer

    async def rows(self) -> dict[str, dict[str, Any]]:
        """`status`, by slot."""
        return {row["name"]: row for row in (await self.ask("status", names=[]))["units"]}

    async def until(self, holds: Callable[[dict[str, dict[str, Any]]], object], what: str = "it") -> dict[str, Any]:
        rows: dict[str, Any] = {}

        async def look() -> object:
            nonlocal rows
            for _ in range(50):  # what comes soon is not to be waited for
                rows = await self.rows()
                if holds(rows):
                    return True
                await asyncio.sleep(0)
            return False

        await until(look, lambda: f"{what}: { {name: (row['state'], row['reason']) for name, row in rows.items()} }")
        return rows

    async def until_state(self, state: str, *names: str) -> dict[str, Any]:
        """All slots, unless some are named."""
        return await self.until(
            lambda rows: all(rows[name]["state"] == state for name in names or rows), f"{names or 'all'} in {state}"
        )

    def log(self) -> str:
        """The supervisor's own; "" before the thread that writes it has made it."""
        path = Path(self.shim.paths.log_file)
        return path.read_text(encoding="utf-8") if path.exists() else ""


def _names(fds: dict[str, str] | list[str]) -> list[str]:
    return list(fds.values()) if isinstance(fds, dict) else fds
