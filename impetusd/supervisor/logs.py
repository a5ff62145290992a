"""The writer: moves what children print from their pipes into their files, in threads of its own.

A disk can be slow, full or gone, and no decision may wait for that: hence the threads, one for each directory of logs,
so that a slow disk holds up nobody's logs but its own. The pipes belong to the shim and outlive every restart, of the
child and of the supervisor. A chunk on its way lies in a journal, which outlives it too: nothing is lost or doubled. The
beginning of a line that is to be written whole stays in its pipe. What cannot be written is dropped and counted.
"""

from __future__ import annotations

import array
import contextlib
import fcntl
import functools
import os
import queue
import re
import select
import termios
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from impetusd.core import redact
from impetusd.supervisor.journal import CHUNK, Journal, Pending
from impetusd.supervisor.lines import LONGEST, Options, dress, stamp, whole
from impetusd.supervisor.logfile import PATIENCE, LogFile
from impetusd.supervisor.lost import Losses
from impetusd.supervisor.stream import log_file

__all__ = ["Options", "Writer"]

TURN = 16  # reads from one pipe before the others have theirs
MOST = 16  # reads for one call; a flood must not hold the thread
TAIL = 8192  # bytes of stderr kept to explain an end
LANES = 8  # threads at most; more directories share them
THAW = 0.5  # seconds between two looks whether a thread of a killed supervisor has come back from the kernel
ADOPTION = 2.0  # seconds that a chunk found in the journal waits for its pipe


class _Watch:
    """A line that is waited for in what one run prints."""

    def __init__(self, pattern: re.Pattern[bytes], found: Callable[[], object]) -> None:
        self.pattern = pattern
        self.found = found
        self.rest = b""


