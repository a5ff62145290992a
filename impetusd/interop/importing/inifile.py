"""Text as Python's RawConfigParser(inline_comment_prefixes=(";", "#"), strict=False) reads it, with the line of each key.

That is supervisord's parser, and but for the names' case that of circus: the last of two equal keys wins, sections that are
there twice are one, and a line that is deeper indented than its key continues the value.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from impetusd.interop.importing.model import ImportFault

_HEADER = re.compile(r"\[(.+)\]")
_OPTION = re.compile(r"(.*?)\s*(?:[=:]\s*(.*))$")


@dataclass(slots=True)
class Value:
    """What a key is set to, and where."""

    text: str
    file: str
    line: int


@dataclass(slots=True)
class Sections:
    """Sections in the order in which they first come: name → key → value. `at`: the first header of each."""

    found: dict[str, dict[str, Value]]
    at: dict[str, tuple[str, int]]

    def values(self, section: str) -> dict[str, Value]:
        """Of one section, over those of [DEFAULT]."""
        return {**self.found.get("DEFAULT", {}), **self.found.get(section, {})}


def read(text: str, file: str, into: Sections | None = None, *, lower: bool = True) -> Sections:
    """Raises ImportFault. `into`: what files before this one said."""
    found = into or Sections({}, {})
    section: dict[str, Value] | None = None
    value: Value | None = None
    indent = 0
    for number, line in enumerate(text.removeprefix("\ufeff").replace("\r\n", "\n").split("\n"), 1):
        bare, commented = _without_comment(line)
        if not bare:
            if value is not None and not commented:
                value.text += "\n"
            continue
        depth = len(line) - len(line.lstrip())
        if value is not None and depth > indent:
            value.text += "\n" + bare
            continue
        indent, value = depth, None
        if header := _HEADER.match(bare):
            name = header[1]
            section = found.found.setdefault(name, {})
            found.at.setdefault(name, (file, number))
            continue
        if section is None:
            raise ImportFault(file, number, "this line comes before the first [section]")
        option = _OPTION.match(bare)
        if option is None or not option[1]:
            raise ImportFault(file, number, "neither a [section] nor a key = value")
        key = option[1].rstrip().lower() if lower else option[1].rstrip()
        section.pop(key, None)
        value = section[key] = Value(option[2].strip(), file, number)
    for values in found.found.values():
        for each in values.values():
            each.text = each.text.rstrip()
    return found


def _without_comment(line: str) -> tuple[str, bool]:
    if line.strip().startswith(("#", ";")):
        return "", True
    for at, char in enumerate(line):
        if char in ";#" and (at == 0 or line[at - 1].isspace()):
            return line[:at].strip(), True
    return line.strip(), False
