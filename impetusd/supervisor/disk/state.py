"""State across reboots of the host: one JSON file in state_dir, replaced atomically, and its previous version.

Everything here runs in the event loop but the writing itself, which has a thread for as long as it takes.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from impetusd import bare
from impetusd.supervisor.faults import BARE

VERSION = 1
APART = 1.0  # seconds between two writes, unless the second is urgent
SHOWN = 5  # faults that a sentence names
AGAIN = 5.0  # seconds until a write that failed is tried again


class StateFile:
    """The file at `path`, and `path`.old. `log` takes a sentence for the daemon's log, in the loop's thread."""

    def __init__(self, path: str, log: Callable[[str], None]) -> None:
        self._path = path
        self._log = log
        self._next: Mapping[str, Any] | None = None
        self._urgent = False
        self._writing = False
        self._failed = False
        self._free_at = 0.0  # when the next write may begin, monotonic
        self._timer: asyncio.TimerHandle | None = None
        self._closing: asyncio.Event | None = None
        self.faults = BARE
        self._idle = asyncio.Event()  # nothing waits to be written
        self._idle.set()

    def load(self) -> dict[str, Any]:
        """What was saved last; {} if nothing was, or it cannot be read. Reads files: before the loop serves."""
        troubles: list[str] = []
        for path in (self._path, f"{self._path}.old"):
            try:
                found = _read(path)
            except FileNotFoundError:
                continue
            except (OSError, ValueError, RecursionError) as error:
                troubles.append(f"{path} cannot be read ({getattr(error, 'strerror', None) or error})")
                continue
            if troubles:
                self._log(f"{troubles[0]}; using the previous version in {path}")
                self._set_aside()  # else the next write would put it in the good one's place
            return found
        if troubles:
            self._set_aside()
            self._log(f"{' and '.join(troubles)}; the state saved across reboots is lost")
        return {}

    def faulty(self, faults: Sequence[str]) -> None:
        """Report invalid parts of the loaded file, and keep a copy under another name, because the file is
        rewritten."""
        more = f"; and {len(faults) - SHOWN} more" if len(faults) > SHOWN else ""
        told = "; ".join(faults[:SHOWN])
        self._log(
            f"{self._path} is damaged ({told}{more}): ignored the damaged part and kept the file as {self._path}.bad"
        )
        with contextlib.suppress(OSError):
            os.unlink(f"{self._path}.bad")
        with contextlib.suppress(OSError):
            os.link(self._path, f"{self._path}.bad", follow_symlinks=False)

    def _set_aside(self) -> None:
        with contextlib.suppress(OSError):
            os.rename(self._path, f"{self._path}.bad")

    def save(self, content: Mapping[str, Any], *, urgent: bool = False) -> None:
        """Write `content` (for JSON; do not modify it afterwards) soon; of several, only the last is written."""
        self._next = content
        self._idle.clear()
        self._urgent = self._urgent or urgent
        self._go_on()

    async def saved(self, patience: float = 1.0) -> None:
        """Wait until what was saved is on the disk, `patience` seconds at most: a disk may hang."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(patience):
                await self._idle.wait()

    async def close(self, patience: float = 5.0) -> None:
        """Write what was last saved, and wait for that, at most `patience` seconds."""
        self._closing = asyncio.Event()
        self._go_on()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(patience):
                await self._closing.wait()
        if self._timer is not None:
            self._timer.cancel()

    def _go_on(self) -> None:
        """Begin the next write, now or when it may be."""
        if self._writing:
            return
        if self._next is None:
            self._idle.set()
            if self._closing is not None:
                self._closing.set()
            return
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        loop = asyncio.get_running_loop()
        wait = self._free_at - time.monotonic()
        if wait > 0 and not self._urgent and self._closing is None:
            self._timer = loop.call_later(wait, self.faults.attempt, self._path, "writing it", self._go_on)
            return
        content, self._next, self._urgent, self._writing = self._next, None, False, True

        def run() -> None:
            try:
                write(self._path, content)
                error = ""
            except Exception as failure:  # any exception: else nothing would ever be written again
                error = getattr(failure, "strerror", None) or repr(failure)
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
                loop.call_soon_threadsafe(self._has_ended, content, error)

        # A daemon thread: a disk that hangs does not keep the supervisor from ending.
        try:
            threading.Thread(target=run, name="state", daemon=True).start()
        except Exception as error:  # RuntimeError for pids.max, MemoryError
            self._has_ended(content, str(error) or repr(error))

    def _has_ended(self, content: Mapping[str, Any], error: str) -> None:
        self._writing = False
        self.faults.contain(self._path, "reporting the result of the write", self._written, content, error)
        self.faults.attempt(self._path, "writing it", self._go_on)

    def _written(self, content: Mapping[str, Any], error: str) -> None:
        self._free_at = time.monotonic() + (AGAIN if error else APART)
        if error and not self._failed:
            self._log(f"{self._path} cannot be written: {error}; retrying every {AGAIN:g} s")
        if self._failed and not error:
            self._log(f"{self._path} can be written again")
        self._failed = bool(error)
        if error and self._closing is None and self._next is None:
            self._next = content


def _read(path: str) -> dict[str, Any]:
    with open(path, "rb") as file:
        found = json.loads(file.read())
    if not isinstance(found, dict) or "version" not in found:
        raise ValueError("it was not written by impetusd")
    if found.pop("version") != VERSION:
        raise ValueError("it was written by another version of impetusd")
    return found


def write(path: str, content: Mapping[str, Any]) -> None:
    """Replace the file by `content`, the one before it becoming `path`.old. At every instant `path` is whole.

    Also after a power failure: the new file is on the disk before it gets its name. Raises OSError, TypeError, ValueError.
    """
    replace(path, bare.dumps_by_entry({"version": VERSION, **content}).encode())


def replace(path: str, data: bytes) -> None:
    """As `write`, with the bytes. Raises OSError."""
    new, old = f"{path}.new", f"{path}.old"
    with contextlib.suppress(FileNotFoundError):
        os.unlink(new)
    fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with open(fd, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(fd)
    aside = f"{old}.new"
    with contextlib.suppress(FileNotFoundError):
        os.unlink(aside)
    with contextlib.suppress(OSError):  # there is none yet, or the file system has no hard links
        os.link(path, aside)
        os.rename(aside, old)
    os.rename(new, path)
    directory = os.open(os.path.dirname(path), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
