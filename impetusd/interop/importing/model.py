"""What every reader makes of a file, and the writer takes: programs, groups, and what became of each key.

A text here may hold references to variables of the environment, each between noncharacters, so that whatever joins, splits
and quotes text takes them along: `reference`, `pieces`, `resolve`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from enum import Enum
from posixpath import basename, join, normpath
from typing import TYPE_CHECKING, Any

from impetusd.core.config import schema

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

OPEN, MIDDLE, CLOSE = "\ufdd1", "\ufdd2", "\ufdd3"
BARE, BLANK = "\ufdd4", "\ufdd5"  # before a reference in a command: what it holds is split at blanks
_REFERENCE = re.compile(f"{OPEN}([A-Za-z_][A-Za-z0-9_]*)(?:{MIDDLE}([^{OPEN}{CLOSE}]*))?{CLOSE}")
MOST_BYTES = 1 << 20  # of one file
MOST_FILES = 500  # that one import reads
MOST_PROGRAMS = 2000
LONGEST_NAME = 80  # a unit's may have 100
EVERY_VARIABLE = "*"  # as env_pass
OF_THE_USER = ", HOME, USER, LOGNAME, SHELL"  # behind it: not as `user` has them
INSTANCE = f"{OPEN}INSTANCE{CLOSE}"


class ImportFault(Exception):
    """A file that cannot be read, as a sentence; `file` and `line` are where."""

    def __init__(self, file: str, line: int, text: str) -> None:
        super().__init__(f"{file}:{line}: {text}")
        self.file = file
        self.line = line
        self.text = text


class Fate(Enum):
    """What became of a key."""

    KEPT = "kept"
    TRANSLATED = "translated"
    LOST = "lost"
    UNNEEDED = "not needed"


@dataclass(frozen=True, slots=True)
class Rule:
    """What becomes of a key of a source, as its table has it. `ours`: what stands for it here, "" for nothing."""

    fate: Fate
    ours: str
    why: str = ""


def kept(ours: str, why: str = "") -> Rule:
    return Rule(Fate.KEPT, ours, why)


def translated(ours: str, why: str = "") -> Rule:
    return Rule(Fate.TRANSLATED, ours, why)


def lost(why: str, ours: str = "") -> Rule:
    return Rule(Fate.LOST, ours, why)


def unneeded(why: str) -> Rule:
    return Rule(Fate.UNNEEDED, "", why)


@dataclass(frozen=True, slots=True)
class Row:
    """What became of one key of one file. `old` is its value, `new` what is written for it, "" for nothing."""

    file: str
    line: int
    section: str
    key: str
    old: str
    fate: Fate
    new: str = ""
    why: str = ""


@dataclass(slots=True)
class Program:
    """One [program:NAME] to be. Texts may hold references; `keys` are ours, each with its value before it is quoted.

    `notes`: comments that the writer puts above the section, like keys that are proposed. `env_pass`: "" for none.
    `theirs`: what the manager calls its processes, of PM2 all by one name.
    """

    name: str
    file: str
    line: int
    argv: list[str] = field(default_factory=list)
    env: dict[str, str] = field(default_factory=dict)
    profiles: dict[str, dict[str, str]] = field(default_factory=dict)
    keys: dict[str, str] = field(default_factory=dict)
    env_pass: str = ""
    notes: list[str] = field(default_factory=list)
    theirs: list[str] = field(default_factory=list)


@dataclass(slots=True)
class Imported:
    """All that was read. `differs`: what changes though no key says it; `todo`: what is left to do by hand. `asked_at`:
    where a running supervisord answers, with the user and the password.
    """

    source: str  # the kind of file
    programs: list[Program] = field(default_factory=list)
    groups: dict[str, list[str]] = field(default_factory=dict)
    rows: list[Row] = field(default_factory=list)
    differs: list[str] = field(default_factory=list)
    todo: list[str] = field(default_factory=list)
    lacks: list[str] = field(default_factory=list)  # what this host does not have
    asked_at: tuple[str, str, str] = ("", "", "")

    def row(self, file: str, line: int, section: str, key: str, old: str, rule: Rule, new: str = "") -> None:  # noqa: PLR0917
        """Note what became of a key."""
        self.rows.append(Row(file, line, section, key, old, rule.fate, new, rule.why))

    def differ(self, text: str) -> None:
        """Note, once, what changes."""
        if text not in self.differs:
            self.differs.append(text)


@dataclass(frozen=True, slots=True)
class Ran:
    """What two runs of a module gave: in an environment of almost nothing, and with a marker for every variable that is
    not set (None where it cannot be run so). `env_files`: what it read by dotenv, with the values there. `missing`: the
    modules and files that are not here, and were taken as empty. `needs`: it cannot be run without markers.
    """

    plain: Any
    marked: Any
    env_files: dict[str, dict[str, str]]
    missing: list[str]
    needs: bool


@dataclass(frozen=True, slots=True)
class Options:
    """What the command line says of the import. `cwd`: the folder that the old manager ran in, "" if not given; `root`:
    where the host's / is, "" for here. `run_node`: None where a file may not be run.
    """

    cwd: str = ""
    root: str = ""
    run_node: Callable[[str], Ran] | None = None


def reference(name: str, default: str | None = None) -> str:
    """What stands for the variable in a text. `default`: for one that is not set; None where the INI must not give one."""
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
        raise ValueError("not a valid variable name")
    default = None if default is None else "".join(resolve(default, {}))
    return f"{OPEN}{name}{CLOSE}" if default is None else f"{OPEN}{name}{MIDDLE}{default}{CLOSE}"


def pieces(text: str) -> Iterator[tuple[str, str | None, str | None]]:
    """(literal, None, None) and ("", name, default or None), in order."""
    at, text = 0, text.replace(BARE, "")
    for match in _REFERENCE.finditer(text):
        if match.start() > at:
            yield text[at : match.start()], None, None
        yield "", match[1], match[2]
        at = match.end()
    if at < len(text):
        yield text[at:], None, None


def resolve(text: str, environ: Mapping[str, str]) -> str:
    """The text with the variables' values in it."""
    return "".join(
        literal if name is None else environ.get(name, "") or default or "" for literal, name, default in pieces(text)
    )


