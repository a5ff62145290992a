"""What a page of somebody else, a stranger and the lowest role can do to the others: nothing that lasts."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
from pathlib import Path

import aiohttp
import pytest
from gateway_world import PASSWORD, run
from waiting import until

from impetusd.core.protocol import ROLES
from impetusd.gateway import access, accessfile, guard, login, routes, tokens, turns
from impetusd.gateway.problems import Problem
from impetusd.supervisor.api.inherited import MOST

SIMPLE = ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x")  # what a form can send
JSON = "application/json"


def addresses(gateway):
    """(method, path that can be asked for, route) of each."""
    for (method, path), route in gateway.app[routes.ROUTES].items():
        yield method, path.replace("{name}", "api").replace("{id}", "1"), route


def test_no_route_that_changes_something_can_be_asked_by_another_page():
    async def scenario(gateway):
        await gateway.user("alice", "admin")
        cookie = await gateway.cookie("alice")
        gateway.backend.dry = True
        looked = 0
        for method, path, route in addresses(gateway):
            if method == "GET":
                continue
            assert route.body is not None, "without a body there is no type to be refused"
            looked += 1
            for headers, status in (
                *(({"Content-Type": each}, 415) for each in SIMPLE),
                ({}, 415),
                ({"Content-Type": f"{JSON}, text/plain"}, 415),
                ({"Content-Type": f"{JSON}; charset=utf-7"}, 415),
                ({"Content-Type": JSON, "Origin": "https://evil.example"}, 403),
                ({"Content-Type": JSON, "Origin": "null"}, 403),
                ({"Content-Type": JSON, "Sec-Fetch-Site": "cross-site"}, 403),
                ({"Content-Type": JSON, "Sec-Fetch-Site": "same-site", "Sec-Fetch-Mode": "navigate"}, 403),
            ):
                async with gateway.http.request(
                    method, path, data=b"{}", headers={**cookie, **headers}, skip_auto_headers={"Content-Type"}
                ) as answer:
                    assert answer.status == status, (method, path, headers)
        assert looked > 10
        assert gateway.backend.asked == []

    run(scenario)


def test_no_cache_keeps_what_is_not_the_same_for_everybody():
    async def scenario(gateway):
        admin = await gateway.bearer("admin")
        for method, path, route in addresses(gateway):
            if method != "GET" or path.startswith("/page/"):
                continue
            for headers in (admin, {}):
                async with gateway.get(path, headers) as answer:
                    wanted = "no-cache" if path == "/" else "no-store"
                    assert answer.headers["Cache-Control"] == wanted, (path, answer.status)
                    assert route.answer != routes.EVENTS or answer.status != 304
        async with gateway.get("/nothing") as answer:
            assert answer.headers["Cache-Control"] == "no-store"

    run(scenario)


@pytest.mark.parametrize("chunked", [False, True])
def test_who_is_not_logged_in_has_little_held(chunked):
    async def scenario(gateway):
        data = b'{"code": "%s"}' % (b"x" * guard.LARGEST_BODY)

        async def parts():
            yield data

        headers = {"Content-Type": JSON}
        body = parts() if chunked else data
        async with gateway.http.post("/api/v1/login", data=body, headers=headers) as answer:
            assert answer.status == 413
        assert guard.LARGEST_BODY <= 1 << 16

    run(scenario)


def test_one_user_does_not_take_all_streams():
    async def scenario(gateway):
        now = 4e9
        await gateway.user("low", "viewer")
        secrets = [tokens.new() for _ in range(1 + access.OF_USER // access.OF_ONE)]

        def sessions(state):
            for secret in secrets:
                state.sessions[tokens.digest(secret)] = accessfile.Grant("low", "viewer", now)

        await gateway.access.change(sessions)
        name = f"impetusd-{gateway.url.rpartition(':')[2]}"
        async with contextlib.AsyncExitStack() as stack:
            seen = []
            for secret in secrets:
                for _ in range(access.OF_ONE):
                    answer = await gateway.get("/api/v1/stream", {"Cookie": f"{name}={secret}"})
                    stack.callback(answer.close)
                    seen.append(answer.status)
            assert seen == [200] * access.OF_USER + [429] * access.OF_ONE
            async with gateway.get("/api/v1/stream", await gateway.bearer("viewer")) as answer:
                assert answer.status == 200

    run(scenario)


def test_who_asks_too_often_has_to_wait_and_nobody_else():
    often = turns.Turns()

    def asks(user, now, **how):
        with often.take(user, now, **how):
            pass

    for now in (100.0, 1e6):  # the second time all of the first is forgotten
        for _ in range(turns.AT_ONCE):
            asks("low", now)
        for lasts in (False, True):
            with pytest.raises(Problem) as raised:
                asks("low", now, lasts=lasts)
            assert (raised.value.status, raised.value.headers) == (429, {"Retry-After": "1"})
        asks("alice", now)
        asks("low", now + 1.001 / turns.A_SECOND)
        with pytest.raises(Problem):
            asks("low", now + 1.001 / turns.A_SECOND)


def test_who_asks_much_at_once_does_not_take_every_connection():
    often = turns.Turns()
    with contextlib.ExitStack() as stack:
        for _ in range(turns.UNDER_WAY):
            stack.enter_context(often.take("low", 100.0))
        with (
            pytest.raises(Problem, match="too many concurrent requests by low: the limit is 32"),
            often.take("low", 100.0),
        ):
            pass
        for user, lasts in (("low", True), ("alice", False)):
            with often.take(user, 100.0, lasts=lasts):
                pass
    with often.take("low", 100.0):
        pass
    assert turns.UNDER_WAY <= MOST // 2


def use_up(often, user):
    """All turns of a user, for longer than any test takes."""
    later = asyncio.get_running_loop().time() + 1e6
    with contextlib.suppress(Problem):
        while True:
            with often.take(user, later):
                pass


def test_a_flood_of_one_user_is_refused_by_every_route_and_others_are_served():
    async def scenario(gateway):
        flooding, other = await gateway.bearer("admin", "flood"), await gateway.bearer("viewer", "other")
        use_up(gateway.app[guard.TURNS], "token:flood")
        gateway.backend.dry = True
        for method, path, route in addresses(gateway):
            if route.role == routes.OPEN:
                continue
            more = {"data": b"{}"} if route.body is not None else {}
            headers = {**flooding, **({"Content-Type": JSON} if more else {})}
            async with gateway.http.request(method, path, headers=headers, **more) as answer:
                assert answer.status == 429, (method, path)
                assert int(answer.headers["Retry-After"]) > 0
                assert (
                    "too many requests by token:flood: the limit is 300 at once, then 30 per second"
                    in (await answer.json())["detail"]
                )
        assert gateway.backend.asked == []
        async with gateway.get("/api/v1/me", other) as answer:
            assert answer.status == 200
        async with gateway.get("/health") as answer:
            assert answer.status == 200

    run(scenario)


def test_a_flood_by_supervisords_protocol_is_refused_too(tmp_path):
    path = str(tmp_path / "s")
    call = '<?xml version="1.0"?><methodCall><methodName>supervisor.getState</methodName></methodCall>'

    async def scenario(gateway):
        connector = aiohttp.UnixConnector(path)
        async with aiohttp.ClientSession(connector=connector) as http:

            async def ask():
                async with http.post(
                    "http://localhost/RPC2", data=call, headers={"Content-Type": "text/xml"}
                ) as answer:
                    return answer.status, await answer.text()

            status, text = await ask()
            assert (status, "RUNNING" in text) == (200, True), text
            under_way = gateway.app[guard.TURNS]
            (user,) = under_way._often._until
            assert user.startswith("xmlrpc ")
            use_up(under_way, user)
            status, text = await ask()
            assert (status, "the limit is 300 at once" in text) == (429, True), text

    run(scenario, listen=path, xmlrpc=f"unix:{path}", roles={}, owner=os.geteuid())


def test_what_is_under_way_is_counted_until_it_is_answered_whether_or_not_its_client_has_gone():
    async def scenario(gateway):
        headers = await gateway.bearer("viewer", "slow")
        free, real = asyncio.Event(), gateway.backend.call

        async def call_later(*args, **how):
            await free.wait()
            return await real(*args, **how)

        gateway.backend.call = call_later
        under_way = gateway.app[guard.TURNS]._under_way
        asking = [
            asyncio.create_task(gateway.get("/api/v1/timers", headers).__aenter__()) for _ in range(turns.UNDER_WAY)
        ]
        await until(lambda: under_way["token:slow"] == turns.UNDER_WAY, "the questions")
        async with gateway.get("/api/v1/me", headers) as answer:
            assert (answer.status, answer.headers["Retry-After"]) == (429, "1")
        asking.pop().cancel()
        async with gateway.get("/api/v1/me", headers) as answer:
            assert answer.status == 429
        free.set()
        for answer in await asyncio.gather(*asking):
            assert answer.status == 200
            answer.close()
        await until(lambda: not under_way, "the end of all")

    run(scenario)


def test_strangers_who_guess_do_not_keep_a_known_browser_waiting(monkeypatch):
    """The queue for passwords is full of theirs, from whatever addresses."""

    async def scenario(gateway):
        await gateway.user("alice", "operator")
        cookie = await gateway.cookie("alice")
        doorkeeper = gateway.app[login.DOORKEEPER]
        free = asyncio.Event()
        real = doorkeeper._threads.run

        async def run_later(*args):
            await free.wait()
            return await real(*args)

        monkeypatch.setattr(doorkeeper._threads, "run", run_later)
        guesses = [asyncio.create_task(doorkeeper.is_right("x", "")) for _ in range(login.WAITING)]
        await until(lambda: doorkeeper._waiting == login.WAITING, "the guesses")
        body = {"user": "alice", "password": PASSWORD}
        async with gateway.post("/api/v1/login", body) as answer:
            assert answer.status == 429
        mine = asyncio.create_task(gateway.post("/api/v1/login", body, cookie).__aenter__())
        await until(lambda: doorkeeper._waiting == login.WAITING + 1 or mine.done(), "the known browser")
        free.set()
        async with await mine as answer:
            assert answer.status == 204
        await asyncio.gather(*guesses)

    run(scenario)


def test_a_line_of_a_log_is_one_event_whatever_is_in_it():
    async def scenario(gateway):
        operator = await gateway.bearer("operator")
        evil = "a\rdata: {}\r\r\x0b\x0c\x1b[2J\x85\u2028\u2029event: problem\x00 end"
        path = Path(gateway.life.shim.paths.log_dir, "api-out.log")
        path.write_text(f"{evil}\nnext\n", encoding="utf-8", newline="")
        async with gateway.get("/api/v1/logs/stream?unit=api&last=2", operator) as answer:
            events = gateway.events(answer)
            for text in (evil, "next"):
                name, data, _ = await anext(events)
                assert (name, json.loads(data)["text"]) == ("line", text)
                assert data.isascii()
                assert data.isprintable()

    run(scenario)


def test_a_role_is_enough_for_each_route_or_refused_before_the_body_is_read():
    async def scenario(gateway):
        gateway.backend.dry = True
        viewer = await gateway.bearer("viewer")
        for method, path, route in addresses(gateway):
            if route.role and ROLES.index(route.role) > 0 and method != "GET":
                async with gateway.http.request(
                    method, path, data=b"{", headers={**viewer, "Content-Type": JSON}
                ) as answer:
                    assert answer.status == 403, (method, path)
        assert gateway.backend.asked == []

    run(scenario)
