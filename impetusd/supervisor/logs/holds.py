"""Long lines, whose parts are to be together in a file that several pipes go to: while one goes on, the others wait.

They wait a second at most, and a pipe that makes others wait for long loses that right for a while: then its line ends at
the cut.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from impetusd.supervisor.logs.logpipe import Pipe

HOLD = 1.0  # seconds that pipes wait for the end of another's line, in HOLD_AGAIN times as many
HOLD_AGAIN = 30


class Hold:
    """A line of which parts are in the file: other pipes' lines are not to come between them."""

    __slots__ = ("pipe", "since", "until", "waiting")

    def __init__(self, pipe: Pipe, now: float, until: float) -> None:
        self.pipe = pipe
        self.since = now
        self.until = until
        self.waiting: list[Pipe] = []


class Holds:
    """The lines that go on, `by_path` of their files: nearly always none. All times are monotonic."""

    __slots__ = ("_resume", "by_path")

    def __init__(self, resume: Callable[[Pipe], None]) -> None:
        """`resume` has a pipe read again that has waited."""
        self.by_path: dict[str, Hold] = {}
        self._resume = resume

    def before(self, pipe: Pipe) -> Hold | None:
        """The line of another pipe that this one must wait for."""
        hold = self.by_path.get(pipe.path)
        return None if hold is None or hold.pipe is pipe else hold

    def may_begin(self, pipe: Pipe, *, alone: bool) -> bool:
        """Whether the parts of its line will be together in the file. `alone`: no other pipe goes there."""
        return pipe.path in self.by_path or alone or pipe.hold < time.monotonic() + HOLD * HOLD_AGAIN

    def begin(self, pipe: Pipe, *, alone: bool) -> None:
        """Part of a line is in the file: nobody else's is to follow before its end."""
        now = time.monotonic()
        left = HOLD - max(0.0, pipe.hold - now) / HOLD_AGAIN
        if pipe.path not in self.by_path and not alone and left > 0:
            self.by_path[pipe.path] = Hold(pipe, now, now + left)

    def end(self, pipe: Pipe) -> None:
        """The pipe's line has ended, if it was one of these."""
        hold = self.by_path.get(pipe.path)
        if hold is not None and hold.pipe is pipe:
            self.release(pipe.path)

    def release(self, path: str) -> None:
        """No line goes on in the file any more."""
        hold = self.by_path.pop(path, None)
        if hold is None:
            return
        now = time.monotonic()
        hold.pipe.hold = max(now, hold.pipe.hold) + (now - hold.since) * HOLD_AGAIN
        for pipe in hold.waiting:
            self._resume(pipe)

    def over(self, now: float) -> list[Pipe]:
        """The pipes whose lines have had their time."""
        return [hold.pipe for hold in self.by_path.values() if hold.until <= now]

    def due(self) -> list[float]:
        """When lines will have had their time."""
        return [hold.until for hold in self.by_path.values()]
