"""Chat completions and embeddings of an OpenAI-compatible provider, for the members of a company, in OpenAI's own shape.

So the provider's own package can be pointed here: `OpenAI(base_url="http://host/v1", api_key=<a session's token>)`. While the
provider is away the answer is 503 with Retry-After, and nothing else of the service is the slower for it. A streamed
completion that fails in its midst ends with an event that has `error`; all that goes wrong below /v1 is told in that shape.
A client that leaves takes its request to the provider with it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Coroutine
from contextlib import aclosing
from typing import Annotated, Any, TypeVar

import msgspec
from aiohttp import web
from msgspec import Meta

from impetus_service.kit.api import Api
from impetus_service.kit.caller import Caller
from impetus_service.kit.problems import Problem
from impetus_service.kit.provider import DONE, Provider, ProviderError, Reason, Refusal, in_parts
from impetus_service.kit.streams import SSE
from impetus_service.kit.validation import Input

PROVIDER = web.AppKey("provider", Provider)

LOOK_EVERY = 1.0  # seconds between looks whether the client is still there, while the provider is silent
WRITE_TIMEOUT = 30.0  # seconds for the client to take an event

T = TypeVar("T")
Model = Annotated[str, Meta(min_length=1, max_length=200, examples=["gpt-4o-mini"])]
Text = Annotated[str, Meta(min_length=1, max_length=100_000, examples=["Good morning"])]

api = Api("chat", problem=("application/json", Refusal))


class ChatRequest(Input, forbid_unknown_fields=False):
    """What we look at; every further field goes to the provider as it is."""

    messages: Annotated[
        list[dict[str, Any]],
        Meta(min_length=1, max_length=1000, examples=[[{"role": "user", "content": "Good morning"}]]),
    ]
    model: Model | None = None  # else OPENAI_MODEL
    stream: bool | None = None  # as server-sent events


class EmbeddingsRequest(Input, forbid_unknown_fields=False):
    """What we look at; every further field goes to the provider as it is."""

    input: Text | Annotated[list[Text], Meta(min_length=1, max_length=2048)]
    model: Model | None = None  # else OPENAI_EMBEDDING_MODEL


@api.post("/v1/chat/completions", raises=(400, 502, 503), content_types=("application/json", "text/event-stream"))
async def complete_chat(me: Caller, body: ChatRequest, request: web.Request) -> web.StreamResponse:  # noqa: ARG001
    """A completion, in OpenAI's shape."""
    provider = request.app[PROVIDER]
    wanted = await _as_sent(request)
    if body.stream:
        return await _stream(request, provider.events(wanted))
    return await _answer(request, provider.complete(wanted))


@api.post("/v1/embeddings", raises=(400, 502, 503))
async def embed(me: Caller, body: EmbeddingsRequest, request: web.Request) -> web.StreamResponse:  # noqa: ARG001
    """One vector for each input, in OpenAI's shape."""
    provider = request.app[PROVIDER]
    wanted = await _as_sent(request)
    if isinstance(body.input, str) or len(list(in_parts(body.input))) == 1:
        return await _answer(request, provider.embed(wanted))
    response = web.StreamResponse(headers={"Content-Type": "application/json"})
    async with aclosing(provider.embed_in_parts(wanted)) as pieces:
        try:
            while piece := await _while_connected(request, anext(pieces, b"")):
                if not response.prepared:
                    await response.prepare(request)
                async with asyncio.timeout(WRITE_TIMEOUT):
                    await response.write(piece)
        except ProviderError as error:
            raise _problem(error) from error  # in the midst: the frame breaks the answer off
    await response.write_eof()
    return response


async def _as_sent(request: web.Request) -> dict[str, Any]:
    """The body, which has been checked; what is null in it counts as not there."""
    try:
        body: dict[str, Any] = msgspec.json.decode(await request.read())
    except RecursionError:  # in what the checks leave alone
        raise Problem(400, "the body is nested too deeply", "malformed_json") from None
    return {name: value for name, value in body.items() if value is not None}


async def _answer(request: web.Request, asking: Coroutine[Any, Any, bytes]) -> web.Response:
    try:
        return web.Response(body=await _while_connected(request, asking), content_type="application/json")
    except ProviderError as error:
        raise _problem(error) from error


async def _stream(request: web.Request, events: AsyncGenerator[bytes, None]) -> web.StreamResponse:
    response = web.StreamResponse(headers=SSE)
    async with aclosing(events):
        try:
            data = await _while_connected(request, anext(events, DONE))
            await response.prepare(request)
            while data is not DONE:
                await _send(response, data)
                data = await _while_connected(request, anext(events, DONE))
        except ProviderError as error:
            if not response.prepared:
                raise _problem(error) from error
            await _send(response, msgspec.json.encode(Refusal(_reason(_problem(error)))))
        else:
            await _send(response, DONE)
    return response


async def _send(response: web.StreamResponse, data: bytes) -> None:
    async with asyncio.timeout(WRITE_TIMEOUT):
        await response.write(b"data: " + data + b"\n\n")


async def _while_connected(request: web.Request, waiting: Coroutine[Any, Any, T]) -> T:
    """What `waiting` gives; it is cancelled when the client leaves (ConnectionResetError), or when we are."""
    task = asyncio.ensure_future(waiting)
    try:
        while True:
            done, _ = await asyncio.wait({task}, timeout=LOOK_EVERY)
            if done:
                return task.result()
            if request.transport is None or request.transport.is_closing():
                raise ConnectionResetError("the client left")
    finally:
        if not task.done():
            task.cancel()
            await asyncio.wait({task})


class ProviderProblem(Problem):
    """With what the provider itself said, if anything."""

    said: Reason | None = None


def as_openai(problem: Problem) -> web.Response:
    """The response that tells a Problem as OpenAI would: whoever asks below /v1 expects it so."""
    body = msgspec.json.encode(Refusal(_reason(problem)))
    return web.Response(body=body, status=problem.status, headers=problem.headers, content_type="application/json")


def _problem(error: ProviderError) -> ProviderProblem:
    codes = {400: "refused_by_provider", 502: "provider_failed", 503: "provider_unavailable"}
    wait = error.retry_after
    headers = {} if wait is None else {"Retry-After": str(max(1, round(wait)))}
    problem = ProviderProblem(error.status, str(error), codes[error.status], headers=headers)
    problem.said = error.said
    return problem


def _reason(problem: Problem) -> Reason:
    said = problem.said if isinstance(problem, ProviderProblem) else None
    kind = "invalid_request_error" if problem.status < 500 else "server_error"
    param = problem.errors[0].at.removeprefix("body.") if problem.errors else None
    if said is None:
        return Reason(problem.detail, kind, param, problem.code)
    return Reason(problem.detail, said.type or kind, said.param, said.code or problem.code)
