"""Behind a proxy: whom it speaks for counts, is recorded and gets a cookie for TLS; and nobody but the proxy says who that is."""

from __future__ import annotations

import contextlib
import tempfile

import aiohttp
import pytest
from gateway_world import PASSWORD, run

from impetusd.gateway import login

PROXY = {"behind_proxy": True, "hosts": ("ops.example.com",)}
HOST = {"Host": "ops.example.com"}


def by_socket(scenario, **more):
    with tempfile.TemporaryDirectory(prefix="impg", dir="/tmp") as folder:
        run(scenario, listen=f"{folder}/gateway.sock", **{**PROXY, **more})


@contextlib.asynccontextmanager
async def client(gateway):
    """Of its socket, or of its address."""
    connector = aiohttp.UnixConnector(gateway.path) if gateway.path else None
    async with aiohttp.ClientSession(gateway.url, connector=connector, cookie_jar=aiohttp.DummyCookieJar()) as http:
        yield http


async def try_to_log_in(http, forwarded, password="a wrong password", **headers):
    """The status."""
    given = [("Host", "ops.example.com"), *(("X-Forwarded-For", each) for each in forwarded), *headers.items()]
    body = {"user": "alice", "password": password}
    async with http.post("/api/v1/login", json=body, headers=aiohttp.typedefs.CIMultiDict(given)) as answer:
        return answer.status


async def use_up(http, *forwarded):
    for _ in range(login.FAILURES):
        assert await try_to_log_in(http, forwarded) == 401
    assert await try_to_log_in(http, forwarded) == 429


def test_wrong_passwords_are_counted_by_whom_the_proxy_names():
    async def scenario(gateway):
        await gateway.user("alice", "operator")
        async with client(gateway) as http:
            await use_up(http, "203.0.113.9")
            # Whatever stands before what the proxy wrote does not make it another one, nor does a port.
            for forwarded in (["198.51.100.7, 203.0.113.9"], ["198.51.100.8", "203.0.113.9"], ["203.0.113.9:41000"]):
                assert await try_to_log_in(http, forwarded) == 429
            # Nor are others locked out, although it has named them.
            assert await try_to_log_in(http, ["198.51.100.7"], PASSWORD) == 204
            # Of IPv6 a network is one.
            await use_up(http, "2001:db8::1")
            assert await try_to_log_in(http, ["2001:db8::ffff:2"]) == 429
            assert await try_to_log_in(http, ["2001:db8:0:1::1"], PASSWORD) == 204

    by_socket(scenario)


@pytest.mark.parametrize(
    ("given", "trusted"),
    [
        ({}, False),  # no proxy at all
        (PROXY, False),  # one that does not come by this address
        ({**PROXY, "trusted_proxies": ("10.0.0.0/8", "::1/128")}, False),
        ({**PROXY, "trusted_proxies": ("127.0.0.0/8",)}, True),
    ],
)
def test_from_anybody_but_the_proxy_the_header_is_not_read(given, trusted):
    async def scenario(gateway):
        await gateway.user("alice", "operator")
        async with client(gateway) as http:
            host = {} if given else {"Host": gateway.url.removeprefix("http://")}
            for number in range(login.FAILURES):
                assert await try_to_log_in(http, [f"203.0.113.{number}"], **host) == 401
            assert await try_to_log_in(http, ["203.0.113.99"], **host) == (401 if trusted else 429)

    run(scenario, **{**given, "hosts": ("ops.example.com",)})


def test_a_client_that_was_gone_before_anybody_asked_who_it_is_is_no_proxy():
    from test_gateway_roles import Wire

    class Gone(Wire):
        def get_extra_info(self, name, default=None):
            return None if name == "peername" else super().get_extra_info(name, default)

    async def scenario(gateway):
        heads = []
        body = b'{"user": "alice", "password": "a wrong password"}'
        for number in range(login.FAILURES + 1):
            wire = Gone(gateway.server, int(gateway.url.rpartition(":")[2]))
            wire.request(
                f"POST /api/v1/login HTTP/1.1\r\nHost: ops.example.com\r\nX-Forwarded-For: 203.0.113.{number}\r\n"
                f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n".encode()
                + body
            )
            heads.append((await wire.head).split()[1])
            wire.close()
        assert heads == [b"401"] * login.FAILURES + [b"429"]

    run(scenario, **PROXY)


def test_who_speaks_http_with_the_proxy_does_not_log_in():
    async def scenario(gateway):
        await gateway.user("alice", "operator")
        async with client(gateway) as http:
            for proto in ("http", "https, http"):
                for body in ({"user": "alice", "password": PASSWORD}, {"code": "x"}):
                    async with http.post(
                        "/api/v1/login", json=body, headers={**HOST, "X-Forwarded-Proto": proto}
                    ) as answer:
                        assert answer.status == 403
                        assert "use https" in await answer.text()
            for headers in ({"X-Forwarded-Proto": "https"}, {"X-Forwarded-Proto": "http, https"}, {}):
                async with http.post(
                    "/api/v1/login", json={"user": "alice", "password": PASSWORD}, headers={**HOST, **headers}
                ) as answer:
                    assert answer.status == 204
                    assert all(name.startswith("__Host-") and each["secure"] for name, each in answer.cookies.items())

    by_socket(scenario)


def test_behind_a_proxy_a_page_that_came_unencrypted_is_another_origin():
    async def scenario(gateway):
        viewer = await gateway.bearer("viewer")
        async with client(gateway) as http:
            for origin, status in (("https://ops.example.com", 200), ("http://ops.example.com", 403)):
                async with http.get("/api/v1/me", headers={**HOST, **viewer, "Origin": origin}) as answer:
                    assert answer.status == status

    by_socket(scenario)


def test_from_where_somebody_gave_a_command_is_handed_on():
    async def scenario(gateway):
        operator = await gateway.bearer("operator")
        body = {"name": "api", "for": 60}
        headers = {**HOST, **operator, "X-Forwarded-For": "198.51.100.7, 203.0.113.9"}
        async with client(gateway) as http, http.post("/api/v1/silences", json=body, headers=headers) as answer:
            assert answer.status == 201
        ((method, _, caller),) = gateway.backend.asked
        assert (method, caller.behalf.address) == ("silence", "203.0.113.9")

    by_socket(scenario)


@pytest.mark.parametrize(("given", "status"), [({}, 200), (PROXY, 401), ({**PROXY, "socket": "unix:/x"}, 200)])
def test_open_metrics_are_not_for_whoever_a_proxy_lets_in(given, status):
    async def scenario(gateway):
        async with gateway.get("/metrics") as answer:
            assert answer.status == status

    run(scenario, metrics="open", **given)
