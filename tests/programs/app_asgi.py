"""The same for ASGI, without a framework: what `app_hello` does on request, as far as it is the server's business."""

from __future__ import annotations

import asyncio
import json
import os
import time

RELEASED: asyncio.Event


class Boom(Exception):
    pass


async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        await lifespan(receive, send)
    elif scope["type"] == "websocket":
        await echo(receive, send)
    else:
        await HANDLERS.get(scope["path"].removeprefix(scope["root_path"]), missing)(scope, receive, send)


async def lifespan(receive, send):
    global RELEASED  # noqa: PLW0603
    RELEASED = asyncio.Event()
    assert (await receive())["type"] == "lifespan.startup"
    print("context entered", flush=True)
    await send({"type": "lifespan.startup.complete"})
    assert (await receive())["type"] == "lifespan.shutdown"
    print("context left", flush=True)
    await send({"type": "lifespan.shutdown.complete"})


async def failing(scope, receive, send):
    if scope["type"] == "lifespan":
        await receive()
        await send({"type": "lifespan.startup.failed", "message": "Boom: in the lifespan"})


def make():
    return app


async def make_async():
    return app


async def echo(receive, send):
    assert (await receive())["type"] == "websocket.connect"
    await send({"type": "websocket.accept"})
    while (message := await receive())["type"] == "websocket.receive":
        await send({"type": "websocket.send", "text": message["text"]})
    print(f"closed with {message['code']}", flush=True)


async def answer(send, text, status=200, headers=()):
    body = str(text).encode()
    head = [(b"content-length", str(len(body)).encode()), *headers]
    await send({"type": "http.response.start", "status": status, "headers": head})
    await send({"type": "http.response.body", "body": body})


async def missing(scope, receive, send):
    await answer(send, "no such page", 404)


async def hello(scope, receive, send):
    await answer(send, os.getpid())


async def slow(scope, receive, send):
    print("slow has begun", flush=True)
    await RELEASED.wait()
    print("slow has ended", flush=True)
    await answer(send, "slow", headers=[(b"connection", b"keep-alive")])


async def until(scope, receive, send):
    print("until has begun", flush=True)
    while not os.path.exists(scope["query_string"].decode()):  # noqa: ASYNC110 # nobody of this process makes it
        await asyncio.sleep(0.01)
    await answer(send, "until")


async def release(scope, receive, send):
    RELEASED.set()
    await answer(send, "released")


async def stream(scope, receive, send):
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"begun ", "more_body": True})
    await RELEASED.wait()
    await send({"type": "http.response.body", "body": b"ended"})


async def sse(scope, receive, send):
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"data: hello\n\n", "more_body": True})
    await asyncio.Event().wait()


async def upload(scope, receive, send):
    size, more = 0, True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        size += len(message["body"])
        more = message.get("more_body", False)
    await answer(send, size)


async def ready(scope, receive, send):
    await answer(send, "no" if scope["state"]["impetusd_draining"].is_set() else "yes")


async def broken(scope, receive, send):
    await answer(send, "broken", 503)


async def bug(scope, receive, send):
    raise Boom("in a handler")


async def hang(scope, receive, send):
    print("hang has begun", flush=True)
    try:
        await asyncio.Event().wait()
    finally:
        print("hang has ended", flush=True)


async def block(scope, receive, send):
    print("blocking", flush=True)
    while True:
        time.sleep(1000)  # noqa: ASYNC251 # the loop is meant to stand still


async def seen(scope, receive, send):
    what = {name: scope[name] for name in ("client", "scheme", "root_path", "path")}
    await answer(send, json.dumps(what))


HANDLERS = {
    f"/{each.__name__}": each
    for each in (slow, until, release, stream, sse, upload, ready, broken, bug, hang, block, seen)
} | {"/": hello}
