"""The statements of a module of JavaScript or TypeScript that only says values: declarations, imports, what it exports.

require of a file beside it and dotenv are read, never run. Whatever else is there raises `Dynamic`: it can only be run.
"""

from __future__ import annotations

import os
import re
from posixpath import dirname, join, normpath
from typing import Any

from impetusd.interop.importing import dotenv, files
from impetusd.interop.importing.literal import Expressions, Required, parse_value
from impetusd.interop.importing.model import OPEN, ImportFault
from impetusd.interop.importing.scanner import Dynamic, Object

MOST_MODULES = 20
MOST_ENV_FILE = 1 << 16  # bytes
_EXTENSIONS = ("", ".js", ".cjs", ".mjs", ".ts", ".json", "/index.js")
# What a module brings that changes none of its values.
_REGISTERED = (
    "tsx/cjs",
    "tsx/esm",
    "tsx",
    "ts-node/register",
    "ts-node/register/transpile-only",
    "@babel/register",
    "source-map-support/register",
)


def parse_module(text: str, file: str) -> tuple[Any, dict[str, dict[str, str]]]:
    """What a CommonJS or ES module exports, and the .env files that it reads, with the values in them. Raises ImportFault,
    and Dynamic for what must be run.
    """
    parser = _Parser(text, file)
    return parser.module(), parser.env_files


class _Parser(Expressions):
    """`above`: the module that requires this one."""

    def __init__(self, text: str, file: str, above: _Parser | None = None) -> None:
        super().__init__(text, file)
        self.exports = Object()  # what `exports` and `export const` add to
        self.exported: Any = self.exports
        if above:
            self.main, self.env_files = above.main, above.env_files
        self.modules: dict[str, Any] = above.modules if above else {}  # by path; None while it is read

    def module(self) -> Any:
        """What the statements up to the end of the text export."""
        if self.peek("{"):  # JSON, whatever its name says
            self.exported = self.value()
        while True:
            self.space()
            if self.at == len(self.text):
                break
            if self.take(";"):
                continue
            self.statement()
        if self.exported is None or (self.exported is self.exports and not self.exports):
            raise Dynamic(1, "nothing is exported by module.exports or export default")
        return self.exported

    def statement(self) -> None:
        text = self.text
        if text.startswith(("'use strict'", '"use strict"'), self.at):
            self.at += 12
            return
        start = self.at
        word = self.name()
        if word in {"const", "let", "var"}:
            self.declaration()
        elif word == "import":
            self.importing()
        elif word == "export" and self.word("default"):
            self.exported = self.value()
        elif word == "module" and self.take(".") and self.word("exports"):
            if self.take("="):
                self.exported = self.value()
            else:
                self.addition(self.exported)
        elif word == "exports":
            self.addition(self.exports)
        elif word == "export" and (self.word("const") or self.word("let") or self.word("var")):
            before, line = set(self.known), self.line()
            self.declaration()
            for name in [each for each in self.known if each not in before]:
                self.exports.put(name, self.known[name], line)
        elif word == "require" and self.peek("("):
            self.at = start
            self.value()
        else:
            self.at = start
            raise self.dynamic("a statement that computes something")

    def addition(self, exported: Any) -> None:
        """exports.apps = …."""
        name = self.name() if self.take(".") else ""
        if not name or not self.take("=") or not isinstance(exported, Object):
            raise self.dynamic("a statement that computes something")
        exported.put(name, self.value(), self.line())

    def declaration(self) -> None:
        while True:
            if self.take("{"):  # const { join } = require('path')
                names: list[tuple[str, str]] = []
                while not self.take("}"):
                    name = self.name()
                    names.append((name, self.name() if self.take(":") else name))
                    if not name or not (self.take(",") or self.peek("}")):
                        raise self.dynamic("a pattern of names")
                self.need("=")
                value = self.value()
                for name, ours in names:
                    self.known[ours] = self.member(value, name)
            else:
                name = self.name()
                if self.typed and self.take(":"):
                    self.type()
                if not name or not self.take("="):
                    raise self.dynamic("a declaration without a value")
                self.known[name] = self.value()
            if not self.take(","):
                return

    def importing(self) -> None:
        """import path from 'path'."""
        if self.typed and (match := re.compile(r"\s*type\s[^;'\"]*(['\"])[^'\"\n]*\1").match(self.text, self.at)):
            self.at = match.end()
            return
        match = re.compile(
            r"\s*(?:(?:\*\s*as\s+)?([\w$]+)\s+from\s+|\{([\w\s,$]*)\}\s*from\s+)?(['\"])([^'\"\n]+)\3"
        ).match(self.text, self.at)
        if match is None:
            raise self.dynamic("an import")
        module = self.required(match[4])
        if match[1]:
            self.known[match[1]] = module
        for each in (match[2] or "").split(","):
            name, _, ours = each.partition(" as ")
            if name.strip():
                self.known[ours.strip() or name.strip()] = self.member(module, name.strip())
        self.at = match.end()

    def required(self, name: str) -> Any:
        name = name.removeprefix("node:")
        if name.startswith(("./", "../")) and OPEN not in name:
            return self.beside(normpath(join(dirname(self.file), name)))
        if name not in {"path", "os", "dotenv", "process", "dotenv/config", "url", *_REGISTERED}:
            raise self.dynamic(f"require({name!r})")
        if name == "dotenv/config":
            self.read_env(".env")
        return Required(name)

    def beside(self, path: str) -> Any:
        """What another file exports."""
        found = next((path + each for each in _EXTENSIONS if os.path.isfile(path + each)), "")
        if not found or len(self.modules) == MOST_MODULES or self.modules.get(found, self) is None:
            raise self.dynamic(f"require of {path}")
        if found not in self.modules:
            self.modules[found] = None
            try:
                text = files.text_of(found)
                is_json = found.endswith(".json")
                self.modules[found] = parse_value(text, found) if is_json else _Parser(text, found, self).module()
            except (ImportFault, Dynamic) as fault:
                raise self.dynamic(f"require of {path}: {fault}") from None
        exported = self.modules[found]
        if not isinstance(exported, Object):
            raise self.dynamic(f"require of {path}")
        return exported

    def read_env(self, name: str) -> Object:
        """What dotenv makes of a file: a reference for each of its variables."""
        path = normpath(join(dirname(self.main), name))
        try:
            text = files.text_of(path)
        except ImportFault:
            text = ""  # dotenv goes on without it
        if len(text) > MOST_ENV_FILE:
            raise self.fault(f"{path} has more than {MOST_ENV_FILE} characters")
        values = self.env_files[path] = dotenv.parse(text)
        return Object({each: self.variable(each) for each in values})
