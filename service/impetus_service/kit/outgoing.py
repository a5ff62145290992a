"""Requests to other services: one client of the worker, with a timeout, retries and a circuit breaker per target.

Nothing here ends or stalls a worker: each attempt ends within HTTP_TIMEOUT_MS, and there are HTTP_RETRIES more of them at
most, all within HTTP_TOTAL_MS where that is set (a caller may name another total, and spend it on one attempt). An answer
has at most HTTP_ANSWER_MAX_BYTES, and a target that fails time and again is not asked at all
until its breaker lets one request through. What comes of it is an Answer, or Unavailable with a sentence for the client.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlsplit

import aiohttp
from aiohttp import web

from impetus_service.kit.breaker import Breaker, Policy
from impetus_service.kit.request_id import HEADER, REQUEST_ID
from impetus_service.kit.settings import Settings

log = logging.getLogger("impetus.outgoing")

SAFE_TO_REPEAT = frozenset({"GET", "HEAD", "OPTIONS", "PUT", "DELETE", "TRACE"})  # RFC 9110, 9.2.2
WORTH_REPEATING = frozenset({408, 429, 500, 502, 503, 504})
FIRST_PAUSE, LONGEST_PAUSE = 0.1, 2.0  # seconds between attempts, unless Retry-After asks for more
CONNECTIONS = 100  # at once, all targets together
CHUNK = 65536  # bytes


class Unavailable(Exception):
    """A target gave no usable answer: `str()` is a sentence for the log, `why` what of it may be shown to a client, as it
    names no address, `retry_after` the seconds after which to ask again."""

    def __init__(self, target: str, why: str, retry_after: float) -> None:
        super().__init__(f"{target} {why}")
        self.why = why
        self.retry_after = retry_after


@dataclass(frozen=True)
class Answer:
    """A whole answer, whatever its status."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class Stream:
    """An answer that is still coming; `chunks` may be read once."""

    def __init__(self, response: aiohttp.ClientResponse, arrived: Callable[[], None]) -> None:
        self.status = response.status
        self.headers = response.headers
        self._response = response
        self._arrived = arrived

    async def chunks(self) -> AsyncGenerator[bytes, None]:
        """The body as it comes. Raises what aiohttp raises; `Outgoing.stream` makes it Unavailable."""
        async for chunk in self._response.content.iter_any():
            self._arrived()
            yield chunk


@dataclass(frozen=True)
class _Request:
    method: str
    url: str
    headers: Mapping[str, str]
    content: bytes | None

    @property
    def safe_to_repeat(self) -> bool:
        return self.method in SAFE_TO_REPEAT or any(name.lower() == "idempotency-key" for name in self.headers)


