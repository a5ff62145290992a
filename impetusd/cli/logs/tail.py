"""Reads log files: their last lines, and what is added to them, also across rotation.

A log may be many gigabytes, may have no newline at all, may be replaced (renamed, and a new one made) or truncated
(copytruncate) at any time, and may not be there yet. It may lie in a folder of the program's own user, who can put a link or
a FIFO in its place: root follows no link made by others, and never blocks. Lines are bytes here; the caller displays
them.
"""

from __future__ import annotations

import errno
import os
import stat

from impetusd.files.folders import followed, open_file

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import BinaryIO

_BLOCK = 1 << 16
_FARTHEST = 8 << 20  # bytes from the end that are looked through for line ends
_LONGEST_LINE = 1 << 20  # bytes; more without a newline is given out in pieces


def open_log(path: str) -> BinaryIO:
    """The log file at `path`, unbuffered. Raises OSError; what is a device, as /dev/null, has no lines, and is not there."""
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
    fd = open_file(followed(os.path.abspath(path)), flags) if os.geteuid() == 0 else os.open(path, flags)
    mode = os.fstat(fd).st_mode
    if stat.S_ISREG(mode):
        return open(fd, "rb", buffering=0)
    os.close(fd)
    if stat.S_ISCHR(mode):
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
    raise OSError(errno.EINVAL, "it is not a regular file", path)


def last_lines(file: BinaryIO, count: int) -> tuple[list[bytes], int]:
    """The last `count` lines, without newlines, and the offset just behind them. Reads the end of the file only.

    An unfinished last line counts, but is not among them: the offset is where it begins, so that following shows it
    whole, and `Follower.flush` gives it out where nobody follows.
    """
    size = file.seek(0, os.SEEK_END)
    start = size
    data = b""
    while start > 0 and data.count(b"\n") <= count and size - start < _FARTHEST:
        step = min(_BLOCK, start)
        start -= step
        file.seek(start)
        data = file.read(step) + data
    end = data.rfind(b"\n") + 1
    lines = data[:end].split(b"\n")[:-1]
    if start > 0 and len(lines) <= count:
        lines = lines[1:]  # its beginning is too far away
    if end == 0 and start > 0:
        end = len(data)  # one endless line: go on from here
    count -= start + end < size
    return lines[-count:] if count > 0 else [], start + end


class Follower:
    """One log, from its last lines on. `read` gives the lines that came since; between calls nothing is held but a descriptor."""

    def __init__(
        self,
        path: str,
        count: int = 0,
        *,
        since: float | None = None,
        wanted: Callable[[bytes], object] | None = None,
    ) -> None:
        """Begin with the last `count` lines, those of rotated files among them, or with those since an instant.

        They come with the first `read`. Only lines that are `wanted` are given. The file may not be there yet.
        """
        self._path = path
        self._file: BinaryIO | None = None
        self._rest = b""
        self._wanted = wanted
        self.error = ""  # why the file cannot be read; "" if it can, or is not there
        self.unreadable: list[str] = []  # of rotated files, the same
        self._open()
        self._first = self._begin(count, since)

    def _begin(self, count: int, since: float | None) -> Iterator[bytes]:
        from impetusd.cli.logs import history

        if since is None:
            lines, offset = history.ending(self._path, self._file, count, self._wanted, self.unreadable)
        else:
            offset = 0 if self._file is None else last_lines(self._file, 0)[1]
            lines = history.since(self._path, self._file, since, offset, self.unreadable)  # type: ignore[assignment]
        yield from lines if since is None or self._wanted is None else filter(self._wanted, lines)
        if self._file is not None:
            self._file.seek(offset)

    def close(self) -> None:
        """Let go of the file."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def read(self) -> Iterator[bytes]:
        """Every line that was completed since the last call, without its newline."""
        yield from self._first
        yield from self._chosen(self._read())

    def flush(self) -> Iterator[bytes]:
        """The unfinished last line, if there is one."""
        yield from self._chosen(self._flush())

    def _chosen(self, lines: Iterator[bytes]) -> Iterator[bytes]:
        return lines if self._wanted is None else filter(self._wanted, lines)

    def _read(self) -> Iterator[bytes]:
        if self._file is None:
            self._open()
            if self._file is None:
                return
        if os.fstat(self._file.fileno()).st_size < self._file.tell():
            self._rest = b""
            self._file.seek(0)
        yield from self._drain(self._file)
        if self._replaced(self._file):
            # Lines written between the last read and the rename.
            yield from self._drain(self._file)
            yield from self._flush()
            between = self._between(self._file)
            self.close()
            for file in between:
                with file:
                    yield from self._drain(file)
                    yield from self._flush()
            self._open()
            if self._file is not None:
                yield from self._drain(self._file)

    def _flush(self) -> Iterator[bytes]:
        if self._rest:
            rest, self._rest = self._rest, b""
            yield rest

    def _between(self, old: BinaryIO) -> list[BinaryIO]:
        """The files that came after `old` and were rotated already, the oldest first."""
        from impetusd.files.rotated import older

        inode = os.fstat(old.fileno()).st_ino
        between: list[BinaryIO] = []
        for path in older(self._path):
            if path.endswith(".gz"):
                break
            try:
                newer = open_log(path)  # the caller closes it
            except OSError:
                continue
            if os.fstat(newer.fileno()).st_ino == inode:
                newer.close()
                return between
            between.insert(0, newer)
        for file in between:  # the old one is not among them: it was moved elsewhere, or is compressed already
            file.close()
        return []

    def _open(self) -> None:
        try:
            self._file = open_log(self._path)
            self.error = ""
        except FileNotFoundError:
            self.error = ""
        except OSError as error:
            self.error = f"cannot read {self._path}: {error.strerror}"

    def _replaced(self, file: BinaryIO) -> bool:
        """Whether the path names another file now. While the path names no file, the old one is kept: the writer may
        still write."""
        try:
            now = os.stat(self._path)
        except OSError:
            return False
        then = os.fstat(file.fileno())
        return (now.st_dev, now.st_ino) != (then.st_dev, then.st_ino)

    def _drain(self, file: BinaryIO) -> Iterator[bytes]:
        while data := file.read(_BLOCK):
            *lines, self._rest = (self._rest + data).split(b"\n")
            yield from lines
            if len(self._rest) > _LONGEST_LINE:
                yield from self._flush()
