"""The notify socket: systemd's sd_notify protocol, as children speak it.

Who sent a message is what the kernel says (SCM_CREDENTIALS), not what the message says. It counts for a slot when it
comes from the slot's main process or from a descendant of that: wrappers and helpers notify for their program.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections import deque
from collections.abc import Callable

from impetusd.supervisor.entry import Entry, Role

CREDENTIALS = struct.Struct("3i")  # pid, uid, gid
GENERATIONS = 8  # how far up from the sender the main process is looked for


class Notify:
    """Reads messages and hands each, as a dict, to the slot that it is from."""

    def __init__(
        self,
        sock: socket.socket,
        shim: int,
        of_pid: Callable[[int], Entry | None],
        deliver: Callable[[Entry, dict[str, str]], None],
    ) -> None:
        """`shim` is its pid: what does not descend from it has nothing to say here."""
        self._sock = sock
        self._shim = shim
        self._of_pid = of_pid
        self._deliver = deliver
        # A forked worker can be ready before the shim has told its pid: such messages wait for `replay`.
        self._early: deque[tuple[int, dict[str, str]]] = deque(maxlen=64)
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        asyncio.get_running_loop().add_reader(sock, self._readable)

    def close(self) -> None:
        """Listen no more."""
        asyncio.get_running_loop().remove_reader(self._sock)
        self._sock.close()

    def replay(self, pid: int) -> None:
        """A process has become known: deliver what it said before."""
        mine = [message for sender, message in self._early if sender == pid]
        if mine:
            self._early = deque((pair for pair in self._early if pair[0] != pid), maxlen=64)
            for message in mine:
                self._take(pid, message)

    def _readable(self) -> None:
        while True:
            try:
                body, ancillary, _, _ = self._sock.recvmsg(
                    65536, socket.CMSG_SPACE(CREDENTIALS.size) + socket.CMSG_SPACE(4 * 253), socket.MSG_CMSG_CLOEXEC
                )
            except (BlockingIOError, InterruptedError):
                return
            pid = 0
            for level, kind, data in ancillary:
                if level == socket.SOL_SOCKET and kind == socket.SCM_CREDENTIALS:
                    pid = CREDENTIALS.unpack(data[: CREDENTIALS.size])[0]
                elif level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                    for at in range(0, len(data) - 3, 4):  # nobody's descriptors are wanted here
                        socket.close(int.from_bytes(data[at : at + 4], "little"))
            self._take(pid, parse(body))

    def _take(self, pid: int, message: dict[str, str]) -> None:
        """Deliver, keep for `replay`, or, from a stranger, drop."""
        ancestor = pid
        for _ in range(GENERATIONS):
            entry = self._of_pid(ancestor)
            if entry is not None and (ancestor == pid or entry.role is not Role.TEMPLATE):
                self._deliver(entry, message)
                return
            if entry is not None or ancestor == self._shim:
                # Below a template, or the shim's own already: a forked worker whose pid has not been told yet.
                self._early.append((pid, message))
                return
            ancestor = parent_of(ancestor)
            if ancestor <= 0:
                return


def parse(body: bytes) -> dict[str, str]:
    """NAME=value lines; anything else in the message is left out."""
    lines = body.decode("utf-8", "replace").splitlines()
    return {name: value for name, equals, value in (line.partition("=") for line in lines) if equals}


def parent_of(pid: int) -> int:
    """The parent of `pid`, or 0."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return int(file.read().rpartition(b")")[2].split()[1])
    except (OSError, ValueError, IndexError):
        return 0
