"""The output's terminal: its width, whether it shows colours, which characters it can show."""

from __future__ import annotations

import os
import re

from impetusd.core import inert

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import TextIO

_SGR = r"\x1b\[[0-9;:]*m"

plain = inert.plain

INDENT = "    "
COLOURS = {"green": "32", "yellow": "33", "red": "31", "dim": "2", "bold": "1"}


class Screen:
    """`width` in columns, None where nothing needs to fit (a file, a pipe)."""

    __slots__ = ("arrow", "colour", "ellipsis", "width")

    def __init__(self, *, width: int | None = None, colour: bool = False, utf8: bool = True) -> None:
        self.width = width
        self.colour = colour
        self.ellipsis = "…" if utf8 else "..."
        self.arrow = "→" if utf8 else "->"

    def paint(self, text: str, colour: str) -> str:
        """`text` in one of COLOURS ("" is none)."""
        return f"\x1b[{COLOURS[colour]}m{text}\x1b[0m" if self.colour and colour else text

    def cut(self, text: str, width: int | None = None) -> str:
        """`text` in at most `width` columns (else the screen's), its end replaced by an ellipsis if need be."""
        limit = self.width if width is None else width
        if limit is None or len(text) <= limit:
            return text
        return text[: max(0, limit - len(self.ellipsis))] + self.ellipsis[:limit]

    def wrap(self, text: str) -> list[str]:
        """`text` whole, in lines that fit the screen, those after the first indented; broken at a blank, if there is one."""
        lines = []
        while self.width is not None and len(text) > self.width > len(INDENT):
            at = text.rfind(" ", len(INDENT), self.width + 1)
            at = self.width if at < 0 else at
            lines.append(text[:at].rstrip())
            text = INDENT + text[at:].lstrip()
        return [*lines, text]

    def cut_name(self, name: str, width: int) -> str:
        """A slot's name in at most `width` columns: the part that distinguishes `web:7` from `web:8` stays."""
        if len(name) <= width:
            return name
        colon = name.rfind(":")
        end = name[colon:] if colon > 0 else ""
        room = width - len(self.ellipsis) - len(end)
        return name[:room] + self.ellipsis + end if room > 0 else self.cut(name, width)


def screen_of(stream: TextIO, environ: Mapping[str, str]) -> Screen:
    """The properties of `stream`. NO_COLOR (set to anything) and TERM=dumb mean no colours; COLUMNS overrides the
    width."""
    utf8 = (stream.encoding or "").lower().replace("-", "") == "utf8"
    if not stream.isatty():
        return Screen(utf8=utf8)
    columns = environ.get("COLUMNS", "")
    if columns.isdecimal() and int(columns) > 0:
        width = int(columns)
    else:
        try:
            width = os.get_terminal_size(stream.fileno()).columns or 80
        except OSError:
            width = 80
    colour = not environ.get("NO_COLOR") and environ.get("TERM") != "dumb"
    return Screen(width=width, colour=colour, utf8=utf8)


def coloured(text: str) -> str:
    """Like `plain`, but colours stay; they end with the line."""
    if text.isprintable():
        return text
    kept = re.sub(f"({_SGR})|{inert.ESCAPE}", lambda match: match.group(1) or "", text)
    return kept + "\x1b[0m" if "\x1b" in kept else kept
