"""Checks of a section's values against each other and the machine. Each function reports problems to `reading`."""

from __future__ import annotations

import fnmatch

from impetusd.core import units
from impetusd.core.config import ini, schema
from impetusd.core.config import node as nodes
from impetusd.core.config.model import Autorestart, Kind, Ready, user_and_group
from impetusd.core.config.reading import place, size

TYPE_CHECKING = False  # typing takes 2 ms to import, and every command that starts something comes by here
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from typing import Any

    from impetusd.core.config.ini import Section
    from impetusd.core.config.model import Listen
    from impetusd.core.config.reading import Values

# Keys that mean nothing unless one of others is set.
COMPANIONS = {
    "timezone": ("cron", "cron_restart"),
    "watch_ignore": ("watch",),
    "watch_delay": ("watch",),
    "memory_hold": ("max_memory_restart",),
    "log_keep": ("log_max_size", "log_max_age"),
    "log_compress": ("log_max_size", "log_max_age"),
    "retry_delay": ("retries",),
    "node": ("listen",),
    "trusted_proxies": ("behind_proxy",),
    "tls_cert": ("tls_key",),
    "tls_key": ("tls_cert",),
    "from": ("to",),
    "smtp": ("to",),
    "smtp_user": ("smtp_password",),
    "smtp_password": ("smtp_user",),
    "heartbeat_every": ("heartbeat",),
}
# Keys of a pool that are for some protocols only.
OF_PROTOCOLS = {"threads": ("wsgi",), "root_path": ("asgi", "wsgi")}
# Keys of a health check that are for one way of asking only.
OF_HTTP = frozenset({"status", "body", "headers", "socket", "ca_file", "verify"})
OF_EXEC = frozenset(
    {"cwd", "user", "group", "no_new_privs", "capabilities", "umask", "nice", "env_file", "env_pass", "kill_timeout"}
)
# Set by impetusd for each process; what an [env:…] put there would be lost.
OWN_VARIABLES = frozenset({
    "IMPETUSD_CELLS_FD", "IMPETUSD_CHANNEL", "IMPETUSD_CHANNEL_FD", "IMPETUSD_DAEMON", "IMPETUSD_FORK_FD", "IMPETUSD_GATEWAY", "IMPETUSD_NAME", "IMPETUSD_NODE",
    "IMPETUSD_OBSERVER", "IMPETUSD_UNIT", "IMPETUSD_WORKER",
    "INSTANCE", "INVOCATION_ID", "LISTEN_FDNAMES", "LISTEN_FDS", "LISTEN_PID", "NOTIFY_SOCKET",
    "WATCHDOG_PID", "WATCHDOG_USEC",
})  # fmt: skip


def parked(reading: Values, section: Section, per_instance: frozenset[str], values: dict[str, Any]) -> None:
    """A parked worker takes the place of any other."""
    if values.get("standby") and (per_instance or values["increment_var"]):
        why = "${INSTANCE}" if per_instance else "increment_var"
        text = f"standby = {values['standby']}: a spare worker must be able to replace any instance, but {why} makes instances differ; write standby = 0"
        reading.problem(place(section, "standby"), text)


def agreement(reading: Values, section: Section, kind: Kind, values: dict[str, Any], faulty: set[str]) -> None:
    oneshot(reading, section, values)
    if kind is Kind.PROGRAM:
        node(reading, section, values)
    companions(reading, section, kind.value, values, faulty)
    timeouts(reading, section, kind, values, faulty)
    listening(reading, section, values["listen"])
    owners(reading, section, values["listen"])
    if values["watch"] and not reading.host.has_watch:
        text = "watch needs the package watchfiles, which is not installed; run: pip install 'impetusd[watch]'"
        reading.problem(place(section, "watch"), text)
    restart, kill = "max_memory_restart", "max_memory_kill"
    if not faulty & {restart, kill} and 0 < values[kill] <= values[restart]:
        sizes = [f"{key} ({schema.show_size(values[key])})" for key in (kill, restart)]
        reading.problem(place(section, kill), f"{sizes[0]} must be above {sizes[1]}; change one of them")
    for key in (restart, kill):
        if not faulty & {key, "memory_max"} and 0 < values["memory_max"] <= values[key]:
            sizes = [f"{each} ({schema.show_size(values[each])})" for each in ("memory_max", key)]
            reading.problem(place(section, "memory_max"), f"{sizes[0]} must be above {sizes[1]}; change one of them")
    if values["critical"] and values["retry_after"]:
        text = "critical stops everything when the unit is FATAL, but retry_after retries it; keep one of them"
        reading.problem(place(section, "critical"), text)
    if kind is Kind.POOL:
        for key, others in OF_PROTOCOLS.items():
            if key in section.entries and values["protocol"] not in {"auto", *others}:
                text = f"{key} applies only to {' and '.join(others)}, but protocol = {values['protocol']}; remove one of them"
                reading.problem(place(section, key), text)
    if kind is Kind.PROGRAM and values["ready"] and values["wait_ready"]:
        text = "ready and wait_ready = yes are mutually exclusive; keep one of them"
        reading.problem(place(section, "ready"), text)


