"""A log's rotated files (app.log.1, app.log.2.gz, app.log-20261123.gz; ours and logrotate's names), and a line's
timestamp."""

from __future__ import annotations

import contextlib
import datetime as dt
import functools
import os
import re
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")
_DATED = re.compile(r"-([0-9]{8}[0-9-]*)(?:\.gz)?")
_NUMBERED = re.compile(r"\.([1-9][0-9]*)(?:\.gz)?")
# As the writer puts it before a line (time = yes), into a JSON line, and before the daemon's own.
_STAMP = re.compile(rb'(?:\{"time": ")?(\d{4}-\d\d-\d\dT\d\d:\d\d):(\d\d)\.(\d{3})([+-]\d{4})')


def older(path: str) -> list[str]:
    """The rotated files of `path`, the newest first. Where a number is there plain and compressed, it is half done: one."""
    base = os.path.basename(path)
    found: dict[tuple[float, str], str] = {}
    with contextlib.suppress(OSError):
        for name in sorted(os.listdir(os.path.dirname(path) or ".")):
            end = name[len(base) :]
            if not name.startswith(base):
                continue
            if (number := _NUMBERED.fullmatch(end)) is not None:
                found.setdefault((int(number[1]), ""), name)
            elif (date := _DATED.fullmatch(end)) is not None:
                found.setdefault((float("inf"), date[1]), name)
    numbered = sorted(key for key in found if not key[1])
    dated = sorted((key for key in found if key[1]), reverse=True)
    return [os.path.join(os.path.dirname(path), found[key]) for key in numbered + dated]


def opened(path: str, open_log: Callable[[str], T]) -> tuple[str, T]:
    """A rotated file that was seen at `path`, under the name that it has now, for it may have been compressed meanwhile.

    Raises OSError.
    """
    try:
        return path, open_log(path)
    except FileNotFoundError:
        path = path.removesuffix(".gz") if path.endswith(".gz") else f"{path}.gz"
        return path, open_log(path)


def mark(fd: int) -> tuple[int, int]:
    """What a rotated file is known by, whatever it is renamed to. Not its inode alone: the next compressed file may get that
    of the one that has just been removed.
    """
    there = os.fstat(fd)
    return there.st_ino, there.st_mtime_ns


def time_of(line: bytes) -> float | None:
    """When a log line was written; None if it does not say."""
    match = _STAMP.match(line)
    if match is None:
        return None
    try:
        return _minute(match[1], match[4]) + int(match[2]) + int(match[3]) / 1000
    except ValueError:
        return None  # digits, but no date


@functools.lru_cache(64)
def _minute(text: bytes, zone: bytes) -> float:
    return dt.datetime.fromisoformat((text + zone).decode()).timestamp()
