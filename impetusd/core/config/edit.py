"""Add or remove sections in the text of an INI file. All other bytes are kept.

The caller reads back what is written. `written` and `command` return the form of a value in the file, and raise
ValueError if there is none.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass

from impetusd.core.config import ini, schema
from impetusd.core.config.reading import parts

TYPE_CHECKING = False  # typing takes 2 ms to import
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from impetusd.core.config.ini import Section


def written(value: str) -> str:
    """This value as written in an INI file, its `${}` and quotes taken literally. ValueError if it cannot be
    written."""
    _require_one_line(value)
    plain = value.replace("$", "$$")
    quoted = plain.replace("\\", "\\\\").replace('"', '\\"')
    for text in (plain, f'"{quoted}"', f"'{plain}'"):
        if _read(text, quotes=False) == value:
            return text
    raise ValueError("it does not fit on one line")


def command(words: Sequence[str]) -> str:
    """The same of an argument list."""
    for word in words:
        _require_one_line(word)
    text = " ".join(map(shlex.quote, words)).replace("$", "$$")
    if ini.words(ini.expand(_read(text, quotes=True, expand=False), {}, {})[0]) != list(words):
        raise ValueError("it does not fit on one line")
    return text


def _require_one_line(text: str) -> None:
    if any(char in text for char in "\n\r\0"):
        raise ValueError("it contains a line break")
    if not all(char.isprintable() or char == "\t" for char in text):
        raise ValueError("it contains a non-printable character, or is not UTF-8")


def _read(text: str, *, quotes: bool, expand: bool = True) -> str:
    """The value that `key = text` in a file stands for."""
    value = ini.parse(f"[s]\nk = {text}\n", "")[0][0].entries["k"].value
    if not quotes:
        value = ini.unquoted(value)
    return ini.joined(ini.expand(value, {}, {})[0]) if expand else value


def block(header: str, keys: Mapping[str, str]) -> str:
    """A section; the values are as they are to stand there."""
    width = max(map(len, keys), default=0)
    return "".join([f"[{header}]\n", *(f"{key:<{width}} = {value}".rstrip() + "\n" for key, value in keys.items())])


def added(text: str, blocks: Iterable[str]) -> str:
    """The text with these sections at its end, in its own line ends."""
    new = "\n".join(blocks)
    head, newline, _ = text.partition("\n")
    end = "\r\n" if newline and head.endswith("\r") else "\n"
    if text and not text.endswith("\n"):
        text += end
    before = end if text.removeprefix("\ufeff").strip() else ""
    return text + before + new.replace("\n", end)


@dataclass(frozen=True, slots=True)
class Without:
    """A text without some of its sections. `lines`: the number in the former text of each line that is left."""

    text: str
    lines: tuple[int, ...]


def belonging(sections: Iterable[Section], name: str) -> list[Section]:
    """The sections that belong to the unit or timer `name`: its own, its [env:…], and its checks with theirs."""
    sections = list(sections)
    checks = {
        parts(each)[2]
        for each in sections
        if parts(each)[0] == schema.HEALTH and _target(each) == name
    }  # fmt: skip
    units = {parts(each)[2] for each in sections if parts(each)[0] in {schema.POOL, schema.PROGRAM, schema.TIMER}}
    found = []
    for each in sections:
        kind, _, its = parts(each)
        of = its.partition("@")[0].strip()
        if (
            (kind in {schema.POOL, schema.PROGRAM, schema.TIMER} and its == name)
            or (kind == schema.HEALTH and its in checks)
            or (kind == schema.ENV and (of == name or (of in checks and of not in units)))
        ):
            found.append(each)
    return found


def _target(check: Section) -> str:
    entry = check.entries.get("target")
    return ini.unquoted(entry.value) if entry and entry.value else parts(check)[2]


def without(text: str, sections: Sequence[Section], all_sections: Iterable[Section]) -> Without:
    """The text without `sections`, each with the comment directly above it. Comments that stand apart stay."""
    lines = text.split("\n")
    headers = {each.line for each in all_sections}
    gone: set[int] = set()
    for section in sections:
        last = max((section.line, *(entry.line for entry in section.entries.values())))
        while last < len(lines) and lines[last].strip() and last + 1 not in headers:
            last += 1
        if last + 1 in headers:  # a comment directly above the next header belongs to it
            while last > section.line and lines[last - 1].strip()[:1] in {";", "#"}:
                last -= 1
        first = section.line
        while first > 1 and lines[first - 2].strip()[:1] in {";", "#"}:
            first -= 1
        if first == 1:  # a comment that the file begins with is about the file
            first = section.line
        while last < len(lines) and not lines[last].strip() and last + 1 < len(lines):
            last += 1
        gone.update(range(first, last + 1))
    kept = [number for number in range(1, len(lines) + 1) if number not in gone]
    # Nothing but what ends the last line follows what was taken from the end: the blank line in front of it goes, too.
    if gone and not any(lines[number - 1].strip() for number in kept if number > max(gone)):
        while len(kept) > 1 and kept[-1] > max(gone) and not lines[kept[-2] - 1].strip():
            del kept[-2]
    return Without("\n".join(lines[number - 1] for number in kept), tuple(kept))
