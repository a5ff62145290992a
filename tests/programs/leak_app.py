"""A pool application whose worker, once /grow is asked for, takes 20 MB more each second; / answers its pid all the while."""

from __future__ import annotations

import asyncio
import os

from aiohttp import web

MB = 1024 * 1024
RATE = 20  # MB a second
STEP = 0.05  # seconds

held: list[bytearray] = []
tasks: set[asyncio.Task[None]] = set()


async def hello(_request: web.Request) -> web.Response:
    return web.Response(text=f"{os.getpid()}")


async def grow(_request: web.Request) -> web.Response:
    async def leak() -> None:
        while len(held) * STEP * RATE < 2000:
            held.append(bytearray(os.urandom(4096) * int(RATE * STEP * MB / 4096)))
            await asyncio.sleep(STEP)

    tasks.add(asyncio.create_task(leak()))
    return web.Response(text=f"{os.getpid()}")


def make() -> web.Application:
    app = web.Application()
    app.router.add_get("/", hello)
    app.router.add_get("/grow", grow)
    return app
