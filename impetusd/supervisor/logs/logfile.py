"""One log file: reopened when it was renamed, rotated, and skipped for a while if it cannot be written.

Nothing here waits for a disk to become better: what cannot be written is dropped and counted, and writing begins again
by itself, at the beginning of a line, with a line that says what is missing.
"""

from __future__ import annotations

import contextlib
import os
import stat
import time
from dataclasses import replace
from typing import Protocol

from impetusd.files.folders import followed, open_file
from impetusd.supervisor.logs import rotation
from impetusd.supervisor.logs.lines import Options, dress, offset_after, stamp
from impetusd.supervisor.logs.logaccess import NEW, Rights
from impetusd.supervisor.logs.lost import Lost

RETRY = 1.0  # seconds before a file that could not be opened or written is tried again
LOOK = 1.0  # seconds between two looks at whether the path still names the file
PATIENCE = 0.1  # seconds that a file due to be opened anew is kept for the rest of a line
NO_ROTATION = 60.0  # seconds before a rotation that failed is tried again
_SEARCH = 65536  # bytes at a file's end in which its last newline is looked for


class Marks(Protocol):
    """The journal's part that a file needs."""

    def mark(self, device: int, inode: int, size: int, before: int) -> None:
        """As Journal.mark."""


class LogFile:
    """Used by one thread. Opened when there is something to write; `options` say how it is rotated."""

    __slots__ = (
        *(
            "_at",
            "_born",
            "_device",
            "_inode",
            "_line_start",
            "_look_at",
            "_regular",
            "_retry_at",
            "_rotate_at",
            "_target",
        ),
        *("_tidied", "_told", "due_since", "fd", "lost", "midline", "options", "path", "rights"),
    )

    def __init__(self, path: str, lost: Lost | None = None) -> None:
        self.path = path
        self.options = Options()
        self.rights: Rights | None = None
        self.lost = lost or Lost()
        self.fd = -1
        self.due_since: float | None = None  # since when it should be opened anew (monotonic)
        self.midline = False  # the last byte is not a newline
        self._target = path  # its target if it is a link
        self._regular = True
        self._device = self._inode = 0
        self._line_start = 0  # offset of the last line's beginning
        self._at = 0  # how much of what is being written is in the file
        self._born = 0.0
        self._look_at = 0.0
        self._retry_at = 0.0
        self._rotate_at = 0.0
        self._tidied = False
        self._told: list[str] = []

    def write(
        self, out: bytes | memoryview, raw: bytes | None = None, marks: Marks | None = None, skip: int = 0
    ) -> list[str]:
        """Append all of `out` but its first `skip` bytes. Returns messages for the operator.

        `raw` is the source of `out`, if that differs: it is what is counted when dropped.
        """
        now = time.monotonic()
        self._at, self._told = skip, []
        if self.lost.since and now < self._retry_at:
            self._drop(out, raw, 0)
            return []
        try:
            if self.fd < 0:
                self._open(now)
            elif now >= self._look_at:
                self._look(now)
            if self.lost.skipping and self._at < len(out):
                self._skip(out)
            if self.lost.since and self._at < len(out):
                self._resume()
            while self._at < len(out):
                self._put(out, marks)
        except OSError as error:
            self._fail(error, out, raw, now)
        return self._told

    def reopen(self, now: float) -> None:
        """Open it anew: at once, or within PATIENCE seconds if a line is unfinished. Raises OSError."""
        if self.fd >= 0 and self.due_since is None:
            self.due_since = now
        self.settle(now)

    def settle(self, now: float) -> None:
        """Change to the new file if that is due, and no line is unfinished or has been for too long. Raises OSError."""
        if self.due_since is not None and (not self.midline or now - self.due_since >= PATIENCE):
            self._change(now)

    def give(self, rights: Rights | None) -> list[str]:
        """Set these rights, now and whenever it is reopened. Returns messages for the operator."""
        self.rights = rights
        return rights.given(self.fd, self._target) if rights is not None and self.fd >= 0 and self._regular else []

    def empty(self) -> None:
        """Remove all that is in it. Raises OSError."""
        if self.fd >= 0:
            os.ftruncate(self.fd, 0)
            self._line_start, self.midline = 0, False
        else:
            with contextlib.suppress(FileNotFoundError):
                fd = open_file(followed(self.path), os.O_WRONLY | os.O_NONBLOCK)
                try:
                    os.ftruncate(fd, 0)
                finally:
                    os.close(fd)

    def close(self) -> None:
        """Let go of it."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1
        self.due_since = None

    # Writing.

    def _put(self, out: bytes | memoryview, marks: Marks | None) -> None:
        """Append what belongs in the present file, or open the next one."""
        size = os.lseek(self.fd, 0, os.SEEK_END) if self._regular else 0
        if size < self._line_start or (size == 0 and self.midline):  # somebody truncated it
            self._line_start, self.midline = size, False
        end = self._cut(out, size)
        if end > self._at:
            if marks is not None:
                marks.mark(self._device, self._inode, size, self._at)
            self._append(out, end, size)

    def _append(self, out: bytes | memoryview, end: int, size: int) -> None:
        view = memoryview(out)
        while self._at < end:
            start = self._at
            self._at += self._send(view[start:end])
            newline = _rfind(out, start, self._at)
            if newline >= 0:
                self._line_start = size + newline + 1 - start
            self.midline = newline != self._at - 1
            size += self._at - start

    def _send(self, data: memoryview) -> int:
        """Write some of it; returns how much."""
        return os.write(self.fd, data)

    def _cut(self, out: bytes | memoryview, size: int) -> int:
        """How much of `out` belongs in this file, never ending within a line; `_at` if another was opened."""
        at, end, options = self._at, len(out), self.options
        if self.due_since is not None:
            if self.midline:
                return _after_newline(out, at)
            self._change(time.monotonic())
            return at
        if not (options.max_size or options.max_age) or not self._regular or time.monotonic() < self._rotate_at:
            return end
        aged = bool(options.max_age and size) and time.time() - self._born >= options.max_age
        if not aged and not (options.max_size and size + end - at > options.max_size):
            return end
        if not aged:
            fits = _rfind(out, at, min(end, at + max(0, options.max_size - size)))
            if fits >= 0:
                return fits + 1
        if self.midline or size == 0:  # a line is never split, even if it is larger than a file should be
            return _after_newline(out, at)
        self._rotate()
        return at

    def _rotate(self) -> None:
        try:
            rotation.rotate(self._target, self.options.keep, compress=self.options.compress)
        except OSError as error:
            self._rotate_at = time.monotonic() + NO_ROTATION
            self._told.append(
                f"rotating {self.path} failed: {error.strerror}; the file keeps growing; retrying in {NO_ROTATION:g} s"
            )
            return
        self.close()
        self._open(time.monotonic())

    def _change(self, now: float) -> None:
        """Open the path anew; where that fails and the old file still has a name, stay with it."""
        old, self.fd, self.due_since = self.fd, -1, None
        state = self._device, self._inode, self._line_start, self.midline, self._born
        try:
            self._open(now)
        except OSError:
            if os.fstat(old).st_nlink == 0:
                os.close(old)
                raise
            self.fd = old
            self._device, self._inode, self._line_start, self.midline, self._born = state
        else:
            os.close(old)

    def _look(self, now: float) -> None:
        """See whether somebody moved or removed the file: at most once in LOOK seconds."""
        self._look_at = now + LOOK
        try:
            there = os.stat(self.path)
            moved = (there.st_dev, there.st_ino) != (self._device, self._inode)
        except OSError:
            moved = True
        if moved and self.due_since is None:
            self.due_since = now

    def _open(self, now: float) -> None:
        # NONBLOCK is for a FIFO: it must neither be waited for nor with.
        self._target = followed(self.path)
        self.fd = open_file(self._target, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NONBLOCK, NEW, make=0o750)
        there = os.fstat(self.fd)
        self._regular = stat.S_ISREG(there.st_mode)
        self._device, self._inode = there.st_dev, there.st_ino
        self._told += self.give(self.rights)
        self._look_at = now + LOOK
        self._line_start, self.midline = there.st_size, False
        if self._regular and there.st_size:
            begin = max(0, there.st_size - _SEARCH)
            end = os.pread(self.fd, _SEARCH, begin)
            self._line_start = begin + end.rfind(b"\n") + 1
            self.midline = not end.endswith(b"\n")
        if self.options.max_age and self._regular:
            self._born = rotation.birth(self.fd)
        if not self._tidied and (self.options.max_size or self.options.max_age) and self.options.compress:
            self._tidied = True
            rotation.compress_soon(self._target)  # left unfinished by a kill

    # Trouble.

    def _fail(self, error: OSError, out: bytes | memoryview, raw: bytes | None, now: float) -> None:
        """Stop writing: take an unfinished line back, and count what is lost."""
        self._retry_at = now + RETRY
        if not self.lost.since:
            self.lost.begin(time.time(), error)
            self._told.append(f"writing to {self.path} failed: {error.strerror or error}; dropping output")
        back = 0
        if self.fd >= 0 and self._regular and self.midline:
            with contextlib.suppress(OSError):
                size = os.lseek(self.fd, 0, os.SEEK_END)
                os.ftruncate(self.fd, self._line_start)
                back, self.midline = size - self._line_start, False
        self._drop(out, raw, back)
        self.close()

    def _drop(self, out: bytes | memoryview, raw: bytes | None, back: int) -> None:
        """Count what of `out` is not in the file, and the `back` bytes that were taken back."""
        rest = bytes(out[self._at :])
        count = back + len(rest)
        if raw is not None:
            count = len(raw) - offset_after(raw, bytes(out[: self._at]).count(b"\n"))
        skipping = not rest.endswith(b"\n") if rest else self.lost.skipping
        self.lost.add(count, rest.count(b"\n"), len(out), skipping=skipping)

    def _skip(self, out: bytes | memoryview) -> None:
        """Drop the rest of a line whose beginning was dropped."""
        end = _after_newline(out, self._at)
        ended = end > self._at and out[end - 1] == 10
        self.lost.add(end - self._at, int(ended), end, skipping=not ended)
        self._at = end

    def _resume(self) -> None:
        lost = self.lost
        text = (
            f"impetusd: {lost.now_bytes} bytes, {lost.now_lines} lines of output were dropped here from"
            f" {stamp(lost.since)} to {stamp(time.time())}: {lost.reason}"
        )
        line = dress(text.encode(), replace(self.options, name="impetusd", stream="daemon", prefix=""), time.time())
        at, self._at = self._at, 0
        try:
            if self.midline:
                line = b"\n" + line
            self._append(line, len(line), os.lseek(self.fd, 0, os.SEEK_END) if self._regular else 0)
        except OSError:
            if self.midline and self._regular:
                os.ftruncate(self.fd, self._line_start)
                self.midline = False
            raise
        finally:
            self._at = at
        lost.end()
        lines = f"{lost.now_lines} line{' was' if lost.now_lines == 1 else 's were'}"
        self._told.append(f"writing to {self.path} works again; {lost.now_bytes} bytes, {lines} dropped")


def _after_newline(out: bytes | memoryview, at: int) -> int:
    """The offset behind the first newline from `at` on; the end if there is none."""
    found = bytes(out[at:]).find(b"\n")
    return len(out) if found < 0 else at + found + 1


def _rfind(out: bytes | memoryview, start: int, end: int) -> int:
    """The offset of the last newline in out[start:end]; -1 if there is none. Lines are short: most of it is not copied."""
    near = max(start, end - 1024)
    found = bytes(out[near:end]).rfind(b"\n")
    if found >= 0:
        return near + found
    found = bytes(out[start:near]).rfind(b"\n")
    return start + found if found >= 0 else -1
