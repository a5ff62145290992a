"""The part of JavaScript, and of JSON with comments, that says values and computes next to nothing: parsed, never run.

Constants, strings with ${…}, spread, `+` of strings and numbers, `||` and `??`, __dirname, path.join and path.resolve, and
process.env.NAME, which becomes a reference. Whatever else is there raises `Dynamic`: it can only be run.
"""

from __future__ import annotations

import re
from posixpath import dirname, join, normpath
from typing import Any

from impetusd.interop.importing.model import MOST_BYTES, OPEN, ImportFault, reference, sole
from impetusd.interop.importing.scanner import NUMBER, Dynamic, Object, Scanner, number, text

DEEPEST = 60
_CONSTANTS = {"true": True, "false": False, "null": None, "undefined": None}


class _Module:
    """What require('path') and the like gives."""

    def __init__(self, name: str) -> None:
        self.name = name


class _Env:
    """process.env."""


class _Function:
    def __init__(self, name: str, of: str = "") -> None:
        self.name = name
        self.of = of


def parse_value(text: str, file: str) -> Any:
    """JSON with comments. Raises ImportFault."""
    parser = _Parser(text, file)
    try:
        value = parser.value()
        parser.space()
        if parser.at < len(text):
            raise parser.fault("something follows the end of the value")
    except Dynamic as error:
        raise ImportFault(file, error.line, f"this is no JSON: {error.what}") from None
    return value


def parse_module(text: str, file: str) -> tuple[Any, bool]:
    """What a CommonJS or ES module exports, and whether it reads .env. Raises ImportFault, and Dynamic for what must be run."""
    parser = _Parser(text, file)
    parser.module()
    if parser.exported is None:
        raise Dynamic(1, "nothing is exported by module.exports or export default")
    return parser.exported, parser.env_file


