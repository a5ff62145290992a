"""Quarantine of units that crashed the supervisor: decided at startup and reported once; see
`core.rules.quarantine`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from impetusd.core.rules import quarantine
from impetusd.linux.priority import ERROR

if TYPE_CHECKING:
    from impetusd.supervisor.disk.ledger import Ledger
    from impetusd.supervisor.logs.writer import Writer
    from impetusd.supervisor.slots.registry import Slots
    from impetusd.supervisor.start.link import Outbox


class Holding:
    """Slots that are in quarantine, or all of the instance."""

    def __init__(self, slots: Slots, outbox: Outbox, ledger: Ledger, writer: Writer) -> None:
        self._slots = slots
        self._outbox = outbox
        self._ledger = ledger
        self._writer = writer
        self._before = slots.held

    def judge(self, blobs: Mapping[str, str]) -> None:
        """Decide what to hold, from what the shim remembers."""
        noted = quarantine.ends_of(blobs.get(quarantine.ENDS, "[]"))
        if quarantine.HELD in blobs:
            self._slots.faults.contain("impetusd", "reading quarantine records", self._load, blobs[quarantine.HELD])
        self._before = self._slots.held
        self._slots.held, rest = quarantine.judge([end for end, _ in noted], self._before)
        if self._slots.held != self._before:
            self._outbox.put(quarantine.HELD, quarantine.dump(self._slots.held))
        if len(rest) != len(noted):
            self._outbox.put(quarantine.ENDS, json.dumps([each for end, each in noted if end in rest]))

    def _load(self, text: str) -> None:
        self._slots.held = quarantine.load(text)

    def report(self) -> None:
        """What is held from now on, once."""
        held, before = self._slots.held, self._before
        for name, cause in held.slots.items():
            if name not in before.slots:
                why = quarantine.reason(quarantine.facts(quarantine.QUARANTINED, cause))
                out = quarantine.way_out(quarantine.QUARANTINED, name)
                self._writer.line(f"{name}: {why}; it is not supervised until it is stopped: {out}", ERROR)
                self._ledger.add("hold", unit=name.partition(":")[0], slot=name, what="quarantined", reason=why)
        if held.whole is not None and before.whole is None:
            why = quarantine.reason(quarantine.facts(quarantine.HOLD_ONLY, held.whole))
            self._writer.line(f"supervisor: {why}; run: {quarantine.way_out(quarantine.HOLD_ONLY)}", ERROR)
            self._ledger.add("hold", what="hold-only", reason=why)

    def whole(self) -> dict[str, Any] | None:
        """Why the whole instance is held, as `status` shows it; None if it is not."""
        cause = self._slots.held.whole
        return None if cause is None else quarantine.facts(quarantine.HOLD_ONLY, cause)
