"""Sessions, roles and users over HTTP: who may what, and nothing of another company."""

from __future__ import annotations

import asyncio
import hashlib
from datetime import timedelta

import pytest
from served import PASSWORD, served
from server import run

from impetus_service.administrators import AdministratorError, create_administrator
from impetus_service.kit.db import DATABASE
from impetus_service.kit.statements import Query
from impetus_service.passwords import Passwords


def test_a_session_from_login_to_logout(shared_postgres):
    async def main() -> None:
        async with served(shared_postgres.url) as service:
            admin = await service.administrator()
            status, me = await admin("GET", "/api/auth/me")
            assert (status, me["email"], me["role"], me["level"]) == (200, admin.email, "administrator", 100)
            assert await admin("POST", "/api/auth/logout") == (204, b"")
            status, problem = await admin("GET", "/api/auth/me")
            assert (status, problem["title"]) == (401, "Unauthorized")

    run(main())


def test_of_a_token_only_its_hash_is_kept(shared_postgres):
    async def main() -> None:
        async with served(shared_postgres.url) as service:
            admin = await service.administrator()
            kept = await service.app[DATABASE].fetchval(
                Query("SELECT token_hash FROM sessions WHERE user_id = $1"), admin.id
            )
            assert kept == hashlib.sha256(admin.token.encode()).digest()

    run(main())


@pytest.mark.parametrize("header", [None, "", "Bearer", "Bearer x", "Basic abc", "bearer imp_" + "a" * 43])
def test_without_a_session_nothing_is_told(shared_postgres, header):
    async def main() -> None:
        async with served(shared_postgres.url) as service:
            headers = {} if header is None else {"Authorization": header}
            async with service.client.get("/api/users", headers=headers) as response:
                assert response.status == 401
                assert response.headers["WWW-Authenticate"].startswith("Bearer")
                assert response.content_type == "application/problem+json"

    run(main())


def test_an_expired_session_is_none(shared_postgres):
    async def main() -> None:
        async with served(shared_postgres.url) as service:
            admin = await service.administrator()
            past = Query("UPDATE sessions SET expires_at = now() - $2::interval WHERE user_id = $1")
            await service.app[DATABASE].execute(past, admin.id, timedelta(seconds=1))
            assert (await admin("GET", "/api/auth/me"))[0] == 401

    run(main())


def test_a_wrong_password_and_an_unknown_account_look_alike(shared_postgres):
    async def main() -> None:
        async with served(shared_postgres.url) as service:
            admin = await service.administrator()
            answers = []
            for email in (admin.email, "nobody@example.com"):
                status, problem = await service("POST", "/api/auth/login", json={"email": email, "password": "wrong"})
                del problem["request_id"]
                answers.append((status, problem))
            assert answers[0] == answers[1]
            assert answers[0][0] == 401
            # What is written down of them takes as long.
            kept = Query("SELECT user_id FROM audit_logs WHERE action = 'auth.login.refused' ORDER BY id DESC LIMIT 2")
            assert {row["user_id"] for row in await service.app[DATABASE].fetch(kept)} == {admin.id, None}

    run(main())


def test_failed_logins_are_limited_over_all_workers_also_when_they_come_at_once(shared_postgres):
    async def main() -> None:
        settings = {"LOGIN_ATTEMPTS": "3"}
        async with served(shared_postgres.url, **settings) as one, served(shared_postgres.url, **settings) as other:
            admin = await one.administrator()
            wrong = {"email": admin.email, "password": "wrong"}
            answers = await asyncio.gather(
                *(worker("POST", "/api/auth/login", json=wrong) for worker in (one, other) for _ in range(5))
            )
            assert sorted(status for status, _ in answers) == [401] * 3 + [429] * 7
            body = {"email": admin.email, "password": PASSWORD}
            async with one.client.post("/api/auth/login", json=body) as response:
                assert response.status == 429  # the right one, too: else guessing would go on
                assert 1 <= int(response.headers["Retry-After"]) <= 15 * 60
            over = Query("UPDATE login_attempts SET expires_at = now() WHERE expires_at > now()")
            await one.app[DATABASE].execute(over)
            await one.log_in(admin.email)

    run(main())


