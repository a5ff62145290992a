"""Units with processes that were started by a configuration before the one in force.

A reload that failed leaves them, and so does a restart that was called off. Before a change of the configuration is
carried out, each unit that is to get new processes is noted, with the configuration that its processes are of. A
process that began before that is behind; when none is left, the note is removed, whatever has replaced them.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from impetusd.core.rules.plan import as_run, plan
from impetusd.supervisor.slots.entry import ONE_SHOT, PASSING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from impetusd.core.config.model import Config
    from impetusd.supervisor.slots.engine import Engine
    from impetusd.supervisor.start.starter import Starter

BLOB = "config:behind"
At = Callable[[int], "Config"]  # a configuration as each instance sees it


class Behind:
    """The notes, kept in the shim for the next supervisor. Times are seconds on the monotonic clock."""

    def __init__(self, engine: Engine, starter: Starter, present: At, parsed: Callable[[str], At]) -> None:
        """`present` is in force; `parsed` gives one that is remembered."""
        self._engine = engine
        self._starter = starter
        self._present = present
        self._parsed = functools.lru_cache(maxsize=4)(parsed)
        self._known: tuple[Mapping[str, str], list[str]] = {}, []  # what `left` found last
        self._noted: dict[
            str, list[tuple[float, str]]
        ] = {}  # by unit, the oldest first: until when, which configuration

    def load(self, text: str) -> None:
        """Restore the previous supervisor's notes."""
        told = json.loads(text)
        self._noted = {
            name: [(at, told["was"][number]) for at, number in noted] for name, noted in told["units"].items()
        }

    def note(self, names: Iterable[str], remembered: str, now: float) -> None:
        """These are to get new processes; what runs of them now is of the configuration that is `remembered` so."""
        for name in names:
            self._noted.setdefault(name, []).append((now, remembered))
        self.tidy()

    def of(self) -> dict[str, str]:
        """By unit that is behind, the configuration of its oldest process."""
        return {name: noted[0][1] for name in self._noted if (noted := self._still(name))}

    def left(self, instances: Callable[[str], int]) -> list[str]:
        """Units that are behind, and would get new processes by what is in force; `instances`: see `plan`."""
        former = self.of()
        if former != self._known[0]:  # the configuration in force stays the same for as long as we live
            changes = plan(self.as_it_runs(former), self._present, instances)
            self._known = former, [change.name for change in changes]
        return self._known[1]

    def as_it_runs(self, former: Mapping[str, str]) -> At:
        """The configuration in force, except for the units in `former`, each taken from its remembered
        configuration."""

        @functools.cache
        def at(instance: int) -> Config:
            present = self._present(instance)
            units = {
                name: as_run(present.units[name], unit)
                for name, remembered in former.items()
                if (unit := self._parsed(remembered)(instance).units.get(name)) is not None and name in present.units
            }
            return replace(present, units={**present.units, **units})

        return at

    def tidy(self) -> None:
        """Forget what has been replaced."""
        self._noted = {name: noted for name in self._noted if (noted := self._still(name))}
        was = list(dict.fromkeys(each for noted in self._noted.values() for _, each in noted))
        units = {name: [(at, was.index(each)) for at, each in noted] for name, noted in self._noted.items()}
        self._starter.outbox.put(BLOB, json.dumps({"was": was, "units": units}) if units else None)

    def _still(self, name: str) -> list[tuple[float, str]]:
        unit = self._engine.slots.units.get(name)
        oldest = min(
            (
                entry.slot.started
                for entry in (self._engine.slots.of_unit(unit) if unit is not None else ())
                if entry.slot.pid is not None
                and entry.slot.started is not None
                and not entry.dismissed
                and entry.role not in PASSING | ONE_SHOT
            ),
            default=float("inf"),
        )
        return [(at, each) for at, each in self._noted[name] if oldest < at]
