"""Outgoing requests to a real server that fails: what is repeated, for how long, and what the breaker does."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from email.utils import formatdate

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer, unused_port
from hypothesis import given
from hypothesis import strategies as st
from server import run
from waiting import until

from impetus_service.kit import outgoing
from impetus_service.kit.outgoing import LONGEST_PAUSE, Answer, Outgoing, Unavailable, origin, pause_before, retry_after
from impetus_service.kit.request_id import HEADER, REQUEST_ID
from impetus_service.settings import Settings

SETTINGS = Settings("postgresql:///x", http_timeout_ms=60_000, http_total_ms=240_000, http_breaker_failures=100)


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch):
    monkeypatch.setattr(outgoing, "FIRST_PAUSE", 0.0)


class Target:
    """Answers each request with the next of `script`: a status, a Response, or an event to wait for; then 200s."""

    def __init__(self, *script: int | web.Response | asyncio.Event) -> None:
        self.script = list(script)
        self.asked = 0
        self.request_ids: list[str | None] = []
        self.now = 0.0  # seconds, for the breakers of who asks
        self.cancelled = asyncio.Event()
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._answer)
        self._server = TestServer(app)

    @property
    def url(self) -> str:
        return str(self._server.make_url("/a?key=secret"))

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        self.asked += 1
        self.request_ids.append(request.headers.get(HEADER))
        step = self.script.pop(0) if self.script else 200
        if isinstance(step, asyncio.Event):
            try:
                await step.wait()
            except asyncio.CancelledError:
                self.cancelled.set()
                raise
            return web.Response()
        if step == 0:
            assert request.transport is not None
            request.transport.close()
            return web.Response()
        return web.Response(status=step) if isinstance(step, int) else step


@asynccontextmanager
async def asking(
    *script: int | web.Response | asyncio.Event, **settings: int
) -> AsyncIterator[tuple[Outgoing, Target]]:
    target = Target(*script)
    await target._server.start_server()
    client = Outgoing(replace(SETTINGS, **settings), clock=lambda: target.now)
    await client.start()
    try:
        yield client, target
    finally:
        await client.stop()
        await target._server.close()


@pytest.mark.parametrize("failure", [408, 429, 500, 502, 503, 504, 0])
def test_what_is_safe_to_repeat_is_repeated(failure):
    async def main() -> None:
        async with asking(failure, failure, failure) as (client, target):
            assert (await client.request("GET", target.url)).status == 200
            assert target.asked == 4

    run(main())


@pytest.mark.parametrize("failure", [429, 503, 0])
def test_a_post_is_sent_once_unless_it_has_an_idempotency_key(failure):
    async def main() -> None:
        async with asking(failure) as (client, target):
            try:
                assert (await client.request("POST", target.url)).status == failure
            except Unavailable:
                assert failure == 0
            assert target.asked == 1
        async with asking(failure) as (client, target):
            assert (await client.request("POST", target.url, headers={"idempotency-key": "1"})).status == 200
            assert target.asked == 2

    run(main())


def test_a_post_that_could_not_be_sent_is_tried_again():
    async def main() -> None:
        with socket.socket() as held:  # nobody else gets the port meanwhile
            held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            held.bind(("127.0.0.1", 0))
            port = held.getsockname()[1]
            await asked_before_it_listens(port)

    async def asked_before_it_listens(port: int) -> None:
        async with asking(http_retries=100) as (client, _):
            asked = asyncio.create_task(client.request("POST", f"http://127.0.0.1:{port}/"))
            await until(client.breakers)
            later = Target()
            later._server = TestServer(later._server.app, port=port)
            await later._server.start_server()
            assert (await asked).status == 200
            await later._server.close()

    run(main())


def test_an_error_that_would_stay_one_is_not_repeated():
    async def main() -> None:
        for status in (400, 401, 404, 409, 501):
            async with asking(status) as (client, target):
                assert (await client.request("GET", target.url)).status == status
                assert target.asked == 1

    run(main())


def test_the_last_answer_is_given_when_no_attempt_is_left():
    async def main() -> None:
        async with asking(500, 500, 503, http_retries=2) as (client, target):
            assert (await client.request("GET", target.url)).status == 503
            assert target.asked == 3

    run(main())


def test_an_attempt_that_hangs_ends_and_hangs_up():
    async def main() -> None:
        async with asking(*[asyncio.Event()] * 1000, http_timeout_ms=50, http_retries=0) as (client, target):
            asked = 0
            while not target.asked:  # one may have ended before it came to its target
                with pytest.raises(Unavailable, match=r"did not respond within 0\.05 s"):
                    await client.request("GET", target.url)
                asked += 1
            await asyncio.wait_for(target.cancelled.wait(), 60)
            assert target.asked <= asked

    run(main())


@pytest.mark.parametrize("retries", [0, 1, 3])
def test_a_target_that_hangs_is_asked_once_and_as_often_again_as_there_are_retries(retries):
    """HTTP_TIMEOUT_MS is of each attempt, and no total cuts the last of them short unless it was set."""

    async def main() -> None:
        hanging = [asyncio.Event() for _ in range(retries + 1)]
        settings = {"http_timeout_ms": 300, "http_total_ms": 0, "http_retries": retries}
        async with asking(*hanging, **settings) as (client, target):
            attempts, send = [], client._send
            client._send = lambda *how: attempts.append(how) or send(*how)
            with pytest.raises(Unavailable, match=r"did not respond within 0\.3 s"):
                await client.request("GET", target.url)
            assert len(attempts) == retries + 1
            assert target.asked <= retries + 1  # one may have ended before it came to its target

    run(main())


def test_by_default_all_attempts_have_their_time():
    settings = Settings("postgresql:///x")
    assert (settings.http_timeout_ms, settings.http_retries) == (15_000, 3)
    assert Outgoing(settings)._total >= 4 * 15 + 3 * LONGEST_PAUSE
    assert Outgoing(replace(settings, http_total_ms=20_000))._total == 20


def test_what_a_client_may_be_told_has_no_address():
    async def main() -> None:
        async with asking(http_retries=0) as (client, _):
            for url in (f"http://127.0.0.1:{unused_port()}/", "http://name.invalid:81/"):
                with pytest.raises(Unavailable) as failure:
                    await client.request("GET", url)
                assert origin(url) in str(failure.value)
                assert failure.value.why in {
                    "cannot be reached: Connection refused",
                    "cannot be reached: its name has no address",
                }

    run(main())


def test_all_attempts_end_within_the_total():
    async def main() -> None:
        hanging = [asyncio.Event() for _ in range(50)]
        async with asking(*hanging, http_timeout_ms=50, http_total_ms=120, http_retries=20) as (client, target):
            with pytest.raises(Unavailable):
                await asyncio.wait_for(client.request("GET", target.url), 60)
            assert target.asked <= 4

    run(main())


def test_a_retry_after_beyond_the_total_is_passed_on_at_once():
    async def main() -> None:
        busy = web.Response(status=429, headers={"Retry-After": "3600"})
        async with asking(busy) as (client, target):
            answer = await client.request("GET", target.url)
            assert (answer.status, retry_after(answer.headers), target.asked) == (429, 3600.0, 1)

    run(main())


def test_an_answer_that_is_too_large_is_none():
    async def main() -> None:
        async with asking(web.Response(body=b"x" * 2000), http_answer_max_bytes=1000, http_retries=0) as (
            client,
            target,
        ):
            with pytest.raises(Unavailable, match="more than 1000 bytes"):
                await client.request("GET", target.url)
            assert isinstance(await client.request("GET", target.url), Answer)

    run(main())


def test_what_is_said_names_the_target_and_no_secret():
    async def main() -> None:
        async with asking(0, http_retries=0) as (client, target):
            with pytest.raises(Unavailable) as failure:
                await client.request("POST", target.url.replace("http://", "http://joe:hunter2@"))
            said = str(failure.value) + str(client.breakers())
            assert origin(target.url) in said
            assert "hunter2" not in said
            assert "secret" not in said

    run(main())


def test_the_breaker_opens_lets_one_probe_through_and_closes():
    async def main() -> None:
        probe = asyncio.Event()
        settings = {"http_retries": 0, "http_breaker_failures": 2, "http_breaker_open_ms": 9000}
        async with asking(500, 502, probe, **settings) as (client, target):
            assert (await client.request("GET", target.url)).status == 500
            assert (await client.request("GET", target.url)).status == 502
            name = origin(target.url)
            assert client.breakers() == {name: "open"}
            with pytest.raises(Unavailable, match="failed 2 times in a row; requests to it are suspended") as refusal:
                await client.request("GET", target.url)
            assert (refusal.value.retry_after, target.asked) == (9.0, 2)
            target.now = 9.0
            many = [asyncio.create_task(client.request("GET", target.url)) for _ in range(10)]
            await until(lambda: sum(task.done() for task in many) == 9)
            await until(lambda: target.asked == 3)
            assert client.breakers() == {name: "half-open"}
            probe.set()
            outcomes = await asyncio.gather(*many, return_exceptions=True)
            assert sum(isinstance(outcome, Unavailable) for outcome in outcomes) == 9
            assert (target.asked, client.breakers()) == (3, {name: "closed"})

    run(main())


def test_a_cancelled_probe_leaves_its_place_to_the_next():
    async def main() -> None:
        probe = asyncio.Event()
        settings = {"http_retries": 0, "http_breaker_failures": 1, "http_breaker_open_ms": 9000}
        async with asking(500, probe, **settings) as (client, target):
            await client.request("GET", target.url)
            target.now = 9.0
            asked = asyncio.create_task(client.request("GET", target.url))
            await until(lambda: target.asked == 2)
            asked.cancel()
            await asyncio.wait([asked])
            assert (await client.request("GET", target.url)).status == 200

    run(main())


def test_the_request_id_goes_along():
    async def main() -> None:
        async with asking() as (client, target):
            await client.request("GET", target.url)
            token = REQUEST_ID.set("r-1")
            await client.request("GET", target.url)
            REQUEST_ID.reset(token)
            assert target.request_ids == [None, "r-1"]

    run(main())


def test_targets_have_a_breaker_each():
    async def main() -> None:
        async with asking(500, http_breaker_failures=1, http_retries=0) as (client, bad), asking() as (_, good):
            await client.request("GET", bad.url)
            assert (await client.request("GET", good.url)).status == 200
            assert client.breakers() == {origin(bad.url): "open", origin(good.url): "closed"}

    run(main())


@given(st.integers(0, 5000), st.none() | st.floats(0, 1e6), st.floats(0, 1, exclude_max=True))
def test_a_pause_is_bounded_and_never_shorter_than_asked_for(attempt, asked, luck):
    pause = pause_before(attempt, asked, luck)
    assert pause >= (asked or 0.0)
    assert pause <= max(LONGEST_PAUSE, asked or 0.0)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("7", 7.0), ("0", 0.0), ("-1", None), ("soon", None), ("", None), ("9" * 40, 999999999.0), ("Wed, 99 Foo", None)],
)
def test_retry_after(text, seconds):
    assert retry_after({"Retry-After": text}) == seconds


def test_retry_after_as_a_date():
    assert retry_after({"Retry-After": formatdate(usegmt=True)}) == 0.0
    assert (retry_after({"Retry-After": formatdate(4102444800, usegmt=True)}) or 0) > 50
