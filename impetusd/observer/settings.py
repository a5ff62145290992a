"""What the observer is to do: the JSON that the supervisor gives it, as the INI file has it."""

from __future__ import annotations

import json
import shlex
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from impetusd.core.explain.incidents import EVENTS


@dataclass(frozen=True, slots=True, kw_only=True)
class Alert:
    """One [alert:NAME], with its keys. Times in seconds. `type`: slack, json, ntfy, email or command.

    `events` may have "recovered" beside EVENTS; `units`: names or patterns, empty for all.
    """

    name: str
    type: str = ""
    url: str = ""
    to: tuple[str, ...] = ()
    command: tuple[str, ...] = ()
    from_: str = ""
    smtp: str = "127.0.0.1:25"
    smtp_user: str = ""
    smtp_password: str = ""
    events: tuple[str, ...] = (*EVENTS, "recovered")
    units: tuple[str, ...] = ()
    for_: float = 0.0
    repeat: float = 0.0
    heartbeat: str = ""
    heartbeat_every: float = 60.0

    @property
    def sends(self) -> bool:
        """Whether notices go anywhere; False if it has a heartbeat only."""
        return bool(self.url or self.to or self.command)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """`folder`: the observer's own. `command` reaches this instance on a command line; `link`: the page, "" if there is none.

    `needs`: depends_on, of those that have it; `groups`: their members.
    """

    folder: str
    command: str = "impetusd"
    link: str = ""
    host: str = ""
    needs: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    groups: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    alerts: Mapping[str, Alert] = field(default_factory=dict)


def read(text: str) -> Settings:
    """Of the JSON in IMPETUSD_OBSERVER; what is not known here is passed over. ValueError, KeyError, TypeError: it is none."""
    found = json.loads(text)
    conf = str(found.get("conf") or "")
    return Settings(
        folder=str(found["folder"]),
        command=f"impetusd -c {shlex.quote(conf)}" if conf else "impetusd",
        link=str(found.get("url") or ""),
        host=str(found.get("host") or socket.gethostname()),
        needs=_names(found.get("needs") or {}),
        groups=_names(found.get("groups") or {}),
        alerts={str(name): _alert(str(name), each) for name, each in (found.get("alerts") or {}).items()},
    )


def _names(found: Mapping[str, Any]) -> dict[str, tuple[str, ...]]:
    return {str(name): tuple(map(str, each)) for name, each in found.items()}


def _alert(name: str, found: Mapping[str, Any]) -> Alert:
    given: dict[str, Any] = {}
    for each in fields(Alert):
        value = found.get(each.name.rstrip("_"))
        if each.name != "name" and value:
            given[each.name] = tuple(map(str, value)) if isinstance(value, list | tuple) else value
    return Alert(name=name, **given)
