"""YAML as people write it, of dicts, lists, texts and numbers: always the same for the same value, with comments.

No text can change its meaning: plain are only words that no version of YAML reads as anything else (`on`, `12:30` and
`0o7` are quoted), texts of several lines stand in blocks, and the rest is in double quotes, where JSON's escapes hold.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

_PLAIN = re.compile(
    r"[A-Za-z/][A-Za-z0-9_./-]*(?::[A-Za-z0-9_./-]+)*"  # no colon before a blank or at the end
    r"|[1-9][0-9]*(?:ms|s|m|h|K|M|G|T|Ki|Mi|Gi)"  # a length of time, a size
)
# What YAML 1.1 takes for a boolean or null.
_WORDS = frozenset({"y", "yes", "n", "no", "on", "off", "true", "false", "null"})
INDENT = "  "
WIDEST = 100  # columns of a list on one line


class Noted:
    """A value with a comment: behind a scalar, above anything else."""

    __slots__ = ("note", "value")

    def __init__(self, value: Any, note: str) -> None:
        self.value = value
        self.note = note


def document(value: dict[str, Any], head: str = "") -> str:
    """One document; `head` is its comment."""
    return comment(head) + "".join(f"{line}\n" for line in _mapping(value, ""))


def comment(text: str, indent: str = "") -> str:
    """Lines of a comment."""
    return "".join(f"{indent}# {_one_line(line)}".rstrip() + "\n" for line in text.splitlines())


def scalar(value: object) -> str:
    """A text, number, truth or None on one line."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if not isinstance(value, str):
        raise TypeError(f"no scalar: {type(value).__name__}")
    if _PLAIN.fullmatch(value) and value.lower() not in _WORDS:
        return value
    return "".join(_escaped(char) for char in json.dumps(value, ensure_ascii=False))


def _escaped(char: str) -> str:
    """A character in double quotes: what a parser or an editor could take for a line's end, or refuse, as an escape."""
    if char.isprintable():
        return char
    code = ord(char)
    if 0xD800 <= code <= 0xDFFF:
        raise ValueError("it contains a character that is not valid UTF-8")
    return f"\\U{code:08x}" if code > 0xFFFF else f"\\u{code:04x}"


def _one_line(text: str) -> str:
    return "".join(char if char.isprintable() else " " for char in text)


def _mapping(value: dict[str, Any], indent: str) -> Iterator[str]:
    for key, each in value.items():
        yield from _entry(f"{scalar(key)}:", each, indent, indent + INDENT)


def _entry(head: str, value: Any, indent: str, inner: str) -> Iterator[str]:
    """A key, or the dash of a list, and what stands behind and below it."""
    note = ""
    if isinstance(value, Noted):
        value, note = value.value, _one_line(value.note)
    if isinstance(value, list) and (flow := _flow(value)) and len(flow) + len(indent) + len(head) < WIDEST:
        if note:
            yield f"{indent}# {note}"
        yield f"{indent}{head} {flow}"
        return
    if isinstance(value, dict | list) and value:
        if note:
            yield f"{indent}# {note}"
        lines = list(_mapping(value, inner) if isinstance(value, dict) else _list(value, inner))
        if head == "-":  # its first line stands behind the dash
            first = next((number for number, line in enumerate(lines) if not line.lstrip().startswith("#")), 0)
            yield from (indent + line.removeprefix(inner) for line in lines[:first])
            yield f"{indent}- {lines[first].removeprefix(inner)}"
            yield from lines[first + 1 :]
        else:
            yield f"{indent}{head}"
            yield from lines
        return
    behind = f" # {note}" if note else ""
    if isinstance(value, dict | list):
        yield f"{indent}{head} {'{}' if isinstance(value, dict) else '[]'}{behind}"
    elif isinstance(value, str) and _is_block(value):
        yield f"{indent}{head} {'|' if value.endswith(chr(10)) else '|-'}{behind}"
        yield from (f"{inner}{line}" if line else "" for line in value.removesuffix("\n").split("\n"))
    else:
        yield f"{indent}{head} {scalar(value)}{behind}"


def _flow(value: list[Any]) -> str:
    """A list of scalars on one line; "" for one that cannot be."""
    if not value or any(isinstance(each, dict | list | Noted) or "\n" in str(each) for each in value):
        return ""
    return f"[{', '.join(map(scalar, value))}]"


def _list(value: list[Any], indent: str) -> Iterator[str]:
    for each in value:
        yield from _entry("-", each, indent, indent + INDENT)


def _is_block(value: str) -> bool:
    """Whether a text can stand as it is in a block: several lines, the first of which shows the indentation."""
    if "\n" not in value or value[0] in " \n\t" or value.endswith("\n\n"):
        return False
    return all(char.isprintable() or char == "\n" for char in value)
