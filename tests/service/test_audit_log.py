"""The audit log says what was done, and nothing else: a change and its entry are there together, or neither is."""

from __future__ import annotations

from typing import Any

import asyncpg
import pytest
from served import PASSWORD, Person, Served, served
from server import run
from test_jobs import EXPORT

from impetus_service.app import APIS
from impetus_service.kit.audit import JOURNAL

CHANGES = {
    operation.name: operation
    for api in APIS
    for operation in api.operations
    if operation.method != "GET" and operation.entity is not None
}


MARKED = {"cancel_job", "update_role"}


class Scene:
    """A company, and what happens in it; each step gives its request's path, body and the entry that it must make."""

    def __init__(self, service: Served, admin: Person, connection: Any) -> None:
        self.service, self.admin, self.connection = service, admin, connection
        self.left = set(CHANGES)

    async def do(self, name: str, asker: Person, entity_id: Any, what: str, body: Any = None, **ids: int) -> Any:
        """Make the request `name` of the API; its entry is there as soon as its answer is."""
        operation = CHANGES[name]
        self.left.discard(name)
        headers = {"X-Request-ID": name}
        status, answer = await asker(operation.method, operation.path.format(**ids), json=body, headers=headers)
        assert status == operation.status, (name, answer)
        (entry,) = await self.connection.fetch(
            "SELECT user_id, action, entity, entity_id, severity, description FROM audit_logs WHERE request_id = $1",
            name,
        )
        assert (entry["user_id"], entry["action"], entry["entity"]) == (asker.id, operation.action, operation.entity)
        assert entry["entity_id"] == str(answer["id"] if entity_id is None else entity_id)
        assert entry["description"] == what
        assert entry["severity"] == ("warning" if operation.method == "DELETE" or name in MARKED else "info")
        return answer


def test_every_change_has_its_entry_as_soon_as_its_answer(database):
    """As when the worker is killed the moment after it."""

    async def main() -> None:
        connection = await asyncpg.connect(database)
        try:
            async with served(database) as service:
                admin = await service.administrator()
                colleague = await service.colleague(admin)
                service.app[JOURNAL]._insert = None  # nothing that is written later counts
                at = Scene(service, admin, connection)
                name = (await admin("GET", "/api/company"))[1]["name"]
                body = {"name": "Shop", "time_zone": "America/Sao_Paulo"}
                what = f"name {name} → Shop; time_zone UTC → America/Sao_Paulo"
                await at.do("update_company", admin, None, what, body)
                role = await at.do("create_role", admin, None, "lead, level 50", {"name": "lead", "level": 50})
                what = "chief: name lead → chief; level 50 → 60 of 0 users"
                await at.do("update_role", admin, None, what, {"name": "chief", "level": 60}, id=role["id"])
                await at.do("delete_role", admin, role["id"], "chief, level 60", id=role["id"])
                await at.do("update_me", colleague, None, "name Bob → Rob", {"name": "Rob"})
                await service.log_in(colleague.email)
                newest = "SELECT max(id) FROM sessions WHERE user_id = $1"
                session, of = await connection.fetchval(newest, colleague.id), f"of user {colleague.id}"
                await at.do("end_my_session", colleague, session, of, id=session)
                await service.log_in(colleague.email)
                session = await connection.fetchval(newest, colleague.id)
                await at.do("end_session", admin, session, of, id=colleague.id, session=session)
                await at.do("end_my_other_sessions", colleague, colleague.id, "0 other sessions")
                await at.do("end_sessions", admin, colleague.id, "1 sessions", id=colleague.id)
                colleague = await service.log_in(colleague.email)
                body = {"email": "eve@example.com", "name": "Eve", "role": "member", "password": PASSWORD}
                user = await at.do("create_user", admin, None, "eve@example.com, role member (10)", body)
                what = "name Eve → Ev; role member (10) → manager (50); deactivated; another password"
                body = {"name": "Ev", "role": "manager", "active": False, "password": PASSWORD + "!"}
                await at.do("update_user", admin, user["id"], what, body, id=user["id"])
                await at.do("delete_user", admin, user["id"], "eve@example.com, role manager (50)", id=user["id"])
                message = {"subject": "s", "body": "b", "kind": "note"}
                written = await at.do("create_communication", colleague, None, "kind note", message)
                what = "kind note → memo; subject s → t; body changed, 1 → 2 characters"
                body = {"subject": "t", "body": "bc", "kind": "memo"}
                await at.do("update_communication", colleague, None, what, body, id=written["id"])
                what = f"kind memo of user {colleague.id}: t"
                await at.do("delete_communication", admin, written["id"], what, id=written["id"])
                job = await at.do("start_export", admin, None, "kind export", EXPORT)
                await at.do("cancel_job", admin, job["id"], "at 0 %", id=job["id"])
                period = {"of": "audit", "by": "day", "from": "2026-01-01", "to": "2026-01-02"}
                job = await at.do("start_report", admin, None, "kind report", period)
                await connection.execute("UPDATE jobs SET state = 'failed' WHERE id = $1", job["id"])
                await at.do("requeue_job", admin, job["id"], "", id=job["id"])
                await at.do("start_embeddings", colleague, None, "kind embeddings", {"texts": ["a"]})
                body = {"current": PASSWORD, "new": PASSWORD + "!"}
                await at.do("change_password", colleague, colleague.id, "0 other sessions ended", body)
                session = await connection.fetchval("SELECT id FROM sessions WHERE user_id = $1", colleague.id)
                await at.do("logout", colleague, session, "")
                assert at.left == set(), "give this test a request of each"
        finally:
            await connection.close()

    run(main())


