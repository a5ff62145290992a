"""Chat and embeddings over HTTP, with OpenAI's own package as the caller and a local fake as the provider."""

from __future__ import annotations

import asyncio
import importlib
import io
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import fake_provider as fake
import pytest
from aiohttp import ClientPayloadError, web
from aiohttp.test_utils import unused_port
from fake_provider import KEY, WORDS, FakeProvider
from served import Person, served
from server import run
from waiting import until

from impetus_service.kit import chat, outgoing

JSON = {"Content-Type": "application/json"}
HELLO = {"messages": [{"role": "user", "content": "Olá"}]}


def openai() -> Any:
    """The package: 0.7 s of CPU, which each process would take that collects this and runs other tests."""
    return importlib.import_module("openai")


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch):
    monkeypatch.setattr(outgoing, "FIRST_PAUSE", 0.0)


@asynccontextmanager
async def chatting(
    database: str, *misbehaviour: fake.Misbehaviour, **settings: str
) -> AsyncIterator[tuple[Person, FakeProvider, Any]]:
    async with FakeProvider() as provider:
        provider.next = list(misbehaviour)
        names = {"OPENAI_BASE_URL": provider.url, "OPENAI_API_KEY": KEY, "HTTP_RETRIES": "0", **settings}
        async with served(database, **names) as service:
            admin = await service.administrator()
            url = str(service.client.make_url("/v1"))
            async with openai().AsyncOpenAI(base_url=url, api_key=admin.token, max_retries=0) as client:
                yield admin, provider, client


def test_openais_package_is_answered_as_by_openai(database):
    async def main() -> None:
        async with chatting(database) as (_, provider, client):
            completion = await client.chat.completions.create(model="m", temperature=0.5, **HELLO)
            assert completion.choices[0].message.content == "".join(WORDS)
            stream = await client.chat.completions.create(model="m", stream=True, **HELLO)
            assert [chunk.choices[0].delta.content async for chunk in stream] == WORDS
            vectors = await client.embeddings.create(model="e", input=["a", "bcd"])
            assert [item.embedding for item in vectors.data] == [[1.0, 0.5], [3.0, 0.5]]
            assert provider.seen[0] == {**HELLO, "model": "m", "temperature": 0.5}

    run(main())


def test_who_has_no_session_or_asks_for_nonsense_is_told_without_the_provider(database):
    async def main() -> None:
        async with chatting(database) as (admin, provider, client):
            with pytest.raises(openai().AuthenticationError):
                await client.with_options(api_key="imp_" + "x" * 43).chat.completions.create(model="m", **HELLO)
            for body in ({}, {"messages": []}, {"messages": "x"}, {**HELLO, "stream": "yes"}, {**HELLO, "model": ""}):
                assert (await admin("POST", "/v1/chat/completions", json=body))[0] == 422
            for body in ({}, {"input": []}, {"input": ""}, {"input": [1]}, {"input": ["a"] * 2049}):
                assert (await admin("POST", "/v1/embeddings", json=body))[0] == 422
            assert provider.seen == []

    run(main())


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("misbehaviour", "status", "error"),
    [
        (fake.status(429, Retry_After="30"), 503, "InternalServerError"),
        (fake.status(500), 503, "InternalServerError"),
        (fake.status(401), 502, "InternalServerError"),
        (fake.status(400), 400, "BadRequestError"),
        (fake.rubbish, 502, "InternalServerError"),
        (fake.cut, 503, "InternalServerError"),
        (FakeProvider.hang, 503, "InternalServerError"),
    ],
)
def test_a_provider_that_fails_is_a_clear_answer(database, misbehaviour, status, error, stream):
    async def main() -> None:
        hangs = misbehaviour is FakeProvider.hang
        async with chatting(database, OPENAI_TIMEOUT_MS="100" if hangs else "20000") as (admin, provider, client):
            provider.next = [provider.hang if hangs else misbehaviour]
            with pytest.raises(getattr(openai(), error)) as failure:
                await client.chat.completions.create(model="m", stream=stream, **HELLO)
            assert failure.value.status_code == status
            code = {400: "refused_by_provider", 502: "provider_failed", 503: "provider_unavailable"}[status]
            kind = "x" if status == 400 else "server_error"
            body = failure.value.body
            assert {**body, "message": ""} == {"message": "", "type": kind, "param": None, "code": code}
            assert provider.url.split("/")[2] not in failure.value.response.text
            assert ("Retry-After" in failure.value.response.headers) == (status == 503)
            assert KEY not in failure.value.response.text
            assert (await admin("GET", "/api/auth/me"))[0] == 200  # the worker has taken no harm

    run(main())


