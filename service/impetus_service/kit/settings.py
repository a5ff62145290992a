"""Settings: read from the environment once, and refused whole when one is wrong. An application adds its own in a subclass."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Self
from urllib.parse import parse_qsl, unquote, urlsplit

if TYPE_CHECKING:
    from collections.abc import Mapping

OPENAI = "https://api.openai.com/v1"
LOG_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR")


class SettingsError(ValueError):
    """Settings that cannot be used: each with its name, its value and what is allowed, in one message."""


@dataclass(frozen=True)
class Settings:
    """What the operator may set; the environment variables have these names in capitals."""

    # What the numbers may be, besides DB_POOL_MIN and DB_POOL_MAX, which depend on each other.
    LIMITS: ClassVar[Mapping[str, tuple[int, int]]] = {
        "http_timeout_ms": (1, 600_000),
        "http_retries": (0, 20),
        "http_total_ms": (0, 600_000),
        "http_answer_max_bytes": (1, 999_999_999),
        "http_breaker_failures": (1, 1000),
        "http_breaker_open_ms": (1, 3_600_000),
        "job_concurrency": (2, 100),
        "job_attempts": (1, 100),
        "job_heartbeat_s": (1, 3600),
        "job_statement_ms": (1, 86_400_000),
        "openai_timeout_ms": (1, 600_000),
        "openai_stream_ms": (1, 3_600_000),
        "db_timeout_ms": (1, 600_000),
        "cache_max_entries": (1, 10_000_000),
        "idempotency_hours": (1, 8760),
        "proxy_hops": (0, 10),
    }
    # Those that may be any text.
    TEXTS: ClassVar[tuple[str, ...]] = (
        *("audit_spool_dir", "job_files_dir", "openai_api_key", "openai_model", "openai_embedding_model"),
    )

    database_url: str  # postgresql://…, as libpq and asyncpg know it; no default
    db_schema: str = "impetus"  # where the service's tables are; it makes nothing elsewhere
    db_pool_min: int = 2  # connections kept open
    db_pool_max: int = 20  # connections at most, per worker
    db_timeout_ms: int = 5000  # of one statement
    cache_max_entries: int = 1000  # entries of the in-memory cache, per worker
    proxy_hops: int = 0  # proxies in front that we trust to append to X-Forwarded-For
    log_level: str = "INFO"
    idempotency_hours: int = 24  # that an Idempotency-Key is remembered
    cors_origins: tuple[str, ...] = ()  # of pages that may read our answers, and send our cookie; none
    public_url: str = ""  # where clients reach us, if that is not what the Host header says
    http_timeout_ms: int = 15_000  # of one attempt of an outgoing request
    http_retries: int = 3  # attempts after the first one, of what is safe to repeat
    http_total_ms: int = 0  # of all attempts and the pauses between them; 0: what HTTP_RETRIES of HTTP_TIMEOUT_MS take
    http_answer_max_bytes: int = 10_000_000  # of an answer to it
    http_breaker_failures: int = 5  # in a row, after which a target is not asked...
    http_breaker_open_ms: int = 10_000  # ... for this long
    audit_spool_dir: str = "var/lib/audit-spool"  # log entries that the database could not take yet; of this host
    job_files_dir: str = "var/lib/job-files"  # what jobs make; web and job workers of all hosts share it
    job_concurrency: int = 2  # jobs at once, per job worker
    job_attempts: int = 5  # then a job has failed
    job_heartbeat_s: int = 30  # another worker takes over a job whose worker was not heard of for this long
    job_statement_ms: int = 600_000  # of one statement of a job
    openai_base_url: str = ""  # of any OpenAI-compatible endpoint; empty: chat and embeddings answer 503
    openai_api_key: str = field(default="", repr=False)
    openai_model: str = "gpt-4o-mini"  # for requests that name none
    openai_embedding_model: str = "text-embedding-3-small"
    openai_timeout_ms: int = 30_000  # of a completion in all, and of each silence in a streamed one
    openai_stream_ms: int = 300_000  # of a streamed completion in all

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> Self:
        """Read all settings; an empty value counts as not set. Raises SettingsError with every problem."""
        problems: list[str] = []
        values = cls.read(environment, problems)
        if problems:
            raise SettingsError("; ".join(problems))
        return cls(**values)

    @classmethod
    def read(cls, environment: Mapping[str, str], problems: list[str]) -> dict[str, Any]:
        """The fields and their values; what is wrong is appended to `problems`. A subclass extends it."""

        def number(name: str, default: int, lowest: int, highest: int) -> int:
            text = environment.get(name, "").strip()
            if not text:
                return default
            if text.isascii() and text.isdigit() and lowest <= int(text[:9]) <= highest and len(text) <= 9:
                return int(text)
            problems.append(f"{name}={text!r}: must be a whole number from {lowest} to {highest}")
            return default

        url = environment.get("DATABASE_URL", "").strip()
        problem = _url_problem(url)
        if problem is not None:
            problems.append(problem)
        pool_max = number("DB_POOL_MAX", cls.db_pool_max, 1, 1000)
        pool_min = number("DB_POOL_MIN", min(cls.db_pool_min, pool_max), 0, 1000)
        if pool_min > pool_max and not problems:
            problems.append(f"DB_POOL_MIN={pool_min}: must not exceed DB_POOL_MAX, which is {pool_max}")
        values: dict[str, Any] = {
            name: number(name.upper(), getattr(cls, name), lowest, highest)
            for name, (lowest, highest) in cls.LIMITS.items()
        }
        values |= {name: environment.get(name.upper(), "").strip() or getattr(cls, name) for name in cls.TEXTS}
        log_level = environment.get("LOG_LEVEL", "").strip().upper() or cls.log_level
        if log_level not in LOG_LEVELS:
            problems.append(f"LOG_LEVEL={log_level!r}: must be one of {', '.join(LOG_LEVELS)}")
        openai_base_url = environment.get("OPENAI_BASE_URL", "").strip().rstrip("/")
        if values["openai_api_key"] and not openai_base_url:
            openai_base_url = OPENAI
        if openai_base_url and not _is_http(openai_base_url):
            problems.append("OPENAI_BASE_URL: must be https://host[:port]/path or http://, without user and password")
        db_schema = environment.get("DB_SCHEMA", "").strip() or cls.db_schema
        if re.fullmatch(r"(?!pg_)[a-z_][a-z0-9_]{0,62}", db_schema) is None:
            problems.append(f"DB_SCHEMA={db_schema!r}: use a-z, 0-9 and _, not starting with pg_")
        cors_origins: list[str] = []
        for text in re.split(r"[\s,]+", environment.get("CORS_ORIGINS", "").strip()):
            origin = origin_of(text, exactly=True)
            if origin is not None:
                cors_origins.append(origin)
            elif text:
                problems.append(f"CORS_ORIGINS: {text!r}: must be https://host[:port] or http://, without a path")
        public_url = environment.get("PUBLIC_URL", "").strip().rstrip("/")
        if public_url and origin_of(public_url) is None:
            problems.append("PUBLIC_URL: must be https://host[:port]/path or http://, without user and password")
        return values | {
            "cors_origins": tuple(cors_origins),
            "public_url": public_url,
            "database_url": url,
            "db_schema": db_schema,
            "db_pool_min": pool_min,
            "db_pool_max": pool_max,
            "log_level": log_level,
            "openai_base_url": openai_base_url,
        }

    def database(self) -> str:
        """Which database DATABASE_URL names, without user and password."""
        parts = urlsplit(self.database_url)
        host = parts.netloc.rpartition("@")[2] or dict(parse_qsl(parts.query)).get("host", "localhost")
        return f"database {unquote(parts.path).strip('/') or 'of the user'} at {unquote(host)}"

    def secrets(self) -> tuple[str, ...]:
        """The values that no line of a log may show."""
        parts = urlsplit(self.database_url)
        found = (unquote(parts.password or ""), dict(parse_qsl(parts.query)).get("password", ""), self.openai_api_key)
        return tuple(each for each in found if each)


def origin_of(url: str, *, exactly: bool = False) -> str | None:
    """The origin of an http URL, as a browser writes it; None for another text, `exactly` also for one with a path."""
    if not _is_http(url) or (exactly and re.fullmatch(r"\w+://([\w.-]+|\[[0-9a-fA-F:.]+\])(:\d+)?", url) is None):
        return None
    parts = urlsplit(url.lower())
    usual = {"http": 80, "https": 443}[parts.scheme]
    host = parts.netloc.rpartition(":")[0] if parts.port == usual else parts.netloc
    return f"{parts.scheme}://{host}"


def _is_http(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return (
            parts.scheme in {"http", "https"} and bool(parts.hostname) and "@" not in parts.netloc and parts.port != 0
        )
    except ValueError:
        return False


def _url_problem(url: str) -> str | None:
    """What is wrong with a DATABASE_URL; the value is shown without its password."""
    allowed = "must be postgresql://[user[:password]@][host][:port]/database[?host=/socket/directory&user=name]"
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
