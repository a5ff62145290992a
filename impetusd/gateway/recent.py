"""What happened lately, kept beside the mirror: problems that the rows show no more once they were put right.

As the observer keeps it for alerts; here it begins with what the ledger has, and is never written down.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Mapping
from typing import Any

from aiohttp import web

from impetusd.client.control import ControlError
from impetusd.core import stream
from impetusd.core.explain import happened
from impetusd.core.explain.happened import LONGEST, Past
from impetusd.core.explain.incidents import Problem
from impetusd.gateway.backend import Backend
from impetusd.gateway.beside import beside
from impetusd.gateway.keys import BACKEND

AGAIN = 1.0  # seconds until one who was too slow is there again

log = logging.getLogger("impetusd.gateway")


class Recent:
    """`run` is its life."""

    def __init__(self, backend: Backend, clock: Callable[[], float] = time.time) -> None:
        """`clock`: Unix time."""
        self._backend = backend
        self._clock = clock
        self._past = Past()

    def problems(self) -> tuple[dict[str, Problem], dict[str, float]]:
        """Everything that is wrong by its key, and until when of what is so for a while only."""
        found = happened.problems(self._past, self._backend.mirror.rows, self._clock())
        return found, {key: mark.until for key, mark in self._past.marks.items()}

    async def run(self) -> None:
        """Take each record, for ever."""
        while True:
            try:
                if self._backend.live:
                    await self._catch_up()
                async for change in self._backend.subscribe():
                    if change.kind in {"snapshot", "resumed"}:
                        await self._catch_up()
                    elif change.kind == stream.LEDGER:
                        self._take(change.value)
            except Exception:  # an answer that nobody expects: the page has the rest
                log.exception("recent events are not available")
            await asyncio.sleep(AGAIN)

    async def _catch_up(self) -> None:
        """What the ledger has of the time that matters, or since the last record."""
        after = self._past.record or 0
        try:
            last = (await self._backend.call("events", {"last": 1}))["last"]
            if last < after:  # the ledger was begun anew
                self._past, after = Past(), 0
            more = True
            while more:
                page = await self._backend.call("events", {"after": after, "since": int(self._clock() - LONGEST)})
                for record in page["records"]:
                    self._take(record)
                    after = record["n"]
                more = page["more"] and bool(page["records"])
        except ControlError as error:
            log.warning("cannot read the ledger: %s", error)

    def _take(self, record: Mapping[str, Any]) -> None:
        # A record that somebody else has written into the file may lack anything.
        with contextlib.suppress(LookupError, TypeError, ValueError, AttributeError):
            happened.take(self._past, record)


RECENT = web.AppKey("impetusd.recent", Recent)


def install(app: web.Application) -> None:
    """Kept while the application serves."""
    app[RECENT] = Recent(app[BACKEND])
    beside(app, app[RECENT].run)