# Keys of what goes on running.
OF_SIMPLE = ("wait_ready", "ready", "watchdog", "watch", "cron_restart", "max_age")


def oneshot(reading: Values, section: Section, values: dict[str, Any]) -> None:
    """Units that end by themselves, determined before defaults: by default not restarted and without a time limit."""
    if values.get("type") != "oneshot":
        return
    if "autorestart" not in section.entries:
        values["autorestart"] = Autorestart.NEVER
    elif values["autorestart"] is Autorestart.ALWAYS:
        text = "autorestart = always does not suit type = oneshot, which exits when its work is done; write on-failure or never"
        reading.problem(place(section, "autorestart"), text)
    if "listen_timeout" not in section.entries:
        values["listen_timeout"] = 0.0
    for key in OF_SIMPLE:
        if values[key]:
            reading.problem(place(section, key), f"{key} does not apply to type = oneshot; remove it")


def node(reading: Values, section: Section, values: dict[str, Any]) -> None:
    """Node, which is ready when it listens, unless something else is said."""
    loaded = nodes.loads(values["command"], values["listen"], values["node"], reading.rules)
    ready = values["ready"]
    if loaded and not ready and values["type"] != "oneshot" and "wait_ready" not in section.entries:
        values["ready"] = Ready("listen", "")
    elif not loaded and ready and ready.kind == "listen":
        text = (
            "ready = listen is only for Node programs with listen; write node = yes if this is one, or wait_ready = yes"
        )
        reading.problem(place(section, "ready"), text)


def companions(reading: Values, section: Section, kind: str, values: dict[str, Any], faulty: set[str]) -> None:
    keys = schema.keys_of(kind)
    for name, others in COMPANIONS.items():
        if name not in keys or name not in section.entries or name in faulty:
            continue
        if values[name] == reading.default(kind, keys[name]):
            continue
        known = [other for other in others if other in keys]
        if not any(values[other] or other in faulty for other in known):
            needed = " or ".join(known)
            reading.problem(
                place(section, name), f"{name} has no effect without {needed}; set that too, or remove {name}"
            )


def target(reading: Values, section: Section, target: str, http: str) -> None:
    """Check the target: `http` is the check's URL, unless it goes through a socket."""
    if target in reading.misnamed:
        return
    at = place(section, "target")
    if target not in reading.units:
        own = "target" not in section.entries
        said = f"[{ini.brief(section.name)}]" if own else "target"
        what = "a timer cannot be checked" if target in reading.timers else f"no unit '{ini.brief(target)}'"
        near = reading.nearest(target, reading.units)
        form = f"[health:{near}], or target = {near}" if own else near
        hint = f"did you mean {form}?" if near else "set target to the name of a pool or program"
        reading.problem(at, f"{said}: {what}; {hint}")
    elif http.startswith("/") and reading.units[target].kind is not Kind.POOL:
        said = ini.brief(http)
        text = (
            f"http = {said}: a path without a host works only for a pool; write a URL, like http://127.0.0.1:8080{said}"
        )
        reading.problem(place(section, "http"), text)


def asking(reading: Values, section: Section, way: str, values: dict[str, Any], faulty: set[str]) -> None:
    """Check a health check's keys against its `way` of probing."""
    for keys, whose in ((OF_HTTP, "http"), (OF_EXEC, "exec")):
        for key in section.entries:
            if way not in {"", whose} and key in keys:
                text = f"{key} applies only to {whose}, but this check uses {way}; remove it"
                reading.problem(place(section, key), text)
    http = values["http"]
    for key, idle in (("ca_file", ""), ("verify", True)):
        if way == "http" and http and not http.startswith("https:") and values[key] != idle:
            reading.problem(place(section, key), f"{key} applies only to https; remove it, or use an https URL")
    if not faulty & {"timeout", "interval"} and values["timeout"] > values["interval"]:
        ends = [f"{key} ({units.show_duration(values[key])})" for key in ("timeout", "interval")]
        at = place(section, "timeout", "interval")
        reading.problem(at, f"{ends[0]} must not be longer than {ends[1]}; change one of them")
    if size(values["socket"]) > schema.UNIX_PATH_BYTES:
        reading.problem(
            place(section, "socket"),
            f"socket: the path is {size(values['socket'])} bytes long, but a socket path is limited to"
            f" {schema.UNIX_PATH_BYTES}; use a shorter one",
        )


