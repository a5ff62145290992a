"""The pipes of one thread of the log writer: which is read when, and what is asked for each.

A pipe is read when something is in it, unless it waits for the end of another's line (`holds`), has raised again and again,
or drips: a pipe of which little is read very often is read every few milliseconds, for each read costs us more than it
costs the writer. How a chunk gets into a file is `mover`'s; the files are `outlets`', the thread is `logthread`'s.
"""

from __future__ import annotations

import functools
import os
import time
import traceback
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from impetusd.supervisor.faults import AGAIN, FORGIVEN
from impetusd.supervisor.faults import PATIENCE as FAULTS
from impetusd.supervisor.logs.holds import Holds
from impetusd.supervisor.logs.logfile import PATIENCE
from impetusd.supervisor.logs.logthread import LogThread
from impetusd.supervisor.logs.mover import Mover
from impetusd.supervisor.logs.outlets import Outlets

if TYPE_CHECKING:
    from impetusd.supervisor.logs.chunks import Found
    from impetusd.supervisor.logs.lines import Options
    from impetusd.supervisor.logs.logpipe import Pipe
    from impetusd.supervisor.logs.logthread import Shared

TURN = 16  # reads from one pipe before the others have theirs
MOST = 16  # reads for one call; a flood must not hold the thread
THAW = 0.5  # seconds between two looks whether a thread of a killed supervisor has come back from the kernel
LITTLE, OFTEN, NAP = 256, 8, 0.005  # bytes; reads of fewer, one within two naps of the other; seconds
COSTLY = 0.01  # seconds of CPU for one read, where a line is waited for, after which the pipe rests for as long
MUCH, MANY = 16384, 1000  # bytes that no drip brings within a nap; reads of little after which it may be one again