def test_all_that_goes_wrong_below_v1_is_told_as_openai_would(database):
    async def main() -> None:
        async with chatting(database) as (admin, provider, _):
            too_long = json.dumps({"input": "x" * 3_000_000}).encode()
            for who, method, path, options, status, code, param in (
                (admin.served, "POST", "/v1/embeddings", {"json": {"input": "a"}}, 401, "session_required", None),
                (admin, "GET", "/v1/models", {}, 404, "not_found", None),
                (admin, "GET", "/v1/embeddings", {}, 405, "method_not_allowed", None),
                (
                    admin,
                    "POST",
                    "/v1/embeddings",
                    {"data": io.BytesIO(too_long), "headers": JSON},
                    413,
                    "body_too_large",
                    None,
                ),
                (admin, "POST", "/v1/embeddings", {"data": "x"}, 415, "unsupported_media_type", None),
                (admin, "POST", "/v1/embeddings", {"data": "{", "headers": JSON}, 400, "malformed_json", None),
                (admin, "POST", "/v1/embeddings", {"json": {"input": ["a", 1]}}, 422, "invalid", "input[1]"),
            ):
                got, answer = await who(method, path, **options)
                assert (got, set(answer)) == (status, {"error"}), answer
                error = answer["error"]
                assert set(error) == {"message", "type", "param", "code"}
                assert (error["type"], error["param"], error["code"]) == ("invalid_request_error", param, code)
            assert provider.seen == []

    run(main())


def test_what_the_provider_says_of_a_refusal_is_passed_on_without_addresses_and_keys(database):
    async def refuse(request: web.Request) -> web.StreamResponse:
        message = f"no m at http://vllm-3.cluster.example:8000/v1 (10.0.0.7:8000, [fd00::1]:80, localhost:1, {request.host}) for {KEY}"
        error = {"message": message, "type": "invalid_request_error", "param": "model", "code": 404}
        return web.json_response({"error": error}, status=400)

    async def main() -> None:
        async with chatting(database, refuse) as (_, _, client):
            with pytest.raises(openai().BadRequestError) as failure:
                await client.chat.completions.create(model="m", **HELLO)
            error = failure.value.body
            assert (error["type"], error["param"], error["code"]) == ("invalid_request_error", "model", "404")
            assert error["message"] == (
                "the provider rejected the request: no m at http://***/v1 (***, ***, ***, ***) for ***"
            )

    run(main())


def test_a_provider_that_cannot_be_reached_is_no_address_for_the_caller(database, caplog):
    async def main() -> None:
        address = f"127.0.0.1:{unused_port()}"
        async with served(database, OPENAI_BASE_URL=f"http://{address}/v1", HTTP_RETRIES="0") as service:
            admin = await service.administrator()
            for _ in range(6):  # the last one by the breaker
                status, answer = await admin("POST", "/v1/chat/completions", json=HELLO)
                assert (status, answer["error"]["code"]) == (503, "provider_unavailable")
                assert "127.0.0.1" not in str(answer)
            assert "requests to it are suspended" in answer["error"]["message"]
        assert address in caplog.text  # but the operator's

    run(main())


def test_as_many_inputs_as_are_documented_are_embedded_whatever_their_answers_bytes(database):
    """2,048 vectors of 1,536 numbers are 70 MB as OpenAI writes them: more than HTTP_ANSWER_MAX_BYTES."""
    vector = "[" + ",".join(f"{-0.0069292834 - n / 1e6:.18f}" for n in range(1536)) + "]"

    async def embed(request: web.Request) -> web.StreamResponse:
        texts = (await request.json())["input"]
        data = ",".join(f'{{"object":"embedding","index":{n},"embedding":{vector}}}' for n in range(len(texts)))
        usage = f'{{"prompt_tokens":{len(texts)},"total_tokens":{len(texts)}}}'
        body = f'{{"object":"list","data":[{data}],"model":"e","usage":{usage}}}'
        return web.Response(text=body, content_type="application/json")

    async def main() -> None:
        async with chatting(database, *[embed] * 21) as (admin, provider, _):
            texts = [str(number) for number in range(2048)]
            status, answer = await admin("POST", "/v1/embeddings", json={"input": texts, "model": "e"})
            assert (status, answer["object"], answer["model"]) == (200, "list", "e")
            assert [each["index"] for each in answer["data"]] == list(range(2048))
            assert {len(each["embedding"]) for each in answer["data"]} == {1536}
            assert answer["usage"] == {"prompt_tokens": 2048, "total_tokens": 2048}
            assert sorted((text for body in provider.seen for text in body["input"]), key=int) == texts

    run(main())


