"""From the text of an INI file to a `Config`, or to every problem in it at once.

`parse` is the one door: `impetusd check`, `start` and a reload all come through it, and it does nothing but read. The
machine it needs to know about is an argument (`Host`), as are the environment and the file's name.

`locate` is for those who only look for a running instance (`status`, `stop`): it reads where the instance lives and
overlooks every mistake that does not concern that.
"""

from __future__ import annotations

from posixpath import dirname, join, normpath

from impetusd.core import ini, schema, tree
from impetusd.core.model import Config, ConfigError, Kind, Listen, Paths, Problem, Unit

TYPE_CHECKING = False  # typing takes 2 ms to import, and `impetusd status` comes by here
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from typing import Any

    from impetusd.core.ini import Entry, Section
    from impetusd.core.model import Host
    from impetusd.core.schema import Key

# What a `${}` may name besides the environment; in this order they become known.
DIRECTORIES = {"base_dir": "BASE_DIR", "run_dir": "RUN_DIR", "state_dir": "STATE_DIR", "log_dir": "LOG_DIR"}
RESERVED_NAME = "impetusd"
LONGEST_NAME = 100  # a unit's name is a part of file names
MOST_SUGGESTIONS = 50  # looking for the nearest word takes a millisecond: not for each line of a file that is no INI
# Set by impetusd for each process; what an [env:…] put there would be lost.
OWN_VARIABLES = frozenset({
    "IMPETUSD_CHANNEL_FD", "IMPETUSD_FORK_FD", "IMPETUSD_NAME", "IMPETUSD_UNIT", "IMPETUSD_WORKER",
    "INSTANCE", "INVOCATION_ID", "LISTEN_FDNAMES", "LISTEN_FDS", "LISTEN_PID", "NOTIFY_SOCKET",
})  # fmt: skip


def parse(text: str, path: str, environ: Mapping[str, str], host: Host) -> Config:
    """The configuration that `text` describes. `path` is absolute, and what messages call the file.

    Raises ConfigError with every problem, by line.
    """
    sections, problems = ini.parse(text, path)
    reading = _Units(path, environ, problems, host)
    paths = reading.paths(sections)
    reading.socket_path(sections, paths)
    reading.environments(sections)
    reading.units_of(sections)
    reading.relations(sections)
    if reading.problems:
        raise _error(reading.problems)
    return Config(paths=paths, units=reading.units)


def locate(text: str, path: str, environ: Mapping[str, str]) -> Paths:
    """Where the instance of this file lives. `path` is absolute.

    Raises ConfigError only where [impetusd] itself leaves that open, as with `run_dir = ${UNSET}`.
    """
    sections, _ = ini.parse(text, path)
    reading = _Reading(path, environ, [])
    paths = reading.paths(sections)
    if reading.problems:
        raise _error(reading.problems)
    return paths


def describe(unit: Unit) -> dict[str, str | list[str]]:
    """Each key that the unit's section takes, with its value as one would write it; then the names in its `env`.

    Values of variables are left out: they are where secrets are.
    """
    told: dict[str, str | list[str]] = {
        name: key.value.show(getattr(unit, name)) for name, key in schema.keys_of(unit.kind.value).items()
    }
    told["env"] = sorted(unit.env)
    return told


def _error(problems: Iterable[Problem]) -> ConfigError:
    return ConfigError(tuple(sorted(dict.fromkeys(problems), key=lambda problem: problem.line)))


