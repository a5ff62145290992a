"""From the text of an INI file to a `Config`, or to every problem in it at once.

`parse` is the one door: `impetusd check`, `start` and a reload all come through it, and it does nothing but read. The
machine it needs to know about is an argument (`Host`), as are the environment and the file's name.

`locate` is for those who only look for a running instance (`status`, `stop`): it reads where the instance lives and
overlooks every mistake that does not concern that.
"""

from __future__ import annotations

from posixpath import dirname, join, normpath

from impetusd.core import ini, schema, tree
from impetusd.core.model import Config, ConfigError, Health, Kind, Listen, Paths, Problem, Timer, Unit

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
    "WATCHDOG_PID", "WATCHDOG_USEC",
})  # fmt: skip
UNITS = (schema.POOL, schema.PROGRAM)
# Of all instances together, so that ${INSTANCE} has no one value in them.
WHOLE = frozenset({"autostart", "depends_on", "enabled", "increment_var", "instances"})
# Keys that mean nothing unless one of others is set.
COMPANIONS = {
    "timezone": ("cron", "cron_restart"),
    "watch_ignore": ("watch",),
    "watch_delay": ("watch",),
    "memory_hold": ("max_memory_restart",),
    "log_keep": ("log_max_size", "log_max_age"),
    "log_compress": ("log_max_size", "log_max_age"),
    "retry_delay": ("retries",),
}
OF_A_TIMER = ("cron", "timezone", "every", "timeout", "retries", "retry_delay", "overlap", "jitter", "catch_up")
# Keys of a health check that are for one way of asking only.
OF_HTTP = frozenset({"status", "body", "headers", "socket", "ca_file", "verify"})
OF_EXEC = frozenset({"cwd", "user", "group", "umask", "nice", "env_file", "kill_timeout"})


def parse(text: str, path: str, environ: Mapping[str, str], host: Host, instance: int = 0) -> Config:
    """The configuration that `text` describes. `path` is absolute, and what messages call the file.

    Raises ConfigError with every problem, by line; those of other instances than the first are among them.

    With another `instance` it raises nothing and tells one thing: the units that use ${INSTANCE}, as this one has them.
    A unit that cannot have such an instance is not there.
    """
    sections, problems = ini.parse(text, path)
    reading = _Units(path, environ, problems, host, instance)
    paths = reading.paths(sections)
    reading.environments(sections)
    if instance:
        return Config(paths=paths, units=reading.instance_of(sections))
    reading.socket_path(sections, paths)
    reading.all_of(sections)
    reading.relations(sections)
    if reading.problems:
        raise _error(reading.problems)
    return Config(paths=paths, units=reading.units, timers=reading.timers, health=reading.checks)


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
    return _described(unit.kind, unit, unit)


def describe_timer(timer: Timer) -> dict[str, str | list[str]]:
    """The same of a timer, its command's keys included."""
    return _described(Kind.TIMER, timer, timer.unit)


