"""WATCHDOG=1 for as long as the event loop runs and the server says that it lives, and how long one has not."""

from __future__ import annotations

import asyncio
import time

from impetusd.worker.notify import Notifier
from impetusd.worker.server import Server

# In the time of `watchdog`: a loop that was held for less than three quarters of it is never taken for a stuck one.
_BEATS = 4
_SHORTEST = 0.01  # seconds between two beats


class Heartbeat:
    """The beats of one worker. `watchdog` is in seconds; with 0 there are none."""

    def __init__(self, watchdog: float, notify: Notifier) -> None:
        self.watchdog = watchdog
        self._notify = notify
        self._interval = max(watchdog / _BEATS, _SHORTEST)
        self._last: float | None = None  # monotonic
        self._server: Server | None = None
        self._held = False  # the last beat was, though the event loop runs

    def watch(self, server: Server) -> None:
        """From now on each beat asks `server`, too."""
        self._server = server

    def start(self) -> None:
        """Beat from now until the loop ends; READY=1 counts as the first. Started twice, it beats once."""
        if self.watchdog and self._last is None:
            self._last = time.monotonic()
            self._wait()

    @property
    def pulse(self) -> str:
        """The stuck part, if there is one."""
        return self._server.pulse if self._held and self._server is not None else "the event loop"

    def stuck(self) -> float:
        """Seconds since the last beat if the next one is overdue by an interval; 0.0 if the loop runs, or may."""
        since = 0.0 if self._last is None else time.monotonic() - self._last
        return since if since > 2 * self._interval else 0.0

    def _wait(self) -> None:
        asyncio.get_running_loop().call_later(self._interval, self._beat)

    def _beat(self) -> None:
        self._held = self._server is not None and not self._server.alive()
        if not self._held:
            self._notify("WATCHDOG=1")
            self._last = time.monotonic()
        self._wait()
