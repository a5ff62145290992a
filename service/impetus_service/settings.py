"""The service's settings: read from the environment once, and refused whole when one is wrong."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import Mapping

LOG_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR")


class SettingsError(ValueError):
    """Settings that cannot be used: each with its name, its value and what is allowed, in one message."""


@dataclass(frozen=True)
class Settings:
    """What the operator may set; the environment variables have these names in capitals."""

    database_url: str  # postgresql://…, as libpq and asyncpg know it; no default
    db_pool_min: int = 2  # connections kept open
    db_pool_max: int = 20  # connections at most, per worker
    cache_max_entries: int = 1000  # entries of the in-memory cache, per worker
    log_level: str = "INFO"

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> Settings:
        """Read all settings; an empty value counts as not set. Raises SettingsError with every problem."""
        problems: list[str] = []

        def number(name: str, default: int, lowest: int, highest: int) -> int:
            text = environment.get(name, "").strip()
            if not text:
                return default
            if text.isascii() and text.isdigit() and lowest <= int(text[:9]) <= highest and len(text) <= 9:
                return int(text)
            problems.append(f"{name}={text!r}: a whole number from {lowest} to {highest} is allowed")
            return default

        url = environment.get("DATABASE_URL", "").strip()
        problem = _url_problem(url)
        if problem is not None:
            problems.append(problem)
        pool_max = number("DB_POOL_MAX", cls.db_pool_max, 1, 1000)
        pool_min = number("DB_POOL_MIN", min(cls.db_pool_min, pool_max), 0, 1000)
        if pool_min > pool_max and not problems:
            problems.append(f"DB_POOL_MIN={pool_min}: at most DB_POOL_MAX, which is {pool_max}, is allowed")
        cache_max_entries = number("CACHE_MAX_ENTRIES", cls.cache_max_entries, 1, 10_000_000)
        log_level = environment.get("LOG_LEVEL", "").strip().upper() or cls.log_level
        if log_level not in LOG_LEVELS:
            problems.append(f"LOG_LEVEL={log_level!r}: one of {', '.join(LOG_LEVELS)} is allowed")
        if problems:
            raise SettingsError("; ".join(problems))
        return cls(url, pool_min, pool_max, cache_max_entries, log_level)


def _url_problem(url: str) -> str | None:
    """What is wrong with a DATABASE_URL; the value is shown without its password."""
    allowed = "postgresql://[user[:password]@][host][:port]/database[?host=/socket/directory&user=name] is allowed"
    if not url:
        return f"DATABASE_URL is not set: {allowed}"
    try:
        parts = urlsplit(url)
        usable = parts.scheme in {"postgresql", "postgres"} and parts.port != 0
    except ValueError:  # a port that is none, an unclosed bracket
        return f"DATABASE_URL cannot be read (it is not shown, as it may hold a password): {allowed}"
    if usable:
        return None
    if "@" in parts.netloc:
        parts = parts._replace(netloc="***@" + parts.netloc.rpartition("@")[2])
    return f"DATABASE_URL={parts._replace(query='').geturl()!r}: {allowed}"
