"""Replacing processes that are well: one at a time in a unit, and where two can serve side by side the next is ready first.

A rule of the INI (memory, age, requests) or a rolling restart marks slots as due. What is due waits for its turn: parked
workers first, then those that serve. A worker's place is taken by a parked one at once; the process before lives on as
`web:0:leaving` until the new one serves, then drains. Where none is parked, the next one is made as `web:0:next`, and
takes over when it serves. Marks are part of the slots' records: a supervisor that dies in the middle is no end of it.
While a unit is reloaded, which replaces everything, what is due waits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import TYPE_CHECKING

from impetusd.core.reasons import NONE, Reason, because
from impetusd.core.rules.lifecycle import HandOver, Recycle, Restart, Slot, Start, State, Stop, Taken, Want, has_budget
from impetusd.core.rules.reload import overlaps
from impetusd.supervisor.slots.entry import IDLE, SERVING, Entry, Role, slot_name

if TYPE_CHECKING:
    from impetusd.core.config.model import Unit
    from impetusd.supervisor.slots.engine import Engine

ORDER = (Role.TEMPLATE, Role.STANDBY, Role.WORKER, Role.PROGRAM)


class Rolling:
    """What is due in each unit, and whose turn it is."""

    def __init__(self, engine: Engine, clock: Callable[[], float], tell: Callable[[str], None]) -> None:
        """`tell` is for the daemon's log: what was called off, and why."""
        self._engine = engine
        self._clock = clock
        self._tell = tell
        self._units: dict[str, Unit] = {}  # those in which something is due, leaving or to come

    def resume(self) -> None:
        """Go on with what the supervisor before us had begun."""
        for entry in self._engine.entries.values():
            if entry.rec.due or entry.role in {Role.LEAVING, Role.NEXT}:
                self.follow(entry.unit)

    def follow(self, unit: Unit) -> None:
        """Something of the unit leaves."""
        self._units[unit.name] = unit

    def mark(self, entries: Iterable[Entry], reason: Reason, *, asked: bool = False) -> list[Entry]:
        """Have a new process in each, one after the other. Returns those for which that is possible now."""
        marked = []
        for entry in entries:
            if (
                self._engine.holds(entry)
                or entry.role not in ORDER
                or entry.slot.want is Want.DOWN
                or entry.slot.state is not State.RUNNING
            ):
                continue
            if not asked and not has_budget(entry.policy, entry.slot, self._clock()):
                continue  # a process that is well is better than none
            if not entry.rec.due:
                entry.rec.due, entry.rec.asked = reason, asked
                self._engine.touch(entry)
            self.follow(entry.unit)
            marked.append(entry)
        return marked

    def done(self, entry: Entry) -> None:
        """It is due no more."""
        if entry.rec.due:
            entry.rec.due, entry.rec.asked = NONE, False
            self._engine.touch(entry)

    def advance(self) -> None:
        """Take the next step in each unit in which one can be taken. Called when the inbox is empty."""
        for unit in list(self._units.values()):
            source = f"replacing processes of {unit.name}"
            if self._engine.faults.rests(source) or self._engine.holds_any(unit):
                continue
            try:
                self._engine.page.at(unit.name, "replacing processes")
                self._advance(unit)
            except Exception as error:
                why = self._engine.faults.note(source, "taking the next step", error)
                for entry in self._engine.of_unit(unit):
                    if entry.rec.due:
                        self._call_off(entry, why)

    def _advance(self, unit: Unit) -> None:
        reloading = self._engine.reloads.active(unit) is not None
        entries = self._engine.of_unit(unit)
        for entry in entries:
            self._tidy(entry, entries, reloading=reloading)
        entries = self._engine.of_unit(unit)
        if not any(e.rec.due or e.role in {Role.LEAVING, Role.NEXT} for e in entries):
            del self._units[unit.name]
        elif not reloading and all(
            e.slot.state not in {State.STARTING, State.STOPPING, State.BACKOFF} for e in entries
        ):
            self._next(entries)

    def _tidy(self, entry: Entry, entries: list[Entry], *, reloading: bool) -> None:
        slot = entry.slot
        if entry.rec.due and slot.state is not State.RUNNING:
            self.done(entry)  # it is getting a new process anyway, or none is wanted
        if entry.role is Role.LEAVING and slot.state is State.RUNNING and slot.want is Want.UP:
            heir = next((e for e in entries if e.role in SERVING and e.index == entry.index), None)
            if heir is None or heir.slot.state is State.RUNNING or heir.slot.want is Want.DOWN:
                self._engine.post(entry, Stop())
        if reloading:
            return
        if entry.role in {Role.TEMPLATE, Role.STANDBY, Role.NEXT} and slot.state is State.FATAL:
            for each in entries:
                if each.rec.due:
                    self._call_off(each, because("is_state", name=entry.name, state="FATAL", cause=slot.reason))
        if entry.role is Role.NEXT and slot.state in IDLE and not entry.tail_due:
            self._engine.dismiss(entry)

    def _call_off(self, entry: Entry, cause: Reason) -> None:
        reason = because("not_replaced", due=entry.rec.due, cause=cause)
        self._tell(f"{entry.name}: {reason}")
        entry.rec.slot = replace(entry.slot, reason=reason)
        self.done(entry)

    def _next(self, entries: list[Entry]) -> None:
        if any(entry.role is Role.LEAVING for entry in entries):
            return
        made_for = {entry.index for entry in entries if entry.role is Role.NEXT}
        due = [entry for entry in entries if entry.rec.due]
        due.sort(key=lambda entry: (ORDER.index(entry.role), entry.index not in made_for))
        first = due[0] if due else None
        if first is not None and first.role in SERVING and overlaps(first.unit):
            self._replace(first, entries)
        elif first is not None:
            reason, asked = first.rec.due, first.rec.asked
            self.done(first)
            self._engine.post(first, Restart() if asked else Recycle(reason))
        for entry in entries:
            if entry.role is Role.NEXT and entry.slot.state is State.RUNNING and not self._awaited(entry):
                self._engine.post(entry, Stop())  # the one that it was made for is gone otherwise

    def _awaited(self, entry: Entry) -> bool:
        role = Role.WORKER if entry.works else Role.PROGRAM
        heir_of = self._engine.entries.get(slot_name(entry.unit, role, entry.index))
        return heir_of is not None and bool(heir_of.rec.due)

    def _replace(self, worker: Entry, entries: list[Entry]) -> None:
        heir = self._engine.parked(worker)
        if heir is not None:
            reason, asked = worker.rec.due, worker.rec.asked
            self.done(worker)
            event = HandOver(heir.slot.pid or 0, reason, asked, serves=heir.role is Role.NEXT)
            self._engine.hand_over(worker, heir, event)
        elif not any(e.role in {Role.STANDBY, Role.NEXT} for e in entries):
            self._engine.post(self._engine.make_passing(worker.unit, Role.NEXT, worker.index), Start())


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
    """What a slot is told when its process has been put to work elsewhere: a parked worker is replaced."""
    return Taken(again=entry.role is Role.STANDBY and not entry.dismissed)
