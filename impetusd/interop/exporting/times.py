"""A timer's times as a CronJob has them, where one can."""

from __future__ import annotations

import math
from datetime import UTC
from typing import TYPE_CHECKING

from impetusd.core.config.model import Overlap
from impetusd.core.rules import schedule as rules
from impetusd.interop.exporting import checks
from impetusd.interop.exporting.model import Schedule

if TYPE_CHECKING:
    from impetusd.core.config.model import Timer

LATEST = 86400  # seconds after which a run that is caught up here is given up there


def schedule(timer: Timer) -> Schedule | None:
    """None where a CronJob would run at other times."""
    cron = _of_cron(timer.cron) if timer.cron else _of_period(timer.every)
    if not cron or checks.cron_fault(cron):
        return None
    return Schedule(
        cron=cron,
        timezone=timer.timezone,
        replace=timer.overlap is Overlap.REPLACE,
        late=LATEST if timer.catch_up else math.ceil(rules.LATE),
        timeout=math.ceil(timer.timeout),
        retries=timer.retries,
    )


def _of_cron(expression: str) -> str:
    """In five fields; "" if it has other seconds than 0."""
    fields = rules.Cron(expression, UTC).fields.split()
    if len(fields) == 6:
        first, *fields = fields
        if first != "0":
            return ""
    return " ".join(fields)


def _of_period(seconds: float) -> str:
    """A period that divides an hour or a day; "" for others."""
    minutes, rest = divmod(seconds, 60)
    if rest or not minutes:
        return ""
    hours, rest = divmod(int(minutes), 60)
    if not hours and 60 % minutes == 0:
        return f"*/{int(minutes)} * * * *" if minutes > 1 else "* * * * *"
    if rest or not hours or 24 % hours:
        return ""
    return "0 0 * * *" if hours == 24 else f"0 */{hours} * * *" if hours > 1 else "0 * * * *"
