"""A worker's measurements, in a page of memory shared with the supervisor: readable at any time, even if it is stuck.

Numbers of 8 bytes, which only the worker writes. Supervisor and worker share this layout; additions go to the end.

    connections                                          open now
    sum (double) and counts by DURATIONS, and above all  seconds that requests took; of ASGI and WSGI until the answer began
    sum (double) and counts by LAGS, and above all       seconds that the event loop was late, measured while there is work
    counts by status, from FIRST_STATUS on               answers
"""

from __future__ import annotations

import asyncio
import math
import mmap
import time
from bisect import bisect_left
from collections.abc import Callable
from typing import Any

from impetusd.worker import sealed

DURATIONS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
LAGS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
FIRST_STATUS, LAST_STATUS = 100, 599
_CONNECTIONS = 0
_DURATION_SUM, _DURATION = 1, 2
_LAG_SUM = _DURATION + len(DURATIONS) + 1
_LAG = _LAG_SUM + 1
_STATUS = _LAG + len(LAGS) + 1
_STATUS_0 = _STATUS - FIRST_STATUS
_END = _STATUS + LAST_STATUS - FIRST_STATUS + 1
SIZE = -(-_END * 8 // mmap.PAGESIZE) * mmap.PAGESIZE
_EVERY = 1.0  # seconds between two looks at the loop


def make() -> int:
    """A new page, as a descriptor. Raises OSError."""
    return sealed.page("impetusd-measures", SIZE)


class Measures:
    """The measurements of one worker; in its own memory until it is given a page."""

    def __init__(self) -> None:
        self._own(bytearray(SIZE))
        self._idle = True
        self._busy = False  # something has happened since the last look
        self.connections: Callable[[], int] = lambda: 0
        self.requests = 0
        self.errors = 0  # those answered with 500 or above
        self.limit = 0  # number of requests at which `at_limit` is called
        self.at_limit: Callable[[], None] = lambda: None

    def _own(self, memory: Any) -> None:
        self._memory = memory
        view = memoryview(memory)
        self._counts, self._sums = view.cast("Q"), view.cast("d")

    def share(self, fd: int) -> None:
        """From now on in this page; what was measured so far is there, too. The descriptor stays the caller's. Raises OSError,
        ValueError."""
        page = mmap.mmap(fd, SIZE)
        page[:] = bytes(self._memory)
        self._own(page)

    def answered(self, status: int, seconds: float | None = None) -> None:
        """One answer; `seconds` that it took, None where that means nothing. Every request pays for it: so it is one function."""
        self.requests = requests = self.requests + 1
        counts = self._counts
        if seconds is not None:
            self._sums[_DURATION_SUM] += seconds
            counts[_DURATION + bisect_left(DURATIONS, seconds)] += 1
        if FIRST_STATUS <= status <= LAST_STATUS:
            counts[_STATUS_0 + status] += 1
        if status >= 500:
            self.errors += 1
        self._busy = True
        if self._idle:
            self.stir()
        if requests == self.limit:
            self.at_limit()

    def stir(self) -> None:
        """There is work: look at the loop until there is none. From the loop's thread."""
        self._busy = True
        if self._idle:
            self._idle = False
            self._wait()

    def _wait(self) -> None:
        asyncio.get_running_loop().call_later(_EVERY, self._look, time.monotonic() + _EVERY)

    def _look(self, due: float) -> None:
        late = max(0.0, time.monotonic() - due)
        self._sums[_LAG_SUM] += late
        self._counts[_LAG + bisect_left(LAGS, late)] += 1
        self._counts[_CONNECTIONS] = count = self.connections()
        if count or self._busy:
            self._busy = False
            self._wait()
        else:
            self._idle = True


def read(page: Any) -> dict[str, Any]:
    """The content of a page, for JSON: {connections, requests: {status: number}, durations, lags: {sum, counts}}.

    The content is not trusted; a sum that is not a number is 0.
    """
    data = bytes(page)
    counts, sums = memoryview(data).cast("Q"), memoryview(data).cast("d")

    def histogram(at: int, bounds: tuple[float, ...]) -> dict[str, Any]:
        total = sums[at]
        return {
            "sum": round(total, 6) if math.isfinite(total) and total >= 0 else 0.0,
            "counts": list(counts[at + 1 : at + 2 + len(bounds)]),
        }

    statuses = counts[_STATUS : _STATUS + LAST_STATUS - FIRST_STATUS + 1]
    return {
        "connections": counts[_CONNECTIONS],
        "requests": {str(FIRST_STATUS + at): number for at, number in enumerate(statuses) if number},
        "durations": histogram(_DURATION_SUM, DURATIONS),
        "lags": histogram(_LAG_SUM, LAGS),
    }
