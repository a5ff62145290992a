"""The shim's loop: who is called for which descriptor, and what is held back for when there is no descriptor left."""

from __future__ import annotations

import contextlib
import errno
import os
import select
import time

from impetusd.shim.log import log

TYPE_CHECKING = False  # `typing` and `dataclasses` would be 2 MB for as long as we live
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeVar

    T = TypeVar("T")

TRIES = 3  # of a source in a row that may raise; then it is set aside
ASIDE = 5.0  # seconds
APART = 0.01  # seconds between two tries
SPARE = 8  # descriptors held back: to look who is there, and to start what was there before, a supervisor above all


class Loop:
    """What is watched. Nothing that goes wrong with one child may end it."""

    log = staticmethod(log)

    def __init__(self) -> None:
        self.epoll = select.epoll()
        self.on: dict[int, Callable[[], None]] = {}
        self.faults: dict[object, int] = {}  # how often in a row a source has raised
        self.aside: dict[object, float] = {}  # when (monotonic) one that is set aside is tried again
        self.null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
        self.spare: list[int] = []
        self._hold_back()

    def _survive(self, act: Callable[[], None], source: object = None) -> None:
        """Call `act`; an exception of one source (a descriptor, or the act itself) must not end the shim.

        It is called again, for the kernel may lack something for a moment, and logged once. A source that raises TRIES
        times in a row is set aside for ASIDE seconds, so that the others have their turn.
        """
        source = act if source is None else source
        if source in self.aside:
            return
        try:
            act()
        except Exception as error:
            count = self.faults[source] = self.faults.get(source, 0) + 1
            if count == 1:
                log(f"{getattr(act, '__name__', act)} failed, going on: {error!r}")
            if count >= TRIES:
                self.aside[source] = time.monotonic() + ASIDE
                self._listen(source, on=False)
                if count == TRIES:
                    log(f"it keeps failing: trying every {ASIDE:g} s")
            else:
                time.sleep(APART)
        else:
            if self.faults.pop(source, 0) >= TRIES:
                log(f"{getattr(act, '__name__', act)} works again")

    def _listen(self, source: object, *, on: bool) -> None:
        if isinstance(source, int) and source in self.on:
            with contextlib.suppress(OSError):
                if on:
                    self.epoll.register(source, select.EPOLLIN)
                else:
                    self.epoll.unregister(source)

    def _take_up_again(self, now: float) -> None:
        """What was set aside, when it has been for long enough."""
        for source in [source for source, until in self.aside.items() if now >= until]:
            del self.aside[source]
            self._listen(source, on=True)

    def _watch(self, fd: int, act: Callable[[], None]) -> None:
        self.epoll.register(fd, select.EPOLLIN)
        self.on[fd] = act

    def _unwatch(self, fd: int) -> None:
        if self.on.pop(fd, None) is not None:
            self.faults.pop(fd, None)
            if self.aside.pop(fd, None) is None:
                self.epoll.unregister(fd)

    def _seeing(self, look: Callable[[], T]) -> T:
        """`look()`; when no descriptor is left to look with, once more with those that are held back for this."""
        try:
            return look()
        except OSError as error:
            if error.errno not in {errno.EMFILE, errno.ENFILE}:
                raise
        self._let_loose()
        try:
            return look()
        finally:
            self._hold_back()

    def _let_loose(self) -> None:
        while self.spare:
            os.close(self.spare.pop())

    def _hold_back(self) -> bool:
        """False when there are not enough descriptors left for that."""
        with contextlib.suppress(OSError):
            while len(self.spare) < SPARE:
                self.spare.append(os.dup(self.null))
        return len(self.spare) == SPARE

    def _has_room(self, count: int) -> bool:
        """Whether so many descriptors can be opened besides those that are held back."""
        taken: list[int] = []
        try:
            if not self._hold_back():
                return False
            while len(taken) < count:
                taken.append(os.dup(self.null))
        except OSError:
            return False
        finally:
            for fd in taken:
                os.close(fd)
        return True
