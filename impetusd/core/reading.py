"""One INI file on its way to a `Config`: its references, where its instance lives, and what its values are by themselves.

`locate` is for those who only look for a running instance (`status`, `stop`): it reads where the instance lives and
overlooks every mistake that does not concern that.
"""

from __future__ import annotations

from dataclasses import replace
from posixpath import dirname, join, normpath

from impetusd.core import ini, schema
from impetusd.core.model import Access, ConfigError, Listen, Paths, Problem

TYPE_CHECKING = False  # typing takes 2 ms to import, and `impetusd status` comes by here
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from typing import Any

    from impetusd.core.ini import Entry, Section
    from impetusd.core.model import Group, Health, Host, Timer, Unit
    from impetusd.core.schema import Key

# What a `${}` may name besides the environment; in this order they become known.
DIRECTORIES = {"base_dir": "BASE_DIR", "run_dir": "RUN_DIR", "state_dir": "STATE_DIR", "log_dir": "LOG_DIR"}
LONGEST_NAME = 100  # a unit's name is a part of file names
MOST_SUGGESTIONS = 50  # looking for the nearest word takes a millisecond: not for each line of a file that is no INI
# Of all instances together, so that ${INSTANCE} has no one value in them.
WHOLE = frozenset({"autostart", "depends_on", "enabled", "increment_var", "instances"})


def locate(text: str, path: str, environ: Mapping[str, str]) -> Paths:
    """Where the instance of this file lives. `path` is absolute.

    Raises ConfigError only where [impetusd] itself leaves that open, as with `run_dir = ${UNSET}`.
    """
    sections, _ = ini.parse(text, path)
    reading = Reading(path, environ, [])
    paths = reading.paths(sections)
    if reading.problems:
        raise error_of(reading.problems)
    return paths


def error_of(problems: Iterable[Problem], files: Sequence[str] = ()) -> ConfigError:
    """Each problem once, file by file in the order of `files`, by line, without what looks secret in them."""
    from impetusd.core import redact

    problems = (Problem(each.file, each.line, redact.text(each.text)) for each in problems)
    order = {file: number for number, file in enumerate(files)}
    return ConfigError(tuple(sorted(dict.fromkeys(problems), key=lambda each: (order.get(each.file, 0), each.line))))


class Reading:
    """One file: its references, and where its instance lives. Problems gather in `problems`."""

    def __init__(self, path: str, environ: Mapping[str, str], problems: list[Problem]) -> None:
        if not path.startswith("/"):
            raise ValueError(f"path must be absolute, not {path!r}")
        self.path = path
        self.environ = environ
        self.problems = problems
        self.built_in = {"CONF_DIR": dirname(normpath(path))}
        self.instance = ""  # what ${INSTANCE} is where reading has come to; "" where there is none

    def problem(self, at: Section | Entry | None, text: str) -> None:
        """`at` is what it is told of; None is the file as a whole."""
        self.problems.append(Problem(at.file if at else self.path, at.line if at else 1, text))

    def expand(self, said: str, entry: Entry, *, quotes: bool = False) -> list[ini.Piece] | None:
        """The entry's pieces; None after a complaint. `quotes`: those around the whole value are a part of it."""
        value = entry.value if quotes else ini.unquoted(entry.value)
        built_in = self.built_in
        if names_instance(value):
            if not self.instance:
                places = "[pool:NAME], [program:NAME] and their [env:NAME]"
                self.problem(entry, f"{said}: ${{INSTANCE}} is known in {places} only; write the value")
                return None
            built_in = {**built_in, "INSTANCE": self.instance}
        pieces, complaints = ini.expand(value, self.environ, built_in)
        for complaint in complaints:
            self.problem(entry, f"{said}: {complaint}")
        return None if complaints else pieces

    def paths(self, sections: list[Section]) -> Paths:
        """Where the instance lives; makes the directories known to every reference that is read later."""
        own = own_section(sections, self.path)
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
                    entry, f"{name} = {ini.brief(entry.value)}: ${{{known}}} is not known here yet; write the path"
                )
                return ""
        if "\n" in entry.value:
            self.problem(entry, f"{name} goes on in the indented line below; remove its indentation")
            return ""
        pieces = self.expand(f"{name} = {ini.brief(entry.value)}", entry)
        return ini.joined(pieces).strip() if pieces else ""


class Values(Reading):
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
        self.groups: dict[str, Group] = {}
        self.headers: dict[str, Section] = {}  # of `units`, `timers` and `groups`, which share their names
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
            self.problem(entry, f"{key.name} = {first}: goes on in the indented line below; remove its indentation")
            return None
        secret = key.value is schema.COMMAND or key.value is schema.HEADERS
        written = key.name if key.value is schema.HEADERS else f"{key.name} = {ini.brief(entry.value)}"
        if key.name in WHOLE and names_instance(entry.value):
            self.problem(entry, f"{written}: it is for all instances together; write it without the number of one")
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
            self.problem(entry, f"{written}{meant}: {error}{comment}")
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
            return tuple(replace(one, path=self.absolute(one.path)) if one.path else one for one in value)
        if key.value is schema.INSTANCES:
            return tuple(max(1, self.host.cpus + number) if number < 1 else number for number in value)
        return value

    def absolute(self, path: str) -> str:
        return normpath(join(self.built_in["BASE_DIR"], path))

    def all_defaults(self, kind: str) -> dict[str, Any]:
        """What each key of a section is when it is not there. Not to be changed."""
        keys, known = schema.keys_of(kind), self.defaults.get(kind, {})
        return known if len(known) == len(keys) else {name: self.default(kind, key) for name, key in keys.items()}

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
        if size(socket) <= schema.UNIX_PATH_BYTES:
            return
        own = own_section(sections, self.path)
        entries = own.entries if own else {}
        at = next((entries[name] for name in ("run_dir", "base_dir") if name in entries), own)
        self.problem(
            at,
            f"{ini.brief(socket, 120)} would be {size(socket)} bytes long, a socket's path may have"
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
                        entry, f"{name}: this host has no {what} '{ini.brief(who)}'; create it, or remove it here"
                    )
        return Access(**given)


def names_instance(value: str) -> bool:
    """Whether a reference to INSTANCE is in it; `$$` is a dollar."""
    if "${INSTANCE" not in value:
        return False
    value = value.replace("$$", "")
    return "${INSTANCE}" in value or "${INSTANCE:" in value


def own_section(sections: list[Section], file: str) -> Section | None:
    """[impetusd], which is in the main file or nowhere."""
    return next((section for section in sections if (section.name, section.file) == (schema.IMPETUSD, file)), None)


def parts(section: Section) -> tuple[str, str, str]:
    kind, colon, name = section.name.partition(":")
    return kind.strip(), colon, name.strip()


def header(kind: str) -> str:
    return f"[{kind}]" if kind in {schema.IMPETUSD, schema.INCLUDE} else f"[{kind}:NAME]"


def place(section: Section, *keys: str) -> Section | Entry:
    """The first of these keys that is set, or else the header: where a problem of them is told."""
    return next((section.entries[key] for key in keys if key in section.entries), section)


def size(path: str) -> int:
    return len(path.encode("utf-8", "surrogatepass"))


def is_unit_name(name: str) -> bool:
    letters = name.isascii() and all(char.isalnum() or char in "_.-" for char in name)
    return letters and name[0] not in ".-" and len(name) <= LONGEST_NAME
