"""SIGABRT, from the supervisor to a stuck worker, or from an operator: dump all stacks and die.

Two layers. faulthandler's handler is C code that needs no interpreter lock: it writes the stacks of all threads at
once, whatever blocks the process. Then it passes the signal to Python's handler, which adds what only the interpreter
knows and ends the process by SIGABRT. If the main thread is in C code that never checks for signals, as
`sum(range(10**12))` or a name lookup, that second layer does not run before it has returned: SIGKILL ends the process.
"""

from __future__ import annotations

import faulthandler
import os
import signal
from collections.abc import Callable
from types import FrameType

_STDERR = 2  # not sys.stderr: the application may have replaced it, or be within a write to it


def on_sigabrt(report: Callable[[], list[str]]) -> None:
    """From here on SIGABRT writes the stacks and the lines of `report`, and ends the process."""

    def die(_number: int, _frame: FrameType | None) -> None:
        try:
            os.write(_STDERR, "\n".join([*report(), ""]).encode(errors="backslashreplace"))
        finally:
            os.abort()

    faulthandler.disable()  # enabled already (PYTHONFAULTHANDLER), enable() would not come before `die` again
    signal.signal(signal.SIGABRT, die)
    faulthandler.enable(_STDERR)
