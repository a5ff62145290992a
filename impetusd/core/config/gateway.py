"""[gateway], [alert:NAME] and [host:NAME]: their checks, and the two units that impetusd makes of them.

    gateway    a pool of our own: the page, the API, the metrics, other hosts. With [gateway] only
    observer   a program of our own: alerts and history. With [gateway] or any [alert:NAME]

Each gets its settings as JSON in one variable, IMPETUSD_GATEWAY or IMPETUSD_OBSERVER, which contains secrets.
"""

from __future__ import annotations

import json
import sys
from itertools import count
from zlib import crc32

from impetusd.core.config import agreement, ini, schema
from impetusd.core.config.model import Kind, Listen, Made, Settings, Unit
from impetusd.core.config.problem import Problem
from impetusd.core.config.reading import parts, place
from impetusd.core.reasons import because

TYPE_CHECKING = False  # typing takes 2 ms to import, and `impetusd status` comes by here
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from impetusd.core.config.ini import Section
    from impetusd.core.config.reading import Values

GATEWAY, OBSERVER = "gateway", "observer"  # the units
SETTINGS = {GATEWAY: "IMPETUSD_GATEWAY", OBSERVER: "IMPETUSD_OBSERVER"}
CHANNEL = "IMPETUSD_CHANNEL"  # the number of the descriptor by which they reach the supervisor
HOST, PORT, PORTS = "127.0.0.1", 9615, 10
REMOTES = 50  # [host:NAME]
# As root they run as a number of their own, one of those that systemd and distributions leave unused. `nobody` would share
# it with other services: those could read their secrets in /proc and in their folders, or trace them.
OWN, OWN_MANY = 60578, 606
# Hosts in the URL of an alert without a type, and what they are.
KNOWN_HOSTS = {"hooks.slack.com": "slack", "ntfy.sh": "ntfy"}
OF_WEBHOOK = ("slack", "json", "ntfy")


def gateway(reading: Values, sections: list[Section]) -> None:
    """Read them, once every other unit is known, and add the units that they make."""
    ours = [section for section in sections if parts(section)[0] == schema.GATEWAY]
    for section in ours[:1]:
        _gateway(reading, section)
    for section in sections:
        kind, _, name = parts(section)
        if kind == schema.ALERT:
            _alert(reading, section, name)
        elif kind == schema.HOST:
            _remote(reading, section, name)
    if reading.gateway is not None:
        _make(reading, ours[0], GATEWAY)
    if reading.gateway is not None or reading.alerts:
        _make(reading, ours[0] if ours else next(iter(reading.alert_headers.values())), OBSERVER)


def is_loopback(address: Listen) -> bool:
    """True if only processes on this host can connect to it."""
    if address.path or address.host == "localhost":
        return True
    import ipaddress  # of those who parse a configuration, few have a gateway

    try:
        return ipaddress.ip_address(address.host).is_loopback
    except ValueError:
        return False


