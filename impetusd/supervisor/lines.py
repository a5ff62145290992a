"""How bytes of a program become lines of a log file: where they are cut, what stands before and around them. Pure.

Without `time` and `json` bytes stay what they are.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass

# What JSON escapes, the newline excepted, the backslash first: as bytes, all lines in one go, json.dumps of each takes
# twenty times as long.
_ESCAPES = [(bytes([code]), json.dumps(chr(code))[1:-1].encode()) for code in (0x5C, 0x22, *range(32)) if code != 10]
LONGEST = 32768  # bytes of a line that are waited for: half a pipe; with pages half used that may be all it holds


@dataclass(frozen=True, slots=True)
class Options:
    """How one pipe is written. `name` and `stream` ("out", "error") are for JSON lines; sizes in bytes, ages in seconds."""

    name: str = ""
    stream: str = "out"
    time: bool = False
    json: bool = False  # implies a time
    merged: bool = False  # other pipes go to the same file: only whole lines are written
    prefix: str = ""  # before each line that is no JSON
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


def whole(data: bytes, *, forced: bool, longest: int = LONGEST) -> int:
    """How many bytes of `data` are to be written now: its whole lines; all of it if `forced`, or if it is one too long."""
    end = data.rfind(b"\n") + 1
    return len(data) if forced or (end == 0 and len(data) >= longest) else end


def dress(data: bytes, options: Options, at: float) -> bytes:
    """`data`, whole lines (a last one without its newline gets one), as it is written into the file."""
    if not data:
        return b""
    if not data.endswith(b"\n"):
        data += b"\n"
    if options.json:
        head = f'{{"time": "{stamp(at)}", "name": {json.dumps(options.name)}, "stream": "{options.stream}", "line": "'
        between = b'"}\n' + head.encode()
        return b"".join((between[3:], _escaped(data[:-1]).replace(b"\n", between), b'"}\n'))
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
