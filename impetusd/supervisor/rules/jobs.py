"""One-shot processes, run to their end: the commands of health checks. A timer's job is driven by its timer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from impetusd.core.config.model import Unit
from impetusd.core.reasons import because, not_started
from impetusd.core.rules.lifecycle import IDLE
from impetusd.core.rules.policy import Exit
from impetusd.supervisor.slots.engine import Engine
from impetusd.supervisor.slots.entry import Entry


class Jobs:
    """Starts and stops the slots of one-shot processes."""

    def __init__(self, engine: Engine, ending: Callable[[], bool]) -> None:
        """`ending`: everything is being stopped for good, and nothing is started any more."""
        self._engine = engine
        self._ending = ending

    def slots(self, unit: Unit) -> list[Entry]:
        """The slot of the process; none when it is switched off."""
        return self._engine.slots.of_unit(unit)

    def start(self, unit: Unit) -> None:
        """Run it, once."""
        if not self._ending():
            self._engine.start(self.slots(unit))

    def stop(self, unit: Unit) -> None:
        """End it, as the unit's stopping keys say."""
        self._engine.stop(self.slots(unit))

    async def run(self, unit: Unit) -> tuple[Exit, Sequence[str]]:
        """Run it to its end: how that was, and the last lines of its stderr. Cancelled, it ends the process first."""
        (entry,) = self.slots(unit)
        self.start(unit)
        try:
            await self._engine.waits.until(lambda: entry.slot.state in IDLE and not entry.tail_due)
        except asyncio.CancelledError:
            self.stop(unit)
            await self._engine.waits.until(lambda: entry.slot.state in IDLE)
            raise
        return entry.slot.last_exit or Exit(failed=not_started("start", because("shutting_down"))), entry.rec.tail
