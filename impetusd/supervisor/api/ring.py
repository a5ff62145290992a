"""The last lines of a numbered stream, bounded in bytes, shared by all who read it. Pure."""

from __future__ import annotations

from collections import deque


class Ring:
    """Lines with consecutive numbers; `last` is the newest line's number, `first` the number before the oldest one
    kept."""

    def __init__(self, most: int) -> None:
        """`most` bytes are kept, and the newest line whatever its size."""
        self._most = most
        self._lines: deque[bytes] = deque()
        self._size = 0
        self.last = 0
        self._joined: tuple[int, int, int, bytes] = (-1, -1, 0, b"")  # of `after`: what was asked, and the answer

    @property
    def first(self) -> int:
        """Readers at this number or beyond can continue."""
        return self.last - len(self._lines)

    def add(self, line: bytes) -> None:
        """The line with number `last` + 1."""
        self._lines.append(line)
        self._size += len(line)
        self.last += 1
        while self._size > self._most and len(self._lines) > 1:
            self._size -= len(self._lines.popleft())

    def clear(self) -> None:
        """Forget all lines, as if one more had come that nobody can be given."""
        self._lines.clear()
        self._size = 0
        self.last += 1

    def after(self, number: int, most: int) -> tuple[bytes, int] | None:
        """The lines that follow `number`, up to `most` bytes but at least one line, and the last one's number; None:
        too late.

        Readers at the same position get the same bytes.
        """
        if not self.first <= number <= self.last:
            return None
        asked, newest, end, data = self._joined
        if (asked, newest) != (number, self.last):
            lines: list[bytes] = []
            size, end = 0, number
            while end < self.last and (not lines or size < most):
                line = self._lines[end - self.last]
                lines.append(line)
                size += len(line)
                end += 1
            data = b"".join(lines)
            self._joined = (number, self.last, end, data)
        return data, end
