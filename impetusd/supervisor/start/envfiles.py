"""Detect env_files whose values changed since the running processes were started.

A process does not report its values, and files are edited unnoticed: a digest of the values of each start is kept.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, NamedTuple

from impetusd.core.rules.plan import Change, Effect, Key
from impetusd.core.rules.reload import overlaps
from impetusd.supervisor.start.childspec import CannotStart

if TYPE_CHECKING:
    from impetusd.core.config.model import Config, Unit


class Started(NamedTuple):
    """A process that runs: of which unit, of which instance, and the digest of what it was started with."""

    unit: str
    instance: int
    digest: str


def digest(variables: Mapping[str, str]) -> str:
    """A digest of the values of env_files."""
    import hashlib  # brings libcrypto: 0.6 MB, and few units have an env_file

    return hashlib.sha256(json.dumps(sorted(variables.items())).encode()).hexdigest()[:16]


def changes(
    started: list[Started],
    planned: list[Change],
    at: Callable[[int], Config],
    read: Callable[[Unit], Mapping[str, str]],
) -> list[Change]:
    """`planned`, with what takes new processes since the values of env_files have changed. Reads files: for a thread.

    A file that cannot be read is not a change: the next start reports it.
    """
    anew = {change.name for change in planned if change.effect is not Effect.LIVE}
    found: dict[str, Change] = {}
    for process in started:
        unit = at(process.instance).units.get(process.unit) or at(0).units.get(process.unit)
        if unit is None or process.unit in anew or process.unit in found or not (unit.env_file and unit.enabled):
            continue
        try:
            now = digest(read(unit))
        except CannotStart:
            continue
        if now != process.digest:
            said = " ".join(unit.env_file)
            effect = Effect.RELOAD if overlaps(unit) else Effect.RESTART
            found[unit.name] = Change(unit.kind.value, unit.name, effect, (Key("env_file", said, said),))
    live = {change.name: change.keys for change in planned if change.name in found}
    merged = [Change(each.kind, name, each.effect, (*live.get(name, ()), *each.keys)) for name, each in found.items()]
    return [*merged, *(change for change in planned if change.name not in found)]
