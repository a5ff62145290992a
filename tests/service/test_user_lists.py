"""Users and roles as an administrator's page needs them: search, order, filters, levels; and what must not go wrong with these."""

from __future__ import annotations

import asyncio
from typing import Any

import asyncpg
import pytest
from served import PASSWORD, Person, Served, served
from server import run
from waiting import until

from impetus_service.kit.db import DATABASE
from impetus_service.kit.paging import Cursor
from impetus_service.kit.statements import Query

NAMES = ["Zoë", "adam", "Bob 100%", "eve_x", "Carol", "carol", "Álvaro"]


async def people(service: Served, admin: Person) -> list[str]:
    """Users with these names; theirs and the administrator's, as the database sorts them."""
    for number, name in enumerate(NAMES):
        role = "manager" if number % 2 else "member"
        body = {"email": f"p{number}-{admin.email}", "name": name, "role": role, "password": PASSWORD}
        assert (await admin("POST", "/api/users", json=body))[0] == 201
    rows = await service.app[DATABASE].fetch(
        Query(
            "SELECT name FROM users WHERE company_id = (SELECT company_id FROM users WHERE id = $1) ORDER BY lower(name), id"
        ),
        admin.id,
    )
    return [row["name"] for row in rows]


async def names(asker: Person, query: str = "") -> list[str]:
    """Of all pages of two."""
    found, following = [], ""
    while following is not None:
        status, answer = await asker("GET", f"/api/users?limit=2&{query}&cursor={following}")
        assert status == 200, answer
        found += [each["name"] for each in answer["items"]]
        following = answer["pagination"]["next"]
    return found


def test_users_are_found_filtered_and_sorted_page_by_page(database):
    async def main() -> None:
        async with served(database) as service:
            admin = await service.administrator()
            by_name = await people(service, admin)
            newest = [*NAMES[::-1], "Ada"]
            assert await names(admin) == await names(admin, "sort=-created_at") == newest
            assert await names(admin, "sort=created_at") == newest[::-1]
            assert await names(admin, "sort=name") == by_name
            assert await names(admin, "sort=-name") == by_name[::-1]
            by_email = await names(admin, "sort=email")
            assert by_email == (await names(admin, "sort=-email"))[::-1]
            assert by_email[1:] == NAMES
            assert await names(admin, "text=CAROL&sort=email") == ["Carol", "carol"]
            assert await names(admin, "text=100%25") == ["Bob 100%"]
            assert await names(admin, "text=_x") == ["eve_x"]
            assert await names(admin, f"text=p3-{admin.email}") == ["eve_x"]
            assert await names(admin, "text=\\") == []
            assert await names(admin, "role=manager&sort=created_at") == NAMES[1::2]
            assert await names(admin, "role=nobody") == []
            assert await names(admin, "active=false") == []
            assert await names(admin, "role=member&active=true&text=caROL&sort=name") == ["Carol"]

    run(main())


@pytest.mark.parametrize(
    "query",
    [
        "sort=password_hash", "sort=level", "sort=name;drop", "text=" + "x" * 201, "text=%00", "role=", "order=name",
        f"sort=name&cursor={Cursor('x', 1, '-name')}", f"cursor={Cursor('x', 1, 'name')}",
        f"sort=created_at&cursor={Cursor('yesterday', 1, 'created_at')}",
        f"sort=created_at&cursor={Cursor('0001-01-01T00:00:00+00:00', 1, 'created_at')}",
        f"sort=name&cursor={Cursor(chr(0), 1, 'name')}", f"sort=name&cursor={Cursor('x', 0, 'name')}",
    ],
)  # fmt: skip
def test_what_is_no_order_search_or_cursor_is_told(shared_postgres, query):
    async def main() -> None:
        async with served(shared_postgres.url) as service:
            admin = await service.administrator()
            status, answer = await admin("GET", f"/api/users?{query}")
            assert status == (200 if query == "role=" else 422), answer

    run(main())


def test_a_pattern_of_a_megabyte_is_refused_before_anything_looks_at_it(shared_postgres):
    async def main() -> None:
        async with served(shared_postgres.url) as service:
            admin = await service.administrator()
            for path in ("users", "communications", "admin/logs/audit"):
                reader, writer = await asyncio.open_connection(service.client.host, service.client.port)
                head = f" HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {admin.token}\r\nConnection: close\r\n\r\n"
                writer.write(f"GET /api/{path}?text={'%25_' * 250_000}{head}".encode())
                assert (await reader.read(100)).split(b" ", 2)[1] == b"400"
                writer.close()
                long = "%25_" * 1000
                assert (await admin("GET", f"/api/{path}?text={long}"))[0] == 422

    run(main())


