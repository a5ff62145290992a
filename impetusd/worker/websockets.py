"""aiohttp's WebSockets end with the worker: each is closed with 1001, "going away", when the drain is over.

A client that receives it reconnects, to the worker that has taken over; one whose connection is only cut off has to
find out. aiohttp leaves this to each application's on_shutdown, so an application that forgot it is cut off.
"""

from __future__ import annotations

import asyncio
import logging
import weakref
from typing import TYPE_CHECKING

from aiohttp import WSCloseCode, web

if TYPE_CHECKING:
    from aiohttp.abc import AbstractStreamWriter
    from aiohttp.web_request import BaseRequest

log = logging.getLogger("impetusd.worker")


class WebSockets:
    """Those of one worker that are open."""

    def __init__(self) -> None:
        self._open: weakref.WeakSet[web.WebSocketResponse] = weakref.WeakSet()

    def begin(self) -> None:
        """Track each one opened from now on; patched on the class, because the application makes them."""
        prepare, known = web.WebSocketResponse.prepare, self._open

        async def prepare_known(self: web.WebSocketResponse, request: BaseRequest) -> AbstractStreamWriter:
            writer = await prepare(self, request)
            known.add(self)
            return writer

        web.WebSocketResponse.prepare = prepare_known  # type: ignore[method-assign,assignment]

    async def close(self, seconds: float) -> None:
        """Say 1001 to every client at once, and wait for their answers, at most so long."""
        closing = [asyncio.create_task(_close(each)) for each in self._open if not each.closed]
        if closing:
            await asyncio.wait(closing, timeout=seconds)


async def _close(websocket: web.WebSocketResponse) -> None:
    try:
        await websocket.close(code=WSCloseCode.GOING_AWAY, message=b"the server is being replaced")
    except Exception as error:
        log.debug("closing a WebSocket: %r", error)
