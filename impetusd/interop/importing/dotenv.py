"""A .env file as the dotenv of Node reads it, which is not quite how env_file is read."""

from __future__ import annotations

import contextlib
import re

from impetusd.core.config import envfile

_LINE = re.compile(
    r"""^[^\S\n]*(?:export[^\S\n]+)?([\w.-]+)(?:[^\S\n]*=[^\S\n]*?|:[^\S\n]+?)"""
    r"""([^\S\n]*'(?:\\'|[^'])*'|[^\S\n]*"(?:\\"|[^"])*"|[^\S\n]*`(?:\\`|[^`])*`|[^#\r\n]+)?[^\S\n]*(?:\#.*)?$""",
    re.MULTILINE | re.ASCII,
)


def parse(text: str) -> dict[str, str]:
    """Each variable with its value."""
    found: dict[str, str] = {}
    for match in _LINE.finditer(text.replace("\r\n", "\n").replace("\r", "\n")):
        value = (match[2] or "").strip()
        quote = value[:1]
        if len(value) > 1 and quote in {"'", '"', "`"} and value[-1] == quote:
            value = value[1:-1]
            if quote == '"':
                value = value.replace("\\n", "\n").replace("\\r", "\r")
        found[match[1]] = value
    return found


def otherwise(*texts: str) -> dict[str, str]:
    """The variables that env_file would give another value, or none, with that of dotenv. Of files, the first counts."""
    theirs: dict[str, str] = {}
    ours: dict[str, str] = {}
    for text in reversed(texts):
        theirs |= parse(text)
        with contextlib.suppress(envfile.Fault):
            ours |= envfile.parse(text.encode())
    return {name: value for name, value in theirs.items() if ours.get(name) != value}
