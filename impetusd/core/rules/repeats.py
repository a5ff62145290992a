"""One cause, many failed starts: the first is logged, the others are counted, so that the log gets a line a second.

Pure: `supervisor.daemon` keeps the time and writes the lines. The ledger has each failed start all the same.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from impetusd.core.reasons import Reason
from impetusd.core.rules.lifecycle import Slot, State

if TYPE_CHECKING:
    from impetusd.core.rules.policy import Exit

WINDOW = 1.0  # seconds between two lines on one cause
NAMED = 8  # slots at most in one line

Cause = Reason


def cause_of(end: Exit | None) -> Cause | None:
    """Why a start failed, the same for all slots that it happens to; None when the process had been started."""
    return end.failed if end is not None and end.failed else None


def is_next_try(before: Slot, after: Slot) -> bool:
    """Whether a failed start is retried and its outcome logged."""
    return before.state is State.BACKOFF and after.state is State.STARTING and cause_of(before.last_exit) is not None


class Repeats:
    """The causes that were logged within the last WINDOW, and the failed starts since."""

    def __init__(self) -> None:
        self._since: dict[Cause, Counter[str]] = {}

    def is_new(self, cause: Cause, name: str) -> bool:
        """Whether to log this one of slot `name`, and to ask for `summary` after a WINDOW. Otherwise it is counted."""
        if cause in self._since:
            self._since[cause][name] += 1
            return False
        self._since[cause] = Counter()
        return True

    def summary(self, cause: Cause) -> str:
        """A log line about the counted failures; call again after a WINDOW. "" if there were none."""
        counted = self._since.pop(cause)
        if not counted:
            return ""
        self._since[cause] = Counter()
        names = ", ".join(list(counted)[:NAMED]) + (
            f" and {len(counted) - NAMED} others" if len(counted) > NAMED else ""
        )
        times = counted.total()
        return f"{cause} ({times} more time{'s' if times > 1 else ''}: {names})"
