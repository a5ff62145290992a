"""A chunk's way from a pipe into the pipe's file.

If output is split into lines, an incomplete line is held (`unfinished`) and written when it ends; one that is longer
than `max_line` is written in parts, which are together in the file (`holds`). What has been read is in the journal until
it is where it belongs.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from impetusd.supervisor.logs.lines import Piece, dress, split

if TYPE_CHECKING:
    from impetusd.supervisor.logs.chunks import Found
    from impetusd.supervisor.logs.holds import Holds
    from impetusd.supervisor.logs.journal import Journal, Pending
    from impetusd.supervisor.logs.logpipe import Pipe
    from impetusd.supervisor.logs.logthread import Shared
    from impetusd.supervisor.logs.outlets import Outlets


class Mover:
    """Moves for one thread, which is the only one to call it."""

    __slots__ = ("_ended", "_holds", "_journal", "_outlets", "_shared")

    def __init__(
        self, shared: Shared, journal: Journal, outlets: Outlets, holds: Holds, ended: Callable[[int], None]
    ) -> None:
        """`ended` is called with the descriptor of a pipe that nothing will ever come from."""
        self._shared = shared
        self._journal = journal
        self._outlets = outlets
        self._holds = holds
        self._ended = ended

    def drain(self, pipe: Pipe, turns: int, *, forced: bool = False) -> None:
        """Write what is in the pipe, in so many chunks at most; of an unfinished line all that there is only when its run is
        over, or `forced`."""
        for _ in range(turns):
            if pipe.beginning and pipe.at_an_edge():
                self.end_line(pipe)
            try:
                if not self._move(pipe):
                    break
            except BlockingIOError:
                break
        if pipe.beginning and (forced or pipe.at_an_edge()):
            self.end_line(pipe)

    def _move(self, pipe: Pipe) -> bool:
        """Write one chunk; False if there is no more now."""
        at = time.time()
        with pipe.lock:
            before, limit = pipe.total, pipe.limit()
            data = self._journal.take(pipe.fd, pipe.key, at, limit)
            pipe.total = before + len(data)
        if not data:  # every write end is closed: never while the shim holds one
            self._ended(pipe.fd)
            return False
        try:
            if pipe.options.tail:
                pipe.took(data, before)
            self.write(pipe, data, at)
            if pipe.watch is not None:
                pipe.look(data, before)
        finally:
            self._journal.done()
        return len(data) == limit

    def end_line(self, pipe: Pipe) -> None:
        """The pipe's last line is complete as it is."""
        at = time.time()
        self._journal.end(pipe.key, at)
        try:
            self.write(pipe, b"", at)
        finally:
            self._journal.done()

    def write(self, pipe: Pipe, data: bytes | memoryview, at: float, found: Found | None = None) -> None:
        """Write a chunk that was read at `at`; `found`: what a predecessor has left of it. No data: the end of a line."""
        try:
            self._write(pipe, data, at, found)
        except BaseException:
            if pipe.beginning:
                pipe.beginning.replace(b"", at)  # it would raise again
            raise

    def _write(self, pipe: Pipe, data: bytes | memoryview, at: float, found: Found | None) -> None:
        pending, journal = found or (None, self._journal)
        out, raw = data, None
        rest = b""
        goes_on = False
        if pipe.by_lines or pipe.beginning:
            text = bytes(data)
            ended = not data or not pipe.by_lines or (pending is not None and pending.ended)
            if not ended and self._is_added(pipe, text, at):
                return
            pieces, rest = self._split(pipe, text, ended=ended)
            goes_on = bool(pieces) and pieces[-1].goes_on
            raw = b"".join(piece.data + b"\n" if piece.goes_on else piece.data for piece in pieces)
            out = raw
            if pipe.by_lines:
                out = b"".join(dress(piece.data, pipe.options, at, goes_on=piece.goes_on) for piece in pieces)
        file = self._outlets.file_of(pipe)
        done = 0
        if pending is not None:
            done = max(written(pending, file.path, len(out)), file.lost.accounted(at))
        file.lost.at(at)
        for each in file.write(out, raw, journal, done):
            self._shared.line(each)
        if pipe.beginning or rest:
            assert pipe.beginning is not None
            pipe.beginning.replace(rest, at)
        if goes_on:
            self._holds.begin(pipe, alone=self._outlets.has_alone(pipe))
        elif self._holds.by_path:
            self._holds.end(pipe)

    def _is_added(self, pipe: Pipe, text: bytes, at: float) -> bool:
        """Whether it contains no newline, and is held with what is held already."""
        if b"\n" in text or len(pipe.beginning or b"") + len(text) > pipe.options.max_line:
            return False
        if not self._has_place(pipe):
            return False
        assert pipe.beginning is not None
        pipe.beginning.add(text, at)
        return True

    def _split(self, pipe: Pipe, text: bytes, *, ended: bool) -> tuple[list[Piece], bytes]:
        """What to write, including what is held, and what to hold from then on."""
        if pipe.beginning:
            text = pipe.beginning.data() + text
        if not pipe.by_lines:
            return [Piece(text)], b""
        pieces, rest = split(text, pipe.options.max_line, ended=ended)
        if rest and not self._has_place(pipe):
            pieces, rest = split(text, pipe.options.max_line, ended=True)
        if pieces and pieces[-1].goes_on and not self._holds.may_begin(pipe, alone=self._outlets.has_alone(pipe)):
            pieces[-1] = Piece(pieces[-1].data)
        return pieces, rest

    def _has_place(self, pipe: Pipe) -> bool:
        """Whether the beginning of a line can be held; without memory for it, the line is cut."""
        if pipe.beginning is None:
            with contextlib.suppress(OSError):
                pipe.beginning = self._shared.unfinished.make(pipe.inode)
        return pipe.beginning is not None


def written(pending: Pending, path: str, size: int) -> int:
    """How much of the chunk's output, `size` bytes, is in the file that it was on its way to: what that has grown by."""
    if pending.inode == 0:
        return 0
    with contextlib.suppress(OSError), os.scandir(os.path.dirname(path)) as there:
        for each in there:
            if each.inode() == pending.inode:
                found = each.stat(follow_symlinks=False)
                if (found.st_dev, found.st_ino) == (pending.device, pending.inode):
                    return min(size, pending.before + max(0, found.st_size - pending.size))
    return pending.before
