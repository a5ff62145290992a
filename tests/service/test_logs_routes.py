"""The audit and the data-access log over HTTP: written by what people do, read in pages, exported as a file."""

from __future__ import annotations

import asyncio
import csv
import io
import json
import logging
import signal
from typing import Any

import pytest
from served import Person, Served, served
from server import run
from waiting import until

from impetus_service import admin_logs
from impetus_service.kit import audit, formats, listing
from impetus_service.kit.audit import JOURNAL
from impetus_service.kit.db import DATABASE
from impetus_service.kit.statements import Query

MANY = Query("""
INSERT INTO audit_logs (company_id, user_id, action, entity, severity, description, created_at)
SELECT $1, $2, 'test.' || n % 3, 'thing', CASE WHEN n % 10 = 0 THEN 'warning' ELSE 'info' END, 'number ' || n,
       '2026-01-01T00:00:00Z'::timestamptz + n * interval '1 minute'
FROM generate_series(1, $3) AS n
""")


async def written(service: Served) -> None:
    """Until the database has every entry."""
    await until(lambda: not service.app[JOURNAL].waiting)


async def company_of(service: Served, person: Person) -> int:
    return await service.app[DATABASE].fetchval(Query("SELECT company_id FROM users WHERE id = $1"), person.id)


async def entries(person: Person, log: str = "audit", **query: Any) -> list[dict[str, Any]]:
    status, body = await person("GET", f"/api/admin/logs/{log}", params=query)
    assert status == 200, body
    return body["items"]


def test_what_people_do_and_see_is_written_by_itself(shared_postgres):
    async def main() -> None:
        async with served(shared_postgres.url) as service:
            admin = await service.administrator()
            member = await service.colleague(admin)
            headers = {"X-Request-ID": "wanted-1"}
            message = {"subject": "s", "body": "b"}
            _, made = await member("POST", "/api/communications", json=message, headers=headers)
            await member("GET", f"/api/communications/{made['id']}")
            await member("GET", "/api/communications")
            await member("GET", "/api/users")
            await service("POST", "/api/auth/login", json={"email": member.email, "password": "wrong"})
            await admin("DELETE", f"/api/users/{member.id}")
            await written(service)
            done = [
                (each["user_id"], each["action"], each["entity"] != "session" and each["entity_id"], each["severity"])
                for each in await entries(admin)
            ]
            assert done == [
                (admin.id, "user.delete", str(member.id), "warning"),
                (member.id, "auth.login.refused", False, "warning"),
                (member.id, "user.list.refused", None, "warning"),
                (member.id, "communication.create", str(made["id"]), "info"),
                (member.id, "auth.login", False, "info"),
                (admin.id, "user.create", str(member.id), "info"),
                (admin.id, "auth.login", False, "info"),
            ]
            (created,) = await entries(admin, action="communication.create")
            assert (created["request_id"], created["address"]) == ("wanted-1", "127.0.0.1")
            seen = [
                (each["action"], each["entity_id"], each["description"])
                for each in await entries(admin, "data-access", user=member.id)
            ]
            assert seen == [
                ("communication.list", None, "1 rows"),
                ("communication.read", str(made["id"]), ""),
            ]

    run(main())


@pytest.mark.parametrize(
    ("query", "numbers"),
    [
        ({"action": "test.0"}, [30, 27, 24, 21, 18, 15, 12, 9, 6, 3]),
        ({"severity": "warning", "entity": "thing"}, [30, 20, 10]),
        ({"from": "2026-01-01T00:28:00Z"}, [30, 29, 28]),
        ({"from": "2026-01-01T01:28:00+01:00", "to": "2026-01-01T00:29:00"}, [28]),
        ({"to": "2025-12-31"}, []),
        ({"from": "2026-01-01", "to": "2026-01-01", "text": "number 3"}, [30, 3]),
        ({"text": "UMBER 3%"}, []),
        ({"text": "number _0"}, []),
        ({"user": 1}, []),
    ],
)
def test_filters(shared_postgres, query, numbers):
    async def main() -> None:
        async with served(shared_postgres.url) as service:
            admin = await service.administrator()
            await service.app[DATABASE].execute(MANY, await company_of(service, admin), admin.id, 30)
            found = await entries(admin, **{"entity": "thing"} | query)
            assert [int(each["description"].split()[1]) for each in found] == numbers

    run(main())