def test_who_guesses_locks_himself_out_and_not_the_owner_until_he_has_very_many_addresses(shared_postgres):
    async def main() -> None:
        async with served(shared_postgres.url, LOGIN_ATTEMPTS="2", PROXY_HOPS="1") as service:
            admin = await service.administrator()

            async def attempt(address: int, password: str) -> int:
                body, headers = {"email": admin.email, "password": password}, {"X-Forwarded-For": f"192.0.2.{address}"}
                async with service.client.post("/api/auth/login", json=body, headers=headers) as response:
                    return response.status

            assert [await attempt(1, "wrong") for _ in range(40)] == [401] * 2 + [429] * 38
            assert await attempt(2, PASSWORD) == 201
            assert await attempt(1, PASSWORD) == 429
            statuses = [await attempt(address, "wrong") for address in range(3, 23)]
            assert statuses == [401] * 18 + [429] * 2  # with the first two 20 in all: ten times LOGIN_ATTEMPTS
            assert await attempt(2, PASSWORD) == 429

    run(main())


def test_a_successful_login_forgives_the_failed_ones(shared_postgres):
    async def main() -> None:
        async with served(shared_postgres.url, LOGIN_ATTEMPTS="3") as service:
            admin = await service.administrator()
            for _ in range(3):
                for _ in range(2):
                    body = {"email": admin.email, "password": "wrong"}
                    assert (await service("POST", "/api/auth/login", json=body))[0] == 401
                await service.log_in(admin.email.upper())

    run(main())


def test_another_password_ends_the_other_sessions(shared_postgres):
    async def main() -> None:
        async with served(shared_postgres.url) as service:
            admin = await service.administrator()
            elsewhere = await service.log_in(admin.email)
            wrong = {"current": "wrong", "new": "a much better one"}
            assert (await admin("POST", "/api/auth/password", json=wrong))[0] == 403
            right = wrong | {"current": PASSWORD}
            assert (await admin("POST", "/api/auth/password", json=right))[0] == 204
            assert (await admin("GET", "/api/auth/me"))[0] == 200
            assert (await elsewhere("GET", "/api/auth/me"))[0] == 401
            await service.log_in(admin.email, "a much better one")

    run(main())


def test_who_stands_higher_manages_who_stands_lower(shared_postgres):
    async def main() -> None:
        async with served(shared_postgres.url) as service:
            admin = await service.administrator()
            manager = await service.colleague(admin, "manager")
            member = await service.colleague(manager)
            new = {"email": "x@example.com", "name": "X", "role": "member", "password": PASSWORD}
            assert (await member("POST", "/api/users", json=new))[0] == 403
            assert (await member("GET", "/api/users"))[0] == 403
            assert (await member("GET", f"/api/users/{member.id}"))[0] == 200
            assert (await member("GET", f"/api/users/{manager.id}"))[0] == 404
            for role in ("manager", "administrator"):
                assert (await manager("POST", "/api/users", json=new | {"role": role}))[0] == 403
                assert (await manager("PATCH", f"/api/users/{member.id}", json={"role": role}))[0] == 403
            for above in (manager, admin):
                assert (await manager("PATCH", f"/api/users/{above.id}", json={"name": "Y"}))[0] == 403
                assert (await manager("DELETE", f"/api/users/{above.id}"))[0] == 403
            status, changed = await manager("PATCH", f"/api/users/{member.id}", json={"name": "Carol"})
            assert (status, changed["name"], changed["role"]) == (200, "Carol", "member")
            assert (await admin("PATCH", f"/api/users/{manager.id}", json={"role": "administrator"}))[0] == 200
            assert (await manager("DELETE", f"/api/users/{admin.id}"))[0] == 204
            assert (await admin("GET", "/api/auth/me"))[0] == 401

    run(main())


