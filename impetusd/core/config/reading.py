"""Read the values of one INI file individually: parse, resolve, or report a problem."""

from __future__ import annotations

from dataclasses import replace
from posixpath import join, normpath

from impetusd.core.config import envfile, habits, ini, schema, shell
from impetusd.core.config.location import Reading, names_instance, own_section
from impetusd.core.config.model import ANY_V4, ANY_V6, Access, Listen, LogAccess, Settings, user_and_group
from impetusd.core.config.schema import header

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from typing import Any

    from impetusd.core.config.ini import Entry, Section
    from impetusd.core.config.location import Paths
    from impetusd.core.config.model import Group, Health, Host, Timer, Unit
    from impetusd.core.config.problem import Problem
    from impetusd.core.config.schema import Key

RESERVED_NAME = "impetusd"
LONGEST_NAME = 100  # a unit's name is a part of file names
MOST_SUGGESTIONS = 50  # looking for the nearest word takes a millisecond: not for each line of a file that is no INI
# Of all instances together, so that ${INSTANCE} has no one value in them.
WHOLE = frozenset({"autostart", "depends_on", "enabled", "increment_var", "instances"})


class Values(Reading):
    """The whole file, on its way to a Config."""

    def __init__(
        self,
        path: str,
        environ: Mapping[str, str],
        problems: list[Problem],
        host: Host,
        instance: int,
        *,
        rules: int,
        former: bool = False,
    ) -> None:
        super().__init__(path, environ, problems, rules=rules, former=former)
        self.host = host
        self.index = instance
        self.units: dict[str, Unit] = {}
        self.timers: dict[str, Timer] = {}
        self.checks: dict[str, Health] = {}
        self.groups: dict[str, Group] = {}
        self.gateway: Settings | None = None
        self.roles = Access()  # of the control socket
        self.alerts: dict[str, Settings] = {}
        self.headers: dict[str, Section] = {}  # of `units`, `timers` and `groups`, which share their names
        self.remotes: dict[str, dict[str, Any]] = {}  # other hosts: the values of [host:NAME]
        self.alert_headers: dict[str, Section] = {}  # the sections of `alerts`
        self.remote_headers: dict[str, Section] = {}  # the sections of `remotes`
        self.check_headers: dict[str, Section] = {}  # the sections of `checks`
        self.misnamed: set[str] = set()  # reported once, not again wherever something refers to them
        self.envs: dict[str, dict[str, str]] = {}  # by the unit they are for; "" are all
        self.env_entries: dict[str, dict[str, Entry]] = {}  # what they were read from
        self.listens: dict[str, list[tuple[Listen, ...]]] = {}  # by unit, of each instance: where these may differ
        self.defaults: dict[str, dict[str, Any]] = {}  # kind of section -> key -> parsed default
        self.shared: dict[tuple[str, Any], Any] = {}  # each value of a key once, however many sections set it
        self.suggested = 0
        self.warnings: list[Problem] = []  # of what may be meant as it is written

    def env_of(self, name: str) -> dict[str, str]:
        """The variables of a unit: those of [env], and over them those of its [env:NAME]; without one, the same for all."""
        common, own = self.envs.setdefault("", {}), self.envs.get(name)
        return {**common, **own} if own else common

    def env_entries_of(self, name: str) -> dict[str, Entry]:
        """What they were read from."""
        return {**self.env_entries.get("", {}), **self.env_entries.get(name, {})}

    def value(self, key: Key, entry: Entry) -> Any:
        """The entry's value, parsed and resolved; `key.value.none` for nothing; None after a problem."""
        if "\n" in entry.value and not key.value.lines:
            first = ini.brief(entry.value.partition("\n")[0])
            self.problem(entry, f"{key.name} = {first}: continues in the indented line below; remove its indentation")
            return None
        secret = key.value in {schema.COMMAND, schema.HEADERS, schema.TOKEN}
        written = key.name if key.value in {schema.HEADERS, schema.TOKEN} else f"{key.name} = {ini.brief(entry.value)}"
        if key.name in WHOLE and names_instance(entry.value):
            self.problem(entry, f"{written}: it applies to all instances of the unit; omit the instance number")
            return None
        lost = self.indented_key(key, entry)
        if lost:
            text = f"the next line, which sets {lost}, is indented and would become part of {key.name}"
            self.problem(entry, f"{text}; remove the indentation, or quote the value if that is intended")
            return None
        pieces = self.expand(written, entry, quotes=key.value is schema.COMMAND)
        if pieces is None:
            return None
        text = ini.joined(pieces).strip()
        if not text:
            return key.value.none
        try:
            value = key.value.parse(pieces if key.value is schema.COMMAND else text)
            if key.value is schema.COMMAND and self.rules > 1 and (fault := shell.needed(pieces)):
                raise ValueError(fault)
            if key.value is schema.READY and self.rules > 1 and (fault := schema.pattern_fault(value)):
                raise ValueError(fault)
        except ValueError as error:
            # The value of a reference is shown, except in a command or a header: there it may be a password.
            meant = "" if secret or "$" not in entry.value else f" (that is {ini.brief(text)})"
            comment = "; a comment after a value starts with ;" if " #" in entry.value else ""
            self.problem(entry, f"{written}{meant}: {error}{comment}")
            return None
        return self.resolved(key, value)

    def indented_key(self, key: Key, entry: Entry) -> str:
        """A key of the same section that is set in a line which belongs to this one's value; "" for none."""
        if self.rules < 2 or "\n" not in entry.value:
            return ""
        for line in ini.continuations(entry.value):
            name, equals, _ = line.partition("=")
            name = name.strip()
            limit = key.value is schema.RLIMITS and name == "nice"
            if equals and not limit and any(name in schema.keys_of(section) for section in key.sections):
                return name
        return ""

    def resolved(self, key: Key, value: Any) -> Any:
        """The value with paths made absolute, and `max` and -1 made numbers."""
        if key.value is schema.LOG_FILE and self.rules > 1 and value in schema.LOG_STREAMS:
            return schema.LOG_STREAMS[value]
        if key.value in {schema.PATH, schema.LOG_FILE}:
            return self.absolute(value)
        if key.value is schema.PATHS:
            return tuple(map(self.absolute, value))
        if key.value is schema.ENV_FILES:
            named = map(envfile.named, value)
            return tuple(f"{'-' if optional else ''}{self.absolute(path)}" for path, optional in named)
        if key.value is schema.INTERPRETER and "/" in value:
            return self.absolute(value)
        if key.value is schema.LISTEN:
            return tuple(
                replace(one, path=self.absolute(one.path)) if one.path else self.of_v6(one, value) for one in value
            )
        if isinstance(value, Listen) and value.path:
            return replace(value, path=self.absolute(value.path))
        if key.value is schema.INSTANCES:
            return tuple(max(1, self.host.cpus + number) if number < 1 else number for number in value)
        return value

    def of_v6(self, one: Listen, beside: tuple[Listen, ...]) -> Listen:
        """Beside the wildcard of IPv4, [::] can only be that of IPv6. By the former rules it never was anything else."""
        if one.host != ANY_V6 or one.v6only is not None:
            return one
        alone = self.rules < 2 or any((each.host, each.port) == (ANY_V4, one.port) for each in beside)
        return replace(one, v6only=True) if alone else one

    def absolute(self, path: str) -> str:
        return normpath(join(self.built_in["BASE_DIR"], path))

    def all_defaults(self, kind: str) -> dict[str, Any]:
        """The default of each key of a section. Do not modify it."""
        keys, known = schema.keys_of(kind), self.defaults.get(kind, {})
        return known if len(known) == len(keys) else {name: self.default(kind, key) for name, key in keys.items()}

    def default(self, kind: str, key: Key) -> Any:
        known = self.defaults.setdefault(kind, {})
        if key.name not in known:
            text = key.default
            if "$" in text:
                text = ini.joined(ini.expand(text, {}, self.built_in)[0])
            known[key.name] = self.resolved(key, key.value.parse(text)) if text else key.value.none
        return known[key.name]

    def nearest(self, word: str, known: Iterable[str]) -> str:
        self.suggested += 1
        return schema.nearest(word, known) if self.suggested <= MOST_SUGGESTIONS else ""

    # The sections and their keys.

    def unknown_keys(self, section: Section, kind: str) -> None:
        known = schema.keys_of(kind)
        for name, entry in section.entries.items():
            if name in known:
                continue
            said = ini.brief(name)
            unknown = f"unknown key '{said}' in [{ini.brief(section.name)}]"
            if advice := habits.advice(name, known):
                self.problem(entry, f"{unknown}: {advice}")
                continue
            others = dict.fromkeys(other for key in schema.KEYS if key.name == name for other in key.sections)
            if others:
                *most, last = map(header, others)
                places = f"{', '.join(most)} and {last}" if most else last
                self.problem(entry, f"'{said}' is a key of {places}, not of {header(kind)}; move or remove it")
            elif near := self.nearest(name.lower(), known):
                self.problem(entry, f"{unknown}; did you mean {near}?")
            else:
                self.problem(entry, f"{unknown}; `impetusd init` writes a file with all keys")

    def values(self, section: Section, kind: str) -> tuple[dict[str, Any], set[str]]:
        """Each key's value, and the keys that have a problem: these have their default."""
        keys = schema.keys_of(kind)
        values = self.all_defaults(kind).copy()
        faulty: set[str] = set()
        for key in [key for name, key in keys.items() if name in section.entries]:
            value = self.value(key, section.entries[key.name])
            if value is None:
                faulty.add(key.name)
            value = self.or_default(kind, key, value)
            values[key.name] = self.shared.setdefault((key.name, value), value)
        return values, faulty

    def or_default(self, kind: str, key: Key, value: Any) -> Any:
        """A number of 0 and a False are values; none is "" or ()."""
        return self.default(kind, key) if value is None or value in ("", ()) else value

    def lines(self, section: Section) -> dict[str, int]:
        """How many lines below the section's header each key stands that it sets: the same for sections that are alike."""
        below = {key: entry.line - section.line for key, entry in section.entries.items()}
        found: dict[str, int] = self.shared.setdefault(("", tuple(below.items())), below)
        return found

    def named_section(
        self, section: Section, kind: str, name: str, taken: dict[str, Section]
    ) -> tuple[dict[str, Any], set[str]] | None:
        """Its `values`, and `taken` has it; None if its name is not valid, when its keys are reported all the same."""
        self.unknown_keys(section, kind)
        valid = self.name(section, kind, name, taken)
        found = self.values(section, kind)
        if not valid:
            return None
        taken[name] = section
        return found

    def required(self, section: Section, kind: str, key: str, values: dict[str, Any], faulty: set[str]) -> None:
        if not values[key] and key not in faulty:
            example = schema.keys_of(kind)[key].example
            at = place(section, key)
            self.problem(at, f"[{section.name}] has no {key}; add one, like {key} = {example}")

    def name(self, section: Section, kind: str, name: str, taken: Mapping[str, Section]) -> bool:
        """True if the section's name is valid."""
        shown = f"[{ini.brief(section.name)}]"
        if not name:
            self.problem(section, f"{shown} has no name; write [{kind}:NAME]")
        elif name == RESERVED_NAME:
            self.misnamed.add(name)
            self.problem(section, f"{shown}: impetusd itself uses that name; choose another")
        elif not is_unit_name(name):
            self.misnamed.add(name)
            form = "letters, digits, '_', '-' and '.', and starts with one of the first three"
            text = f"{shown}: a name has at most {LONGEST_NAME} {form}; choose another"
            self.problem(section, text)
        elif name not in taken:
            return True
        else:
            other = taken[name]
            if parts(other)[0] != kind:
                at = f"on line {other.line}" if other.file == section.file else f"at {other.file}:{other.line}"
                text = f"[{ini.brief(other.name)}] {at} already has that name; choose another"
                self.problem(section, f"{shown}: {text}")
        return False

    def socket_path(self, sections: list[Section], paths: Paths) -> None:
        """The kernel's limit for the path of a socket."""
        socket = paths.control_socket
        if size(socket) <= schema.UNIX_PATH_BYTES:
            return
        own = own_section(sections, self.path)
        entries = own.entries if own else {}
        at = next((entries[name] for name in ("run_dir", "base_dir") if name in entries), own)
        self.problem(
            at,
            f"{ini.brief(socket, 120)} would be {size(socket)} bytes long, but a socket path is limited to"
            f" {schema.UNIX_PATH_BYTES}; set run_dir in [impetusd] to a shorter path",
        )

    def access(self, sections: list[Section]) -> Access:
        """Who may use the control socket."""
        own = own_section(sections, self.path)
        given: dict[str, tuple[str, ...]] = {}
        for name in ("viewers", "operators", "admins"):
            entry = own.entries.get(name) if own else None
            given[name] = (self.value(schema.keys_of(schema.IMPETUSD)[name], entry) if entry else None) or ()
            for word in given[name]:
                who = word.removeprefix("@")
                what, exists = ("group", self.host.group_exists) if who != word else ("user", self.host.user_exists)
                if not who.isdecimal() and not exists(who):  # a number needs no name, least of all in a container
                    self.problem(
                        entry, f"{name}: no {what} '{ini.brief(who)}' on this host; create it, or remove it here"
                    )
        return Access(**given)

    def log_access(self, sections: list[Section]) -> LogAccess:
        """Who may read the log files."""
        own, keys = own_section(sections, self.path), schema.keys_of(schema.IMPETUSD)
        mode, at = ((own.entries.get(name) if own else None) for name in ("log_mode", "log_owner"))
        owner = (self.value(keys["log_owner"], at) if at else "") or ""
        user, group = user_and_group(owner)
        if user and self.host.euid != 0:
            text = "only root can assign files to another user; write :GROUP, or start impetusd as root"
            self.problem(at, f"log_owner = {ini.brief(owner)}: {text}")
        for what, name, exists in (("user", user, self.host.user_exists), ("group", group, self.host.group_exists)):
            if name and (self.host.euid == 0 or what == "group") and not exists(name):
                self.problem(at, f"log_owner: no {what} {ini.brief(name)} on this host; create it, or use another")
        return LogAccess(log_mode=(self.value(keys["log_mode"], mode) if mode else None) or None, log_owner=owner)


def parts(section: Section) -> tuple[str, str, str]:
    kind, colon, name = section.name.partition(":")
    return kind.strip(), colon, name.strip()


def place(section: Section, *keys: str) -> Section | Entry:
    """The first of these keys that is set, or else the header: where to report a problem with them."""
    return next((section.entries[key] for key in keys if key in section.entries), section)


def size(path: str) -> int:
    return len(path.encode("utf-8", "surrogatepass"))


def is_unit_name(name: str) -> bool:
    letters = name.isascii() and all(char.isalnum() or char in "_.-" for char in name)
    return letters and name[0] not in ".-" and len(name) <= LONGEST_NAME
