r"""The text of an env_file, as systemd's EnvironmentFile= and Docker's --env-file are written.

    NAME=value          a name has letters, digits, _, . and -, no digit first; `export ` before it is overlooked
    NAME="some value"   in double quotes a backslash goes before " \ $ ` and the end of a line, which it joins with the next
    NAME='some value'   in single quotes all is itself; either kind may go on over several lines, as a PEM does
    NAME=one \          outside quotes a backslash at the end of a line joins it with the next; any other is itself
    # or ; begin a comment at the start of a line, and # behind a quoted value

Only "\n" (or "\r\n") ends a line. A quote that nothing closes, inside of a value or at its beginning, is itself.
"""

from __future__ import annotations

from impetusd.core.config.ini import RULES

BLANKS = " \t\r"
ESCAPED = '"\\$`'


def named(path: str) -> tuple[str, bool]:
    """The file that an item of `env_file` names, and whether it may be missing: then - stands before it."""
    return path.removeprefix("-"), path.startswith("-")


class Fault(Exception):
    """A line that cannot be read: `line` is its number, `reason` a clause."""

    def __init__(self, line: int, reason: str) -> None:
        super().__init__(f"line {line}: {reason}")
        self.line = line
        self.reason = reason


def parse(data: bytes, rules: int = RULES) -> dict[str, str]:
    """Each variable with its value, the last one of those with the same name. Raises Fault at the first bad line."""
    text = _decoded(data)
    found: dict[str, str] = {}
    at, number = 0, 1
    while at < len(text):
        end = _line_end(text, at)
        line = text[at:end].strip(BLANKS)
        begun = number
        if line and line[0] not in "#;":
            name, start = _name(text, at, end, number)
            value, end = _value(text, start, end, number, rules)
            found[name] = value
            begun += text.count("\n", at, end)
        at, number = end + 1, begun + 1
    return found


def is_name(name: str) -> bool:
    """True for a valid variable name here and in [env:NAME]; this accepts more than a shell does as $NAME."""
    return name.replace(".", "_").replace("-", "_").isidentifier()


def _decoded(data: bytes) -> str:
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        wide = data[:2] in {b"\xff\xfe", b"\xfe\xff"}
        what = "UTF-16, not UTF-8" if wide else f"not UTF-8 (byte 0x{data[error.start]:02x})"
        raise Fault(data.count(b"\n", 0, error.start) + 1, f"this is {what}; save it as UTF-8") from None
    if "\0" in text:
        raise Fault(text.count("\n", 0, text.index("\0")) + 1, "contains a NUL character, which no variable can hold")
    return text


def _name(text: str, at: int, end: int, number: int) -> tuple[str, int]:
    """The name, and where the value begins."""
    equals = text.find("=", at, end)
    if equals < 0:
        raise Fault(number, "missing '='; write NAME=value, or start a comment with #")
    name = text[at:equals].strip(BLANKS)
    words = name.split(None, 1)
    if len(words) == 2 and words[0] == "export":
        name = words[1]
    if not name:
        raise Fault(number, "missing name before '='; write NAME=value")
    if not is_name(name):
        raise Fault(
            number, "invalid variable name before '='; use letters, digits, _, . and -, not starting with a digit"
        )
    return name, equals + 1


def _value(text: str, start: int, end: int, number: int, rules: int) -> tuple[str, int]:
    """The value, and the end of the line on which it ends."""
    while start < end and text[start] in BLANKS:
        start += 1
    if rules < 2:
        value = text[start:end].rstrip(BLANKS)
        quoted = len(value) > 1 and value[0] in "\"'" and value[-1] == value[0]
        return (value[1:-1] if quoted else value), end
    closing = _closing(text, start) if start < end and text[start] in "\"'" else -1
    return _quoted(text, start, closing, number) if closing > 0 else _joined(text, start, end)


def _quoted(text: str, start: int, closing: int, number: int) -> tuple[str, int]:
    end = _line_end(text, closing)
    rest = text[closing + 1 : end].strip(BLANKS)
    if rest and rest[0] != "#":
        last = number + text.count("\n", start, closing)
        opened = f" of the value that starts on line {number}" if last > number else ""
        raise Fault(last, f"unexpected text after the closing quote{opened}; put the whole value in one pair of quotes")
    inner = text[start + 1 : closing].replace("\r\n", "\n")
    return (_unescaped(inner) if text[start] == '"' else inner), end


def _joined(text: str, start: int, end: int) -> tuple[str, int]:
    """A value without quotes, with the lines that backslashes join to it."""
    parts: list[str] = []
    line = text[start:end].rstrip("\r")
    while line.endswith("\\") and end < len(text):
        parts.append(line[:-1])
        start, end = end + 1, _line_end(text, end + 1)
        line = text[start:end].rstrip("\r")
    return "".join([*parts, line]).strip(BLANKS), end


def _line_end(text: str, at: int) -> int:
    end = text.find("\n", at)
    return len(text) if end < 0 else end


def _closing(text: str, start: int) -> int:
    """Where the quote that opens at `start` closes, or -1."""
    end = text.find(text[start], start + 1)
    if text[start] == "'":
        return end
    escape = text.find("\\", start)
    while 0 <= escape < end:
        if end < escape + 2:
            end = text.find('"', escape + 2)
        escape = text.find("\\", escape + 2)
    return end


def _unescaped(inner: str) -> str:
    first, *rest = inner.split("\\")
    parts = [first]
    at = iter(rest)
    for piece in at:
        if not piece:  # a backslash behind the backslash: the next piece does not begin with an escape
            parts.append("\\" + next(at, ""))
        elif piece[0] in ESCAPED:
            parts.append(piece)
        elif piece[0] == "\n":
            parts.append(piece[1:])
        else:
            parts.append("\\" + piece)
    return "".join(parts)
