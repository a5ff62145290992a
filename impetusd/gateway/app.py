"""The application that the pool `gateway` serves."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator

from aiohttp import web

from impetusd.client import inherited
from impetusd.client.async_control import through
from impetusd.gateway.backend import Backend
from impetusd.gateway.settings import Settings, settings

BACKEND = web.AppKey("backend", Backend)
SETTINGS = web.AppKey("settings", Settings)
MOST_BODY = 1 << 20  # bytes of a request's body


def create_app() -> web.Application:
    """Of the environment that the worker has. Raises KeyError, ValueError where that is not what impetusd gives it."""
    app = web.Application(client_max_size=MOST_BODY)
    app[SETTINGS] = settings(os.environ)
    app[BACKEND] = Backend(through(inherited.number(os.environ)))
    app.cleanup_ctx.append(_watching)
    app.router.add_get("/health", health)
    return app


async def health(_: web.Request) -> web.Response:
    """Whether this process serves, for whoever asks; it says nothing of what impetusd runs."""
    return web.Response(text="ok\n", headers={"Cache-Control": "no-store"})


async def _watching(app: web.Application) -> AsyncIterator[None]:
    task = asyncio.create_task(app[BACKEND].run())
    yield
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