def expanded(argv: list[str], environ: Mapping[str, str]) -> list[str]:
    """The command with the variables' values in it."""
    found: list[str] = []
    for word in argv:
        first, *others = word.split(BARE)
        made = resolve(first, environ)
        for other in others:
            held, close, rest = other.partition(CLOSE)
            made += re.sub(r"[ \t\r\n]", BLANK, resolve(held + close, environ)) + resolve(rest, environ)
        found += [part for part in made.split(BLANK) if part] if others else [made]
    return found


def names(text: str) -> list[str]:
    """The variables that it refers to."""
    return [match[1] for match in _REFERENCE.finditer(text)]


def sole(text: str) -> str:
    """The variable that is all of it, with no default of its own; "" if it is something else."""
    match = _REFERENCE.fullmatch(text)
    return match[1] if match and not match[2] else ""


def shown(text: str) -> str:
    """As a report shows it: references as an INI writes them."""
    return "".join(
        literal if name is None else f"${{{name}}}" if default is None else f"${{{name}:-{default}}}"
        for literal, name, default in pieces(text)
    )


def unit_name(wanted: str, taken: set[str]) -> str:
    """A name that a unit may have, made of `wanted`, and not among `taken`, to which it is added."""
    name = re.sub(r"[^A-Za-z0-9_.-]+", "-", wanted)[:LONGEST_NAME].strip(".-") or "program"
    name = f"{name}-1" if name in {"impetusd", "all"} else name
    found, number = name, 1
    while found in taken:
        number += 1
        found = f"{name}-{number}"
    taken.add(found)
    return found


def signal_name(text: str) -> str:
    """As an INI writes it: of TERM, SIGTERM or 15. What kill_signal cannot be is left for the writer to refuse."""
    try:
        return schema.show_signal(schema.parse_signal(text))
    except ValueError:
        return text


def seconds(number: float) -> str:
    """A duration as an INI writes it, of seconds."""
    milliseconds = round(number * 1000)
    if milliseconds % 1000:
        return f"{milliseconds}ms"
    return f"{milliseconds // 1000}s" if milliseconds else "0"


def absolute(path: str, folder: str) -> str:
    """The path, of `folder` if it is relative."""
    return path if path.startswith(OPEN) else normpath(join(folder, path))


def stem(path: str) -> str:
    """A file's name without what is behind its last dot."""
    name = basename(path)
    return name.rpartition(".")[0] or name
