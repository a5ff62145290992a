"""An application that prints, at each request, a good deal more than a pipe takes, in one write."""

from __future__ import annotations

import sys

from aiohttp import web

LINES = 3000
BLOCK = "".join(f"a line of what is printed at a request, number {n}\n" for n in range(LINES))


async def printing(_request: web.Request) -> web.Response:
    sys.stdout.write(BLOCK)
    sys.stdout.flush()
    return web.Response(text="printed")


def make() -> web.Application:
    app = web.Application()
    app.router.add_get("/", printing)
    return app