def _gateway(reading: Values, section: Section) -> None:
    reading.unknown_keys(section, schema.GATEWAY)
    values, faulty = reading.values(section, schema.GATEWAY)
    agreement.companions(reading, section, schema.GATEWAY, values, faulty)
    agreement.identity(reading, section, {"user": values["user"], "group": ""})
    for key in ("listen", "socket", "xmlrpc"):
        given = values[key] if key == "listen" else (values[key],) if values[key] else ()
        agreement.listening(reading, section, given, key)
        agreement.owners(reading, section, given, key)
    for address in values["listen"]:
        if address.path:
            text = (
                f"listen = {ini.brief(str(address), 120)}: for a unix socket, write socket = {ini.brief(address.path)}"
            )
            reading.problem(place(section, "listen"), text)
        elif not is_loopback(address) and not (values["tls_cert"] or values["behind_proxy"] or "tls_cert" in faulty):
            text = f"listen = {address}: passwords would cross the network unencrypted"
            hint = "set tls_cert and tls_key, or behind_proxy = yes if a proxy in front of it speaks HTTPS"
            reading.problem(place(section, "listen"), f"{text}; {hint}")
        elif not is_loopback(address) and values["metrics"] == "open":
            text = (
                f"metrics = open is allowed only on loopback addresses, but listen has {address}; write metrics = token"
            )
            reading.problem(place(section, "metrics"), text)
    if values["behind_proxy"] and not values["hosts"] and "hosts" not in faulty:
        text = (
            "behind_proxy: set hosts to the host name that browsers use, because requests for other names are refused"
        )
        reading.problem(place(section, "behind_proxy"), text)
    if values["behind_proxy"] and values["metrics"] == "open" and not values["socket"]:
        text = (
            "metrics = open: the proxy's requests also come from a loopback address, so a token would still be required"
        )
        reading.warnings.append(
            Problem(section.file, place(section, "metrics").line, f"{text}; set socket and connect the proxy to that")
        )
    xmlrpc = values["xmlrpc"]
    if xmlrpc and not is_loopback(xmlrpc):
        text = f"xmlrpc = {xmlrpc}: XML-RPC is not encrypted; use a loopback address, or unix:PATH"
        reading.problem(place(section, "xmlrpc"), text)
    if xmlrpc and xmlrpc.path and values["socket"] and _file(xmlrpc) == _file(values["socket"]):
        text = f"xmlrpc = {xmlrpc}: socket uses the same file; use another path"
        reading.problem(place(section, "xmlrpc"), text)  # the kernel keeps only that of a bound socket's path
    if not section.entries.get("listen") and not values["socket"] and "listen" not in faulty:
        values["listen"] = (_free(reading),)
    reading.gateway = Settings("", f"{section.file}:{section.line}", values)


def _file(address: Listen) -> str:
    return address.path.rpartition("/")[2]


def _free(reading: Values) -> Listen:
    """The default address, past those that the file itself gives away."""
    taken = [address for unit in reading.units.values() if unit.enabled for address in unit.listen]
    for port in count(PORT):
        found = Listen(HOST, port, more_ports=max(0, PORT + PORTS - 1 - port))
        if not any(found.clashes(address) for address in taken):
            return found
    raise AssertionError


def _alert(reading: Values, section: Section, name: str) -> None:
    found = reading.named_section(section, schema.ALERT, name, reading.alert_headers)
    if found is None:
        return
    values, faulty = found
    agreement.companions(reading, section, schema.ALERT, values, faulty)
    given = [key for key in ("url", "to", "command") if values[key] or key in faulty]
    shown = f"[{ini.brief(section.name)}]"
    if len(given) > 1:
        reading.problem(place(section, given[1]), f"{shown} has {' and '.join(given)}; keep one of them")
    elif not given and not values["heartbeat"] and "heartbeat" not in faulty:
        example = schema.keys_of(schema.ALERT)["url"].example
        reading.problem(section, f"{shown} has no destination; set url, to or command, like url = {example}")
    way = {"url": "", "to": "email", "command": "command"}[given[0]] if given else ""
    if values["type"] and given and (values["type"] != way if way else values["type"] not in OF_WEBHOOK):
        text = f"type = {values['type']} does not work with {given[0]}; remove type, or set the keys of that type"
        reading.problem(place(section, "type"), text)
    values["type"] = values["type"] or way or _by_host(values["url"])
    known = [*reading.units, *reading.timers, GATEWAY, OBSERVER]
    for pattern in values["units"]:
        if not agreement.matches(pattern, known) and pattern not in reading.misnamed:
            near = reading.nearest(pattern, known)
            hint = f"did you mean {near}?" if near else "write the name of a unit or timer, or a pattern"
            reading.problem(place(section, "units"), f"units: {ini.brief(pattern)} matches no unit; {hint}")
    reading.alerts[name] = Settings(name, f"{section.file}:{section.line}", values)


