"""Bring the running processes in line with an applied configuration.

The supervisor that comes up with the new configuration begins it; whichever is there goes on with it. Its `state` is the
record of the change in the shim: `changes` as the plan has them, `pids` of what is replaced one after another, `done`, `ok`.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from impetusd.core.config.model import Unit
from impetusd.core.reasons import because
from impetusd.core.rules.lifecycle import IDLE, State, Want
from impetusd.core.rules.plan import Effect
from impetusd.core.rules.reload import overlaps
from impetusd.supervisor.api.accounts import account
from impetusd.supervisor.api.commands import is_stuck
from impetusd.supervisor.slots.entry import ONE_SHOT, PASSING, Entry, Role

if TYPE_CHECKING:
    from impetusd.supervisor.api.behind import Behind
    from impetusd.supervisor.slots.engine import Engine
    from impetusd.supervisor.start.starter import Starter

# What the shim remembers it under, and the configuration that it replaces.
APPLY, BEFORE = "apply", "config:before"
SLACK = 10.0  # seconds beyond what a slot's own keys allow


class Changeover:
    """The change under way."""

    def __init__(
        self,
        engine: Engine,
        starter: Starter,
        behind: Behind,
        *,
        needed: Callable[[list[Entry]], list[Entry]],
        rows: Callable[[list[Entry]], Iterable[dict[str, Any]]],
        record: Callable[..., None],
    ) -> None:
        """`needed`, `rows`, `record`: as for `Applying`."""
        self._engine = engine
        self._starter = starter
        self._behind = behind
        self._needed = needed
        self._rows = rows
        self._record = record

    def begin(self, state: dict[str, Any]) -> None:
        """Replace processes where the plan says so, and start new units."""

        def lasting(unit: Unit) -> list[Entry]:
            return [entry for entry in engine.slots.of_unit(unit) if not entry.dismissed and entry.role not in PASSING]

        engine, afresh, new, reloaded = self._engine, [], [], set()
        for change in state["changes"]:
            unit = engine.slots.units.get(change["name"])
            if unit is None or change["kind"] not in {"pool", "program"}:
                continue
            entries = lasting(unit)
            if change["effect"] == Effect.ADDED.value:
                new += entries if unit.autostart else []
            elif change["effect"] in {Effect.RELOAD.value, Effect.RESTART.value}:
                if change["effect"] == Effect.RELOAD.value and any(e.slot.state is State.RUNNING for e in entries):
                    reloaded.add(unit.name)
                    engine.reloads.begin(unit, because("new_configuration"), asked=True)
                    continue
                if change["effect"] == Effect.RESTART.value:
                    self._starter.listeners.drop_former(unit)
                # Not one after another where one of the new would meet what the old ones have.
                moved = any(key["key"] == "listen" for key in change["keys"])
                gently = change["kind"] == "program" and not overlaps(unit) and not moved
                afresh += [(gently, entry) for entry in entries if entry.slot.want is Want.UP]
        rolled = [entry for gently, entry in afresh if gently and entry.slot.state is State.RUNNING]
        ended = [entry for _, entry in afresh if entry not in rolled]
        state["pids"] = {entry.name: entry.slot.pid for entry in rolled}
        engine.roll(rolled, because("new_configuration"))
        engine.restart(ended)
        for unit in engine.slots.units.values():  # more instances, or parked workers, of what runs
            entries = lasting(unit)
            if any(entry.slot.want is Want.UP for entry in entries):
                # It has no record: it is new. What a reload brings is not to be started of the files now.
                new += [
                    e
                    for e in entries
                    if e.slot.since == 0.0 and not (e.role is Role.TEMPLATE and unit.name in reloaded)
                ]
        engine.start([entry for entry in self._needed(new) if entry.slot.want is Want.DOWN])

    async def finish(self, state: dict[str, Any]) -> None:
        """Wait for its end, and note in `state` how it went."""
        await self._wait(state)
        given_up = {
            entry.name: entry for entry in (*self.awaited(state), *self._dismissed()) if entry.slot.state not in IDLE
        }
        state["unfinished"] = list(map(self._engine.slots.shown, given_up.values()))
        kept = [e for e in self._touched(state) if e.slot.pid is not None and state["pids"].get(e.name) == e.slot.pid]
        reloaded = [change["name"] for change in state["changes"] if change["effect"] == Effect.RELOAD.value]
        reloads = [
            account(self._engine, self._engine.slots.units[name])
            for name in reloaded
            if name in self._engine.slots.units
        ]
        failed = [f"{each['name']} was not changed: {each['reason']}" for each in reloads if each["reason"]]
        down = [
            e
            for e in self._touched(state)
            if e.slot.want is Want.UP and e.slot.state not in {State.RUNNING, State.EXITED} and e.role not in ONE_SHOT
        ]
        state["done"], state["reloads"] = True, reloads
        state["ok"] = not (kept or down or failed or given_up)
        self._starter.outbox.put(APPLY, json.dumps(state))
        self._starter.outbox.put(BEFORE, None)
        self._behind.tidy()
        self._engine.reloads.drop_listeners()
        told = {entry.name: entry for entry in (*kept, *given_up.values())}.values()
        reasons = (f"{entry.name} is {entry.slot.state.name}: {self._engine.waits.reason(entry)}" for entry in told)
        reason = "; ".join([*failed, *reasons])
        self._record("config", what="applied", changes=state["changes"], ok=state["ok"], reason=reason)
        self._engine.rounds.wake()

    async def _wait(self, state: dict[str, Any]) -> None:
        """Return once nothing is awaited, or no awaited slot has changed for as long as its own keys allow."""

        def seen() -> list[tuple[str, State, int | None]]:
            return [(entry.name, entry.slot.state, entry.slot.pid) for entry in self.awaited(state)]

        def changed_since(before: list[tuple[str, State, int | None]]) -> Callable[[], bool]:
            return lambda: seen() != before

        while awaited := self.awaited(state):
            try:
                async with asyncio.timeout(self.patience(awaited)):
                    await self._engine.waits.until(changed_since(seen()))
            except TimeoutError:
                return

    def awaited(self, state: dict[str, Any]) -> list[Entry]:
        """The slots to stop for good and those to wait for. A job runs at its time and is not waited for."""
        leaving = [entry for entry in self._dismissed() if not is_stuck(entry)]
        return leaving + [
            entry
            for entry in self._touched(state)
            if (entry.role not in ONE_SHOT and not self._engine.waits.settled(entry))
            or self._engine.versions.active(entry.unit)
        ]

    def _dismissed(self) -> list[Entry]:
        return [entry for entry in self._engine.slots.entries.values() if entry.dismissed]

    def _touched(self, state: dict[str, Any]) -> list[Entry]:
        names = {change["name"] for change in state["changes"] if change["effect"] != Effect.LIVE.value}
        return [
            entry for entry in self._engine.slots.entries.values() if entry.unit.name in names and not entry.dismissed
        ]

    def answer(self, state: dict[str, Any]) -> dict[str, Any]:
        """What the control method `apply` returns."""
        touched = [entry for entry in self._touched(state) if entry.role not in {Role.JOB, Role.CHECK}]
        return {
            "ok": state["ok"],
            "changes": state["changes"],
            "units": self._rows(touched),
            "reloads": state["reloads"],
            "moved": state.get("moved", ""),
            "unfinished": [*self._rows(self._unfinished(state))],
        }

    def _unfinished(self, state: dict[str, Any]) -> list[Entry]:
        """Slots that it stopped waiting for and that have still not ended."""
        names = state.get("unfinished", ())
        return [
            e
            for e in self._engine.slots.entries.values()
            if self._engine.slots.shown(e) in names and e.slot.state not in IDLE
        ]

    def patience(self, awaited: list[Entry]) -> float | None:
        """Seconds within which one of them should change its state; None while a oneshot without listen_timeout runs."""

        def due(entry: Entry) -> float:
            policy, slot = entry.policy, entry.slot
            keys = (policy.kill_timeout, policy.listen_timeout, policy.min_uptime, entry.unit.reload_watch)
            return max(*keys, (slot.deadline or 0.0) - time.monotonic())

        slots = [entry.slot for entry in self._engine.slots.entries.values()]
        if any(slot.state is State.STARTING and slot.pid is not None and slot.deadline is None for slot in slots):
            return None
        return SLACK + max(map(due, awaited))
