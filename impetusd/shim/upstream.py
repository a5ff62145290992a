"""Messages to the manager that started us, by sd_notify(3), as systemd expects them with Type=notify.

The shim is the main process, so with NotifyAccess=main its messages count and those of no program that it runs. It passes
on what the supervisor says, and adds WATCHDOG=1, from its one loop: a shim that is stuck falls silent, and a supervisor
that is stuck is the shim's own business. And it gives the manager copies of what it keeps, for the shim after this one
(FileDescriptorStoreMax= in the unit), by the name DEVICE-INODE, since both ends of a pipe are one file.
"""

from __future__ import annotations

import math
import os
import struct

from impetusd.bare import deque, socket

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

AGAIN = 0.05  # seconds until a message that the manager had no room for is sent again


class Upstream:
    """`due` is when (monotonic) to call `beat`; infinity where the manager wants no WATCHDOG=1 and nothing waits."""

    __slots__ = ("_address", "_beat_at", "_period", "_sock", "_waiting", "due")

    def __init__(self, environ: Mapping[str, str]) -> None:
        """`environ`: ours, as systemd made it. Without NOTIFY_SOCKET nothing is sent."""
        path = environ.get("NOTIFY_SOCKET", "")
        self._address = "\0" + path[1:] if path.startswith("@") else path
        self._period = 0.0
        self._sock: socket.socket | None = None
        self._waiting: deque[tuple[str, int]] = deque()  # name and a copy to store, or -1: to discard
        self._beat_at = math.inf
        self.due = math.inf
        if not path.startswith(("/", "@")):
            return
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        micros = environ.get("WATCHDOG_USEC", "")
        if micros.isdecimal() and int(micros) and environ.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid()):
            self._period = int(micros) / 2_000_000  # half of it, as sd_watchdog_enabled(3) advises
            self._beat_at = self.due = 0.0

    def say(self, text: str) -> None:
        """Send `text`: lines of NAME=VALUE. A manager that does not listen must not stop us."""
        if self._sock is not None:
            try:
                self._sock.sendto(text.encode("utf-8", "replace"), self._address)
            except OSError:
                pass

    def store(self, name: str, fd: int) -> None:
        """Have the manager hold a copy of `fd` for the next shim. `name`: see `name_of`."""
        if self._sock is not None:
            self._waiting.append((name, os.dup(fd)))
            self.due = 0.0

    def discard(self, name: str) -> None:
        """Have it close its copies under this name."""
        if self._sock is not None:
            self._waiting.append((name, -1))
            self.due = 0.0

    def beat(self, now: float) -> None:
        """Send WATCHDOG=1 if that is due at `now` (monotonic), and the descriptors that wait."""
        if now < self.due:
            return
        if now >= self._beat_at:
            self._beat_at = now + self._period
            self.say("WATCHDOG=1")
        self._say_waiting()
        self.due = min(self._beat_at, now + AGAIN if self._waiting else math.inf)

    def _say_waiting(self) -> None:
        while self._sock is not None and self._waiting:
            name, fd = self._waiting[0]
            text, more = (
                (f"FDSTORE=1\nFDNAME={name}\nFDPOLL=0", [fd]) if fd >= 0 else (f"FDSTOREREMOVE=1\nFDNAME={name}", [])
            )
            ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, struct.pack("i", *more))] if more else []
            try:
                self._sock.sendmsg([text.encode()], ancillary, 0, self._address)
            except BlockingIOError:  # it has not read the others yet
                return
            except OSError:
                pass  # it does not listen: then there is no store
            self._waiting.popleft()
            if fd >= 0:
                os.close(fd)


def name_of(ident: Sequence[int]) -> str:
    """The name of an open file in systemd's store. `ident`: see `table.ident`."""
    return f"{ident[0]}-{ident[1]}"
