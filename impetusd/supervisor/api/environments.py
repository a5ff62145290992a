"""The method `env`: with which environment processes were started, and with which they would be now.

The kernel keeps the one of the start in /proc/PID/environ. A worker that was forked has that of its template there; what
differs from worker to worker is taken from the configuration in force.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from typing import Any

from impetusd.core.config import environment, runtime
from impetusd.core.config.model import Config, Unit
from impetusd.core.protocol import EXIT_FAILED, FAILED, ProtocolError
from impetusd.supervisor.slots.entry import FORKING, Entry
from impetusd.supervisor.start import childspec
from impetusd.supervisor.start.childspec import CannotStart
from impetusd.supervisor.threads import NoAnswer, Threads

MOST = 4  # threads
WITHIN = 10.0  # seconds for the users and env_files of the requested units


class Environments:
    """`find` gives the slots of a name, `shown` what they are called; `on_disk` the configuration of the files as they are."""

    def __init__(
        self,
        find: Callable[[list[str]], list[Entry]],
        shown: Callable[[Entry], str],
        on_disk: Callable[[], Awaitable[Callable[[int], Config]]],
    ) -> None:
        self._find = find
        self._shown = shown
        self._on_disk = on_disk
        self._threads = Threads("environment", MOST)

    async def env(self, params: dict[str, Any]) -> dict[str, Any]:
        """The control method."""
        entries = [entry for entry in self._find([params["name"]]) if entry.slot.pid is not None]
        if not entries:
            raise ProtocolError(FAILED, f"no process is running in {params['name']}", EXIT_FAILED)
        on_disk = await self._on_disk() if params["diff"] else None
        try:
            rows = await self._threads.run(lambda: [row(entry, on_disk) for entry in entries], WITHIN)
        except (CannotStart, NoAnswer) as error:
            raise ProtocolError(FAILED, f"{params['name']} cannot be started now: {error}", EXIT_FAILED) from None
        return {"slots": [{"name": self._shown(entry), **row} for entry, row in zip(entries, rows, strict=True)]}


def row(entry: Entry, on_disk: Callable[[int], Config] | None) -> dict[str, Any]:
    """What is known of a process: `variables`, or with `on_disk` what `differs` from a start by it; else why it is `unknown`."""
    told: dict[str, Any] = {"unit": entry.unit.name, "pid": entry.slot.pid}
    in_force = _anew(entry, entry.unit)
    try:
        with open(f"/proc/{entry.slot.pid}/environ", "rb") as file:
            started = environment.parse(file.read())
    except OSError as error:
        return {**told, "unknown": f"/proc/{entry.slot.pid}/environ cannot be read: {error.strerror}"}
    if started is None:
        return {**told, "unknown": "the process has overwritten its initial environment"}
    runtime.without(started)
    if entry.unit.preload and entry.role not in FORKING:
        own = {*entry.unit.per_instance, entry.unit.increment_var}
        started.update({name: value for name, value in in_force.items() if name in own})
    if on_disk is None:
        return {**told, "variables": environment.shown(started)}
    unit = _unit(on_disk(entry.index), entry) or _unit(on_disk(0), entry)
    if unit is None or not unit.enabled:
        return {
            **told,
            "unknown": "the INI file no longer has it, or it is disabled there; see impetusd plan",
        }
    differs = environment.differing(started, _anew(entry, unit))
    now = {each["name"] for each in environment.differing(started, in_force)}
    by_file = {each["name"] for each in environment.differing(in_force, _anew(entry, unit))}
    names = {each["name"] for each in differs}
    return {**told, "differs": differs, "takes": "apply" if names & by_file else "restart" if names & now else ""}


def _anew(entry: Entry, unit: Unit) -> dict[str, str]:
    return childspec.environment(
        unit, entry.name, entry.index, childspec.passed_on(os.environ, unit.env_pass), childspec.LookUp(unit)()
    )


def _unit(whole: Config, entry: Entry) -> Unit | None:
    return next((unit for unit in whole.with_jobs() if unit.name == entry.unit.name), None)
