"""Conditions of a slot at any moment, and commands that wait for one."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from impetusd.core.reasons import NONE, Reason, because
from impetusd.core.rules import quarantine, waits
from impetusd.core.rules.lifecycle import Slot, State
from impetusd.supervisor.slots.entry import Entry, Role

if TYPE_CHECKING:
    from impetusd.supervisor.slots.registry import Slots
    from impetusd.supervisor.slots.versions import Versions

SPARING = 10  # times what looking at the conditions of `until` takes, until they are looked at again


class Waits:
    """A waiter for a condition; checked after each round, or a little later."""

    def __init__(self, slots: Slots, versions: Versions) -> None:
        self._slots = slots
        self._versions = versions
        self._loop = asyncio.get_running_loop()
        self._watchers: dict[asyncio.Future[None], Callable[[], bool]] = {}
        self._looking: asyncio.TimerHandle | None = None
        self._look_at = 0.0

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait until `condition` holds; it is looked at again after each change, or a little later: see SPARING."""
        while not condition():
            met = self._loop.create_future()
            self._watchers[met] = condition
            try:
                await met
            finally:
                del self._watchers[met]

    def look_soon(self) -> None:
        """After a round."""
        if self._watchers and self._looking is None:
            attempt = self._slots.faults.attempt  # nobody asks for it again before it is done
            self._looking = self._loop.call_at(
                self._look_at, attempt, "the engine", "ending waits that are over", self._look
            )

    def _look(self) -> None:
        """Wake those whose conditions hold. Of 500 slots one may ask for all and 500 for one each, at each change."""
        self._looking = None
        began = time.thread_time()
        for met, condition in self._watchers.items():
            if met.done():
                continue
            try:
                if condition():
                    met.set_result(None)
            except Exception as error:  # waiters must be notified
                met.set_exception(error)
        self._look_at = time.monotonic() + SPARING * (time.thread_time() - began)

    def settled(self, entry: Entry) -> bool:
        """Whether waiting longer for this slot to come up is pointless: it is up, or it will not be soon."""
        slot = entry.slot
        if self._slots.holds(entry):
            return True
        if entry.tail_due or entry.rec.due or entry.role is Role.LEAVING:
            return False
        if slot.state is State.STARTING and slot.pid is None and entry.waits is not None:
            return self._hopeless(entry)
        return waits.is_settled(entry.policy, slot, time.monotonic())

    def _hopeless(self, entry: Entry) -> bool:
        """It waits for something that is settled and not up."""
        slots, names = self._slots, entry.unit.depends_on if entry.rec.gated else ()
        needs = [need for name in names for need in slots.of_unit(slots.units[name])]
        template = self._versions.parent(entry)
        needs += [template] if template is not None else []
        return any(self.settled(need) and not need.is_up for need in needs)

    def reason(self, entry: Entry, slot: Slot | None = None) -> Reason:
        """The reason for the slot's state, or its former state `slot`; NONE if there is none."""
        if slot is not None and slot is not entry.slot:
            return waits.reason(entry.policy, slot, time.monotonic())
        slot, slots = entry.slot, self._slots
        if (why := slots.held_because(entry)) and slot.state is not State.STOPPING:
            return quarantine.reason(why)
        if slots.held.whole is not None and slot.state is State.BACKOFF:
            return because("not_while_held", end=slot.last_exit.reason if slot.last_exit is not None else NONE)
        if entry.rec.due:
            return because("waits_for_turn", due=entry.rec.due)
        if entry.waits is not None and slot.state is State.STARTING:
            return entry.waits()
        if entry.role is Role.TEMPLATE and slot.state is State.STOPPED and slots.facts.runs_afresh(entry.unit):
            return because("threads")
        return waits.reason(entry.policy, slot, time.monotonic())
