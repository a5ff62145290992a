"""The shim's event loop: callbacks for readable descriptors, with exceptions contained.

A few descriptors are held in reserve, for what must work even when no other is left.
"""

from __future__ import annotations

import errno
import os
import select
import time

from impetusd.linux.errors import suppress
from impetusd.shim.log import log

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, TypeVar

    T = TypeVar("T")

TRIES = 3  # times in a row that a source may raise before it is set aside
ASIDE = 5.0  # seconds
APART = 0.01  # seconds between two tries
SPARE = 8  # descriptors in reserve: to look who is there, and to start again what was there, a supervisor above all


class Loop:
    """The watched descriptors. An exception in one callback stops neither the shim nor the other callbacks."""

    def __init__(self) -> None:
        self.epoll = select.epoll()
        self.watched: dict[int, tuple[Callable[..., None], Any]] = {}  # what to call, and with what
        self.faults: dict[object, int] = {}  # how often in a row a source has raised
        self.aside: dict[object, float] = {}  # when (monotonic) one that is set aside is tried again
        self.null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
        self._spares: list[int] = []
        self.reserve()

    def watch(self, fd: int, act: Callable[..., None], about: object = None) -> None:
        """Call `act` whenever `fd` is readable, with what that is `about`, if given: a closure each of 500 would be 0.1 MB."""
        self.epoll.register(fd, select.EPOLLIN)
        self.watched[fd] = act, about

    def serve(self, fd: int) -> None:
        """`fd` is readable; an earlier one of the same round may have closed it."""
        if fd in self.watched:
            act, about = self.watched[fd]
            self.attempt(act, fd, about)

    def unwatch(self, fd: int) -> None:
        """Stop that, if `fd` is watched."""
        if self.watched.pop(fd, None) is not None:
            self.faults.pop(fd, None)
            if self.aside.pop(fd, None) is None:
                self.epoll.unregister(fd)

    def attempt(self, act: Callable[..., None], source: object = None, about: object = None) -> None:
        """Call `act`, with what it is `about`, if given, on behalf of `source` (a descriptor; by default `act` itself).

        What raises is logged once, and contained. The caller calls again: the kernel may lack something for a moment.
        A source that raises TRIES times in a row is set aside for ASIDE seconds, so that the others have their turn.
        """
        source = act if source is None else source
        if source in self.aside:
            return
        try:
            act() if about is None else act(about)
        except Exception as error:
            count = self.faults[source] = self.faults.get(source, 0) + 1
            if count == 1:
                log(f"{getattr(act, '__name__', act)} failed, going on: {error!r}")
            if count >= TRIES:
                self.aside[source] = time.monotonic() + ASIDE
                self._listen(source, on=False)
                if count == TRIES:
                    log(f"keeps failing; retrying every {ASIDE:g} s")
            else:
                time.sleep(APART)
        else:
            if self.faults.pop(source, 0) >= TRIES:
                log(f"{getattr(act, '__name__', act)} works again")

    def _listen(self, source: object, *, on: bool) -> None:
        if isinstance(source, int) and source in self.watched:
            with suppress(OSError):
                if on:
                    self.epoll.register(source, select.EPOLLIN)
                else:
                    self.epoll.unregister(source)

    def resume(self, now: float) -> None:
        """Listen again to each source that was set aside long enough ago."""
        for source in [source for source, until in self.aside.items() if now >= until]:
            del self.aside[source]
            self._listen(source, on=True)

    # Descriptors in reserve.

    def with_spares(self, look: Callable[[], T]) -> T:
        """`look()`; when no descriptor is left for it, once more with those in reserve."""
        try:
            return look()
        except OSError as error:
            if error.errno not in {errno.EMFILE, errno.ENFILE}:
                raise
        self.release()
        try:
            return look()
        finally:
            self.reserve()

    def release(self) -> None:
        """Close the descriptors in reserve."""
        while self._spares:
            os.close(self._spares.pop())

    def reserve(self) -> bool:
        """Take as many as are missing; whether all are there."""
        with suppress(OSError):
            while len(self._spares) < SPARE:
                self._spares.append(os.dup(self.null))
        return len(self._spares) == SPARE

    def has_room(self, count: int) -> bool:
        """Whether `count` descriptors can be opened besides those in reserve."""
        taken: list[int] = []
        try:
            if not self.reserve():
                return False
            while len(taken) < count:
                taken.append(os.dup(self.null))
        except OSError:
            return False
        finally:
            for fd in taken:
                os.close(fd)
        return True
