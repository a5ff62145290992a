"""Log pipes: one pair a slot, which outlives its processes, so that no line is lost over a restart of anything."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import functools
import os
import resource
from collections import ChainMap
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from impetusd.core.reasons import Reason, of_os_error
from impetusd.supervisor.faults import BARE
from impetusd.supervisor.logs.logpipe import own_end
from impetusd.supervisor.logs.stream import NAMES, STDOUT, Prefix
from impetusd.supervisor.logs.stream import STREAMS as LOG_STREAMS
from impetusd.supervisor.logs.writer import Options, Writer
from impetusd.supervisor.slots.entry import PASSING, Entry, Role, log_files
from impetusd.supervisor.start.childspec import CannotStart

if TYPE_CHECKING:
    from impetusd.core.config.model import Unit
    from impetusd.supervisor.logs.logpipe import Pipe
    from impetusd.supervisor.start.link import Outbox

STREAMS = ("out", "err")
RESERVE = 16  # descriptors that no program's pipes may take: `status` and `stop` are answered with them


class LogPipes:
    """Which pipes there are, and into which files the writer moves what comes through them."""

    def __init__(self, outbox: Outbox, writer: Writer, log_dir: str) -> None:
        self._outbox = outbox
        self._writer = writer
        self._log_dir = log_dir
        self.faults = BARE
        self.prefix: Prefix | None = None  # with one, what has no file of its own in the INI goes to standard output
        self.instances: Callable[[Unit], int] = lambda unit: unit.instances
        self.shown: Callable[[Entry], str] = lambda entry: entry.name
        self.of: dict[int, tuple[Pipe, ...]] = {}  # by the number of a pair
        self.owners: dict[int, int] = {}  # of those that are not our own user's
        self._next_pipe = 1 + max([0, *(int(name.split(":")[1]) for name in outbox.fds if name.startswith("log:"))])

    # Its pipes.

    def make(self, entry: Entry) -> int:
        """The slot's pair of pipes, made if there is none yet."""
        if entry.rec.pipe is not None:
            return entry.rec.pipe
        pipe = self._next_pipe
        self._next_pipe += 1
        theirs, ours = _pipes(f"log:{pipe}")
        try:
            self._outbox.keep_all(theirs, ours=False)
        except BaseException:
            _close(theirs, ours)
            raise
        self._outbox.fds |= ours
        entry.rec.pipe = pipe
        try:
            self._attach(entry)
        except BaseException:
            self.forget(entry)
            raise
        return pipe

    def own(self, pipe: int, uid: int) -> None:
        """Its pipes are the process's, which may open /dev/stderr as its own then: nginx, haproxy and php-fpm do."""
        for stream in STREAMS:
            with contextlib.suppress(PermissionError):  # as root in a user namespace
                os.fchown(self._outbox.fds[f"log:{pipe}:{stream}:r"], uid, -1)
        self.owners[pipe] = uid

    def _attach(self, entry: Entry) -> None:
        options = self._options(entry)
        assert entry.rec.pipe is not None
        self.of[entry.rec.pipe] = tuple(
            self._writer.add(name, self._outbox.fds[f"log:{entry.rec.pipe}:{stream}:r"], path, options[name])
            for (name, path), stream in zip(self._routes(entry).items(), STREAMS, strict=True)
        )

    def adopt(self, entry: Entry) -> bool:
        """Go on where the supervisor before us stopped reading. False if the pipes are lost, with a shim that was killed."""
        pipe = entry.rec.pipe
        if pipe is None or any(f"log:{pipe}:{stream}:r" not in self._outbox.fds for stream in STREAMS):
            entry.rec.pipe = None
            return False
        for stream in STREAMS:  # the shim passed the write ends too; only it needs them
            writer = self._outbox.fds.pop(f"log:{pipe}:{stream}:w", None)
            if writer is not None:
                os.close(writer)
            reader = self._outbox.fds[f"log:{pipe}:{stream}:r"]
            if (owner := os.fstat(reader).st_uid) != os.geteuid():
                self.owners[pipe] = owner
            with contextlib.suppress(OSError):
                self._outbox.fds[f"log:{pipe}:{stream}:r"] = own_end(reader)
                os.close(reader)
        self._attach(entry)
        return True

    def swap(self, one: Entry, other: Entry) -> None:
        """A process moved from slot to slot: its pipes go with it, and what it prints goes to its new slot's files."""
        one.rec.pipe, other.rec.pipe = other.rec.pipe, one.rec.pipe
        try:
            having = [entry for entry in (one, other) if entry.rec.pipe is not None]
            routes = [self._routes(entry) for entry in having]
            options = [self._options(entry) for entry in having]
            self._writer.redirect(dict(ChainMap(*routes)), dict(ChainMap(*options)))
        except BaseException:
            one.rec.pipe, other.rec.pipe = other.rec.pipe, one.rec.pipe
            raise

    def forget(self, entry: Entry) -> None:
        """The slot is gone: write what it printed last, then close its pipes."""
        pipe = entry.rec.pipe
        if pipe is None:
            return
        entry.rec.pipe = None
        self.of.pop(pipe, None)
        self.owners.pop(pipe, None)
        for stream in STREAMS:
            stage = f"releasing its log pipe {pipe}:{stream}"
            self.faults.attempt(entry.name, stage, self._forget, entry.name, stage, pipe, stream)

    def _forget(self, slot: str, stage: str, pipe: int, stream: str) -> None:
        close = functools.partial(self._close_pipe, pipe, stream)
        soon = asyncio.get_running_loop().call_soon_threadsafe
        self._writer.forget(f"{pipe}:{stream}", functools.partial(soon, self.faults.attempt, slot, stage, close))

    def _close_pipe(self, pipe: int, stream: str) -> None:
        self._outbox.drop(f"log:{pipe}:{stream}:r")
        self._outbox.ask({"op": "drop", "name": f"log:{pipe}:{stream}:w"})
        self._outbox.flush()

    def names(self, entry: Entry) -> list[str]:
        """The names that the writer knows the slot's pipes by."""
        return [] if entry.rec.pipe is None else [f"{entry.rec.pipe}:{stream}" for stream in STREAMS]

    # Its files, and what is written.

    def _routes(self, entry: Entry) -> dict[str, str]:
        return {f"{entry.rec.pipe}:{stream}": path for stream, path in zip(STREAMS, self.log_files(entry), strict=True)}

    def _options(self, entry: Entry) -> dict[str, Options]:
        unit = entry.unit
        out, error = paths = self.log_files(entry)
        given = unit.out_file, unit.error_file
        shared = unit.merge_logs or out == error or entry.role is Role.WORKER or entry.role in PASSING
        as_json = unit.log_format == "json"
        return {
            f"{entry.rec.pipe}:{stream}": _same(
                prefix=self.prefix.of(self.shown(entry)) if self.prefix and not own and not as_json else "",
                name=self.shown(entry) if as_json else "",
                stream="out" if stream == "out" else "error",
                time=unit.time,
                json=as_json,
                merged=shared or path in LOG_STREAMS,
                max_line=unit.log_max_line,
                tail=stream == "err",
                max_size=unit.log_max_size,
                max_age=unit.log_max_age,
                keep=unit.log_keep,
                compress=unit.log_compress,
            )
            for stream, path, own in zip(STREAMS, paths, given, strict=True)
        }

    def log_files(self, entry: Entry) -> tuple[str, str]:
        """Where the slot's stdout and stderr go."""
        unit = entry.unit
        paths = log_files(unit, entry.role, entry.index, self.instances(unit), self._log_dir)
        out, error = (NAMES.get(path, path) for path in paths)
        if self.prefix is None:
            return out, error
        return out if unit.out_file else STDOUT, error if unit.error_file else STDOUT

    def dropped(self, entry: Entry) -> tuple[int, int]:
        """Bytes and lines that could not be written into its log files, those of others in a merged one included."""
        if not self._writer.losses:
            return 0, 0
        count, lines = zip(*map(self._writer.dropped, set(self.log_files(entry))), strict=True)
        return sum(count), sum(lines)

    def attention(self, entries: Iterable[Entry]) -> list[Reason]:
        """Log files that cannot be written now."""
        if not self._writer.losses:
            return []
        return self._writer.losses.attention(dict.fromkeys(path for each in entries for path in self.log_files(each)))

    def end_run(self, entry: Entry) -> None:
        """The slot's process is gone: a last line that it did not finish is written, too."""
        for pipe in self.names(entry):
            self._writer.end_run(pipe)

    def read(self, entry: Entry) -> None:
        """The slot has another process already: the same of the one before."""
        for pipe in self.names(entry):
            self._writer.read(pipe)

    def tail(self, pipe: int, answer: Callable[[bytes], None]) -> None:
        """Call `answer`, in the writer's thread, with the last of what the present run wrote to stderr."""
        self._writer.tail(f"{pipe}:err", answer)


_same = functools.lru_cache(maxsize=64)(Options)  # most pipes are written alike: one object for them


def _pipes(name: str) -> tuple[dict[str, int], dict[str, int]]:
    """A pipe for each stream, by what the shim calls its ends: the ends that processes have, and a read end that only we
    have.

    Raises CannotStart, also as soon as the next would come out of the RESERVE.
    """
    theirs: dict[str, int] = {}
    ours: dict[str, int] = {}
    try:
        for stream in STREAMS:
            reader, writer = f"{name}:{stream}:r", f"{name}:{stream}:w"
            theirs[reader], theirs[writer] = os.pipe2(os.O_CLOEXEC)
            ours[reader] = own_end(theirs[reader])
        if max(*theirs.values(), *ours.values()) >= resource.getrlimit(resource.RLIMIT_NOFILE)[0] - RESERVE:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
    except BaseException as error:
        _close(theirs, ours)
        if isinstance(error, OSError):
            raise CannotStart("log_pipes", of_os_error(error)) from None
        raise
    return theirs, ours


def _close(*fds: dict[str, int]) -> None:
    for fd in (fd for each in fds for fd in each.values()):
        os.close(fd)
