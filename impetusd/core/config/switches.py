"""Units disabled with `impetusd disable`: their names, and their effect on a configuration."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection

    from impetusd.core.config.model import Config

FILE = "disabled"  # in state_dir: one name a line


def parse(text: str) -> list[str]:
    """The names in the file."""
    return sorted({line.strip() for line in text.splitlines()} - {""})


def show(names: Collection[str]) -> str:
    """The file with these names."""
    return "".join(f"{name}\n" for name in sorted(names))


def without(config: Config, names: Collection[str]) -> Config:
    """The configuration as if each of these units and timers had `enabled = no`; names that it does not have are ignored."""
    if not names:
        return config
    off = {name: replace(unit, enabled=False) for name, unit in config.units.items() if name in names}
    timers = {
        name: replace(timer, enabled=False, unit=replace(timer.unit, enabled=False))
        for name, timer in config.timers.items()
        if name in names
    }
    checks = {
        name: replace(check, enabled=False, unit=check.unit and replace(check.unit, enabled=False))
        for name, check in config.health.items()
        if check.target in names
    }
    return replace(
        config, units={**config.units, **off}, timers={**config.timers, **timers}, health={**config.health, **checks}
    )
