"""The state of a unit besides its slots: its generation, the number of serving slots, and its env_files.

It is one record a unit in the shim, which is sent with those of the slots in the same message.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any

from impetusd.core.config.model import Kind
from impetusd.supervisor.slots import record

if TYPE_CHECKING:
    from impetusd.core.config.model import Unit
    from impetusd.supervisor.faults import Faults
    from impetusd.supervisor.slots.entry import Entry
    from impetusd.supervisor.start.link import Outbox


class Facts:
    """By unit."""

    def __init__(self, outbox: Outbox, faults: Faults) -> None:
        self._outbox = outbox
        self._faults = faults
        self.of: dict[str, dict[str, Any]] = {}
        self._last: dict[str, Any] = {}

    def know(self, unit: Unit, blobs: Mapping[str, str]) -> None:
        """Begin with what the supervisor before us has kept in `blobs`."""
        self.of[unit.name] = {"instances": unit.instances}
        text = blobs.get(f"unit:{unit.name}")
        if text:
            self._faults.contain(unit.name, "reading its saved state", self._load, unit, text)

    def _load(self, unit: Unit, text: str) -> None:
        self.of[unit.name] = self._shared(record.load_facts(text))

    def _shared(self, facts: dict[str, Any]) -> dict[str, Any]:
        """The same as what was stored last if it is equal, as for units that are started together: 0.2 kB each."""
        if facts != self._last:
            self._last = facts
        return self._last

    def instances(self, unit: Unit) -> int:
        """How many serving slots the unit has now."""
        return int(self.of[unit.name]["instances"])

    def started_with(self, entry: Entry, digest: str, present: Collection[str]) -> None:
        """The process that begins in this slot was given the values of its env_files of this digest; "" without any.

        Those of slots that are not `present` any more are forgotten.
        """
        known: dict[str, str] = self.of[entry.unit.name].get("env_files", {})
        if known.get(entry.name, "") != digest:
            rest = {name: each for name, each in known.items() if name in present and name != entry.name}
            self.note(entry.unit, env_files={**rest, entry.name: digest})

    def started_as(self, entry: Entry) -> str:
        """That digest; "" if unknown."""
        return str(self.of[entry.unit.name].get("env_files", {}).get(entry.name, ""))

    def was_scaled(self, unit: Unit, token: str) -> bool:
        """Whether its last `scale` was requested with this token."""
        return bool(self.of[unit.name].get("scaled") == token)

    def generation(self, unit: Unit) -> int:
        """How often the unit has been started by command."""
        return int(self.of[unit.name].get("generation", 0))

    def preloads(self, unit: Unit) -> bool:
        """Whether the unit's workers are forked from a template."""
        return unit.kind is Kind.POOL and unit.preload and not self.of[unit.name].get("afresh")

    def commit(self, unit: Unit, generation: int, *, afresh: bool) -> None:
        """From now on the unit is of this generation."""
        self.note(unit, generation=generation, afresh=afresh)

    def runs_afresh(self, unit: Unit) -> bool:
        """Whether its template has ended because the application starts threads at import."""
        return bool(self.of[unit.name].get("afresh"))

    def note(self, unit: Unit, **facts: Any) -> None:
        """Store this state of a unit."""
        after = {**self.of[unit.name], **facts}
        self._outbox.put(f"unit:{unit.name}", record.dump_facts(after))
        self.of[unit.name] = self._shared(after)

    def expect(self, unit: Unit, instances: int) -> None:
        """Store the requested number of serving slots for the next supervisor."""
        self.note(unit, instances=instances)
