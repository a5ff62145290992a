"""NAME as the operator types it, held against what is configured, where no daemon can be asked."""

from __future__ import annotations

import fnmatch

from impetusd.cli.failure import Failure
from impetusd.core.protocol import EXIT_UNKNOWN_NAME, EXIT_USAGE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence

    from impetusd.cli.place import Place
    from impetusd.core.config.model import Config


def matches(pattern: str, unit: str, slot: str) -> bool:
    """Whether `pattern` matches this slot: its unit, the slot itself, or a glob over either."""
    return fnmatch.fnmatchcase(unit, pattern) or fnmatch.fnmatchcase(slot, pattern)


def require_known(names: Sequence[str], units: Collection[str], timers: Collection[str] = ()) -> None:
    """Raise Failure for the first name not in `units` (exit 4, in `timers` 2), so that a typo starts no daemon.

    A slot's number is not checked: the daemon knows how many there are.
    """
    for name in names:
        if name in timers:
            raise Failure(f"{name} is a timer; to run it now: impetusd trigger {name}", EXIT_USAGE)
        unit = name.partition(":")[0]
        if not any(fnmatch.fnmatchcase(each, pattern) for each in units for pattern in (name, unit)):
            import difflib

            near = difflib.get_close_matches(unit, units, n=1)
            hint = f"did you mean {near[0]}?" if near else f"configured are: {', '.join(units) or 'none'}"
            raise Failure(f"no unit or slot {name}; {hint}", EXIT_UNKNOWN_NAME)


def require(patterns: Sequence[str], known: Collection[str]) -> None:
    """Failure (exit 4) for the first pattern that matches none of `known`: units, slots, timers, checks."""
    for pattern in patterns:
        if not any(fnmatch.fnmatchcase(name, pattern) for name in known):
            import difflib

            near = difflib.get_close_matches(pattern, known, n=1)
            units = [name for name in known if ":" not in name]
            some = ", ".join(units[:10]) + (f" and {len(units) - 10} more" if len(units) > 10 else "")
            hint = f"did you mean {near[0]}?" if near else f"units: {some or 'none'}"
            raise Failure(f"no unit '{pattern}'; {hint}", EXIT_UNKNOWN_NAME)


def configured(at: Place) -> list[str]:
    """The units, timers and checks in the INI file; [] if it cannot be read. Instances appear with their numbers."""
    return names_in(loaded(at))


def loaded(at: Place) -> Config | None:
    """The configuration of the INI file; None if it cannot be read."""
    from impetusd.cli import place

    try:
        return place.load(at.conf)
    except Failure:
        return None


def names_in(config: Config | None) -> list[str]:
    """The names of units, instances, timers and checks."""
    if config is None:
        return []
    slots = [f"{unit.name}:{index}" for unit in config.units.values() for index in range(unit.instances_max)]
    return [*config.units, *slots, *config.timers, *config.health]


def with_members(at: Place, names: Sequence[str]) -> list[str]:
    """`names` with the members of each group in its place: as the daemon knows the groups, and where none runs the INI file."""
    from impetusd.cli import place
    from impetusd.client import control

    if not names:
        return []
    groups: Mapping[str, Sequence[str]]
    try:
        groups = control.call(at.paths, "status", {"names": []}).get("groups", {})
    except control.NotRunning:
        try:
            groups = {group.name: group.members for group in place.load(at.conf).groups.values()}
        except Failure:
            groups = {}
    return [each for name in names for each in _members(name, groups)]


def _members(name: str, groups: Mapping[str, Sequence[str]]) -> Iterator[str]:
    """A group's own name means nothing else; a pattern may mean more than groups."""
    if name not in groups:
        yield name
    for group, members in groups.items():
        if fnmatch.fnmatchcase(group, name):
            yield from members
