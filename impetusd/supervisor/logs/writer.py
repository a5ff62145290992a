"""The writer: moves what children print from their pipes into their files, in threads of its own.

A disk can be slow, full or gone, and no decision may wait for that: hence the threads (`loglane`), one for each directory
of logs, so that a slow disk holds up nobody's logs but its own. The pipes belong to the shim and outlive every restart, of
the child and of the supervisor. What is on its way outlives it too, in memory that the shim holds: a chunk that was read
(`journal`), and the beginning of a line that is to be written whole (`unfinished`). So nothing is lost or doubled, and each
pipe is emptied at once, whatever is in it. What cannot be written is dropped and counted.
"""

from __future__ import annotations

import functools
import os
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from impetusd.core import redact
from impetusd.linux.priority import INFO
from impetusd.supervisor.logs.journal import Journal, Pending
from impetusd.supervisor.logs.lines import Options
from impetusd.supervisor.logs.logaccess import Rights
from impetusd.supervisor.logs.loglane import Lane
from impetusd.supervisor.logs.logpipe import Pipe
from impetusd.supervisor.logs.lost import Losses
from impetusd.supervisor.logs.stream import STREAMS
from impetusd.supervisor.logs.unfinished import Unfinished

__all__ = ["Options", "Writer", "is_ours"]

LANES = 16  # threads at most; more directories share them
ADOPTION = 2.0  # seconds that a chunk found in the journal waits for its pipe
LOST, LINES, JOURNAL = "lost", "lines", "journal:"  # the memory's names in the shim's store