class _Reading:
    """One file: its references, and where its instance lives. Problems gather in `problems`."""

    def __init__(self, path: str, environ: Mapping[str, str], problems: list[Problem]) -> None:
        if not path.startswith("/"):
            raise ValueError(f"path must be absolute, not {path!r}")
        self.path = path
        self.environ = environ
        self.problems = problems
        self.built_in = {"CONF_DIR": dirname(normpath(path))}

    def problem(self, line: int, text: str) -> None:
        self.problems.append(Problem(self.path, line, text))

    def expand(self, said: str, entry: Entry, *, quotes: bool = False) -> list[ini.Piece] | None:
        """The entry's pieces; None after a complaint. `quotes`: those around the whole value are a part of it."""
        value = entry.value if quotes else ini.unquoted(entry.value)
        pieces, complaints = ini.expand(value, self.environ, self.built_in)
        for complaint in complaints:
            self.problem(entry.line, f"{said}: {complaint}")
        return None if complaints else pieces

    def paths(self, sections: list[Section]) -> Paths:
        """Where the instance lives; makes the directories known to every reference that is read later."""
        own = _own(sections)
        entries = own.entries if own else {}
        system = self.path.startswith("/etc/")
        keys = schema.keys_of(schema.IMPETUSD)
        for name, variable in DIRECTORIES.items():
            base = self.built_in.get("BASE_DIR", self.built_in["CONF_DIR"])
            value = (schema.SYSTEM_DIRS.get(name) if system else None) or keys[name].default
            entry = entries.get(name)
            if entry:
                value = self.directory(name, entry) or value
            self.built_in[variable] = normpath(join(base, value))
        return Paths(conf=normpath(self.path), **{name: self.built_in[known] for name, known in DIRECTORIES.items()})

    def directory(self, name: str, entry: Entry) -> str:
        later = [known for known in DIRECTORIES.values() if known not in self.built_in]
        for known in later:
            if any(f"${{{known}{end}" in entry.value for end in "}:"):
                self.problem(
                    entry.line, f"{name} = {ini.brief(entry.value)}: ${{{known}}} is not known here yet; write the path"
                )
                return ""
        if "\n" in entry.value:
            self.problem(entry.line, f"{name} goes on in the indented line below; remove its indentation")
            return ""
        pieces = self.expand(f"{name} = {ini.brief(entry.value)}", entry)
        return ini.joined(pieces).strip() if pieces else ""


