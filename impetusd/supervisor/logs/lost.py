"""Counters of lost log output, in memory held by the shim, so that the next supervisor continues them.

A file has a record from its first loss on: two halves, and a number that says which of them counts. Each change goes
into the other half, which counts from then on; a kill between any two instructions leaves what was before it or what is
after. With the counts stands how much of which chunk they account for: the next supervisor finds that chunk in the journal
(`journal`), and counts none of it twice.
"""

from __future__ import annotations

import errno
import mmap
import os
import struct
import threading
from collections.abc import Collection

from impetusd.core.reasons import Reason, because

SIZE = (
    1 << 20
)  # bytes: some 4,000 files; more are counted, and forgotten with the supervisor. What is not used costs nothing
_HEAD = struct.Struct("QQ")  # which half counts, length of the path
_HALF = struct.Struct("QQQQdQQdQ")  # the fields of Lost, in their order


class Lost:
    """What was dropped of one file: written by one thread, read by any.

    `bytes` and `lines` are of all time, `now_bytes` and `now_lines` since writing stopped at `since` (time.time(); 0.0: it
    goes on). `skipping`: what comes next is the rest of a line that was dropped.
    """

    __slots__ = (
        *("_at", "_chunk", "_half", "_losses", "_path", "_upto"),
        *("bytes", "errno", "lines", "now_bytes", "now_lines", "since", "skipping"),
    )

    def __init__(self, losses: Losses | None = None, path: str = "", at: int = 0, half: int = 0) -> None:
        """The losses of the file `path`; `at` is the offset of its record, 0 while it has none."""
        self._losses = losses
        self._path = path
        self._at = at
        self._half = half
        self.bytes = self.lines = self.now_bytes = self.now_lines = self._upto = 0
        self.since = self._chunk = 0.0
        self.errno = 0
        self.skipping = False

    @property
    def reason(self) -> str:
        """Why the last write failed."""
        return os.strerror(self.errno)

    def at(self, chunk: float) -> None:
        """The chunk that was read at `chunk` is being written from now on."""
        self._chunk, self._upto = chunk, 0

    def begin(self, now: float, error: OSError) -> None:
        """Writing stopped."""
        self.since = now
        self.errno = error.errno or errno.EIO
        self.now_bytes = self.now_lines = 0
        self._store()

    def add(self, count: int, lines: int, upto: int, *, skipping: bool) -> None:
        """Count what is dropped now; of the present chunk's output, all before `upto` is accounted for."""
        self.bytes += count
        self.lines += lines
        self.now_bytes += count
        self.now_lines += lines
        self.skipping = skipping
        self._upto = upto
        self._store()

    def end(self) -> None:
        """Writing goes on."""
        self.since = 0.0
        self._store()

    def accounted(self, chunk: float) -> int:
        """How much of that chunk's output is already accounted for."""
        return self._upto if self._chunk == chunk else 0

    def load(self, values: tuple[int, int, int, int, float, int, int, float, int]) -> None:
        """Go on from what a record says."""
        self.bytes, self.lines, self.now_bytes, self.now_lines, self.since, self.errno = values[:6]
        self.skipping, self._chunk, self._upto = bool(values[6]), values[7], values[8]

    def _store(self) -> None:
        if self._losses is None:
            return
        self._at = self._at or self._losses.make_room(self._path)
        if self._at:
            counts = self.bytes, self.lines, self.now_bytes, self.now_lines
            values = *counts, self.since, self.errno, self.skipping, self._chunk, self._upto
            self._half = 1 - self._half
            self._losses.put(self._at, self._half, values)


class Losses:
    """The losses of all files. `fd` is the memory; give it to a successor. True if anything was ever dropped."""

    def __init__(self, fd: int | None = None) -> None:
        """Begin with the memory of a predecessor, or with new memory."""
        self.fd = os.memfd_create("impetusd-lost") if fd is None else fd
        if fd is None:
            os.ftruncate(self.fd, SIZE)
        self._map = mmap.mmap(self.fd, SIZE)
        self._lost: dict[str, Lost] = {}
        self._lock = threading.Lock()
        self._end = 8  # of the records; no record is at 0
        while self._end + _HEAD.size <= SIZE:
            half, length = _HEAD.unpack_from(self._map, self._end)
            if not length:
                break
            name = self._end + _HEAD.size + 2 * _HALF.size
            path = os.fsdecode(self._map[name : name + length])
            self._lost[path] = lost = Lost(self, path, self._end, half)
            lost.load(_HALF.unpack_from(self._map, self._end + _HEAD.size + half * _HALF.size))
            self._end += _room(length)

    def __bool__(self) -> bool:
        return self._end > 8

    def close(self) -> None:
        """Let go of the memory."""
        self._map.close()
        os.close(self.fd)

    def of(self, path: str) -> Lost:
        """The counts of a file."""
        return self._lost.setdefault(path, Lost(self, path))

    def dropped(self, path: str) -> tuple[int, int]:
        """Bytes and lines of a file, of all time."""
        lost = self._lost.get(path)
        return (lost.bytes, lost.lines) if lost is not None else (0, 0)

    def attention(self, paths: Collection[str]) -> list[Reason]:
        """Those of the files `paths` that cannot be written now, by directory and cause."""
        found: dict[tuple[str, int], list[str]] = {}
        for path in paths:
            if (lost := self._lost.get(path)) is not None and lost.since:
                found.setdefault((os.path.dirname(path), lost.errno), []).append(path)
        told = []
        for (directory, number), files in found.items():
            lines = sum(self._lost[path].now_lines for path in files)
            where = files[0] if len(files) == 1 else directory
            cause = because("os_error", errno=number, detail="")
            told.append(because("logs_lost", files=len(files), cause=cause, lines=lines, where=where))
        return told

    def make_room(self, path: str) -> int:
        """Where the file's new record begins; 0 when there is no room."""
        name = os.fsencode(path)
        with self._lock:
            at = self._end
            if at + _room(len(name)) > SIZE:
                return 0
            begin = at + _HEAD.size + 2 * _HALF.size
            self._map[begin : begin + len(name)] = name
            _HEAD.pack_into(self._map, at, 0, len(name))  # from here on it is one
            self._end += _room(len(name))
            return at

    def put(self, at: int, half: int, values: tuple[float, ...]) -> None:
        """Write that half of the record; then it counts."""
        _HALF.pack_into(self._map, at + _HEAD.size + half * _HALF.size, *values)
        struct.pack_into("Q", self._map, at, half)


def _room(length: int) -> int:
    """Bytes of a record whose path has so many."""
    return _HEAD.size + 2 * _HALF.size + (length + 7) // 8 * 8
