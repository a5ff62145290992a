"""What is written in a company: changed and deleted by those who may, found, and sent twice but written once."""

from __future__ import annotations

import asyncio
from typing import Any

import asyncpg
import pytest
from served import Person, served
from server import run
from test_maintenance import command

from impetus_service.kit.db import DATABASE
from impetus_service.kit.statements import Query

PATH = "/api/communications"


async def write(who: Person, key: str | None = None, **fields: Any) -> tuple[int, Any]:
    headers = {} if key is None else {"Idempotency-Key": key}
    return await who("POST", PATH, json={"subject": "s", "body": "b"} | fields, headers=headers)


async def subjects(who: Person, query: str = "") -> list[str]:
    status, answer = await who("GET", f"{PATH}?{query}")
    assert status == 200, answer
    return [each["subject"] for each in answer["items"]]


def test_the_author_changes_what_he_has_written_and_nobody_else(database):
    async def main() -> None:
        async with served(database) as service:
            admin = await service.administrator()
            author, other = await service.colleague(admin), await service.colleague(admin, "manager")
            _, written = await write(author, kind="note")
            assert written["updated_at"] is None
            path = f"{PATH}/{written['id']}"
            for asker in (admin, other):
                status, problem = await asker("PATCH", path, json={"subject": "x"})
                assert (status, problem["code"]) == (403, "not_the_author")
            status, changed = await author("PATCH", path, json={"subject": "t"})
            assert (status, changed | {"updated_at": None}) == (200, written | {"subject": "t"})
            assert changed["updated_at"] > written["created_at"]
            assert (await author("PATCH", path, json={"subject": "t", "body": None}))[1] == changed
            assert (await other("GET", path))[1] == changed
            for body in ({"author_id": 1}, {"subject": ""}, {"kind": "No"}, {"body": "x" * 100_001}):
                assert (await author("PATCH", path, json=body))[0] == 422
            assert (await author("PATCH", f"{PATH}/{written['id'] + 1}", json={"subject": "x"}))[0] == 404

    run(main())


def test_the_author_and_administrators_delete(database):
    async def main() -> None:
        async with served(database) as service:
            admin = await service.administrator()
            author, other = await service.colleague(admin), await service.colleague(admin, "manager")
            for asker, status in ((other, 403), (author, 204), (admin, 204)):
                _, written = await write(author)
                assert (await asker("DELETE", f"{PATH}/{written['id']}"))[0] == status
                assert (await author("GET", f"{PATH}/{written['id']}"))[0] == (200 if status == 403 else 404)
            assert (await author("DELETE", f"{PATH}/{written['id']}"))[0] == 404

    run(main())


def test_communications_are_found_by_text_kind_author_and_period(database):
    async def main() -> None:
        async with served(database) as service:
            admin = await service.administrator()
            other = await service.colleague(admin)
            for number, (subject, body) in enumerate(
                [("Invoice 100%", "to pay"), ("Plan", "an INVOICE_ again"), ("Árvore", "x"), ("end", "begin")]
            ):
                await write(
                    other if number % 2 else admin, subject=subject, body=body, kind="memo" if number else "note"
                )
            move = Query(
                "UPDATE communications SET created_at = '2026-01-31T12:00Z'::timestamptz - id * interval '1 day'"
            )
            await service.app[DATABASE].execute(move)
            assert await subjects(admin) == ["Invoice 100%", "Plan", "Árvore", "end"]
            assert await subjects(admin, "text=invoice") == ["Invoice 100%", "Plan"]
            assert await subjects(admin, "text=invoice_") == ["Plan"]
            assert await subjects(admin, "text=100%25") == ["Invoice 100%"]
            assert await subjects(admin, "text=\u00e1RVORE") == ["Árvore"]
            assert await subjects(admin, "text=endbegin") == []
            assert await subjects(admin, f"text=invoice&author={other.id}&kind=memo") == ["Plan"]
            day = (await admin("GET", PATH))[1]["items"][1]["created_at"][:10]
            assert await subjects(admin, f"from={day}&to={day}") == ["Plan"]
            assert await subjects(admin, f"to={day}&text=invoice") == ["Plan"]

    run(main())


