"""Memory and CPU of processes, read when somebody asks."""

from __future__ import annotations

import time


class Stats:
    """CPU percent needs two readings: the first answer is over the process's life, each later one since the last."""

    def __init__(self) -> None:
        self._last: dict[int, tuple[float, float, float]] = {}  # pid → (create time, when read, CPU seconds then)

    def read(self, pid: int) -> tuple[int | None, float | None]:
        """(resident bytes, percent of one core) of `pid`; None for what cannot be told."""
        import psutil

        try:
            process = psutil.Process(pid)
            with process.oneshot():
                created = process.create_time()
                times = process.cpu_times()
                memory = process.memory_info().rss
        except psutil.Error:
            self._last.pop(pid, None)
            return None, None
        used, now = times.user + times.system, time.time()
        born, at, before = self._last.get(pid, (created, created, 0.0))
        if born != created:
            at, before = created, 0.0
        self._last[pid] = (created, now, used)
        span = now - at
        return memory, round(100.0 * max(0.0, used - before) / span, 1) if span > 0 else 0.0

    def forget(self, pid: int) -> None:
        """The process is gone."""
        self._last.pop(pid, None)
