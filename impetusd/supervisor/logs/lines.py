"""Turn a program's bytes into lines of a log file: splitting, timestamps, prefixes and JSON. Pure.

Without `time` and `json` bytes stay what they are.
"""

from __future__ import annotations

import json
import time
from typing import NamedTuple

from impetusd.core.values import dataclass

# What JSON escapes, the newline excepted, the backslash first: as bytes, all lines in one go, json.dumps of each takes
# twenty times as long.
_ESCAPES = [(bytes([code]), json.dumps(chr(code))[1:-1].encode()) for code in (0x5C, 0x22, *range(32)) if code != 10]
GOES_ON = "…"  # at the end of a part of a line that is too long, where the next part follows


@dataclass(frozen=True, slots=True)
class Options:
    """How one pipe is written. `name` and `stream` ("out", "error") are for JSON lines; sizes in bytes, ages in seconds."""

    name: str = ""
    stream: str = "out"
    time: bool = False
    json: bool = False  # implies a time
    merged: bool = False  # other pipes go to the same file: only whole lines are written
    prefix: str = ""  # before each line that is not JSON
    max_line: int = 1 << 18  # a longer line is written in parts; without by_lines there are none
    tail: bool = True  # keep the last of each run, to explain its end
    max_size: int = 0  # 0: no rotation by size
    max_age: float = 0.0  # 0: none by age
    keep: int = 7
    compress: bool = True

    @property
    def by_lines(self) -> bool:
        """Whether only whole lines are written; else bytes are moved unchanged, as they come."""
        return self.time or self.json or self.merged or bool(self.prefix)


def stamp(at: float) -> str:
    """Local time with milliseconds and zone, as in 2026-11-23T09:00:00.123+0100; `at` is in seconds of time.time()."""
    local = time.localtime(at)
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', local)}.{int(at % 1 * 1000):03d}{time.strftime('%z', local)}"


class Piece(NamedTuple):
    """Whole lines, or a part of one that is too long and goes on in the next piece."""

    data: bytes
    goes_on: bool = False


def split(data: bytes, most: int, *, ended: bool) -> tuple[list[Piece], bytes]:
    """The part of `data` to write now, and the part to hold back: the beginning of a line, at most `most` bytes.

    A line of more than `most` bytes is split, never within a character. `ended`: nothing follows, so the last line is
    complete as it is.
    """
    pieces = []
    begin = at = 0  # of what is in no piece yet; of the line that is looked at
    while len(data) - at > most:
        newline = data.rfind(b"\n", at, at + most + 1)
        if newline >= 0:
            at = newline + 1
            continue
        if begin < at:
            pieces.append(Piece(data[begin:at]))
        begin, at = at, _before_character(data, at + most)
        pieces.append(Piece(data[begin:at], goes_on=True))
        begin = at
    end = len(data) if ended else data.rfind(b"\n", begin) + 1
    if begin < end:
        pieces.append(Piece(data[begin:end]))
    return pieces, data[max(begin, end) :]


def _before_character(data: bytes, at: int) -> int:
    """`at`, or where the character begins that it would cut in two: UTF-8 has at most four bytes for one."""
    begin = at
    while begin > at - 3 and data[begin] & 0xC0 == 0x80:
        begin -= 1
    return at if data[begin] & 0xC0 == 0x80 else begin


def dress(data: bytes, options: Options, at: float, *, goes_on: bool = False) -> bytes:
    """`data`, whole lines (a last one without its newline gets one), as it is written into the file.

    `goes_on`: it is one part of a line, and the next follows. In JSON that is a field, elsewhere GOES_ON.
    """
    if not data:
        return b""
    if not options.json and goes_on:
        data += GOES_ON.encode()
    if not data.endswith(b"\n"):
        data += b"\n"
    if options.json:
        end = b'", "partial": true}\n' if goes_on else b'"}\n'
        head = f'{{"time": "{stamp(at)}", "name": {json.dumps(options.name)}, "stream": "{options.stream}", "line": "'
        between = b'"}\n' + head.encode()
        return b"".join((between[3:], _escaped(data[:-1]).replace(b"\n", between), end))
    if options.time or options.prefix:
        before = f"{options.prefix}{f'{stamp(at)} ' if options.time else ''}".encode()
        return b"".join((before, memoryview(data.replace(b"\n", b"\n" + before))[: -len(before)]))
    return data


def _escaped(data: bytes) -> bytes:
    """`data` as it stands in a JSON string, its newlines as they are."""
    try:
        data.decode()
    except UnicodeDecodeError:
        data = data.decode("utf-8", "backslashreplace").encode()
    for raw, escaped in _ESCAPES:
        if raw in data:
            data = data.replace(raw, escaped)
    return data


def offset_after(data: bytes, lines: int) -> int:
    """Where line number `lines` (from 0) of `data` begins; its length when there are fewer."""
    at = 0
    for _ in range(lines):
        at = data.find(b"\n", at) + 1
        if at == 0:
            return len(data)
    return at
