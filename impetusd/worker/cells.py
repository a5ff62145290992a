"""The page of memory in which the workers of a pool show each other how many connections they have, and who passes a turn.

    header   how many cells to look at, and three numbers that are not used
    cell     pid, phase, count of connections, accept turns; each 32 bits, in the host's byte order

A worker owns the cell of its slot once it serves, and writes into that one alone, for as long as its own pid is there.
The supervisor keeps the page and blanks the cell of a worker that has ended. Nothing that stands here is trusted: a cell that
lies can make others wait for PASS, once for each connection that they accept.

For the same reason nobody waits longer than PASS for a worker that has no CPU. Where the workers get one at once, 2, 16 and 64
connections a worker are even in each of 300, 60 and 30 rounds; on two CPUs that 20 others want as well, those of 2 are not in
23 of 300, and in these the worker with the least had waited 3 to 57 ms for its turn. A PASS of 3 ms leaves 12 of 280 uneven and
one of 10 ms none of 100, but then the last of 8 connections is answered after 13 ms instead of 4, whoever is not there to take it.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import struct
from collections.abc import Iterable

from impetusd.worker import sealed

FREE, SERVING, DRAINING = range(3)
CELLS = 512
SIZE = 16 * (1 + CELLS)
PASS = 0.001  # seconds
LEAD = 4  # so many connections more than another worker has are always too many, and from one to that of few
CREDIT = 16  # so many connections that have left within
CREDIT_LASTS = 0.02  # seconds may be replaced with others less exactly shared out
# Passes in vain after which a worker that gives no sign of life is waited for every 2nd time; then every 3rd, and so on.
PATIENCE = 4
_CELL = struct.Struct("=4i")

Cell = tuple[int, int, int, int]  # pid, phase, count, turns


def make() -> int:
    """A new page, as a descriptor. Raises OSError."""
    return sealed.page("impetusd-cells", SIZE)


def blank(fd: int, pid: int) -> None:
    """The worker `pid` has ended. Raises OSError."""
    page = os.pread(fd, SIZE, 0)
    for at in range(_CELL.size, len(page) - _CELL.size + 1, _CELL.size):
        if _CELL.unpack_from(page, at)[0] == pid:
            os.pwrite(fd, bytes(_CELL.size), at)


def place(slot: str) -> int | None:
    """The cell of the slot "web:3" or "web:3:next"; None of one that has none."""
    _, _, rest = slot.partition(":")
    number, _, word = rest.partition(":")
    if not (number.isascii() and number.isdecimal()) or word not in {"", "next"}:
        return None
    cell = 2 * int(number) + (word == "next")
    return cell if cell < CELLS else None


def lighter(own: int, cells: Iterable[Cell], *, replaces: bool) -> list[int]:
    """Indices in `cells` of the workers that should accept the next connection rather than one that has `own`.

    `replaces`: it takes the place of one that has just left.
    """
    lead = 2 + own // 2 if replaces else min(1 + own // 8, LEAD)
    return [
        at
        for at, (pid, phase, count, _) in enumerate(cells)
        if phase == SERVING and pid > 0 and 0 <= count <= own - lead
    ]


class Page:
    """One worker's view of it. Without a page it knows of nobody else, and never passes."""

    def __init__(self, fd: int | None, pid: int) -> None:
        """`fd` stays the caller's."""
        self._pid = pid
        self._at = 0  # where the cell begins in `_numbers`; 0: it has none
        self._turns = 0
        self._looks = 0
        self._credit = 0
        self._credit_until = 0.0
        self._waited_for: list[tuple[int, int, int]] = []  # place, pid and turns of those that a turn was passed for
        self._silent: dict[int, tuple[int, int, int]] = {}  # by place: pid, turns, and passes in vain
        self._memory: mmap.mmap | None = None
        self._numbers = memoryview(bytearray(SIZE)).cast("i")
        if fd is not None:
            with contextlib.suppress(OSError, ValueError):
                self._memory = mmap.mmap(fd, SIZE)
                self._numbers = memoryview(self._memory).cast("i")

    def take(self, slot: str, count: int) -> None:
        """Serve as `slot` from now on, with so many connections."""
        if self._mine:
            self._numbers[self._at + 1] = FREE
            self._numbers[self._at] = 0
        at = place(slot)
        if self._memory is None or at is None:
            self._at = 0
            return
        self._at = 4 * (1 + at)
        self._numbers[0] = max(self._numbers[0], at + 1)
        self._numbers[self._at + 1] = FREE  # until all of it is there
        for number, value in ((0, self._pid), (2, count), (3, self._turns), (1, SERVING)):
            self._numbers[self._at + number] = value

    def leave(self) -> None:
        """Take no share from now on."""
        if self._mine:
            self._numbers[self._at + 1] = DRAINING

    def show(self, count: int) -> None:
        """There are so many connections now."""
        if self._mine:
            self._numbers[self._at + 2] = count

    def left(self, count: int, now: float) -> None:
        """One has left, and so many are there. `now` in seconds, as in `passes`.

        The next one may take its place: where each has but one request there is nothing to balance, and passing would cost.
        """
        self._credit = min(self._credit + 1, CREDIT) if now < self._credit_until else 1
        self._credit_until = now + CREDIT_LASTS
        self.show(count)

    def passes(self, count: int, now: float) -> bool:
        """A connection can be accepted, by a worker that has `count`: whether to leave it to others for PASS.

        Never twice running. A worker that was waited for, and has not had a turn meanwhile, is waited for the more seldom.
        """
        if not self._mine:
            return False
        numbers = self._numbers
        self._turns = (self._turns + 1) & 0x7FFFFFFF
        numbers[self._at + 3] = self._turns
        numbers[self._at + 2] = count
        if self._waited_for:
            self._look_back()
            return False
        if count == 0:
            return False
        replaces = self._credit > 0 and now < self._credit_until
        self._credit -= replaces
        assert self._memory is not None
        used = min(max(numbers[0], self._at // 4), CELLS)
        cells = list(_CELL.iter_unpack(self._memory[_CELL.size : _CELL.size * (1 + used)]))
        self._looks += 1
        for at in lighter(count, cells, replaces=replaces):
            pid, _, _, turns = cells[at]
            if self._looks % (1 + self._in_vain(at, pid, turns) // PATIENCE) == 0:
                self._waited_for.append((at, pid, turns))
        return bool(self._waited_for)

    @property
    def _mine(self) -> bool:
        return self._at > 0 and self._numbers[self._at] == self._pid

    def _in_vain(self, at: int, pid: int, turns: int) -> int:
        """How often this worker was waited for since it had a turn."""
        before = self._silent.get(at)
        return before[2] if before is not None and before[:2] == (pid, turns) else 0

    def _look_back(self) -> None:
        for at, pid, turns in self._waited_for:
            now = self._numbers[4 * (1 + at)], self._numbers[4 * (1 + at) + 3]
            if now == (pid, turns):
                self._silent[at] = pid, turns, self._in_vain(at, pid, turns) + 1
            else:
                self._silent.pop(at, None)
        self._waited_for.clear()