def test_a_text_is_looked_for_as_it_stands(shared_postgres):
    async def main() -> None:
        async with served(shared_postgres.url) as service:
            admin = await service.administrator()
            company = await company_of(service, admin)
            for description in ("100% of a_b", "100 of axb", r"a\b", "'; DROP TABLE audit_logs; --"):
                service.app[JOURNAL].add("audit_logs", company, None, "x", "odd", description=description)
            await written(service)
            for text, found in (("0%", 1), ("a_b", 1), ("\\", 1), ("'; DROP", 1), ("100", 2)):
                assert len(await entries(admin, text=text, entity="odd")) == found

    run(main())


@pytest.mark.parametrize("query", [{"from": "yesterday"}, {"to": "2026-13-01"}, {"from": "0001-01-01T00:00:00+14:00"}])
def test_an_instant_that_is_none_is_told(shared_postgres, query):
    async def main() -> None:
        async with served(shared_postgres.url) as service:
            admin = await service.administrator()
            status, problem = await admin("GET", "/api/admin/logs/audit", params=query)
            (name,) = query
            assert (status, problem["errors"][0]["at"]) == (422, f"query.{name}")

    run(main())


def test_pages_by_offset_and_by_cursor_show_each_row_once(shared_postgres):
    async def main() -> None:
        async with served(shared_postgres.url) as service:
            admin = await service.administrator()
            company = await company_of(service, admin)
            await service.app[DATABASE].execute(MANY, company, admin.id, 25)
            _, whole = await admin("GET", "/api/admin/logs/audit", params={"entity": "thing", "limit": 500})
            numbers = [each["id"] for each in whole["items"]]
            assert whole["pagination"] == {"total": 25, "exact": True, "limit": 500, "offset": 0, "next": None}
            paged, query = [], {"entity": "thing", "limit": 10}
            while True:
                _, page = await admin("GET", "/api/admin/logs/audit", params=query)
                paged += [each["id"] for each in page["items"]]
                if page["pagination"]["next"] is None:
                    break
                query["cursor"] = page["pagination"]["next"]
                # Newer ones that come meanwhile move nothing.
                service.app[JOURNAL].add("audit_logs", company, None, "x", "thing")
                await written(service)
            assert paged == numbers
            del query["cursor"]
            _, page = await admin("GET", "/api/admin/logs/audit", params=query | {"offset": 20, "to": "2026-01-02"})
            assert [each["id"] for each in page["items"]] == numbers[20:]
            _, page = await admin("GET", "/api/admin/logs/audit", params=query | {"offset": "1e9", "limit": "abc"})
            assert (page["items"], page["pagination"]["limit"]) == ([], 100)

    run(main())


def test_beyond_what_is_counted_pages_go_on(shared_postgres, monkeypatch):
    monkeypatch.setattr(listing, "COUNTED", 5)

    async def main() -> None:
        async with served(shared_postgres.url) as service:
            admin = await service.administrator()
            await service.app[DATABASE].execute(MANY, await company_of(service, admin), admin.id, 25)
            query = {"entity": "thing", "offset": 20, "limit": 3}
            _, page = await admin("GET", "/api/admin/logs/audit", params=query)
            assert [each["description"] for each in page["items"]] == ["number 5", "number 4", "number 3"]
            assert (page["pagination"]["total"], page["pagination"]["exact"]) == (5, False)

    run(main())


@pytest.mark.parametrize("kind", ["jsonl", "csv"])
def test_an_export_is_a_file(shared_postgres, kind):
    async def main() -> None:
        async with served(shared_postgres.url) as service:
            admin = await service.administrator()
            await service.app[DATABASE].execute(MANY, await company_of(service, admin), admin.id, 600)
            query = {"format": kind, "from": "2026-01-01", "to": "2026-01-01", "entity": "thing"}
            headers = {"Authorization": f"Bearer {admin.token}"}
            async with service.client.get("/api/admin/logs/export", params=query, headers=headers) as response:
                text = await response.text()
                assert response.status == 200
                assert response.headers["X-Export-Truncated"] == "false"
                assert response.headers["Content-Disposition"] == f'attachment; filename="audit.{kind}"'
            if kind == "csv":
                rows = list(csv.DictReader(io.StringIO(text)))
            else:
                rows = [json.loads(line) for line in text.splitlines()]
            assert [row["description"] for row in rows] == [f"number {n}" for n in range(600, 0, -1)]
            assert set(rows[0]) == {
                "id", "user_id", "action", "entity", "entity_id", "severity", "description", "address", "request_id",
                "created_at",
            }  # fmt: skip
            await written(service)
            (entry,) = await entries(admin, action="log.export")
            assert (entry["severity"], entry["description"]) == ("warning", f"600 rows as {kind}")

    run(main())