def test_deactivated_and_deleted_users_are_out_at_once(shared_postgres):
    async def main() -> None:
        async with served(shared_postgres.url) as service:
            admin = await service.administrator()
            member = await service.colleague(admin)
            await member("POST", "/api/communications", json={"subject": "s", "body": "b"})
            assert (await admin("PATCH", f"/api/users/{member.id}", json={"active": False}))[0] == 200
            assert (await member("GET", "/api/auth/me"))[0] == 401
            credentials = {"email": member.email, "password": PASSWORD}
            assert (await service("POST", "/api/auth/login", json=credentials))[0] == 401
            assert (await admin("PATCH", f"/api/users/{member.id}", json={"active": True}))[0] == 200
            member = await service.log_in(member.email)
            assert (await admin("DELETE", f"/api/users/{member.id}"))[0] == 204
            assert (await member("GET", "/api/auth/me"))[0] == 401
            (left,) = (await admin("GET", "/api/communications"))[1]["items"]
            assert left["author_id"] is None

    run(main())


def test_roles_between(shared_postgres):
    async def main() -> None:
        async with served(shared_postgres.url) as service:
            admin = await service.administrator()
            director = {"name": "director", "level": 70}
            status, role = await admin("POST", "/api/roles", json=director)
            assert (status, role["level"]) == (201, 70)
            assert (await admin("POST", "/api/roles", json=director))[0] == 409
            person = await service.colleague(admin, "director")
            assert (await person("POST", "/api/roles", json=director))[0] == 403
            await service.colleague(person, "manager")
            assert (await admin("DELETE", f"/api/roles/{role['id']}"))[0] == 404  # somebody has it
            await admin("DELETE", f"/api/users/{person.id}")
            assert (await admin("DELETE", f"/api/roles/{role['id']}"))[0] == 204
            names = {each["name"] for each in (await admin("GET", "/api/roles"))[1]["items"]}
            assert names == {"member", "manager", "administrator"}

    run(main())


def test_an_address_has_one_account_in_all_companies(shared_postgres):
    async def main() -> None:
        async with served(shared_postgres.url) as service:
            one, other = await service.administrator(), await service.administrator()
            body = {"email": one.email.upper(), "name": "X", "role": "member", "password": PASSWORD}
            assert (await other("POST", "/api/users", json=body))[0] == 409

    run(main())


def test_administrators_from_nothing(shared_postgres):
    async def main() -> None:
        async with served(shared_postgres.url) as service:
            database = service.app[DATABASE]
            admin = await service.administrator()
            company = (await admin("GET", "/api/company"))[1]["name"]
            second = f"second-{admin.email}"
            assert await create_administrator(database, company, second, "B", PASSWORD) is False
            other = await service.log_in(second)
            assert (await other("GET", "/api/company"))[1]["name"] == company
            with pytest.raises(AdministratorError, match="already exists"):
                await create_administrator(database, "New", admin.email, "B", PASSWORD)
            with pytest.raises(AdministratorError, match="password must have at least 12 characters; it has 5"):
                await create_administrator(database, company, "c@example.com", "C", "short")
            assert await database.fetchval(Query("SELECT count(*) FROM companies WHERE name = 'New'")) == 0

    run(main())


def test_passwords_are_what_they_should_be():
    async def main() -> None:
        passwords = Passwords()
        kept = await passwords.hashed(PASSWORD)
        assert kept.startswith("scrypt$16384$8$5$")
        assert kept != await passwords.hashed(PASSWORD)
        assert await passwords.matches(PASSWORD, kept)
        assert not await passwords.matches(PASSWORD + "x", kept)
        assert not await passwords.matches(PASSWORD, None)
        passwords.close()

    run(main())
