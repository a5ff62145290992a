"""The provider's client against a local fake that hangs, breaks off and sends rubbish; OpenAI's package judges the fake."""

from __future__ import annotations

import asyncio
import importlib
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import fake_provider as fake
import pytest
from aiohttp import web
from fake_provider import KEY, WORDS, FakeProvider
from server import run
from waiting import turns

from impetus_service.kit import outgoing, provider
from impetus_service.kit.outgoing import Outgoing
from impetus_service.kit.provider import Provider, ProviderError
from impetus_service.settings import Settings

SETTINGS = Settings("postgresql:///x", openai_api_key=KEY, openai_model="m", openai_embedding_model="e", http_retries=1)
HELLO = {"messages": [{"role": "user", "content": "Olá"}]}


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch):
    monkeypatch.setattr(outgoing, "FIRST_PAUSE", 0.0)


@asynccontextmanager
async def providing(
    *misbehaviour: fake.Misbehaviour, **settings: object
) -> AsyncIterator[tuple[Provider, FakeProvider]]:
    async with FakeProvider() as server:
        server.next = list(misbehaviour)
        changed = replace(SETTINGS, openai_base_url=server.url, **settings)  # type: ignore[arg-type]
        client = Outgoing(changed)
        await client.start()
        try:
            yield Provider(changed, client), server
        finally:
            await client.stop()


async def events(client: Provider) -> list[str]:
    return [json.loads(data)["choices"][0]["delta"]["content"] async for data in client.events(HELLO)]


def test_the_fake_is_what_openais_package_expects():
    openai: Any = importlib.import_module("openai")  # 0.7 s of CPU; not for each process that collects this

    async def main() -> None:
        async with (
            FakeProvider() as server,
            openai.AsyncOpenAI(base_url=server.url, api_key=KEY, max_retries=0) as client,
        ):
            completion = await client.chat.completions.create(model="m", **HELLO)
            assert completion.choices[0].message.content == "".join(WORDS)
            stream = await client.chat.completions.create(model="m", stream=True, **HELLO)
            assert [chunk.choices[0].delta.content async for chunk in stream] == WORDS
            vectors = await client.embeddings.create(model="e", input=["a", "bcd"])
            assert [item.embedding for item in vectors.data] == [[1.0, 0.5], [3.0, 0.5]]
            server.next = [fake.status(429, Retry_After="1")]
            with pytest.raises(openai.RateLimitError):
                await client.chat.completions.create(model="m", **HELLO)

    run(main())


def test_a_completion_a_stream_and_embeddings():
    async def main() -> None:
        async with providing() as (client, server):
            answer = json.loads(await client.complete(HELLO))
            assert answer["choices"][0]["message"]["content"] == "".join(WORDS)
            assert await events(client) == WORDS
            answer = json.loads(await client.embed({"input": ["a", "bcd"]}))
            assert [item["embedding"][0] for item in answer["data"]] == [1.0, 3.0]
            assert json.loads(await client.embed({"input": "a", "model": "other"}))["model"] == "other"
            assert [body["model"] for body in server.seen] == ["m", "m", "e", "other"]

    run(main())


REFUSALS = [
    (fake.status(429, Retry_After="30"), 503, "the provider has too many requests at the moment"),
    (fake.status(500), 503, "the provider failed with status 500"),
    (fake.status(401), 502, r"the provider rejected the API key \(status 401\); see OPENAI_API_KEY"),
    (fake.status(404), 400, "the provider rejected the request: no such model"),
    (fake.status(302), 502, "the provider answered with status 302"),
    (fake.cut, 503, "sent no valid HTTP response: ServerDisconnectedError"),
    (fake.break_off, 503, "closed the connection during its response"),
    (FakeProvider.hang, 503, r"did not respond within 0\.\d+ s"),
]
WHOLE = [
    (fake.rubbish, 502, "the provider's response does not match OpenAI's format"),
    (fake.other_json, 502, "the provider's response does not match OpenAI's format|1 embeddings for 1 inputs"),
    (fake.endless, 503, "more than 100000 bytes"),
]
STREAMED = [
    (fake.rubbish, 502, "the provider's response does not match OpenAI's format"),
    (fake.other_json, 502, "the provider's stream ended unexpectedly"),
    (fake.endless, 502, "a line of more than 1000000 bytes"),
]
CASES = [(ask, *case) for ask in ("complete", "embed") for case in REFUSALS + WHOLE]
CASES += [("events", *case) for case in REFUSALS + STREAMED]


def test_a_slow_provider_has_the_whole_time_in_one_attempt():
    """HTTP_TIMEOUT_MS and HTTP_RETRIES are for other targets, and for what fails at once."""

    async def slow(_request: web.Request) -> None:
        await asyncio.sleep(0.1)

    async def main() -> None:
        for ask in ("complete", "embed"):
            settings = {"http_timeout_ms": 1, "http_retries": 3}
            async with providing(slow, **settings) as (client, server):
                await getattr(client, ask)(HELLO if ask == "complete" else {"input": "a"})
                assert len(server.seen) == 1
            async with providing(openai_timeout_ms=100, **settings) as (client, server):
                server.next = [server.hang]
                with pytest.raises(ProviderError, match=r"did not respond within 0\.[01]\d* s") as failure:
                    await getattr(client, ask)(HELLO if ask == "complete" else {"input": "a"})
                assert failure.value.status == 503
                assert len(server.seen) <= 1  # none, if it ended before it came to the provider
            async with providing(fake.status(500), fake.status(429), fake.cut, **settings) as (client, server):
                await getattr(client, ask)(HELLO if ask == "complete" else {"input": "a"})
                assert len(server.seen) == 4

    run(main())


