"""Command lines of systemd: quotes and escapes as in C, and variables, which are words of their own or ${NAME} in a word."""

from __future__ import annotations

import re
import shlex
import socket
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_ESCAPE = re.compile(r"x([0-9a-fA-F]{2})|([0-3][0-7]{2})|u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|([abfnrtvs\\\"'])")
_LETTERS = {"a": "\a", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v", "s": " "}
_PART = re.compile(r"\$\$|\$\{([A-Za-z_][A-Za-z0-9_]*)\}")


def split(text: str) -> list[str]:
    """The words, without their quotes. ValueError where a quote is never closed. An unknown escape is left as it is."""
    found: list[str] = []
    word: str | None = None
    quote, at = "", 0
    while at < len(text):
        char = text[at]
        at += 1
        if char == "\\" and (match := _ESCAPE.match(text, at)):
            char, at = _unescaped(match), match.end()
        elif quote:
            if char == quote:
                char = quote = ""
        elif char in "'\"":
            quote, char = char, ""
        elif char.isspace():
            found += [] if word is None else [word]
            word = None
            continue
        word = (word or "") + char
    if quote:
        raise ValueError("a quote is never closed")
    return found if word is None else [*found, word]


def _unescaped(match: re.Match[str]) -> str:
    code = int(match[2], 8) if match[2] else int(match[1] or match[3] or match[4] or "0", 16)
    if match[5]:
        return _LETTERS.get(match[5], match[5])
    if not 0 < code <= 0x10FFFF or 0xD800 <= code < 0xE000 or 0xFDD0 <= code <= 0xFDEF:
        raise ValueError("an invalid escape sequence")
    return chr(code)


def variables(words: list[str]) -> Iterator[str]:
    """The variables that a command line asks for."""
    for word in words:
        yield from [name] if (name := _whole(word)) else (match[1] for match in _PART.finditer(word) if match[1])


def expanded(words: list[str], env: Mapping[str, str]) -> list[str]:
    """The arguments: a word that is all a variable gives as many as there are words in it."""
    found: list[str] = []
    for word in words:
        if name := _whole(word):
            found += env.get(name, "").split()
        else:
            found.append(_PART.sub(lambda match: env.get(match[1], "") if match[1] else "$", word))
    return found


def script(words: list[str]) -> tuple[str, bool]:
    """The same words for a shell, to which the variables are left; and whether there are any."""
    parts: list[str] = []
    needed = False
    for word in words:
        if name := _whole(word):
            needed = True
            parts += [f"${name}"] if name.isidentifier() and name.isascii() else []
            continue
        made, literal, at = "", "", 0
        for match in _PART.finditer(word):
            literal, at = literal + word[at : match.start()], match.end()
            if name := match[1]:
                needed = True
                made, literal = made + (shlex.quote(literal) if literal else "") + f'"${{{name}}}"', ""
            else:
                literal += "$"
        literal += word[at:]
        parts.append(made + (shlex.quote(literal) if literal or not made else ""))
    return " ".join(parts), needed


def _whole(word: str) -> str:
    """The variable that is all of the word, as in $NAME; "" if it is something else."""
    return word[1:] if word[:1] == "$" and word[1:2] not in {"", "{", "$"} else ""


def specifiers(unit: str, name: str, prefix: str, instance: str) -> dict[str, str]:
    """What % and a letter stand for in the system's own manager."""
    host, escaped = socket.gethostname(), _of_name(instance)
    return {
        "%": "%", "n": unit, "N": name, "p": prefix, "P": _of_name(prefix), "j": prefix.rpartition("-")[2], "i": instance, "I": escaped, "f": f"/{escaped}",
        "h": "/root", "u": "root", "U": "0", "g": "root", "G": "0", "s": "/bin/sh", "t": "/run", "S": "/var/lib", "C": "/var/cache", "L": "/var/log",
        "E": "/etc", "T": "/tmp", "V": "/var/tmp", "H": host, "l": host.partition(".")[0],  # noqa: S108
    }  # fmt: skip


def _of_name(name: str) -> str:
    """Of a unit's name: - is /, and \\x2d is what it says."""
    return re.sub(r"\\x([0-9a-fA-F]{2})", lambda match: chr(int(match[1], 16)), name.replace("-", "/"))
