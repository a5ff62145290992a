"""A pool application whose workers can be made ill one by one: /health is 503 while the file $ILL/PID exists."""

from __future__ import annotations

import os

from aiohttp import web


async def hello(_request: web.Request) -> web.Response:
    return web.Response(text=f"{os.getpid()}")


async def health(_request: web.Request) -> web.Response:
    ill = os.path.exists(f"{os.environ['ILL']}/{os.getpid()}")
    return web.Response(text="no database" if ill else "well", status=503 if ill else 200)


def make() -> web.Application:
    app = web.Application()
    app.router.add_get("/", hello)
    app.router.add_get("/health", health)
    return app
