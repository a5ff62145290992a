"""The page of memory in which this process notes what it is at: if it ends over that, the shim still has it."""

from __future__ import annotations

import contextlib
import mmap
from typing import TYPE_CHECKING

from impetusd.shim import wire

if TYPE_CHECKING:
    from collections.abc import Mapping


class Page:
    """A note is a write into memory: 0.6 µs, and no system call."""

    def __init__(self, fds: Mapping[str, int]) -> None:
        """`fds`: what the shim holds, by name. A shim of an older version has no page, and then nothing is noted."""
        self._memory: mmap.mmap | bytearray = bytearray(wire.PAGE_SIZE)
        with contextlib.suppress(KeyError, OSError, ValueError):
            self._memory = mmap.mmap(fds[wire.PAGE], wire.PAGE_SIZE)

    def at(self, slot: str, stage: str) -> None:
        """From here on `slot`, or all those of a unit, is handled."""
        self._memory[:] = wire.note(slot, stage)

    def blank(self) -> None:
        """No slot is handled any more."""
        self._memory[0] = 0