def test_without_its_entry_there_is_no_change(database):
    async def main() -> None:
        connection = await asyncpg.connect(database)
        try:
            async with served(database) as service:
                admin = await service.administrator()
                colleague = await service.colleague(admin)
                await connection.execute(
                    "CREATE FUNCTION no() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'full'; END $$;"
                    "CREATE TRIGGER no BEFORE INSERT ON audit_logs EXECUTE FUNCTION no()"
                )
                for method, path, body in (
                    ("PATCH", "/api/company", {"name": "other"}),
                    ("PATCH", f"/api/users/{colleague.id}", {"role": "manager"}),
                    ("DELETE", f"/api/users/{colleague.id}", None),
                    ("POST", "/api/communications", {"subject": "s", "body": "b"}),
                    ("POST", "/api/jobs/exports", EXPORT),
                    ("POST", "/api/auth/logout", None),
                ):
                    assert (await admin(method, path, json=body))[0] == 500, path
                assert (await admin("GET", f"/api/users/{colleague.id}"))[1]["role"] == "member"
                assert (await admin("GET", "/api/company"))[1]["name"] != "other"
                for path in ("communications", "jobs"):
                    assert (await admin("GET", f"/api/{path}"))[1]["items"] == []
        finally:
            await connection.close()

    run(main())


async def refused(database: str) -> list[tuple[Any, ...]]:
    connection = await asyncpg.connect(database)
    try:
        rows = await connection.fetch(
            "SELECT user_id, action, severity, description FROM audit_logs WHERE action LIKE '%.refused' ORDER BY id"
        )
        return [tuple(row) for row in rows]
    finally:
        await connection.close()


def test_what_was_refused_is_recorded_as_refused(database):
    async def main() -> None:
        async with served(database) as service:
            admin = await service.administrator()
            member = await service.colleague(admin)
            assert (await member("POST", "/api/roles", json={"name": "x", "level": 99}))[0] == 403
            assert (await admin("DELETE", f"/api/users/{admin.id}"))[0] == 403
            body = {"current": "wrong", "new": PASSWORD}
            assert (await member("POST", "/api/auth/password", json=body))[0] == 403
            credentials = {"email": member.email, "password": "wrong"}
            assert (await service("POST", "/api/auth/login", json=credentials))[0] == 401
            assert [(who, action, severity) for who, action, severity, _ in await refused(database)] == [
                (member.id, "role.create.refused", "warning"),
                (admin.id, "user.delete.refused", "warning"),
                (member.id, "password.change.refused", "warning"),
                (member.id, "auth.login.refused", "warning"),
            ]

    run(main())


@pytest.mark.parametrize("path", ["/api/auth/login", "/api/auth/password"])
def test_a_limit_that_is_reached_is_recorded_once(database, path):
    async def main() -> None:
        async with served(database, LOGIN_ATTEMPTS="2") as service:
            member = await service.colleague(await service.administrator())
            body = {"email": member.email, "password": "wrong", "current": "wrong", "new": PASSWORD}
            kept = ("email", "password") if path.endswith("login") else ("current", "new")
            ask = service if path.endswith("login") else member
            statuses = [(await ask("POST", path, json={name: body[name] for name in kept}))[0] for _ in range(5)]
            assert statuses[2:] == [429] * 3
            limited = [each for each in await refused(database) if "too many failed logins" in each[3]]
            action = "auth.login.refused" if path.endswith("login") else "password.change.refused"
            assert [each[:3] for each in limited] == [(member.id, action, "warning")]

    run(main())