class _Parser(Scanner):
    def __init__(self, text: str, file: str) -> None:
        super().__init__(text, file)
        self.depth = 0
        self.known: dict[str, Any] = {"__dirname": dirname(file), "__filename": file}
        self.exported: Any = None
        self.env_file = False

    def module(self) -> None:
        """Statements up to the end of the text."""
        while True:
            self.space()
            if self.at == len(self.text):
                return
            if self.take(";"):
                continue
            self.statement()

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
        elif (word == "module" and self.take(".") and self.word("exports") and self.take("=")) or (
            word == "export" and self.word("default")
        ):
            self.exported = self.value()
        elif word == "require" and self.peek("("):
            self.at = start
            self.value()
        else:
            self.at = start
            raise self.dynamic("a statement that computes something")

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
                if not name or not self.take("="):
                    raise self.dynamic("a declaration without a value")
                self.known[name] = self.value()
            if not self.take(","):
                return

    def importing(self) -> None:
        """import path from 'path'."""
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

    def required(self, name: str) -> _Module:
        name = name.removeprefix("node:")
        if name not in {"path", "os", "dotenv", "process", "dotenv/config", "url"}:
            raise self.dynamic(f"require({name!r})")
        self.env_file = self.env_file or name == "dotenv/config"
        return _Module(name)

    def value(self) -> Any:
        """An expression."""
        self.depth += 1
        if self.depth > DEEPEST:
            raise self.fault("it is nested too deeply")
        try:
            left = self.sum()
            while True:
                if self.take("||"):
                    left = self.either(left, self.sum(), empty=True)
                elif self.take("??"):
                    left = self.either(left, self.sum(), empty=False)
                elif self.peek("?") or self.peek("&&") or self.peek("=="):
                    raise self.dynamic("a condition")
                elif self.peek("=>"):
                    raise self.dynamic("a function")
                else:
                    return left
        finally:
            self.depth -= 1

    def either(self, left: Any, right: Any, *, empty: bool) -> Any:
        if isinstance(left, str) and (name := sole(left)):
            if isinstance(right, str | int | float) and not isinstance(right, bool):
                return reference(name, text(right)) if not sole(text(right)) else left
            if right is None:
                return left
            raise self.dynamic("a choice by the environment")
        if isinstance(left, str) and OPEN in left:
            return left
        return left if (left is not None if not empty else left) else right

    def sum(self) -> Any:
        left = self.term()
        while True:
            if self.peek("++") or self.peek("+="):
                raise self.dynamic("an assignment")
            if self.take("+"):
                right = self.term()
                left = self.added(left, right)
            elif self.peek("-") and not isinstance(left, Object | list):
                self.need("-")
                left = self.computed(left, self.term(), lambda a, b: a - b)
            else:
                return left

    def term(self) -> Any:
        left = self.unary()
        while self.peek("*") or self.peek("/"):
            sign = self.text[self.at]
            self.at += 1
            right = self.unary()
            if sign == "/" and right == 0:
                raise self.dynamic("a division by zero")
            left = self.computed(left, right, (lambda a, b: a * b) if sign == "*" else (lambda a, b: a / b))
        return left

    def computed(self, left: Any, right: Any, how: Any) -> Any:
        if not all(
            isinstance(each, int | float) and not isinstance(each, bool) and abs(each) < 1e15 for each in (left, right)
        ):
            raise self.dynamic("arithmetic of what are no plain numbers")
        found = how(left, right)
        return int(found) if found == int(found) else found

    def added(self, left: Any, right: Any) -> Any:
        if isinstance(left, str) or isinstance(right, str):
            if isinstance(left, Object | list | _Module) or isinstance(right, Object | list | _Module):
                raise self.dynamic("a text made of an object")
            return self.bounded(text(left) + text(right))
        return self.computed(left, right, lambda a, b: a + b)

    def bounded(self, made: str) -> str:
        """A text made of others, unless they double and double."""
        if len(made) > MOST_BYTES:
            raise self.fault(f"a text of more than {MOST_BYTES} characters")
        return made

    def unary(self) -> Any:
        self.space()
        if self.take("-"):
            return self.computed(0, self.unary(), lambda a, b: a - b)
        if self.take("+"):
            return self.converted(self.unary())
        if self.take("!"):
            value = self.unary()
            if isinstance(value, str) and OPEN in value:
                raise self.dynamic("a choice by the environment")
            return not value
        value = self.primary()
        while True:
            if self.take("?.") or self.take("."):
                value = self.call_or_member(value, self.name())
            elif self.peek("[") and isinstance(value, Object | list | _Env):
                self.need("[")
                key = self.value()
                self.need("]")
                value = self.member(value, text(key))
            elif self.peek("("):
                value = self.call(value)
            else:
                return value

    def converted(self, value: Any) -> Any:
        """Number(…)."""
        if isinstance(value, bool):
            return int(value)
        if isinstance(value, int | float) or (isinstance(value, str) and OPEN in value):
            return value
        match = NUMBER.fullmatch(value.strip()) if isinstance(value, str) else None
        if match is None:
            raise self.dynamic("a number made of what is none")
        return number(match[0])

    def call_or_member(self, value: Any, name: str) -> Any:
        if isinstance(value, _Module) and value.name == "path" and name in {"join", "resolve", "dirname", "basename"}:
            return _Function(name)
        if isinstance(value, _Module) and value.name == "process" and name == "cwd":
            return _Function("cwd")
        if isinstance(value, _Module) and value.name == "os" and name == "homedir":
            return _Function("homedir")
        if isinstance(value, _Module) and value.name == "dotenv" and name == "config":
            return _Function("dotenv")
        if isinstance(value, str) and name in {"trim", "toString"} and OPEN not in value:
            return _Function(name, value)
        if isinstance(value, int | float) and name == "toString" and not isinstance(value, bool):
            return _Function(name, text(value))
        return self.member(value, name)

    def member(self, value: Any, name: str) -> Any:
        if isinstance(value, _Module) and value.name == "process" and name == "env":
            return _Env()
        if isinstance(value, _Env):
            if not re.fullmatch(r"[A-Za-z_]\w*", name, re.ASCII):
                raise self.dynamic("a variable's name that is computed")
            return reference(name, "")
        if isinstance(value, _Module) and value.name in {"path", "dotenv", "os"}:
            return (
                self.call_or_member(value, name)
                if name in {"join", "resolve", "dirname", "config", "homedir", "basename"}
                else self.unknown(name)
            )
        if isinstance(value, Object):
            return value.get(name)
        if isinstance(value, list) and name.isdecimal() and len(name) < 6:
            return value[int(name)] if int(name) < len(value) else None
        return self.unknown(name)

    def unknown(self, name: str) -> Any:
        raise self.dynamic(f"{name[:40]} of something")

    def call(self, function: Any) -> Any:
        if not isinstance(function, _Function):
            raise self.dynamic("a call")
        self.need("(")
        given: list[Any] = []
        while not self.take(")"):
            given.append(self.value())
            if not self.take(",") and not self.peek(")"):
                raise self.dynamic("the end of a call")
        what = function.name
        if what in {"join", "resolve", "dirname", "basename"}:
            if not given or not all(isinstance(each, str) for each in given):
                raise self.dynamic(f"path.{what} of what is no text")
            if what == "dirname":
                return dirname(given[0])
            if what == "basename":
                return given[0].rstrip("/").rpartition("/")[2]
            return self.bounded(normpath(join(dirname(self.file), *given) if what == "resolve" else "/".join(given)))
        if what == "cwd":
            return dirname(self.file)
        if what == "homedir":
            return reference("HOME", "")
        if what == "dotenv":
            if given and not (
                isinstance(given[0], Object)
                and set(given[0]) <= {"path", "quiet"}
                and text(given[0].get("path", ".env")) in {".env", f"{dirname(self.file)}/.env"}
            ):
                raise self.dynamic("dotenv of another file")
            self.env_file = True
            return Object()
        if what == "require":
            if len(given) != 1 or not isinstance(given[0], str):
                raise self.dynamic("require")
            return self.required(given[0])
        if what in {"trim", "toString"}:
            return function.of.strip() if what == "trim" else function.of
        if what in {"Number", "parseInt", "parseFloat"}:
            return self.converted(given[0] if given else None)
        if what == "String" and given and not isinstance(given[0], Object | list):
            return text(given[0])
        raise self.dynamic("a call")

    def primary(self) -> Any:
        self.space()
        char = self.text[self.at : self.at + 1]
        if not char:
            raise self.fault("it ends in the middle of a value")
        if char == "{":
            return self.object()
        if char == "[":
            return self.array()
        if char in "'\"":
            return self.string(char)
        if char == "`":
            return self.template()
        if char == "(":
            self.at += 1
            value = self.value()
            self.need(")")
            return value
        if match := NUMBER.match(self.text, self.at):
            self.at = match.end()
            return number(match[0])
        start = self.at
        name = self.name()
        if name in _CONSTANTS:
            return _CONSTANTS[name]
        if name in self.known:
            return self.known[name]
        if name == "process":
            return _Module("process")
        if name in {"require", "Number", "String", "parseInt", "parseFloat"}:
            return _Function(name)
        self.at = start
        raise self.dynamic(f"{name[:40]}, which is not known" if name else f"{char!r}")

    def object(self) -> Object:
        found = Object()
        self.need("{")
        while not self.take("}"):
            if self.take("..."):
                spread = self.value()
                if isinstance(spread, Object):
                    for each in spread:
                        found.put(each, spread[each], spread.lines[each])
                elif spread is not None and not isinstance(spread, _Env):  # all of the environment is handed on anyway
                    raise self.dynamic("a spread of what is no object")
            else:
                self.space()
                line = self.line()
                char = self.text[self.at : self.at + 1]
                if char and char in "'\"":
                    key = self.string(char)
                elif char == "[":
                    self.at += 1
                    key = text(self.value())
                    self.need("]")
                elif match := NUMBER.match(self.text, self.at):
                    self.at, key = match.end(), text(number(match[0]))
                else:
                    key = self.name()
                    if key and (self.peek(",") or self.peek("}")):
                        if key not in self.known:
                            raise self.dynamic(f"{key[:40]}, which is not known")
                        found.put(key, self.known[key], line)
                        self.take(",")
                        continue
                if not self.take(":"):
                    raise (
                        self.dynamic("a function, or a key without a value")
                        if key
                        else self.fault("no key where one was awaited")
                    )
                found.put(key, self.value(), line)
            if not self.take(",") and not self.peek("}"):
                self.need("}")
        return found

    def array(self) -> list[Any]:
        found: list[Any] = []
        self.need("[")
        while not self.take("]"):
            if self.take("..."):
                value = self.value()
                if not isinstance(value, list):
                    raise self.dynamic("a spread of what is no array")
                found += value
            else:
                found.append(self.value())
            if len(found) > 10_000:
                raise self.fault("an array of more than 10000 values")
            if not self.take(",") and not self.peek("]"):
                self.need("]")
        return found

    def template(self) -> str:
        self.at += 1
        parts: list[str] = []
        while True:
            char = self.text[self.at : self.at + 1]
            if not char:
                raise self.fault("a ` is never closed")
            self.at += 1
            if char == "`":
                return self.bounded("".join(parts))
            if char == "$" and self.text.startswith("{", self.at):
                self.at += 1
                value = self.value()
                if isinstance(value, Object | list | _Module | _Function | _Env):
                    raise self.dynamic("a text made of an object")
                parts.append(text(value))
                self.need("}")
            else:
                parts.append(self.escape() if char == "\\" else char)
