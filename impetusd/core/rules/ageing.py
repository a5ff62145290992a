"""When to replace a healthy process: after max_age, and at the times of cron_restart."""

from __future__ import annotations

import zlib
from typing import NamedTuple

from impetusd.core.rules.schedule import LATE, Cron

SPREAD = 0.1  # of max_age, either way: workers that were started together are not replaced together


def expires(name: str, started: float, max_age: float) -> float:
    """The instant, on the clock of `started`, at which the process of slot `name` is max_age old, spread by a tenth.

    The spread depends on these two alone, so a restarted supervisor computes the same.
    """
    share = zlib.crc32(f"{name}/{started:.3f}".encode()) / 2**32
    return started + max_age * (1.0 + SPREAD * (2.0 * share - 1.0))


class Turn(NamedTuple):
    """The result of a look at the clock."""

    fire: bool
    seen: float  # all times up to here are done with
    following: float | None  # when to look again


def turn(cron: Cron, seen: float, since: float, now: float) -> Turn:
    """True if a time of `cron` has passed since the process started at `since`. Unix seconds.

    A time more than LATE ago is skipped: the host slept, or the clock was set. So is one that recurs because the clock
    was set back.
    """
    seen = cron.resume(seen, now)
    at = cron.following(max(seen, since, now - LATE))
    if at is not None and at <= now:
        return Turn(True, now, cron.following(now))
    return Turn(False, max(seen, now), at)
