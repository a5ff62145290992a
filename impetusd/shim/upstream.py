"""What the manager that started us is told by sd_notify(3), as systemd is with Type=notify: the shim's end of it.

The shim is the main process, so with NotifyAccess=main its messages count and those of no program that it runs. It passes
on what the supervisor says; of its own it says WATCHDOG=1, from its one loop: a shim that is stuck falls silent, and a
supervisor that is stuck is the shim's own business.
"""

from __future__ import annotations

import math
import os
import socket

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping


class Upstream:
    """`due` is when (monotonic) the next WATCHDOG=1 is to be said; infinity where nobody asked for it."""

    __slots__ = ("_address", "_period", "_sock", "due", "stores")

    def __init__(self, environ: Mapping[str, str]) -> None:
        """What systemd says in our environment; without NOTIFY_SOCKET there is nobody to tell, and nothing is sent."""
        path = environ.get("NOTIFY_SOCKET", "")
        self.stores = path.startswith(("/", "@"))
        self._address = "\0" + path[1:] if path.startswith("@") else path
        self._period = 0.0
        self._sock: socket.socket | None = None
        self.due = math.inf
        if not path.startswith(("/", "@")):
            return
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        micros = environ.get("WATCHDOG_USEC", "")
        if micros.isdecimal() and int(micros) and environ.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid()):
            self._period = int(micros) / 2_000_000  # half of it, as sd_watchdog_enabled(3) advises
            self.due = 0.0

    def say(self, text: str) -> None:
        """Send `text`: lines of NAME=VALUE. A manager that does not listen must not stop us."""
        if self._sock is not None:
            try:
                self._sock.sendto(text.encode("utf-8", "replace"), self._address)
            except OSError:
                pass

    def beat(self, now: float) -> None:
        """Say that we are alive, if that is due at `now` (monotonic)."""
        if now >= self.due:
            self.due = now + self._period
            self.say("WATCHDOG=1")
