"""A log with its rotated files: app.log, app.log.1, app.log.2.gz, app.log-20261123.gz; ours and logrotate's names.

They may be renamed and compressed while they are read: each is identified (`rotated.mark`) and read once.
"""

from __future__ import annotations

import collections
import contextlib
import os

from impetusd.cli.logs.tail import last_lines, open_log
from impetusd.files import rotated
from impetusd.files.rotated import older, time_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator
    from typing import BinaryIO

_BLOCK = 1 << 16


def _opened(path: str, first: BinaryIO | None, unreadable: list[str]) -> Generator[tuple[str, BinaryIO], None, None]:
    """Each file of the log, opened, the newest first; `first` is the present one. They are closed after their turn.

    For each one that cannot be opened, a sentence is added to `unreadable`.
    """
    seen: set[tuple[int, int]] = set()
    present = None
    if first is not None:
        present = os.fstat(first.fileno()).st_ino
        yield path, first
    for each in older(path):
        try:
            name, opened = rotated.opened(each, open_log)
        except FileNotFoundError:
            continue
        except OSError as error:
            unreadable.append(f"cannot read {each}: {error.strerror}")
            continue
        with opened as file:
            mark = rotated.mark(file.fileno())
            if mark[0] != present and mark not in seen:
                seen.add(mark)
                yield name, file


def _lines(path: str, file: BinaryIO, size: int | None = None) -> Iterator[bytes]:
    """The lines of a file without their newlines; of its first `size` bytes, if that is given."""
    file.seek(0)
    if not path.endswith(".gz"):
        yield from _cut(file, size)
        return
    import gzip
    import zlib

    with gzip.open(file) as packed, contextlib.suppress(EOFError, gzip.BadGzipFile, zlib.error):
        yield from _cut(packed, None)  # type: ignore[arg-type]  # it has a read


def _cut(file: BinaryIO, left: int | None) -> Iterator[bytes]:
    rest = b""
    while data := file.read(_BLOCK if left is None else min(_BLOCK, left)):
        *lines, rest = (rest + data).split(b"\n")
        yield from lines
        if left is not None:
            left -= len(data)
    if rest:
        yield rest


def ending(
    path: str,
    file: BinaryIO | None,
    count: int,
    wanted: Callable[[bytes], object] | None,
    unreadable: list[str],
) -> tuple[list[bytes], int]:
    """The last `count` lines (that are `wanted`), rotated files included, and the offset in `file` just behind them."""
    offset = 0
    parts: list[list[bytes]] = []
    with contextlib.closing(_opened(path, file, unreadable)) as files:
        for name, each in files:
            if each is file:
                lines, offset = last_lines(each, count if wanted is None else 0)
                count -= offset < os.fstat(each.fileno()).st_size  # the unfinished line is one of them
            elif wanted is None and not name.endswith(".gz"):
                lines = _all_of_the_last(each, count)
            if wanted is not None or name.endswith(".gz"):
                every = _lines(name, each, offset if each is file else None)
                lines = list(collections.deque(filter(wanted, every) if wanted else every, max(count, 0)))
            parts.insert(0, lines)
            count -= len(lines)
            if count <= 0:
                break
    return [line for part in parts for line in part], offset


def _all_of_the_last(file: BinaryIO, count: int) -> list[bytes]:
    """The last lines of a file that nobody adds to, an unfinished one included."""
    lines, offset = last_lines(file, count)
    file.seek(offset)
    rest = file.read()
    return [*lines, rest] if rest else lines


def since(path: str, file: BinaryIO | None, when: float, end: int, unreadable: list[str]) -> Iterator[bytes]:
    """The lines from `when` on, rotated files included, up to offset `end` of `file`; one without a time goes with the one before it."""
    begin = []
    with contextlib.closing(_opened(path, file, unreadable)) as files:
        for name, each in files:
            if os.fstat(each.fileno()).st_mtime < when:
                break
            begin.append((name, None if each is file else os.dup(each.fileno())))
    late = False
    with contextlib.ExitStack() as stack:
        for name, fd in reversed(begin):
            this = file if fd is None else stack.enter_context(open(fd, "rb"))
            assert this is not None
            for line in _lines(name, this, end if this is file else None):
                if not late:
                    at = time_of(line)
                    late = at is not None and at >= when
                if late:
                    yield line


def bears_times(path: str, file: BinaryIO | None) -> bool:
    """Whether the log's lines have timestamps, judged by its last ones; True if there are none."""
    lines, _ = ending(path, file, 20, None, [])
    return not lines or any(time_of(line) is not None for line in lines)
