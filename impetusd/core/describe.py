"""A configuration as one would write it: each key with its value, for `describe`, and for what `plan` compares."""

from __future__ import annotations

from typing import TYPE_CHECKING

from impetusd.core import schema
from impetusd.core.model import Kind

if TYPE_CHECKING:
    from impetusd.core.model import Health, Timer, Unit


def unit(unit: Unit) -> dict[str, str | list[str]]:
    """Each key that the unit's section takes, with its value as one would write it; then the names in its `env`.

    Values of variables are left out: they are where secrets are.
    """
    return _described(unit.kind, unit, unit)


def timer(timer: Timer) -> dict[str, str | list[str]]:
    """The same of a timer, its command's keys included."""
    return _described(Kind.TIMER, timer, timer.unit)


def health(check: Health) -> dict[str, str | list[str]]:
    """The same of a health check; the keys of its command are there only if it has one."""
    return _described(Kind.HEALTH, check, check.unit)


def _described(kind: Kind, its: Unit | Timer | Health, unit: Unit | None) -> dict[str, str | list[str]]:
    told: dict[str, str | list[str]] = {}
    for name, key in schema.keys_of(kind.value).items():
        field = "command" if name == "exec" else name
        source = its if hasattr(its, field) else unit
        if not hasattr(source, field):
            continue
        value = getattr(source, field)
        if key.value is schema.INSTANCES and unit is not None:
            value = value, unit.instances_max
        told[name] = key.value.show(value) if value or key.default else ""
    if unit is not None:
        told["env"] = sorted(unit.env)
    return told
