"""The text of an INI file: its sections with their lines, `${}` references, and words as a shell splits them.

configparser cannot serve here: it forgets on which line a value stood, and it stops at the first duplicate, so a
file's mistakes could not be reported all at once, each with file and line. No content of a file makes this raise: what
cannot be read becomes a `Problem` (or a complaint, for one value) and reading goes on.

    [section]           a header; spaces around it are free
    key = value         keys keep their case; the value's surrounding blanks are dropped
        more of it      deeper indented than its key: continues the value, after a newline
    ; or # at the start of a line, and " ;" behind a value (outside quotes), begin a comment

A blank line ends a value. A value wholly in one pair of quotes loses them, so that blanks at its ends and " ;" can be
written. In double quotes \\" is a quote and \\\\ a backslash, as in systemd and Docker; single quotes keep all as it
is. A value that only begins or ends with a quote is taken as it stands.
"""

from __future__ import annotations

from enum import Enum

from impetusd.core.config.problem import Problem

TYPE_CHECKING = False  # typing takes 2 ms to import, and `impetusd status` comes by here
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

# The rules by which a text is read. One that is in force keeps those it was read by until it is applied again: under 1 a
# backslash in quotes was itself, and what no shell could have run was taken for a command; under 2 Node was any program.
RULES = 3
QUOTED = "\ufdd0"  # a noncharacter: see `split`
DEEPEST = 20  # references nested deeper than this are refused: a file of "${A:-" a million times over must not recurse


class Entry:
    """One `key = value`: the value as written, comments dropped, its lines joined by newlines; and where the key stands."""

    __slots__ = ("file", "line", "value")

    def __init__(self, value: str, file: str, line: int) -> None:
        self.value = value
        self.file = file
        self.line = line


class Section:
    """One `[name]` and what stands under it. Of a key set twice, the first is kept."""

    __slots__ = ("entries", "file", "line", "name")

    def __init__(self, name: str, file: str, line: int) -> None:
        self.name = name
        self.file = file
        self.line = line
        self.entries: dict[str, Entry] = {}


def parse(
    text: str, file: str, headers: dict[str, tuple[str, int]] | None = None
) -> tuple[list[Section], list[Problem]]:
    """Read a whole file. Sections come in its order; one that is there twice comes twice, and is a problem.

    `headers`: file and line of each section so far, where other files were read before; those of this one are added.
    """
    sections: list[Section] = []
    problems: list[Problem] = []
    headers = {} if headers is None else headers
    here: dict[str, tuple[int, list[str]]] | None = None  # of the section at hand: key -> line, lines of the value
    read: list[tuple[Section, dict[str, tuple[int, list[str]]]]] = []
    value: list[str] | None = None  # what an indented line would continue
    key_indent = 0

    for number, line in enumerate(text.removeprefix("\ufeff").split("\n"), 1):
        stripped = line.strip()
        if not stripped:
            value = None
            continue
        if stripped[0] in ";#":
            continue
        if "\0" in line:
            problems.append(Problem(file, number, "NUL character; remove it, because no value can contain one"))
            continue
        indent = _indent(line) if line[0].isspace() else 0
        if value is not None and indent > key_indent:
            value.append(stripped)
            continue
        value = None
        if stripped[0] == "[":
            here = {}
            name, fault = _header(stripped)
            if fault:
                problems.append(Problem(file, number, fault))
            if not name:  # what stands under it is checked for syntax only, and left out
                continue
            if name in headers and not fault:
                other, first = headers[name]
                where = f"on line {first}" if other == file else f"at {other}:{first}"
                problems.append(Problem(file, number, f"[{brief(name)}] already exists {where}; merge the two"))
            headers.setdefault(name, (file, number))
            read.append((Section(name, file, number), here))
            continue
        key, equals, rest = stripped.partition("=")
        key = key.rstrip()
        fault = ""
        if not equals:  # the line itself is not shown: it may be a piece of a secret
            fault = "missing '='; write NAME = value, or start a comment with ;"
        elif not key:
            fault = "missing key before '='; write NAME = value"
        elif here is None:
            fault = f"{brief(key)} comes before the first [section]; move it into one"
        else:
            value, key_indent = [rest.strip()], indent
            first, _ = here.setdefault(key, (number, value))
            if first != number:
                fault = f"{brief(key)} is already set on line {first}; keep one of the two"
        if fault:
            problems.append(Problem(file, number, fault))
    for section, entries in read:
        for key, (number, lines) in entries.items():
            section.entries[key] = Entry(without_comments("\n".join(lines)), file, number)
        sections.append(section)
    return sections, problems


def brief(text: str, most: int = 60) -> str:
    """A piece of the file as a message shows it: on one line, and not longer than `most` characters."""
    line = " ".join(text[: 4 * most].split())
    return line if len(line) <= most else line[: most - 1] + "…"


