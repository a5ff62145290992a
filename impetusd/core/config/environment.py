"""What a process was started with against what it would be started with now, without what looks secret."""

from __future__ import annotations

from typing import TYPE_CHECKING

from impetusd.core import redact
from impetusd.core.config.agreement import OWN_VARIABLES

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

# Ours, and of each process another.
LEFT_OUT = OWN_VARIABLES | {"PYTHONUNBUFFERED"}


def parse(environ: bytes) -> dict[str, str] | None:
    """/proc/PID/environ as it is on the day of the start; None where the process has written over it, as PostgreSQL does."""
    pairs = (part.partition("=") for part in environ.decode("utf-8", "surrogateescape").split("\0"))
    found = {name: value for name, sign, value in pairs if sign}
    return found if "INVOCATION_ID" in found else None


def shown(env: Mapping[str, str]) -> list[dict[str, str]]:
    """A row for each variable, by name."""
    return [{"name": name, "value": redact.value(name, env[name])} for name in sorted(env.keys() - LEFT_OUT)]


def differing(started: Mapping[str, str], anew: Mapping[str, str]) -> list[dict[str, Any]]:
    """A row for each variable that would be another; None for one that is not there."""

    def side(env: Mapping[str, str], name: str) -> str | None:
        return redact.value(name, env[name]) if name in env else None

    names = sorted((started.keys() | anew.keys()) - LEFT_OUT)
    return [
        {"name": name, "from": side(started, name), "to": side(anew, name)}
        for name in names
        if started.get(name) != anew.get(name)
    ]
