"""The writer's state of one log pipe: its destination, the start and end of runs, and the last output of a run."""

from __future__ import annotations

import array
import contextlib
import fcntl
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

from impetusd.core.config.linepattern import FOUND, LinePattern
from impetusd.supervisor.logs.journal import CHUNK, FIONREAD
from impetusd.supervisor.logs.lines import Options

if TYPE_CHECKING:
    from impetusd.supervisor.logs.unfinished import Beginning

TAIL = 8192  # bytes of stderr kept to explain an end
WATCHED = 4096  # bytes read at once while a line is waited for: the worst of patterns takes 0.3 s for them
LOCKED = 0.05  # seconds that the supervisor waits for a pipe's lock at most


class _Watch:
    """A line that is waited for in what one run prints. `found` is not known before somebody asks for it."""

    def __init__(self, pattern: bytes) -> None:
        """Raises re.error."""
        self.source = pattern
        self.pattern = _line_pattern(pattern)
        self.state = self.pattern.begin
        self.found: Callable[[], object] | None = None


class Pipe:
    """One pipe's read end, the file it goes to, and the last of what this run printed."""

    __slots__ = (
        *(
            "_former",
            "_tail",
            "_tail_of",
            "beginning",
            "by_lines",
            "ended",
            "fault_at",
            "faults",
            "fd",
            "goes_on",
            "hold",
            "lock",
            "name",
        ),
        *("options", "parked", "path", "place", "read_at", "run", "runs", "small", "total", "waiting", "watch"),
    )

    def __init__(self, name: str, fd: int, options: Options, place: str) -> None:
        self.name = name
        self.fd = fd
        self.options = options
        self.place = place  # where its file is, by which the writer finds its lane
        self.path = ""  # of its file, once the lane has it
        self.waiting: tuple[tuple[Callable[..., None], tuple[Any, ...]], ...] = ()  # calls that came before it
        self.by_lines = False  # only whole lines are written
        self.beginning: Beginning | None = None  # of a line that has not ended
        self.parked = False  # it is not read for a while
        self.read_at = 0.0  # when it was last read (monotonic)
        self.small = 0  # reads of little, one soon after the other
        self.faults = 0  # how often handling it has raised, one soon after the other
        self.fault_at = 0.0  # when it last did (monotonic)
        self.hold = 0.0  # until when its lines may keep others waiting: see `holds`
        # Held while bytes leave the pipe, so that `begin_run` sees them on one side or the other: 10 to 20 µs, for they
        # go into memory.
        self.lock = threading.Lock()
        self.total = 0  # bytes read from it
        self.run = -1  # `total` at which the present run begins, or the last one began
        self.runs = 0  # how many have begun
        self.goes_on = True  # whether that run is not over yet
        self.ended = -1  # `total` at which the last run that is over ended
        self.watch: _Watch | None = None
        self._tail = b""  # the last of what run number `_tail_of` printed
        self._tail_of = 0
        self._former = b""  # and the one before it, for whoever asks when that has begun

    @property
    def key(self) -> bytes:
        """Its name in the journal."""
        return self.name.encode()

    @property
    def inode(self) -> int:
        """By which the beginning of its line is found. Raises OSError."""
        return os.fstat(self.fd).st_ino

    def unread(self) -> int:
        """Bytes that are in it now."""
        waiting = array.array("i", [0])
        fcntl.ioctl(self.fd, FIONREAD, waiting)
        return waiting[0]

    def limit(self) -> int:
        """How much may be read at once: where lines are cut, what two runs have printed is read apart."""
        most = CHUNK if self.watch is None or self._is_over() else WATCHED
        if not self.by_lines:
            return most
        return min(
            most, *(place - self.total for place in (self.ended, self.run, self.total + most) if place > self.total)
        )

    def _is_over(self) -> bool:
        """Whether the present run has ended."""
        return not self.goes_on

    def at_an_edge(self) -> bool:
        """Whether what was read last is the last of a run."""
        return self.total in {self.ended, self.run}

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """The lock, for the supervisor's own thread: it is given up on rather than waited for."""
        have = self.lock.acquire(timeout=LOCKED)
        try:
            yield
        finally:
            if have:
                self.lock.release()

    def begin_run(self, pattern: bytes | None) -> None:
        """Data that is not yet in the pipe comes from a new process, of which a line with `pattern` will be asked for; the
        one before is over, and so is a watch. Without the lane's thread: the process may print before that runs. Raises
        re.error.
        """
        watch = None if pattern is None else _Watch(pattern)
        with self.locked():
            self.watch = watch
            self.run = self.total + self.unread()
            if self.goes_on:
                self.ended = self.run
            self.runs += 1
            self.goes_on = True

    def end_run(self) -> None:
        """The process is gone: what is in the pipe now is the last that it printed."""
        with self.locked():
            self.ended = self.total + self.unread()
            self.goes_on = False

    def wait_for(self, pattern: bytes, found: Callable[[], object]) -> None:
        """Call `found` once, when this run prints a line with `pattern`, or now if it has. Raises re.error.

        Only a pattern that `begin_run` was given is known of lines that have been read already.
        """
        early = self.watch
        same = early is not None and early.found is None and early.source == pattern
        watch = early if early is not None and same else _Watch(pattern)
        with self.locked():
            watch.found = found
            self.watch = watch
            self._answer(watch)

    def wait_no_more(self) -> None:
        """Wait for no line."""
        with self.locked():
            self.watch = None

    def _answer(self, watch: _Watch) -> None:
        """Call the waiter if its line has come. With the lock."""
        if watch.state is FOUND and self.watch is watch and watch.found is not None:
            self.watch = None
            watch.found()

    def took(self, data: bytes | memoryview, before: int) -> None:
        """Remember the last of what each run printed; `before` is what `total` was without `data`."""
        place = max(0, self.run - before)  # what comes before it is of the run before
        if place:
            self._add_to_tail(data[:place])
        if place <= len(data):
            self._turn_to_present_run()
        self._add_to_tail(data[place:])

    def _add_to_tail(self, data: bytes | memoryview) -> None:
        self._tail = bytes(data[-TAIL:]) if len(data) >= TAIL else (self._tail + bytes(data))[-TAIL:]

    def _turn_to_present_run(self) -> None:
        if self._tail_of != self.runs:
            self._former, self._tail, self._tail_of = self._tail, b"", self.runs

    def tail(self) -> bytes:
        """The last of what the run printed that is over, once all of it is read."""
        if self.total >= self.run:
            self._turn_to_present_run()
        if not self.goes_on:
            return self._tail
        former, self._former = self._former, b""
        return former

    def look(self, data: bytes | memoryview, before: int) -> None:
        """Call the waiter for a line of this run, if it has come."""
        watch = self.watch
        if watch is None:
            return
        text = bytes(data[max(0, self.run - before) :])
        if self._is_over():  # no decision hangs on it any more
            text = text[:WATCHED]
        watch.state = watch.pattern.feed(watch.state, text)
        if watch.state is FOUND:
            with self.lock:
                self._answer(watch)


def begin_run(pipes: Iterable[Pipe], pattern: bytes | None) -> None:
    """A process is about to be started that writes into these: see `Pipe.begin_run`. Raises re.error."""
    for pipe in pipes:
        pipe.begin_run(pattern)


def _line_pattern(pattern: bytes) -> LinePattern:
    """Raises re.error. A file in force may have a pattern that `check` refuses today: it is taken leniently."""
    try:
        return LinePattern(pattern)
    except ValueError:
        return LinePattern(pattern, lenient=True)


def own_end(fd: int) -> int:
    """Another read end of the same pipe, with flags of its own: the holder of the first cannot make us block. Raises
    OSError.

    If that is refused (there is no /proc), return the same one.
    """
    try:
        return os.open(f"/proc/self/fd/{fd}", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except (FileNotFoundError, PermissionError):
        return os.dup(fd)
