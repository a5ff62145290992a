"""What is around every request: one shape of errors, a request id, one line in the log."""

from __future__ import annotations

import json

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from conftest import run

from impetus_service import addresses, frame
from impetus_service.api import Api
from impetus_service.db import Unavailable
from impetus_service.problems import Problem
from impetus_service.request_id import HEADER, REQUEST_ID


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
        ("/nowhere", "GET", 404, "there is nothing at /nowhere"),
        ("/there", "PUT", 405, "/there takes GET, HEAD, not PUT"),
    ],
)
def test_what_the_framework_refuses_has_the_shape_too(path, method, status, detail):
    response, body = run(get(fine, path, method))
    assert response.content_type == "application/problem+json"
    problem = json.loads(body)
    assert problem["request_id"] == response.headers[HEADER]
    assert (response.status, problem["status"], problem["detail"]) == (status, status, detail)
    assert ("Allow" in response.headers) == (status == 405)


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (Problem(429, "slower", headers={"Retry-After": "7"}), 429),
        (Unavailable("it is away"), 503),
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


@pytest.mark.parametrize("given", [None, "a" * 65, "a b", "é", ""])
def test_a_request_id_is_made(given):
    response, _ = run(get(fine, headers={} if given is None else {HEADER: given}))
    assert response.headers[HEADER] not in {given, ""}