def test_an_export_that_is_cut_says_so(shared_postgres, monkeypatch):
    monkeypatch.setattr(admin_logs, "EXPORT_MAX", 10)

    async def main() -> None:
        async with served(shared_postgres.url) as service:
            admin = await service.administrator()
            await service.app[DATABASE].execute(MANY, await company_of(service, admin), admin.id, 11)
            headers = {"Authorization": f"Bearer {admin.token}"}
            query = {"entity": "thing"}
            async with service.client.get("/api/admin/logs/export", params=query, headers=headers) as response:
                assert len((await response.text()).splitlines()) == 10
                assert response.headers["X-Export-Truncated"] == "true"
                assert response.headers["X-Export-Limit"] == "10"

    run(main())


@pytest.mark.parametrize("stalled", [False, True])
def test_a_client_that_leaves_or_stalls_gives_everything_back(shared_postgres, monkeypatch, caplog, stalled):
    if stalled:
        monkeypatch.setattr("impetus_service.kit.streams.STALLED", 0.2)
    long = Query("""
        INSERT INTO audit_logs (company_id, action, entity, severity, description)
        SELECT $1, 'x', 'long', 'info', repeat('x', 10000) FROM generate_series(1, 1200)
    """)  # 12 MB: more than the kernel holds between two sockets

    async def main() -> None:
        async with served(shared_postgres.url, DB_POOL_MAX="2", DB_TIMEOUT_MS="60000") as service:
            admin = await service.administrator()
            await service.app[DATABASE].execute(long, await company_of(service, admin))
            url = service.client.make_url("/")
            reader, writer = await asyncio.open_connection(url.host, url.port, limit=1)
            writer.write(
                b"GET /api/admin/logs/export?entity=long HTTP/1.1\r\nHost: x\r\n"
                b"Authorization: Bearer %s\r\n\r\n" % admin.token.encode()
            )
            await reader.readexactly(100)
            if not stalled:
                writer.transport.abort()
            left = "aborted: nothing was read" if stalled else "aborted"
            await until(lambda: [r for r in caplog.records if left in r.getMessage() and r.levelname == "INFO"])
            await until(lambda: not admin_logs.EXPORTS.locked() and admin_logs.EXPORTS._value == 2)
            assert [await admin("GET", "/api/auth/me") for _ in range(3)]
            assert [r for r in caplog.records if r.exc_info] == []
            writer.close()

    caplog.set_level(logging.INFO)
    run(main())


@pytest.mark.parametrize("formula", ["=1+1", "+1", "-1", "@SUM(A1)", "\tx", "\rx", " =1", "|x"])
def test_a_spreadsheet_computes_nothing(formula):
    (row,) = csv.reader(io.StringIO(formats.as_csv([(formula, "a=b", 7)]).decode(), newline=""))
    assert row == [f"'{formula}", "a=b", "7"]


def test_entries_outlast_an_outage_of_the_database(postgres, monkeypatch):
    monkeypatch.setattr(audit, "PAUSE", 0.05)

    async def main() -> None:
        async with served(postgres.url) as service:
            admin = await service.administrator()
            company = await company_of(service, admin)
            await written(service)
            await asyncio.to_thread(postgres.stop, signal.SIGKILL)
            for number in range(1200):
                service.app[JOURNAL].add("audit_logs", company, None, "during", "outage", entity_id=number)
            assert service.app[JOURNAL].waiting == 1200
            await asyncio.to_thread(postgres.start)
            await written(service)
            kept = Query("SELECT entity_id FROM audit_logs WHERE action = 'during' ORDER BY id")
            rows = await service.app[DATABASE].fetch(kept)
            assert [row["entity_id"] for row in rows] == list(map(str, range(1200)))
            assert service.app[JOURNAL].dropped == 0

    postgres.start()
    run(main())


def test_what_does_not_fit_is_counted(shared_postgres, monkeypatch, caplog):
    monkeypatch.setattr(audit, "MOST_WAITING", 3)

    async def main() -> None:
        async with served(shared_postgres.url) as service:
            journal = service.app[JOURNAL]
            for _ in range(5):
                journal.add("audit_logs", 1, None, "x", "y")
            assert (journal.waiting, journal.dropped) == (3, 2)
            assert [record.levelname for record in caplog.records if "are lost" in record.getMessage()] == ["ERROR"]
            _, body = await service("GET", "/health")
            assert body["audit"]["dropped"] == 2

    run(main())