def describe_health(check: Health) -> dict[str, str | list[str]]:
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
        self.instance = ""  # what ${INSTANCE} is where reading has come to; "" where there is none

    def problem(self, line: int, text: str) -> None:
        self.problems.append(Problem(self.path, line, text))

    def expand(self, said: str, entry: Entry, *, quotes: bool = False) -> list[ini.Piece] | None:
        """The entry's pieces; None after a complaint. `quotes`: those around the whole value are a part of it."""
        value = entry.value if quotes else ini.unquoted(entry.value)
        built_in = self.built_in
        if _names_instance(value):
            if not self.instance:
                places = "[pool:NAME], [program:NAME] and their [env:NAME]"
                self.problem(entry.line, f"{said}: ${{INSTANCE}} is known in {places} only; write the value")
                return None
            built_in = {**built_in, "INSTANCE": self.instance}
        pieces, complaints = ini.expand(value, self.environ, built_in)
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

    def __init__(
        self, path: str, environ: Mapping[str, str], problems: list[Problem], host: Host, instance: int
    ) -> None:
        super().__init__(path, environ, problems)
        self.host = host
        self.index = instance
        self.units: dict[str, Unit] = {}
        self.timers: dict[str, Timer] = {}
        self.checks: dict[str, Health] = {}
        self.headers: dict[str, Section] = {}  # the sections of `units` and `timers`, which share their names
        self.check_headers: dict[str, Section] = {}  # the sections of `checks`
        self.misnamed: set[str] = set()  # told once, and not again wherever something refers to them
        self.envs: dict[str, dict[str, str]] = {}  # by the unit they are for
        self.env_entries: dict[str, dict[str, Entry]] = {}  # what they were read from
        self.listens: dict[str, list[tuple[Listen, ...]]] = {}  # by unit, of each instance: where these may differ
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
        secret = key.value is schema.COMMAND or key.value is schema.HEADERS
        written = key.name if key.value is schema.HEADERS else f"{key.name} = {ini.brief(entry.value)}"
        if key.name in WHOLE and _names_instance(entry.value):
            self.problem(entry.line, f"{written}: it is for all instances together; write it without the number of one")
            return None
        pieces = self.expand(written, entry, quotes=key.value is schema.COMMAND)
        if pieces is None:
            return None
        text = ini.joined(pieces).strip()
        if not text:
            return key.value.none
        try:
            value = key.value.parse(pieces if key.value is schema.COMMAND else text)
        except ValueError as error:
            # What a reference stood for is told, except of a command or a header: there it may be a password.
            meant = "" if secret or "$" not in entry.value else f" (that is {ini.brief(text)})"
            comment = "; a comment behind a value begins with ;" if " #" in entry.value else ""
            self.problem(entry.line, f"{written}{meant}: {error}{comment}")
            return None
        return self.resolved(key, value)

    def resolved(self, key: Key, value: Any) -> Any:
        """The value with paths made absolute, and `max` and -1 made numbers."""
        if key.value is schema.PATH:
            return self.absolute(value)
        if key.value is schema.PATHS:
            return tuple(map(self.absolute, value))
        if key.value is schema.INTERPRETER and "/" in value:
            return self.absolute(value)
        if key.value is schema.LISTEN:
            return tuple(Listen("", 0, self.absolute(one.path)) if one.path else one for one in value)
        if key.value is schema.INSTANCES:
            return tuple(max(1, self.host.cpus + number) if number < 1 else number for number in value)
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
        socket = paths.control_socket
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
            self.instance = str(self.index)
            env = self.envs.setdefault(name, {})
            entries = self.env_entries.setdefault(name, {})
            for variable, entry in section.entries.items():
                said = ini.brief(variable)
                if not ini.is_name(variable):
                    self.problem(
                        entry.line, f"'{said}' cannot name a variable; use letters, digits and _, no digit in front"
                    )
                elif variable in OWN_VARIABLES:
                    self.problem(entry.line, f"{said} is set by impetusd itself; remove it")
                elif variable not in env:
                    env[variable] = ini.joined(self.expand(variable, entry) or ())
                    entries[variable] = entry
        self.instance = ""

    def all_of(self, sections: list[Section]) -> None:
        """Read [impetusd], every unit, timer and check; refuse sections of no known kind."""
        told = {problem.line for problem in self.problems}
        for section in sections:
            kind, colon, name = _parts(section)
            shown = f"[{ini.brief(section.name)}]"
            if kind == schema.IMPETUSD:
                if colon:
                    self.problem(section.line, f"{shown}: this section takes no name; write [impetusd]")
                self.unknown_keys(section, schema.IMPETUSD)
            elif kind in UNITS:
                self.unit(section, Kind(kind), name)
            elif kind == schema.TIMER:
                self.timer(section, name)
            elif kind not in {schema.ENV, schema.HEALTH} and section.line not in told:
                known = (*UNITS, schema.TIMER, schema.HEALTH)
                near = self.nearest(kind, (schema.IMPETUSD, *known, schema.ENV))
                if near:
                    hint = f"did you mean [{near}{':' + name if colon else ''}]?"
                else:
                    hint = f"there are [impetusd], {', '.join(map(_header, known))} and [env:NAME]"
                self.problem(section.line, f"{shown} is no section of impetusd; {hint}")
        for section in sections:  # when all units are known
            kind, _, name = _parts(section)
            if kind == schema.HEALTH:
                self.check(section, name)

    def unknown_keys(self, section: Section, kind: str) -> None:
        known = schema.keys_of(kind)
        for name, entry in section.entries.items():
            if name in known:
                continue
            said = ini.brief(name)
            others = dict.fromkeys(other for key in schema.KEYS if key.name == name for other in key.sections)
            if others:
                *most, last = map(_header, others)
                places = f"{', '.join(most)} and {last}" if most else last
                self.problem(entry.line, f"'{said}' is a key of {places}, not of {_header(kind)}; move or remove it")
            elif near := self.nearest(name.lower(), known):
                self.problem(entry.line, f"'{said}' is no key of {_header(kind)}; did you mean {near}?")
            else:
                self.problem(
                    entry.line, f"'{said}' is no key of {_header(kind)}; `impetusd init` writes a file with all of them"
                )

    def values(self, section: Section, kind: Kind) -> tuple[dict[str, Any], set[str]]:
        """Each key's value, and the keys that have a problem: these have their default."""
        values: dict[str, Any] = {}
        faulty: set[str] = set()
        for key in schema.keys_of(kind.value).values():
            entry = section.entries.get(key.name)
            value = self.value(key, entry) if entry else key.value.none
            if value is None:
                faulty.add(key.name)
            values[key.name] = self.or_default(kind, key, value)
        return values, faulty

    def or_default(self, kind: Kind, key: Key, value: Any) -> Any:
        """A number of 0 and a False are values; none is "" or ()."""
        return self.default(kind.value, key) if value is None or value in ("", ()) else value

    def unit(self, section: Section, kind: Kind, name: str) -> None:
        """Read one [pool:…] or [program:…]."""
        self.instance = str(self.index)
        self.unknown_keys(section, kind.value)
        fresh = self.name(section, kind, name, self.headers)
        values, faulty = self.values(section, kind)
        if not fresh:
            self.instance = ""
            return
        self.headers[name] = section
        for required in ("app", "listen") if kind is Kind.POOL else ("command",):
            self.required(section, kind, required, values, faulty)
        env = self.envs.get(name, {})
        self.identity(section, values)
        self.agreement(section, kind, values, faulty)
        self.increment(name, env, values)
        per_instance = self.varying(section, name)
        self.parked(section, per_instance, values)
        if per_instance and not self.index:
            self.other_instances(section, kind, name, values, faulty)
        self.instance = ""
        least, most = values.pop("instances")
        where = f"{self.path}:{section.line}"
        if kind is Kind.POOL:
            values["wait_ready"] = True
        else:
            values["ready"] = values["ready"] or None
        self.units[name] = Unit(
            name=name,
            kind=kind,
            where=where,
            env=env,
            instances=least,
            instances_max=most,
            per_instance=per_instance,
            **values,
        )

    def required(self, section: Section, kind: Kind, key: str, values: dict[str, Any], faulty: set[str]) -> None:
        if not values[key] and key not in faulty:
            example = schema.keys_of(kind.value)[key].example
            line = _line(section, key)
            self.problem(line, f"[{section.name}] has no {key}; give it one, like {key} = {example}")

    def one_of(
        self, section: Section, kind: Kind, keys: tuple[str, ...], values: dict[str, Any], faulty: set[str]
    ) -> str:
        """The one of these keys that the section sets; "" after a problem."""
        given = [key for key in keys if values[key] or key in faulty]
        if len(given) == 1:
            return given[0]
        shown = f"[{ini.brief(section.name)}]"
        if given:
            self.problem(_line(section, given[1]), f"{shown} has {' and '.join(given)}; keep one of them")
        else:
            example = schema.keys_of(kind.value)[keys[0]].example
            self.problem(
                section.line, f"{shown} has none of {', '.join(keys)}; give it one, like {keys[0]} = {example}"
            )
        return ""

    def varying(self, section: Section, name: str) -> frozenset[str]:
        """The keys of the section and the variables of its [env:…] that use ${INSTANCE}."""
        written = (section.entries, self.env_entries.get(name, {}))
        return frozenset(key for entries in written for key, entry in entries.items() if _names_instance(entry.value))

    def parked(self, section: Section, per_instance: frozenset[str], values: dict[str, Any]) -> None:
        """A parked worker takes the place of any other."""
        if values.get("standby") and (per_instance or values["increment_var"]):
            why = "${INSTANCE}" if per_instance else "increment_var"
            text = f"standby = {values['standby']}: a parked worker may take any place, and {why} makes places differ; write standby = 0"
            self.problem(_line(section, "standby"), text)

    def other_instances(
        self, section: Section, kind: Kind, name: str, values: dict[str, Any], faulty: set[str]
    ) -> None:
        """What the values are for every instance but the first: a line is told with the first for which it is wrong."""
        varying = {key for key, entry in section.entries.items() if key in values and _names_instance(entry.value)}
        entries = self.env_entries.get(name, {})
        varying_env = {variable for variable, entry in entries.items() if _names_instance(entry.value)}
        here, told = self.problems, {problem.line for problem in self.problems}
        keys, env = schema.keys_of(kind.value), self.envs.get(name, {})
        listens = [values["listen"]]
        for index in range(1, values["instances"][1]):
            self.instance, self.problems = str(index), []
            own = {key: self.value(keys[key], section.entries[key]) for key in varying}
            bad = faulty | {key for key, value in own.items() if value is None}
            its = values | {key: self.or_default(kind, keys[key], value) for key, value in own.items()}
            if varying & {"user", "group"}:
                self.identity(section, its)
            self.agreement(section, kind, its, bad)
            its_env = {key: ini.joined(self.expand(key, entries[key]) or ()) for key in varying_env}
            self.increment(name, env | its_env, its)
            listens.append(its["listen"] if "listen" not in bad else ())
            for problem in self.problems:
                if problem.line not in told:
                    told.add(problem.line)
                    here.append(Problem(problem.file, problem.line, f"in instance {index}, {problem.text}"))
        self.problems = here
        if "listen" in varying:
            self.listens[name] = listens

    def instance_of(self, sections: list[Section]) -> dict[str, Unit]:
        """The units that use ${INSTANCE}, without those that cannot have this one."""
        for section in sections:
            kind, _, name = _parts(section)
            if kind in UNITS and self.varying(section, name):
                self.problems = []
                self.unit(section, Kind(kind), name)
                if self.problems:
                    self.units.pop(name, None)
        return self.units

    def timer(self, section: Section, name: str) -> None:
        """Read one [timer:…]."""
        kind = Kind.TIMER
        self.unknown_keys(section, kind.value)
        fresh = self.name(section, kind, name, self.headers)
        values, faulty = self.values(section, kind)
        if not fresh:
            return
        self.headers[name] = section
        self.required(section, kind, "command", values, faulty)
        self.one_of(section, kind, ("cron", "every"), values, faulty)
        self.identity(section, values)
        self.companions(section, kind, values, faulty)
        for variable, entry in self.env_entries.get(name, {}).items():
            if _names_instance(entry.value):
                self.problem(entry.line, f"{variable}: a timer's job has no ${{INSTANCE}}; write the value")
        own = {key: values.pop(key) for key in OF_A_TIMER}
        own["every"] = own["every"] or 0.0
        where = f"{self.path}:{section.line}"
        unit = Unit(name=name, kind=kind, where=where, env=self.envs.get(name, {}), **values)
        self.timers[name] = Timer(name=name, where=where, unit=unit, enabled=unit.enabled, **own)

    def check(self, section: Section, name: str) -> None:
        """Read one [health:…]."""
        kind = Kind.HEALTH
        self.unknown_keys(section, kind.value)
        fresh = self.name(section, kind, name, self.check_headers)
        values, faulty = self.values(section, kind)
        if not fresh:
            return
        self.check_headers[name] = section
        values["target"] = target = values["target"] or name
        self.target(section, target, values["http"] if not values["socket"] else "")
        way = self.one_of(section, kind, ("http", "tcp", "exec"), values, faulty)
        self.asking(section, way, values, faulty)
        if way == "exec":
            self.identity(section, values)
        where = f"{self.path}:{section.line}"
        surroundings = {key: values.pop(key) for key in OF_EXEC}
        command, unit = values.pop("exec"), None
        if command:  # its name is one that no section can have
            unit = Unit(
                name=f"{name}~{kind.value}",
                kind=kind,
                where=where,
                command=command,
                enabled=values["enabled"],
                env=self.envs.get(target, {}),
                **surroundings,
            )
        self.checks[name] = Health(name=name, where=where, unit=unit, **values)

    def name(self, section: Section, kind: Kind, name: str, taken: Mapping[str, Section]) -> bool:
        """Whether the section has a name that it can have."""
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
        elif name not in taken:
            return True
        else:
            other = taken[name]
            if _parts(other)[0] != kind.value:
                text = f"[{ini.brief(other.name)}] on line {other.line} has that name; choose another"
                self.problem(section.line, f"{shown}: {text}")
        return False

    # What the values of one section must be to each other and to the machine.

    def agreement(self, section: Section, kind: Kind, values: dict[str, Any], faulty: set[str]) -> None:
        self.companions(section, kind, values, faulty)
        self.timeouts(section, kind, values, faulty)
        self.listening(section, values)
        if values["watch"] and not self.host.has_watch:
            text = "watch needs the package watchfiles, which is not installed; run: pip install 'impetusd[watch]'"
            self.problem(_line(section, "watch"), text)
        restart, kill = "max_memory_restart", "max_memory_kill"
        if not faulty & {restart, kill} and 0 < values[kill] <= values[restart]:
            sizes = [f"{key} ({schema.show_size(values[key])})" for key in (kill, restart)]
            self.problem(_line(section, kill), f"{sizes[0]} must be above {sizes[1]}; change one of them")
        if kind is Kind.PROGRAM and values["ready"] and values["wait_ready"]:
            text = "ready and wait_ready = yes are two ways of being ready; keep one of them"
            self.problem(_line(section, "ready"), text)

    def companions(self, section: Section, kind: Kind, values: dict[str, Any], faulty: set[str]) -> None:
        keys = schema.keys_of(kind.value)
        for name, others in COMPANIONS.items():
            if name not in keys or name not in section.entries or name in faulty:
                continue
            if values[name] == self.default(kind.value, keys[name]):
                continue
            known = [other for other in others if other in keys]
            if not any(values[other] or other in faulty for other in known):
                needed = " or ".join(known)
                self.problem(
                    _line(section, name), f"{name} means nothing without {needed}; set it too, or remove {name}"
                )

    def target(self, section: Section, target: str, http: str) -> None:
        """`http`: what the check asks for, unless by way of a socket."""
        if target in self.misnamed:
            return
        line = _line(section, "target")
        if target not in self.units:
            own = "target" not in section.entries
            said = f"[{ini.brief(section.name)}]" if own else "target"
            what = "a timer is not checked" if target in self.timers else f"there is no unit '{ini.brief(target)}'"
            near = self.nearest(target, self.units)
            form = f"[health:{near}], or is target = {near} missing" if own else near
            hint = f"did you mean {form}?" if near else "write target with the name of a pool or program"
            self.problem(line, f"{said}: {what}; {hint}")
        elif http.startswith("/") and self.units[target].kind is not Kind.POOL:
            said = ini.brief(http)
            text = f"http = {said}: a path alone is for a pool; write the URL, like http://127.0.0.1:8080{said}"
            self.problem(_line(section, "http"), text)

    def asking(self, section: Section, way: str, values: dict[str, Any], faulty: set[str]) -> None:
        """What a health check says, against the `way` in which it asks."""
        for keys, whose in ((OF_HTTP, "http"), (OF_EXEC, "exec")):
            for key in section.entries:
                if way not in {"", whose} and key in keys:
                    text = f"{key} is for {whose}, and this check asks by {way}; remove it"
                    self.problem(_line(section, key), text)
        http = values["http"]
        for key, idle in (("ca_file", ""), ("verify", True)):
            if way == "http" and http and not http.startswith("https:") and values[key] != idle:
                self.problem(_line(section, key), f"{key} is for https; remove it, or write the URL with https")
        if not faulty & {"timeout", "interval"} and values["timeout"] > values["interval"]:
            ends = [f"{key} ({schema.show_duration(values[key])})" for key in ("timeout", "interval")]
            line = _line(section, "timeout", "interval")
            self.problem(line, f"{ends[0]} must not be longer than {ends[1]}; change one of them")
        if _bytes(values["socket"]) > schema.UNIX_PATH_BYTES:
            self.problem(
                _line(section, "socket"),
                f"socket: the path is {_bytes(values['socket'])} bytes long, a socket's may have"
                f" {schema.UNIX_PATH_BYTES}; use a shorter one",
            )

    def increment(self, name: str, env: Mapping[str, str], values: dict[str, Any]) -> None:
        """increment_var against the [env:…], of which values are not shown."""
        variable = values["increment_var"]
        if not variable:
            return
        section = self.headers[name]
        line = _line(section, "increment_var")
        if variable in OWN_VARIABLES:
            self.problem(line, f"increment_var = {variable}: impetusd itself sets it; choose another")
        elif variable not in env and not values["env_file"]:
            self.problem(line, f"increment_var = {variable}: there is no such variable; set {variable} in [env:{name}]")
        elif variable in env and not is_number(env[variable]):
            entry = self.env_entries[name][variable]
            text = f"{variable} must be a whole number, for increment_var of [{ini.brief(section.name)}] counts from it"
            self.problem(entry.line, f"{text}; write one")

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
            elif kind == schema.ENV and name not in self.headers and name not in self.misnamed:
                hint = self.hint(name, self.headers, "[env:{}]")
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
        """Addresses that two units, or two instances of one, would take."""
        taken: dict[tuple[str, int], list[tuple[str, Listen]]] = {}
        for unit in self.units.values():
            if unit.enabled:
                line = _line(self.headers[unit.name], "listen")
                for owner, address in self.owned(unit):
                    others = taken.setdefault((address.path, address.port), [])
                    clash = next(((other, its) for other, its in others if _same(address, its)), None)
                    others.append((owner, address))
                    if clash:
                        whose = "it has" if clash[0] == owner else f"{clash[0]} has"
                        form = "" if clash[1] == address else f" as {clash[1]}"
                        self.problem(line, f"listen = {address}: {whose} that address already{form}; choose another")
                        if unit.name in self.listens:  # the other instances are likely to be wrong in the same way
                            break

    def owned(self, unit: Unit) -> list[tuple[str, Listen]]:
        """Each address of the unit with who has it: the unit, or one instance if not all have it."""
        of_each = self.listens.get(unit.name, [unit.listen])
        shared = set(unit.listen).intersection(*of_each)
        owned = [(unit.name, address) for address in unit.listen if address in shared]
        for index, addresses in enumerate(of_each):
            owned += [(f"{unit.name}:{index}", address) for address in addresses if address not in shared]
        return owned


def is_number(text: str) -> bool:
    """Whether increment_var can count from it."""
    digits = text.strip().removeprefix("-")
    return digits.isascii() and digits.isdigit() and len(digits) < 19


def _names_instance(value: str) -> bool:
    """Whether a reference to INSTANCE is in it; `$$` is a dollar."""
    if "${INSTANCE" not in value:
        return False
    value = value.replace("$$", "")
    return "${INSTANCE}" in value or "${INSTANCE:" in value


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
