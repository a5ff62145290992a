"""Sample memory and CPU of all processes from /proc, once for all watching clients."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping

from impetusd.supervisor.api.stats import Stats, Usage
from impetusd.supervisor.slots.entry import Entry

EVERY = 1.0  # seconds between two samples, at least
SHARE = 0.004  # of one core, at most
SLICE = 64  # processes between two turns of the loop: 1 ms


class Sampler:
    """Samples when called, and remembers the result."""

    def __init__(self, sampled: Callable[[str], int | None]) -> None:
        """`sampled` is the memory of a slot's whole tree, where that is measured anyway."""
        self._sampled = sampled
        self._stats = Stats()
        self._seen: dict[int, Usage] = {}  # by pid
        self.usage: dict[str, Usage] = {}  # by slot, as of the last sample
        self.pause = EVERY  # seconds until the next one is due

    def read(self, pid: int) -> Usage:
        """As `Stats.read`, without another look at a process that is in the last sample."""
        return self._seen.get(pid) or self._stats.read(pid)

    async def sample(self, entries: Mapping[str, Entry]) -> dict[str, Usage]:
        """Look at each that has a process. Returns those whose usage is another than before."""
        spent, began = 0.0, time.thread_time()
        seen: dict[int, Usage] = {}
        usage: dict[str, Usage] = {}
        for count, (name, entry) in enumerate(entries.items(), 1):
            if (pid := entry.slot.pid) is not None:
                memory, cpu = seen[pid] = self._stats.read(pid)
                usage[name] = (self._sampled(entry.name) or memory, cpu)
            if count % SLICE == 0:
                spent += time.thread_time() - began
                await asyncio.sleep(0)
                began = time.thread_time()
        changed = {name: each for name, each in usage.items() if self.usage.get(name) != each}
        for pid in self._seen.keys() - seen.keys():
            self._stats.forget(pid)
        self._seen, self.usage = seen, usage
        self.pause = max(EVERY, (spent + time.thread_time() - began) / SHARE)
        return changed

    def forget(self) -> None:
        """There are no watchers any more."""
        self._seen, self.usage = {}, {}
        self._stats = Stats()
