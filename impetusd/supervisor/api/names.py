"""Which slots a command means: what its names stand for, and what must run for those to run."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Mapping

from impetusd.core.config.model import Group
from impetusd.core.protocol import EXIT_FAILED, EXIT_UNKNOWN_NAME, EXIT_USAGE, FAILED, ProtocolError, is_pattern
from impetusd.core.rules.lifecycle import State
from impetusd.supervisor.slots.engine import Engine
from impetusd.supervisor.slots.entry import ONE_SHOT, Entry, Role

MOST_LISTED = 50  # units listed for an unknown name


class Names:
    """The names of units, slots and groups."""

    def __init__(self, engine: Engine, groups: Mapping[str, Group]) -> None:
        self._engine = engine
        self.groups = groups

    def find(self, patterns: Iterable[str]) -> list[Entry]:
        """The slots that `patterns` name: units, slots, groups, or globs over them. ProtocolError for an unknown one."""
        found: dict[str, Entry] = {}
        known = self._known()
        for pattern in patterns:
            matching = fnmatch.filter(known, pattern) if is_pattern(pattern) else [pattern]
            named = [entry for name in matching for entry in known.get(name, ())]
            if not named and pattern not in self._engine.slots.units and pattern not in self.groups:
                raise ProtocolError(FAILED, f"no unit '{pattern}'{self._near(pattern)}", EXIT_UNKNOWN_NAME)
            if not named:
                raise ProtocolError(FAILED, disabled(pattern), EXIT_FAILED)
            found.update({entry.name: entry for entry in named})
        return [entry for entry in self._engine.slots.entries.values() if entry.name in found]

    def lasting(self, names: list[str]) -> list[Entry]:
        """The slots named, without those of one-shot processes: a timer's is started by its timer."""
        found = self.find(names)
        lasting = [entry for entry in found if entry.role not in ONE_SHOT]
        if found and not lasting:
            name = found[0].unit.name
            what = f"a timer; to run it now: impetusd trigger {name}"
            if found[0].role is Role.CHECK:
                what = "a health check, whose command runs on its own; impetusd health shows the result"
            raise ProtocolError(FAILED, f"{name} is {what}", EXIT_USAGE)
        return lasting

    def autostarted(self) -> list[Entry]:
        """The slots of each unit that starts with the daemon."""
        return [entry for entry in self._engine.slots.entries.values() if entry.unit.autostart and not is_done(entry)]

    def with_needs(self, entries: list[Entry]) -> list[Entry]:
        """Those, the units that they depend on, and their templates: what has to run for them to run."""
        units = self._engine.slots.units
        wanted = {entry.name for entry in entries}
        needed: set[str] = set()
        queue = [name for entry in entries for name in entry.unit.depends_on]
        while queue:
            name = queue.pop()
            if name not in needed and units[name].enabled:
                needed.add(name)
                queue += units[name].depends_on
        pools = {entry.unit.name for entry in entries}
        return [
            entry
            for entry in self._engine.slots.entries.values()
            if entry.name in wanted
            or (entry.unit.name in needed and not is_done(entry))
            or (
                entry.role is Role.TEMPLATE
                and entry.unit.name in pools
                and self._engine.slots.facts.preloads(entry.unit)
            )
        ]

    def _known(self) -> dict[str, list[Entry]]:
        """The slots that each name stands for: a unit, a slot (by its own or its displayed name), or a group."""
        known: dict[str, list[Entry]] = {}
        of_unit: dict[str, list[Entry]] = {}
        for entry in self._engine.slots.entries.values():
            of_unit.setdefault(entry.unit.name, []).append(entry)
            for name in {entry.unit.name, entry.name, self._engine.slots.shown(entry)}:
                known.setdefault(name, []).append(entry)
        for group in self.groups.values():
            members = [entry for name in group.members for entry in of_unit.get(name, ())]
            known[group.name] = [*known.get(group.name, ()), *members]
        return known

    def _near(self, pattern: str) -> str:
        import difflib

        names = list(
            dict.fromkeys(
                [
                    *self._engine.slots.units,
                    *self.groups,
                    *map(self._engine.slots.shown, self._engine.slots.entries.values()),
                ]
            )
        )
        near = difflib.get_close_matches(pattern, names, 1)
        units = list(self._engine.slots.units)
        more = f" and {len(units) - MOST_LISTED} more" if len(units) > MOST_LISTED else ""
        if near:
            return f"; did you mean {near[0]}?"
        all_of_them = "; for everything, omit the name" if pattern == "all" else ""
        return f"; units: {', '.join(units[:MOST_LISTED]) or 'none'}{more}{all_of_them}"


def disabled(name: str) -> str:
    """Why it is disabled and how to re-enable it, depending on which of the two disabled it."""
    return f"{name} is disabled; run: impetusd enable {name} (or remove enabled = no from the INI file and apply)"


def is_done(entry: Entry) -> bool:
    """Whether it is oneshot and has done its work: it is run again only if named."""
    return entry.is_up and entry.slot.state is State.EXITED
