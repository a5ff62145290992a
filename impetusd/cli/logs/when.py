"""Instants as a person types them (`--since`) and as log lines bear them. Seconds of time.time(); no clock is read here."""

from __future__ import annotations

import datetime as dt
import functools
import re

_AGO = re.compile(r"([0-9]+(?:\.[0-9]+)?)([smhdw])")
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
# As the writer puts it before a line (time = yes), into a JSON line, and before the daemon's own.
_STAMP = re.compile(rb'(?:\{"time": ")?(\d{4}-\d\d-\d\dT\d\d:\d\d):(\d\d)\.(\d{3})([+-]\d{4})')


def instant(text: str, now: float) -> float:
    """`10m`, `2h`, `1d` before `now`, or a local date and time as in 2026-11-23, "2026-11-23 10:00". ValueError else."""
    ago = _AGO.fullmatch(text)
    if ago is not None:
        return now - float(ago[1]) * _UNITS[ago[2]]
    return dt.datetime.fromisoformat(text).timestamp()


def time_of(line: bytes) -> float | None:
    """When a log line was written; None if it does not say."""
    match = _STAMP.match(line)
    if match is None:
        return None
    try:
        return _minute(match[1], match[4]) + int(match[2]) + int(match[3]) / 1000
    except ValueError:
        return None  # digits, but no date


@functools.lru_cache(64)
def _minute(text: bytes, zone: bytes) -> float:
    return dt.datetime.fromisoformat((text + zone).decode()).timestamp()
