"""A local OpenAI-compatible endpoint that answers, or misbehaves as it is told to."""

from __future__ import annotations

import asyncio
import base64
import struct
from collections.abc import Awaitable, Callable
from typing import Any, Self

from aiohttp import web
from aiohttp.test_utils import TestServer

Misbehaviour = Callable[[web.Request], Awaitable[web.StreamResponse]]
WORDS = ["Good", " morning", ", João"]
KEY = "sk-fake-secret"


class FakeProvider:
    """`async with` it; `url` is the OPENAI_BASE_URL. `next` holds what the coming requests meet before it answers well."""

    def __init__(self) -> None:
        self.next: list[Misbehaviour] = []
        self.seen: list[dict[str, Any]] = []  # bodies
        self.headers: list[dict[str, str]] = []
        self.let_go = asyncio.Event()  # what hangs goes on
        self.hung_up = asyncio.Event()  # the client of what hangs has left
        app = web.Application()
        app.router.add_post("/v1/chat/completions", self._completions)
        app.router.add_post("/v1/embeddings", self._embeddings)
        self._server = TestServer(app)

    @property
    def url(self) -> str:
        return str(self._server.make_url("/v1"))

    async def __aenter__(self) -> Self:
        # A handler is cancelled when its client leaves: that is how the tests see it.
        await self._server.start_server()
        return self

    async def __aexit__(self, *_: object) -> None:
        self.let_go.set()
        await self._server.close()

    async def _note(self, request: web.Request) -> web.StreamResponse | None:
        self.seen.append(await request.json())
        self.headers.append(dict(request.headers))
        if request.headers.get("Authorization") != f"Bearer {KEY}":
            return web.json_response({"error": {"message": f"Incorrect key {KEY}", "type": "auth"}}, status=401)
        return await self.next.pop(0)(request) if self.next else None

    async def _completions(self, request: web.Request) -> web.StreamResponse:
        answer = await self._note(request)
        if answer is not None:
            return answer
        body = self.seen[-1]
        head = {"id": "chatcmpl-1", "created": 1700000000, "model": body["model"]}
        if not body.get("stream"):
            message = {"role": "assistant", "content": "".join(WORDS)}
            choice = {"index": 0, "message": message, "finish_reason": "stop"}
            usage = {"prompt_tokens": 3, "completion_tokens": 3, "total_tokens": 6}
            return web.json_response({**head, "object": "chat.completion", "choices": [choice], "usage": usage})
        response = await sse(request)
        for word in WORDS:
            choice = {"index": 0, "delta": {"content": word}, "finish_reason": None}
            await event(response, {**head, "object": "chat.completion.chunk", "choices": [choice]})
        await response.write(b"data: [DONE]\n\n")
        return response

    async def _embeddings(self, request: web.Request) -> web.StreamResponse:
        answer = await self._note(request)
        if answer is not None:
            return answer
        body = await request.json()
        texts = body["input"] if isinstance(body["input"], list) else [body["input"]]
        data = []
        for index, text in enumerate(texts):
            vector: Any = [float(len(text)), 0.5]
            if body.get("encoding_format") == "base64":
                vector = base64.b64encode(struct.pack("<2f", *vector)).decode()
            data.append({"object": "embedding", "index": index, "embedding": vector})
        usage = {"prompt_tokens": 1, "total_tokens": 1}
        return web.json_response({"object": "list", "data": data, "model": body["model"], "usage": usage})

    async def hang(self, request: web.Request) -> web.StreamResponse:
        try:
            await self.let_go.wait()
        except asyncio.CancelledError:
            self.hung_up.set()
            raise
        return web.Response()

    async def hang_in_the_midst(self, request: web.Request) -> web.StreamResponse:
        response = await sse(request)
        await event(response, {"choices": [{"index": 0, "delta": {"content": "Good"}}]})
        try:
            await self.let_go.wait()
        except asyncio.CancelledError:
            self.hung_up.set()
            raise
        return response


async def sse(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    response.enable_chunked_encoding()
    await response.prepare(request)
    return response


async def event(response: web.StreamResponse, data: dict[str, Any]) -> None:
    await response.write(b"data: " + web.json_response(data).body + b"\n\n")  # type: ignore[operator]


async def break_off(request: web.Request) -> web.StreamResponse:
    """Say a part of an answer, then cut the connection."""
    response = web.StreamResponse(headers={"Content-Length": "1000"})
    await response.prepare(request)
    await response.write(b'{"choices": [')
    assert request.transport is not None
    request.transport.close()
    return response


async def break_off_in_the_midst(request: web.Request) -> web.StreamResponse:
    """Stream an event, then cut the connection."""
    response = await sse(request)
    await event(response, {"choices": [{"index": 0, "delta": {"content": "Good"}}]})
    assert request.transport is not None
    request.transport.close()
    return response


async def end_early(request: web.Request) -> web.StreamResponse:
    """Stream an event and end in good order, but without [DONE]."""
    response = await sse(request)
    await event(response, {"choices": [{"index": 0, "delta": {"content": "Good"}}]})
    return response


async def rubbish(request: web.Request) -> web.StreamResponse:
    """Answer 200 with what is no JSON."""
    return web.Response(body=b"data: <html>\xff\xfe</html>\n\n", content_type="application/json")


async def other_json(request: web.Request) -> web.StreamResponse:
    """Answer 200 with JSON of another shape."""
    return web.json_response({"choices": "none", "data": [{"index": 7, "embedding": []}]})


async def endless(request: web.Request) -> web.StreamResponse:
    """Never end the answer, nor the line."""
    response = web.StreamResponse()
    await response.prepare(request)
    while True:
        await response.write(b"x" * 65536)


async def cut(request: web.Request) -> web.StreamResponse:
    """Say nothing and close the connection."""
    assert request.transport is not None
    request.transport.close()
    return web.Response()


def status(number: int, **headers: str) -> Misbehaviour:
    """Answer with `number` and OpenAI's shape of an error."""

    async def answer(request: web.Request) -> web.StreamResponse:
        head = {name.replace("_", "-"): value for name, value in headers.items()}
        return web.json_response({"error": {"message": "no such model", "type": "x"}}, status=number, headers=head)

    return answer
