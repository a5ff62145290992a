"""Replaces healthy processes: one at a time in a unit; if two can serve side by side, the next one is ready first.

A rule of the INI (memory, age, requests) or a rolling restart marks slots as due. What is due waits for its turn, which
`core.rules.rolling` decides. A worker's place is taken by a parked one at once; the process before lives on as
`web:0:leaving` until the new one serves, then drains. If none is parked, the next one is made as `web:0:next`, and
takes over when it serves. Marks are part of the slots' records, so a roll continues if the supervisor dies midway.
While a unit is reloaded, which replaces everything, what is due waits.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from impetusd.core.reasons import Reason, because
from impetusd.core.rules import rolling as core
from impetusd.core.rules.lifecycle import HandOver, Recycle, Restart, Start, Stop, Want
from impetusd.core.rules.reload import overlaps
from impetusd.core.rules.rolling import Do, Order, Seen
from impetusd.supervisor.slots.entry import PARTS, SERVING, Entry, Role

if TYPE_CHECKING:
    from impetusd.core.config.model import Unit
    from impetusd.supervisor.slots.places import Places
    from impetusd.supervisor.slots.registry import Slots
    from impetusd.supervisor.slots.rounds import Rounds
    from impetusd.supervisor.slots.versions import Versions

PASSING_BY = frozenset({Role.LEAVING, Role.NEXT})


class Rolling:
    """The due slots of each unit, and whose turn it is."""

    def __init__(
        self, slots: Slots, rounds: Rounds, versions: Versions, places: Places, log: Callable[[str], None]
    ) -> None:
        """`log` is for the daemon's log: what was called off, and why."""
        self._slots = slots
        self._rounds = rounds
        self._versions = versions
        self._places = places
        self._log = log

    def resume(self) -> None:
        """Go on with what the supervisor before us had begun."""
        for entry in self._slots.entries.values():
            if entry.rec.due or entry.role in PASSING_BY:
                self._slots.replacing[entry.unit.name] = entry.unit

    def mark(self, entries: Iterable[Entry], reason: Reason, *, asked: bool = False) -> list[Entry]:
        """Replace the process in each, one after the other. Returns those for which that is possible now."""
        marked = []
        for entry in entries:
            if self._slots.holds(entry) or PARTS.get(entry.role) not in core.ORDER:
                continue
            if not core.may_replace(entry.policy, entry.slot, time.monotonic(), asked=asked):
                continue
            if not entry.rec.due:
                self._slots.touch(entry)  # first: what is due and not among `replacing` would wait for ever
                entry.rec.due, entry.rec.asked = reason, asked
            self._slots.replacing[entry.unit.name] = entry.unit
            marked.append(entry)
        return marked

    def advance(self) -> None:
        """Take the next step in each unit in which one can be taken. Called when the inbox is empty."""
        slots = self._slots
        for unit in list(slots.replacing.values()):
            source = f"replacing processes of {unit.name}"
            if slots.faults.rests(source) or slots.holds_any(unit):
                continue
            try:
                slots.page.at(unit.name, "replacing processes")
                self._advance(unit)
            except Exception as error:
                why = slots.faults.note(source, "taking the next step", error)
                for entry in slots.of_unit(unit):
                    if entry.rec.due:
                        self._call_off(entry, why)

    def _advance(self, unit: Unit) -> None:
        reloading = self._versions.active(unit) is not None
        entries = self._slots.of_unit(unit)
        self._obey(entries, core.tidy(list(map(self._seen, entries)), reloading=reloading))
        entries = self._slots.of_unit(unit)
        if not any(entry.rec.due or entry.role in PASSING_BY for entry in entries):
            del self._slots.replacing[unit.name]
        elif not reloading:
            self._obey(entries, core.decide(list(map(self._seen, entries)), overlaps=overlaps(unit)))

    def _seen(self, entry: Entry) -> Seen:
        replaceable = bool(entry.rec.due) and entry.role in SERVING and overlaps(entry.unit)
        return Seen(
            part=PARTS[entry.role],
            index=entry.index,
            state=entry.slot.state,
            up=entry.slot.want is Want.UP,
            due=bool(entry.rec.due),
            heir=replaceable and self._places.parked(entry) is not None,
            told=not entry.tail_due,
        )

    def _obey(self, entries: list[Entry], orders: Iterable[Order]) -> None:
        orders = list(orders)
        if orders:
            self._rounds.step(f"replacing processes of {entries[0].unit.name}")
        for do, at, why in orders:
            entry = entries[at]
            if do is Do.NOT_DUE:
                self._slots.end_due(entry)
            elif do is Do.STOP:
                self._rounds.post(entry, Stop())
            elif do is Do.FORGET:
                self._slots.dismiss(entry)
            elif do is Do.CALL_OFF:
                cause = entries[why]
                self._call_off(entry, because("is_state", name=cause.name, state="FATAL", cause=cause.slot.reason))
            elif do is Do.MAKE:
                self._rounds.post(self._slots.make_passing(entry.unit, Role.NEXT, entry.index), Start())
            else:
                self._replace(entry, do)

    def _call_off(self, entry: Entry, cause: Reason) -> None:
        reason = because("not_replaced", due=entry.rec.due, cause=cause)
        self._log(f"{entry.name}: {reason}")
        entry.rec.slot = core.not_replaced(entry.slot, reason)
        self._slots.end_due(entry)

    def _replace(self, entry: Entry, do: Do) -> None:
        heir = self._places.parked(entry) if do is Do.HAND_OVER else None
        reason, asked = entry.rec.due, entry.rec.asked
        self._slots.end_due(entry)
        if heir is not None:
            event = HandOver(heir.slot.pid or 0, reason, asked, serves=heir.role is Role.NEXT)
            self._places.hand_over(entry, heir, event)
        else:
            self._rounds.post(entry, Restart() if asked else Recycle(reason))