class _Units(_Reading):
    """The whole file, on its way to a Config."""

    def __init__(self, path: str, environ: Mapping[str, str], problems: list[Problem], host: Host) -> None:
        super().__init__(path, environ, problems)
        self.host = host
        self.units: dict[str, Unit] = {}
        self.headers: dict[str, Section] = {}  # the sections of `units`
        self.misnamed: set[str] = set()  # told once, and not again wherever something refers to them
        self.envs: dict[str, dict[str, str]] = {}  # by the unit they are for
        self.defaults: dict[str, dict[str, Any]] = {}  # kind of section -> key -> parsed default
        self.suggested = 0

    def value(self, key: Key, entry: Entry) -> Any:
        """What the entry says, parsed and resolved; `key.value.none` for nothing; None after a problem."""
        if "\n" in entry.value and not key.value.lines:
            first = ini.brief(entry.value.partition("\n")[0])
            self.problem(
                entry.line, f"{key.name} = {first}: goes on in the indented line below; remove its indentation"
            )
            return None
        written = f"{key.name} = {ini.brief(entry.value)}"
        pieces = self.expand(written, entry, quotes=key.value is schema.COMMAND)
        if pieces is None:
            return None
        text = ini.joined(pieces).strip()
        if not text:
            return key.value.none
        try:
            value = key.value.parse(pieces if key.value is schema.COMMAND else text)
        except ValueError as error:
            # What a reference stood for is told, except of a command: there it may be a password.
            hidden = key.value is schema.COMMAND or "$" not in entry.value
            meant = "" if hidden else f" (that is {ini.brief(text)})"
            comment = "; a comment behind a value begins with ;" if " #" in entry.value else ""
            self.problem(entry.line, f"{written}{meant}: {error}{comment}")
            return None
        return self.resolved(key, value)

    def resolved(self, key: Key, value: Any) -> Any:
        """The value with paths made absolute and `max` made a number."""
        if key.value is schema.PATH:
            return self.absolute(value)
        if key.value is schema.PATHS:
            return tuple(map(self.absolute, value))
        if key.value is schema.INTERPRETER and "/" in value:
            return self.absolute(value)
        if key.value is schema.LISTEN:
            return tuple(Listen("", 0, self.absolute(one.path)) if one.path else one for one in value)
        if key.value is schema.INSTANCES and value == schema.ONE_PER_CPU:
            return max(1, self.host.cpus)
        return value

    def absolute(self, path: str) -> str:
        return normpath(join(self.built_in["BASE_DIR"], path))

    def default(self, kind: str, key: Key) -> Any:
        known = self.defaults.setdefault(kind, {})
        if key.name not in known:
            text = ini.joined(ini.expand(key.default, {}, self.built_in)[0])
            known[key.name] = self.resolved(key, key.value.parse(text)) if text else key.value.none
        return known[key.name]

    def nearest(self, word: str, known: Iterable[str]) -> str:
        self.suggested += 1
        return schema.nearest(word, known) if self.suggested <= MOST_SUGGESTIONS else ""

    # The sections and their keys.

    def socket_path(self, sections: list[Section], paths: Paths) -> None:
        """The kernel's limit for the path of a socket."""
        socket = max(paths.control_socket, paths.notify_socket, key=_bytes)
        if _bytes(socket) <= schema.UNIX_PATH_BYTES:
            return
        own = _own(sections)
        entries = own.entries if own else {}
        line = next((entries[name].line for name in ("run_dir", "base_dir") if name in entries), own.line if own else 1)
        self.problem(
            line,
            f"{ini.brief(socket, 120)} would be {_bytes(socket)} bytes long, a socket's path may have"
            f" {schema.UNIX_PATH_BYTES}; set run_dir in [impetusd] to a shorter path",
        )

    def environments(self, sections: list[Section]) -> None:
        """Read every [env:NAME]."""
        for section in sections:
            kind, _, name = _parts(section)
            if kind != schema.ENV:
                continue
            env = self.envs.setdefault(name, {})
            for variable, entry in section.entries.items():
                said = ini.brief(variable)
                if not ini.is_name(variable):
                    self.problem(
                        entry.line, f"'{said}' cannot name a variable; use letters, digits and _, no digit in front"
                    )
                elif variable in OWN_VARIABLES:
                    self.problem(entry.line, f"{said} is set by impetusd itself; remove it")
                else:
                    env.setdefault(variable, ini.joined(self.expand(variable, entry) or ()))

    def units_of(self, sections: list[Section]) -> None:
        """Read [impetusd] and every unit; refuse sections of no known kind."""
        told = {problem.line for problem in self.problems}
        for section in sections:
            kind, colon, name = _parts(section)
            shown = f"[{ini.brief(section.name)}]"
            if kind == schema.IMPETUSD:
                if colon:
                    self.problem(section.line, f"{shown}: this section takes no name; write [impetusd]")
                self.unknown_keys(section, schema.IMPETUSD)
            elif kind in {schema.POOL, schema.PROGRAM}:
                self.unit(section, Kind(kind), name)
            elif kind != schema.ENV and section.line not in told:
                near = self.nearest(kind, (schema.IMPETUSD, schema.POOL, schema.PROGRAM, schema.ENV))
                if near:
                    hint = f"did you mean [{near}{':' + name if colon else ''}]?"
                else:
                    hint = "there are [impetusd], [pool:NAME], [program:NAME] and [env:NAME]"
                self.problem(section.line, f"{shown} is no section of impetusd; {hint}")

    def unknown_keys(self, section: Section, kind: str) -> None:
        known = schema.keys_of(kind)
        for name, entry in section.entries.items():
            if name in known:
                continue
            said = ini.brief(name)
            others = dict.fromkeys(other for key in schema.KEYS if key.name == name for other in key.sections)
            if others:
                places = " and ".join(map(_header, others))
                self.problem(entry.line, f"'{said}' is a key of {places}, not of {_header(kind)}; move or remove it")
            elif near := self.nearest(name.lower(), known):
                self.problem(entry.line, f"'{said}' is no key of {_header(kind)}; did you mean {near}?")
            else:
                self.problem(
                    entry.line, f"'{said}' is no key of {_header(kind)}; `impetusd init` writes a file with all of them"
                )

    def unit(self, section: Section, kind: Kind, name: str) -> None:
        """Read one [pool:…] or [program:…]."""
        self.unknown_keys(section, kind.value)
        fresh = self.name(section, kind, name)
        values: dict[str, Any] = {}
        faulty: set[str] = set()
        for key in schema.keys_of(kind.value).values():
            entry = section.entries.get(key.name)
            value = self.value(key, entry) if entry else key.value.none
            if value is None:
                faulty.add(key.name)
            # a number of 0 and a False are values; none is "" or ()
            values[key.name] = self.default(kind.value, key) if value is None or value in ("", ()) else value
        if not fresh:
            return
        for required in ("app", "listen") if kind is Kind.POOL else ("command",):
            if not values[required] and required not in faulty:
                example = schema.keys_of(kind.value)[required].example
                line = _line(section, required)
                self.problem(line, f"[{section.name}] has no {required}; give it one, like {required} = {example}")
        self.identity(section, values)
        self.timeouts(section, kind, values, faulty)
        self.listening(section, values)
        self.headers[name] = section
        if kind is Kind.POOL:
            values |= {"command": (), "wait_ready": True}
        else:
            backlog = self.default(schema.POOL, schema.keys_of(schema.POOL)["backlog"])
            values |= {"app": "", "interpreter": "", "preload": False, "standby": 0, "backlog": backlog}
            values["drain_timeout"] = 0.0
        where, env = f"{self.path}:{section.line}", self.envs.get(name, {})
        self.units[name] = Unit(name=name, kind=kind, where=where, env=env, **values)

    def name(self, section: Section, kind: Kind, name: str) -> bool:
        """Whether the section names a unit that is not there yet."""
        shown = f"[{ini.brief(section.name)}]"
        if not name:
            self.problem(section.line, f"{shown} has no name; write [{kind.value}:NAME]")
        elif name == RESERVED_NAME:
            self.misnamed.add(name)
            self.problem(section.line, f"{shown}: impetusd itself has that name; choose another")
        elif not _is_unit_name(name):
            self.misnamed.add(name)
            form = "letters, digits, '_', '-' and '.', and begins with one of the first three"
            text = f"{shown}: a name is at most {LONGEST_NAME} {form}; choose another"
            self.problem(section.line, text)
        elif name not in self.units:
            return True
        elif self.units[name].kind is not kind:
            line = self.headers[name].line
            self.problem(
                section.line,
                f"{shown}: [{self.units[name].kind.value}:{name}] on line {line} has that name; choose another",
            )
        return False

    # What the values of one unit must be to each other and to the machine.

    def identity(self, section: Section, values: dict[str, Any]) -> None:
        for key, exists in (("user", self.host.user_exists), ("group", self.host.group_exists)):
            wanted = values[key]
            if wanted and self.host.euid != 0:
                text = (
                    f"{key} = {ini.brief(wanted)} needs impetusd to run as root; remove it, or start impetusd as root"
                )
                self.problem(_line(section, key), text)
            elif wanted and not exists(wanted):
                text = f"{key} = {ini.brief(wanted)}: this host has no such {key}; create it, or write another"
                self.problem(_line(section, key), text)

    def timeouts(self, section: Section, kind: Kind, values: dict[str, Any], faulty: set[str]) -> None:
        def said(key: str) -> str:
            return f"{key} ({schema.show_duration(values[key])})"

        drain, kill = "drain_timeout", "kill_timeout"
        if kind is Kind.POOL and not faulty & {drain, kill} and values[drain] >= values[kill]:
            text = f"{said(drain)} must be shorter than {said(kill)}, or connections are cut; change one of them"
            self.problem(_line(section, drain, kill), text)
        first, most = "exp_backoff_restart_delay", "exp_backoff_max_delay"
        if not faulty & {first, most} and values[most] < values[first]:
            text = f"{said(most)} must not be shorter than {said(first)}; change one of them"
            self.problem(_line(section, most, first), text)

    def listening(self, section: Section, values: dict[str, Any]) -> None:
        for address in values["listen"]:
            if _bytes(address.path) > schema.UNIX_PATH_BYTES:
                text = (
                    f"listen = {ini.brief(str(address), 120)}: the path is {_bytes(address.path)} bytes long, a socket's may have"
                    f" {schema.UNIX_PATH_BYTES}; set listen to a shorter one, like unix:${{RUN_DIR}}/{section.name.rpartition(':')[2]}.sock"
                )
                self.problem(_line(section, "listen"), text)

    # Between units.

    def relations(self, sections: list[Section]) -> None:
        """What sections say of each other: environments, dependencies, addresses that two would take."""
        for section in sections:
            kind, _, name = _parts(section)
            shown = f"[{ini.brief(section.name)}]"
            if kind == schema.ENV and not name:
                self.problem(section.line, f"{shown} has no name; write [env:NAME] for the unit NAME")
            elif kind == schema.ENV and name not in self.units and name not in self.misnamed:
                hint = self.hint(name, self.units, "[env:{}]")
                self.problem(section.line, f"{shown}: there is no unit '{ini.brief(name)}'; {hint}")
        for name, unit in self.units.items():
            for other in unit.depends_on:
                if other not in self.units and other not in self.misnamed:
                    line = _line(self.headers[name], "depends_on")
                    hint = self.hint(other, self.units, "{}")
                    self.problem(line, f"depends_on: there is no unit '{ini.brief(other)}'; {hint}")
        for circle in tree.circles({name: unit.depends_on for name, unit in self.units.items()}):
            line = _line(self.headers[circle[0]], "depends_on")
            self.problem(
                line, f"depends_on: {ini.brief(tree.show(circle), 200)} is a circle; take one of them out of it"
            )
        self.addresses()

    def hint(self, name: str, known: Iterable[str], form: str) -> str:
        near = self.nearest(name, known)
        return f"did you mean {form.format(near)}?" if near else "name one that has a section"

    def addresses(self) -> None:
        taken: dict[tuple[str, int], list[tuple[str, Listen]]] = {}
        for unit in self.units.values():
            if not unit.enabled:
                continue
            for address in unit.listen:
                others = taken.setdefault((address.path, address.port), [])
                for owner, its in others:
                    if _same(address, its):
                        whose = "it has" if owner == unit.name else f"{owner} has"
                        form = "" if its == address else f" as {its}"
                        line = _line(self.headers[unit.name], "listen")
                        self.problem(line, f"listen = {address}: {whose} that address already{form}; choose another")
                        break
                others.append((unit.name, address))


