"""Ends the process at kill_timeout whatever happens, and reports what was still under way.

Two layers. A timer of the event loop names the phase, the connections and where each task waits. It needs a running
loop; if that is blocked, faulthandler's watchdog, a C thread that needs no interpreter lock, writes the stack of every
thread a moment later and ends the process with the same status, 1. Both come a little before kill_timeout is over,
because that is when the supervisor sends SIGKILL, and a killed process explains nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import faulthandler
import gc
import os
import sys
import time
from collections import Counter
from collections.abc import Callable
from itertools import islice
from types import AsyncGeneratorType, CoroutineType, FrameType

_MARGIN = 0.02  # of kill_timeout: how much earlier than SIGKILL
_MARGIN_AT_MOST = 0.2  # seconds
_PLACES_NAMED = 8
_TASKS_LOOKED_AT = 10_000  # about 10 us each
_STDERR = 2  # not sys.stderr: what the application puts there may have no descriptor


class Ending:
    """The clock of one process's end. `kill_timeout` in seconds; `under_way` returns the slot and what is left."""

    def __init__(self, kill_timeout: float, under_way: Callable[[], tuple[str, str]]) -> None:
        self._under_way = under_way
        margin = min(kill_timeout * _MARGIN, _MARGIN_AT_MOST)
        self._until_watchdog = max(kill_timeout - margin, 0.01)
        self.patience = max(self._until_watchdog - margin, 0.01)
        self._began: float | None = None

    def begin(self) -> bool:
        """Start the watchdog; False if the end has begun before. May be called from a signal handler."""
        if self._began is not None:
            return False
        self._began = time.monotonic()
        faulthandler.dump_traceback_later(self._until_watchdog, exit=True, file=_STDERR)
        return True

    @property
    def remaining(self) -> float:
        """Seconds until the event loop's own forced exit."""
        began = time.monotonic() if self._began is None else self._began
        return max(began + self.patience - time.monotonic(), 0.0)

    def force_from(self, loop: asyncio.AbstractEventLoop) -> None:
        """Let `loop` end the process when the patience is over."""
        loop.call_later(self.remaining, self._force)

    def _force(self) -> None:
        name, left = self._under_way()
        lines = [f"{name}: forced exit {self.patience:.1f} s after it was asked to stop; {left}"]
        lines += places(asyncio.get_running_loop(), _PLACES_NAMED)
        print("\n".join(lines), file=sys.stderr)
        leave(1)


def places(loop: asyncio.AbstractEventLoop, at_most: int) -> list[str]:
    """Where the tasks of `loop` wait, a line for each place, those with the most tasks first.

    Without the task that is running, if any: it is in the thread's stack.
    """
    tasks = asyncio.all_tasks(loop) - {asyncio.current_task(loop)}
    found = Counter(where(task) for task in islice(tasks, _TASKS_LOOKED_AT))
    named = found.most_common(at_most)
    lines = [f"  still waiting: {place}" + (f" ({count} tasks)" if count > 1 else "") for place, count in named]
    rest = len(tasks) - sum(count for _, count in named)
    return [*lines, f"  and {rest} more tasks"] if rest else lines


def where(task: asyncio.Task[object]) -> str:
    """The innermost lines at which `task` is suspended, last first: Task.get_stack() knows only the outermost."""
    frames: list[FrameType] = []
    step: object = task.get_coro()
    while step is not None:
        if isinstance(step, CoroutineType):
            frame, step = step.cr_frame, step.cr_await
        elif isinstance(step, AsyncGeneratorType):
            frame, step = step.ag_frame, step.ag_await
        elif isinstance(step, asyncio.Future):
            break
        else:  # such as what anext() makes: it has no attribute that names its generator
            inner = [each for each in gc.get_referents(step) if isinstance(each, (CoroutineType, AsyncGeneratorType))]
            frame, step = None, inner[0] if inner else None
        if frame is not None:
            frames.append(frame)
    innermost = [f"{each.f_code.co_name} ({each.f_code.co_filename}:{each.f_lineno})" for each in frames[:-4:-1]]
    return " in ".join(innermost) or repr(task)


def leave(code: int) -> None:
    """End the process now: what was written is written, but no exit handler runs and no thread is waited for."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):  # reader gone, closed, not a file at all, or a signal came within a write
            stream.flush()
    os._exit(code)