class _Pipe:
    """One pipe's read end, the file it goes to, and the last of what this run printed."""

    __slots__ = (
        *(
            "_tail",
            "by_lines",
            "ended",
            "fd",
            "file",
            "key",
            "lane",
            "lock",
            "longest",
            "name",
            "options",
            "run",
            "total",
        ),
        *("waiting", "watch"),
    )

    def __init__(self, name: str, fd: int, options: Options, lane: _Lane) -> None:
        self.name = name
        self.key = name.encode()
        self.fd = fd
        self.options = options
        self.lane = lane
        self.file: LogFile | None = None  # once the lane has it
        self.waiting: list[tuple[Callable[..., None], tuple[Any, ...]]] = []  # calls that came before it
        self.by_lines = False  # only whole lines are taken out of it
        # A pipe beyond the user's share (pipe-user-pages-soft) has one or two pages.
        self.longest = min(LONGEST, fcntl.fcntl(fd, fcntl.F_GETPIPE_SZ) // 2)
        # Held while bytes leave the pipe, so that `begin_run` sees them on one side or the other: 10 to 20 µs, for they
        # go into memory.
        self.lock = threading.Lock()
        self.total = 0  # bytes read from it
        self.run = -1  # `total` at which the present run begins
        self.ended = -1  # `total` at which the last run that is over ended
        self.watch: _Watch | None = None
        self._tail = b""

    def unread(self) -> int:
        """Bytes that are in it now."""
        waiting = array.array("i", [0])
        fcntl.ioctl(self.fd, termios.FIONREAD, waiting)
        return waiting[0]

    def took(self, data: bytes | memoryview, before: int) -> None:
        """Remember the last of what this run printed; `before` is what `total` was without `data`."""
        run = self.run
        if run >= before:
            self._tail = bytes(data[run - before :][-TAIL:])
        elif len(data) >= TAIL:
            self._tail = bytes(data[-TAIL:])
        else:
            self._tail = (self._tail + bytes(data))[-TAIL:]

    def tail(self) -> bytes:
        return self._tail if self.total > self.run else b""

    def look(self, data: bytes | memoryview, before: int) -> None:
        """Call whoever waits for a line of this run, if it has come."""
        watch = self.watch
        if watch is None:
            return
        text = watch.rest + bytes(data[max(0, self.run - before) :])
        end = text.rfind(b"\n") + 1
        watch.rest = text[end:][-CHUNK:]
        if any(watch.pattern.search(line) for line in text[:end].split(b"\n")[:-1]):
            with self.lock:
                if self.watch is watch:
                    self.watch = None
                    watch.found()


class Writer:
    """Moves bytes from pipes to files. Every method may be called from any thread and returns at once, but for `close`.

    A pipe is named by the caller; its descriptor stays the caller's, and must stay open until `forget` has answered.
    """

    def __init__(
        self,
        path: str,
        soon: Callable[[Callable[[], object]], object] | None = None,
        held: Mapping[str, int] | None = None,
        keep: Callable[[str, int | None], object] | None = None,
    ) -> None:
        """`path` is the daemon's own log, where these threads tell of their troubles.

        `soon` puts off waking a thread until the caller's present work is done: each wake costs it the interpreter's
        lock, half a millisecond in the middle of a restart. `held` are the descriptors that `keep` was given, by the
        name that it was given with, by the supervisor before us; they are the writer's now. `keep` is given None for what
        need not be kept any more, in the thread that `soon` calls in.
        """
        held = held or {}
        self._soon = soon or (lambda call: call())
        self._keep = keep
        self._path = path
        self._pipes: dict[str, _Pipe] = {}
        self.losses = Losses(held.get("lost"))
        if keep is not None and "lost" not in held:
            keep("lost", self.losses.fd)
        numbers = sorted(int(name.partition(":")[2]) for name in held if name.startswith("journal:"))
        self._journals = 1 + max([-1, *numbers])  # how many numbers are taken
        self._free: list[Journal] = []  # those that no thread uses
        self.found: dict[str, tuple[Pending, Journal]] = {}
        self.frozen: dict[str, tuple[Pending, Journal]] = {}  # whose thread was killed and hangs: it may write them yet
        self._thawed: dict[str, functools.partial[None]] = {}  # what to do once it has ended
        for number in numbers:
            journal = Journal(held[f"journal:{number}"])
            pending = journal.pending()
            in_use = pending is not None and journal.is_in_use()
            if pending is not None:
                (self.frozen if in_use else self.found)[pending.pipe] = (pending, journal)
            if pending is not None and in_use:
                self._thawed[pending.pipe] = functools.partial(self._drop, f"journal:{number}", journal)
            else:
                self._free.append(journal)
        self.found_until = time.monotonic() + ADOPTION
        self._lanes: dict[str, _Lane] = {}
        self._threads: list[_Lane] = []
        self._making = threading.Lock()
        self._main = self._lane(path)

    # What others ask of it.

    def line(self, text: str) -> None:
        """Write a line into the daemon's own log, without what looks secret in it."""
        self._main.call(self._main.line, redact.text(text), time.time())

    def add(self, pipe: str, fd: int, path: str, options: Options | None = None) -> None:
        """Move what comes from `fd` into the file `path` from now on."""
        lane = self._lane(path)
        added = self._pipes[pipe] = _Pipe(pipe, fd, options or Options(), lane)
        found = self.found.get(pipe) or self.frozen.get(pipe)
        lane.call(lane.add, added, path, found)

    def redirect(self, routes: Mapping[str, str], options: Mapping[str, Options] | None = None) -> None:
        """Send each pipe to the path given, after all that is in it now has gone where it belonged.

        `options` are those of the pipes that change them.
        """
        leaving: dict[_Lane, list[tuple[_Pipe, str, Options, _Lane]]] = {}
        for name, path in routes.items():
            pipe, lane = self._pipes[name], self._lane(path)
            leaving.setdefault(pipe.lane, []).append((pipe, path, (options or {}).get(name, pipe.options), lane))
        for old, moves in leaving.items():
            old.call(old.redirect, moves)
            for pipe, _, _, lane in moves:
                pipe.lane = lane

    def forget(self, pipe: str, done: Callable[[], object]) -> None:
        """Write what is left in the pipe, let go of it, then call `done` (in a thread of the writer's)."""
        known = self._pipes.pop(pipe, None)
        if known is None:
            self._main.call(lambda: done())  # noqa: PLW0108  # its answer is dropped
        else:
            self._of(known, known.lane.forget, known, done)

    def begin_run(self, pipe: str) -> None:
        """A new process is about to write into `pipe`: its tail begins after what was read and what lies in the pipe.

        Said without the thread, for the process may print before that has had its turn. Ends a watch.
        """
        known = self._pipes.get(pipe)
        if known is not None:
            with known.lock:
                known.watch = None
                known.run = known.total + known.unread()

    def end_run(self, pipe: str) -> None:
        """The process is gone: write also a last line that it did not finish."""
        known = self._pipes.get(pipe)
        if known is not None:
            with known.lock:
                known.ended = known.total + known.unread()
            self._of(known, known.lane.read, known)

    def tail(self, pipe: str, answer: Callable[[bytes], None]) -> None:
        """Call `answer` (in a thread of the writer's) with the last bytes of this run, which is over: all of them read."""
        known = self._pipes.get(pipe)
        if known is None:
            self._main.call(answer, b"")
        else:
            self.end_run(pipe)
            self._of(known, known.lane.tail, known, answer)

    def watch_line(self, pipe: str, pattern: bytes | re.Pattern[bytes], found: Callable[[], object]) -> None:
        """Call `found` once (in a thread of the writer's; it must not call the writer) when this run prints such a line.

        Say it after `begin_run`, which ends it, as `forget` and `unwatch` do. Raises re.error.
        """
        watch = _Watch(re.compile(pattern), found)
        known = self._pipes.get(pipe)
        if known is not None:
            with known.lock:
                known.watch = watch

    def unwatch(self, pipe: str) -> None:
        """Wait for no line any more."""
        known = self._pipes.get(pipe)
        if known is not None:
            with known.lock:
                known.watch = None

    def reopen(self, done: Callable[[int], object] | None = None) -> None:
        """Open every file anew, at the end of a line; `done` (in a thread of the writer's) learns how many they were."""
        self._gather(
            lambda lane, answer: lane.call(lane.reopen, answer), self._threads, lambda n: done and done(sum(n))
        )

    def flush_files(self, paths: Iterable[str], done: Callable[[list[str]], object]) -> None:
        """Empty log files; `done` (in a thread of the writer's) learns in one sentence each what could not be."""
        by_lane: dict[_Lane, list[str]] = {}
        for path in dict.fromkeys(paths):
            by_lane.setdefault(self._lanes.get(os.path.dirname(path), self._main), []).append(path)
        if not by_lane:
            self._main.call(done, [])
            return
        self._gather(
            lambda lane, answer: lane.call(lane.flush, by_lane[lane], answer),
            list(by_lane),
            lambda answers: done([each for answer in answers for each in answer]),
        )

    def dropped(self, path: str) -> tuple[int, int]:
        """Bytes and lines of the file `path` that could not be written, since the daemon began."""
        lost = self.losses.of(path)
        return lost.bytes, lost.lines

    def close(self) -> None:
        """Write everything that has been printed, then end. Blocks until that is done, 5 seconds at most."""
        for lane in self._threads:
            lane.call(lane.close)
            lane.rouse()  # whoever waits for the thread cannot do so soon
        end = time.monotonic() + 5.0
        for lane in self._threads:
            lane.thread.join(max(0.0, end - time.monotonic()))

    # Between the threads.

    def _of(self, pipe: _Pipe, function: Callable[..., None], *arguments: Any) -> None:
        pipe.lane.call(pipe.lane.when_here, pipe, function, arguments)

    def resolved(self, pipe: str) -> None:
        """A chunk of the journal found its file, or nobody came for it."""
        found = self.found.pop(pipe, None)
        if found is not None:
            found[1].done()
        if self.frozen.pop(pipe, None) is not None:
            self._soon(self._thawed.pop(pipe))

    def _lane(self, path: str) -> _Lane:
        """The thread of the directory that `path` is in."""
        directory = os.path.dirname(path)
        with self._making:
            lane = self._lanes.get(directory)
            if lane is None:
                number = len(self._lanes)
                if number < LANES:
                    lane = _Lane(self, self._journal(), self._path, self._soon)
                    self._threads.append(lane)
                    lane.thread.start()
                else:
                    lane = self._threads[number % LANES]
                self._lanes[directory] = lane
        return lane

    def _journal(self) -> Journal:
        if self._free:
            return self._free.pop(0)
        journal = Journal()
        if self._keep is not None:
            self._keep(f"journal:{self._journals}", journal.fd)
        self._journals += 1
        return journal

    def _drop(self, name: str, journal: Journal) -> None:
        journal.close()
        if self._keep is not None:
            self._keep(name, None)

    @staticmethod
    def _gather(
        ask: Callable[[_Lane, Callable[[Any], None]], None],
        lanes: Iterable[_Lane],
        done: Callable[[list[Any]], object],
    ) -> None:
        """Ask each lane; call `done` with all answers in the thread that gave the last."""
        lanes = list(lanes)
        answers: list[Any] = []
        lock = threading.Lock()

        def answer(value: Any) -> None:
            with lock:
                answers.append(value)
                last = len(answers) == len(lanes)
            if last:
                done(answers)

        for lane in lanes:
            ask(lane, answer)


class _Lane:
    """One thread with its pipes and files. Its other methods than `call` and `rouse` are called in that thread."""

    def __init__(
        self, writer: Writer, journal: Journal, own: str, soon: Callable[[Callable[[], object]], object]
    ) -> None:
        self._writer = writer
        self._journal = journal
        self._soon = soon
        self._woken = False
        self._calls: queue.SimpleQueue[tuple[Callable[..., None], tuple[Any, ...]]] = queue.SimpleQueue()
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._epoll = select.epoll()
        self._epoll.register(self._wake, select.EPOLLIN)
        self._by_fd: dict[int, _Pipe] = {}
        self._files: dict[str, LogFile] = {}
        self._users: dict[LogFile, set[_Pipe]] = {}
        self._own = log_file(own)
        self._again: set[_Pipe] = set()  # by_lines, and not read to the end: the kernel tells of news only
        self._frozen: list[tuple[_Pipe, str, tuple[Pending, Journal]]] = []  # pipes to add once a dead thread has ended
        self._reopening: list[tuple[list[LogFile], Callable[[int], None], int]] = []
        self._peek: Callable[[int], bytes] | None = None
        self._running = True
        self.thread = threading.Thread(target=self._run, name="log writer", daemon=True)

    def call(self, function: Callable[..., object], *arguments: Any) -> None:
        """Have `function` called in the thread."""
        self._calls.put((function, arguments))  # type: ignore[arg-type]  # what it returns is dropped
        if not self._woken:
            self._woken = True
            self._soon(self.rouse)

    def rouse(self) -> None:
        """Wake the thread."""
        self._woken = False
        os.eventfd_write(self._wake, 1)

    def _run(self) -> None:
        self._journal.own()
        while self._running:
            try:
                self._turn()
            except Exception as error:  # the thread must outlive any one mistake
                self._writer.line(f"log writer: {error!r}")
                time.sleep(0.1)  # and not fill a core with it

    def _turn(self) -> None:
        timeout = 0.0 if self._again else PATIENCE if self._reopening else THAW if self._frozen else None
        for fd, _ in self._epoll.poll(timeout):
            if fd == self._wake:
                with contextlib.suppress(BlockingIOError):
                    os.eventfd_read(self._wake)
            elif (pipe := self._by_fd.get(fd)) is not None:
                self._again.discard(pipe)
                self._drain(pipe, TURN)
        for pipe in tuple(self._again):
            self._again.discard(pipe)
            self._drain(pipe, TURN)
        while not self._calls.empty():
            function, arguments = self._calls.get()
            try:
                function(*arguments)
            except Exception as error:
                self._writer.line(f"log writer: {error!r}")
        if self._reopening:
            self._settle()
        for pipe, path, found in tuple(self._frozen):
            if not found[1].is_in_use():
                self._frozen.remove((pipe, path, found))
                self.add(pipe, path, found)

    # Moving.

    def _drain(self, pipe: _Pipe, turns: int, *, forced: bool = False) -> None:
        """Write what is in the pipe; by lines, an unfinished one only when `forced`."""
        if self._writer.found and not self._adopted():
            self._again.add(pipe)
            return
        for _ in range(turns):
            try:
                limit = self._whole(pipe, forced=forced) if pipe.by_lines else CHUNK
                if limit == 0 or not self._move(pipe, limit):
                    return
            except BlockingIOError:
                return
        if pipe.by_lines:
            self._again.add(pipe)

    def _move(self, pipe: _Pipe, limit: int) -> bool:
        """Write one chunk; False if there is no more now."""
        assert pipe.file is not None
        at = time.time()
        with pipe.lock:
            before = pipe.total
            data = self._journal.take(pipe.fd, pipe.key, at, limit)
            pipe.total = before + len(data)
        if not data:  # every write end is closed: never while the shim holds one
            with contextlib.suppress(OSError):
                self._epoll.unregister(pipe.fd)
            return False
        self._write(pipe, data, at, 0)
        if pipe.options.tail:
            pipe.took(data, before)
        if pipe.watch is not None:
            pipe.look(data, before)
        self._journal.done()
        return pipe.by_lines or len(data) == limit

    def _write(
        self, pipe: _Pipe, data: bytes | memoryview, at: float, skip: int, journal: Journal | None = None
    ) -> None:
        assert pipe.file is not None
        pipe.file.lost.at(at)
        if pipe.by_lines:
            raw = bytes(data)
            told = pipe.file.write(dress(raw, pipe.options, at), raw, journal or self._journal, skip)
        else:
            told = pipe.file.write(data, None, journal or self._journal, skip)
        for each in told:
            self._writer.line(each)

    def _whole(self, pipe: _Pipe, *, forced: bool) -> int:
        """How many bytes to take for whole lines, seen without taking them; what one run left unfinished is a line."""
        if self._peek is None:
            self._peek = peeker()
        data = self._peek(pipe.fd)
        if not data:
            return 0
        for end in sorted((pipe.ended - pipe.total, pipe.run - pipe.total)):
            if 0 < end <= len(data):
                return end
        return whole(data, forced=forced, longest=pipe.longest)

    def _adopted(self) -> bool:
        """Whether no chunk of a predecessor waits for its pipe any more; other reads would overwrite it."""
        if time.monotonic() < self._writer.found_until:
            time.sleep(0.001)
            return False
        for name in tuple(self._writer.found):
            self._writer.line(f"log writer: nothing reads the pipe {name} any more: its last bytes are dropped")
            self._writer.resolved(name)
        return True

    # What is asked.

    def line(self, text: str, at: float) -> None:
        """Write a line into the daemon's own log."""
        self._own.write(f"{stamp(at)} {text}\n".encode("utf-8", "backslashreplace"))

    def add(self, pipe: _Pipe, path: str, found: tuple[Pending, Journal] | None) -> None:
        """Begin to read a pipe, after what a predecessor took from it."""
        if found is not None and pipe.name in self._writer.frozen and found[1].is_in_use():
            self._frozen.append((pipe, path, found))
            return
        os.set_blocking(pipe.fd, False)
        self._by_fd[pipe.fd] = pipe
        self._epoll.register(pipe.fd, select.EPOLLIN)
        self._attach(pipe, path)
        if found is not None:
            pending, journal = found
            assert pipe.file is not None
            done = max(written(pending, path, pipe), pipe.file.lost.accounted(pending.at))
            self._write(pipe, pending.data, pending.at, done, journal)
            self._writer.resolved(pipe.name)
        for function, arguments in pipe.waiting:
            self.call(function, *arguments)
        pipe.waiting = []

    def when_here(self, pipe: _Pipe, function: Callable[..., None], arguments: tuple[Any, ...]) -> None:
        """Call `function`, which is this lane's, once the pipe is here."""
        if pipe.file is None or pipe.fd not in self._by_fd:
            pipe.waiting.append((function, arguments))
        else:
            function(*arguments)

    def redirect(self, moves: list[tuple[_Pipe, str, Options, _Lane]]) -> None:
        """Send pipes to other files, be it another thread's."""
        for pipe, _, _, _ in moves:
            self._drain(pipe, MOST)  # a line that is not finished goes to the new file as a whole
        for pipe, path, options, lane in moves:
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

    def read(self, pipe: _Pipe) -> None:
        """Write what is in the pipe now."""
        self._drain(pipe, MOST)

    def empty(self, pipe: _Pipe) -> None:
        """Write all that is in the pipe now, an unfinished line, too, and no more: a flood must not hold the thread."""
        self._drain(pipe, MOST, forced=True)

    def forget(self, pipe: _Pipe, done: Callable[[], object]) -> None:
        """Write what is left, and let go."""
        self.empty(pipe)
        self._leave(pipe)
        done()

    def tail(self, pipe: _Pipe, answer: Callable[[bytes], None]) -> None:
        """Tell the last of this run."""
        self.read(pipe)
        answer(pipe.tail())

    def reopen(self, answer: Callable[[int], None]) -> None:
        """Open every file anew."""
        now = time.monotonic()
        files = [file for file in (self._own, *self._files.values()) if file.fd >= 0]
        for file in files:
            with contextlib.suppress(OSError):  # the next write tells
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

    # Files and their pipes.

    def _attach(self, pipe: _Pipe, path: str) -> None:
        file = self._files.get(path)
        if file is None:
            file = self._files[path] = log_file(path, self._writer.losses.of(path))
            self._users[file] = set()
        file.options = pipe.options
        pipe.file = file
        self._users[file].add(pipe)
        self._retune(file)

    def _detach(self, pipe: _Pipe) -> None:
        file = pipe.file
        assert file is not None
        users = self._users[file]
        users.discard(pipe)
        if not users:
            file.close()
            del self._files[file.path], self._users[file]
        else:
            self._retune(file)

    def _leave(self, pipe: _Pipe) -> None:
        self._detach(pipe)
        self._again.discard(pipe)
        with contextlib.suppress(OSError):
            self._epoll.unregister(pipe.fd)
        self._by_fd.pop(pipe.fd, None)

    def _retune(self, file: LogFile) -> None:
        """Lines of several pipes must not mix: then, and where something stands before each, whole ones are taken."""
        users = self._users[file]
        for pipe in users:
            by_lines = len(users) > 1 or pipe.options.by_lines
            if by_lines != pipe.by_lines:
                pipe.by_lines = by_lines
                # By lines, the kernel is to tell of news only: an unfinished line lies in the pipe.
                self._epoll.modify(pipe.fd, select.EPOLLIN | (select.EPOLLET if by_lines else 0))


def written(pending: Pending, path: str, pipe: _Pipe) -> int:
    """How much of the chunk's output is in the file that it was on its way to: what that has grown by."""
    if pending.inode == 0:
        return 0
    out = len(dress(pending.data, pipe.options, pending.at) if pipe.by_lines else pending.data)
    with contextlib.suppress(OSError), os.scandir(os.path.dirname(path)) as there:
        for each in there:
            if each.inode() == pending.inode:
                found = each.stat(follow_symlinks=False)
                if (found.st_dev, found.st_ino) == (pending.device, pending.inode):
                    return min(out, pending.before + max(0, found.st_size - pending.size))
    return pending.before


def peeker() -> Callable[[int], bytes]:
    """A function that gives what is in a pipe, CHUNK bytes at most, and leaves it there (tee into a pipe of its own)."""
    import ctypes

    tee = ctypes.CDLL(None, use_errno=True).tee
    tee.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_size_t, ctypes.c_uint)
    tee.restype = ctypes.c_ssize_t
    reader, copies = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)

    def peek(fd: int) -> bytes:
        count = tee(fd, copies, CHUNK, os.SPLICE_F_NONBLOCK)
        return os.read(reader, count) if count > 0 else b""

    return peek
