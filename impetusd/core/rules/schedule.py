"""Decide when a timer's job runs, and what to do if it fails or is still running. Numbers in, decisions out.

A schedule is a cron expression in a time zone (`Cron`, on the wall clock) or a period (`Every`, on a clock that nobody
sets: seconds since boot, sleep included). Both answer one question, `following`, and remember nothing.

Cron expressions have 5 fields, or 6 with seconds first. Clock changes twice a year are treated as Debian's cron does:
  - A job at a fixed hour and minute runs once a day. In spring, when 02:30 does not exist, it runs as soon as the gap
    is over (03:00); in autumn, when it comes twice, it runs the first time.
  - A job whose minute or hour begins with `*` goes by real time: `*/15 * * * *` runs every 15 minutes in those nights,
  too.
The same applies when somebody sets the clock: see `Cron.resume`.
"""

from __future__ import annotations

import functools
import math
import zlib
from datetime import UTC, datetime, timedelta, tzinfo
from enum import Enum

from impetusd.core.config.model import Overlap
from impetusd.core.units import span
from impetusd.core.values import dataclass

ALIASES = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}
LATE = 60.0  # seconds after which a run that was due counts as missed
CORRECTED = (
    3 * 3600.0
)  # seconds; a clock set back by more has been corrected, and what it says now holds (Debian's cron)
STEPPED = 60.0  # seconds; the same for a job that goes by real time
RETRY_AT_MOST = 3600.0  # seconds to which the doubling of retry_delay leads


def check(expression: str) -> str:
    """The error in a cron expression, as a clause; "" if valid."""
    from cronsim import CronSimError

    fields = ALIASES.get(expression.strip().lower(), expression).split()
    if expression.strip().startswith("@") and len(fields) == 1:
        return f"{expression.strip()} is not one of {', '.join(ALIASES)}"
    if len(fields) not in {5, 6}:
        return f"a cron expression has 5 fields, or 6 with seconds first; this one has {len(fields)}"
    try:
        schedule = Cron(expression, UTC)
        never = schedule.following(0.0) is None
    except CronSimError as error:
        return f"its {str(error).removeprefix('Bad ')} field is invalid, or names a day that does not exist"
    return "it matches no day in the next 50 years" if never else ""


@dataclass(frozen=True, slots=True)
class Cron:
    """A cron expression (checked) in a time zone. Times are Unix seconds."""

    expression: str
    zone: tzinfo

    @property
    def fields(self) -> str:
        """The expression, an @alias put into fields."""
        return ALIASES.get(self.expression.strip().lower(), self.expression)

    @property
    def fixed(self) -> bool:
        """True if it sets fixed hours and minutes."""
        minute, hour = self.fields.split()[-5:-3]
        return not minute.startswith("*") and not hour.startswith("*")

    def following(self, after: float) -> float | None:
        """The first time after `after`; None if there is none within 50 years."""
        from cronsim import CronSim

        local = datetime.fromtimestamp(after, self.zone)
        # Given a local time without its zone, cronsim reckons as if there were no clock changes.
        for found in CronSim(self.fields, local.replace(tzinfo=None) if self.fixed else local):
            at = self._instant(found) if self.fixed else found.timestamp()
            if at > after:  # not so for the second pass through an hour that comes twice
                return at
        return None

    def _instant(self, local: datetime) -> float:
        """The first time at which the clocks show `local`, or, if they skip it, at which they go on."""
        while True:
            found = local.replace(tzinfo=self.zone, fold=0)
            if found.astimezone(UTC).astimezone(self.zone).replace(tzinfo=None) == local:
                return found.timestamp()
            local = local.replace(second=0) + timedelta(minutes=1)

    def resume(self, seen: float, now: float) -> float:
        """The instant to search from when all up to `seen` is done and the clock shows `now`.

        If `now` is before `seen`, the clock was set back. Jobs are not run again in the repeated time, unless the clock
        was set back so far that it must have been wrong; a job that goes by real time goes by the new time at once.
        """
        return now if seen - now > (CORRECTED if self.fixed else STEPPED) else seen


@dataclass(frozen=True, slots=True)
class Every:
    """A period in seconds (> 0), from `anchor` on: no run's length or lateness shifts the later ones."""

    period: float
    anchor: float

    def following(self, after: float) -> float:
        """The first time after `after`."""
        at = self.anchor + (math.floor((after - self.anchor) / self.period) + 1) * self.period
        return at if at > after else at + self.period

    @staticmethod
    def resume(seen: float, now: float) -> float:  # noqa: ARG004  # the same as Cron's
        """The instant to search from: this clock is never set back."""
        return seen


def due(schedule: Cron | Every, whose: str, jitter: float, after: float) -> float | None:
    """When a timer runs next after `after`: up to `jitter` seconds after the schedule's time, and before the one after.

    How much depends on `whose` it is and on that time alone, so a restarted supervisor computes the same.
    """
    at = schedule.following(after)
    if at is None or jitter <= 0:
        return at
    then = schedule.following(at)
    share = zlib.crc32(f"{whose}/{at:.3f}".encode()) / 2**32
    return at + math.floor(1000 * share * (jitter if then is None else min(jitter, then - at))) / 1000


class OverlapDecision(Enum):
    """What to do with a run that is due."""

    START = "start"
    SKIP = "skip"
    QUEUE = "queue"
    REPLACE = "replace"


def decide_overlap(overlap: Overlap, *, running: bool, queued: bool) -> OverlapDecision:
    """What to do with a run that is due while another may be `running` and a third may be `queued` behind it.

    The queue holds one. After a replacement was decided on, the one that waits for the old one's end is in it.
    """
    if not running:
        return OverlapDecision.START
    if overlap is Overlap.SKIP or queued:
        return OverlapDecision.SKIP
    return OverlapDecision.QUEUE if overlap is Overlap.QUEUE else OverlapDecision.REPLACE


def retry_in(retries: int, retry_delay: float, attempt: int) -> float | None:
    """Seconds until the next attempt after the `attempt`-th (the first is 1) has failed; None: that was the last.

    The wait doubles from `retry_delay`, up to an hour or `retry_delay` itself, whichever is longer.
    """
    if attempt > retries:
        return None
    return min(retry_delay * 2.0 ** min(attempt - 1, 64), max(retry_delay, RETRY_AT_MOST))


@functools.lru_cache(1024)
def words(cron: str, every: float, timezone: str) -> str:
    """The schedule as one says it: `at 03:00 every day, Europe/Lisbon`; `every 30 s`."""
    if not cron:
        return f"every {span(every)}"
    from cronsim import CronSim

    said = CronSim(Cron(cron, UTC).fields, datetime.fromtimestamp(0.0, UTC)).explain()
    return said[:1].lower() + said[1:] + (f", {timezone}" if timezone else "")
