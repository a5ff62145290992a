"""Timers as `timers` and `trigger` answer with them, and as `status` shows one whose job has failed."""

from __future__ import annotations

import datetime as dt
from typing import Any

from impetusd.core.config.model import Timer
from impetusd.core.reasons import SKIPPED, Reason, because
from impetusd.core.rules import schedule, timer, timer_record
from impetusd.core.rules.timer import Now, Outcome, Progress


def of_timer(configured: Timer, at: Progress, now: Now) -> dict[str, Any]:
    """One timer, with its last results, newest first."""
    waits = [at.due - at.clock(now)] if at.due is not None else []
    waits += [at.retry_at - now.run] if at.retry_at is not None else []
    wait = max(0.0, min(waits)) if waits else None
    return {
        "name": configured.name,
        "schedule": configured.cron or f"every {configured.every:g}s",
        "words": schedule.words(configured.cron, configured.every, configured.timezone),
        "enabled": configured.enabled,
        "state": _state(at),
        "next": _iso(now.wall + wait) if wait is not None else None,
        "next_in_s": round(wait, 3) if wait is not None else None,
        "running_s": round(now.run - at.run.began, 3) if at.run is not None else None,
        "runs": [of_outcome(each) for each in at.runs],
    }


def of_outcome(outcome: Outcome) -> dict[str, Any]:
    """One result."""
    row = timer_record.of_outcome(outcome)
    if row.pop("times") > 1:
        row["result"] += f" ({outcome.times} times)"
    del row["failed"]
    row |= {"at": _iso(outcome.at), "duration_s": round(outcome.duration_s, 3), "cause": outcome.result.data()}
    return {**row, "skipped": outcome.result.key in SKIPPED}


def failure(configured: Timer, at: Progress, now: Now) -> Reason | None:
    """What `status` says of a timer whose last run failed."""
    last = timer.last_failure(at)
    if last is None:
        return None
    ago_s = round(now.wall - last.at - last.duration_s, 3)
    again_s = round(at.retry_at - now.run, 3) if at.retry_at is not None else None
    return because("timer_failed", name=configured.name, ago_s=ago_s, cause=last.result, again_s=again_s)


def _state(at: Progress) -> str:
    if at.run is not None:
        return "queued" if at.queued else "running"
    return "waiting" if at.retry_at is None else "retrying"


def _iso(at: float) -> str:
    """Unix seconds in ISO 8601, local time."""
    return dt.datetime.fromtimestamp(at).astimezone().isoformat(timespec="milliseconds")
