"""One thread of the log writer, whatever it does there: it is called, waits for descriptors, and outlives any mistake."""

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
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

from impetusd.supervisor.faults import AGAIN, FORGIVEN
from impetusd.supervisor.faults import PATIENCE as FAULTS

if TYPE_CHECKING:
    from impetusd.supervisor.logs.chunks import Chunks
    from impetusd.supervisor.logs.logaccess import Rights
    from impetusd.supervisor.logs.lost import Losses
    from impetusd.supervisor.logs.unfinished import Unfinished

BETWEEN = 0.1  # seconds from one fault of the thread to the next round
BEGIN_AGAIN = 1.0  # seconds between two tries to start a thread
ROUSED = 1.0  # seconds after which the thread is woken again, though it should have been: that was lost


class Shared:
    """What the threads of one writer have in common."""

    __slots__ = ("chunks", "line", "losses", "note", "rights", "soon", "unbegun", "unfinished")

    def __init__(
        self,
        line: Callable[[str], None],
        soon: Callable[[Callable[[], object]], object],
        losses: Losses,
        unfinished: Unfinished,
        chunks: Chunks,
    ) -> None:
        """`line` writes into the daemon's own log; `soon`: see `Writer`."""
        self.line = line
        self.soon = soon
        self.losses = losses
        self.unfinished = unfinished
        self.chunks = chunks
        self.note: Callable[[str, str, Exception], object] | None = None  # as `Faults.note`, called by way of `soon`
        self.rights: Rights | None = None  # of the files; None: as they come
        self.unbegun: set[LogThread] = set()  # those that could not be started yet

    def raised(self, source: str, stage: str, error: Exception) -> None:
        """Show it in `status`, and log it once."""
        if self.note is not None:
            self.soon(functools.partial(self.note, source, stage, error))
        else:
            self.line(f"{source}: {stage} failed: internal error: {error!r}")


class Work(Protocol):
    """What the thread is for. Called in it."""

    def started(self) -> None:
        """Before anything else, until it succeeds."""

    def readable(self, fd: int) -> None:
        """A descriptor that is watched is."""

    def go_round(self, now: float) -> None:
        """Once a round, after what was asked of the thread. `now`: monotonic."""

    def due(self) -> list[float]:
        """When `go_round` has something to do even if nothing happens (monotonic)."""


class LogThread:
    """Begun by the first `call`. Other methods than `begin`, `call`, `rouse`, `join` and `release` are called in it."""

    def __init__(self, shared: Shared, work: Work) -> None:
        self._shared = shared
        self._work = work
        self._rousing = -math.inf  # when (monotonic) it was asked that the thread be woken, until it is
        self._calls: queue.SimpleQueue[tuple[Callable[..., None], tuple[Any, ...]]] = queue.SimpleQueue()
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._epoll = select.epoll()
        self._epoll.register(self._wake, select.EPOLLIN)
        self._later: list[tuple[float, int, Callable[[], None]]] = []  # a heap: what to do when
        self._laters = itertools.count()
        self._running = True
        self._faults, self._fault_at = 0, 0.0  # in a row, and when the last was (monotonic)
        self._begin_at = 0.0  # when to try to start the thread again (monotonic)
        self._thread = threading.Thread(target=self._run, name="log writer", daemon=True)

    def begin(self) -> None:
        """Start the thread. Where there can be none now (pids.max), it is tried again by `call` and by the other threads."""
        now = time.monotonic()
        if self._thread.ident is not None or now < self._begin_at:
            return
        first, self._begin_at = not self._begin_at, now + BEGIN_AGAIN
        try:
            self._thread.start()
        except Exception as error:  # RuntimeError for pids.max, MemoryError
            self._shared.unbegun.add(self)
            if first:
                self._shared.line(
                    f"log writer: cannot start a thread: {str(error) or type(error).__name__}; retrying every"
                    f" {BEGIN_AGAIN:g} s; some logs are delayed until then"
                )
        else:
            self._shared.unbegun.discard(self)

    def call(self, function: Callable[..., object], *arguments: Any) -> None:
        """Call `function` in the thread."""
        self._calls.put((function, arguments))  # type: ignore[arg-type]  # what it returns is dropped
        self.begin()
        now = time.monotonic()
        if now - self._rousing > ROUSED:
            self._rousing = now
            try:
                # Of many calls in one turn of the loop the first wakes it, once all are there.
                self._shared.soon(self.rouse)
            except Exception as error:
                self.rouse()
                if self._shared.note is not None:
                    with contextlib.suppress(Exception):  # the loop is closed: nobody asks any more
                        self._shared.raised("log writer", "waking its thread", error)

    def rouse(self) -> None:
        """Wake the thread."""
        self._rousing = -math.inf
        if self._wake >= 0:
            os.eventfd_write(self._wake, 1)

    def watch(self, fd: int) -> None:
        """Call `readable` while there is something in it. Raises OSError."""
        self._epoll.register(fd, select.EPOLLIN)

    def unwatch(self, fd: int) -> None:
        """Do not, or no longer."""
        with contextlib.suppress(OSError):
            self._epoll.unregister(fd)

    def do_later(self, when: float, what: Callable[[], None]) -> None:
        """Call `what` at that time (monotonic)."""
        heapq.heappush(self._later, (when, next(self._laters), what))

    def attempt(self, function: Callable[..., None], *arguments: Any) -> None:
        """Do what was asked; what it raises is reported."""
        try:
            function(*arguments)
        except Exception as error:
            self._shared.raised("log writer", "handling a request", error)

    def end(self) -> None:
        """This is its last round."""
        self._running = False

    def join(self, seconds: float) -> None:
        """Wait for its end, so long."""
        if self._thread.ident is not None:
            self._thread.join(seconds)

    def release(self) -> bool:
        """Let go of its descriptors; False while it runs."""
        if self._thread.is_alive():
            return False
        self._epoll.close()
        os.close(self._wake)
        self._wake = -1
        return True

    def _run(self) -> None:
        started = False
        while self._running:
            try:
                if not started:
                    self._work.started()
                    started = True
                self._turn()
            except Exception as error:  # the thread must outlive any one mistake, and not fill a core with it
                now = time.monotonic()
                self._faults = self._faults + 1 if now - self._fault_at < FORGIVEN else 1
                self._fault_at = now
                self._shared.raised("log writer", "processing log pipes", error)
                time.sleep(AGAIN if self._faults >= FAULTS else BETWEEN)

    def _turn(self) -> None:
        for fd, _ in self._epoll.poll(self._patience()):
            if fd == self._wake:
                with contextlib.suppress(BlockingIOError):
                    os.eventfd_read(self._wake)
            else:
                self._work.readable(fd)
        while not self._calls.empty():
            function, arguments = self._calls.get()
            self.attempt(function, *arguments)
        now = time.monotonic()
        while self._later and self._later[0][0] <= now:
            self.attempt(heapq.heappop(self._later)[2])
        self._work.go_round(now)
        if self._shared.unbegun:
            for thread in tuple(self._shared.unbegun):
                thread.begin()

    def _patience(self) -> float | None:
        """Seconds until there is something to be done even if nothing happens; None: never."""
        due = self._work.due()
        if self._later:
            due.append(self._later[0][0])
        if self._shared.unbegun:
            due.append(time.monotonic() + BEGIN_AGAIN)
        return max(0.0, min(due) - time.monotonic()) if due else None
