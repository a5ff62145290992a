"""One thread of the log writer, with its pipes and files.

If output is split into lines, an incomplete line is held (`unfinished`) and written when it ends. One that is longer
than `max_line` is written in parts. Parts are together in the file: if several pipes go to one, the others wait for its
end, a second at most, and a pipe that makes others wait for long loses that right for a while; then the line ends at
the cut. A pipe of which little is read very often is read every few milliseconds: each read costs us more than it costs
the writer.
"""

from __future__ import annotations

import contextlib
import functools
import heapq
import itertools
import math
import os
import queue
import select
import threading
import time
import traceback
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from impetusd.supervisor.faults import AGAIN, FORGIVEN
from impetusd.supervisor.faults import PATIENCE as FAULTS
from impetusd.supervisor.logs.journal import Journal, Pending
from impetusd.supervisor.logs.lines import Piece, dress, split, stamp
from impetusd.supervisor.logs.logfile import PATIENCE, LogFile
from impetusd.supervisor.logs.stream import log_file

if TYPE_CHECKING:
    from impetusd.supervisor.logs.lines import Options
    from impetusd.supervisor.logs.logaccess import Rights
    from impetusd.supervisor.logs.logpipe import Pipe
    from impetusd.supervisor.logs.writer import Writer

TURN = 16  # reads from one pipe before the others have theirs
MOST = 16  # reads for one call; a flood must not hold the thread
THAW = 0.5  # seconds between two looks whether a thread of a killed supervisor has come back from the kernel
BETWEEN = 0.1  # seconds from one fault of the thread to the next round
BEGIN_AGAIN = 1.0  # seconds between two tries to start a thread
ROUSED = 1.0  # seconds after which the thread is woken again, though it should have been: that was lost
HOLD = 1.0  # seconds that pipes wait for the end of another's line, in HOLD_AGAIN times as many
HOLD_AGAIN = 30
LITTLE, OFTEN, NAP = 256, 8, 0.005  # bytes; reads of fewer, one within two naps of the other; seconds
COSTLY = 0.01  # seconds of CPU for one read, where a line is waited for, after which the pipe rests for as long
MUCH, MANY = 16384, 1000  # bytes that no drip brings within a nap; reads of little after which it may be one again


class _Hold:
    """A line of which parts are in the file: other pipes' lines are not to come between them."""

    def __init__(self, pipe: Pipe, now: float, until: float) -> None:
        self.pipe = pipe
        self.since = now
        self.until = until
        self.waiting: list[Pipe] = []


