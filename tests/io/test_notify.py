"""The notify socket: who is heard, and that no message is lost with a supervisor that dies."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import socket
import subprocess
import sys
from collections.abc import Callable, Coroutine
from types import SimpleNamespace
from typing import Any

import pytest
from waiting import readable, turns, until

from impetusd.shim import wire
from impetusd.supervisor.budget import Budget
from impetusd.supervisor.slots.entry import Role
from impetusd.supervisor.start import notify
from impetusd.supervisor.start.link import Link
from impetusd.supervisor.start.notify import EARLY, Notify

PATIENCE = 60  # seconds until a test that waits for something gives up
SAY = "import socket, sys; socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM).sendto(sys.argv[2].encode(), '\\0' + sys.argv[1])"
HELPER = "import subprocess, sys; child = subprocess.Popen(sys.argv[1:]); sys.stdin.read(); child.wait()"


class Around:
    """What is around a Notify: this process is the shim, the processes that it starts are its children."""

    def __init__(self) -> None:
        self.name = f"impetusd/{os.urandom(8).hex()}"
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.sock.bind(f"\0{self.name}")
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        self.blobs: dict[str, str] = {}  # what the shim was told to remember
        self.heard: list[tuple[str, dict[str, str]]] = []
        self.known: dict[int, Any] = {}
        self.expects = True  # a process whose pid is still to be told
        self.told: list[str] = []
        self.shim = os.getpid()
        self.children: list[subprocess.Popen[bytes]] = []

    def say(self, message: str, *, helper: bool = False) -> int:
        """Have a child (or a child of it) say `message` and end; it is reaped with `self`. The child's pid."""
        command = [sys.executable, "-I", "-S", "-c", SAY, self.name, message]
        if helper:
            command = [sys.executable, "-I", "-S", "-c", HELPER, *command]
        child = subprocess.Popen(command, stdin=subprocess.PIPE)
        self.children.append(child)
        if helper:
            assert readable(self.sock, PATIENCE)
        else:
            os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        return child.pid

    def close(self) -> None:
        self.sock.close()
        for child in self.children:
            child.communicate()

    def know(self, pid: int, name: str, role: Role = Role.PROGRAM) -> None:
        self.known[pid] = SimpleNamespace(name=name, role=role)

    @contextlib.asynccontextmanager
    async def supervisor(self, deliver: Callable[[Link, Any, dict[str, str]], None] | None = None) -> Any:
        """One life of a supervisor: its Notify, its Link, the shim's end of that."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with ours, theirs, self.sock.dup() as sock:
            ours.setblocking(False)
            link = Link(ours, lambda _event: None)
            link.pid, link.blobs = self.shim, dict(self.blobs)
            act = deliver or (lambda _link, entry, message: self.heard.append((entry.name, message)))
            deliver = lambda entry, message: act(link, entry, message)  # noqa: E731
            notify = Notify(link, self.known.get, deliver, lambda: self.expects, self.told.append)
            notify.listen("api", sock.dup())
            try:
                yield SimpleNamespace(notify=notify, link=link, shim=theirs)
            finally:
                self.carry_out(theirs)
                notify.close()
                link.close()

    def carry_out(self, shim: socket.socket) -> int:
        """Read what the supervisor said, as the shim does, which remembers its strings; how many messages it was."""
        count = 0
        with contextlib.suppress(BlockingIOError):
            while packet := wire.recv(shim):
                count += 1
                for op in packet[0]["ops"]:
                    if op["op"] == "put":
                        self.blobs[op["key"]] = op["blob"]
        return count

    def waiting(self) -> bool:
        """Whether the socket holds a message."""
        return readable(self.sock, 0)


@pytest.fixture
def around():
    made = Around()
    yield made
    made.close()


def run(main: Coroutine[Any, Any, None]) -> None:
    async def limited() -> None:
        async with asyncio.timeout(PATIENCE):
            await main

    asyncio.run(limited())


def test_a_message_stays_in_the_socket_until_it_is_dealt_with(around):
    seen = []

    async def main() -> None:
        async with around.supervisor(lambda *_: seen.append(around.waiting())):
            await until(lambda: len(seen) == 2 and not around.waiting())

    for _ in range(2):
        around.know(around.say("READY=1"), "api")
    run(main())
    assert seen == [True, True]


def test_what_the_shim_has_not_heard_yet_is_heard_again_by_the_next_supervisor(around):
    """The channel is full: the record of READY=1 waits in the memory of a supervisor that then dies."""
    seen = []

    def record(link: Link, entry: Any, message: dict[str, str]) -> None:
        seen.append(message)
        link.send([{"op": "put", "key": "slot", "blob": "RUNNING"}])

    async def dies() -> None:
        async with around.supervisor(record) as life:
            fill(life.link)
            around.know(around.say("READY=1"), "api")
            await until(lambda: seen)
            await turns()
            assert around.waiting()

    async def follows() -> None:
        async with around.supervisor(record):
            await until(lambda: not around.waiting())

    def fill(link: Link) -> None:
        while not link._outbox:
            link.send([{"op": "put", "key": "filler", "blob": "x" * 60_000}])

    run(dies())
    run(follows())
    assert seen == [{"READY": "1"}] * 2


def test_it_goes_on_once_the_shim_reads_again(around):
    async def main() -> None:
        async with around.supervisor() as life:
            while not life.link._outbox:
                life.link.send([{"op": "put", "key": "filler", "blob": "x" * 60_000}])
            for message in ("READY=1", "STATUS=well"):
                around.know(around.say(message), "api")
            await until(lambda: around.heard)
            await until(lambda: around.carry_out(life.shim) == 0 and len(around.heard) == 2)
            assert not around.waiting()

    run(main())
    assert around.heard == [("api", {"READY": "1"}), ("api", {"STATUS": "well"})]


def test_a_message_that_cannot_be_dealt_with_does_not_stop_those_after_it(around):
    faults = []

    def fail(_link: Link, entry: Any, _message: dict[str, str]) -> None:
        if entry.name == "bad":
            raise ValueError("no sense")
        around.heard.append((entry.name, {}))

    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _loop, context: faults.append(context["exception"]))
        async with around.supervisor(fail):
            await until(lambda: around.heard)

    around.know(around.say("READY=1"), "bad")
    around.know(around.say("READY=1"), "good")
    run(main())
    assert around.heard == [("good", {})]
    assert len(faults) == 1


@pytest.mark.parametrize("helper", [False, True])
def test_who_is_ready_before_its_pid_is_told_is_heard_when_it_is_known(around, helper):
    async def main() -> None:
        async with around.supervisor() as life:
            await until(lambda: not around.waiting())
            life.notify.replay()
            assert around.heard == []
            around.know(child, "api")
            life.notify.replay()

    child = around.say("READY=1", helper=helper)
    run(main())
    assert around.heard == [("api", {"READY": "1"})]
    assert around.blobs[EARLY] == "[]"


def test_who_was_ready_too_early_is_known_to_the_next_supervisor(around):
    async def dies() -> None:
        async with around.supervisor():
            await until(lambda: not around.waiting())

    async def follows() -> None:
        async with around.supervisor():
            await until(lambda: around.heard)

    child = around.say("READY=1")
    run(dies())
    assert around.heard == []
    around.know(child, "api")
    run(follows())
    assert around.heard == [("api", {"READY": "1"})]
    assert around.blobs[EARLY] == "[]"


@pytest.mark.parametrize("role", [Role.TEMPLATE, Role.NEXT_TEMPLATE])
def test_what_a_template_has_forked_does_not_speak_for_the_template(around, role):
    async def main() -> None:
        async with around.supervisor() as life:
            await until(lambda: not around.waiting())
            assert around.heard == []
            (sender, _), _ = life.notify._early[0]
            around.know(sender, "web:0", Role.WORKER)
            life.notify.replay()

    around.know(around.say("READY=1", helper=True), "web:template", role)
    run(main())
    assert around.heard == [("web:0", {"READY": "1"})]


def test_whose_parent_ends_while_it_is_looked_for_is_heard(around, monkeypatch):
    """A worker is ready, and the process between the two forks that it came by has not quite ended."""

    async def main() -> None:
        async with around.supervisor() as life:
            await until(lambda: not around.waiting())
            around.know(child, "web:0")
            life.notify.replay()

    child = around.say("READY=1")
    between = subprocess.Popen(["true"])
    between.wait()
    looks, parent_of = iter([between.pid]), notify.parent_of
    monkeypatch.setattr(notify, "parent_of", lambda pid: next(looks, None) or parent_of(pid))
    run(main())
    assert around.heard == [("web:0", {"READY": "1"})]


def test_a_stranger_is_not_heard(around):
    async def main() -> None:
        async with around.supervisor():
            await until(lambda: not around.waiting())

    with subprocess.Popen(["sleep", str(PATIENCE)]) as elsewhere:
        around.shim = elsewhere.pid
        around.say("READY=1")
        run(main())
        elsewhere.kill()
    assert around.heard == []
    assert EARLY not in around.blobs


def test_descriptors_that_are_sent_along_are_not_received(around):
    async def main() -> None:
        async with around.supervisor():
            before = os.listdir("/proc/self/fd")
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
                sock.connect("\0" + around.name)
                for _ in range(5):
                    socket.send_fds(sock, [b"READY=1"], [sock.fileno()] * 20)
            await until(lambda: len(around.heard) == 5 and not around.waiting())
            assert os.listdir("/proc/self/fd") == before

    around.know(os.getpid(), "api")
    run(main())


def test_ten_thousand_random_messages_are_no_more_than_text():
    chance = random.Random(7)
    for _ in range(10_000):
        body = chance.randbytes(chance.randrange(64)) + chance.choice(
            [b"", b"=", b"READY=1\n", b"\0", b"\xff=\n", b"\n" * 9]
        )
        found = notify.parse(body * chance.randrange(20))
        assert json.loads(json.dumps(found)) == found


def test_what_a_socket_may_cost_is_known():
    budget = Budget(0.1, 1.0, 0.0)
    assert budget.spend(1.0, 0.0) == 0.0  # at once
    assert budget.spend(0.5, 0.0) == pytest.approx(5.0)
    assert budget.spend(0.0, 4.0) == pytest.approx(1.0)
    assert budget.spend(0.0, 5.0) == pytest.approx(0.0)
    assert not budget.full(5.0)
    assert budget.full(15.0)
    assert budget.spend(1.0, 1000.0) == 0.0  # and no more than that at once
    assert budget.spend(0.1, 1000.0) > 0.0