def test_a_completion_has_thirty_seconds_unless_told():
    assert Settings("postgresql:///x").openai_timeout_ms == 30_000


@pytest.mark.parametrize(("ask", "misbehaviour", "status", "sentence"), CASES)
def test_whatever_the_provider_does_is_an_error_of_ours(ask, misbehaviour, status, sentence):
    async def main() -> None:
        hangs = misbehaviour is FakeProvider.hang
        limit = {"openai_timeout_ms": 50} if hangs else {}
        async with providing(http_answer_max_bytes=100_000, http_retries=0, **limit) as (client, server):
            server.next = [server.hang if hangs else misbehaviour]
            asks = {
                "complete": lambda: client.complete(HELLO),
                "embed": lambda: client.embed({"input": "a"}),
                "events": lambda: events(client),
            }
            with pytest.raises(ProviderError, match=sentence) as failure:
                await asyncio.wait_for(asks[ask](), 60)
            assert failure.value.status == status
            assert (failure.value.retry_after is not None) == (status == 503)
            assert KEY not in str(failure.value)

    run(main())


def test_a_busy_provider_is_asked_again_when_it_says_so():
    async def main() -> None:
        async with providing(fake.status(429, Retry_After="0")) as (client, server):
            assert json.loads(await client.complete(HELLO))["choices"]
            one, two = server.headers
            assert one["Idempotency-Key"] == two["Idempotency-Key"]
            server.next = [fake.status(429, Retry_After="40")]
            with pytest.raises(ProviderError) as failure:
                await client.complete(HELLO)
            assert failure.value.retry_after == 40

    run(main())


@pytest.mark.parametrize("misbehaviour", [fake.break_off_in_the_midst, fake.end_early, FakeProvider.hang_in_the_midst])
def test_a_stream_that_fails_in_the_midst_has_given_what_there_was(misbehaviour):
    async def main() -> None:
        hangs = misbehaviour is FakeProvider.hang_in_the_midst
        async with providing(openai_timeout_ms=100 if hangs else 60_000) as (client, server):
            got = []
            while not got:  # the silence may have begun before the first of it came
                server.next = [server.hang_in_the_midst if hangs else misbehaviour]
                with pytest.raises(ProviderError):
                    async for data in client.events(HELLO):
                        got.append(data)  # noqa: PERF401 - what came before the failure is the point
            assert [json.loads(data)["choices"][0]["delta"]["content"] for data in got] == ["Good"]

    run(main())


@pytest.mark.parametrize("part", [b'data: {"choices": []}\n\n', b"x"])
def test_a_stream_without_end_is_ended(part):
    async def ticking(request):
        response = await fake.sse(request)
        while True:
            await response.write(part)
            await asyncio.sleep(0.001)

    async def main() -> None:
        async with providing(ticking, openai_stream_ms=50) as (client, _):
            with pytest.raises(ProviderError, match=r"did not end within 0\.05 s"):
                async for _ in client.events(HELLO):
                    pass

    run(main())


def test_a_caller_that_leaves_hangs_up_on_the_provider():
    async def main() -> None:
        async with providing() as (client, server):
            server.next = [server.hang_in_the_midst]
            stream = client.events(HELLO)
            assert b"Good" in await anext(stream)
            waiting = asyncio.create_task(anext(stream))
            await turns()
            waiting.cancel()
            await asyncio.wait([waiting])
            await stream.aclose()
            await asyncio.wait_for(server.hung_up.wait(), 60)

    run(main())


def test_without_a_provider_it_says_what_to_set():
    async def main() -> None:
        client = Provider(Settings("postgresql:///x"), Outgoing(Settings("postgresql:///x")))
        for ask in (client.complete(HELLO), client.embed({"input": "a"}), events(client)):
            with pytest.raises(ProviderError, match="set OPENAI_BASE_URL or OPENAI_API_KEY") as failure:
                await ask
            assert failure.value.status == 503

    run(main())


def test_a_line_that_is_cut_anywhere_is_read_whole(monkeypatch):
    async def bytewise(request):
        response = await fake.sse(request)
        for (
            byte
        ) in 'data: {"choices": [{"index": 0, "delta": {"content": "é"}}]}\r\n\r\n: note\n\ndata:[DONE]\n\n'.encode():
            await response.write(bytes([byte]))
            await turns()
        return response

    async def main() -> None:
        async with providing(bytewise) as (client, _):
            assert await events(client) == ["é"]

    monkeypatch.setattr(provider, "EVENT_MAX_BYTES", 200)
    run(main())
