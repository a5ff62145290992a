"""Whatever bytes a client sends, the answer is its own fault, told as such: never a 500."""

from __future__ import annotations

import asyncio
import base64
import json

import pytest
from served import served
from server import run

NESTED = {
    "arrays": b"[" * 100_000,
    "closed arrays": b"[" * 100_000 + b"]" * 100_000,
    "objects": b'{"email":' * 20_000,
    "in a field": b'{"email":"a@b.example","password":' + b"[" * 50_000 + b"]" * 50_000 + b"}",
    "in an unknown field": b'{"email":"a@b.example","password":"x","x":' + b"[" * 50_000 + b"]" * 50_000 + b"}",
    "a lone surrogate": b'{"email":"\\ud800@b.example","password":"\\udfff"}',
    "not UTF-8": b'{"email":"\xff@b.example","password":"x"}',
    "a NUL": b'{"email":"a@b.example","password":"\\u0000"}',
}
HEADERS = [
    b"Authorization: Bearer \xff",
    b"Authorization: Bearer \xc3\xa9",
    b"Authorization: \xff",
    b"Authorization: Bearer imp_\xf0\x9f\x98\x80",
    b"X-Request-ID: \xff",
    b"X-Forwarded-For: \xff",
    b"Cookie: \xff",
    b"Accept: \xff",
]


def cursor(text: str) -> str:
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


QUERIES = [
    f"cursor={cursor('0001-01-01T00:00:00+14:00/1')}",
    f"cursor={cursor('0001-01-01T00:00:00+00:00/1')}",
    f"cursor={cursor('9999-12-31T23:59:59-14:00/1')}",
    f"cursor={cursor('2026-01-01T00:00:00+00:00/' + '9' * 5000)}",
    "cursor=%ff",
    "cursor=%00",
    "cursor=%F0%9F%98%80",
]
PERIODS = ["0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00", "9999-12-31", "0000-01-01", "%ff", "2026-13-01"]


@pytest.mark.parametrize("body", NESTED.values(), ids=NESTED)
def test_a_body(shared_postgres, body):
    async def main() -> None:
        async with served(shared_postgres.url) as service:
            admin = await service.administrator()
            headers = {"Content-Type": "application/json"}
            for ask, path in ((service, "/api/auth/login"), (admin, "/api/users"), (admin, "/v1/chat/completions")):
                status, answer = await ask("POST", path, data=body, headers=headers)
                assert 400 <= status < 500, (path, status, answer)

    run(main())


def test_a_completion_with_a_nested_field_of_its_own(shared_postgres):
    async def main() -> None:
        async with served(shared_postgres.url) as service:
            admin = await service.administrator()
            deep = b"[" * 50_000 + b"]" * 50_000
            headers = {"Content-Type": "application/json"}
            for body in (b'{"messages":[{"x":' + deep + b"}]}", b'{"messages":[{"a":1}],"x":' + deep + b"}"):
                assert (await admin("POST", "/v1/chat/completions", data=body, headers=headers))[0] == 400

    run(main())


@pytest.mark.parametrize("header", HEADERS)
def test_a_header(shared_postgres, header):
    async def main() -> None:
        async with served(shared_postgres.url) as service:
            reader, writer = await asyncio.open_connection(service.client.host, service.client.port)
            lines = [b"GET /api/auth/me HTTP/1.1", b"Host: a", b"Connection: close", header, b"", b""]
            writer.write(b"\r\n".join(lines))
            answer = await reader.read()
            assert answer.split(b" ", 2)[1] == b"401", answer
            writer.close()

    run(main())


@pytest.mark.parametrize(
    ("head", "body", "status", "code"),
    [
        (b"GET /api/auth/me HTTP/1.1\r\nExpect: x", b"", 417, "expectation_failed"),
        (b"POST /api/auth/login HTTP/1.1\r\nContent-Encoding: gzip", b"hello", 400, "bad_request"),
        (b"POST /api/auth/login HTTP/1.1\r\nContent-Encoding: deflate", b"hello", 400, "bad_request"),
        (b"POST /api/auth/login HTTP/1.1", b"{", 400, "malformed_json"),
        (b"POST /api/auth/login HTTP/1.1", b" " * 3_000_000, 413, "body_too_large"),
        (b"PUT /api/auth/login HTTP/1.1", b"", 405, "method_not_allowed"),
        (b"GET /nowhere HTTP/1.1", b"", 404, "not_found"),
    ],
)
def test_what_aiohttp_refuses_has_our_shape_and_a_code(shared_postgres, head, body, status, code):
    async def main() -> None:
        async with served(shared_postgres.url) as service:
            reader, writer = await asyncio.open_connection(service.client.host, service.client.port)
            lines = [
                b"Host: a",
                b"Connection: close",
                b"Content-Type: application/json",
                b"Content-Length: %d" % len(body),
            ]
            writer.write(b"\r\n".join([head, *lines, b"", body]))
            answer, _, problem = (await reader.read()).partition(b"\r\n\r\n")
            assert answer.split(b" ", 2)[1] == b"%d" % status, answer
            assert b"application/problem+json" in answer
            assert b"X-Request-ID" in answer
            problem = json.loads(problem)
            assert (problem["status"], problem["code"]) == (status, code)
            writer.close()

    run(main())


def test_expect_100_continue_is_answered(shared_postgres):
    async def main() -> None:
        async with served(shared_postgres.url) as service:
            reader, writer = await asyncio.open_connection(service.client.host, service.client.port)
            head = b"POST /api/auth/login HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Type: application/json"
            writer.write(head + b"\r\nConnection: close\r\nContent-Length: 2\r\n\r\n")
            assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
            writer.write(b"{}")
            assert (await reader.read()).startswith(b"HTTP/1.1 422")
            writer.close()

    run(main())


@pytest.mark.parametrize("query", QUERIES)
def test_a_cursor(shared_postgres, query):
    async def main() -> None:
        async with served(shared_postgres.url) as service:
            admin = await service.administrator()
            status, answer = await admin("GET", f"/api/communications?{query}")
            assert (status, answer["errors"][0]["at"]) == (422, "query.cursor")

    run(main())


@pytest.mark.parametrize("period", PERIODS)
def test_a_period(shared_postgres, period):
    async def main() -> None:
        async with served(shared_postgres.url) as service:
            admin = await service.administrator()
            for path in ("logs/audit", "logs/export"):
                for name in ("from", "to"):
                    status, _ = await admin("GET", f"/api/admin/{path}?{name}={period.replace('+', '%2B')}")
                    assert status in {200, 422}, (path, name)
            body = {"of": "audit", "by": "day", "from": period, "to": period}
            assert (await admin("POST", "/api/jobs/reports", json=body))[0] in {202, 422}

    run(main())
