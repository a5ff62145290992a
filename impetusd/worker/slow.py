"""Clients that let a request drip are cut off: they would keep connections for ever that others need.

A request's head has to be there within header_timeout, from its first byte on or, of the first one, from when the client was
accepted. Of its body STEP bytes have to come in each body_timeout; what the application is slow to read is not held against
the client. Nothing is done while no request is incomplete.

Of the inside of aiohttp 3.14 this needs what `drain` names, and `BaseRequest._payload`, `._buffer_paused`.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from aiohttp import web

if TYPE_CHECKING:
    from aiohttp.streams import StreamReader

log = logging.getLogger("impetusd.worker")

STEP = 16 << 10  # bytes
_LOOKS = 4  # in each timeout


class SlowClients:
    """Those of one worker. Times are in seconds; 0: any."""

    def __init__(self, header_timeout: float, body_timeout: float) -> None:
        self._header_timeout = header_timeout
        self._body_timeout = body_timeout
        self._interval = min(filter(None, (header_timeout, body_timeout)), default=0.0) / _LOOKS
        self._heads: dict[web.RequestHandler, float] = {}  # whose head is incomplete, and since when
        self._bodies: dict[web.RequestHandler, tuple[float, int]] = {}  # the same of bodies, and how much had come then
        self._timer: asyncio.TimerHandle | None = None
        self._loop = asyncio.get_running_loop()

    def begin(self) -> None:
        """Watch from now on. Replaced on the class, as in `tally`: aiohttp has no hook for what is incomplete."""
        if not self._interval:
            return
        connection_made, data_received = web.RequestHandler.connection_made, web.RequestHandler.data_received

        def made(handler: web.RequestHandler, transport: asyncio.BaseTransport) -> None:
            connection_made(handler, transport)
            self._heads[handler] = self._loop.time()
            self._watch()

        def received(handler: web.RequestHandler, data: bytes) -> None:
            data_received(handler, data)
            waiter = handler._waiter  # noqa: SLF001
            if waiter is not None and not waiter.done():
                self._heads.setdefault(handler, self._loop.time())
                self._watch()
                return
            self._heads.pop(handler, None)
            payload = _payload(handler)
            if payload is not None and not payload.is_eof():
                self._bodies.setdefault(handler, (self._loop.time(), payload.total_bytes))
                self._watch()

        web.RequestHandler.connection_made = made  # type: ignore[method-assign,assignment]
        web.RequestHandler.data_received = received  # type: ignore[method-assign,assignment]

    def _watch(self) -> None:
        if self._timer is None:
            self._timer = self._loop.call_later(self._interval, self._look)

    def _look(self) -> None:
        self._timer = None
        now = self._loop.time()
        heads = [handler for handler, since in self._heads.items() if self._is_late(handler, since, now)]
        bodies = [handler for handler in list(self._bodies) if self._is_stuck(handler, now)]
        for handler in (*heads, *bodies):
            self._heads.pop(handler, None)
            self._bodies.pop(handler, None)
            handler.force_close()
        self._heads = {handler: since for handler, since in self._heads.items() if handler.transport is not None}
        for many, key in ((heads, "header_timeout"), (bodies, "body_timeout")):
            if many:
                log.warning("%d connections were closed: their requests did not come within %s", len(many), key)
        if self._heads or self._bodies:
            self._watch()

    def _is_late(self, handler: web.RequestHandler, since: float, now: float) -> bool:
        return bool(self._header_timeout) and handler.transport is not None and now - since >= self._header_timeout

    def _is_stuck(self, handler: web.RequestHandler, now: float) -> bool:
        payload = _payload(handler)
        since, had = self._bodies[handler]
        if payload is None or payload.is_eof() or handler.transport is None:
            del self._bodies[handler]
        elif not self._body_timeout or handler._buffer_paused or payload.total_bytes - had >= STEP:  # noqa: SLF001
            self._bodies[handler] = now, payload.total_bytes
        else:
            return now - since >= self._body_timeout
        return False


def _payload(handler: web.RequestHandler) -> StreamReader | None:
    """The body that comes, or is to come next; None if there is none."""
    request = handler._current_request  # noqa: SLF001
    if request is not None:
        return request._payload  # noqa: SLF001
    return handler._messages[-1][1] if handler._messages else None  # noqa: SLF001