def _remote(reading: Values, section: Section, name: str) -> None:
    found = reading.named_section(section, schema.HOST, name, reading.remote_headers)
    if found is None:
        return
    values, faulty = found
    for key in ("url", "token"):
        reading.required(section, schema.HOST, key, values, faulty)
    url = values["url"]
    if url.startswith("http:") and not is_loopback(Listen(_host_of(url), 0)):
        text = f"url = {ini.brief(url)}: the token would cross the network unencrypted"
        reading.problem(place(section, "url"), f"{text}; write https://, or the loopback address of a tunnel")
    if reading.gateway is None:
        text = f"{header_of(section)}: other hosts are shown on the gateway's page; add the section [gateway]"
        reading.problem(section, text)
    if len(reading.remotes) >= REMOTES:
        reading.problem(section, f"{header_of(section)}: a gateway shows at most {REMOTES} other hosts; remove some")
    reading.remotes[name] = values


def _host_of(url: str) -> str:
    from urllib.parse import urlsplit  # of those who parse a configuration, few have other hosts

    return urlsplit(url).hostname or ""


def _by_host(url: str) -> str:
    host = url.partition("://")[2].partition("/")[0].partition(":")[0]
    return KNOWN_HOSTS.get(host, "json") if url else ""


def _make(reading: Values, section: Section, name: str) -> None:
    """Add the unit, unless the file has one of that name."""
    other = reading.headers.get(name)
    if other is not None:
        text = f"[{ini.brief(other.name)}]: {header_of(section)} creates a unit with that name; choose another"
        reading.problem(other, text)
        return
    for entries in filter(None, [reading.env_entries.get(name)]):
        text = f"[env:{name}]: impetusd creates the unit {name} and sets its environment; remove this section"
        reading.problem(next(iter(entries.values())), text)
    reading.headers[name] = section
    whole = reading.gateway.values if reading.gateway is not None else {}
    kind = Kind.POOL if name == GATEWAY else Kind.PROGRAM
    folder = f"{reading.built_in['STATE_DIR']}/{name}"
    user = whole.get("user", "") or (own_user(reading.built_in["STATE_DIR"]) if reading.host.euid == 0 else "")
    values = reading.all_defaults(kind.value).copy()
    values.pop("instances")
    enabled = _enabled(reading, name)
    closed = _closed(reading, section, name) if enabled else ""
    values.update(cwd=folder, user=user, enabled=enabled and not closed, umask=0o077)
    if name == GATEWAY:
        addresses = (*whole["listen"], *filter(None, (whole["socket"], whole["xmlrpc"])))
        values.update(app="impetusd.gateway.app:create_app", listen=addresses, standby=0, wait_ready=True)
    else:
        values.update(command=(sys.executable, "-m", "impetusd.observer"), ready=None, wait_ready=True)
    told = {"folder": folder, **_settings(reading, name)}
    reading.units[name] = Unit(
        name=name,
        kind=kind,
        where=f"{section.file}:{section.line}",
        # Without the folder that it runs in among those that modules are imported from: others than root write there.
        env={SETTINGS[name]: json.dumps(told), "PYTHONSAFEPATH": "1"},
        instances=1,
        instances_max=1,
        rules=reading.rules,
        made=Made(_shown(reading, name), folder, closed),
        **values,
    )


def header_of(section: Section) -> str:
    """The section's header, as written in the file."""
    return f"[{ini.brief(section.name)}]"


def _enabled(reading: Values, name: str) -> bool:
    """True if the sections enable it."""
    gateway = reading.gateway
    alive = any(alert.values["enabled"] for alert in reading.alerts.values())
    on = gateway is not None and bool(gateway.values["enabled"])
    return on or (name == OBSERVER and alive)


def own_user(state_dir: str) -> str:
    """The default user, when impetusd runs as root: a number, another for each instance."""
    return str(OWN + crc32(state_dir.encode("utf-8", "surrogateescape")) % OWN_MANY)


def _closed(reading: Values, section: Section, name: str) -> str:
    """The part of impetusd's own code that its default user cannot read, with a warning; "" if there is none."""
    gateway, path = reading.gateway, reading.host.closed
    if reading.host.euid != 0 or not path or (gateway is not None and gateway.values["user"]):
        return ""
    reason = because("closed_code", name=name, path=path)
    reading.warnings.append(Problem(section.file, section.line, f"{header_of(section)}: {reason}"))
    return path