def is_ours(name: str) -> bool:
    """Whether what the shim holds under this name is the writer's."""
    return name in {LOST, LINES} or name.startswith(JOURNAL)


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
        """`path` is the daemon's own log, where these threads report their troubles.

        `soon` puts off waking a thread until the caller's present work is done: each wake costs it the interpreter's
        lock, half a millisecond in the middle of a restart. `held` are the descriptors that `keep` was given, by the
        name that it was given with, by the supervisor before us; they are the writer's now. `keep` is given None for
        what need not be kept any more, in the thread that `soon` calls in.
        """
        held = held or {}
        self._soon = soon or (lambda call: call())
        self._keep = keep
        self._path = path
        self._pipes: dict[str, Pipe] = {}
        self.note: Callable[[str, str, Exception], object] | None = None  # as `Faults.note`, called by way of `soon`
        self.rights: Rights | None = None  # of the files; None: as they come
        self.losses = Losses(held.get(LOST))
        self.unfinished = Unfinished(held.get(LINES), ADOPTION)
        for name, memory in ((LOST, self.losses), (LINES, self.unfinished)):
            if keep is not None and name not in held:
                keep(name, memory.fd)
        numbers = sorted(int(name.removeprefix(JOURNAL)) for name in held if name.startswith(JOURNAL))
        self._journals = 1 + max([-1, *numbers])  # how many numbers are taken
        self._free: list[Journal] = []  # those that no thread uses
        self.found: dict[str, tuple[Pending, Journal]] = {}
        self.frozen: dict[str, tuple[Pending, Journal]] = {}  # whose thread hangs, killed: it may write them
        self._thawed: dict[str, functools.partial[None]] = {}  # what to do once it has ended
        for number in numbers:
            journal = Journal(held[f"{JOURNAL}{number}"])
            if journal.foreign:  # it has read on behind what was held
                self.unfinished.forget()
            pending = journal.pending()
            in_use = pending is not None and journal.is_in_use()
            if pending is not None:
                (self.frozen if in_use else self.found)[pending.pipe] = (pending, journal)
            else:
                journal.claim()
            if pending is not None and in_use:
                self._thawed[pending.pipe] = functools.partial(self._drop, f"{JOURNAL}{number}", journal)
            else:
                self._free.append(journal)
        self.found_until = time.monotonic() + ADOPTION
        self.unbegun: set[Lane] = set()  # whose threads could not be started yet
        self._lanes: dict[str, Lane] = {}
        self._threads: list[Lane] = []
        self._making = threading.Lock()
        self._main = self._lane(path)

    # Requests from other parts.

    def line(self, text: str, level: str = INFO) -> None:  # noqa: ARG002  # files have none
        """Write a line into the daemon's own log, without what looks secret in it. `level`: see `linux.priority`."""
        self._main.call(self._main.line, redact.text(text), time.time())

    def add(self, pipe: str, fd: int, path: str, options: Options | None = None) -> Pipe:
        """Move what comes from `fd` into the file `path` from now on."""
        lane = self._lane(path)
        added = Pipe(pipe, fd, options or Options(), lane)
        added.beginning = self.unfinished.find(added.inode)
        found = self.found.get(pipe) or self.frozen.get(pipe)
        lane.call(lane.add, added, path, found)
        self._pipes[pipe] = added
        return added

    def redirect(self, routes: Mapping[str, str], options: Mapping[str, Options] | None = None) -> None:
        """Send each pipe to the path given, after all that is in it now has gone where it belonged.

        `options` are those of the pipes that change them.
        """
        leaving: dict[Lane, list[tuple[Pipe, str, Options, Lane]]] = {}
        for name, path in routes.items():
            pipe, lane = self._pipes[name], self._lane(path)
            leaving.setdefault(pipe.lane, []).append((pipe, path, (options or {}).get(name, pipe.options), lane))
        for old, moves in leaving.items():
            old.call(old.redirect, moves)
            for pipe, _, _, lane in moves:
                pipe.lane = lane

    def forget(self, pipe: str, done: Callable[[], object]) -> None:
        """Write what is left in the pipe, let go of it, then call `done` (in a thread of the writer's)."""
        known = self._pipes.get(pipe)
        if known is None:
            self._main.call(lambda: done())  # noqa: PLW0108  # its answer is dropped
        else:
            self._of(known, known.lane.forget, known, done)
            del self._pipes[pipe]

    def end_run(self, pipe: str) -> None:
        """The process is gone: write also a last line that it did not finish."""
        known = self._pipes.get(pipe)
        if known is not None:
            known.end_run()
            self.read(pipe)

    def read(self, pipe: str) -> None:
        """Write what is in the pipe now, as after `end_run`: the process is gone, and another has begun."""
        known = self._pipes.get(pipe)
        if known is not None:
            self._of(known, known.lane.read, known)

    def tail(self, pipe: str, answer: Callable[[bytes], None]) -> None:
        """Call `answer` (in a thread of the writer's) with the last bytes of the run that is over: all of them read.

        Say it after `end_run`, or after the next run has begun (`logpipe.begin_run`).
        """
        known = self._pipes.get(pipe)
        if known is None:
            self._main.call(answer, b"")
        else:
            self._of(known, known.lane.tail, known, answer)

    def watch_line(self, pipe: str, pattern: bytes, found: Callable[[], object]) -> None:
        """Call `found` once when this run prints such a line: in a thread of the writer's, or at once if `Pipe.begin_run`
        was given the same pattern and the line was read before this call. It must not call the writer.

        Say it after the run has begun, which ends it, as `forget` and `unwatch` do. Raises re.error.
        """
        known = self._pipes.get(pipe)
        if known is not None:
            known.wait_for(pattern, found)

    def unwatch(self, pipe: str) -> None:
        """Wait for no line any more."""
        known = self._pipes.get(pipe)
        if known is not None:
            known.wait_no_more()

    def give(self, rights: Rights, folder: str) -> None:
        """Set these rights on all log files from now on, and let their readers enter `folder`."""
        with self._making:
            self.rights = rights
            lanes = tuple(self._threads)
        for lane in lanes:
            lane.call(lane.give, rights, folder if lane is self._main else "")

    def reopen(self, done: Callable[[int], object] | None = None) -> None:
        """Open every file anew, at the end of a line; `done` (in a thread of the writer's) learns how many they were."""
        self._gather(
            lambda lane, answer: lane.call(lane.reopen, answer), self._threads, lambda n: done and done(sum(n))
        )

    def flush_files(self, paths: Iterable[str], done: Callable[[list[str]], object]) -> None:
        """Empty log files; `done` (in a thread of the writer's) learns in one sentence each what could not be."""
        by_lane: dict[Lane, list[str]] = {}
        for path in dict.fromkeys(paths):
            by_lane.setdefault(self._lane(path), []).append(path)
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
            lane.rouse()  # a waiter for the thread cannot act soon
        end = time.monotonic() + 5.0
        for lane in self._threads:
            if lane.thread.ident is not None:
                lane.thread.join(max(0.0, end - time.monotonic()))

    def release(self) -> None:
        """Let go of all descriptors, after `close`; what a thread that hangs may still use stays open."""
        ended = [lane.release() for lane in self._threads]
        if all(ended):
            for journal in (*self._free, *(journal for _, journal in self.frozen.values())):
                journal.close()
            self.losses.close()
            self.unfinished.close()
        self._threads.clear()

    # Between the threads.

    def _of(self, pipe: Pipe, function: Callable[..., None], *arguments: Any) -> None:
        pipe.lane.call(pipe.lane.when_here, pipe, function, arguments)

    def resolved(self, pipe: str) -> None:
        """A chunk of the journal found its file, or nobody came for it."""
        found = self.found.pop(pipe, None)
        if found is not None:
            found[1].done()
        if self.frozen.pop(pipe, None) is not None:
            self._soon(self._thawed.pop(pipe))

    def _lane(self, path: str) -> Lane:
        """The thread of the directory that `path` is in, or of the stream that it is."""
        directory = path if path in STREAMS else os.path.dirname(path)
        with self._making:
            lane = self._lanes.get(directory)
            if lane is None:
                number = len(self._lanes)
                if number < LANES:
                    lane = Lane(self, self._journal(), self._path, self._soon)
                    self._threads.append(lane)
                else:  # the first is for the daemon's own log
                    lane = self._threads[1 + number % (LANES - 1)]
                self._lanes[directory] = lane
        return lane

    def _journal(self) -> Journal:
        if self._free:
            return self._free.pop(0)
        journal = Journal()
        if self._keep is not None:
            self._keep(f"{JOURNAL}{self._journals}", journal.fd)
        self._journals += 1
        return journal

    def _drop(self, name: str, journal: Journal) -> None:
        journal.close()
        if self._keep is not None:
            self._keep(name, None)

    @staticmethod
    def _gather(
        ask: Callable[[Lane, Callable[[Any], None]], None],
        lanes: Iterable[Lane],
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
