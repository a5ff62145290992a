"""The words of JavaScript and JSON, and what their values are made of."""

from __future__ import annotations

import re
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from impetusd.interop.importing.model import ImportFault

if TYPE_CHECKING:
    from collections.abc import Mapping

_SPACE = re.compile(r"(?:\s+|//[^\n]*|/\*.*?\*/|#![^\n]*)+", re.DOTALL)
_NAME = re.compile(r"[A-Za-z_$][\w$]*", re.ASCII)
NUMBER = re.compile(r"0[xX][0-9a-fA-F]+|(?:\d[\d_]*\.?\d*|\.\d+)(?:[eE][-+]?\d+)?", re.ASCII)
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f", "v": "\v", "0": "\0", "\n": ""}


class Dynamic(Exception):
    """What only JavaScript itself could compute; `line` is where."""

    def __init__(self, line: int, what: str) -> None:
        super().__init__(what)
        self.line = line
        self.what = what


class Object(dict[str, Any]):
    """An object; `lines` is where each of its keys stands."""

    def __init__(self, computed: Mapping[str, object] = MappingProxyType({})) -> None:
        """`computed`: keys that stand nowhere in the text."""
        super().__init__(computed)
        self.lines = dict.fromkeys(computed, 0)

    def put(self, key: str, value: object, line: int) -> None:
        self.pop(key, None)
        self[key] = value
        self.lines[key] = line


class Scanner:
    """Where reading has come to in a text."""

    def __init__(self, text: str, file: str) -> None:
        self.text = text
        self.file = file
        self.at = 0
        self._counted, self._line = 0, 1  # up to where lines are counted, and which line that is

    def line(self) -> int:
        if self.at < self._counted:
            self._counted, self._line = 0, 1
        self._line += self.text.count("\n", self._counted, self.at)
        self._counted = self.at
        return self._line

    def fault(self, what: str) -> ImportFault:
        return ImportFault(self.file, self.line(), what)

    def dynamic(self, what: str) -> Dynamic:
        return Dynamic(self.line(), what)

    def space(self) -> None:
        if match := _SPACE.match(self.text, self.at):
            self.at = match.end()

    def peek(self, sign: str) -> bool:
        self.space()
        return self.text.startswith(sign, self.at)

    def take(self, sign: str) -> bool:
        found = self.peek(sign)
        self.at += len(sign) if found else 0
        return found

    def need(self, sign: str) -> None:
        if not self.take(sign):
            shown = self.text[self.at : self.at + 20].split("\n")[0]
            raise (
                self.dynamic(f"{shown!r} where {sign} was expected")
                if shown
                else self.fault(f"it ends where {sign} was expected")
            )

    def name(self) -> str:
        self.space()
        match = _NAME.match(self.text, self.at)
        if match is None:
            return ""
        self.at = match.end()
        return match[0]

    def word(self, word: str) -> bool:
        """Take this word, if it is what comes next."""
        before = self.at
        if self.name() == word:
            return True
        self.at = before
        return False

    def string(self, quote: str) -> str:
        self.at += 1
        parts: list[str] = []
        while True:
            char = self.text[self.at : self.at + 1]
            if not char or char == "\n":
                raise self.fault("a quote is never closed")
            self.at += 1
            if char == quote:
                return "".join(parts)
            parts.append(self.escape() if char == "\\" else char)

    def escape(self) -> str:
        char = self.text[self.at : self.at + 1]
        self.at += 1
        if char in {"u", "x"}:
            match = re.compile(
                r"\{([0-9a-fA-F]{1,6})\}|([0-9a-fA-F]{4})" if char == "u" else r"()([0-9a-fA-F]{2})"
            ).match(self.text, self.at)
            code = int(match[1] or match[2], 16) if match else -1
            if match is None or code > 0x10FFFF or 0xFDD0 <= code <= 0xFDEF:
                raise self.fault("an invalid escape sequence")
            self.at = match.end()
            if 0xD800 <= code <= 0xDBFF and (
                low := re.compile(r"\\u([dD][c-fC-F][0-9a-fA-F]{2})").match(self.text, self.at)
            ):
                self.at = low.end()
                code = 0x10000 + ((code - 0xD800) << 10) + int(low[1], 16) - 0xDC00
            return chr(code)
        return _ESCAPES.get(char, char)


def number(written: str) -> int | float:
    plain = written.replace("_", "")
    if plain[:2].lower() == "0x":
        return int(plain, 16)
    value = float(plain[:400])
    return int(value) if abs(value) < 1e15 and value == int(value) else value


def text(value: object) -> str:
    """As JavaScript makes text of it."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)
