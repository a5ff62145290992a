import asyncio
import os
from pathlib import Path

from starlette.applications import Starlette
from starlette.endpoints import WebSocketEndpoint
from starlette.responses import PlainTextResponse, StreamingResponse
from starlette.routing import Route, WebSocketRoute


async def hello(request):
    return PlainTextResponse(str(os.getpid()))


async def stream(request):
    async def parts():
        yield "begun "
        await asyncio.to_thread(Path("go").read_bytes)
        yield "ended"

    return StreamingResponse(parts())


class Echo(WebSocketEndpoint):
    encoding = "text"

    async def on_receive(self, socket, data):
        await socket.send_text(data)


app = Starlette(routes=[Route("/", hello), Route("/stream", stream), WebSocketRoute("/ws", Echo)])
