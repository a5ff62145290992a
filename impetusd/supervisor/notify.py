"""The notify socket: systemd's sd_notify protocol, as children speak it.

Who sent a message is what the kernel says (SCM_CREDENTIALS), not what the message says. It counts for a slot when it
comes from the slot's main process or from a descendant of that: wrappers and helpers notify for their program.

Nobody says READY=1 twice, so none is lost with a supervisor that dies: a message stays in the socket, which the shim
holds, until what came of it is with the shim. The next supervisor may hear one again, which changes nothing.
"""

from __future__ import annotations

import asyncio
import json
import socket
import struct
from collections import deque
from collections.abc import Callable

from impetusd.supervisor.entry import FORKING, Entry
from impetusd.supervisor.link import Link
from impetusd.supervisor.processes import stat

CREDENTIALS = struct.Struct("3i")  # pid, uid, gid
GENERATIONS = 8  # how far up from the sender the main process is looked for
EARLY, MOST_EARLY = "notify:early", 64  # the shim keeps under this key what came too early; messages


class Notify:
    """Reads messages and hands each, as a dict, to the slot that it is from."""

    def __init__(
        self,
        sock: socket.socket,
        link: Link,
        of_pid: Callable[[int], Entry | None],
        deliver: Callable[[Entry, dict[str, str]], None],
    ) -> None:
        """`link` leads to the shim: what does not descend from that has nothing to say here."""
        self._sock = sock
        self._link = link
        self._of_pid = of_pid
        self._deliver = deliver
        # A process can be ready before the shim has told its pid: such messages, each with the pids from its sender up
        # to the shim's child, wait for `replay`.
        early: list[tuple[list[int], dict[str, str]]] = json.loads(link.blobs.get(EARLY, "[]"))
        self._early = deque(early, maxlen=MOST_EARLY)
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(sock, self._readable)
        self._loop.call_soon(self.replay)  # what the supervisor before us had not been able to tell

    def close(self) -> None:
        """Listen no more."""
        self._loop.remove_reader(self._sock)
        self._sock.close()

    def replay(self) -> None:
        """Another process may have become known: deliver what it said before."""
        waiting = len(self._early)
        if not waiting:
            return
        self._early = deque((each for each in self._early if not self._delivered(*each)), maxlen=MOST_EARLY)
        if len(self._early) < waiting:
            self._remember()

    def _readable(self) -> None:
        try:
            # Looked at, not taken; and without room for descriptors, which nobody wants here, none are received.
            body, ancillary, _, _ = self._sock.recvmsg(65536, socket.CMSG_SPACE(CREDENTIALS.size), socket.MSG_PEEK)
        except (BlockingIOError, InterruptedError):
            return
        self._loop.remove_reader(self._sock)
        try:
            if ancillary:
                self._hear(CREDENTIALS.unpack(ancillary[0][2])[0], parse(body))
        finally:
            self._link.when_sent(self._take)

    def _take(self) -> None:
        """What came of the first message is with the shim: on to the next."""
        if self._sock.fileno() >= 0:
            self._sock.recv(1)
            self._loop.add_reader(self._sock, self._readable)

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
        if not self._delivered(line, message):
            self._early.append((line, message))
            self._remember()

    def _delivered(self, line: list[int], message: dict[str, str]) -> bool:
        """False for a process that is not known: the child of the shim, or of a template, whose pid is still to be told."""
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
