"""Memory and CPU of processes, read when somebody asks."""

from __future__ import annotations

import os
import time
from typing import Any

from impetusd.linux.processes import PAGE, stat

Usage = tuple[int | None, float | None]  # resident bytes, percent of one core; None if unknown
TICK = 1.0 / os.sysconf("SC_CLK_TCK")


class Stats:
    """CPU percent needs two readings: the first answer is over the process's life, each later one since the last.

    Of /proc/PID/stat itself, 12 us a process: psutil takes 120 to 570, and `status` asks about all at once.
    """

    def __init__(self) -> None:
        self._last: dict[int, tuple[float, float, float]] = {}  # pid → (started, when read, CPU seconds then)

    def read(self, pid: int) -> Usage:
        """The usage of `pid`."""
        fields = stat(pid)
        if fields is None:
            self._last.pop(pid, None)
            return None, None
        used, born, now = (int(fields[11]) + int(fields[12])) * TICK, int(fields[19]) * TICK, time.monotonic()
        started, at, before = self._last.get(pid, (born, now, 0.0))
        if pid not in self._last or started != born:
            at, before = now - max(time.clock_gettime(time.CLOCK_BOOTTIME) - born, TICK), 0.0
        self._last[pid] = (born, now, used)
        return int(fields[21]) * PAGE, round(100.0 * max(0.0, used - before) / max(now - at, TICK), 1)

    def forget(self, pid: int) -> None:
        """The process is gone."""
        self._last.pop(pid, None)


def details(pid: int) -> dict[str, Any]:
    """Further facts about one process; {} if it is gone or must not be inspected."""
    import psutil

    try:
        process = psutil.Process(pid)
        return {
            "threads": process.num_threads(),
            "descriptors": process.num_fds(),
            "descendants": [child.pid for child in process.children(recursive=True)],
        }
    except psutil.Error:
        return {}
