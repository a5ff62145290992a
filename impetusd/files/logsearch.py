"""A log with its rotated files, searched from its end back: which lines have a text, and were written when.

A text is looked for as it is, without regard to the case of ASCII letters; a pattern could take for ever. However large the
files are, no more than SCANNED bytes are read, in blocks, with a pause after each in which the other threads of this
process have their turn. Files may be renamed, compressed and cut meanwhile: each is known by its inode, and read once.
"""

from __future__ import annotations

import collections
import contextlib
import os
import time
import zlib
from typing import TYPE_CHECKING, NamedTuple

from impetusd.files import rotated
from impetusd.files.logpage import open_log
from impetusd.files.rotated import older, time_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from gzip import GzipFile
    from typing import IO

SCANNED = 256 << 20  # bytes, of compressed files after they were unpacked
RATE = 200 << 20  # bytes a second at most
SPAN = 256 << 10  # bytes on either side of a line, of which its context is taken
_BLOCK = 1 << 16
_LONGEST = 1 << 20  # bytes of a line; more without a newline is taken in pieces


class Query(NamedTuple):
    """`text` "" is in every line. `since` and `until` are Unix time; `limit` lines that match, with so many around each."""

    text: str = ""
    since: float = 0.0
    until: float = float("inf")
    limit: int = 200
    before: int = 0
    after: int = 0


class Line(NamedTuple):
    """`at`: its time, or that of the last line before it that has one; None for neither. `file`, `offset`: where it
    begins.

    `match`: false for a context line.
    """

    at: float | None
    data: bytes
    file: str
    offset: int
    match: bool


class Found(NamedTuple):
    """Lines, the oldest first; `more`: there may be others before them. `written`: when the log was written last, Unix
    time; 0.0: not looked at.
    """

    lines: list[Line]
    more: bool
    written: float = 0.0


class Gone(Exception):
    """The file that contained a line is gone, or has been compressed since."""


def search(path: str, query: Query, stop: Callable[[], bool]) -> Found:
    """The last lines that match. `stop` is asked again and again whether to give up. Raises OSError for the present file."""
    needle = query.text.encode("utf-8", "surrogatepass").lower()
    parts: list[list[Line]] = []
    missing = query.limit + 1
    left, written = SCANNED, 0.0
    for name, file, packed in _files(path, query.since):
        chunks = _forward(file) if packed else _backward(file.fileno(), _end(file.fileno(), whole=name != path))
        identity = identity_of(file.fileno())
        written = written or round(os.fstat(file.fileno()).st_mtime, 3)
        late: collections.deque[list[Line]] = collections.deque()
        count = 0
        for offset, data in chunks:
            lines = _matching(data, offset, identity, query, needle)
            matches = sum(line.match for line in lines)
            if packed:  # the newest come last: the oldest go
                late.append(lines)
                count += matches
                while late and count - (first := sum(line.match for line in late[0])) >= missing:
                    late.popleft()
                    count -= first
            elif lines:
                late.appendleft(lines)
                count += matches
            left -= len(data)
            if left <= 0 or stop():
                return _last([*reversed(parts), *late], query, more=True)._replace(written=written)
            if not packed and (count >= missing or _is_before(data, query.since)):
                break
            time.sleep(len(data) / RATE)
        parts.append([line for lines in late for line in lines])
        missing -= count
        if missing <= 0:
            break
    return _last(list(reversed(parts)), query, more=False)._replace(written=written)


def _last(parts: list[list[Line]], query: Query, *, more: bool) -> Found:
    lines = [line for part in parts for line in part]
    matches = [at for at, line in enumerate(lines) if line.match]
    if len(matches) <= query.limit:
        return Found(lines, more)
    begin = matches[-query.limit]
    for _ in range(query.before):
        begin -= begin > 0 and not lines[begin - 1].match
    return Found(lines[begin:], more=True)


def around(path: str, file: str, offset: int, before: int, after: int) -> list[Line]:
    """The line that begins at `offset` of the file with this identity, and what stands around it. Raises Gone, OSError."""
    if offset > SCANNED:
        raise Gone
    for name, opened, packed in _files(path, 0.0):
        if identity_of(opened.fileno()) != file:
            continue
        begin = max(0, offset - SPAN)
        with contextlib.ExitStack() as stack:
            readable = stack.enter_context(_unpacked(opened)) if packed else opened
            try:
                readable.seek(begin)
                data = readable.read(offset - begin + SPAN)
            except _broken():
                raise Gone from None
        if len(data) <= offset - begin:
            raise Gone
        if name == path:
            data = data[: data.rfind(b"\n") + 1]
        head = data[: offset - begin]
        if begin:
            cut = head.find(b"\n") + 1
            begin, data, head = begin + cut, data[cut:], head[cut:]
        lines = _matching(data, begin, file, Query(limit=len(data)), b"")
        here = sum(line.offset < offset for line in lines)
        return [line._replace(match=line.offset == offset) for line in lines[max(0, here - before) : here + after + 1]]
    raise Gone