def test_a_graceful_stop_loses_nothing(shared_postgres):
    async def main() -> None:
        async with served(shared_postgres.url) as service:
            admin = await service.administrator()
            company = await company_of(service, admin)
            for _ in range(2000):
                service.app[JOURNAL].add("data_access_logs", company, None, "last", "words")
        async with served(shared_postgres.url) as service:
            count = Query("SELECT count(*) FROM data_access_logs WHERE company_id = $1 AND action = 'last'")
            assert await service.app[DATABASE].fetchval(count, company) == 2000

    run(main())


LAST = Query("SELECT entity_id FROM data_access_logs WHERE company_id = $1 AND action = 'last' ORDER BY entity_id::int")


async def add(service: Served, company: int, numbers: range) -> None:
    for number in numbers:
        service.app[JOURNAL].add("data_access_logs", company, None, "last", "words", entity_id=number)


async def kept(service: Served, company: int) -> list[int]:
    return sorted({int(row["entity_id"]) for row in await service.app[DATABASE].fetch(LAST, company)})


def test_a_graceful_stop_without_a_database_leaves_all_to_the_next_worker(postgres, monkeypatch, tmp_path, caplog):
    monkeypatch.setattr(audit, "LAST_ATTEMPT", 0.1)

    async def main() -> None:
        async with served(postgres.url) as service:
            company = await company_of(service, await service.administrator())
            await written(service)
            await asyncio.to_thread(postgres.stop, signal.SIGKILL)
            await add(service, company, range(1200))
        assert len(list((tmp_path / "spool").iterdir())) == 1
        await asyncio.to_thread(postgres.start)
        async with served(postgres.url) as service, served(postgres.url):  # only one of them takes it up
            await until(lambda: not list((tmp_path / "spool").iterdir()))
            assert await kept(service, company) == list(range(1200))
        assert not [record for record in caplog.records if "lost" in record.getMessage()]

    postgres.start()
    run(main())


def test_a_long_outage_goes_to_the_disk_and_back(postgres, monkeypatch, tmp_path):
    monkeypatch.setattr(audit, "PAUSE", 0.05)
    monkeypatch.setattr(audit, "MAX_WAITING", 10)
    monkeypatch.setattr(audit, "MOST_WAITING", 200)

    async def main() -> None:
        async with served(postgres.url) as service:
            company = await company_of(service, await service.administrator())
            await written(service)
            await asyncio.to_thread(postgres.stop, signal.SIGKILL)
            for begin in range(0, 1000, 100):
                await add(service, company, range(begin, begin + 100))
                await until(lambda: service.app[JOURNAL].waiting <= 10)
            await asyncio.to_thread(postgres.start)

            async def all_there() -> bool:
                return not list((tmp_path / "spool").iterdir()) and not service.app[JOURNAL].waiting

            await until(all_there)
            assert await kept(service, company) == list(range(1000))
            assert service.app[JOURNAL].dropped == 0

    postgres.start()
    run(main())


def test_a_disk_that_takes_nothing_is_told(postgres, monkeypatch, tmp_path, caplog):
    monkeypatch.setattr(audit, "LAST_ATTEMPT", 0.1)
    (tmp_path / "spool").write_text("no folder")

    async def main() -> None:
        async with served(postgres.url) as service:
            company = await company_of(service, await service.administrator())
            await written(service)
            await asyncio.to_thread(postgres.stop, signal.SIGKILL)
            await add(service, company, range(3))
        assert [record.levelname for record in caplog.records if "3 audit entries were lost" in record.getMessage()]

    postgres.start()
    run(main())


def test_an_entry_that_the_database_refuses_holds_up_no_other(shared_postgres, caplog):
    async def main() -> None:
        async with served(shared_postgres.url) as service:
            admin = await service.administrator()
            company = await company_of(service, admin)
            journal = service.app[JOURNAL]
            journal.add("audit_logs", company, None, "good", "batch", description="with \0 and \ud800")
            journal.add("audit_logs", company, None, "bad", "batch", severity="none of them")
            journal.add("audit_logs", company, None, "good", "batch")
            await written(service)
            assert [each["action"] for each in await entries(admin, entity="batch")] == ["good", "good"]
            assert journal.dropped == 1

    run(main())