def test_the_own_name_is_changed_and_nothing_else(database):
    async def main() -> None:
        async with served(database) as service:
            member = await service.colleague(await service.administrator())
            status, me = await member("PATCH", "/api/auth/me", json={"name": "Robert"})
            assert (status, me["name"], me["role"]) == (200, "Robert", "member")
            for body in (
                {"role": "administrator"},
                {"name": "x", "level": 100},
                {"name": "x", "password": PASSWORD},
                {},
            ):
                assert (await member("PATCH", "/api/auth/me", json=body))[0] == 422
            assert (await member("GET", "/api/auth/me"))[1]["name"] == "Robert"

    run(main())


def test_a_role_gets_another_level_at_once(database):
    async def main() -> None:
        async with served(database) as service:
            admin = await service.administrator()
            _, lead = await admin("POST", "/api/roles", json={"name": "lead", "level": 40})
            person = await service.colleague(admin, "lead")
            assert (await person("GET", "/api/users"))[0] == 403
            status, role = await admin("PATCH", f"/api/roles/{lead['id']}", json={"level": 60})
            assert (status, role) == (200, lead | {"level": 60})
            assert (await person("GET", "/api/users"))[0] == 200
            assert (await person("PATCH", f"/api/roles/{lead['id']}", json={"level": 100}))[0] == 403
            status, problem = await admin("PATCH", f"/api/roles/{lead['id']}", json={"name": "manager"})
            assert (status, problem["code"]) == (409, "role_exists")
            for level in (0, 101, "high"):
                assert (await admin("PATCH", f"/api/roles/{lead['id']}", json={"level": level}))[0] == 422

    run(main())


def test_one_administrator_remains(database):
    async def main() -> None:
        async with served(database) as service:
            admin = await service.administrator()
            roles = (await admin("GET", "/api/roles"))[1]["items"]
            own = next(each["id"] for each in roles if each["level"] == 100)
            status, problem = await admin("PATCH", f"/api/roles/{own}", json={"level": 50})
            assert (status, problem["code"]) == (403, "last_administrator")
            _, owner = await admin("POST", "/api/roles", json={"name": "owner", "level": 100})
            other = await service.colleague(admin, "owner")
            await admin("PATCH", f"/api/users/{other.id}", json={"active": False})
            assert (await admin("PATCH", f"/api/roles/{own}", json={"level": 50}))[
                0
            ] == 403  # one who cannot log in is none
            await admin("PATCH", f"/api/users/{other.id}", json={"active": True})
            assert (await admin("PATCH", f"/api/roles/{own}", json={"level": 50}))[0] == 200
            assert (await admin("GET", "/api/auth/me"))[1]["level"] == 50
            other = await service.log_in(other.email)
            assert (await other("PATCH", f"/api/roles/{owner['id']}", json={"level": 99}))[1][
                "code"
            ] == "last_administrator"

    run(main())


async def administrators(database: str) -> int:
    connection = await asyncpg.connect(database)
    try:
        return await connection.fetchval(
            "SELECT count(*) FROM impetus.users JOIN impetus.roles ON roles.id = role_id WHERE active AND level = 100"
        )
    finally:
        await connection.close()


async def owners(service: Served, admin: Person, other: Person) -> list[int]:
    """The ids of two roles of the highest level, one for each of them."""
    found = []
    for number, (who, by) in enumerate(((other, admin), (admin, other))):
        _, role = await by("POST", "/api/roles", json={"name": f"owner {number}", "level": 100})
        assert (await by("PATCH", f"/api/users/{who.id}", json={"role": role["name"]}))[0] == 200
        found.append(role["id"])
    return found


DEMOTIONS = {
    "role": ("PATCH", "/api/users/{user}", {"role": "member"}),
    "deactivated": ("PATCH", "/api/users/{user}", {"active": False}),
    "deleted": ("DELETE", "/api/users/{user}", None),
    "level": ("PATCH", "/api/roles/{role}", {"level": 10}),
}


@pytest.mark.parametrize("how", DEMOTIONS)
def test_two_administrators_who_demote_each_other_at_once_do_not_both_succeed(database, how):
    method, path, body = DEMOTIONS[how]

    async def main() -> None:
        async with served(database) as one, served(database) as two:
            admin = await one.administrator()
            other = await one.colleague(admin, "administrator")
            roles = await owners(one, admin, other)
            other.served = two
            async with one.app[DATABASE].session() as connection:
                # Both have found themselves administrators, and wait for the last moment before they change anything.
                transaction = connection.transaction()
                await transaction.start()
                await connection.execute("SELECT 1 FROM companies, users, roles FOR UPDATE OF companies, users, roles")
                asked: list[Any] = [
                    asyncio.ensure_future(asker(method, path.format(user=target.id, role=role), json=body))
                    for asker, target, role in ((admin, other, roles[0]), (other, admin, roles[1]))
                ]
                waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"

                async def both_wait() -> bool:
                    return await connection.fetchval(waiting) == 2

                await until(both_wait)
                await transaction.commit()
            statuses = sorted(status for status, _ in await asyncio.gather(*asked))
            assert statuses[0] in {200, 204}
            assert statuses[1] == 403
        assert await administrators(database) == 1

    run(main())
