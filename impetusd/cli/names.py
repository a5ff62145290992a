"""NAME as the operator types it, held against what is configured, where no daemon can be asked."""

from __future__ import annotations

import fnmatch

from impetusd.cli.failure import Failure
from impetusd.core.protocol import EXIT_UNKNOWN_NAME, EXIT_USAGE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Sequence


def matches(pattern: str, unit: str, slot: str) -> bool:
    """Whether `pattern` means this slot: its unit, the slot itself, or a glob over either."""
    return fnmatch.fnmatchcase(unit, pattern) or fnmatch.fnmatchcase(slot, pattern)


def require_known(names: Sequence[str], units: Collection[str], timers: Collection[str] = ()) -> None:
    """Failure for the first name that is none of `units` (exit 4, of `timers` 2), so that a slip starts no daemon.

    A slot's number is not looked at: the daemon knows how many there are.
    """
    for name in names:
        if name in timers:
            raise Failure(f"{name} is a timer; to run it now: impetusd trigger {name}", EXIT_USAGE)
        unit = name.partition(":")[0]
        if not any(fnmatch.fnmatchcase(each, pattern) for each in units for pattern in (name, unit)):
            import difflib

            near = difflib.get_close_matches(unit, units, n=1)
            hint = f"did you mean {near[0]}?" if near else f"configured are: {', '.join(units) or 'none'}"
            raise Failure(f"there is no unit or slot {name}; {hint}", EXIT_UNKNOWN_NAME)
