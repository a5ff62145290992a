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

SPARE = 3  # descriptors held back, so that it can always look who is there


class Loop:
    """What is watched. Nothing that goes wrong with one child may end it."""

    log = staticmethod(log)

    def __init__(self) -> None:
        self.epoll = select.epoll()
        self.on: dict[int, Callable[[], None]] = {}
        self.null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
        self.spare: list[int] = []
        self._hold_back()

    def _survive(self, act: Callable[[], None]) -> None:
        """Nothing that goes wrong with one child may end what holds all of them."""
        try:
            act()
        except Exception as error:
            log(f"{getattr(act, '__name__', act)} failed, going on: {error!r}")
            time.sleep(0.01)  # it may fail again at once, as long as the kernel lacks something

    def _watch(self, fd: int, act: Callable[[], None]) -> None:
        self.on[fd] = act
        self.epoll.register(fd, select.EPOLLIN)

    def _unwatch(self, fd: int) -> None:
        if self.on.pop(fd, None) is not None:
            self.epoll.unregister(fd)

    def _seeing(self, look: Callable[[], T]) -> T:
        """`look()`; when no descriptor is left to look with, once more with those that are held back for this."""
        try:
            return look()
        except OSError as error:
            if error.errno not in {errno.EMFILE, errno.ENFILE}:
                raise
        for fd in self.spare:
            os.close(fd)
        self.spare.clear()
        try:
            return look()
        finally:
            self._hold_back()

    def _hold_back(self) -> bool:
        """False when there are not enough descriptors left for that."""
        with contextlib.suppress(OSError):
            while len(self.spare) < SPARE:
                self.spare.append(os.dup(self.null))
        return len(self.spare) == SPARE
