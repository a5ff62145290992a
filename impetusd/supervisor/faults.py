"""Bugs of our own: an exception costs only the smallest thing that the work was done for, and is reported.

A source is what something was done for: a slot, the reload of a unit, a part of the supervisor. Its traceback is in the
daemon's log, once; `status` shows it. Repeated work for a source is suspended once it has raised three times.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import time
import traceback
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, ParamSpec, Protocol

from impetusd import traces
from impetusd.core.reasons import NONE, Reason, because

if TYPE_CHECKING:
    import socket

P = ParamSpec("P")

SOON = 0.1  # seconds until what has raised is done again
PATIENCE = 3  # faults in a row after which a source rests
AGAIN = 5.0  # seconds that it rests
FORGIVEN = 60.0  # seconds without one after which it begins anew
SHOWN = 3600.0  # seconds that a fault is shown in `status`
MOST = 200  # sources and tracebacks that are remembered
LONGEST = 1000  # characters of an exception: a UnicodeDecodeError shows all that it could not decode


# What may be raised by work that does not wait. Nobody cancels that: it has looked at the result of what was cancelled.
CONTAINED = (Exception, SystemExit, asyncio.CancelledError)


class Handle(Protocol):
    """A handle that can be cancelled."""

    def cancel(self) -> None:
        """Do not do it."""


def _in_the_loop(seconds: float, act: Callable[..., object], *args: object) -> Handle:
    return asyncio.get_running_loop().call_later(seconds, act, *args)


class _Fault:
    """The faults of one source."""

    __slots__ = ("at", "cause", "count", "resting", "row", "stage")

    def __init__(self) -> None:
        self.count = self.row = 0
        self.at = float("-inf")  # monotonic, of the last
        self.resting = 0.0  # until when
        self.stage, self.cause = "", NONE


class Faults:
    """The exceptions raised, by source. Call it in the event loop's thread."""

    def __init__(
        self,
        log: Callable[[str], None],
        wake: Callable[[], object],
        now: Callable[[], float] = time.monotonic,
        later: Callable[..., Handle] = _in_the_loop,
    ) -> None:
        """`log` writes into the daemon's log; `wake` resumes suspended work; `later`: as `loop.call_later`."""
        self._log = log
        self._wake = wake
        self._now = now
        self._later = later
        self._of: dict[str, _Fault] = {}
        self._again: dict[tuple[str, str], Handle] = {}  # what `attempt` will retry, by source and stage
        self._logged: set[tuple[str, ...]] = set()
        self.die: Callable[[int], object] = os._exit
        self.strict = False  # nothing is contained, to find out whether anything raises

    def note(self, source: str, stage: str, error: BaseException) -> Reason:
        """`stage` has raised for `source`. Returns the reason for which `stage` has failed."""
        told = because("internal", error=_shown(error))
        try:
            self._note(source, stage, error, told)
        except Exception as another:  # reporting is not to fail where containing has not
            with contextlib.suppress(Exception):
                self._log(f"{source}: {stage}: {told}; reporting it failed as well: {_shown(another)}")
        return told

    def _note(self, source: str, stage: str, error: BaseException, told: Reason) -> None:
        now = self._now()
        if len(self._of) >= MOST and source not in self._of:
            del self._of[min(self._of, key=lambda each: self._of[each].at)]
        fault = self._of.setdefault(source, _Fault())
        fault.row = fault.row + 1 if now - fault.at < FORGIVEN else 1
        fault.count, fault.at, fault.stage, fault.cause = fault.count + 1, now, stage, told
        wait = AGAIN if fault.row >= PATIENCE else 0.0
        fault.resting = now + wait
        self._later(wait + 0.01, self._wake)
        frame = traceback.extract_tb(error.__traceback__)[-1:]
        key = (source, stage, type(error).__name__, *(f"{each.filename}:{each.lineno}" for each in frame))
        if key not in self._logged:
            if len(self._logged) >= MOST:
                self._logged.clear()
            self._logged.add(key)
            lines = "".join(traceback.format_exception(error)).rstrip()
            self._log(f"{source}: {stage} failed: {told}\n{lines}")

    def caught(self, source: str, stage: str, error: BaseException) -> None:
        """For an `except` clause that contains what `contain` would."""
        if self.strict:
            raise error
        self.note(source, stage, error)

    def fatal(self, stage: str, error: Exception) -> None:
        """Nothing smaller than the supervisor can fail: it ends, and the next one rebuilds from what the shim knows."""
        try:
            traces.show(error)
            self._log(f"supervisor: {stage} failed: internal error: {error!r}; restarting the supervisor")
        finally:
            self.die(os.EX_SOFTWARE)

    def contain(self, source: str, stage: str, act: Callable[P, object], *args: P.args, **kwargs: P.kwargs) -> bool:
        """Do it. False if it has raised."""
        try:
            act(*args, **kwargs)
        except CONTAINED as error:
            self.caught(source, stage, error)
            return False
        return True

    def attempt(self, source: str, stage: str, act: Callable[P, object], *args: P.args, **kwargs: P.kwargs) -> bool:
        """Do it until it succeeds: retry SOON, but not while the source is suspended. False if it is still to be done.

        If requested again meanwhile, it is done once, with the latest arguments.
        """
        before = self._again.pop((source, stage), None)
        if before is not None:
            before.cancel()
        if not self.rests(source) and self.contain(source, stage, act, *args, **kwargs):
            return True
        again = functools.partial(act, *args, **kwargs)
        self._again[source, stage] = self._later(self._pause(source), self.attempt, source, stage, again)
        return False

    async def attend(self, source: str, stage: str, work: Callable[[], Awaitable[object]]) -> None:
        """The same of something that waits: for a task of its own."""
        while True:
            try:
                await work()
            except CONTAINED as error:
                if self.strict or _is_cancelled(error):
                    raise
                self.note(source, stage, error)
            else:
                return
            over = asyncio.Event()
            self._later(self._pause(source), over.set)
            await over.wait()

    def hear(self, sock: socket.socket, source: str, stage: str, act: Callable[..., object], *args: object) -> None:
        """Call `act` whenever `sock` is readable; it is not read while the source is suspended."""
        asyncio.get_running_loop().add_reader(sock, self._heard, sock, source, stage, act, args)

    def _heard(
        self, sock: socket.socket, source: str, stage: str, act: Callable[..., object], args: tuple[object, ...]
    ) -> None:
        if self.contain(source, stage, act, *args) or not self.rests(source):
            return
        asyncio.get_running_loop().remove_reader(sock)
        self._later(self._pause(source), self._hear_again, sock, source, stage, act, args)

    def _hear_again(
        self, sock: socket.socket, source: str, stage: str, act: Callable[..., object], args: tuple[object, ...]
    ) -> None:
        if sock.fileno() >= 0:  # it has not been closed meanwhile
            self.hear(sock, source, stage, act, *args)

    def _pause(self, source: str) -> float:
        fault = self._of.get(source)
        return max(SOON, fault.resting - self._now()) if fault is not None else SOON

    def rests(self, source: str) -> bool:
        """Whether it has raised so often that it is suspended for now."""
        fault = self._of.get(source)
        return fault is not None and fault.resting > self._now()

    def attention(self) -> list[Reason]:
        """The text for `status` on each source that has raised within the last hour."""
        now = self._now()
        return [
            because(
                "mistake",
                source=source,
                stage=fault.stage,
                cause=fault.cause,
                count=fault.count,
                ago_s=round(now - fault.at, 3),
            )
            for source, fault in self._of.items()
            if now - fault.at < SHOWN
        ]


def _is_cancelled(error: BaseException) -> bool:
    """Whether it is this task that is cancelled, and not what it waited for."""
    task = asyncio.current_task()
    return isinstance(error, asyncio.CancelledError) and task is not None and task.cancelling() > 0


def _shown(error: BaseException) -> str:
    """It may be anybody's, and raise when it is shown."""
    try:
        return repr(error)[:LONGEST]
    except Exception:
        return type(error).__name__


BARE = Faults(lambda _: None, lambda: None)  # of a part that nobody has given another: what raises, raises
BARE.strict = True
