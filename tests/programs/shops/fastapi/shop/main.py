import asyncio
import os
from contextlib import asynccontextmanager
from pathlib import Path

from fastapi import FastAPI, Request, WebSocket, WebSocketDisconnect
from fastapi.responses import PlainTextResponse, StreamingResponse


@asynccontextmanager
async def lifespan(app):
    yield {"pid": os.getpid()}


app = FastAPI(lifespan=lifespan)


@app.get("/", response_class=PlainTextResponse)
async def hello(request: Request):
    return str(request.state.pid)


@app.get("/stream")
async def stream():
    async def parts():
        yield "begun "
        await asyncio.to_thread(Path("go").read_bytes)
        yield "ended"

    return StreamingResponse(parts())


@app.websocket("/ws")
async def echo(socket: WebSocket):
    await socket.accept()
    try:
        while True:
            await socket.send_text(await socket.receive_text())
    except WebSocketDisconnect:
        pass