def _own(sections: list[Section]) -> Section | None:
    return next((section for section in sections if section.name == schema.IMPETUSD), None)


def _parts(section: Section) -> tuple[str, str, str]:
    kind, colon, name = section.name.partition(":")
    return kind.strip(), colon, name.strip()


def _header(kind: str) -> str:
    return "[impetusd]" if kind == schema.IMPETUSD else f"[{kind}:NAME]"


def _line(section: Section, *keys: str) -> int:
    """The line of the first of these keys that is set, or else of the header."""
    return next((section.entries[key].line for key in keys if key in section.entries), section.line)


def _bytes(path: str) -> int:
    return len(path.encode("utf-8", "surrogatepass"))


def _is_unit_name(name: str) -> bool:
    letters = name.isascii() and all(char.isalnum() or char in "_.-" for char in name)
    return letters and name[0] not in ".-" and len(name) <= LONGEST_NAME


def _same(one: Listen, other: Listen) -> bool:
    """Whether the two, of one port or path, cannot both be bound: equal, or one is the wildcard of the other's family."""
    if one.host == other.host:
        return True
    wildcard = "::" if ":" in one.host else "0.0.0.0"  # noqa: S104 (compared, not bound)
    return (":" in one.host) == (":" in other.host) and wildcard in {one.host, other.host}
