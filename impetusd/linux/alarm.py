"""One alarm on the wall clock that also goes off when somebody sets that clock, or when the host wakes from sleep.

A timerfd(2) with TFD_TIMER_CANCEL_ON_SET, so that nothing has to look at the clock in between; Python 3.11 has no
os.timerfd_create of its own.
"""

from __future__ import annotations

import asyncio
import errno
import os
import struct
import time
from collections.abc import Callable
from typing import Protocol

from impetusd.linux import libc

CREATE = os.O_CLOEXEC | os.O_NONBLOCK  # TFD_CLOEXEC and TFD_NONBLOCK are these
ABSTIME, CANCEL_ON_SET = 1, 2
ITIMERSPEC = struct.Struct("@llll")  # interval and value, each in seconds and nanoseconds


class Rings(Protocol):
    """The interface of an `Alarm`."""

    def set(self, seconds: float | None) -> None: ...
    def close(self) -> None: ...


class Alarm:
    """Calls `ring` in the event loop. May ring early; the callee checks the clocks and sets it again."""

    def __init__(self, ring: Callable[[], None]) -> None:
        """Raises OSError if there is no descriptor left."""
        self._ring = ring
        self._settime = libc.function("timerfd_settime")
        self._fd = libc.function("timerfd_create")(time.CLOCK_REALTIME, CREATE)
        if self._fd < 0:
            raise libc.error()
        self._loop = asyncio.get_running_loop()
        try:
            self._loop.add_reader(self._fd, self._readable)
        except BaseException:  # ENOSPC: fs.epoll.max_user_watches
            os.close(self._fd)
            raise

    def set(self, seconds: float | None) -> None:
        """Ring in this many seconds, replacing the previous setting; None: never."""
        at = 0 if seconds is None else time.time_ns() + int(max(seconds, 0.0) * 1e9)
        new = ITIMERSPEC.pack(0, 0, *divmod(at, 10**9))
        if self._settime(self._fd, ABSTIME | CANCEL_ON_SET, new, None) < 0:
            self._failed()

    def _failed(self) -> None:
        if (error := libc.error()).errno != errno.ECANCELED:
            raise error
        self._loop.call_soon(self._ring)  # the clock was set since the last look: the new value may be off

    def close(self) -> None:
        """Never ring again."""
        self._loop.remove_reader(self._fd)
        os.close(self._fd)

    def _readable(self) -> None:
        try:
            os.read(self._fd, 8)
        except BlockingIOError:
            return
        except OSError:
            pass  # ECANCELED: the clock was set
        self._ring()
