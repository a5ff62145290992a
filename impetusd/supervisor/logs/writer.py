"""The log writer: copies the output of children from pipes to files, in its own threads.

A disk can be slow, full or gone, and no decision may wait for that: hence the threads, one for each directory of logs
(`loglane`), so that a slow disk holds up nobody's logs but its own. The pipes belong to the shim and outlive every restart, of
the child and of the supervisor. What is on its way outlives it too, in memory that the shim holds: a chunk that was read
(`journal`), and the beginning of a line that is to be written whole (`unfinished`). So nothing is lost or doubled, and each
pipe is emptied at once, whatever is in it. What cannot be written is dropped and counted.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from impetusd.core import redact
from impetusd.linux.priority import INFO
from impetusd.supervisor.logs.chunks import ADOPTION, JOURNAL, Chunks
from impetusd.supervisor.logs.lines import Options
from impetusd.supervisor.logs.logaccess import Rights
from impetusd.supervisor.logs.loglane import Lane
from impetusd.supervisor.logs.logpipe import Pipe
from impetusd.supervisor.logs.logthread import Shared
from impetusd.supervisor.logs.lost import Losses
from impetusd.supervisor.logs.stream import STREAMS
from impetusd.supervisor.logs.unfinished import Unfinished

__all__ = ["Options", "Writer", "is_ours"]

LANES = 16  # threads at most; more directories share them
LOST, LINES = "lost", "lines"  # the memory's names in the shim's store


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
        soon = soon or (lambda call: call())
        self._path = path
        self._pipes: dict[str, Pipe] = {}
        self.losses = Losses(held.get(LOST))
        unfinished = Unfinished(held.get(LINES), ADOPTION)
        for name, memory in ((LOST, self.losses), (LINES, unfinished)):
            if keep is not None and name not in held:
                keep(name, memory.fd)
        chunks = Chunks(held, keep, soon)
        if chunks.foreign:
            unfinished.forget()
        self.shared = Shared(self.line, soon, self.losses, unfinished, chunks)
        self._lanes: dict[str, Lane] = {}  # by place
        self._threads: list[Lane] = []
        self._making = threading.Lock()
        self._main = self._lane(_place(path))

    # Requests from other parts.

    def line(self, text: str, level: str = INFO) -> None:  # noqa: ARG002  # files have none
        """Write a line into the daemon's own log, without what looks secret in it. `level`: see `linux.priority`."""
        self._main.call(self._main.outlets.line, redact.text(text), time.time())

    def add(self, pipe: str, fd: int, path: str, options: Options | None = None) -> Pipe:
        """Move what comes from `fd` into the file `path` from now on."""
        added = Pipe(pipe, fd, options or Options(), _place(path))
        added.beginning = self.shared.unfinished.find(added.inode)
        lane = self._lane(added.place)
        lane.call(lane.add, added, path, self.shared.chunks.of(pipe))
        self._pipes[pipe] = added
        return added

    def redirect(self, routes: Mapping[str, str], options: Mapping[str, Options] | None = None) -> None:
        """Send each pipe to the path given, after all that is in it now has gone where it belonged.

        `options` are those of the pipes that change them.
        """
        leaving: dict[Lane, list[tuple[Pipe, str, Options, Lane]]] = {}
        for name, path in routes.items():
            pipe, lane = self._pipes[name], self._lane(_place(path))
            move = pipe, path, (options or {}).get(name, pipe.options), lane
            leaving.setdefault(self._lane(pipe.place), []).append(move)
        for old, moves in leaving.items():
            old.call(old.redirect, moves)
            for pipe, path, _, _ in moves:
                pipe.place = _place(path)

    def forget(self, pipe: str, done: Callable[[], object]) -> None:
        """Write what is left in the pipe, let go of it, then call `done` (in a thread of the writer's)."""
        known = self._pipes.get(pipe)
        if known is None:
            self._main.call(lambda: done())  # noqa: PLW0108  # its answer is dropped
        else:
            self._ask(known, Lane.forget, done)
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
            self._ask(known, Lane.read)

    def tail(self, pipe: str, answer: Callable[[bytes], None]) -> None:
        """Call `answer` (in a thread of the writer's) with the last bytes of the run that is over: all of them read.

        Say it after `end_run`, or after the next run has begun (`logpipe.begin_run`).
        """
        known = self._pipes.get(pipe)
        if known is None:
            self._main.call(answer, b"")
        else:
            self._ask(known, Lane.tail, answer)

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
            self.shared.rights = rights
            lanes = tuple(self._threads)
        for lane in lanes:
            lane.call(lane.outlets.give, rights, folder if lane is self._main else "")

    def reopen(self, done: Callable[[int], object] | None = None) -> None:
        """Open every file anew, at the end of a line; `done` (in a thread of the writer's) learns how many they were."""
        self._gather(
            lambda lane, answer: lane.call(lane.outlets.reopen, answer), self._threads, lambda n: done and done(sum(n))
        )

    def flush_files(self, paths: Iterable[str], done: Callable[[list[str]], object]) -> None:
        """Empty log files; `done` (in a thread of the writer's) learns in one sentence each what could not be."""
        by_lane: dict[Lane, list[str]] = {}
        for path in dict.fromkeys(paths):
            by_lane.setdefault(self._lane(_place(path)), []).append(path)
        if not by_lane:
            self._main.call(done, [])
            return
        self._gather(
            lambda lane, answer: lane.call(lane.outlets.flush, by_lane[lane], answer),
            list(by_lane),
            lambda answers: done([each for answer in answers for each in answer]),
        )

    def dropped(self, path: str) -> tuple[int, int]:
        """Bytes and lines of the file `path` that could not be written, since the daemon began."""
        return self.losses.dropped(path)

    def close(self) -> None:
        """Write everything that has been printed, then end. Blocks until that is done, 5 seconds at most."""
        for lane in self._threads:
            lane.call(lane.close)
            lane.thread.rouse()  # a waiter for the thread cannot act soon
        end = time.monotonic() + 5.0
        for lane in self._threads:
            lane.thread.join(max(0.0, end - time.monotonic()))

    def release(self) -> None:
        """Let go of all descriptors, after `close`; what a thread that hangs may still use stays open."""
        ended = [lane.release() for lane in self._threads]
        if all(ended):
            self.shared.chunks.close()
            self.losses.close()
            self.shared.unfinished.close()
        self._threads.clear()

    # Between the threads.

    def _ask(self, pipe: Pipe, method: Callable[..., None], *arguments: Any) -> None:
        """Have a pipe's lane do that for it, once it has the pipe."""
        lane = self._lane(pipe.place)
        lane.call(lane.when_here, pipe, method, (lane, pipe, *arguments))

    def _lane(self, place: str) -> Lane:
        """The lane for files that are there."""
        with self._making:
            lane = self._lanes.get(place)
            if lane is None:
                number = len(self._lanes)
                if number < LANES:
                    lane = Lane(self.shared, self._path)
                    self._threads.append(lane)
                else:  # the first is for the daemon's own log
                    lane = self._threads[1 + number % (LANES - 1)]
                self._lanes[place] = lane
        return lane

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


def _place(path: str) -> str:
    """The directory that `path` is in, or the stream that it is: one string for all pipes that go there."""
    return sys.intern(path if path in STREAMS else os.path.dirname(path))
