"""A configuration as one would write it: each key with its value, for `describe`, and for what `plan` compares."""

from __future__ import annotations

from typing import TYPE_CHECKING

from impetusd.core.config import schema
from impetusd.core.config.model import Health, Kind, Timer, Unit

if TYPE_CHECKING:
    from typing import Any


def unit(unit: Unit) -> dict[str, str | list[str]]:
    """Each key that the unit's section takes, with its value as one would write it; then the names in its `env`.

    Values of variables are left out: they are where secrets are.
    """
    return _described(unit, unit)


def timer(timer: Timer) -> dict[str, str | list[str]]:
    """The same of a timer, its command's keys included."""
    return _described(timer, timer.unit)


def health(check: Health) -> dict[str, str | list[str]]:
    """The same of a health check; the keys of its command are there only if it has one."""
    return _described(check, check.unit)


def origins(unit: Unit) -> dict[str, str]:
    """The "file:line" of each key that the unit's section sets; keys not in it have their default."""
    file, _, header = unit.where.rpartition(":")
    return {key: f"{file}:{int(header) + below}" for key, below in unit.lines.items()}


def keys(each: Unit | Timer | Health) -> dict[str, tuple[Any, str]]:
    """Each key that its section takes: the value, and how one would write it, without what looks secret."""
    unit = each if isinstance(each, Unit) else each.unit
    if unit is not None and unit.made is not None:
        return dict(unit.made.settings)
    kind = each.kind if isinstance(each, Unit) else Kind.TIMER if isinstance(each, Timer) else Kind.HEALTH
    told: dict[str, tuple[Any, str]] = {}
    for name, key in schema.keys_of(kind.value).items():
        field = "command" if name == "exec" else name
        source = each if hasattr(each, field) else unit
        if not hasattr(source, field):
            continue
        value = getattr(source, field)
        if key.value is schema.INSTANCES and unit is not None:
            value = value, unit.instances_max
        told[name] = value, key.value.show(value) if value or key.default else ""
    return told


def _described(each: Unit | Timer | Health, unit: Unit | None) -> dict[str, str | list[str]]:
    told: dict[str, str | list[str]] = {name: text for name, (_, text) in keys(each).items()}
    if unit is not None:
        told["env"] = sorted(unit.env)
    return told
