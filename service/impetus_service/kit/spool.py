"""Entries that could not be written yet, kept in files: until the database is back, also beyond the end of a worker.

Each worker appends to a file of its own, which it holds a lock on (flock) while it lives; any worker takes up one that
nobody holds, and removes it when the database has all of it. One that is killed in between is taken up again: an entry may
then be there twice, never missing. All functions block.
"""

from __future__ import annotations

import fcntl
import os
import secrets
from collections.abc import Sequence
from typing import BinaryIO

import msgspec

from impetus_service.kit.entries import Entry

SUFFIX = ".jsonl"
_encode = msgspec.json.Encoder().encode_lines
_decode = msgspec.json.Decoder(tuple[str, Entry]).decode_lines


class Held:
    """A file that nobody else writes to or takes up; `rows` are a table's name and an entry each."""

    def __init__(self, path: str, file: BinaryIO) -> None:
        self.path = path
        self._file = file

    def rows(self) -> list[tuple[str, Entry]]:
        """All that is in it. A last line that a crash has cut is left out."""
        self._file.seek(0)
        text = self._file.read()
        return _decode(text[: text.rfind(b"\n") + 1])

    def append(self, rows: Sequence[tuple[str, Entry]]) -> None:
        """Write rows behind the others, and wait until they are on the disk."""
        self._file.seek(0, os.SEEK_END)
        self._file.write(_encode(rows))
        self._file.flush()
        os.fsync(self._file.fileno())

    def remove(self) -> None:
        """The database has it."""
        os.unlink(self.path)
        self._file.close()

    def release(self) -> None:
        """Leave it to others."""
        self._file.close()


def begin(folder: str) -> Held:
    """A new file."""
    os.makedirs(folder, mode=0o750, exist_ok=True)
    path = os.path.join(folder, f"{os.getpid()}-{secrets.token_hex(4)}{SUFFIX}")
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o640)
    fcntl.flock(fd, fcntl.LOCK_EX)
    return Held(path, os.fdopen(fd, "rb+"))


def left_behind(folder: str) -> list[Held]:
    """The files that nobody holds."""
    found = []
    try:
        names = sorted(os.listdir(folder))
    except FileNotFoundError:
        return []
    for name in names:
        path = os.path.join(folder, name)
        if not name.endswith(SUFFIX):
            continue
        try:
            fd = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
        except FileNotFoundError:
            continue
        file = os.fdopen(fd, "rb+")
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.stat(path), os.fstat(fd)):
                found.append(Held(path, file))
                continue
        except (BlockingIOError, FileNotFoundError):
            pass
        file.close()
    return found