def _settings(reading: Values, name: str) -> dict[str, Any]:
    """The unit's settings, as JSON."""
    whole = reading.gateway.values if reading.gateway is not None else {}
    url = whole.get("url", "") or (_url(whole) if whole else "")
    conf = {"conf": reading.path, "state_dir": reading.built_in["STATE_DIR"], "url": url}
    alerts = {each.name: each.values for each in reading.alerts.values() if each.values["enabled"]}
    if name == OBSERVER:
        units = {**reading.units, **{timer.name: timer.unit for timer in reading.timers.values()}}
        needs = {unit: made.depends_on for unit, made in units.items() if made.depends_on}
        groups = {group.name: group.members for group in reading.groups.values()}
        listen = _written(whole.get("listen", ()))
        return {**conf, "listen": listen, "alerts": alerts, "needs": needs, "groups": groups}
    told = {key: value for key, value in whole.items() if key not in {"enabled", "user"}}
    for key in ("listen", "socket", "xmlrpc"):
        told[key] = _written(told[key]) if key == "listen" else str(told[key])
    told |= {"owner": reading.host.euid, "roles": _roles(reading)}
    told["remotes"] = [{"name": name, **values} for name, values in reading.remotes.items()]
    return {**conf, **told, "alerts": list(alerts), "history": f"{reading.built_in['STATE_DIR']}/{OBSERVER}"}


def _roles(reading: Values) -> dict[str, tuple[str, ...]]:
    """The roles on the control socket: in the gateway they apply to supervisord's protocol alone."""
    if reading.gateway is None or not reading.gateway.values["xmlrpc"]:
        return {}
    given = {"viewers": reading.roles.viewers, "operators": reading.roles.operators, "admins": reading.roles.admins}
    return {role: words for role, words in given.items() if words}


def _url(whole: Mapping[str, Any]) -> str:
    """The URL for a browser, as far as the section gives it; "" if it does not."""
    secure, hosts, addresses = whole["tls_cert"] or whole["behind_proxy"], whole["hosts"], whole["listen"]
    if whole["behind_proxy"] and hosts:
        return f"https://{hosts[0]}/"
    if not addresses:
        return ""
    at = f"{hosts[0]}:{addresses[0].port}" if hosts else str(addresses[0])
    return f"{'https' if secure else 'http'}://{at}/"


def public_url(whole: Mapping[str, Any]) -> str:
    """The URL by a name that the section gives; "" where it gives an address at most, of which the port may be another."""
    named = whole["behind_proxy"] or (whole["tls_cert"] and not any(each.more_ports for each in whole["listen"]))
    return whole["url"] or (_url(whole) if named and whole["hosts"] else "")


def _written(addresses: tuple[Listen, ...]) -> list[str]:
    return [str(address) for address in addresses]


def _shown(reading: Values, name: str) -> dict[str, tuple[object, str]]:
    """The values of the unit's sections, by key, as `describe.keys`; an alert's keys are prefixed with its name."""
    shown: dict[str, tuple[object, str]] = {}
    if reading.gateway is not None:
        shown = _keys(schema.GATEWAY, reading.gateway.values, "")
        shown |= {role: (words, ", ".join(words)) for role, words in _roles(reading).items()}
        for remote, values in reading.remotes.items():
            shown |= _keys(schema.HOST, values, f"host:{remote} ")
    if name == OBSERVER:
        shown = {key: each for key, each in shown.items() if key in {"user", "url", "listen"}}
        for alert in reading.alerts.values():
            if alert.values["enabled"]:
                shown |= _keys(schema.ALERT, alert.values, f"alert:{alert.name} ")
    return shown


def _keys(kind: str, values: Mapping[str, Any], prefix: str) -> dict[str, tuple[object, str]]:
    keys = schema.keys_of(kind)
    return {
        f"{prefix}{name}": (values[name], key.value.show(values[name]) if values[name] or key.default else "")
        for name, key in keys.items()
        if name != "enabled"
    }
