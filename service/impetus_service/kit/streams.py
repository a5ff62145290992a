"""Answers that are sent part by part."""

from __future__ import annotations

import asyncio

from aiohttp import ClientConnectionError, web

from impetus_service.kit.problems import ClientLeft

STALLED = 30.0  # seconds that a client may take for a part
# The headers of server-sent events.
SSE = {"Content-Type": "text/event-stream", "Cache-Control": "no-store", "X-Accel-Buffering": "no"}


async def write(response: web.StreamResponse, data: bytes) -> None:
    """A part of a response that is streamed. Raises ClientLeft when its client is gone, or takes longer than STALLED."""
    try:
        async with asyncio.timeout(STALLED):
            await response.write(data)
    except (OSError, ClientConnectionError, TimeoutError) as error:
        raise ClientLeft(str(error) or f"nothing was read for {STALLED:g} s") from error
