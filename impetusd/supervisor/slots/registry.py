"""The existing slots: made from the configuration and stored state, removed when nothing needs them.

`machine` handles what happens in them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from impetusd.core.config.model import Config, Unit
from impetusd.core.reasons import NONE
from impetusd.core.rules import places, quarantine
from impetusd.core.rules.lifecycle import Want
from impetusd.supervisor.faults import Faults
from impetusd.supervisor.slots import record
from impetusd.supervisor.slots.entry import ONE_SHOT, SERVING, Entry, Role, roles, serving, slot_name
from impetusd.supervisor.slots.facts import Facts
from impetusd.supervisor.start.link import Page
from impetusd.supervisor.start.starter import Starter

NOTHING: Mapping[str, Any] = MappingProxyType({})  # is remembered


class Slots:
    """By name, in the order in which they are shown, and by unit, with what is remembered of each unit."""

    def __init__(self, starter: Starter, faults: Faults) -> None:
        self._starter = starter
        self.faults = faults
        self.page = Page({})
        self.held = quarantine.Held()
        self.forgotten: Callable[[Unit], object] = lambda _: None  # called with a removed unit
        self.dirty: dict[str, Entry] = {}  # whose records have changed
        self.by_process: dict[int, Entry] = {}  # by the shim's number of what lives in it
        self.by_pid: dict[int, Entry] = {}
        self.replacing: dict[str, Unit] = {}  # units in which a process is due, leaving or to come
        self.entries: dict[str, Entry] = {}
        self.units: dict[str, Unit] = {}
        self.by_unit: dict[str, list[Entry]] = {}  # in the order of `entries`
        self._at: Callable[[int], Config]
        self._remembered: dict[str, list[str]] = {}  # by unit, the slots that the supervisor before us had
        self.facts = Facts(starter.outbox, faults)
        self._leaving: dict[str, Unit | None] = {}  # by name, units that were removed or disabled

    def configure(
        self,
        at: Callable[[int], Config],
        blobs: Mapping[str, str],
        saved: Mapping[str, Mapping[str, Any]],
        before: Callable[[int], Config] | None = None,
    ) -> None:
        """Make a slot for everything that the configuration asks for, with what is remembered of it.

        `at` gives the configuration as an instance sees it; `blobs` are of this boot, `saved` slots of an earlier one.
        `before` is the configuration until now: what it alone has is stopped and then forgotten.
        """
        self._at = at
        self._remembered = {}
        for owner, _, rest in (key.removeprefix("slot:").partition(":") for key in blobs if key.startswith("slot:")):
            self._remembered.setdefault(owner, []).append(rest)
        for unit in at(0).with_jobs():
            self._know(unit, blobs)
            if unit.enabled:
                for role, index in roles(unit, self.facts.instances(unit)):
                    self.make(unit, role, index, blobs, saved)
                self.faults.contain(unit.name, "creating its temporary slots", self._make_passing, unit, blobs)
        if before is not None:
            self._make_leaving(before, blobs)

    def _know(self, unit: Unit, blobs: Mapping[str, str]) -> None:
        self.units[unit.name] = unit
        self.facts.know(unit, blobs)

    def _make_leaving(self, before: Callable[[int], Config], blobs: Mapping[str, str]) -> None:
        """Slots of units that were removed from the configuration."""
        now, self._at = self._at, before
        for unit in before(0).with_jobs():
            known = self.units.get(unit.name)
            if not unit.enabled or (known is not None and known.enabled):
                continue
            unit = replace(unit, depends_on=tuple(name for name in unit.depends_on if name in self.units))
            self._know(unit, blobs)
            present = len(self.entries)
            for role, index in roles(unit, self.facts.instances(unit)):
                if f"slot:{slot_name(unit, role, index)}" in blobs:
                    self.make(unit, role, index, blobs).dismissed = True
            self._make_passing(unit, blobs)
            if len(self.entries) == present:
                self._forget_unit(unit)
            else:
                self._leaving[unit.name] = known
        self._at = now

    def _forget_unit(self, unit: Unit) -> None:
        known = self._leaving.pop(unit.name, None)
        del self.units[unit.name]
        if known is not None:  # it is still in the configuration, switched off
            self.units[unit.name] = known
        self._starter.outbox.put(f"unit:{unit.name}", None)
        self.forgotten(unit)

    def make(
        self,
        unit: Unit,
        role: Role,
        index: int,
        blobs: Mapping[str, str] = NOTHING,
        saved: Mapping[str, Any] = NOTHING,
    ) -> Entry:
        """A slot, with what is remembered of it. Its place among the others is found by `sort`."""
        entry = Entry(self._at(index).units[unit.name] if unit.per_instance else unit, role, index)
        self.page.at(entry.name, "reading its record")
        if not self.faults.contain(entry.name, "reading its record", self._remember, entry, blobs, saved):
            entry.rec.slot = places.unreadable(entry.slot)
        self.by_unit.setdefault(unit.name, []).append(entry)
        self.entries[entry.name] = entry  # nothing is called between the two: it is in both, or in neither
        self.page.blank()
        return entry

    def unmake(self, entry: Entry) -> None:
        """Making it has failed."""
        del self.entries[entry.name]
        self.by_unit[entry.unit.name].remove(entry)
        self.dirty.pop(entry.name, None)

    def _remember(self, entry: Entry, blobs: Mapping[str, str], saved: Mapping[str, Any]) -> None:
        text = blobs.get(f"slot:{entry.name}")
        if text:
            entry.rec = record.load(text, blobs.get(f"why:{entry.name}"))
            entry.explained = f"why:{entry.name}" in blobs
        elif entry.name in saved:
            entry.rec = record.revive(saved[entry.name])
            self.touch(entry)  # the supervisor after us has no other memory of it

    def _make_passing(self, unit: Unit, blobs: Mapping[str, str]) -> None:
        """Slots that no configuration asks for: scaled away, of a process that leaves, or of one that is to come."""
        for rest in self._remembered.get(unit.name, ()):
            if f"{unit.name}:{rest}" in self.entries:
                continue
            if rest.isdigit():
                self.make(unit, serving(unit), int(rest), blobs).dismissed = True
            elif rest.endswith(":leaving"):
                self.make(unit, Role.LEAVING, int(rest.partition(":")[0]), blobs)
            elif rest == "template:next":
                self.make(unit, Role.NEXT_TEMPLATE, 0, blobs)
            elif rest.endswith(":next"):
                self.make(unit, Role.NEXT, int(rest.partition(":")[0]), blobs)
            elif rest == "template":
                self.make(unit, Role.TEMPLATE, 0, blobs).dismissed = True
            elif rest.startswith("standby"):
                self.make(unit, Role.STANDBY, int(rest.partition(":")[2] or 0), blobs).dismissed = True

    # One slot.

    def touch(self, entry: Entry) -> None:
        """Its record has changed."""
        self.dirty[entry.name] = entry

    def end_due(self, entry: Entry) -> None:
        """Its process no longer needs to be replaced."""
        if entry.rec.due:
            entry.rec.due, entry.rec.asked = NONE, False
            self.touch(entry)

    def make_passing(self, unit: Unit, role: Role, index: int) -> Entry:
        """A slot that no configuration asks for."""
        entry = self.make(unit, role, index)
        try:
            self.sort()
        except BaseException:
            self.unmake(entry)
            raise
        return entry

    def sort(self) -> None:
        """Sort all of them in display order."""
        order = {name: at for at, name in enumerate(self.units)}
        roles_order = list(Role)
        keys = {e.name: (order[e.unit.name], roles_order.index(e.role), e.index) for e in self.entries.values()}
        entries = {name: self.entries[name] for name in sorted(self.entries, key=keys.__getitem__)}
        by_unit: dict[str, list[Entry]] = {}
        for entry in entries.values():
            by_unit.setdefault(entry.unit.name, []).append(entry)
        self.entries, self.by_unit = entries, by_unit  # both or neither, whatever is raised

    def dismiss(self, entry: Entry) -> None:
        """Forget a slot in which nothing runs."""
        rest = [each for each in self.of_unit(entry.unit) if each is not entry]
        if self.entries.get(entry.name) is entry:
            del self.entries[entry.name]
            self.by_unit[entry.unit.name] = rest
            if entry.name in self.dirty:
                del self.dirty[entry.name]
        self.faults.attempt(entry.name, "deleting its record", self._forget_record, entry)
        self._starter.pipes.forget(entry)
        if entry.unit.name in self._leaving and not self.by_unit[entry.unit.name]:
            self._forget_unit(entry.unit)

    def _forget_record(self, entry: Entry) -> None:
        if entry.name not in self.entries:
            self._starter.outbox.put(f"slot:{entry.name}", None)
            if entry.explained:
                self._starter.outbox.put(f"why:{entry.name}", None)

    # What is held: see `core.rules.quarantine`.

    def holds(self, entry: Entry) -> bool:
        """Whether nothing is decided for this slot."""
        held = self.held
        return held.whole is not None or entry.name in held.slots or entry.unit.name in held.slots

    def holds_any(self, unit: Unit) -> bool:
        """Whether nothing is decided for a slot of the unit, and so for the unit as a whole."""
        return (bool(self.held.slots) or self.held.whole is not None) and any(map(self.holds, self.of_unit(unit)))

    def held_because(self, entry: Entry) -> dict[str, Any] | None:
        """Why this slot is in quarantine, see `quarantine.facts`; None if it is not, or is down as wanted."""
        cause = self.held.slots.get(entry.name) or self.held.slots.get(entry.unit.name)
        if cause is None or (entry.rec.process is None and entry.slot.want is Want.DOWN):
            return None
        return quarantine.facts(quarantine.QUARANTINED, cause)

    # State to show.

    def of_unit(self, unit: Unit) -> list[Entry]:
        """The unit's slots."""
        return list(self.by_unit.get(unit.name, ()))

    def of_pid(self, pid: int) -> Entry | None:
        """The slot whose main process is `pid`."""
        return self.by_pid.get(pid)

    def expects(self) -> bool:
        """Whether a process was requested whose pid is not known yet."""
        return any(each.rec.process is not None and each.slot.pid is None for each in self.entries.values())

    def is_leaving(self, unit: Unit) -> bool:
        """Whether the configuration no longer has it, or has it disabled."""
        return unit.name in self._leaving

    def is_ready(self, unit: Unit) -> bool:
        """Whether each serving slot of the unit is up."""
        return all(e.is_up for e in self.by_unit.get(unit.name, ()) if e.role in SERVING)

    def shown(self, entry: Entry) -> str:
        """The slot's name as it is printed: a program with one slot goes by the unit's name, and so does a job."""
        if entry.role in ONE_SHOT:
            return entry.unit.name
        if entry.role is Role.PROGRAM and self.facts.instances(entry.unit) == 1 and entry.index == 0:
            return entry.unit.name
        return entry.name
