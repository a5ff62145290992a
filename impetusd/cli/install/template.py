"""Projects that `impetusd init --template` writes, from impetusd/templates/TEMPLATE.

A file's name there ends with .txt, so that no tool takes it for code; NAME@PART.txt is written only with PART. In a
text, a line that begins with `@PART ` is written only with PART, without that prefix; APPNAME stands for the project's
name, and @TOKEN@ for a new secret.
"""

from __future__ import annotations

import importlib.util
import keyword
import os
import re
import secrets
import sys
from collections.abc import Iterator
from importlib import resources
from importlib.resources.abc import Traversable

PARTS = {"service": ("jobs", "chat")}  # of each template


def problem_of_name(name: str) -> str | None:
    """Why a project cannot have this name: it is a Python package, a PostgreSQL schema, a role and a database."""
    if re.fullmatch(r"[a-z_][a-z0-9_]{0,62}", name) is None or name.startswith("pg_"):
        return "use a-z, 0-9 and _, starting with a letter, but not with pg_"
    if keyword.iskeyword(name) or name in {"postgres", "tests", "public"}:
        return "that name is reserved"
    if name in sys.stdlib_module_names or importlib.util.find_spec(name) is not None:
        return f"it would hide Python's module {name}"
    return None


def files(template: str, name: str, parts: frozenset[str]) -> dict[str, str]:
    """The path of each file of a project called `name`, below its folder, and its text."""
    found = {}
    for path, source in _walk(resources.files("impetusd") / "templates" / template, ""):
        path, _, part = path.removesuffix(".txt").partition("@")
        if not part or part in parts:
            path = path.replace("APPNAME", name).replace("gitignore", ".gitignore")
            found[path] = _fill(source.read_text(encoding="utf-8"), name, parts)
    return found


def _walk(folder: Traversable, prefix: str) -> Iterator[tuple[str, Traversable]]:
    for each in sorted(folder.iterdir(), key=lambda each: each.name):
        if each.is_dir():
            yield from _walk(each, f"{prefix}{each.name}{os.sep}")
        elif each.name.endswith(".txt"):
            yield prefix + each.name, each


def _fill(text: str, name: str, parts: frozenset[str]) -> str:
    lines = []
    for line in text.splitlines():
        part = re.match(r"@(\w+) ", line)
        if part is None:
            lines.append(line)
        elif part[1] in parts:
            lines.append(line[part.end() :])
    return "\n".join([*lines, ""]).replace("APPNAME", name).replace("@TOKEN@", secrets.token_urlsafe(24))
