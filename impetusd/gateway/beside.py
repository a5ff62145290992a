"""What runs beside the handlers, for as long as the application serves."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

from aiohttp import web


def beside(app: web.Application, run: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Call `run` in a task of its own when the application starts, and cancel that when it ends."""

    async def context(_: web.Application) -> AsyncIterator[None]:
        task = asyncio.create_task(run())
        yield
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task

    app.cleanup_ctx.append(context)
