"""Asks /health of a service from outside, as an uptime monitor does: one GET, one sentence."""

from __future__ import annotations

import json
import os
import time
from dataclasses import asdict, dataclass
from typing import Any
from urllib.parse import urlsplit

import aiohttp

MOST_BYTES = 1 << 20  # of an answer
SHOWN = 200  # characters of one that is not ours


@dataclass(frozen=True)
class Answer:
    """What became of it. `status` is None where nobody answered; `health` is the body, if it was an object of JSON."""

    ok: bool
    url: str
    status: int | None
    latency_ms: float
    reason: str  # a clause: why it is not healthy, or what it says of itself
    health: dict[str, Any] | None = None

    def sentence(self) -> str:
        """For people."""
        host = urlsplit(self.url).netloc
        if self.ok:
            return f"{host} is healthy: {self.reason}"
        return f"{host} is unhealthy ({self.status}): {self.reason}" if self.status else f"{host}: {self.reason}"

    def as_json(self) -> str:
        """For programs."""
        return json.dumps(asdict(self))


def url_of(host: str) -> str:
    """HOST, HOST:PORT or a URL as what is asked: /health, where it names no path. Raises ValueError."""
    url = host if "://" in host else f"http://{host}"
    wrong = ValueError("must be HOST, HOST:PORT or http(s)://HOST[:PORT]")
    try:
        parts = urlsplit(url)
        usable = parts.scheme in {"http", "https"} and parts.hostname and parts.port != 0
    except ValueError:  # a port that is none, an unclosed bracket
        raise wrong from None
    if not usable or "@" in parts.netloc or any(each.isspace() for each in url):
        raise wrong
    return parts._replace(path=parts.path if parts.path.strip("/") else "/health", fragment="").geturl()


async def ask(url: str, within: float) -> Answer:
    """One GET, over `within` so many seconds."""
    began = time.monotonic()

    def taken() -> float:
        return round((time.monotonic() - began) * 1000, 1)

    try:
        async with (
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=within)) as session,
            session.get(url, allow_redirects=False) as response,
        ):
            body = await response.content.read(MOST_BYTES)
    except TimeoutError:
        return Answer(False, url, None, taken(), f"no response within {within:g} s")
    except (aiohttp.ClientError, OSError) as error:
        return Answer(False, url, None, taken(), f"no response: {_why(error)}")
    health = _object(body)
    ok = response.status == 200 and (health is None or health.get("status", "ok") == "ok")
    return Answer(ok, url, response.status, taken(), _reason(health, body, taken(), ok=ok), health)


def _object(body: bytes) -> dict[str, Any] | None:
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _reason(health: dict[str, Any] | None, body: bytes, took: float, *, ok: bool) -> str:
    database = health.get("database") if health else None
    database = database if isinstance(database, dict) else {}
    if ok:
        known = [f"database {database['latency_ms']} ms"] if database.get("latency_ms") is not None else []
        return ", ".join([f"answered in {took:.0f} ms", *known])
    if database.get("error"):
        return f"database: {database['error']}"
    text = " ".join(body[: SHOWN * 4].decode("utf-8", "replace").split())
    return "".join(each for each in text[:SHOWN] if each.isprintable()) or "an empty response"


def _why(error: Exception) -> str:
    cause = error.os_error if isinstance(error, aiohttp.ClientConnectorError) else error
    number = cause.errno if isinstance(cause, OSError) else None
    known = os.strerror(number) if number and number > 0 else ""  # those of getaddrinfo(3) are below 0
    return known or getattr(cause, "strerror", "") or " ".join(str(error).split()) or type(error).__name__
