import asyncio
import os
from pathlib import Path

from litestar import Litestar, MediaType, WebSocket, get, websocket
from litestar.exceptions import WebSocketDisconnect
from litestar.response import Stream


@get("/", media_type=MediaType.TEXT)
async def hello() -> str:
    return str(os.getpid())


@get("/stream")
async def stream() -> Stream:
    async def parts():
        yield "begun "
        await asyncio.to_thread(Path("go").read_bytes)
        yield "ended"

    return Stream(parts())


@websocket("/ws")
async def echo(socket: WebSocket) -> None:
    await socket.accept()
    try:
        while True:
            await socket.send_text(await socket.receive_text())
    except WebSocketDisconnect:
        pass


def create_app() -> Litestar:
    return Litestar([hello, stream, echo])