def identity_of(fd: int) -> str:
    """As in `logpage.Page`."""
    there = os.fstat(fd)
    return f"{there.st_dev:x}:{there.st_ino:x}"


def _files(path: str, since: float) -> Iterator[tuple[str, IO[bytes], bool]]:
    """(path, file, whether it is compressed) of each that may have lines since then, the newest first; closed after its turn."""
    seen: set[tuple[int, int]] = set()
    present = -1  # the inode of the log itself, which may be rotated meanwhile, with more lines
    for name in (path, *older(path)):
        try:
            name, fd = (name, open_log(name)) if name == path else rotated.opened(name, open_log)
        except FileNotFoundError:
            continue
        except OSError:
            if name == path:
                raise
            continue
        with open(fd, "rb", buffering=0) as file:
            mark = rotated.mark(fd)
            if mark[0] == present or mark in seen:
                continue
            seen.add(mark)
            present = mark[0] if name == path else present
            if mark[1] < since * 1e9:
                return
            yield name, file, name.endswith(".gz")


def _end(fd: int, *, whole: bool) -> int:
    """Where the last line ends; `whole`: the file no longer grows, so a line without a newline counts, too."""
    size = os.fstat(fd).st_size
    if whole:
        return size
    begin = max(0, size - _LONGEST)
    return begin + os.pread(fd, size - begin, begin).rfind(b"\n") + 1


def _backward(fd: int, at: int) -> Iterator[tuple[int, bytes]]:
    """(offset, whole lines), the last first."""
    rest = b""
    while at > 0:
        step = min(_BLOCK, at)
        at -= step
        data = os.pread(fd, step, at) + rest
        cut = data.find(b"\n", 0, -1) + 1 if at else 0
        if at and not cut and len(data) < _LONGEST:
            rest = data
            continue
        rest = data[:cut]
        if data[cut:]:
            yield at + cut, data[cut:]


def _forward(file: IO[bytes]) -> Iterator[tuple[int, bytes]]:
    """The same of a compressed file, the first first."""
    offset, rest = 0, b""
    with _unpacked(file) as unpacked, contextlib.suppress(*_broken()):
        while block := unpacked.read1(_BLOCK):
            data = rest + block
            cut = data.rfind(b"\n") + 1 or (len(data) if len(data) >= _LONGEST else 0)
            if cut:
                yield offset, data[:cut]
            offset, rest = offset + cut, data[cut:]
    if rest:
        yield offset, rest


def _unpacked(file: IO[bytes]) -> GzipFile:
    import gzip  # the supervisor, which searches seldom, would keep it for as long as it lives

    return gzip.open(file)


def _broken() -> tuple[type[Exception], ...]:
    """What reading a compressed file raises that is not whole (yet)."""
    import gzip

    return EOFError, gzip.BadGzipFile, zlib.error


def _matching(data: bytes, offset: int, file: str, query: Query, needle: bytes) -> list[Line]:
    """The matching ones of whole lines, with their context."""
    if needle and needle not in data.lower():
        return []
    texts = data.removesuffix(b"\n").split(b"\n")
    lines: list[Line] = []
    at: float | None = None
    for text in texts:
        own = time_of(text)
        at = at if own is None else own
        fits = (at is None or query.since <= at <= query.until) and (not needle or needle in text.lower())
        lines.append(Line(at, text, file, offset, fits))
        offset += len(text) + 1
    if not query.before and not query.after:
        return [line for line in lines if line.match]
    near = {
        at
        for number, line in enumerate(lines)
        if line.match
        for at in range(max(0, number - query.before), min(len(lines), number + query.after + 1))
    }
    return [lines[at] for at in sorted(near)]


def _is_before(data: bytes, since: float) -> bool:
    """Whether these lines begin before that instant: then so do all lines before them."""
    if not since:
        return False
    first = next((at for at in map(time_of, data[:_BLOCK].split(b"\n")[:100]) if at is not None), None)
    return first is not None and first < since
