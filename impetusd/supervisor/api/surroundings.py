"""The method `exec`: the environment, user and limits of a unit, for a command run by hand.

It is resolved as for the unit's next start: by the configuration in force, with its env_files and users as they are.
The client starts the command; we only supply the settings.
"""

from __future__ import annotations

import os
import resource
from collections.abc import Callable, Mapping
from typing import Any

from impetusd.core import redact
from impetusd.core.config.model import Config, Unit
from impetusd.core.protocol import EXIT_FAILED, EXIT_USAGE, FAILED, ProtocolError
from impetusd.supervisor.api.environments import row
from impetusd.supervisor.slots.entry import Entry
from impetusd.supervisor.start import childspec
from impetusd.supervisor.start.childspec import CannotStart, LookUp
from impetusd.supervisor.threads import NoAnswer, Threads

MOST = 4  # threads
WITHIN = 10.0  # seconds for users, env_files, and what runs
LIMITS = tuple(name.removeprefix("RLIMIT_").lower() for name in dir(resource) if name.startswith("RLIMIT_"))


class Surroundings:
    """`at` is the configuration in force, as an instance sees it; `find` gives the slots of a name."""

    def __init__(
        self,
        at: Callable[[int], Config],
        find: Callable[[list[str]], list[Entry]],
        instances: Callable[[Unit], int],
        shown: Callable[[Entry], str],
        baseline: Mapping[str, Any],
    ) -> None:
        """`instances`: how many a unit has now; `baseline`: what the shim gives children that ask for nothing else."""
        self._at = at
        self._find = find
        self._instances = instances
        self._shown = shown
        self._baseline = baseline
        self._threads = Threads("surroundings", MOST)

    async def exec(self, params: dict[str, Any]) -> dict[str, Any]:
        """The control method. `older`: what runs with another environment, and the names of the variables."""
        unit = self._unit(params["name"])
        running = (
            [entry for entry in self._find([unit[0].name]) if entry.slot.pid is not None] if unit[0].enabled else []
        )

        def resolve() -> dict[str, Any]:
            spec = childspec.beside(*unit, os.environ, LookUp(unit[0])())
            spec["oom_score_adj"] = spec["oom_score_adj"] or self._baseline.get("oom_score", 0)
            rows = ((entry, row(entry, self._at)) for entry in running)
            older = [
                {
                    "name": self._shown(entry),
                    "pid": told["pid"],
                    "variables": [each["name"] for each in told["differs"]],
                }
                for entry, told in rows
                if told.get("differs")
            ]
            return {"unit": unit[0].name, "spec": spec, "limits": self._limits(), "older": older}

        try:
            answer = await self._threads.run(resolve, WITHIN)
        except (CannotStart, NoAnswer) as error:
            raise ProtocolError(FAILED, f"{params['name']} cannot be started now: {error}", EXIT_FAILED) from None
        known = redact.secrets(answer["spec"]["env"].items())
        params["command"][:] = [
            redact.text(word, known) for word in params["command"]
        ]  # the request's own: it is recorded
        return answer

    def _unit(self, name: str) -> tuple[Unit, int]:
        """The unit, as the instance that is meant sees it, and which that is. Raises ProtocolError."""
        units = {unit.name: unit for unit in self._at(0).with_jobs()}

        def instances(unit: Unit) -> int:
            return max(unit.instances_max, self._instances(unit) if unit.enabled else 0)

        found = childspec.named(units, name, instances)
        if found is None:
            entries = self._find([name])  # a group, a pattern, another kind of slot, or nothing
            meant = {entry.unit.name: entry.index for entry in entries}
            if len(meant) != 1:
                raise ProtocolError(FAILED, f"{name} is {', '.join(meant)}; exec needs exactly one unit", EXIT_USAGE)
            found = meant.popitem()
        if found[0] not in units:
            raise ProtocolError(FAILED, f"{found[0]} is no longer in the active configuration", EXIT_FAILED)
        unit, index = found
        mine = {each.name: each for each in self._at(index).with_jobs()} if units[unit].per_instance else units
        return mine[unit], index

    def _limits(self) -> list[list[Any]]:
        """The limits of processes that set none: the shim's own, except for the one that it raises for itself."""
        ours = {
            name: resource.getrlimit(getattr(resource, f"RLIMIT_{name.upper()}")) for name in LIMITS if name != "ofile"
        }
        if "nofile" in self._baseline:
            ours["nofile"] = tuple(self._baseline["nofile"])
        return [[name, *limit] for name, limit in ours.items()]
