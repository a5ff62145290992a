"""The part of JavaScript, and of JSON with comments, that says values and computes next to nothing: parsed, never run.

Constants, strings with ${…}, spread, `+` of strings and numbers, `||` and `??`, __dirname, path.join and path.resolve, and
process.env.NAME, which becomes a reference. Whatever else is there raises `Dynamic`: it can only be run. Its statements
are in modules.py.
"""

from __future__ import annotations

import re
from posixpath import dirname, join, normpath
from typing import Any

from impetusd.interop.importing.model import MOST_BYTES, OPEN, ImportFault, reference, sole
from impetusd.interop.importing.scanner import NUMBER, Dynamic, Object, Scanner, number, text

DEEPEST = 60
_TYPE = re.compile(
    r"\s*(?:typeof\s+)?(?:import\([^)]*\)\.)?[\w.$]+(?:<[^=;\n]*>)?(?:\[\])*(?:\s*[|&]\s*[\w.$]+(?:\[\])*)*"
)
# Of what is required, the functions that are known.
_FUNCTIONS = {
    "path": ("join", "resolve", "dirname", "basename"),
    "process": ("cwd",),
    "os": ("homedir",),
    "url": ("fileURLToPath",),
    "dotenv": ("config",),
}
_CONSTANTS = {"true": True, "false": False, "null": None, "undefined": None}


class Required:
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
    parser = Expressions(text, file)
    try:
        value = parser.value()
        parser.space()
        if parser.at < len(text):
            raise parser.fault("unexpected text after the value")
    except Dynamic as error:
        raise ImportFault(file, error.line, f"this is not JSON: {error.what}") from None
    return value


class Expressions(Scanner):
    """Values, of what is known at a place in a module."""

    def __init__(self, text: str, file: str) -> None:
        super().__init__(text, file)
        self.depth = 0
        self.known: dict[str, Any] = {"__dirname": dirname(file), "__filename": file}
        self.typed = file.endswith(".ts")
        self.main = file  # the module that was named
        self.env_files: dict[str, dict[str, str]] = {}

    def required(self, name: str) -> Any:
        """What require gives; nothing is required by JSON."""
        raise self.dynamic(f"require({name!r})")

    def read_env(self, name: str) -> Object:
        """What dotenv makes of a file; nothing in JSON."""
        raise self.dynamic(f"dotenv of {name}")

    def type(self) -> None:
        """Leave out a type of TypeScript."""
        match = _TYPE.match(self.text, self.at)
        if match is None:
            raise self.dynamic("a type")
        self.at = match.end()

    def variable(self, name: str) -> str:
        """process.env.NAME, as a reference."""
        if not re.fullmatch(r"[A-Za-z_]\w*", name, re.ASCII):
            raise self.dynamic("a computed variable name")
        return reference(name, next((values[name] for values in self.env_files.values() if name in values), ""))

    def value(self) -> Any:
        """An expression."""
        self.depth += 1
        if self.depth > DEEPEST:
            raise self.fault("it is nested too deeply")
        try:
            left = self.sum()
            while True:
                if self.typed and (self.word("as") or self.word("satisfies")):
                    self.type()
                elif self.take("||"):
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
            raise self.dynamic("a condition on the environment")
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
            raise self.dynamic("arithmetic on values that are not plain numbers")
        found = how(left, right)
        return int(found) if found == int(found) else found

    def added(self, left: Any, right: Any) -> Any:
        if isinstance(left, str) or isinstance(right, str):
            if isinstance(left, Object | list | Required) or isinstance(right, Object | list | Required):
                raise self.dynamic("an object converted to a string")
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
                raise self.dynamic("a condition on the environment")
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
            raise self.dynamic("a non-number converted to a number")
        return number(match[0])

    def call_or_member(self, value: Any, name: str) -> Any:
        if isinstance(value, str) and name in {"trim", "toString"} and OPEN not in value:
            return _Function(name, value)
        if isinstance(value, int | float) and name == "toString" and not isinstance(value, bool):
            return _Function(name, text(value))
        return self.member(value, name)

    def member(self, value: Any, name: str) -> Any:
        if isinstance(value, Required):
            return self.of_required(value.name, name)
        if isinstance(value, _Env):
            return self.variable(name)
        if isinstance(value, Object):
            return value.get(name)
        if isinstance(value, list) and name.isdecimal() and len(name) < 6:
            return value[int(name)] if int(name) < len(value) else None
        return self.unknown(name)

    def of_required(self, module: str, name: str) -> Any:
        if name in _FUNCTIONS.get(module, ()):
            return _Function(name)
        if (module, name) == ("process", "env"):
            return _Env()
        if (module, name) == ("import", "meta"):
            return Object({"url": f"file://{self.file}", "dirname": dirname(self.file), "filename": self.file})
        return self.unknown(name)

    def unknown(self, name: str) -> Any:
        raise self.dynamic(f"the property {name[:40]} of a computed value")

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
                raise self.dynamic(f"path.{what} of a value that is not a string")
            if what == "dirname":
                return dirname(given[0])
            if what == "basename":
                return given[0].rstrip("/").rpartition("/")[2]
            return self.bounded(normpath(join(dirname(self.main), *given) if what == "resolve" else "/".join(given)))
        if what == "fileURLToPath":
            if len(given) != 1 or given[0] != f"file://{self.file}":
                raise self.dynamic("the path of another URL")
            return self.file
        if what == "cwd":
            return dirname(self.main)
        if what == "homedir":
            return reference("HOME", "")
        if what == "config":
            return self.dotenv(given[0] if given else Object())
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

    def dotenv(self, options: Any) -> Object:
        """What its config() gives."""
        paths = options.get("path", ".env") if isinstance(options, Object) else None
        paths = paths if isinstance(paths, list) else [paths]
        known = {"path", "quiet", "debug", "encoding"}
        if not all(isinstance(each, str) and OPEN not in each for each in paths) or set(options) - known:
            raise self.dynamic("dotenv with a computed file name")
        parsed: dict[str, Any] = {}
        for each in paths:
            parsed = {**self.read_env(each), **parsed}
        return Object({"parsed": Object(parsed)})

    def primary(self) -> Any:
        self.space()
        char = self.text[self.at : self.at + 1]
        if not char:
            raise self.fault("the file ends inside a value")
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
        if name in {"process", "import"}:
            return Required(name)
        if name in {"require", "Number", "String", "parseInt", "parseFloat"}:
            return _Function(name)
        self.at = start
        raise self.dynamic(f"{name[:40]}, which is not defined" if name else f"{char!r}")

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
                    raise self.dynamic("a spread of a value that is not an object")
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
                            raise self.dynamic(f"{key[:40]}, which is not defined")
                        found.put(key, self.known[key], line)
                        self.take(",")
                        continue
                if not self.take(":"):
                    raise (self.dynamic("a function, or a key without a value") if key else self.fault("a missing key"))
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
                    raise self.dynamic("a spread of a value that is not an array")
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
                if isinstance(value, Object | list | Required | _Function | _Env):
                    raise self.dynamic("an object converted to a string")
                parts.append(text(value))
                self.need("}")
            else:
                parts.append(self.escape() if char == "\\" else char)
