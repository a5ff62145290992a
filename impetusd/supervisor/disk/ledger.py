"""The ledger's file: every start, end, rule and command, appended, bounded, and exact over the supervisor's own death.

A record is numbered and given to the shim together with the round that it records; a thread writes it. A supervisor
that dies in between leaves it with the shim, and the next one writes what the file does not have yet. A line that a
power cut tore is cut off before anything is added.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import os
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

from impetusd.core import redact
from impetusd.core.reasons import NONE, Reason, because, changed, error, of_os_error, said, stage

BYTES = 4 << 20  # of one file; the one before is kept
WAITING = 2000  # records that may wait for a disk which takes none; later ones are lost, and counted
KEY = "ledger:"  # what the shim remembers it under, with the number of the last record in it
AGAIN = 5.0  # seconds until a write that failed is tried again
SYNC = 1.0  # seconds between two fdatasync
TORN = 1 << 20  # bytes at the end of the file in which the last whole line is looked for


class Ledger:
    """Every method but those of the thread is called in the event loop's thread and returns without waiting."""

    def __init__(
        self,
        path: str,
        blobs: Mapping[str, str],
        soon: Callable[[Callable[[], object]], object],
        log: Callable[[str], object],
    ) -> None:
        """`blobs`: what the shim remembers, of `puts` among other things. `soon` calls into the loop's thread."""
        self._path = path
        self._soon = soon
        self._log = log
        self.due = False  # whether there are records for `puts`; what is to be dropped goes along with the next ones
        self._new: list[str] = []  # records of this round
        # (last number, key, text) of what the disk does not have yet
        self._waiting: deque[tuple[int, str, str]] = deque()
        self.failing = NONE  # why the disk cannot be written now
        self.news = asyncio.Event()  # set with each round that has records; the waiter clears it
        self._added: Callable[[str, str], object] | None = None
        self._puts: dict[str, str | None] = {}
        self._lost = 0
        self._calls: queue.SimpleQueue[tuple[int, str] | None] = queue.SimpleQueue()
        self._due: list[tuple[int, str]] = []  # for the thread
        self._closing = threading.Event()
        self._n = self._written_n = _mend(path)
        keys = [key for key in blobs if key.startswith(KEY) and key.removeprefix(KEY).isdecimal()]
        for key in sorted(keys, key=lambda key: int(key.removeprefix(KEY))):
            lines = [line for line in blobs[key].splitlines(keepends=True) if _last_number(line.encode()) > self._n]
            self._n = max(self._n, int(key.removeprefix(KEY)))
            self._hand_over(key, lines)
        self._thread: threading.Thread | None = None
        self._begin_at = 0.0  # when the thread may be started, monotonic
        self.sent()

    def add(self, kind: str, **fields: Any) -> None:
        """Write down one record: it goes to the shim with the round that is under way, and to the disk soon after."""
        if len(self._waiting) + len(self._new) >= WAITING:
            self._lost += 1
            return
        if self._lost:
            lost, self._lost = self._lost, 0
            self.add("lost", records=lost)
        self._n += 1
        record = {"n": self._n, "at": round(time.time(), 3), "kind": kind, **redact.everything(as_json(fields))}
        line = json.dumps(record, separators=(",", ":"))
        self._new.append(line + "\n")
        self.due = True
        if self._added is not None:
            self._added(kind, line)

    def pass_on(self, added: Callable[[str, str], object] | None) -> None:
        """Call `added` with the kind of each record and the record as JSON; None: no callback."""
        self._added = added

    def puts(self) -> dict[str, str | None]:
        """What the shim should store or drop with this round; the thread gets it once `sent` is called."""
        if self._new:
            key, lines = f"{KEY}{self._n}", self._new
            self._new = []
            self._puts[key] = "".join(lines)
            self._hand_over(key, lines)
        puts, self._puts = self._puts, {}
        self.due = False
        return puts

    def sent(self) -> None:
        """The round is with the shim. Not before that: the thread takes the interpreter's lock, 0.2 ms of a restart."""
        for batch in self._due:
            self._calls.put(batch)
        self._due.clear()
        if self._thread is None and time.monotonic() >= self._begin_at:
            self._begin()

    def _begin(self) -> None:
        """Start the thread. If that fails, records wait, here and in the shim."""
        thread = threading.Thread(target=self._run, name="ledger", daemon=True)
        try:
            thread.start()
        except Exception as error:  # RuntimeError for pids.max, MemoryError
            self.failing = said(str(error) or type(error).__name__)
            self._begin_at = time.monotonic() + AGAIN
        else:
            self._thread, self.failing = thread, NONE

    @property
    def last(self) -> int:
        """The number of the newest record that outlives us."""
        return self._waiting[-1][0] if self._waiting else self._written_n

    def waiting(self) -> list[bytes]:
        """The lines that the disk does not have yet, as far as we know."""
        return [line for _, _, text in self._waiting for line in text.encode("ascii").splitlines()]

    def attention(self) -> list[Reason]:
        """The text for `status` if the disk cannot be written."""
        if not self.failing:
            return []
        return [because("ledger_lost", path=self._path, cause=self.failing, kept=len(self.waiting()))]

    def close(self) -> None:
        """Write what was handed over, for as long as one try takes. May be called in another thread, after the rest."""
        self._calls.put(None)
        self._closing.set()
        if self._thread is not None:
            self._thread.join(AGAIN)

    def _hand_over(self, key: str, lines: list[str]) -> None:
        number = int(key.removeprefix(KEY))
        text = "".join(lines)
        self._waiting.append((number, key, text))
        self._due.append((number, text))
        self.news.set()

    def _written(self, number: int) -> None:
        self._written_n = number
        while self._waiting and self._waiting[0][0] <= number:
            self._puts[self._waiting.popleft()[1]] = None

    # The thread.

    def _run(self) -> None:
        fd, synced, failing = -1, 0.0, False
        while (batch := self._calls.get()) is not None:
            number, text = batch
            while True:
                try:
                    fd = self._open(fd)
                    _append(fd, text.encode("ascii"))
                    if time.monotonic() - synced > SYNC:
                        os.fdatasync(fd)
                        synced = time.monotonic()
                    break
                except Exception as error:  # any exception: else nothing would ever be written again
                    if not failing:
                        reason = (
                            of_os_error(error) if isinstance(error, OSError) else because("internal", error=repr(error))
                        )
                        self._trouble(reason)
                        self._say(f"{self._path} cannot be written: {reason}; retrying every {AGAIN:g} s")
                    failing = True
                    if self._closing.wait(AGAIN):
                        if fd >= 0:
                            os.close(fd)
                        return
            if failing:
                self._trouble(NONE)
                self._say(f"{self._path} can be written again")
            failing = False
            self._in_loop(functools.partial(self._written, number))
        if fd >= 0:
            with contextlib.suppress(OSError):
                os.fdatasync(fd)
            os.close(fd)

    def _say(self, text: str) -> None:
        self._in_loop(functools.partial(self._log, text))

    def _trouble(self, reason: Reason) -> None:
        self._in_loop(functools.partial(setattr, self, "failing", reason))

    def _in_loop(self, call: Callable[[], object]) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: this is the end
            self._soon(call)

    def _open(self, fd: int) -> int:
        """The file, begun anew when it is full; or when somebody has removed it."""
        if fd >= 0:
            state = os.fstat(fd)
            if state.st_nlink and state.st_size < BYTES:
                return fd
            if state.st_nlink:
                os.replace(self._path, f"{self._path}.1")
            os.close(fd)
        return os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o640)


