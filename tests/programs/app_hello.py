"""A pool application that does on request what applications do: answer, wait, stream, fail in every way."""

from __future__ import annotations

import asyncio
import os
import random
import sys
import threading
import time

from aiohttp import web

FACT = random.random()


class Boom(Exception):
    pass


async def hello(_request: web.Request) -> web.Response:
    return web.Response(text=f"{os.getpid()}")


async def slow(request: web.Request) -> web.Response:
    """Answers when /release is asked for."""
    print("slow has begun", flush=True)
    await request.app["released"].wait()
    print("slow has ended", flush=True)
    return web.Response(text="slow")


async def release(request: web.Request) -> web.Response:
    request.app["released"].set()
    return web.Response(text="released")


async def stream(request: web.Request) -> web.StreamResponse:
    """The headers and one chunk at once, the rest after /release."""
    response = web.StreamResponse()
    await response.prepare(request)
    await response.write(b"begun ")
    await request.app["released"].wait()
    await response.write(b"ended")
    return response


async def upload(request: web.Request) -> web.Response:
    return web.Response(text=str(len(await request.read())))


async def numbers(_request: web.Request) -> web.Response:
    return web.json_response({"import": FACT, "now": random.random()})


async def task(_request: web.Request) -> web.Response:
    async def fail() -> None:
        raise Boom("in a task")

    asyncio.get_running_loop().create_task(fail())  # nobody awaits it: that is the point
    return web.Response(text="started")


async def thread(_request: web.Request) -> web.Response:
    def fail() -> None:
        raise Boom("in a thread")

    threading.Thread(target=fail, name="careless").start()
    return web.Response(text="started")


async def leave(_request: web.Request) -> web.Response:
    sys.exit(3)


async def block(_request: web.Request) -> web.Response:
    print("blocking", flush=True)
    while True:
        time.sleep(1000)  # noqa: ASYNC251 # the loop is meant to stand still


async def stick(request: web.Request) -> web.Response:
    request.app["sticks"] = True
    return web.Response(text="will not clean up")


async def marks(app: web.Application):
    print("context entered", flush=True)
    yield
    print("context left", flush=True)
    if app.get("sticks"):
        await asyncio.Event().wait()


def make() -> web.Application:
    app = web.Application()
    app["released"] = asyncio.Event()
    app["sticks"] = False
    app.cleanup_ctx.append(marks)
    for handler in (slow, release, stream, numbers, task, thread, leave, block, stick):
        app.router.add_get(f"/{handler.__name__}", handler)
    app.router.add_get("/", hello)
    app.router.add_post("/upload", upload)
    return app


async def make_async() -> web.Application:
    await asyncio.sleep(0)
    return make()


async def make_never() -> web.Application:
    print("factory called", flush=True)
    await asyncio.Event().wait()
    raise AssertionError


def make_failing() -> web.Application:
    raise Boom("in the factory")


def make_exiting() -> web.Application:
    sys.exit(5)


def make_nothing() -> None:
    return None


async def fails(_app: web.Application):
    raise Boom("in a context")
    yield


def make_with_failing_context() -> web.Application:
    app = make()
    app.cleanup_ctx.append(fails)
    return app


application = web.Application()
application.router.add_get("/", hello)
