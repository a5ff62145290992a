"""Clients that let a request drip are cut off: they would keep connections for ever that others need.

A request's head has to be there within header_timeout, from its first byte on or, of the first one, from when the client was
accepted. Of its body STEP bytes have to come in each body_timeout; what the application is slow to read is not held against
the client. Nothing is done while no request is incomplete.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any, NamedTuple, Protocol

log = logging.getLogger("impetusd.worker")

STEP = 16 << 10  # bytes
_LOOKS = 4  # in each timeout


class Body(NamedTuple):
    """A request's body that has not come to its end."""

    received: int  # bytes so far
    unread: bool  # it is the application that is slow


class Connections(Protocol):
    """An HTTP library's view of one of its connections."""

    def incoming(self, connection: Any) -> Body | None:
        """The body being received or expected next; None if there is none."""

    def is_open(self, connection: Any) -> bool: ...

    def cut(self, connection: Any) -> None:
        """Close it at once."""


class SlowClients:
    """Those of one worker. Times are in seconds; 0: any. The receiver of data calls the `head_…` and `body_…`
    methods."""

    def __init__(self, header_timeout: float, body_timeout: float, of: Connections) -> None:
        self._header_timeout = header_timeout
        self._body_timeout = body_timeout
        self._of = of
        self._interval = min(filter(None, (header_timeout, body_timeout)), default=0.0) / _LOOKS
        self.heads: dict[Any, float] = {}  # connections whose head is incomplete, and since when
        self._bodies: dict[Any, tuple[float, int]] = {}  # the same of bodies, and how much had come then
        self._timer: asyncio.TimerHandle | None = None
        self._loop = asyncio.get_running_loop()

    @property
    def watched(self) -> bool:
        """Whether there is anything to watch for."""
        return bool(self._interval)

    def head_is_due(self, connection: Any) -> None:
        """A client was accepted, or something of a head came, and the head is not complete."""
        self.heads.setdefault(connection, self._loop.time())
        if self._timer is None:
            self._watch()

    def head_came(self, connection: Any) -> None:
        """A head is complete; its body may be on its way."""
        self.heads.pop(connection, None)
        body = self._of.incoming(connection)
        if body is not None:
            self._bodies.setdefault(connection, (self._loop.time(), body.received))
            if self._timer is None:
                self._watch()

    def _watch(self) -> None:
        self._timer = self._loop.call_later(self._interval, self._look)

    def _look(self) -> None:
        self._timer = None
        now = self._loop.time()
        heads = [each for each, since in self.heads.items() if self._is_late(each, since, now)]
        bodies = [each for each in list(self._bodies) if self._is_stuck(each, now)]
        for connection in (*heads, *bodies):
            self.heads.pop(connection, None)
            self._bodies.pop(connection, None)
            self._of.cut(connection)
        for connection in [each for each in self.heads if not self._of.is_open(each)]:
            del self.heads[connection]
        for many, key in ((heads, "header_timeout"), (bodies, "body_timeout")):
            if many:
                log.warning("%d connections were closed: their requests did not arrive within %s", len(many), key)
        if self.heads or self._bodies:
            self._watch()

    def _is_late(self, connection: Any, since: float, now: float) -> bool:
        return bool(self._header_timeout) and self._of.is_open(connection) and now - since >= self._header_timeout

    def _is_stuck(self, connection: Any, now: float) -> bool:
        body = self._of.incoming(connection)
        since, had = self._bodies[connection]
        if body is None or not self._of.is_open(connection):
            del self._bodies[connection]
        elif not self._body_timeout or body.unread or body.received - had >= STEP:
            self._bodies[connection] = now, body.received
        else:
            return now - since >= self._body_timeout
        return False