def without_comments(value: str) -> str:
    """A value's text without its " ;" comments. A quote begins only where a word may, so the one in don't does not."""
    if ";" not in value:
        return value
    kept: list[str] = []
    start = at = 0
    unclosed: set[str] = set()  # quotes that nothing closes from here on
    while at < len(value):
        char = value[at]
        if char == ";" and (at == 0 or value[at - 1].isspace()):
            kept.append(value[start:at].rstrip())
            start = at = _end_of_line(value, at)
            continue
        at = _past_quotes(value, at, unclosed)
        at += 1
    kept.append(value[start:])
    return "".join(kept).strip()


def unquoted(value: str, rules: int = RULES) -> str:
    """A value without the one pair of quotes around the whole of it, if that is how it is written."""
    quote, inner = value[:1], value[1:-1]
    if len(value) < 2 or quote not in "\"'" or value[-1] != quote:
        return value
    if quote == "'" or rules < 2:
        return value if quote in inner else inner
    if _closing(value, 0) != len(value) - 1:
        return value
    return inner.replace("\\\\", "\0").replace('\\"', '"').replace("\0", "\\")  # a value has no NUL


class Origin(Enum):
    """The origin of a piece of an expanded value, which decides how it is split in a command line."""

    FILE = "written in the file: its quotes and blanks mean what they mean to a shell"
    ENVIRON = "from a reference: outside quotes it is split at blanks; its own quotes mean nothing"
    BUILT_IN = "a directory of ours: stays one word, whatever is in it"


Piece = tuple[str, Origin]


def expand(value: str, environ: Mapping[str, str], built_in: Mapping[str, str]) -> tuple[list[Piece], list[str]]:
    """Replace `${NAME}`, `${NAME:-default}` and `${NAME:+other}` with their shell meaning; `$$` is a dollar.

    `built_in` comes before `environ`. Returns the value in pieces and every complaint about it, each a clause.
    """
    if "$" not in value:
        return [(value, Origin.FILE)], []
    reading = _Expansion(value, environ, built_in)
    pieces = reading.text(Origin.FILE, live=True, depth=0)
    return pieces, list(dict.fromkeys(reading.complaints))


def joined(pieces: Iterable[Piece]) -> str:
    """The expanded value as one text."""
    return "".join(text for text, _ in pieces)


def words(pieces: Iterable[Piece]) -> list[str]:
    """Split as a shell would, into an argument list. ValueError for a quote that nothing closes."""
    return [word for word, _ in split(pieces)]


def split(pieces: Iterable[Piece]) -> list[tuple[str, str]]:
    """The same, and with each word what of it stood outside of quotes: QUOTED is in the place of each other character."""
    done: list[tuple[str, str]] = []
    word: list[str] | None = None  # in pieces, because a text that grows by one character at a time is copied each time
    bare: list[str] = []
    quote = ""
    escaped = False
    for text, origin in pieces:
        if origin is Origin.BUILT_IN or (origin is Origin.ENVIRON and quote):
            word, escaped = [*(word or ()), text], False
            bare.append(QUOTED)
            continue
        for char in text:
            if char in " \t\r\n" and not quote and not escaped:
                if word is not None:
                    done.append(("".join(word), "".join(bare)))
                word, bare = None, []
                continue
            if word is None:
                word = []
            if escaped:
                # inside double quotes a backslash is itself, unless it stands before one or before the quote
                word.append("\\" + char if quote == '"' and char not in '"\\' else char)
                bare.append(QUOTED)
                escaped = False
            elif char == quote:
                quote = ""
                bare.append(QUOTED)
            elif quote == "'" or (quote and char != "\\") or origin is Origin.ENVIRON:
                word.append(char)
                bare.append(QUOTED if quote else char)
            elif char == "\\":
                escaped = True
            elif char in "\"'":
                quote = char
            else:
                word.append(char)
                bare.append(char)
    if quote:
        raise ValueError(f"the {quote} is never closed; close it, or write \\{quote} for the character itself")
    if escaped:
        raise ValueError("ends with a backslash; remove it, because a long command continues on an indented line")
    return done if word is None else [*done, ("".join(word), "".join(bare))]


def _past_quotes(value: str, at: int, unclosed: set[str]) -> int:
    """The position after the quotes that start at `at`; `at` if none do. Calls `unclosed` for a quote that is never
    closed.
    """
    char = value[at]
    if char not in "\"'" or char in unclosed or (at and value[at - 1].isalnum()):
        return at
    end = _closing(value, at)
    if end < 0:
        unclosed.add(char)
        return at
    return end


def continuations(value: str) -> list[str]:
    """The lines of a value that follow the first one, without those that begin inside of quotes."""
    found: list[str] = []
    at = 0
    unclosed: set[str] = set()
    while at < len(value):
        char = value[at]
        at = _past_quotes(value, at, unclosed)
        if char == "\n":
            found.append(value[at + 1 : _end_of_line(value, at + 1)])
        at += 1
    return found


