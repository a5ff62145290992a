"""The control method `reload`, and what `restart --rolling` has in common with it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from impetusd.core.config.model import Unit
from impetusd.core.protocol import EXIT_FAILED, EXIT_USAGE, FAILED, ProtocolError
from impetusd.core.reasons import Reason, because
from impetusd.core.rules import reload as core
from impetusd.core.rules.lifecycle import State, Want
from impetusd.supervisor.api.accounts import account
from impetusd.supervisor.api.names import Names
from impetusd.supervisor.api.rows import Rows
from impetusd.supervisor.slots.engine import Engine
from impetusd.supervisor.slots.entry import PASSING, SERVING, Entry

RELOAD = because("reload")


class Reloading:
    """Begins reloads, or what there is instead of one, and answers when they are over."""

    def __init__(self, engine: Engine, rows: Rows, names: Names) -> None:
        self._engine = engine
        self._rows = rows
        self._names = names

    def whole(self, entries: Iterable[Entry]) -> dict[str, Unit]:
        """The units that can be reloaded and of which every serving slot is among `entries`."""
        given = {entry.name for entry in entries}
        units = {entry.unit.name: entry.unit for entry in entries if core.overlaps(entry.unit)}
        return {name: unit for name, unit in units.items() if all(e.name in given for e in self._serving(unit))}

    async def reload(self, params: dict[str, Any]) -> dict[str, Any]:
        """The control method. A client that lost the supervisor over it asks again with the same token."""
        units = self._units(params["names"])
        if params["cancel"]:
            return await self._cancel(units)
        token = params["token"]
        known = {unit.name for unit in units if token and self._token(unit) == token}
        for unit in units:
            if unit.name not in known:
                self._refuse(unit, params)
        how = {}
        with self._engine.rounds.at_once():
            for unit in units:
                if unit.name in known:
                    how[unit.name] = "reload" if core.overlaps(unit) else "restart"
                else:
                    how[unit.name] = self._begin(unit, params)
        return await self.over(units, how)

    def roll(self, units: Iterable[Unit], reason: Reason) -> dict[str, str]:
        """Reload those that are not being reloaded already."""
        with self._engine.rounds.at_once():
            for unit in units:
                self._refuse(unit, {"canaries": 0, "watch": None})
            return {unit.name: self._begin(unit, {"canaries": 0, "watch": None, "token": ""}, reason) for unit in units}

    async def over(self, units: list[Unit], how: dict[str, str]) -> dict[str, Any]:
        """The answer, when each has come to its end."""
        engine = self._engine
        await engine.waits.until(lambda: all(self._is_over(unit) for unit in units))
        told = [account(engine, unit, how[unit.name]) for unit in units]
        entries = [entry for unit in units for entry in engine.slots.of_unit(unit) if entry.role not in PASSING]
        return {"ok": all(each["ok"] for each in told), "reloads": told, "units": self._rows.of(entries)}

    def _units(self, names: list[str]) -> list[Unit]:
        entries = self._names.lasting(names)
        given = {entry.name for entry in entries}
        units = list({entry.unit.name: entry.unit for entry in entries}.values())
        for unit in units:
            if not all(entry.name in given for entry in self._serving(unit)):
                one = next(entry for entry in entries if entry.unit is unit)
                raise ProtocolError(
                    FAILED,
                    f"{one.name} is one slot of {unit.name}, but only a whole unit can be reloaded; reload {unit.name}",
                    EXIT_USAGE,
                )
        return units

    def _serving(self, unit: Unit) -> list[Entry]:
        return [entry for entry in self._engine.slots.of_unit(unit) if entry.role in SERVING and not entry.dismissed]

    def _token(self, unit: Unit) -> str:
        reload = self._engine.versions.last(unit)
        return reload.token if reload is not None else ""

    def _refuse(self, unit: Unit, params: dict[str, Any]) -> None:
        reload = self._engine.versions.active(unit)
        if reload is not None:
            raise ProtocolError(
                FAILED,
                f"{unit.name} is already being reloaded ({reload.phase.value}); nothing was changed. "
                f"Wait for it, or cancel it: impetusd reload --cancel {unit.name}",
                EXIT_FAILED,
            )
        if (params["canaries"] or params["watch"] is not None) and not core.overlaps(unit):
            raise ProtocolError(
                FAILED, f"{unit.name} can only be restarted: {core.why_not(unit)}; nothing was changed", EXIT_USAGE
            )

    def _begin(self, unit: Unit, params: dict[str, Any], reason: Reason = RELOAD) -> str:
        engine = self._engine
        entries = [entry for entry in engine.slots.of_unit(unit) if entry.role not in PASSING and not entry.dismissed]
        if not any(entry.slot.state is State.RUNNING for entry in self._serving(unit)):
            engine.reloads.note(unit, "start", params["token"])
            for entry in entries:
                entry.rec.stopped = False
            engine.restart([entry for entry in entries if entry.slot.want is Want.UP])
            engine.start(self._names.with_needs(entries))
            return "start"
        if core.overlaps(unit):
            engine.reloads.begin(
                unit,
                reason,
                asked=True,
                canaries=params["canaries"],
                watch=params["watch"],
                token=params["token"],
            )
            return "reload"
        engine.reloads.note(unit, "restart", params["token"])
        taken = engine.roll(entries, RELOAD)
        engine.start([entry for entry in self._names.with_needs(entries) if entry not in taken])
        return "restart"

    async def _cancel(self, units: list[Unit]) -> dict[str, Any]:
        for unit in units:
            if self._engine.versions.active(unit) is None:
                raise ProtocolError(FAILED, f"{unit.name} is not being reloaded", EXIT_FAILED)
        for unit in units:
            if not self._engine.reloads.cancel(unit, because("cancelled")):
                raise ProtocolError(
                    FAILED, f"{unit.name} already runs the new version; it can no longer be rolled back", EXIT_FAILED
                )
        self._engine.rounds.wake()
        answer = await self.over(units, dict.fromkeys((unit.name for unit in units), "cancel"))
        return {**answer, "ok": not any(reload["stuck"] for reload in answer["reloads"])}

    def _is_over(self, unit: Unit) -> bool:
        entries = self._engine.slots.of_unit(unit)
        settled = all(self._engine.waits.settled(entry) for entry in entries if entry.role not in PASSING)
        return settled and self._engine.versions.active(unit) is None and not any(entry.tail_due for entry in entries)
