"""Programs' notifications: systemd's sd_notify protocol, received on the sockets of `notify_sockets`.

The kernel identifies the sender (SCM_CREDENTIALS), not the message. It counts for a slot when it
comes from the slot's main process or from a descendant of that: wrappers and helpers notify for their program.

Programs send READY=1 only once, so none may be lost with a supervisor that dies: a message stays in the socket, which
the shim holds, until its effect is stored in the shim; where that was killed, `early` is. The next supervisor may hear one
again, which changes nothing.

Any process that may write to a socket may flood it. So a message has a size and each socket a share of the processor,
beyond which its messages wait: the cost of a flood is bounded, and it delays only users of the same socket.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import socket
import struct
import time
from collections import deque
from collections.abc import Callable, Iterable

from impetusd.linux.processes import stat
from impetusd.supervisor.budget import Budget
from impetusd.supervisor.faults import BARE, Faults
from impetusd.supervisor.slots.entry import FORKING, Entry
from impetusd.supervisor.start.link import Link

CREDENTIALS = struct.Struct("3i")  # pid, uid, gid
MOST_QUEUED = 512  # messages in a socket: net.unix.max_dgram_qlen, where systemd sets it
LONGEST = 4096  # bytes of a message, as systemd has it; what is longer is dropped
GENERATIONS = 8  # how far up from the sender the main process is looked for
EARLY, MOST_EARLY = "notify:early", 64  # the shim keeps under this key what came too early; messages
SHARE = 0.02  # of a core, for the messages of one socket
BURST = 0.1  # seconds of it that a socket may use at once: 1,000 messages and more
AROUND = 60e-6  # seconds that a message takes besides being dealt with: to be woken, to be taken
REPORT_AGAIN = 60.0  # seconds before a continuing flood is reported again


class _Source:
    """A socket that is listened to."""

    __slots__ = ("budget", "name", "report_at", "sock", "taken")

    def __init__(self, name: str, sock: socket.socket, now: float) -> None:
        self.name = name
        self.sock = sock
        self.budget = Budget(SHARE, BURST, now)
        self.taken = False  # the message that was looked at is out of the socket
        self.report_at = now


class Notify:
    """Reads messages and hands each, as a dict, to the slot that it is from."""

    def __init__(
        self,
        link: Link,
        of_pid: Callable[[int], Entry | None],
        deliver: Callable[[Entry, dict[str, str]], None],
        expects: Callable[[], bool],
        complain: Callable[[str], object],
        *,
        faults: Faults = BARE,
    ) -> None:
        """`link` leads to the shim: messages from processes that do not descend from it are ignored.

        `expects` returns whether a process was started whose pid is not known yet. `complain` is called for floods.
        """
        self._link = link
        self._of_pid = of_pid
        self._deliver = deliver
        self._expects = expects
        self._complain = complain
        self._sources: dict[str, _Source] = {}
        self._faults = faults
        # A process can be ready before the shim has reported its pid: such messages, each with the pids from its sender
        # up to the shim's child, wait for `replay`.
        early: list[tuple[list[int], dict[str, str]]] = json.loads(link.blobs.get(EARLY, "[]"))
        self._early = deque(((line, message) for line, message in early), maxlen=MOST_EARLY)
        self._loop = asyncio.get_running_loop()
        self._loop.call_soon(
            faults.attempt, EARLY, "delivering early messages", self.replay
        )  # what the previous supervisor could not report

    def listen(self, name: str, sock: socket.socket) -> None:
        """Listen on `sock`, which is ours from now on, in place of the one called `name`."""
        self.unlisten(name)
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        source = self._sources[name] = _Source(name, sock, self._loop.time())
        self._hear_on(source)

    def _hear_on(self, source: _Source) -> None:
        self._faults.hear(source.sock, source.name, "reading a message", self._readable, source)

    def unlisten(self, name: str) -> None:
        """Stop listening on it."""
        source = self._sources.pop(name, None)
        if source is not None:
            self._loop.remove_reader(source.sock)
            source.sock.close()

    def drain(self, name: str) -> None:
        """Hear at once what is in it, before it is closed."""
        source = self._sources[name]
        with contextlib.suppress(OSError):
            for _ in range(MOST_QUEUED):
                space = socket.CMSG_SPACE(CREDENTIALS.size)
                body, ancillary, flags, _ = source.sock.recvmsg(LONGEST, space)
                if ancillary and not flags & socket.MSG_TRUNC:
                    self._hear(CREDENTIALS.unpack(ancillary[0][2])[0], parse(body))

    def close(self) -> None:
        """Stop listening."""
        for name in list(self._sources):
            self.unlisten(name)

    def replay(self) -> None:
        """Another process may have become known: deliver what it said before."""
        waiting = len(self._early)
        if not waiting:
            return
        left = [each for each in self._early if self._is_to_wait(*each)]
        self._early = deque(left if self._expects() else (), maxlen=MOST_EARLY)
        if len(self._early) < waiting:
            self._remember()

    def early(self, ready: Iterable[int]) -> dict[str, str]:
        """What the next supervisor is to hear first, as the shim keeps it, where the shim was killed: it had our messages, but
        maybe did not carry out the last ones. `ready`: the pids of all that is ready, the latest last.
        """
        heard = [([pid], {"READY": "1"}) for pid in ready]
        return {EARLY: json.dumps([*self._early, *heard][-MOST_EARLY:])}

    def _readable(self, source: _Source) -> None:
        begun = time.thread_time()
        try:
            # Looked at, not taken; and without room for descriptors, which nobody wants here, none are received.
            body, ancillary, flags, _ = source.sock.recvmsg(
                LONGEST, socket.CMSG_SPACE(CREDENTIALS.size), socket.MSG_PEEK
            )
        except (BlockingIOError, InterruptedError):
            return
        source.taken = False
        try:
            if ancillary and not flags & socket.MSG_TRUNC:
                sender = CREDENTIALS.unpack(ancillary[0][2])[0]
                self._faults.contain(source.name, "handling a message", lambda: self._hear(sender, parse(body)))
        finally:
            pause = source.budget.spend(time.thread_time() - begun + AROUND, self._loop.time())
            self._link.when_sent(functools.partial(self._take, source, pause))
            if not source.taken:
                self._loop.remove_reader(source.sock)

    def _take(self, source: _Source, pause: float) -> None:
        """The effect of the first message is stored in the shim: continue with the next."""
        source.taken = True
        if self._sources.get(source.name) is not source:
            return
        source.sock.recv(1)
        if not pause:
            self._hear_on(source)
            return
        self._loop.remove_reader(source.sock)
        self._loop.call_later(pause, self._faults.attempt, source.name, "reading on", self._go_on, source)
        if source.report_at <= self._loop.time():
            source.report_at = self._loop.time() + REPORT_AGAIN
            self._complain(
                f"{source.name}: it sends notify messages faster than impetusd reads them; they wait in its socket"
            )

    def _go_on(self, source: _Source) -> None:
        if self._sources.get(source.name) is source:
            self._hear_on(source)

    def _hear(self, pid: int, message: dict[str, str]) -> None:
        """Deliver, keep for `replay`, or, from a stranger, drop."""
        line = [pid]
        while self._of_pid(line[-1]) is None:
            parent = parent_of(line[-1])
            if parent == self._link.pid:
                break
            if parent is None and len(line) > 1:
                line.pop()  # it has ended since we looked: whose parent it was has another one now
            elif not parent or len(line) == GENERATIONS:
                return
            else:
                line.append(parent)
        early = (line, message)
        if not self._delivered(*early) and self._expects() and early not in self._early:
            self._early.append(early)
            self._remember()

    def _is_to_wait(self, line: list[int], message: dict[str, str]) -> bool:
        try:
            return not self._delivered(line, message)
        except Exception as error:  # it is dropped, and no other
            if self._faults.strict:
                raise
            self._faults.note(EARLY, "delivering early messages", error)
            return False

    def _delivered(self, line: list[int], message: dict[str, str]) -> bool:
        """False for a process that is not known: the child of the shim, or of a template, whose pid is still to be
        reported."""
        found = next(((pid, entry) for pid in line if (entry := self._of_pid(pid)) is not None), None)
        if found is None or (found[1].role in FORKING and found[0] != line[0]):
            return False
        self._deliver(found[1], message)
        return True

    def _remember(self) -> None:
        text = self._link.blobs[EARLY] = json.dumps(list(self._early))
        self._link.send([{"op": "put", "key": EARLY, "blob": text}])


def parse(body: bytes) -> dict[str, str]:
    """NAME=value lines; anything else in the message is left out."""
    lines = body.decode("utf-8", "replace").splitlines()
    return {name: value for name, equals, value in (line.partition("=") for line in lines) if equals}


def parent_of(pid: int) -> int | None:
    """The parent of `pid`, 0 for one outside of our namespace; None when there is no such process."""
    fields = stat(pid)
    return int(fields[1]) if fields is not None else None
