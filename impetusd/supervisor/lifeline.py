"""Descriptors that must close as soon as this process is killed, even while one of its threads hangs in the kernel.

A thread that writes to a frozen disk cannot be killed, and descriptors are shared by all threads: none is closed before
the disk thaws. So a thread that only waits has a table of descriptors of its own (unshare(2), CLONE_FILES). It alone
holds the instance's locks, which could not be taken otherwise, and our end of the pipe that shows the shim our death.
"""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Collection

from impetusd.linux import libc
from impetusd.shim import wire

CLONE_FILES = 0x400
LOCKS = ("lock", "lock:file")  # what the shim calls them in its store


class Lifeline:
    """Holds the descriptors that it is given until this process ends, or until `release`."""

    def __init__(self, fds: Collection[int]) -> None:
        """They are this object's from now on."""
        self._fds = tuple(fds)
        self._ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._alone = False
        ready = threading.Event()
        thread = threading.Thread(target=self._hold, args=(theirs.fileno(), ready), name="lifeline", daemon=True)
        thread.start()
        ready.wait()
        if self._alone:
            for fd in self._fds:
                os.close(fd)
            theirs.close()
        else:  # as in a container whose filter of system calls does not allow it
            self._theirs = theirs

    def release(self) -> tuple[int, ...]:
        """The descriptors, in the table of the other threads again, maybe by other numbers."""
        if not self._alone:
            return self._fds
        self._ours.sendall(b"?")
        return tuple(socket.recv_fds(self._ours, 1, len(self._fds))[1])

    def _hold(self, asked: int, ready: threading.Event) -> None:
        self._alone = libc.function("unshare")(CLONE_FILES) == 0
        if not self._alone:
            ready.set()
            return
        low = 3
        for fd in sorted({asked, *self._fds}):
            os.closerange(low, fd)
            low = fd + 1
        os.closerange(low, 1 << 20)
        ready.set()
        channel = socket.socket(fileno=asked)
        while channel.recv(1):
            socket.send_fds(channel, [b"!"], self._fds)


def take(held: dict[str, int]) -> Lifeline:
    """Hold the locks, taken out of what the shim has passed on, and its pipe."""
    fds = [held.pop(name) for name in LOCKS if name in held]
    number = os.environ.pop(wire.LIFELINE, "")  # a shim of an older version sets none
    return Lifeline([*fds, int(number)] if number else fds)
