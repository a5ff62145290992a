"""The time zone of a name, and the host's own."""

from __future__ import annotations

import datetime as dt
import os


def zone(name: str) -> dt.tzinfo:
    """The time zone `name` (checked); "" is the host's: $TZ, else /etc/localtime, else UTC."""
    from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

    if name:
        return ZoneInfo(name)
    key = os.environ.get("TZ", "").removeprefix(":")
    try:
        if key and not key.startswith("/"):
            return ZoneInfo(key)
        with open(key or "/etc/localtime", "rb") as file:
            return ZoneInfo.from_file(file)
    except (OSError, ValueError, ZoneInfoNotFoundError):
        return dt.UTC