class Outgoing:
    """The worker's HTTP client; `start` and `stop` in a running event loop."""

    def __init__(self, settings: Settings, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock  # of the breakers
        self._timeout = settings.http_timeout_ms / 1000
        self._retries = settings.http_retries
        enough = self._timeout * (self._retries + 1) + LONGEST_PAUSE * self._retries
        self._total = settings.http_total_ms / 1000 or enough
        self._most = settings.http_answer_max_bytes
        self._policy = Policy(settings.http_breaker_failures, settings.http_breaker_open_ms / 1000)
        self._breakers: dict[str, Breaker] = {}
        self._client: aiohttp.ClientSession | None = None

    async def start(self) -> None:
        """Make the client; it connects when it is first asked to."""
        self._client = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=CONNECTIONS),
            cookie_jar=aiohttp.DummyCookieJar(),  # what one company's request was told is none of the next one's
            auto_decompress=True,
        )

    async def stop(self) -> None:
        """Close every connection."""
        if self._client is not None:
            await self._client.close()

    def breakers(self) -> dict[str, str]:
        """The state of each target that was asked so far, by its origin."""
        return {target: breaker.state.value for target, breaker in sorted(self._breakers.items())}

    async def request(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        content: bytes | None = None,
        within: float | None = None,
        patient: bool = False,
    ) -> Answer:
        """Ask until there is an answer that no further attempt would better, within `within` seconds in all.

        Each attempt has HTTP_TIMEOUT_MS; with `patient` all the time that is left: a slow target is asked once.
        Only what is safe to repeat is: an idempotent method, a request with an Idempotency-Key, or one that could not
        be sent. A 429 or 5xx that stays one is an Answer like any other. Raises Unavailable.
        """
        request = _Request(method, url, headers or {}, content)
        target = origin(url)
        ends = time.monotonic() + (within or self._total)
        attempt = 0
        while True:
            left = max(0.001, ends - time.monotonic())
            allowed = left if patient else min(self._timeout, left)
            outcome, sent, asked_to_wait = await self._attempt(request, target, allowed)
            if isinstance(outcome, Answer) and outcome.status not in WORTH_REPEATING:
                return outcome
            pause = pause_before(attempt, asked_to_wait, random.random())  # noqa: S311
            attempt += 1
            if attempt > self._retries or (sent and not request.safe_to_repeat) or time.monotonic() + pause >= ends:
                if isinstance(outcome, Answer):
                    return outcome
                raise outcome
            log.debug("%s %s: attempt %d failed; next in %.2f s", method, target, attempt, pause)
            await asyncio.sleep(pause)

    @asynccontextmanager
    async def stream(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        content: bytes | None = None,
        silence: float,
    ) -> AsyncIterator[Stream]:
        """Ask once and give the answer as it comes; each wait for its next part ends after `silence` seconds.

        The breaker takes the first part for a success: a target that answers is there. Leaving the context hangs up.
        Raises Unavailable, also from within it.
        """
        target = origin(url)
        ticket = self._ask(target)
        settled = False

        def arrived() -> None:
            nonlocal settled
            if not settled:
                settled = True
                self._breakers[target] = self._breakers[target].succeeded(ticket)

        timeout = aiohttp.ClientTimeout(total=None, connect=self._timeout, sock_read=silence)
        try:
            async with self._send(_Request(method, url, headers or {}, content), timeout) as response:
                if response.status >= 500:
                    self._failed(target, ticket)
                    settled = True
                yield Stream(response, arrived)
                arrived()
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            if not settled:
                self._failed(target, ticket)
                settled = True
            raise Unavailable(target, reason(error, silence), self._policy.open_for) from error
        finally:
            if not settled:
                self._breakers[target] = self._breakers[target].given_up(ticket)

    async def _attempt(
        self, request: _Request, target: str, allowed: float
    ) -> tuple[Answer | Unavailable, bool, float | None]:
        """One attempt of `allowed` seconds: what came of it, whether the target may have seen it, and for how long it asks us to wait."""
        ticket = self._ask(target)
        settled = False
        try:
            async with self._send(request, aiohttp.ClientTimeout(total=allowed)) as response:
                body = await self._whole(response)
            answer = Answer(response.status, response.headers, body)
            settled = True
            if answer.status >= 500:
                self._failed(target, ticket)
            else:
                self._breakers[target] = self._breakers[target].succeeded(ticket)
            return answer, True, retry_after(answer.headers)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            settled = True
            self._failed(target, ticket)
            sent = not isinstance(error, aiohttp.ClientConnectorError)
            return Unavailable(target, reason(error, allowed), self._policy.open_for), sent, None
        finally:
            if not settled:
                self._breakers[target] = self._breakers[target].given_up(ticket)

    def _ask(self, target: str) -> int:
        """The ticket of a request that may be sent. Raises Unavailable when the breaker is open."""
        breaker, wait = self._breakers.get(target, Breaker()).ask(self._clock(), self._policy)
        self._breakers[target] = breaker
        if wait > 0:
            raise Unavailable(target, f"failed {breaker.failures} times in a row; requests to it are suspended", wait)
        return breaker.phase

    def _failed(self, target: str, ticket: int) -> None:
        before = self._breakers[target]
        after = self._breakers[target] = before.failed(ticket, self._clock(), self._policy)
        if after.state is not before.state:
            log.warning("%s: breaker open after %d failures in a row", target, after.failures)

    def _send(self, request: _Request, timeout: aiohttp.ClientTimeout) -> Any:
        assert self._client is not None
        name = REQUEST_ID.get()
        headers = {**({HEADER: name} if name else {}), **request.headers}
        # No redirects: a body and its credentials go to whom they were meant for. (An attempt of an idempotent method
        # whose connection is closed without an answer is sent once more by aiohttp itself, within the same timeout.)
        return self._client.request(
            request.method,
            request.url,
            headers=headers,
            data=request.content,
            timeout=timeout,
            allow_redirects=False,
        )

    async def _whole(self, response: aiohttp.ClientResponse) -> bytes:
        body = bytearray()
        async for chunk in response.content.iter_chunked(CHUNK):
            body += chunk
            if len(body) > self._most:
                raise aiohttp.ClientPayloadError(f"more than {self._most} bytes")
        return bytes(body)


OUTGOING = web.AppKey("outgoing", Outgoing)


def origin(url: str) -> str:
    """What a breaker is about: scheme, host and port; never credentials, path or query."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"


def pause_before(attempt: int, asked: float | None, luck: float) -> float:
    """Seconds before the retry that follows `attempt` (from 0): doubling, jittered by `luck` in [0, 1), and not before
    the target has `asked` for."""
    pause = min(LONGEST_PAUSE, FIRST_PAUSE * 2.0 ** min(attempt, 16)) * (0.5 + luck / 2)
    return max(pause, asked or 0.0)


def retry_after(headers: Mapping[str, str]) -> float | None:
    """The seconds of a Retry-After header, a number or a date (RFC 9110, 10.2.3); None without a usable one."""
    text = headers.get("Retry-After", "").strip()
    if text.isascii() and text.isdigit():
        return float(text[:9])
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - time.time())
    except (ValueError, TypeError, OverflowError):
        return None


def reason(error: BaseException, allowed: float) -> str:
    """Why there was no answer; never the URL, which may hold what is secret, nor an address."""
    if isinstance(error, TimeoutError):
        return f"did not respond within {allowed:.3g} s"
    if isinstance(error, aiohttp.ClientSSLError):
        return "cannot be reached: its certificate is not trusted, or it does not support TLS"
    if isinstance(error, aiohttp.ClientConnectorError):
        number = error.os_error.errno or 0  # asyncio's own text has the address; a name's that is not found is negative
        return f"cannot be reached: {os.strerror(number) if number > 0 else 'its name has no address'}"
    if isinstance(error, aiohttp.ClientPayloadError):
        return f"closed the connection during its response: {error}"
    return f"sent no valid HTTP response: {type(error).__name__}"