def as_json(fields: Mapping[str, Any]) -> dict[str, Any]:
    """For each reason, its sentence under its own name, and its key and facts under `cause`, or `decided` for a
    decision.

    Secrets are hidden in the facts, before there is a sentence.
    """
    told: dict[str, Any] = {}
    for name, value in fields.items():
        if isinstance(value, Reason):
            reason = changed(value, redact.text)
            told.update({"stage": stage(reason), "error": error(reason)} if name == "failed" else {name: str(reason)})
            if reason:
                told["decided" if name == "decision" else "cause"] = reason.data()
        else:
            told[name] = value
    return told


def _append(fd: int, data: bytes) -> None:
    """All of it or nothing: a part that a full disk still took is taken back."""
    size = os.fstat(fd).st_size
    written = 0
    try:
        while written < len(data):
            written += os.write(fd, data[written:])
    except OSError:
        if written:
            os.ftruncate(fd, size)
        raise


def _mend(path: str) -> int:
    """Cut a torn line off the end of the file. Returns the number of the last record, 0 where there is none."""
    number = 0
    try:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        pass
    except OSError:
        return 0
    else:
        try:
            end = _end(fd)
            whole = end.rfind(b"\n") + 1
            if whole < len(end):
                os.ftruncate(fd, os.fstat(fd).st_size - len(end) + whole)
            number = _last_number(end[:whole])
        finally:
            os.close(fd)
    if number:
        return number
    try:
        with open(f"{path}.1", "rb") as file:
            return _last_number(_end(file.fileno()))
    except OSError:
        return 0


def _end(fd: int) -> bytes:
    return os.pread(fd, TORN, max(0, os.fstat(fd).st_size - TORN))


def _last_number(text: bytes) -> int:
    for line in reversed(text.splitlines()):
        with contextlib.suppress(ValueError, KeyError, TypeError):
            return int(json.loads(line)["n"])
    return 0
