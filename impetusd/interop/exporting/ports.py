"""Which ports a unit has, what its `listen` is in a container, and how an engine can ask of its health."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from impetusd.core import redact
from impetusd.core.config.gateway import is_loopback
from impetusd.core.config.model import ANY_V4, ANY_V6, Action, Listen
from impetusd.interop.exporting import values
from impetusd.interop.exporting.model import Port, Probe

if TYPE_CHECKING:
    from collections.abc import Iterable

    from impetusd.core.config.ini import Section
    from impetusd.core.config.model import Health, Unit

FIRST = 8080  # of a unit that listens on unix sockets alone
STATUS = ("impetusd", "status")
ASKED = Probe("exec", argv=STATUS, timeout=10)  # of what only impetusd in the container knows
_SUCCESS = ((200, 399),)  # what a kubelet takes for well
_LOOPBACK = re.compile(r"(?:127\.\d+\.\d+\.\d+|localhost|\[::1\]):")


def listening(unit: Unit, raw: str) -> tuple[str, tuple[Port, ...]]:
    """`listen` as the container's INI has it, and the ports. `raw`: as it is written here."""
    if "listen" in unit.per_instance:  # each instance has its own
        found = [Port(each.port, not is_loopback(each)) for each in unit.listen if not each.path]
        return _LOOPBACK.sub(f"{ANY_V4}:", raw), tuple(found)
    ports: dict[int, Port] = {}
    hosts: dict[int, str] = {}
    for each in unit.listen:
        if each.path:
            continue
        before = ports.get(each.port)
        ports[each.port] = Port(each.port, (before is not None and before.published) or not is_loopback(each))
        hosts[each.port] = f"[{ANY_V6}]" if each.host == ANY_V6 and before is None else ANY_V4
    for number, _ in enumerate(unit.listen if not ports else ()):
        ports[FIRST + number] = Port(FIRST + number)
    return ", ".join(f"{hosts.get(number, ANY_V4)}:{number}" for number in ports), tuple(ports.values())


def asked(unit: Unit, checks: Iterable[Health]) -> tuple[Port, ...]:
    """Ports of a program that opens them itself, as far as its readiness and its health checks name them."""
    found: dict[int, Port] = {}
    places = [unit.ready.value] if unit.ready is not None and unit.ready.kind in {"http", "tcp"} else []
    for check in checks:
        places += [each for each in (check.http, check.tcp) if each and not each.startswith("/")]
    for place in places:
        peer = _peer(place)
        if is_loopback(peer):
            found[peer.port] = Port(peer.port)
    return tuple(found.values())


def _peer(place: str) -> Listen:
    """Host and port of a URL or HOST:PORT."""
    parts = urlsplit(place if "://" in place else f"tcp://{place}")
    return Listen(parts.hostname or "", parts.port or {"https": 443, "http": 80}.get(parts.scheme, 0))


def probe(check: Health, section: Section, ports: tuple[Port, ...]) -> Probe | None:
    """The check as a kubelet makes it; None if it can not."""
    ways = [section.entries[key].value for key in ("http", "tcp", "headers", "status") if key in section.entries]
    if check.unit is not None or check.socket or check.body or check.status != _SUCCESS:
        return None
    if any(values.references(raw) for raw in ways):  # who knows what they are there
        return None
    if (
        any(redact.value(name, value) != value for name, value in check.headers)
        or redact.text(check.http) != check.http
    ):
        return None
    every, timeout = math.ceil(check.interval), math.ceil(check.timeout)
    common = Probe("", every=every, timeout=timeout, failures=check.failures, successes=check.successes)
    if check.tcp:
        peer = _peer(check.tcp)
        return replace(common, kind="tcp", port=peer.port) if is_loopback(peer) else None
    if check.http.startswith("/"):
        path, port, scheme = check.http, ports[0].number if ports else 0, "http"
    else:
        parts = urlsplit(check.http)
        peer = _peer(check.http)
        path, port, scheme = (parts.path or "/") + (f"?{parts.query}" if parts.query else ""), peer.port, parts.scheme
        if not is_loopback(peer):
            return None
    if not port or (scheme == "https" and check.verify):
        return None
    return replace(common, kind="http", port=port, path=path, scheme=scheme.upper(), headers=check.headers)


def probes(
    period: int, checks: Iterable[tuple[Health, Section]], ports: tuple[Port, ...]
) -> tuple[Probe, Probe, Probe | None, set[str]]:
    """What starts, what gets requests, what lives; and the checks that a kubelet makes now. `period`: seconds for the start."""
    readiness: Probe | None = None
    liveness: Probe | None = None
    taken: set[str] = set()
    left = False
    for check, section in checks:
        found = probe(check, section, ports)
        if found is not None and check.action is Action.RESTART and liveness is None:
            liveness = found
            taken.add(check.name)
        elif found is not None and check.action is Action.ALERT and readiness is None:
            readiness = found
            taken.add(check.name)
        else:
            left = left or check.action is Action.ALERT
    first = readiness or liveness or ASKED
    ready = readiness or liveness or (replace(ASKED, argv=("impetusd", "health", "-q")) if left else ASKED)
    every = 5 if first.kind == "exec" else 2
    startup = replace(first, every=every, failures=max(3, math.ceil((period or 30) / every)), successes=1)
    # Kubernetes has it that one success is enough for a liveness probe.
    return startup, ready, liveness and replace(liveness, successes=1), taken