class Lane:
    """One thread with its pipes and files. Its other methods than `call` and `rouse` are called in that thread."""

    def __init__(
        self, writer: Writer, journal: Journal, own: str, soon: Callable[[Callable[[], object]], object]
    ) -> None:
        self._writer = writer
        self._journal = journal
        self._soon = soon
        self._rousing = -math.inf  # when (monotonic) it was asked that the thread be woken, until it is
        self._calls: queue.SimpleQueue[tuple[Callable[..., None], tuple[Any, ...]]] = queue.SimpleQueue()
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._epoll = select.epoll()
        self._epoll.register(self._wake, select.EPOLLIN)
        self._by_fd: dict[int, Pipe] = {}
        self._files: dict[str, LogFile] = {}
        self._users: dict[LogFile, list[Pipe]] = {}  # nearly always one: a set takes 0.2 KB
        self._own = log_file(own)
        self._own.rights = writer.rights
        self._again: set[Pipe] = set()  # to be read as soon as what a predecessor took is where it belongs
        self._frozen: list[tuple[Pipe, str, tuple[Pending, Journal]]] = []  # pipes to add once a dead thread has ended
        self._later: list[tuple[float, int, Callable[[], None]]] = []  # a heap: what to do when
        self._laters = itertools.count()
        self._holds: dict[LogFile, _Hold] = {}
        self._reopening: list[tuple[list[LogFile], Callable[[int], None], int]] = []
        self._running = True
        self._faults, self._fault_at = 0, 0.0  # in a row, and when the last was (monotonic)
        self._begin_at = 0.0  # when to try to start the thread again (monotonic)
        self.thread = threading.Thread(target=self._run, name="log writer", daemon=True)

    def begin(self) -> None:
        """Start the thread. Where there can be none now (pids.max), it is tried again by `call` and by the other threads."""
        now = time.monotonic()
        if self.thread.ident is not None or now < self._begin_at:
            return
        first, self._begin_at = not self._begin_at, now + BEGIN_AGAIN
        try:
            self.thread.start()
        except Exception as error:  # RuntimeError for pids.max, MemoryError
            self._writer.unbegun.add(self)
            if first:
                self._writer.line(
                    f"log writer: {str(error) or type(error).__name__}: tried again each {BEGIN_AGAIN:g} s; some logs wait meanwhile"
                )
        else:
            self._writer.unbegun.discard(self)

    def call(self, function: Callable[..., object], *arguments: Any) -> None:
        """Call `function` in the thread."""
        self._calls.put((function, arguments))  # type: ignore[arg-type]  # what it returns is dropped
        self.begin()
        now = time.monotonic()
        if now - self._rousing > ROUSED:
            self._rousing = now
            try:
                self._soon(self.rouse)  # of many calls in one turn of the loop the first wakes it, once all are there
            except Exception as error:
                self.rouse()
                if self._writer.note is not None:
                    with contextlib.suppress(Exception):  # the loop is closed: nobody asks any more
                        self._raised("log writer", "waking its thread", error)

    def rouse(self) -> None:
        """Wake the thread."""
        self._rousing = -math.inf
        if self._wake >= 0:
            os.eventfd_write(self._wake, 1)

    def _run(self) -> None:
        owned = False
        while self._running:
            try:
                if not owned:
                    self._journal.own()
                    owned = True
                self._turn()
            except Exception as error:  # the thread must outlive any one mistake, and not fill a core with it
                now = time.monotonic()
                self._faults = self._faults + 1 if now - self._fault_at < FORGIVEN else 1
                self._fault_at = now
                self._raised("log writer", "going round", error)
                time.sleep(AGAIN if self._faults >= FAULTS else BETWEEN)

    def _raised(self, source: str, stage: str, error: Exception) -> None:
        """Show it in `status`, and log it once."""
        if self._writer.note is not None:
            self._soon(functools.partial(self._writer.note, source, stage, error))
        else:
            self._writer.line(f"{source}: {stage} failed: internal error: {error!r}")

    def _turn(self) -> None:
        for fd, _ in self._epoll.poll(self._patience()):
            if fd == self._wake:
                with contextlib.suppress(BlockingIOError):
                    os.eventfd_read(self._wake)
            elif (pipe := self._by_fd.get(fd)) is not None:
                self._serve(pipe)
        for pipe in tuple(self._again):
            self._again.discard(pipe)
            self._serve(pipe)
        while not self._calls.empty():
            function, arguments = self._calls.get()
            self._try(function, *arguments)
        now = time.monotonic()
        while self._later and self._later[0][0] <= now:
            self._try(heapq.heappop(self._later)[2])
        for hold in tuple(self._holds.values()):
            if hold.until <= now:
                self._contain(hold.pipe, self._end_line, hold.pipe)
        if self._reopening:
            self._try(self._settle)
        for lane in tuple(self._writer.unbegun):
            lane.begin()
        for pipe, path, found in tuple(self._frozen):
            if not found[1].is_in_use():
                self._frozen.remove((pipe, path, found))
                self._try(self.add, pipe, path, found)

    def _try(self, function: Callable[..., None], *arguments: Any) -> None:
        try:
            function(*arguments)
        except Exception as error:
            self._raised("log writer", "doing what was asked", error)

    def _patience(self) -> float | None:
        """Seconds until there is something to be done even if nothing happens; None: never."""
        if self._again:
            return 0.0
        due = [hold.until for hold in self._holds.values()]
        if self._later:
            due.append(self._later[0][0])
        if self._reopening:
            due.append(time.monotonic() + PATIENCE)
        if self._frozen:
            due.append(time.monotonic() + THAW)
        if self._writer.unbegun:
            due.append(time.monotonic() + BEGIN_AGAIN)
        return max(0.0, min(due) - time.monotonic()) if due else None

    # Moving.

    def _serve(self, pipe: Pipe) -> None:
        """There is something in the pipe."""
        assert pipe.file is not None
        hold = self._holds.get(pipe.file)
        if hold is not None and hold.pipe is not pipe:
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

    def _contain(self, pipe: Pipe, function: Callable[..., None], *arguments: Any) -> None:
        """Contain an exception for one pipe: reported once; after three in a row the pipe rests."""
        try:
            function(*arguments)
        except Exception as error:
            now = time.monotonic()
            pipe.faults = pipe.faults + 1 if now - pipe.fault_at < FORGIVEN else 1
            pipe.fault_at = now
            if pipe.file in self._holds:
                self._release(pipe.file)
            if self._writer.note is not None:
                self._raised(f"log pipe {pipe.name}", "moving what was read, which is dropped,", error)
            elif pipe.faults == 1:
                told = "".join(traceback.format_exception(error)).rstrip()
                self._writer.line(
                    f"log writer: {pipe.name}: what was read is dropped: internal error: {error!r}\n{told}"
                )
            if pipe.faults >= FAULTS:
                self._park(pipe, now + AGAIN)

    def _drain(self, pipe: Pipe, turns: int, *, forced: bool = False) -> None:
        """Write what is in the pipe; of an unfinished line all that there is only when its run is over, or `forced`."""
        if self._writer.found and not self._adopted():
            self._again.add(pipe)
            return
        for _ in range(turns):
            if pipe.beginning and pipe.at_an_edge():
                self._end_line(pipe)
            try:
                if not self._move(pipe):
                    break
            except BlockingIOError:
                break
        if pipe.beginning and (forced or pipe.at_an_edge()):
            self._end_line(pipe)

    def _move(self, pipe: Pipe) -> bool:
        """Write one chunk; False if there is no more now."""
        at = time.time()
        with pipe.lock:
            before, limit = pipe.total, pipe.limit()
            data = self._journal.take(pipe.fd, pipe.key, at, limit)
            pipe.total = before + len(data)
        if not data:  # every write end is closed: never while the shim holds one
            with contextlib.suppress(OSError):
                self._epoll.unregister(pipe.fd)
            return False
        try:
            if pipe.options.tail:
                pipe.took(data, before)
            self._write(pipe, data, at)
            if pipe.watch is not None:
                pipe.look(data, before)
        finally:
            self._journal.done()
        return len(data) == limit

    def _end_line(self, pipe: Pipe) -> None:
        """The pipe's last line is complete as it is."""
        at = time.time()
        self._journal.end(pipe.key, at)
        try:
            self._write(pipe, b"", at)
        finally:
            self._journal.done()

    def _write(
        self, pipe: Pipe, data: bytes | memoryview, at: float, found: tuple[Pending, Journal] | None = None
    ) -> None:
        try:
            self._write_all(pipe, data, at, found)
        except BaseException:
            if pipe.beginning:
                pipe.beginning.replace(b"", at)  # it would raise again
            raise

    def _write_all(
        self, pipe: Pipe, data: bytes | memoryview, at: float, found: tuple[Pending, Journal] | None
    ) -> None:
        """Write a chunk that was read at `at`; `found`: what a predecessor has left of it. No data: the end of a line."""
        file = pipe.file
        assert file is not None
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
        done = 0
        if pending is not None:
            done = max(written(pending, file.path, len(out)), file.lost.accounted(at))
        file.lost.at(at)
        for each in file.write(out, raw, journal, done):
            self._writer.line(each)
        if pipe.beginning or rest:
            assert pipe.beginning is not None
            pipe.beginning.replace(rest, at)
        if goes_on:
            self._hold(pipe)
        elif file in self._holds and self._holds[file].pipe is pipe:
            self._release(file)

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
        if pieces and pieces[-1].goes_on and not self._may_hold(pipe):
            pieces[-1] = Piece(pieces[-1].data)
        return pieces, rest

    def _has_place(self, pipe: Pipe) -> bool:
        """Whether the beginning of a line can be held; without memory for it, the line is cut."""
        if pipe.beginning is None:
            with contextlib.suppress(OSError):
                pipe.beginning = self._writer.unfinished.make(pipe.inode)
        return pipe.beginning is not None

    # Pipes that are not read for a while.

    def _may_hold(self, pipe: Pipe) -> bool:
        """Whether the parts of its line will be together in the file."""
        file = pipe.file
        assert file is not None
        return file in self._holds or len(self._users[file]) == 1 or pipe.hold < time.monotonic() + HOLD * HOLD_AGAIN

    def _hold(self, pipe: Pipe) -> None:
        """Part of a line is in the file: nobody else's is to follow before its end."""
        file, now = pipe.file, time.monotonic()
        assert file is not None
        left = HOLD - max(0.0, pipe.hold - now) / HOLD_AGAIN
        if file not in self._holds and len(self._users[file]) > 1 and left > 0:
            self._holds[file] = _Hold(pipe, now, now + left)

    def _release(self, file: LogFile) -> None:
        """The line has ended."""
        hold, now = self._holds.pop(file), time.monotonic()
        hold.pipe.hold = max(now, hold.pipe.hold) + (now - hold.since) * HOLD_AGAIN
        for pipe in hold.waiting:
            self._unpark(pipe)

    def _park(self, pipe: Pipe, until: float | None = None) -> None:
        """Do not read it until then, or until `_unpark`."""
        if not pipe.parked:
            pipe.parked = True
            with contextlib.suppress(OSError):
                self._epoll.unregister(pipe.fd)
            if until is not None:
                self._do_later(until, functools.partial(self._unpark, pipe))

    def _do_later(self, when: float, what: Callable[[], None]) -> None:
        heapq.heappush(self._later, (when, next(self._laters), what))

    def _unpark(self, pipe: Pipe) -> None:
        if pipe.parked and self._by_fd.get(pipe.fd) is pipe:
            pipe.parked = False
            self._epoll.register(pipe.fd, select.EPOLLIN)

    def _adopted(self) -> bool:
        """Whether no chunk of a predecessor waits for its pipe any more; other reads would overwrite it."""
        if time.monotonic() < self._writer.found_until:
            time.sleep(0.001)
            return False
        for name in tuple(self._writer.found):
            self._writer.line(f"log writer: nothing reads the pipe {name} any more: its last bytes are dropped")
            self._writer.resolved(name)
        return True

    # Requests.

    def line(self, text: str, at: float) -> None:
        """Write a line into the daemon's own log."""
        self._own.write(f"{stamp(at)} {text}\n".encode("utf-8", "backslashreplace"))

    def add(self, pipe: Pipe, path: str, found: tuple[Pending, Journal] | None) -> None:
        """Begin to read a pipe, after what a predecessor took from it."""
        if found is not None and pipe.name in self._writer.frozen and found[1].is_in_use():
            self._frozen.append((pipe, path, found))
            return
        try:
            os.set_blocking(pipe.fd, False)
            self._epoll.register(pipe.fd, select.EPOLLIN)
        except OSError as error:
            pipe.faults += 1
            if pipe.faults == 1:
                self._writer.line(f"log writer: {pipe.name} cannot be read now: {error.strerror}; tried again")
            self._do_later(time.monotonic() + AGAIN, functools.partial(self.add, pipe, path, found))
            return
        self._by_fd[pipe.fd] = pipe
        self._attach(pipe, path)
        if found is not None:
            pending, _ = found
            if pipe.beginning is None or pipe.beginning.chunk != pending.at:  # else all of it was done
                self._contain(pipe, self._write, pipe, pending.data, pending.at, found)
            self._writer.resolved(pipe.name)
        for function, arguments in pipe.waiting:
            self.call(function, *arguments)
        pipe.waiting = []

    def when_here(self, pipe: Pipe, function: Callable[..., None], arguments: tuple[Any, ...]) -> None:
        """Call `function`, which is this lane's, once the pipe is here."""
        if pipe.file is None or pipe.fd not in self._by_fd:
            pipe.waiting.append((function, arguments))
        else:
            function(*arguments)

    def redirect(self, moves: list[tuple[Pipe, str, Options, Lane]]) -> None:
        """Send pipes to other files, be it another thread's."""
        here = [move for move in moves if move[0].fd in self._by_fd]
        for move in moves:
            if move not in here:
                move[0].waiting.append((self.redirect, ([move],)))
        for pipe, _, _, _ in here:
            self.read(pipe)  # a line that is not finished goes to the new file as a whole
        for pipe, path, options, lane in here:
            assert pipe.file is not None
            if lane is not self:
                self._leave(pipe)
                pipe.options = options
                lane.call(lane.add, pipe, path, None)
                continue
            pipe.options = options
            if pipe.file.path != path:
                self._detach(pipe)
            self._attach(pipe, path)

    def read(self, pipe: Pipe) -> None:
        """Write what is in the pipe now."""
        self._contain(pipe, self._drain_now, pipe)

    def empty(self, pipe: Pipe) -> None:
        """Write all that is in the pipe now, including an unfinished line, and nothing later: a flood must not hold the
        thread."""
        self._contain(pipe, self._drain_now, pipe, True)

    def _drain_now(self, pipe: Pipe, forced: bool = False) -> None:
        """As `_drain`, without waiting for another pipe's line: that ends here."""
        assert pipe.file is not None
        hold = self._holds.get(pipe.file)
        if hold is not None and hold.pipe is not pipe:
            self._end_line(hold.pipe)
        self._drain(pipe, MOST, forced=forced)

    def forget(self, pipe: Pipe, done: Callable[[], object]) -> None:
        """Write what is left, and let go."""
        self.empty(pipe)
        self._leave(pipe)
        if pipe.beginning is not None:
            self._writer.unfinished.free(pipe.inode)
        done()

    def tail(self, pipe: Pipe, answer: Callable[[bytes], None]) -> None:
        """Pass on the last lines of the run that is over."""
        self.read(pipe)
        answer(pipe.tail())

    def give(self, rights: Rights, folder: str) -> None:
        """Set these rights on each file, and let its readers enter `folder`, if given."""
        for text in rights.folder_given(folder) if folder else ():
            self._writer.line(text)
        for file in (self._own, *self._files.values()):
            for text in file.give(rights):
                self._writer.line(text)

    def reopen(self, answer: Callable[[int], None]) -> None:
        """Open every file anew."""
        now = time.monotonic()
        files = [file for file in (self._own, *self._files.values()) if file.fd >= 0]
        for file in files:
            with contextlib.suppress(OSError):  # the next write reports it
                file.reopen(now)
        self._reopening.append((files, answer, len(files)))

    def _settle(self) -> None:
        now = time.monotonic()
        for entry in tuple(self._reopening):
            files, answer, count = entry
            for file in files:
                with contextlib.suppress(OSError):
                    file.settle(now)
            if all(file.due_since is None for file in files):
                self._reopening.remove(entry)
                answer(count)

    def flush(self, paths: list[str], answer: Callable[[list[str]], None]) -> None:
        """Empty files."""
        problems = []
        for path in paths:
            try:
                (self._own if path == self._own.path else self._files.get(path) or log_file(path)).empty()
            except OSError as error:
                problems.append(f"cannot empty {path}: {error.strerror}")
        answer(problems)

    def close(self) -> None:
        """Write everything, then end."""
        for pipe in self._by_fd.values():
            self.empty(pipe)
        self._running = False

    def release(self) -> bool:
        """Let go of its descriptors, once the thread has ended; False while it has not."""
        if self.thread.is_alive():
            return False
        for file in (self._own, *self._files.values()):
            file.close()
        self._journal.close()
        self._epoll.close()
        os.close(self._wake)
        self._wake = -1
        return True

    # Files and their pipes.

    def _attach(self, pipe: Pipe, path: str) -> None:
        file = self._files.get(path)
        if file is None:
            file = self._files[path] = log_file(path, self._writer.losses.of(path))
            file.rights = self._writer.rights
            self._users[file] = []
        file.options = pipe.options
        pipe.file = file
        if pipe not in self._users[file]:
            self._users[file].append(pipe)
        self._retune(file)

    def _detach(self, pipe: Pipe) -> None:
        file = pipe.file
        assert file is not None
        if file in self._holds and self._holds[file].pipe is pipe:
            self._release(file)
        users = self._users[file]
        users.remove(pipe)
        if not users:
            file.close()
            del self._files[file.path], self._users[file]
        else:
            self._retune(file)

    def _leave(self, pipe: Pipe) -> None:
        self._detach(pipe)
        self._again.discard(pipe)
        pipe.parked = False
        with contextlib.suppress(OSError):
            self._epoll.unregister(pipe.fd)
        self._by_fd.pop(pipe.fd, None)

    def _retune(self, file: LogFile) -> None:
        """Lines of several pipes must not mix: then, and where something stands before each, whole ones are written."""
        users = self._users[file]
        for pipe in users:
            pipe.by_lines = len(users) > 1 or pipe.options.by_lines


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
