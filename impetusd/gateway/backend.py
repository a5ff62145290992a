"""The gateway's side of the supervisor: one watch for the whole process, and questions on behalf of whoever asks.

backend.mirror        all that is known, by kind and key; brought up to date by the watch
backend.live          whether the watch is connected, and `mirror` is whole
backend.subscribe()   each change from now on
backend.call(…)       a question, as somebody
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from typing import Any

from impetusd.client.async_control import AsyncControl, Connect
from impetusd.client.control import ControlError
from impetusd.core.stream import Change, Mirror
from impetusd.gateway.caller import Caller

MOST_BEHIND = 1000  # changes that a subscriber may be behind; one that is farther behind is let go
REFUSED_AGAIN = 5.0  # seconds until a watch that was refused is tried again

log = logging.getLogger("impetusd.gateway")


class Backend:
    """Made in the worker's event loop; `run` is its life."""

    def __init__(self, connect: Connect) -> None:
        self.mirror = Mirror()
        self.live = False
        self.lost_since = time.time()  # Unix time, while it is not live
        self._control = AsyncControl(connect)
        self._heard = time.monotonic()
        self._queues: set[asyncio.Queue[Change]] = set()

    async def run(self) -> None:
        """Watch, for ever."""
        while True:
            try:
                async with contextlib.aclosing(self._control.watch(self.mirror, heard=self._hear)) as changes:
                    async for change in changes:
                        self._take(change)
            except ControlError as error:
                log.warning("the supervisor rejected watch: %s", error)
            self._take(Change(self.mirror.n, time.time(), "lost", "", "refused"))
            await asyncio.sleep(REFUSED_AGAIN)

    def age(self) -> float:
        """Seconds since the supervisor was heard last: while it is well, it says something every 5."""
        return time.monotonic() - self._heard

    async def subscribe(self) -> AsyncIterator[Change]:
        """Each change from now on, "snapshot", "lost" and "resumed" among them (see `core.stream.Change`).

        One who is too far behind gets a last one, of kind "lost" with the value "slow".
        """
        queue: asyncio.Queue[Change] = asyncio.Queue(MOST_BEHIND)
        self._queues.add(queue)
        try:
            while queue in self._queues or not queue.empty():
                yield await queue.get()
            yield Change(self.mirror.n, time.time(), "lost", "", "slow")
        finally:
            self._queues.discard(queue)

    async def call(
        self,
        method: str,
        params: Mapping[str, Any] | None = None,
        caller: Caller | None = None,
        progress: Callable[[Mapping[str, Any]], None] | None = None,
    ) -> dict[str, Any]:
        """Ask the supervisor; `caller`: None is the gateway itself, a viewer.

        Raises ControlError with its sentence and exit code, Unanswered where there is no answer.
        """
        return await self._control.call(method, params, progress, caller.behalf if caller is not None else None)

    def follow(self, method: str, params: Mapping[str, Any], caller: Caller) -> AsyncGenerator[Mapping[str, Any], None]:
        """As `AsyncControl.follow`: an answer that goes on."""
        return self._control.follow(method, params, caller.behalf)

    def _hear(self) -> None:
        self._heard = time.monotonic()

    def _take(self, change: Change) -> None:
        if change.kind == "lost":
            if self.live:
                self.lost_since = change.at
            self.live = False
        else:
            self.live = True
        for queue in list(self._queues):
            try:
                queue.put_nowait(change)
            except asyncio.QueueFull:
                self._queues.discard(queue)
