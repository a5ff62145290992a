"""The gateway's settings, in the variable IMPETUSD_GATEWAY that `core.config.gateway` creates."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from typing import Any

from impetusd.core.config.gateway import GATEWAY, SETTINGS


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The keys of [gateway], as `core.config.schema` documents them, and where things are. Addresses as one writes them."""

    conf: str
    state_dir: str
    folder: str  # the gateway's own, which it runs in
    history: str  # the observer's folder
    alerts: tuple[str, ...]  # names of those that are enabled
    listen: tuple[str, ...]  # as configured: the port in use may be a higher one
    socket: str
    xmlrpc: str
    tls_cert: str
    tls_key: str
    behind_proxy: bool
    trusted_proxies: tuple[str, ...] = ()
    hosts: tuple[str, ...]
    url: str
    ceiling: str
    metrics: str
    owner: int  # the user that impetusd runs as
    remotes: tuple[Mapping[str, str], ...] = ()  # other hosts, each with the keys of its [host:NAME] and its name
    roles: Mapping[str, list[str]]  # who has which on the control socket: viewers, operators, admins; for xmlrpc alone


def settings(environ: Mapping[str, str]) -> Settings:
    """Raises KeyError, ValueError where they are missing or make no sense."""
    given: dict[str, Any] = json.loads(environ[SETTINGS[GATEWAY]])
    known = ((one.name, given[one.name]) for one in fields(Settings) if one.default is MISSING or one.name in given)
    values: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in known}
    return Settings(**values)