def test_the_same_key_and_body_are_one_and_get_the_same_answer(database):
    async def main() -> None:
        async with served(database) as service:
            author = await service.colleague(await service.administrator())
            first = await write(author, "k-1", kind="note")
            assert first[0] == 201
            await author("PATCH", f"{PATH}/{first[1]['id']}", json={"subject": "changed"})
            headers = {"Idempotency-Key": "k-1", "Authorization": f"Bearer {author.token}"}
            body = {"body": "b", "kind": "note", "subject": "s"}  # in another order
            async with service.client.post(PATH, json=body, headers=headers) as response:
                assert (response.status, await response.json()) == first
                assert response.headers["Idempotent-Replayed"] == "true"
            assert len(await subjects(author)) == 1
            for fields in ({"kind": "memo"}, {"kind": "note", "subject": "t"}):
                status, problem = await write(author, "k-1", **fields)
                assert (status, problem["code"], problem["errors"][0]["code"]) == (422, "invalid", "key_in_use")
            assert (await write(author, "k-2", kind="note"))[1]["id"] != first[1]["id"]
            assert (await write(author))[0] == (await write(author))[0] == 201
            assert len(await subjects(author)) == 4

    run(main())


def test_a_key_is_of_one_user_of_one_company(database):
    """What somebody has written is not to be had by his key, nor that it was used."""

    async def main() -> None:
        async with served(database) as service:
            mine, theirs = await service.administrator(), await service.administrator()
            colleague = await service.colleague(theirs)
            answers = [
                await write(who, "1", subject="secret" if who is theirs else "s") for who in (theirs, colleague, mine)
            ]
            assert [status for status, _ in answers] == [201] * 3
            assert len({answer["id"] for _, answer in answers}) == 3
            assert await subjects(mine) == ["s"]

    run(main())


def test_twenty_at_once_with_one_key_are_one(database):
    async def main() -> None:
        async with served(database) as one, served(database) as two:
            author = await one.colleague(await one.administrator())
            elsewhere = Person(two, author.email, author.token)
            answers = await asyncio.gather(*(write(who, "k") for who in (author, elsewhere) * 10))
            assert {(status, answer["id"]) for status, answer in answers} == {(201, answers[0][1]["id"])}
            assert len(await subjects(author)) == 1

    run(main())


def test_what_was_not_done_leaves_its_key_free(database):
    async def main() -> None:
        connection = await asyncpg.connect(database)
        async with served(database) as service:
            author = await service.colleague(await service.administrator())
            assert (await write(author, "k", subject=""))[0] == 422
            await connection.execute(
                "CREATE FUNCTION no() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'full'; END $$;"
                "CREATE TRIGGER no BEFORE INSERT ON impetus.audit_logs EXECUTE FUNCTION no()"
            )
            assert (await write(author, "k"))[0] == 500
            await connection.execute("DROP TRIGGER no ON impetus.audit_logs")
            assert (await write(author, "k"))[0] == 201
            assert await subjects(author) == ["s"]
        await connection.close()

    run(main())


def test_a_key_is_forgotten_after_its_time(database):
    async def main() -> None:
        async with served(database, IDEMPOTENCY_HOURS="2") as service:
            author = await service.colleague(await service.administrator())
            first = (await write(author, "k"))[1]["id"]
            left = Query("SELECT extract(epoch FROM expires_at - now()) / 3600 FROM idempotency_keys")
            assert 1.9 < await service.app[DATABASE].fetchval(left) <= 2
            over = Query("UPDATE idempotency_keys SET expires_at = now()")
            await service.app[DATABASE].execute(over)
            assert (await write(author, "k", subject="t"))[1]["id"] != first
            assert (await write(author, "k", subject="t"))[0] == 201
            await service.app[DATABASE].execute(over)
            done = command(database, "maintenance")
            assert done.returncode == 0, done.stdout
            assert await service.app[DATABASE].fetchval(Query("SELECT count(*) FROM idempotency_keys")) == 0

    run(main())


@pytest.mark.parametrize("key", ["", "x" * 201, "\u00e9"])
def test_what_is_no_key_is_told(shared_postgres, key):
    async def main() -> None:
        async with served(shared_postgres.url) as service:
            status, problem = await write(await service.administrator(), key)
            assert (status, problem["errors"][0]["at"]) == (422, "headers.Idempotency-Key")

    run(main())
