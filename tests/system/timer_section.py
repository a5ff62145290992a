"""Timers as the INI file describes them, for tests of what becomes of them."""

from __future__ import annotations

from typing import Any

from impetusd.core.config.model import Kind, Overlap, Timer, Unit


def timer(name: str = "job", **keys: Any) -> Timer:
    """A `[timer:NAME]`; every minute, unless `cron` or `every` is given."""
    unit = Unit(
        name=name,
        kind=Kind.TIMER,
        where="",
        command=("job",),
        enabled=True,
        kill_timeout=10.0,
        cwd="/",
        user="",
        group="",
        umask=0o22,
        nice=0,
        env={},
        env_file=(),
    )
    own: dict[str, Any] = {
        "name": name,
        "where": "",
        "unit": unit,
        "enabled": True,
        "cron": "",
        "timezone": "UTC",
        "every": 0.0 if keys.get("cron") else 60.0,
        "timeout": 0.0,
        "retries": 0,
        "retry_delay": 10.0,
        "overlap": Overlap.SKIP,
        "jitter": 0.0,
        "catch_up": False,
    }
    return Timer(**own | keys)
