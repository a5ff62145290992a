"""Instants as a person types them (`--since`). Seconds of time.time(); no clock is read here."""

from __future__ import annotations

import datetime as dt
import re

_AGO = re.compile(r"([0-9]+(?:\.[0-9]+)?)([smhdw])")
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}


def instant(text: str, now: float) -> float:
    """`10m`, `2h`, `1d` before `now`, or a local date and time as in 2026-11-23, "2026-11-23 10:00". ValueError else."""
    ago = _AGO.fullmatch(text)
    if ago is not None:
        return now - float(ago[1]) * _UNITS[ago[2]]
    return dt.datetime.fromisoformat(text).timestamp()