@pytest.mark.parametrize("fails", ["0", "2000"])
def test_embeddings_of_which_a_part_fails_are_no_whole_answer(database, fails):
    async def vectors(request: web.Request) -> web.StreamResponse:
        texts = (await request.json())["input"]
        if texts[0] == fails:
            return web.Response(status=500)
        return web.json_response({"data": [{"index": index, "embedding": [0.5]} for index, _ in enumerate(texts)]})

    async def main() -> None:
        async with chatting(database, *[vectors] * 21) as (admin, _, _):
            asked = admin("POST", "/v1/embeddings", json={"input": [str(number) for number in range(2048)]})
            if fails == "0":
                status, answer = await asked
                assert (status, answer["error"]["code"]) == (503, "provider_unavailable")
            else:
                with pytest.raises(ClientPayloadError):
                    await asked

    run(main())


def test_without_a_provider_the_answer_says_what_to_set(database):
    async def main() -> None:
        async with served(database) as service:
            admin = await service.administrator()
            for path, body in (("/v1/chat/completions", HELLO), ("/v1/embeddings", {"input": "a"})):
                status, problem = await admin("POST", path, json=body)
                assert (status, "set OPENAI_BASE_URL" in problem["error"]["message"]) == (503, True)

    run(main())


@pytest.mark.parametrize(
    ("misbehaviour", "told"),
    [
        (fake.break_off_in_the_midst, "closed the connection during its response"),
        (fake.end_early, "stream ended unexpectedly"),
    ],
)
def test_a_stream_that_fails_in_its_midst_is_told_in_it(database, misbehaviour, told):
    async def main() -> None:
        async with chatting(database, misbehaviour) as (_, _, client):
            got = []
            with pytest.raises(openai().APIError, match=told):
                async for chunk in await client.chat.completions.create(model="m", stream=True, **HELLO):
                    got.append(chunk.choices[0].delta.content)  # noqa: PERF401 - what came before is the point
            assert got == ["Good"]

    run(main())


def test_after_so_many_failures_the_provider_is_left_alone(database):
    async def main() -> None:
        failing = [fake.status(500)] * 2
        async with chatting(database, *failing, HTTP_BREAKER_FAILURES="2", HTTP_BREAKER_OPEN_MS="3600000") as (
            admin,
            provider,
            _,
        ):
            for _ in range(4):
                status, _ = await admin("POST", "/v1/chat/completions", json=HELLO)
                assert status == 503
            assert len(provider.seen) == 2
            origin = provider.url.removesuffix("/v1")
            assert (await admin("GET", "/health"))[1]["breakers"] == {origin: "open"}
            text = (await admin("GET", "/metrics"))[1].decode()
            assert f'impetus_breaker{{worker="",target="{origin}",state="open"}} 1\n' in text
            assert f'impetus_breaker{{worker="",target="{origin}",state="closed"}} 0\n' in text

    run(main())


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_takes_its_request_with_it(database, monkeypatch, caplog, stream):
    """As in the pool: there aiohttp does not cancel the handler of a client that has left."""
    monkeypatch.setattr(chat, "LOOK_EVERY", 0.01)

    def runner(app: web.Application, **options: object) -> web.AppRunner:
        return web.AppRunner(app, handler_cancellation=chat.PROVIDER not in app)

    monkeypatch.setattr("aiohttp.test_utils.AppRunner", runner)

    async def main() -> None:
        async with chatting(database) as (admin, provider, _):
            provider.next = [provider.hang_in_the_midst if stream else provider.hang]
            body = {**HELLO, "stream": stream}
            asking = asyncio.create_task(admin("POST", "/v1/chat/completions", json=body))
            await until(lambda: len(provider.seen) == 1)
            asking.cancel()
            await asyncio.wait({asking})
            await asyncio.wait_for(provider.hung_up.wait(), 60)
        assert not [record for record in caplog.records if record.levelname == "ERROR" and record.exc_info]

    run(main())
