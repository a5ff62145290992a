"""A pool application that does on request what applications do: answer, wait, stream, fail in every way."""

from __future__ import annotations

import asyncio
import os
import random
import sys
import threading
import time

os.environ["SSL_CERT_FILE"] = os.devnull  # aiohttp reads all certificates as it is imported: 35 of 200 ms of CPU

from aiohttp import web

from impetusd.worker.draining import DRAINING

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


async def until(request: web.Request) -> web.Response:
    """Answers when the file that the query names is there."""
    print("until has begun", flush=True)
    while not os.path.exists(request.query_string):  # noqa: ASYNC110 # nobody of this process makes it
        await asyncio.sleep(0.01)
    return web.Response(text="until")


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


async def ready(request: web.Request) -> web.Response:
    return web.Response(text="no" if request.app[DRAINING].is_set() else "yes")


async def sse(request: web.Request) -> web.StreamResponse:
    """An event, and then no end."""
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await response.prepare(request)
    await response.write(b"data: hello\n\n")
    await asyncio.Event().wait()
    return response


async def ws(request: web.Request) -> web.WebSocketResponse:
    socket = web.WebSocketResponse()
    await socket.prepare(request)
    async for message in socket:
        await socket.send_str(str(message.data))
    print(f"closed with {socket.close_code}", flush=True)
    return socket


async def broken(_request: web.Request) -> web.Response:
    raise web.HTTPServiceUnavailable


async def nothing(_request: web.Request) -> None:
    pass


async def bug(_request: web.Request) -> web.Response:
    raise Boom("in a handler")


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


async def spin(_request: web.Request) -> web.Response:
    print("spinning", flush=True)
    while True:
        pass


async def crunch(_request: web.Request) -> web.Response:
    """C code that holds the interpreter lock and does not look for signals."""
    print("crunching", flush=True)
    return web.Response(text=str(sum(range(10**13))))


async def tick(_request: web.Request) -> web.Response:
    """A thread that is blocked, and that a normal exit waits for."""
    threading.Thread(target=threading.Event().wait, name="ticker").start()
    return web.Response(text="ticks")


async def hang(_request: web.Request) -> web.Response:
    print("hang has begun", flush=True)
    try:
        await asyncio.Event().wait()
    finally:
        print("hang has ended", flush=True)
    raise AssertionError


async def remote(request: web.Request) -> web.Response:
    return web.Response(text=repr(request.transport and request.transport.get_extra_info("peername")))


async def stick(request: web.Request) -> web.Response:
    request.app["sticks"] = True
    return web.Response(text="will not clean up")


async def marks(app: web.Application):
    print("context entered", flush=True)
    yield
    print("context left", flush=True)
    if app.get("sticks"):
        await asyncio.Event().wait()


_HANDLERS = (
    slow,
    until,
    release,
    stream,
    numbers,
    task,
    thread,
    leave,
    block,
    spin,
    crunch,
    tick,
    hang,
    remote,
    stick,
    ready,
    sse,
    ws,
    broken,
    nothing,
    bug,
)


def make() -> web.Application:
    app = web.Application()
    app["released"] = asyncio.Event()
    app["sticks"] = False
    app.cleanup_ctx.append(marks)
    for handler in _HANDLERS:
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
