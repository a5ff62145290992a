"""A line of the shim's table (`shim.table`), which a supervisor adds, too, whose shim was killed."""

from __future__ import annotations

import os

from impetusd import bare

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

NAME = "table"


def path_in(folder: str) -> str:
    """The path of the table in a run_dir."""
    return f"{folder}/{NAME}"


def encode(content: dict[str, Any]) -> bytes:
    """The line."""
    return bare.dumps_by_entry(content).encode() + b"\n"


def add(folder: str, content: dict[str, Any]) -> None:
    """Add it behind the last whole line of a table that nobody else writes any more. Raises OSError."""
    fd = os.open(path_in(folder), os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        size = end = os.fstat(fd).st_size
        while end and os.pread(fd, 1, end - 1) != b"\n":
            end -= 1
        if end < size:
            os.truncate(fd, end)
        os.pwrite(fd, encode(content), end)
    finally:
        os.close(fd)
