"""Recycles processes by age: `max_age` by the monotonic clock, `cron_restart` by the one on the wall."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable

from impetusd.core.reasons import Reason, because
from impetusd.core.rules.ageing import expires, turn
from impetusd.core.rules.lifecycle import State
from impetusd.core.rules.schedule import Cron
from impetusd.linux.alarm import Alarm, Rings
from impetusd.linux.timezone import zone
from impetusd.supervisor.faults import BARE
from impetusd.supervisor.observers import Change
from impetusd.supervisor.slots.entry import Entry, Role

STAGE = "replacing it"
AGAIN = (
    60.0  # seconds until a process that is still there is reported again: its turn, or the budget, may not have come
)
AGEING = frozenset({Role.PROGRAM, Role.WORKER, Role.STANDBY})
CLOCKED = AGEING | {Role.TEMPLATE}  # a restart by the clock is one of the whole unit


class Ageing:
    """A timer for each process with max_age, and one alarm for all with cron_restart."""

    def __init__(
        self,
        recycle: Callable[[Iterable[Entry], Reason], None],
        wall: Callable[[], float] = time.time,
        alarm: Callable[[Callable[[], None]], Rings] = Alarm,
    ) -> None:
        """`recycle` has a list of slots replaced, one at a time, with the reason."""
        self._recycle = recycle
        self._wall = wall
        self._loop = asyncio.get_running_loop()
        self._timers: dict[str, tuple[int, asyncio.TimerHandle]] = {}  # slot → pid, its timer
        self._clocked: dict[str, tuple[Entry, Cron]] = {}
        self._seen: dict[str, float] = {}
        self._due: dict[str, float] = {}
        self._alarm = alarm(self._rung)
        self._closed = False
        self.faults = BARE

    def changed(self, change: Change) -> None:
        """The slot has another state or another process."""
        self.follow(change.entry)

    def follow(self, entry: Entry) -> None:
        """As the slot is now."""
        unit, slot = entry.unit, entry.slot
        if self._closed or (not unit.max_age and not unit.cron_restart):
            return
        pid = slot.pid if slot.state is State.RUNNING else None
        if unit.max_age and entry.role in AGEING:
            self._time(entry, pid)
        if unit.cron_restart and entry.role in CLOCKED and (pid is None) is (entry.name in self._clocked):
            if pid is None:
                del self._clocked[entry.name]
                self._due.pop(entry.name, None)
            else:
                self._clocked[entry.name] = entry, Cron(unit.cron_restart, zone(unit.timezone))
                self._due[entry.name] = self._wall()  # rings at once, and then the next time is found
            self._set()

    def close(self) -> None:
        """Stop recycling, whatever still changes."""
        for _, timer in self._timers.values():
            timer.cancel()
        self._timers.clear()
        if not self._closed:
            self._alarm.close()
        self._closed = True

    # By age.

    def _time(self, entry: Entry, pid: int | None) -> None:
        known, timer = self._timers.get(entry.name, (None, None))
        if known == pid:
            return
        if timer is not None:
            timer.cancel()
            del self._timers[entry.name]
        if pid is not None:
            at = expires(entry.name, entry.slot.started or 0.0, entry.unit.max_age)
            self._timers[entry.name] = (
                pid,
                self._loop.call_at(at, self.faults.attempt, entry.name, STAGE, self._old, entry, pid),
            )

    def _old(self, entry: Entry, pid: int) -> None:
        if self._timers.get(entry.name, (None,))[0] != pid:  # it has ended since
            return
        self._timers[entry.name] = (
            pid,
            self._loop.call_later(AGAIN, self.faults.attempt, entry.name, STAGE, self._old, entry, pid),
        )
        self._recycle([entry], because("max_age", limit_s=entry.unit.max_age))

    # By the clock.

    def _look_at(self, name: str, old: list[Entry]) -> None:
        if self._next(name):
            old.append(self._clocked[name][0])

    def _next(self, name: str) -> bool:
        """Find the slot's next time. True when one has come."""
        entry, cron = self._clocked[name]
        now = self._wall()
        since = now - (time.monotonic() - entry.slot.since)
        fire, self._seen[name], following = turn(cron, self._seen.get(name, 0.0), since, now)
        self._due.pop(name, None)
        if following is not None:
            self._due[name] = following
        return fire

    def _rung(self) -> None:
        self.faults.attempt("cron_restart", "checking what is due", self._look_at_all)

    def _look_at_all(self) -> None:
        """A time has come, or the clock was set: then every time is found anew."""
        if self._closed:  # it rang just before
            return
        old: list[Entry] = []
        for name in list(self._clocked):
            if not self.faults.contain(name, "checking whether it is due", self._look_at, name, old):
                self._due[name] = self._wall() + AGAIN
        self._set()
        for unit in {entry.unit.name: entry.unit for entry in old}.values():
            due = [entry for entry in old if entry.unit.name == unit.name]
            why = because("cron_restart", schedule=unit.cron_restart)
            self.faults.contain(unit.name, "replacing its processes", self._recycle, due, why)

    def _set(self) -> None:
        self._alarm.set(min(self._due.values()) - self._wall() if self._due else None)
