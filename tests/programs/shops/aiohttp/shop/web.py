import asyncio
import os
from pathlib import Path

from aiohttp import web


async def hello(request):
    return web.Response(text=str(os.getpid()))


async def stream(request):
    response = web.StreamResponse()
    await response.prepare(request)
    await response.write(b"begun ")
    await asyncio.to_thread(Path("go").read_bytes)
    await response.write(b"ended")
    return response


async def echo(request):
    socket = web.WebSocketResponse()
    await socket.prepare(request)
    async for message in socket:
        await socket.send_str(message.data)
    return socket


def create_app():
    app = web.Application()
    app.add_routes([web.get("/", hello), web.get("/stream", stream), web.get("/ws", echo)])
    return app
