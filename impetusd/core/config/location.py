"""The folders of an impetusd instance according to its INI file, which suffice to find a running one.

`locate` reads that, and overlooks every mistake that does not concern it.
"""

from __future__ import annotations

from collections import namedtuple
from posixpath import basename, dirname, join, normpath

from impetusd.core.config import ini
from impetusd.core.config.problem import Problem, error_of

TYPE_CHECKING = False  # typing takes 2 ms to import, and `impetusd status` comes by here
if TYPE_CHECKING:
    from collections.abc import Mapping

    from impetusd.core.config.ini import Entry, Section

SECTION = "impetusd"
# What a `${}` may name besides the environment; in this order they become known.
DIRECTORIES = {"base_dir": "BASE_DIR", "run_dir": "RUN_DIR", "state_dir": "STATE_DIR", "log_dir": "LOG_DIR"}
DEFAULTS = {"base_dir": "", "run_dir": "var/run", "state_dir": "var/lib", "log_dir": "var/log"}
SYSTEM_DIRS = {"run_dir": "/run/impetusd", "state_dir": "/var/lib/impetusd", "log_dir": "/var/log/impetusd"}  # in /etc
PLAIN = "impetusd.ini"  # the folders of this file do not contain its name
SYSTEM = "/etc/"
USERS = "impetusd"  # the name of the folder for a user's own files


class Paths(namedtuple("Paths", ("conf", "base_dir", "run_dir", "state_dir", "log_dir"))):  # noqa: PYI024 (typing)
    """The folders of an instance. `state_dir` identifies it: one manager per state directory."""

    __slots__ = ()
    conf: str  # the INI file
    base_dir: str
    run_dir: str
    state_dir: str
    log_dir: str

    @property
    def control_socket(self) -> str:
        return f"{self.run_dir}/control.sock"

    @property
    def log_file(self) -> str:
        """impetusd's own log."""
        return f"{self.log_dir}/impetusd.log"


def default_dirs(path: str, environ: Mapping[str, str], *, former: bool = False) -> dict[str, str]:
    """Default run_dir, state_dir and log_dir for a file that does not set them; relative ones start from base_dir.

    Each file in a folder has its own. `former`: as it was before that, when all of them had the same, and before the
    user's own file had its folders where systemd gives user services theirs.
    """
    name = basename(path)
    stem = "" if former or name == PLAIN else name.removesuffix(".ini")
    suffix = f"-{stem}" if stem else ""
    if path.startswith(SYSTEM):
        return {key: f"{folder}{suffix}" for key, folder in SYSTEM_DIRS.items()}
    if is_users_own(path, environ) and not former:
        state = _folder(environ, "XDG_STATE_HOME", ".local/state")
        run = _folder(environ, "XDG_RUNTIME_DIR", ".local/state/run")
        dirs = {"run_dir": run, "state_dir": state, "log_dir": f"{state}/log"}
        return {key: f"{folder}/{USERS}{suffix}" for key, folder in dirs.items()}
    return {key: DEFAULTS[key].replace("/", f"/{stem}/" if stem else "/") for key in SYSTEM_DIRS}


def users_own_folder(environ: Mapping[str, str]) -> str:
    """The folder of the user's own INI file, by the XDG base directory specification; "" if there is no home."""
    config = _folder(environ, "XDG_CONFIG_HOME", ".config")
    return f"{config}/{USERS}" if config else ""


def is_users_own(path: str, environ: Mapping[str, str]) -> bool:
    """True if the INI file is in that folder."""
    return f"/{USERS}/" in path and dirname(path) == users_own_folder(environ)


def _folder(environ: Mapping[str, str], variable: str, below_home: str) -> str:
    """The path in the variable; a relative one is ignored."""
    given, home = environ.get(variable, ""), environ.get("HOME", "")
    if given.startswith("/"):
        return normpath(given)
    return normpath(join(home, below_home)) if home.startswith("/") else ""


def locate(text: str, path: str, environ: Mapping[str, str], *, former: bool = False) -> Paths:
    """The folders of this file's instance. `path` is absolute; `former`: see `default_dirs`.

    Raises ConfigError only where [impetusd] itself leaves that open, as with `run_dir = ${UNSET}`.
    """
    sections, _ = ini.parse(text, path)
    reading = Reading(path, environ, [], former=former)
    paths = reading.paths(sections)
    if reading.problems:
        raise error_of(reading.problems)
    return paths


class Reading:
    """One file: its references, and where its instance lives. Problems gather in `problems`."""

    def __init__(
        self,
        path: str,
        environ: Mapping[str, str],
        problems: list[Problem],
        *,
        rules: int = ini.RULES,
        former: bool = False,
    ) -> None:
        if not path.startswith("/"):
            raise ValueError(f"path must be absolute, not {path!r}")
        self.path = path
        self.environ = environ
        self.problems = problems
        self.default_dirs = {"base_dir": DEFAULTS["base_dir"], **default_dirs(normpath(path), environ, former=former)}
        self.rules = rules
        self.built_in = {"CONF_DIR": dirname(normpath(path))}
        self.instance = ""  # the value of ${INSTANCE} at the line being read; "" if there is none

    def problem(self, at: Section | Entry | None, text: str) -> None:
        """Record a problem at `at`, or with None for the file as a whole."""
        self.problems.append(Problem(at.file if at else self.path, at.line if at else 1, text))

    def expand(self, said: str, entry: Entry, *, quotes: bool = False) -> list[ini.Piece] | None:
        """The entry's pieces; None after a complaint. `quotes`: those around the whole value are a part of it."""
        value = entry.value if quotes else ini.unquoted(entry.value, self.rules)
        built_in = self.built_in
        if names_instance(value):
            if not self.instance:
                places = "[pool:NAME], [program:NAME] and their [env:NAME]"
                self.problem(entry, f"{said}: ${{INSTANCE}} is available only in {places}; write the value")
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
        for name, variable in DIRECTORIES.items():
            base = self.built_in.get("BASE_DIR", self.built_in["CONF_DIR"])
            value = self.default_dirs[name]
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
                    entry, f"{name} = {ini.brief(entry.value)}: ${{{known}}} is not available here; write the path"
                )
                return ""
        if "\n" in entry.value:
            self.problem(entry, f"{name} continues in the indented line below; remove its indentation")
            return ""
        pieces = self.expand(f"{name} = {ini.brief(entry.value)}", entry)
        return ini.joined(pieces).strip() if pieces else ""


def names_instance(value: str) -> bool:
    """True if it refers to INSTANCE."""
    return "${INSTANCE" in value and refers_to(value, "INSTANCE")  # nearly no value does


def refers_to(value: str, name: str) -> bool:
    """True if it refers to this variable; `$$` is a literal dollar."""
    if f"${{{name}" not in value:
        return False
    value = value.replace("$$", "")
    return f"${{{name}}}" in value or f"${{{name}:" in value


def own_section(sections: list[Section], file: str) -> Section | None:
    """[impetusd], which is in the main file or nowhere."""
    return next((section for section in sections if (section.name, section.file) == (SECTION, file)), None)
