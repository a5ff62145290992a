"""The order to stop everything, and its outcome: by SIGTERM, by a command, or because a critical unit has failed.

What is let go of after that is `daemon`'s.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from impetusd.core.protocol import EXIT_CRITICAL
from impetusd.core.reasons import Reason, because
from impetusd.core.rules.lifecycle import State, Want

if TYPE_CHECKING:
    from impetusd.supervisor.api.commands import Commands
    from impetusd.supervisor.observers import Change
    from impetusd.supervisor.slots.engine import Engine
    from impetusd.supervisor.slots.entry import Entry
    from impetusd.supervisor.start.link import Link, Outbox


class Ending:
    """`done` is set when everything has been stopped; `code` is the exit status for that."""

    def __init__(self, engine: Engine, outbox: Outbox, link: Link, done: asyncio.Event) -> None:
        self._engine = engine
        self._outbox = outbox
        self._link = link
        self._task: asyncio.Task[None] | None = None
        self.commands: Commands  # made next
        self._done = done
        self.code = 0

    @property
    def has_begun(self) -> bool:
        """Whether everything is being stopped, or is already."""
        return self._task is not None or self._done.is_set()

    def resume(self) -> bool:
        """Go on stopping where the supervisor before us was, for which `exit` and `shutdown` were kept. False if it was not."""
        blobs = self._link.blobs
        self.code = int(blobs.get("exit", "0"))
        if not self._link.shutdown and "shutdown" not in blobs:
            return False
        self.stop_everything()
        return True

    def changed(self, change: Change) -> None:
        """A slot has changed: the daemon ends with a critical unit."""
        if change.after.state is State.FATAL and change.entry.unit.critical:
            self._give_up(change.entry)

    def look(self) -> None:
        """See whether one has failed already: it may be critical only from now on."""
        for entry in self._engine.slots.entries.values():
            given_up = entry.slot.state is State.FATAL and entry.slot.want is Want.UP
            if given_up and entry.unit.critical and not self._engine.slots.holds(entry):
                self._give_up(entry)

    def _give_up(self, entry: Entry) -> None:
        """The exit status reports it to the daemon's parent."""
        if not (self.code or self.commands.ending or self._link.shutdown):
            self.code = EXIT_CRITICAL
            self._outbox.put("shutdown", "yes")
            self._outbox.put("exit", str(EXIT_CRITICAL))
            why = because("critical", name=entry.name)
            asyncio.get_running_loop().call_soon(
                self._engine.faults.attempt, entry.name, "stopping everything because of it", self.stop_everything, why
            )

    def stop_everything(self, why: Reason | None = None) -> None:
        """In order of dependence; nothing is started any more."""
        if self._task is None:
            self.commands.begin_shutdown(why or because("signalled"))
            self._task = asyncio.create_task(self._stop())
            self._task.add_done_callback(self._has_stopped)

    async def _stop(self) -> None:
        await self.commands.stop_in_order(list(self._engine.slots.entries.values()))
        self._done.set()

    def _has_stopped(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            raise error  # nobody's: the next supervisor begins the end anew
