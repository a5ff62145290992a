"""Reads a log file page by page, for the control method `tail`, from the client's position.

It may be written, renamed, truncated or replaced meanwhile. It may lie in a folder of the program's own user, who can put a
link or a FIFO in its place: root follows no link made by others, and never blocks.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import threading
from typing import NamedTuple

from impetusd.files.folders import followed, open_file

MOST = 1 << 16  # bytes of a page


class Page(NamedTuple):
    """Whole lines without their newlines, from `offset` up to `next`, where the following page begins.

    `file` is the file's identity. `written`: when it was written last, Unix time. `anew`: the requested one is gone or was truncated: this is the beginning of its
    successor. `more`: there is another page already.
    """

    lines: list[bytes]
    offset: int
    next: int
    file: str
    anew: bool
    more: bool
    written: float = 0.0


def open_log(path: str) -> int:
    """A descriptor of the regular file at `path`. Raises OSError."""
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
    fd = open_file(followed(os.path.abspath(path)), flags) if os.geteuid() == 0 else os.open(path, flags)
    if stat.S_ISREG(os.fstat(fd).st_mode):
        return fd
    os.close(fd)
    raise OSError(errno.EINVAL, "it is not a regular file", path)


class Log:
    """One log, from an offset on or from its last page; over rotation to its successor.

    It is read in one thread at a time, which may hang there; `close` never waits for it.
    """

    def __init__(self, path: str, file: str = "", offset: int | None = None) -> None:
        """`offset` of the file whose identity is `file` ("": whichever is there); None: its last page."""
        self._path = path
        self._asked = file
        self._offset = offset
        self._fd = -1
        self._reading = threading.Lock()
        self._closed = False

    def close(self) -> None:
        """Let go of the file, as soon as nobody reads it."""
        self._closed = True
        if self._reading.acquire(blocking=False):
            if self._fd >= 0:
                os.close(self._fd)
                self._fd = -1
            self._reading.release()

    def read(self) -> Page | None:
        """Bytes added since, up to MOST; None for nothing, or no file. Raises OSError."""
        try:
            with self._reading:
                return None if self._closed else self._read()
        finally:
            if self._closed:
                self.close()

    def _read(self) -> Page | None:
        if self._fd < 0:
            try:
                self._fd = open_log(self._path)
            except FileNotFoundError:
                return None
        page = self._page()
        if page is None and (successor := self._successor()) >= 0:
            os.close(self._fd)
            self._fd, self._offset = successor, 0
            page = self._page()
            return page._replace(anew=True) if page is not None else None
        return page

    def _page(self) -> Page | None:
        there = os.fstat(self._fd)
        file, size, anew = f"{there.st_dev:x}:{there.st_ino:x}", there.st_size, False
        last = self._offset is None
        begin = max(0, size - MOST) if self._offset is None else self._offset
        if begin > size or (self._asked and self._asked != file):
            begin, anew = 0, True
        self._asked = ""
        data = os.pread(self._fd, MOST, begin)
        if last and begin:
            cut = data.find(b"\n") + 1
            begin, data = begin + cut, data[cut:]
        end = data.rfind(b"\n") + 1
        if not end and len(data) == MOST:
            end = MOST  # a line without an end comes in pieces
        self._offset = begin + end
        if not end and not anew and not last:
            return None
        lines = data[:end].removesuffix(b"\n").split(b"\n") if end else []
        more = len(data) == MOST and size > begin + end
        return Page(lines, begin, begin + end, file, anew, more, round(there.st_mtime, 3))

    def _successor(self) -> int:
        """What is at the path now, if that is another file than ours; -1."""
        with contextlib.suppress(OSError):
            now, ours = os.stat(self._path), os.fstat(self._fd)
            if (now.st_dev, now.st_ino) != (ours.st_dev, ours.st_ino):
                return open_log(self._path)
        return -1
