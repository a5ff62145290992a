"""How the daemon and what it runs stand: the answers to `status` and `describe`, and what needs attention."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Collection, Mapping
from typing import Any

from impetusd.core.reasons import Reason, because
from impetusd.core.rules import quarantine
from impetusd.supervisor.api.names import Names
from impetusd.supervisor.api.rows import Rows
from impetusd.supervisor.slots.engine import Engine


class Status:
    """The methods that ask and change nothing, but for those with a subject of their own."""

    def __init__(
        self,
        engine: Engine,
        names: Names,
        rows: Rows,
        who: Mapping[str, Any],
        *,
        attention: Callable[[], list[tuple[str, Reason]]],
        troubles: Callable[[], list[Reason]],
        behind: Callable[[], list[str]],
        held: Callable[[], dict[str, Any] | None],
        more: Callable[[], dict[str, Any]] = dict,
    ) -> None:
        """`who`: what is the same for as long as the supervisor lives, in each answer of `ping` and `status`.

        `attention` gives (unit, what to say) that `status` is to show, `troubles` those of impetusd itself; `behind` units
        where a change of the configuration has not taken effect. `held`: why nothing is started at all, see
        `quarantine.facts`. `more`: what `status` says besides.
        """
        self._engine = engine
        self._names = names
        self._rows = rows
        self._given = who
        self._attention = attention
        self._troubles = troubles
        self._behind = behind
        self._held = held
        self._more = more

    def ping(self, _: dict[str, Any]) -> dict[str, Any]:
        """The control method."""
        return {**self._who(), "ready": True}

    def status(self, params: dict[str, Any]) -> dict[str, Any]:
        """The control method."""
        names = params["names"]
        entries = self._names.find(names) if names else self._rows.shown()
        groups = {group.name: group.members for group in self._names.groups.values()}
        answer = {**self._who(), **self._more(), "units": self._rows.of(entries), "groups": groups}
        return {**answer, **self.attention({entry.unit.name for entry in entries} if names else None)}

    def attention(self, units: Collection[str] | None = None) -> dict[str, Any]:
        """What needs attention, apart from slots: of these units (None: all), and of impetusd itself."""
        troubles, held = self._troubles(), self._held()
        told = [*(said for unit, said in self._attention() if units is None or unit in units), *troubles]
        if held is not None:
            out = quarantine.way_out(quarantine.HOLD_ONLY)
            told.insert(0, because("way_out", cause=quarantine.reason(held), what=out))
        notices = [{**reason.shown(), "own": at >= len(told) - len(troubles)} for at, reason in enumerate(told)]
        attention = [notice["text"] for notice in notices]
        own = [notice["text"] for notice in notices if notice["own"]]
        return {"attention": attention, "troubles": own, "notices": notices, "held": held}

    def state(self) -> dict[str, dict[str, Any]]:
        """The one row for `watch` of state that belongs to no unit."""
        return {"": {**self._who(), **self._more(), **self.attention()}}

    def describe(self, params: dict[str, Any]) -> dict[str, Any]:
        """The control method."""
        name = params["name"]
        groups = [group for group in self._names.groups.values() if fnmatch.fnmatchcase(group.name, name)]
        return {
            "units": [self._rows.details(entry) for entry in self._names.find([name])],
            "groups": [{"name": each.name, "members": each.members, "where": each.where} for each in groups],
            "profile": self._given["profile"],
        }

    def places(self, params: dict[str, Any]) -> dict[str, Any]:
        """The control method."""
        units = self._engine.slots.units
        found = [units[name] for name in params["names"] if name in units]
        return {"units": {each.name: {"where": each.where, "needs": list(each.depends_on)} for each in found}}

    def _who(self) -> dict[str, Any]:
        return {**self._given, "behind": self._behind()}
