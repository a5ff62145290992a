"""The files that jobs make, in JOB_FILES_DIR: web workers on every host must see the folder that job workers write to.

A file has its name only once it is whole, and no name is used twice: it holds the job's id and the number of its run.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from typing import Any, BinaryIO

PART = ".part"
ORPHAN_AFTER = 86400.0  # seconds after which a file that no job has is nobody's


class Sink:
    """A file that is being written, in threads: the event loop waits for no disk."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.bytes = 0

    async def write(self, encode: Callable[[Any], bytes], rows: Any) -> None:
        """Append encode(rows)."""
        self.bytes += await asyncio.to_thread(lambda: self._file.write(encode(rows)))


@asynccontextmanager
async def writing(folder: str, name: str) -> AsyncIterator[Sink]:
    """Make the file `name`; when the context is left by an exception, there is none."""
    path = os.path.join(folder, name)

    def begin() -> BinaryIO:
        os.makedirs(folder, mode=0o750, exist_ok=True)
        return open(path + PART, "wb")

    def finish() -> None:
        file.flush()
        os.fsync(file.fileno())
        os.rename(path + PART, path)

    file = await asyncio.to_thread(begin)
    try:
        yield Sink(file)
        await asyncio.to_thread(finish)
    except BaseException:
        os.unlink(path + PART)
        raise
    finally:
        file.close()


def old_files(folder: str) -> list[str]:
    """The names of the files that are older than ORPHAN_AFTER, unfinished ones too. Blocks."""
    try:
        with os.scandir(folder) as entries:
            before = time.time() - ORPHAN_AFTER
            return [entry.name for entry in entries if entry.is_file() and entry.stat().st_mtime < before]
    except FileNotFoundError:
        return []


def remove(folder: str, names: Iterable[str]) -> None:
    """Remove files, those that are gone already too. Blocks."""
    for name in names:
        try:
            os.unlink(os.path.join(folder, name))
        except FileNotFoundError:
            pass
