"""A timer's progress as the shim keeps it for the next supervisor, and state.json for the next daemon: a JSON string.

It is stored before anything is started, so a successor can see from it and the slot what has happened: a run goes on,
has ended, or never began.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

from impetusd.core.config.model import Timer
from impetusd.core.reasons import read
from impetusd.core.rules.schedule import Cron, Every
from impetusd.core.rules.timer import Now, Outcome, Progress, Run

VERSION = 1


def dump(timer: Timer, at: Progress, now: Now, boot_id: str) -> str:
    """The record as of now."""
    return json.dumps(
        {
            "version": VERSION,
            "boot_id": boot_id,
            "now": now,
            "enabled": timer.enabled,
            "seen": at.seen,
            "anchor": at.schedule.anchor if isinstance(at.schedule, Every) else None,
            # The first version refuses what it does not know of these: their reasons stand beside them.
            "runs": [of_outcome(each) for each in at.runs],
            "run": {**asdict(at.run), "ending": str(at.run.ending)} if at.run else None,
            "results": [[each.at, each.result.data()] for each in at.runs],
            "ending": at.run.ending.data() if at.run else None,
            "queued": at.queued,
            "retry_at": at.retry_at,
            "attempt": at.attempt,
        },
        separators=(",", ":"),
    )


def of_outcome(outcome: Outcome) -> dict[str, Any]:
    """As JSON, with the sentence alone for its result."""
    return {**asdict(outcome), "result": str(outcome.result)}


def load(timer: Timer, fresh: Progress, text: str, now: Now, boot_id: str) -> Progress:
    """How far the timer is by what was kept. `fresh`: how far it would be without; `boot_id` and `now` are today's.

    Another boot's clocks began elsewhere: what was on them is moved by what the wall clock says has passed. A timer that
    was switched off then, or went by another kind of schedule, has missed nothing. Raises ValueError, TypeError, KeyError
    or AttributeError for what is no record.
    """
    data: Mapping[str, Any] = json.loads(text)
    if data["version"] != VERSION:
        raise ValueError("another version of impetusd wrote it")
    then = Now(*data["now"])
    same_boot = data["boot_id"] == boot_id
    passed = max(0.0, now.wall - then.wall)
    at, anchor = fresh, data["anchor"]
    if not data["enabled"] or (anchor is not None) != isinstance(at.schedule, Every):
        pass
    elif isinstance(at.schedule, Cron):
        at = replace(at, seen=float(data["seen"]))
    else:
        shift = 0.0 if same_boot else now.boot - passed - then.boot
        at = replace(at, seen=data["seen"] + shift, schedule=Every(timer.every, anchor + shift))
    results: dict[float, Any] = dict(data.get("results", ()))
    runs = (Outcome(**{**each, "result": read(results.get(each["at"]), each["result"])}) for each in data["runs"])
    at = replace(at, runs=tuple(runs))
    if data["retry_at"] is not None and timer.enabled:
        moved = 0.0 if same_boot else now.run - passed - then.run
        at = replace(at, retry_at=data["retry_at"] + moved, attempt=data["attempt"])
    if data["run"]:
        run = Run(**data["run"])
        run = replace(run, ending=read(data.get("ending"), str(run.ending)))
        at = replace(at, run=run, queued=data["queued"])
    return at