class Lane:
    """One thread with its pipes and files. Its other methods than `call` and `release` are called in that thread."""

    def __init__(self, shared: Shared, own: str) -> None:
        """`own`: the path of the daemon's own log."""
        self._shared = shared
        self._chunks = shared.chunks
        self._journal = shared.chunks.journal()
        self.thread = LogThread(shared, self)
        self.outlets = Outlets(shared, own)
        self._holds = Holds(self._unpark)
        self._mover = Mover(shared, self._journal, self.outlets, self._holds, self.thread.unwatch)
        self._by_fd: dict[int, Pipe] = {}
        self._again: set[Pipe] = set()  # to be read as soon as what a predecessor took is where it belongs

    def call(self, function: Callable[..., object], *arguments: Any) -> None:
        """Call `function` in the thread."""
        self.thread.call(function, *arguments)

    # As the thread's work.

    def started(self) -> None:
        """The journal is the thread's."""
        self._journal.own()

    def readable(self, fd: int) -> None:
        """There is something in a pipe."""
        pipe = self._by_fd.get(fd)
        if pipe is not None:
            self._serve(pipe)

    def go_round(self, now: float) -> None:
        """Read what had to wait, and end lines that others have waited for long enough."""
        if self._again:
            again, self._again = self._again, set()
            for pipe in again:
                self._serve(pipe)
        if self._holds.by_path:
            for pipe in self._holds.over(now):
                self._contain(pipe, self._mover.end_line, pipe)
        if self.outlets.reopening:
            self.thread.attempt(self.outlets.settle)

    def due(self) -> list[float]:
        """When to go round."""
        due = self._holds.due() if self._holds.by_path else []
        if self._again:
            due.append(0.0)
        if self.outlets.reopening:
            due.append(time.monotonic() + PATIENCE)
        return due

    # Reading.

    def _serve(self, pipe: Pipe) -> None:
        """There is something in the pipe."""
        hold = self._holds.before(pipe) if self._holds.by_path else None
        if hold is not None:
            self._park(pipe)
            hold.waiting.append(pipe)
            return
        before, watched = pipe.total, pipe.watch is not None
        spent = time.thread_time() if watched else 0.0
        self._contain(pipe, self._drain, pipe, 1 if watched else TURN)
        now = time.monotonic()
        if watched and (spent := time.thread_time() - spent) > COSTLY:
            self._park(pipe, now + spent)
        count = pipe.total - before
        if count >= MUCH:
            pipe.small = -MANY
        elif count < LITTLE and now - pipe.read_at < 2 * NAP:
            pipe.small += 1
        else:
            pipe.small = min(pipe.small, 0)
        pipe.read_at = now
        if pipe.small > OFTEN:
            self._park(pipe, now + NAP)

    def _drain(self, pipe: Pipe, turns: int, *, forced: bool = False) -> None:
        """Write what is in the pipe, as `Mover.drain`."""
        if self._chunks.found and not self._adopted():
            self._again.add(pipe)
            return
        self._mover.drain(pipe, turns, forced=forced)

    def _adopted(self) -> bool:
        """Whether no chunk of a predecessor waits for its pipe any more; other reads would overwrite it."""
        if self._chunks.are_awaited():
            return False
        for name in tuple(self._chunks.found):
            self._shared.line(
                f"log writer: dropping the last bytes of the log pipe {name}, because its slot no longer exists"
            )
            self._chunks.resolved(name)
        return True

    def _drain_now(self, pipe: Pipe, forced: bool = False) -> None:
        """As `_drain`, without waiting for another pipe's line: that ends here."""
        hold = self._holds.before(pipe)
        if hold is not None:
            self._mover.end_line(hold.pipe)
        self._drain(pipe, MOST, forced=forced)

    def _contain(self, pipe: Pipe, function: Callable[..., None], *arguments: Any) -> None:
        """Contain an exception for one pipe: reported once; after three in a row the pipe rests."""
        try:
            function(*arguments)
        except Exception as error:
            now = time.monotonic()
            pipe.faults = pipe.faults + 1 if now - pipe.fault_at < FORGIVEN else 1
            pipe.fault_at = now
            self._holds.release(pipe.path)
            if self._shared.note is not None:
                self._shared.raised(f"log pipe {pipe.name}", "writing its output (dropped)", error)
            elif pipe.faults == 1:
                told = "".join(traceback.format_exception(error)).rstrip()
                self._shared.line(f"log writer: {pipe.name}: output dropped: internal error: {error!r}\n{told}")
            if pipe.faults >= FAULTS:
                self._park(pipe, now + AGAIN)

    def _park(self, pipe: Pipe, until: float | None = None) -> None:
        """Do not read it until then, or until `_unpark`."""
        if not pipe.parked:
            pipe.parked = True
            self.thread.unwatch(pipe.fd)
            if until is not None:
                self.thread.do_later(until, functools.partial(self._unpark, pipe))

    def _unpark(self, pipe: Pipe) -> None:
        if pipe.parked and self._by_fd.get(pipe.fd) is pipe:
            pipe.parked = False
            self.thread.watch(pipe.fd)

    # Requests.

    def add(self, pipe: Pipe, path: str, found: Found | None) -> None:
        """Begin to read a pipe, after what a predecessor took from it."""
        if found is not None and self._chunks.is_frozen(pipe.name, found):
            self.thread.do_later(time.monotonic() + THAW, functools.partial(self.add, pipe, path, found))
            return
        try:
            os.set_blocking(pipe.fd, False)
            self.thread.watch(pipe.fd)
        except OSError as error:
            pipe.faults += 1
            if pipe.faults == 1:
                self._shared.line(f"log writer: cannot read {pipe.name}: {error.strerror}; retrying")
            self.thread.do_later(time.monotonic() + AGAIN, functools.partial(self.add, pipe, path, found))
            return
        self._by_fd[pipe.fd] = pipe
        self.outlets.attach(pipe, path)
        if found is not None:
            pending, _ = found
            if pipe.beginning is None or pipe.beginning.chunk != pending.at:  # else all of it was done
                self._contain(pipe, self._mover.write, pipe, pending.data, pending.at, found)
            self._chunks.resolved(pipe.name)
        for function, arguments in pipe.waiting:
            self.call(function, *arguments)
        pipe.waiting = ()

    def when_here(self, pipe: Pipe, function: Callable[..., None], arguments: tuple[Any, ...]) -> None:
        """Call `function`, which is this lane's, once the pipe is here."""
        if self._by_fd.get(pipe.fd) is not pipe:
            pipe.waiting += ((function, arguments),)
        else:
            function(*arguments)

    def redirect(self, moves: list[tuple[Pipe, str, Options, Lane]]) -> None:
        """Send pipes to other files, be it another thread's."""
        here = [move for move in moves if move[0].fd in self._by_fd]
        for move in moves:
            if move not in here:
                move[0].waiting += ((self.redirect, ([move],)),)
        for pipe, _, _, _ in here:
            self.read(pipe)  # a line that is not finished goes to the new file as a whole
        for pipe, path, options, lane in here:
            if lane is not self:
                self._leave(pipe)
                pipe.options = options
                lane.call(lane.add, pipe, path, None)
                continue
            pipe.options = options
            if pipe.path != path:
                self._detach(pipe)
            self.outlets.attach(pipe, path)

    def read(self, pipe: Pipe) -> None:
        """Write what is in the pipe now."""
        self._contain(pipe, self._drain_now, pipe)

    def empty(self, pipe: Pipe) -> None:
        """Write all that is in the pipe now, including an unfinished line, and nothing later: a flood must not hold the
        thread."""
        self._contain(pipe, self._drain_now, pipe, True)

    def forget(self, pipe: Pipe, done: Callable[[], object]) -> None:
        """Write what is left, and let go."""
        self.empty(pipe)
        self._leave(pipe)
        if pipe.beginning is not None:
            self._shared.unfinished.free(pipe.inode)
        done()

    def tail(self, pipe: Pipe, answer: Callable[[bytes], None]) -> None:
        """Pass on the last lines of the run that is over."""
        self.read(pipe)
        answer(pipe.tail())

    def close(self) -> None:
        """Write everything, then end."""
        for pipe in self._by_fd.values():
            self.empty(pipe)
        self.thread.end()

    def release(self) -> bool:
        """Let go of its descriptors, once the thread has ended; False while it has not."""
        if not self.thread.release():
            return False
        self.outlets.close()
        self._journal.close()
        return True

    def _detach(self, pipe: Pipe) -> None:
        self._holds.end(pipe)
        self.outlets.detach(pipe)

    def _leave(self, pipe: Pipe) -> None:
        self._detach(pipe)
        self._again.discard(pipe)
        pipe.parked = False
        self.thread.unwatch(pipe.fd)
        self._by_fd.pop(pipe.fd, None)
