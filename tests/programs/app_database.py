"""A pool application that needs a database: /health is 503 unless something listens at $DATABASE_PORT."""

from __future__ import annotations

import asyncio
import os

from aiohttp import web


async def health(_request: web.Request) -> web.Response:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", int(os.environ["DATABASE_PORT"]))
    except OSError as error:
        return web.Response(text=f"no database: {error.strerror}", status=503)
    writer.close()
    return web.Response(text="well")


def make() -> web.Application:
    app = web.Application()
    app.router.add_get("/health", health)
    return app
