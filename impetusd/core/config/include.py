"""The files of a configuration: the INI file, and the files that its [include] names.

Which these are is decided here, from the text alone; `impetusd.files.source` reads them.
"""

from __future__ import annotations

from dataclasses import field
from posixpath import join, normpath
from typing import TYPE_CHECKING

from impetusd.core.config import ini, schema
from impetusd.core.config.location import Reading
from impetusd.core.config.reading import place
from impetusd.core.values import dataclass

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from impetusd.core.config.ini import Piece, Section
    from impetusd.core.config.problem import Problem

MOST = 1000  # files; a pattern like /**/*.ini is a slip


@dataclass(frozen=True, slots=True)
class Source:
    """All the text of one configuration. What could not be read is in `problems`."""

    path: str  # absolute, of the INI file itself
    text: str
    included: tuple[tuple[str, str], ...] = ()  # (path, text), in the order in which they are read
    problems: tuple[Problem, ...] = field(default=())
    warnings: tuple[Problem, ...] = field(default=())
    former: bool = False  # the instance lives where it did before each file had folders of its own

    @property
    def texts(self) -> tuple[tuple[str, str], ...]:
        """Every file: its path, and its text."""
        return ((self.path, self.text), *self.included)


@dataclass(frozen=True, slots=True)
class Pattern:
    """One of [include] files: absolute, a path or a glob, and the line that names it."""

    glob: str
    line: int

    @property
    def is_path(self) -> bool:
        """True if it names one file, which must exist, and is not a pattern."""
        return not any(char in self.glob for char in "*?[")


def patterns(text: str, path: str, environ: Mapping[str, str], *, former: bool = False) -> list[Pattern]:
    """The patterns that the INI file at `path` includes. `config.parse` reports problems; entries with one are
    skipped.
    """
    if schema.INCLUDE not in text:
        return []
    sections, _ = ini.parse(text, path)
    reading = Reading(path, environ, [], former=former)
    reading.paths(sections)
    section = next((each for each in sections if each.name == schema.INCLUDE), None)
    return [] if section is None else included(reading, section)


def included(reading: Reading, section: Section) -> list[Pattern]:
    """The same for the section itself. Reports its problems to `reading`."""
    entry = section.entries.get("files")
    pieces = reading.expand("files", entry, quotes=reading.rules > 1) if entry else None
    try:
        found = _paths(pieces or (), reading.rules)
    except ValueError as error:
        reading.problem(entry, f"files: {error}")
        return []
    if not found and (entry is None or pieces is not None):
        example = schema.keys_of(schema.INCLUDE)["files"].example
        reading.problem(place(section, "files"), f"[include] has no files; write files = {example}, or remove it")
    line = place(section, "files").line
    return [Pattern(normpath(join(reading.built_in["CONF_DIR"], each)), line) for each in found]


def _paths(pieces: Iterable[Piece], rules: int) -> list[str]:
    """Split paths at blanks, commas and line ends; a path that contains one is quoted. Raises ValueError."""
    if rules < 2:
        return list(schema.parse_paths(ini.joined(pieces)))
    found: list[str] = []
    for word, bare in ini.split(pieces):
        found += filter(None, word.split(",")) if "," in bare else [word]
    return list(filter(None, found))
