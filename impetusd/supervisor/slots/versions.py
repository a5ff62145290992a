"""Which version of a unit a process belongs to: the state of its reloads, one record each in the shim.

The record of a reload is sent with those of the slots in the same message: whenever the supervisor dies, the next one
finds how far it had come. That of the last one is kept, for `status` and for a client that asks again. `reloads`
carries them out.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from impetusd.core.rules import reload as core
from impetusd.core.rules.reload import Phase, Reload
from impetusd.supervisor.slots.entry import Entry, Role, slot_name

if TYPE_CHECKING:
    from impetusd.core.config.model import Unit
    from impetusd.supervisor.slots.registry import Slots
    from impetusd.supervisor.start.link import Outbox

LINES = 40  # of the last words of a process that failed


class Versions:
    """The reload under way in each unit, or the last one, and what that means for each slot."""

    def __init__(self, slots: Slots, outbox: Outbox) -> None:
        self._slots = slots
        self._outbox = outbox
        self.of: dict[str, Reload] = {}  # by unit
        self.cut: dict[str, int] = {}  # by unit: requests that its leaving workers cut off since its last reload began
        slots.forgotten = self.forget

    def load(self, blobs: Mapping[str, str]) -> None:
        """Restore the previous supervisor's state."""
        for key, text in blobs.items():
            if key.startswith("reload:"):
                name = key.partition(":")[2]
                self._slots.faults.contain(name, "reading the state of its reload", self._load, name, text)

    def _load(self, name: str, text: str) -> None:
        self.of[name] = core.load(text)

    def keep(self, unit: Unit, reload: Reload) -> None:
        """This is how its reload stands now."""
        self.of[unit.name] = reload
        self._outbox.put(f"reload:{unit.name}", core.dump(reload))

    def forget(self, unit: Unit) -> None:
        """The unit is gone, or its last reload no longer matters."""
        if self.of.pop(unit.name, None) is not None:
            self._outbox.put(f"reload:{unit.name}", None)

    def last(self, unit: Unit) -> Reload | None:
        """The reload under way, or the one before."""
        return self.of.get(unit.name)

    def active(self, unit: Unit) -> Reload | None:
        """The reload under way."""
        reload = self.of.get(unit.name)
        return reload if reload is not None and reload.phase not in core.OVER else None

    def unfinished(self) -> set[str]:
        """The units of which old processes run, or may run again."""
        return {name for name, reload in self.of.items() if reload.phase is not Phase.DONE}

    def generation(self, entry: Entry) -> int:
        """The generation of a process that starts in this slot now."""
        present, reload = self._slots.facts.generation(entry.unit), self.active(entry.unit)
        if reload is None or reload.phase is Phase.BACK:
            return present
        new = (
            entry.role in {Role.NEXT, Role.NEXT_TEMPLATE}
            or entry.rec.generation == reload.generation
            or (entry.role is Role.STANDBY and reload.phase in {Phase.PARKING, Phase.ENDING})
        )
        return reload.generation if new else present

    def parent(self, entry: Entry) -> Entry | None:
        """The template that a worker in this slot is forked from; None when it is executed."""
        unit, entries = entry.unit, self._slots.entries
        if not entry.works:
            return None
        reload = self.active(unit)
        if reload is not None and self.generation(entry) == reload.generation:
            if not forks(unit, reload):
                return None
            following = entries.get(slot_name(unit, Role.NEXT_TEMPLATE, 0))
            if following is not None:
                return following
        return entries[slot_name(unit, Role.TEMPLATE, 0)] if self._slots.facts.preloads(unit) else None

    def puts_away(self, entry: Entry) -> bool:
        """Whether it is a template that will end for good: a start of the unit does not include it."""
        reload = self.active(entry.unit)
        return entry.role is Role.TEMPLATE and reload is not None and reload.phase is Phase.ENDING

    # Facts about a version, found as it comes up, and as the one before leaves.

    def cut_off(self, unit: Unit, count: int) -> None:
        """A worker that leaves could not answer so many requests in the time that it has."""
        self.cut[unit.name] = self.cut.get(unit.name, 0) + count

    def last_words(self, entry: Entry, lines: Iterable[str]) -> None:
        """Keep the last output of a process that has ended, if its reload has failed because of it."""
        reload = self.last(entry.unit)
        if reload is not None and not reload.lines and reload.failed.facts.get("slot") == entry.name:
            self.keep(entry.unit, replace(reload, lines=tuple(lines)[-LINES:]))

    def starts_threads(self, entry: Entry) -> None:
        """The next version starts threads at import, which no fork survives: its workers are executed."""
        reload = self.active(entry.unit)
        if reload is not None:
            self.keep(entry.unit, replace(reload, afresh=True))


def forks(unit: Unit, reload: Reload) -> bool:
    """Whether the workers of the next version are forked."""
    return unit.preload and not reload.afresh