def increment(reading: Values, name: str, env: Mapping[str, str], values: dict[str, Any]) -> None:
    """increment_var against the [env:…], of which values are not shown."""
    variable = values["increment_var"]
    if not variable:
        return
    section = reading.headers[name]
    at = place(section, "increment_var")
    if variable in OWN_VARIABLES:
        reading.problem(at, f"increment_var = {variable}: impetusd sets this variable itself; choose another")
    elif variable not in env and not values["env_file"]:
        reading.problem(at, f"increment_var = {variable}: this variable is not set; set {variable} in [env:{name}]")
    elif variable in env and not is_number(env[variable]):
        entry = reading.env_entries_of(name)[variable]
        text = f"{variable} must be a whole number, because increment_var of [{ini.brief(section.name)}] adds to it"
        reading.problem(entry, f"{text}; write one")


def identity(reading: Values, section: Section, values: dict[str, Any]) -> None:
    user, group = user_and_group(values["user"])
    if group and values["group"]:
        text = f"group = {ini.brief(values['group'])}: user already sets a group after the colon; remove one of them"
        reading.problem(place(section, "group"), text)
    host = reading.host
    for key in ("user", "group") if host.euid != 0 else ():
        if values[key]:
            text = (
                f"{key} = {ini.brief(values[key])} needs impetusd to run as root; remove it, or start impetusd as root"
            )
            reading.problem(place(section, key), text)
    named = (("user", "user", user), ("user", "group", group), ("group", "group", values["group"]))
    for key, what, name in named if host.euid == 0 else ():
        exists = host.user_exists if what == "user" else host.group_exists
        if name and not exists(name):
            text = f"{key} = {ini.brief(values[key])}: no such {what} on this host; create it, or use another"
            reading.problem(place(section, key), text)


def owners(reading: Values, section: Section, addresses: Iterable[Listen], key: str = "listen") -> None:
    """Check the owners of the unix sockets among `addresses`."""
    for address in addresses:
        user, _, group = address.owner.partition(":")
        at, host = place(section, key), reading.host
        if user and host.euid != 0:
            text = (
                f"owner={ini.brief(address.owner)} needs impetusd to run as root; remove it, or start impetusd as root"
            )
            reading.problem(at, f"{key}: {text}")
        for what, name, exists in (("user", user, host.user_exists), ("group", group, host.group_exists)):
            if name and (host.euid == 0 or what == "group") and not exists(name):
                reading.problem(at, f"{key}: no {what} {ini.brief(name)} on this host; create it, or use another")


def timeouts(reading: Values, section: Section, kind: Kind, values: dict[str, Any], faulty: set[str]) -> None:
    def said(key: str) -> str:
        return f"{key} ({units.show_duration(values[key])})"

    drain, kill = "drain_timeout", "kill_timeout"
    if kind is Kind.POOL and not faulty & {drain, kill} and values[drain] >= values[kill]:
        text = f"{said(drain)} must be shorter than {said(kill)}, or connections are cut off; change one of them"
        reading.problem(place(section, drain, kill), text)
    first, most = "exp_backoff_restart_delay", "exp_backoff_max_delay"
    if not faulty & {first, most} and values[most] < values[first]:
        text = f"{said(most)} must not be shorter than {said(first)}; change one of them"
        reading.problem(place(section, most, first), text)


def listening(reading: Values, section: Section, addresses: Iterable[Listen], key: str = "listen") -> None:
    for address in addresses:
        if reading.rules > 1 and address.path.rpartition("/")[2].startswith("@"):
            text = "abstract sockets are not supported, because any user could connect; write a path without @"
            reading.problem(place(section, key), f"{key} = {ini.brief(str(address), 120)}: {text}")
        if size(address.path) > schema.UNIX_PATH_BYTES:
            text = (
                f"{key} = {ini.brief(str(address), 120)}: the path is {size(address.path)} bytes long, but a socket"
                f" path is limited to {schema.UNIX_PATH_BYTES}; set {key} to a shorter one, like"
                f" unix:${{RUN_DIR}}/{section.name.rpartition(':')[2]}.sock"
            )
            reading.problem(place(section, key), text)


def matches(pattern: str, names: Iterable[str]) -> bool:
    """True if it is one of the names, or matches one."""
    return any(fnmatch.fnmatchcase(name, pattern) for name in names)


def is_number(text: str) -> bool:
    """True if increment_var can start counting from it."""
    digits = text.strip().removeprefix("-")
    return digits.isascii() and digits.isdigit() and len(digits) < 19
