"""The control method `metrics`: counters that are not in a row of `watch`, for exporters of metrics.

    slots   by name, as `status` shows it: {unit, starts: {reason: number}, exits: {"code:1" | "signal:SIGSEGV" | "stage:exec" …:
            number}, cpu_s, limit_bytes}; counted since this supervisor began
    pools   by name: {workers, connections, requests: {status: number}, durations, lags: {sum, counts}}, see `worker.measures`; of
            the workers that live, and of those that have ended, so that no sum falls. It outlives supervisors.
    bounds  of the histograms: {durations, lags}, in seconds; the last count is of what is above the last bound

Workers write into a page of memory, which is read as it is: no worker is asked, so a stuck one delays nothing.
"""

from __future__ import annotations

import json
import mmap
import os
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

from impetusd.core.config.model import Kind, Unit
from impetusd.core.rules.policy import Exit, signal_name
from impetusd.linux.processes import stat
from impetusd.supervisor.observers import Change
from impetusd.supervisor.slots.entry import ONE_SHOT, Entry
from impetusd.worker import measures

BLOB = "measured:"  # and a pool's name: what its workers that have ended had measured
MOST = 64  # kinds of starts and ends of a slot that are counted separately
TICK = 1.0 / os.sysconf("SC_CLK_TCK")
ERROR = 500  # the first status that is the server's fault
ASKED = "asked"  # the reason of a start that has none


class _Counts:
    """How often something of each kind has happened to each slot, by kind: by slot, each would have a dict of its own, 0.2 KB."""

    def __init__(self) -> None:
        self._of: dict[str, dict[str, int]] = {}

    def add(self, slot: str, kind: str) -> None:
        """Once more; as "other" if the slot has MOST kinds already."""
        if slot not in self._of.get(kind, ()) and sum(slot in counts for counts in self._of.values()) >= MOST:
            kind = "other"
        counts = self._of.setdefault(kind, {})
        counts[slot] = counts.get(slot, 0) + 1

    def by_slot(self, slots: Collection[str]) -> dict[str, dict[str, int]]:
        """By slot and kind; those of others than `slots` are dropped."""
        found: dict[str, dict[str, int]] = {slot: {} for slot in slots}
        kept: dict[str, dict[str, int]] = {}
        for kind, counts in self._of.items():
            for slot, count in counts.items():
                if slot in found:
                    found[slot][kind] = kept.setdefault(kind, {})[slot] = count
        self._of = kept
        return found


