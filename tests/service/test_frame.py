"""What is around every request: one shape of errors, a request id, one line in the log."""

from __future__ import annotations

import json
from typing import Annotated

import asyncpg
import msgspec
import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from server import run

from impetus_service.kit import addresses, frame
from impetus_service.kit.api import Api
from impetus_service.kit.db import Unavailable
from impetus_service.kit.problems import CODES, Problem, code_of
from impetus_service.kit.request_id import HEADER, REQUEST_ID
from impetus_service.kit.validation import Input


def application(handler) -> web.Application:
    api = Api("test")
    api.get("/there")(handler)
    app = web.Application(middlewares=[frame.frame])
    app[addresses.PROXY_HOPS] = 0
    app.on_response_prepare.append(frame.name_response)
    app.add_routes(api.routes())
    return app


async def fine(request: web.Request) -> web.Response:
    return web.json_response({"id": REQUEST_ID.get()})


async def get(handler, path="/there", method="GET", **options):
    async with (
        TestClient(TestServer(application(handler))) as client,
        client.request(method, path, **options) as response,
    ):
        return response, await response.read()


@pytest.mark.parametrize(
    ("path", "method", "status", "detail"),
    [
        ("/nowhere", "GET", 404, "/nowhere does not exist"),
        ("/there", "PUT", 405, "/there supports GET, HEAD, not PUT"),
    ],
)
def test_what_the_framework_refuses_has_the_shape_too(path, method, status, detail):
    response, body = run(get(fine, path, method))
    assert response.content_type == "application/problem+json"
    problem = json.loads(body)
    assert problem["request_id"] == response.headers[HEADER]
    assert (response.status, problem["status"], problem["detail"]) == (status, status, detail)
    assert problem["code"] == code_of(status)
    assert ("Allow" in response.headers) == (status == 405)


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (Problem(429, "slower", headers={"Retry-After": "7"}), 429),
        (Unavailable("it is away"), 503),
        (asyncpg.CharacterNotInRepertoireError("a NUL in text"), 422),
        (asyncpg.UntranslatableCharacterError("a NUL in jsonb"), 422),
        (ZeroDivisionError("hunter2"), 500),
    ],
)
def test_what_a_handler_raises_has_the_shape(error, status, caplog):
    async def raises(request: web.Request) -> web.Response:
        raise error

    response, body = run(get(raises))
    assert (response.status, response.content_type) == (status, "application/problem+json")
    assert ("Retry-After" in response.headers) == (status in {429, 503})
    assert b"hunter2" not in body
    assert CODES[json.loads(body)["code"]] == status
    assert bool([record for record in caplog.records if record.exc_info]) == (status == 500)


def test_an_answer_that_breaks_off_is_not_complete_for_its_client():
    async def breaks(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(b"half")
        raise Unavailable("it is away")

    with pytest.raises(Exception, match=r"not completed|disconnected|reset"):
        run(get(breaks))


@pytest.mark.parametrize("given", ["abc-1", "a" * 64])
def test_a_request_id_is_accepted(given):
    response, body = run(get(fine, headers={HEADER: given}))
    assert response.headers[HEADER] == json.loads(body)["id"] == given
    assert response.headers["Cache-Control"] == "no-store"


@pytest.mark.parametrize("given", [None, "a" * 65, "a b", "é", ""])
def test_a_request_id_is_made(given):
    response, _ = run(get(fine, headers={} if given is None else {HEADER: given}))
    assert response.headers[HEADER] not in {given, ""}


class Number(Input):
    number: Annotated[int, msgspec.Meta(ge=1, le=9)]


async def put_in(client: TestClient, **request) -> tuple[int, dict]:
    async with client.post("/numbers", **request) as response:
        return response.status, await response.json(content_type=None)


@pytest.mark.parametrize(
    ("request_", "status", "says"),
    [
        ({"json": {"number": 5}}, 201, None),
        ({"json": {"number": 0}}, 422, "body.number: must be at least 1"),
        ({"json": {}}, 422, "body.number: is required"),
        ({"json": [1]}, 422, "body: must be an object, not a list"),
        ({"data": b"{", "headers": {"Content-Type": "application/json"}}, 400, "not JSON"),
        ({"data": b"\xff\xfe", "headers": {"Content-Type": "application/json"}}, 400, "not JSON"),
        ({"data": b'{"number": "\\ud800"}', "headers": {"Content-Type": "application/json"}}, 400, "not JSON"),
        ({"data": b"number=5", "headers": {"Content-Type": "text/plain"}}, 415, "application/json is expected"),
        ({"json": {"number": "x" * 3000}}, 413, "2000"),
    ],
)
def test_a_body_is_checked_before_it_gets_anywhere(request_, status, says):
    async def main() -> None:
        api = Api("test")

        @api.post("/numbers", status=201)
        async def add(body: Number) -> Number:
            return body

        app = application(fine)
        app._client_max_size = 2000
        app.add_routes(api.routes())
        async with TestClient(TestServer(app)) as client:
            got, answer = await put_in(client, **request_)
            assert got == status, answer
            if says is None:
                assert answer == {"number": 5}
            else:
                assert says in answer["detail"]
                assert answer["status"] == status

    run(main())


@pytest.mark.parametrize(
    ("hops", "forwarded", "found"),
    [
        (0, "203.0.113.9", "127.0.0.1"),
        (1, "203.0.113.9", "203.0.113.9"),
        (1, "6.6.6.6, 203.0.113.9", "203.0.113.9"),  # the client itself may have put the first
        (2, "203.0.113.9, 10.0.0.1", "203.0.113.9"),
        (2, "203.0.113.9", "127.0.0.1"),
        (1, "nonsense", "None"),
        (1, "fe80::1%eth0", "fe80::1"),
    ],
)
def test_the_address_is_what_the_trusted_proxies_saw(hops, forwarded, found):
    async def tell(request: web.Request) -> web.Response:
        return web.Response(text=str(addresses.address(request)))

    async def main() -> None:
        app = application(tell)
        app[addresses.PROXY_HOPS] = hops
        async with (
            TestClient(TestServer(app)) as client,
            client.get("/there", headers={"X-Forwarded-For": forwarded}) as response,
        ):
            assert await response.text() == found

    run(main())