class _Expansion:
    """One pass over one value; `at` is how far it has read."""

    def __init__(self, value: str, environ: Mapping[str, str], built_in: Mapping[str, str]) -> None:
        self.value = value
        self.environ = environ
        self.built_in = built_in
        self.at = 0
        self.complaints: list[str] = []
        self.broken = False  # its syntax is, so that consequences of that are not reported too

    def text(self, origin: Origin, *, live: bool, depth: int) -> list[Piece]:
        """Read on to the end, or in a reference to its brace. Where not `live`, only the syntax counts."""
        value, pieces = self.value, list[Piece]()
        while self.at < len(value):
            stop = self.at
            while stop < len(value) and value[stop] != "$" and not (depth and value[stop] == "}"):
                stop += 1
            if stop > self.at:
                pieces.append((value[self.at : stop], origin))
                self.at = stop
            if stop == len(value) or value[stop] == "}":
                break
            following = value[stop + 1 : stop + 2]
            if following == "{":
                pieces += self.reference(live=live, depth=depth)
            elif following == "$":
                pieces.append(("$", origin))
                self.at += 2
            elif name := _name(value, stop + 1):
                self.complaints.append(
                    f"${name} is ambiguous; write ${{{name}}} for the variable, or $${name} for a literal dollar"
                )
                self.at += 1 + len(name)
            else:
                pieces.append(("$", origin))
                self.at += 1
        return pieces if live else []

    def reference(self, *, live: bool, depth: int) -> list[Piece]:
        """Read one reference, `at` standing on its dollar."""
        value, start = self.value, self.at
        name = _name(value, start + 2)
        self.at = start + 2 + len(name)
        operator = value[self.at : self.at + 2]
        if depth == DEEPEST:
            self.complaints.append(f"references are nested more than {DEEPEST} levels deep; use fewer")
            self.at, self.broken = len(value), True
            return []
        if not name or not (operator[:1] == "}" or operator in {":-", ":+"}):
            end = value.find("}", start)
            self.at = len(value) if end < 0 else end + 1
            what = f"${{{name}… is not a reference" if end >= 0 else "a ${ is never closed by }"
            self.complaints.append(
                f"{what}; write ${{NAME}}, ${{NAME:-default}} or ${{NAME:+other}}; for a literal dollar, write $$"
            )
            self.broken = self.broken or end < 0
            return []
        known = self.built_in.get(name)
        origin = Origin.ENVIRON if known is None else Origin.BUILT_IN
        if known is None:
            known = self.environ.get(name)
        if operator[0] == "}":
            self.at += 1
            if known is None and live:
                self.complaints.append(f"${{{name}}} is not set; set {name}, or give a default: ${{{name}:-…}}")
            return [(known or "", origin)]
        self.at += 2
        wanted = bool(known) == (operator == ":+")
        other = self.text(Origin.ENVIRON, live=live and wanted, depth=depth + 1)
        if self.at == len(value):
            if not self.broken:
                self.complaints.append(f"${{{name}{operator} is never closed; add the }}")
            self.broken = True
            return []
        self.at += 1
        if wanted:
            return other
        return [] if operator == ":+" else [(known or "", origin)]


def is_name(text: str) -> bool:
    """True if `text` is a valid variable name: ASCII letters, digits and _, not starting with a digit."""
    return text.isascii() and text.isidentifier()


def _name(value: str, start: int) -> str:
    """The longest name that begins at `start`; may be ''."""
    end = start
    while end < len(value) and (value[end] == "_" or (value[end].isascii() and value[end].isalnum())):
        end += 1
    name = value[start:end]
    return name if is_name(name) else ""


def _indent(line: str) -> int:
    return len(line.expandtabs()) - len(line.expandtabs().lstrip())


def _header(stripped: str) -> tuple[str, str]:
    """The name in a `[header]`, as far as it can be parsed, and what is wrong with it."""
    name, bracket, rest = stripped[1:].partition("]")
    rest = rest.lstrip()
    if not name.strip():
        return "", "empty section name; write [pool:NAME] or [program:NAME]"
    if not bracket:
        name = without_comments(name).strip()
        return name, f"[{brief(name)} has no closing ]; add it"
    if rest and rest[0] not in ";#":
        return name.strip(), f"unexpected {brief(rest)} after a section header; put it on its own line"
    return name.strip(), ""


def _end_of_line(value: str, at: int) -> int:
    end = value.find("\n", at)
    return len(value) if end < 0 else end


def _closing(value: str, at: int) -> int:
    """The position of the quote that closes the one at `at`, or -1."""
    quote = value[at]
    end = value.find(quote, at + 1)
    while quote == '"' and end > 0 and _escaped(value, end):
        end = value.find(quote, end + 1)
    return end


def _escaped(value: str, at: int) -> bool:
    """True if an odd number of backslashes precedes this position."""
    first = at
    while first and value[first - 1] == "\\":
        first -= 1
    return (at - first) % 2 == 1