class Measured:
    """Counts, and the pages of workers. `put` has a blob remembered."""

    def __init__(self, put: Callable[[str, str], object]) -> None:
        self._put = put
        self._starts, self._ends = _Counts(), _Counts()  # of slots by their own names
        self._pages: dict[int, tuple[str, mmap.mmap]] = {}  # by process: its pool, and what it writes into
        self._past: dict[str, dict[str, Any]] = {}  # by pool

    def load(self, blobs: Mapping[str, str]) -> None:
        """Load the previous supervisor's sums of ended workers. Raises whatever invalid data causes."""
        for key, text in blobs.items():
            if key.startswith(BLOB):
                found = json.loads(text)
                self._past[key.removeprefix(BLOB)] = added(found, nothing())

    # Slots.

    def changed(self, change: Change) -> None:
        """A slot has: its process has ended, or another one has begun."""
        entry, before, after = change
        if after.last_exit is not None and after.last_exit is not before.last_exit:
            self._ends.add(entry.name, _end(after.last_exit))
        if after.pid is not None and after.pid != before.pid:
            self._starts.add(entry.name, (before.reason or after.reason).key or ASKED)

    def slots(self, entries: Iterable[Entry], shown: Callable[[Entry], str]) -> dict[str, dict[str, Any]]:
        """The counts of each slot; those of removed slots are dropped."""
        entries = list(entries)
        starts, ends = (counts.by_slot([entry.name for entry in entries]) for counts in (self._starts, self._ends))
        found: dict[str, dict[str, Any]] = {}
        for entry in entries:
            if entry.role in ONE_SHOT:
                continue
            found[shown(entry)] = {
                "unit": entry.unit.name,
                "starts": starts[entry.name],
                "exits": ends[entry.name],
                "cpu_s": cpu_seconds(entry.slot.pid) if entry.slot.pid is not None else None,
                "limit_bytes": entry.unit.max_memory_restart or entry.unit.max_memory_kill or None,
            }
        return found

    # Pools.

    def answer(
        self, units: Iterable[Unit], entries: Collection[Entry], shown: Callable[[Entry], str]
    ) -> dict[str, Any]:
        """The control method `metrics`."""
        pools = [unit.name for unit in units if unit.kind is Kind.POOL]
        alive = [entry.rec.process for entry in entries if entry.rec.process is not None]
        return {"slots": self.slots(entries, shown), "pools": self.pools(pools, alive), "bounds": BOUNDS}

    def page(self, process: int, pool: str) -> int:
        """A descriptor of the page that this worker is to write into from now on: the caller's. Raises OSError."""
        fd = measures.make()
        try:
            page = mmap.mmap(fd, measures.SIZE, access=mmap.ACCESS_READ)
            before = self._pages.pop(process, None)
            if before is not None:
                before[1].close()
        except BaseException:
            os.close(fd)
            raise
        self._pages[process] = pool, page
        return fd

    def ended(self, process: int) -> None:
        """The worker is gone: what it has measured stays."""
        pool, page = self._pages.pop(process, ("", None))
        if page is None:
            return
        self._past[pool] = added(self._past.get(pool, nothing()), {**measures.read(page), "connections": 0})
        page.close()
        self._put(f"{BLOB}{pool}", json.dumps(self._past[pool], separators=(",", ":")))

    def pools(self, names: Iterable[str], alive: Collection[int]) -> dict[str, dict[str, Any]]:
        """What the workers of each have measured, all together. `alive`: processes; a failed start has none."""
        for process in self._pages.keys() - set(alive):
            self.ended(process)
        found = {name: {"workers": 0, **self._past.get(name, nothing())} for name in names}
        for pool, page in self._pages.values():
            if pool in found:
                workers = found[pool]["workers"] + 1
                found[pool] = {"workers": workers, **added(found[pool], measures.read(page))}
        return found

    def answered(self, process: int | None) -> dict[str, Any] | None:
        """What a worker has answered so far: {requests, errors, latency_s}; None of a process that does not measure.

        `errors`: answers of 500 and above; `latency_s`: the mean, None without requests.
        """
        page = self._pages.get(process or 0)
        if page is None:
            return None
        found = measures.read(page[1])
        took, count = found["durations"]["sum"], sum(found["durations"]["counts"])
        return {
            "requests": sum(found["requests"].values()),
            "errors": sum(number for status, number in found["requests"].items() if int(status) >= ERROR),
            "latency_s": round(took / count, 6) if count else None,
        }

    def close(self) -> None:
        """Let go of the pages."""
        for _, page in self._pages.values():
            page.close()
        self._pages.clear()


BOUNDS = {"durations": measures.DURATIONS, "lags": measures.LAGS}


def nothing() -> dict[str, Any]:
    """The measurements of a pool whose workers have measured nothing."""
    return measures.read(bytes(measures.SIZE))


def added(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """Both together. Raises LookupError, TypeError, ValueError for what does not have the form of `measures.read`."""

    def histogram(name: str) -> dict[str, Any]:
        counts = [a + b for a, b in zip(one[name]["counts"], other[name]["counts"], strict=True)]
        return {"sum": round(one[name]["sum"] + other[name]["sum"], 6), "counts": counts}

    requests = Counter(one["requests"])
    requests.update(other["requests"])
    return {
        "connections": one["connections"] + other["connections"],
        "requests": dict(sorted(requests.items())),
        **{name: histogram(name) for name in BOUNDS},
    }


def cpu_seconds(pid: int) -> float | None:
    """What a process, and the children that it has waited for, have used of the processor; None if it is gone."""
    fields = stat(pid)
    return None if fields is None else round(sum(map(int, fields[11:15])) * TICK, 2)


def _end(end: Exit) -> str:
    if end.failed:
        return f"stage:{end.failed.facts.get('stage', '')}"
    if end.signal is not None:
        return f"signal:{signal_name(end.signal)}"
    return "unknown:" if end.code is None else f"code:{end.code}"
