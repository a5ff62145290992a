"""Sessions in cookies and of other origins, their lists and ends: what a browser does, and what an attacker would."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from served import PASSWORD, Served, served
from server import run
from waiting import until

from impetus_service.app import APIS
from impetus_service.kit.db import DATABASE
from impetus_service.kit.statements import Query
from impetus_service.sessions import COOKIE

PAGE = "https://app.shop.example"  # in CORS_ORIGINS
EVIL = "https://evil.example"
OPERATIONS = [operation for api in APIS for operation in api.operations]


async def log_in(service: Served, email: str, **headers: str) -> tuple[int, Any, str]:
    """With a cookie, as a page: the status, the body, and the Set-Cookie."""
    body = {"email": email, "password": PASSWORD, "cookie": True}
    async with service.client.post("/api/auth/login", json=body, headers=headers) as response:
        return response.status, await response.json(), response.headers.get("Set-Cookie", "")


async def browser(service: Served, email: str, origin: str = PAGE) -> dict[str, str]:
    """The headers that a browser sends for a page of `origin` in a session."""
    status, _, cookie = await log_in(service, email, Origin=PAGE)
    assert status == 201
    return {"Cookie": cookie.partition(";")[0], "Origin": origin}


def test_a_cookie_that_no_script_and_no_other_host_gets_to_see(database):
    async def main() -> None:
        async with served(database, CORS_ORIGINS=PAGE) as service:
            admin = await service.administrator()
            status, body, cookie = await log_in(service, admin.email, Origin=PAGE)
            assert (status, body["token"]) == (201, None)
            value, *attributes = cookie.split("; ")
            assert value.startswith("__Host-impetus=imp_")
            assert set(attributes) == {"HttpOnly", "Max-Age=43200", "Path=/", "SameSite=Strict", "Secure"}
            headers = {"Cookie": value, "Origin": PAGE}
            assert (await service("GET", "/api/auth/me", headers=headers))[1]["email"] == admin.email
            async with service.client.post("/api/auth/logout", headers=headers) as response:
                assert response.status == 204
                assert response.headers["Set-Cookie"].startswith(f'{COOKIE}=""; ')
                assert "Max-Age=0" in response.headers["Set-Cookie"]
            assert (await service("GET", "/api/auth/me", headers=headers))[0] == 401
        async with served(database, COOKIE_SAMESITE="none", CORS_ORIGINS=PAGE) as service:
            assert "SameSite=None" in (await log_in(service, admin.email, Origin=PAGE))[2]

    run(main())


UNSAFE = [
    ({}, 403),  # what is no browser has a token
    ({"Origin": EVIL}, 403),
    ({"Origin": "null"}, 403),
    ({"Origin": EVIL, "Sec-Fetch-Site": "cross-site"}, 403),
    ({"Origin": "https://other.shop.example", "Sec-Fetch-Site": "same-site"}, 403),
    ({"Origin": PAGE + ".evil.example"}, 403),
    ({"Origin": "http://app.shop.example"}, 403),  # of somebody on the way, as there is no TLS
    ({"Origin": "https://SELF.evil.example"}, 403),
    ({"Sec-Fetch-Site": "none"}, 403),
    ({"Origin": PAGE}, 204),
    ({"Origin": PAGE, "Sec-Fetch-Site": "same-site"}, 204),
    ({"Origin": "https://api.shop.example"}, 204),  # PUBLIC_URL
    ({"Origin": "http://SELF"}, 204),  # of a browser that sends no Sec-Fetch-Site
    ({"Origin": "http://SELF", "Sec-Fetch-Site": "cross-site"}, 403),
    ({"Sec-Fetch-Site": "same-origin"}, 204),
]


def test_what_is_more_than_reading_is_done_by_cookie_for_our_own_pages_alone(database):
    async def main() -> None:
        async with served(database, CORS_ORIGINS=PAGE, PUBLIC_URL="https://api.shop.example/") as service:
            admin = await service.administrator()
            cookie = (await browser(service, admin.email))["Cookie"]
            host = f"{service.client.host}:{service.client.port}"
            for given, expected in UNSAFE:
                headers = {name: value.replace("SELF", host) for name, value in given.items()}
                await log_in(service, admin.email, Origin=PAGE)
                sessions = (await admin("GET", "/api/auth/sessions"))[1]["items"]
                path = f"/api/auth/sessions/{sessions[0]['id']}"
                status, problem = await service("DELETE", path, headers=headers | {"Cookie": cookie})
                assert status == expected, (given, problem)
                if status == 403:
                    assert problem["code"] == "foreign_origin"
                    status, problem, set_cookie = await log_in(service, admin.email, **headers)
                    assert (status, problem["code"], set_cookie) == (403, "foreign_origin", "")

    run(main())


def test_no_route_does_anything_by_cookie_for_a_foreign_page(database):
    async def main() -> None:
        async with served(database) as service:
            admin = await service.administrator()
            _, _, cookie = await log_in(service, admin.email, **{"Sec-Fetch-Site": "same-origin"})
            headers = {"Cookie": cookie.partition(";")[0], "Origin": EVIL}
            for operation in OPERATIONS:
                if operation.method == "GET" or not operation.authenticated:
                    continue
                path = operation.path.format(id=1, session=1)
                status, answer = await service(operation.method, path, headers=headers, json={})
                code = answer["error"]["code"] if path.startswith("/v1/") else answer["code"]
                assert (status, code) == (403, "foreign_origin"), operation.name
            assert (await service("GET", "/api/auth/me", headers=headers))[0] == 200  # which that page cannot read

    run(main())


def test_a_bearer_token_needs_no_origin_and_a_header_makes_nobody_look_at_the_cookie(database):
    async def main() -> None:
        async with served(database, CORS_ORIGINS=PAGE) as service:
            admin, other = await service.administrator(), await service.administrator()
            headers = await browser(service, admin.email, EVIL)
            bearer = {"Authorization": f"Bearer {other.token}"}
            status, me = await service("PATCH", "/api/auth/me", headers=headers | bearer, json={"name": "Eve"})
            assert (status, me["email"]) == (200, other.email)
            for wrong in ("Bearer imp_x", "Basic eDp5", ""):
                assert (await service("GET", "/api/auth/me", headers=headers | {"Authorization": wrong}))[0] == 401

    run(main())


def test_a_session_is_never_one_that_somebody_else_has_chosen(database):
    """Session fixation: what is in the cookie before a login is not what it has after it, and is worth nothing."""

    async def main() -> None:
        async with served(database, CORS_ORIGINS=PAGE) as service:
            admin = await service.administrator()
            chosen = f"{COOKIE}=imp_{'a' * 43}"
            status, _, cookie = await log_in(service, admin.email, Origin=PAGE, Cookie=chosen)
            assert status == 201
            assert chosen not in cookie
            assert (await service("GET", "/api/auth/me", headers={"Cookie": chosen}))[0] == 401
            for name in ("impetus", "session", "__Secure-impetus"):  # what another host of the domain could set
                headers = {"Cookie": cookie.partition(";")[0].replace(COOKIE, name)}
                assert (await service("GET", "/api/auth/me", headers=headers))[0] == 401

    run(main())


async def preflight(service: Served, origin: str, method: str, path: str) -> Any:
    headers = {"Origin": origin, "Access-Control-Request-Method": method, "Access-Control-Request-Headers": "x"}
    async with service.client.options(path, headers=headers) as response:
        return response.status, response.headers


def test_a_page_of_a_named_origin_may_ask_and_read(database):
    async def main() -> None:
        async with served(database, CORS_ORIGINS=f"{PAGE}, http://localhost:5173") as service:
            admin = await service.administrator()
            for origin in (PAGE, "http://localhost:5173"):
                status, headers = await preflight(service, origin, "PATCH", "/api/users/1")
                assert status == 204
                assert headers["Access-Control-Allow-Origin"] == origin
                assert headers["Access-Control-Allow-Credentials"] == "true"
                assert headers["Access-Control-Allow-Methods"] == "DELETE, GET, HEAD, PATCH"
                assert {"Authorization", "Content-Type", "Idempotency-Key"} <= set(
                    headers["Access-Control-Allow-Headers"].split(", ")
                )
                assert int(headers["Access-Control-Max-Age"]) > 0
                assert "Origin" in headers["Vary"]
            headers = {"Authorization": f"Bearer {admin.token}", "Origin": PAGE}
            for path, status in (
                ("/api/users", 200),
                ("/api/users?x=1", 422),
                ("/nowhere", 404),
                ("/api/users/0", 422),
            ):
                async with service.client.get(path, headers=headers) as response:
                    assert response.status == status
                    assert response.headers["Access-Control-Allow-Origin"] == PAGE
                    assert "X-Request-ID" in response.headers["Access-Control-Expose-Headers"]
                    assert response.headers["Vary"] == "Origin"
            assert (await preflight(service, PAGE, "GET", "/nowhere"))[0] == 404
            async with service.client.options("/api/users", headers={"Origin": PAGE}) as response:
                assert response.status == 405  # no preflight

    run(main())


@pytest.mark.parametrize("origins", ["", PAGE])
def test_a_page_of_another_origin_may_neither(database, origins):
    async def main() -> None:
        async with served(database, CORS_ORIGINS=origins) as service:
            admin = await service.administrator()
            for origin in (EVIL, "null", PAGE + ".evil.example", "*", "http://app.shop.example", PAGE.upper()):
                status, headers = await preflight(service, origin, "GET", "/api/users")
                assert status == 405
                async with service.client.get(
                    "/api/users", headers={"Authorization": f"Bearer {admin.token}", "Origin": origin}
                ) as response:
                    for found in (headers, response.headers):
                        assert not [name for name in found if name.startswith("Access-Control-")]
                        assert ("Vary" in found) == bool(origins)

    run(main())


def test_sessions_are_listed_and_ended(database):
    async def main() -> None:
        async with served(database) as service:
            admin = await service.administrator()
            service.client.session.headers["User-Agent"] = "Phone " + "x" * 500
            phone, laptop = await service.log_in(admin.email), await service.log_in(admin.email)
            _, listed = await phone("GET", "/api/auth/sessions")
            assert [each["current"] for each in listed["items"]] == [False, True, False]
            assert listed["items"][1]["user_agent"] == ("Phone " + "x" * 500)[:200]
            assert listed["items"][1]["address"] == "127.0.0.1"
            _, page = await phone("GET", "/api/auth/sessions?limit=2")
            _, rest = await phone("GET", f"/api/auth/sessions?limit=2&cursor={page['pagination']['next']}")
            assert page["items"] + rest["items"] == listed["items"]
            assert (await phone("DELETE", f"/api/auth/sessions/{listed['items'][0]['id']}"))[0] == 204
            assert (await laptop("GET", "/api/auth/me"))[0] == 401
            assert await phone("DELETE", "/api/auth/sessions") == (200, {"ended": 1})
            assert (await admin("GET", "/api/auth/me"))[0] == 401
            assert (await phone("GET", "/api/auth/sessions"))[1]["pagination"]["total"] == 1

    run(main())


def test_an_administrator_sees_and_ends_the_sessions_of_users_of_a_lower_level_alone(database):
    async def main() -> None:
        async with served(database) as service:
            admin = await service.administrator()
            peer, manager = await service.colleague(admin, "administrator"), await service.colleague(admin, "manager")
            member = await service.colleague(admin)
            path = f"/api/users/{member.id}/sessions"
            (session,) = (await admin("GET", path))[1]["items"]
            for asker, user, status in ((manager, member, 403), (admin, peer, 403), (admin, admin, 403)):
                of_user = f"/api/users/{user.id}/sessions"
                for method, wanted in (("GET", of_user), ("DELETE", of_user), ("DELETE", f"{of_user}/1")):
                    assert (await asker(method, wanted))[0] == status, (method, wanted)
            assert (await admin("DELETE", f"/api/users/{manager.id}/sessions/{session['id']}"))[0] == 404
            assert (await manager("DELETE", f"/api/auth/sessions/{session['id']}"))[0] == 404
            assert (await member("GET", "/api/auth/me"))[0] == 200
            assert (await admin("DELETE", f"{path}/{session['id']}"))[0] == 204
            assert (await member("GET", "/api/auth/me"))[0] == 401
            again = await service.log_in(member.email)
            assert await admin("DELETE", path) == (200, {"ended": 1})
            assert (await again("GET", "/api/auth/me"))[0] == 401

    run(main())


def test_a_user_has_a_bounded_number_of_sessions_also_when_they_come_at_once(database):
    async def main() -> None:
        async with served(database, SESSIONS_PER_USER="3") as service:
            admin = await service.administrator()
            people = await asyncio.gather(*(service.log_in(admin.email) for _ in range(5)))
            newest = await service.log_in(admin.email)
            assert (await newest("GET", "/api/auth/sessions"))[1]["pagination"]["total"] == 3
            statuses = [(await person("GET", "/api/auth/me"))[0] for person in (admin, *people)]
            assert statuses.count(200) == 2
            assert statuses[0] == 401

    run(main())


def test_a_login_that_races_with_another_password_or_a_deactivation_is_no_session(database):
    """Its password was looked at before: what ends the sessions must end this one, too."""

    async def main() -> None:
        async with served(database) as service:
            admin = await service.administrator()
            member = await service.colleague(admin)
            waiting = (
                "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
            )
            for body, undo in (
                ({"password": PASSWORD + "!"}, {"password": PASSWORD}),
                ({"active": False}, {"active": True}),
            ):
                async with service.app[DATABASE].session() as connection:
                    transaction = connection.transaction()
                    await transaction.start()
                    await connection.execute("SELECT 1 FROM users WHERE id = $1 FOR UPDATE", member.id)
                    credentials = {"email": member.email, "password": PASSWORD}
                    coming = asyncio.ensure_future(service("POST", "/api/auth/login", json=credentials))

                    async def it_waits(connection: Any = connection) -> bool:
                        return await connection.fetchval(waiting) == 1

                    await until(it_waits)
                    # As another worker would, meanwhile.
                    column = "active = false" if "active" in body else "password_hash = 'scrypt$2$8$1$AAAA$AAAA'"
                    await connection.execute(f"UPDATE users SET {column} WHERE id = $1", member.id)
                    await connection.execute("DELETE FROM sessions WHERE user_id = $1", member.id)
                    await transaction.commit()
                status, problem = await coming
                assert (status, problem["code"]) == (401, "wrong_credentials")
                left = Query("SELECT count(*) FROM sessions WHERE user_id = $1")
                assert await service.app[DATABASE].fetchval(left, member.id) == 0
                assert (await admin("PATCH", f"/api/users/{member.id}", json=undo))[0] == 200

    run(main())
