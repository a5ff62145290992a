"""The end that comes at kill_timeout whatever happens, and what it says was still under way.

Two layers. A timer of the event loop names the phase, the connections and where each task waits. It needs a loop that
runs; where that is blocked, faulthandler's watchdog, a C thread that needs no interpreter lock, writes the stack of
every thread a moment later and ends the process with the same status, 1. Both come a little before kill_timeout is
over, because that is when the supervisor sends SIGKILL, and a killed process explains nothing.
"""

from __future__ import annotations

import asyncio
import faulthandler
import gc
import os
import sys
import time
from collections.abc import Callable
from types import AsyncGeneratorType, CoroutineType, FrameType

_MARGIN = 0.02  # of kill_timeout: how much earlier than SIGKILL
_MARGIN_AT_MOST = 0.2  # seconds
_TASKS_NAMED = 8


class Ending:
    """The clock of one process's end. `kill_timeout` in seconds; `under_way` tells the slot and what is left."""

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
        faulthandler.dump_traceback_later(self._until_watchdog, exit=True)
        return True

    @property
    def remaining(self) -> float:
        """Seconds until the event loop's own forced exit."""
        began = time.monotonic() if self._began is None else self._began
        return max(began + self.patience - time.monotonic(), 0.0)

    def force_from(self, loop: asyncio.AbstractEventLoop) -> None:
        """Have `loop` end the process when the patience is over."""
        loop.call_later(self.remaining, self._force)

    def _force(self) -> None:
        name, left = self._under_way()
        lines = [f"{name}: forced exit {self.patience:.1f} s after it was told to stop; {left}"]
        waiting = [task for task in asyncio.all_tasks() if not task.done()]
        lines += [f"  still waiting: {where(task)}" for task in waiting[:_TASKS_NAMED]]
        if len(waiting) > _TASKS_NAMED:
            lines.append(f"  and {len(waiting) - _TASKS_NAMED} more tasks")
        print("\n".join(lines), file=sys.stderr)
        leave(1)


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
        try:
            stream.flush()
        except (OSError, ValueError):
            pass  # the reader has gone, or the application closed it
    os._exit(code)
