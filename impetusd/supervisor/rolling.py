"""Replacing processes that are well: one at a time in a unit, and in a pool the next is ready before the last one drains.

A rule of the INI (memory, age, a changed file) or a rolling restart marks slots as due. What is due waits for its turn:
the template first, then parked workers, then those that serve. A worker's place is taken by a parked one at once; the
process before lives on as `web:0:leaving` until the new one serves, then drains. A pool without parked workers gets one
for this purpose. Marks are part of the slots' records: a supervisor that dies in the middle is no end of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import TYPE_CHECKING

from impetusd.core.lifecycle import HandOver, Recycle, Restart, Slot, Start, State, Stop, Taken, Want, has_budget
from impetusd.supervisor.entry import IDLE, Entry, Role

if TYPE_CHECKING:
    from impetusd.core.model import Unit
    from impetusd.supervisor.engine import Engine

ORDER = (Role.TEMPLATE, Role.STANDBY, Role.WORKER, Role.PROGRAM)


class Rolling:
    """What is due in each unit, and whose turn it is."""

    def __init__(self, engine: Engine, clock: Callable[[], float], tell: Callable[[str], None]) -> None:
        """`tell` is for the daemon's log: what was called off, and why."""
        self._engine = engine
        self._clock = clock
        self._tell = tell
        self._units: dict[str, Unit] = {}  # those in which something is due or leaving

    def resume(self) -> None:
        """Go on with what the supervisor before us had begun."""
        for entry in self._engine.entries.values():
            if entry.rec.due or entry.role is Role.LEAVING or entry.extra:
                self._units[entry.unit.name] = entry.unit

    def mark(self, entries: Iterable[Entry], reason: str, *, asked: bool = False) -> list[Entry]:
        """Have a new process in each, one after the other. Returns those for which that is possible now."""
        marked = []
        for entry in entries:
            if entry.role not in ORDER or entry.slot.want is Want.DOWN or entry.slot.state is not State.RUNNING:
                continue
            if not asked and not has_budget(entry.policy, entry.slot, self._clock()):
                continue  # a process that is well is better than none
            if not entry.rec.due:
                entry.rec.due, entry.rec.asked = reason, asked
                self._engine.touch(entry)
            self._units[entry.unit.name] = entry.unit
            marked.append(entry)
        return marked

    def advance(self) -> None:
        """Take the next step in each unit in which one can be taken. Called when the inbox is empty."""
        for unit in list(self._units.values()):
            entries = self._engine.of_unit(unit)
            for entry in entries:
                self._tidy(entry, entries)
            entries = self._engine.of_unit(unit)
            if not any(e.rec.due or e.role is Role.LEAVING or e.extra for e in entries):
                del self._units[unit.name]
            elif all(e.slot.state not in {State.STARTING, State.STOPPING, State.BACKOFF} for e in entries):
                self._next(entries)

    def _tidy(self, entry: Entry, entries: list[Entry]) -> None:
        slot = entry.slot
        if entry.rec.due and slot.state is not State.RUNNING:
            self._clear(entry)  # it is getting a new process anyway, or none is wanted
        if entry.role in {Role.TEMPLATE, Role.STANDBY} and slot.state is State.FATAL:
            for each in entries:
                if each.rec.due:
                    self._call_off(each, f"({each.rec.due}): {entry.name} is FATAL: {slot.reason}")
        if entry.extra and slot.state in IDLE and not any(each.rec.due for each in entries):
            self._engine.dismiss(entry)
        if entry.role is Role.LEAVING and slot.state is State.RUNNING and slot.want is Want.UP:
            heir = next((e for e in entries if e.role is Role.WORKER and e.index == entry.index), None)
            if heir is None or heir.slot.state is State.RUNNING or heir.slot.want is Want.DOWN:
                self._engine.post(entry, Stop())

    def _call_off(self, entry: Entry, why: str) -> None:
        self._tell(f"{entry.name}: is not replaced {why}")
        entry.rec.slot = replace(entry.slot, reason=f"not replaced {why}")
        self._clear(entry)

    def _clear(self, entry: Entry) -> None:
        entry.rec.due, entry.rec.asked = "", False
        self._engine.touch(entry)

    def _next(self, entries: list[Entry]) -> None:
        if any(entry.role is Role.LEAVING for entry in entries):
            return
        due = sorted((entry for entry in entries if entry.rec.due), key=lambda entry: ORDER.index(entry.role))
        if due and due[0].role is Role.WORKER:
            self._replace(due[0], entries)
        elif due:
            entry, reason, asked = due[0], due[0].rec.due, due[0].rec.asked
            self._clear(entry)
            self._engine.post(entry, Restart() if asked else Recycle(reason))
        for entry in entries:
            if entry.extra and entry.slot.state is State.RUNNING and not due:
                self._engine.post(entry, Stop())  # the worker that it was made for is gone otherwise

    def _replace(self, worker: Entry, entries: list[Entry]) -> None:
        parked = self._engine.parked(worker)
        if parked is not None:
            reason, asked = worker.rec.due, worker.rec.asked
            self._clear(worker)
            self._engine.hand_over(worker, parked, HandOver(parked.slot.pid or 0, reason, asked))
        elif not any(e.role is Role.STANDBY for e in entries):
            self._engine.post(self._engine.extra_standby(worker), Start())
        for entry in entries:
            if parked is None and entry.extra:  # made for the place of another, which has found a process without it
                self._engine.post(entry, Stop())


def leaving_slot(slot: Slot) -> Slot:
    """The slot of the process that leaves, made of the one that it lived in."""
    return Slot(
        state=State.RUNNING,
        want=Want.UP,
        since=slot.since,
        pid=slot.pid,
        started=slot.started,
        last_exit=slot.last_exit,
    )


def taken(entry: Entry) -> Taken:
    """What a parked worker's slot is told when its process has been put to work."""
    return Taken(again=not entry.extra)
