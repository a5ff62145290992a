"""Where a day begins and ends: in the time zone that a request names, or else in the company's."""

from __future__ import annotations

from datetime import UTC
from zoneinfo import ZoneInfo

import asyncpg
import pytest
from served import served
from server import run

from impetus_service.kit.validation import TimeText, ZoneText

SAO_PAULO = ZoneInfo("America/Sao_Paulo")


@pytest.mark.parametrize(
    ("text", "begin", "end"),
    [
        ("2026-03-10", "2026-03-10T03:00:00+00:00", "2026-03-11T03:00:00+00:00"),
        ("2026-03-10T01:00:00", "2026-03-10T04:00:00+00:00", "2026-03-10T04:00:00+00:00"),
        ("2026-03-10T01:00:00Z", "2026-03-10T01:00:00+00:00", "2026-03-10T01:00:00+00:00"),
        ("2018-11-04", "2018-11-04T03:00:00+00:00", "2018-11-05T02:00:00+00:00"),  # began at 1:00
        ("2018-02-17", "2018-02-17T02:00:00+00:00", "2018-02-18T03:00:00+00:00"),  # had 25 hours
    ],
)
def test_a_day_in_sao_paulo(text, begin, end):
    assert tuple(each.isoformat() for each in TimeText(text).within(SAO_PAULO)) == (begin, end)


@pytest.mark.parametrize("text", ["0001-01-01", "9999-12-31", "9999-12-31T23:59:59-14:00", "0001-01-01T00:00:00+14:00"])
def test_a_year_that_is_in_no_zone_is_told(text):
    with pytest.raises(ValueError, match="out of range"):
        TimeText(text)


def test_utc_needs_no_data_of_time_zones():
    assert ZoneText("UTC").zone is UTC


NONE = [
    "Sao_Paulo", "America", "America/", "america/sao_paulo", "/etc/passwd", "../../../etc/passwd", "America/../UTC", "localtime",
    "right/UTC", "posix/UTC", "posixrules", "UTC%00", "%ff", "x" * 65, "-03:00", "America/S%C3%A3o_Paulo", "Etc/GMT%2B3%0a",
]  # fmt: skip


def test_what_is_no_time_zone_is_told_everywhere(shared_postgres):
    async def main() -> None:
        async with served(shared_postgres.url) as service:
            admin = await service.administrator()
            for name in NONE:
                for path in ("admin/logs/audit", "admin/logs/data-access", "admin/logs/export", "communications"):
                    status, problem = await admin("GET", f"/api/{path}?time_zone={name}")
                    assert (status, problem["errors"][0]["at"]) == (422, "query.time_zone"), name
            body = {"of": "audit", "by": "day", "from": "2026-01-01", "to": "2026-01-02"}
            for name in ("Mars/Base", None, 5):
                fault = (await admin("POST", "/api/jobs/reports", json=body | {"time_zone": name}))[1]["errors"][0]
                assert fault["at"] == "body.time_zone"
            assert (await admin("PATCH", "/api/company", json={"time_zone": "Mars/Base"}))[0] == 422
            assert (await admin("GET", "/api/company"))[1]["time_zone"] == "UTC"
            for name in ("Etc/GMT%2B3", "GMT", "Europe/Lisbon", "America/Argentina/Buenos_Aires"):
                assert (await admin("GET", f"/api/communications?from=2026-01-01&time_zone={name}"))[0] == 200

    run(main())


def test_the_days_of_a_list_are_those_of_its_time_zone(database):
    async def main() -> None:
        async with served(database) as service:
            admin = await service.administrator()
            connection = await asyncpg.connect(database)
            company = (await admin("GET", "/api/company"))[1]["id"]
            for table, columns, values in (
                ("communications", "kind, subject, body", "'x', 'x', 'x'"),
                ("audit_logs", "action, entity, severity, description", "'x', 'x', 'info', 'x'"),
            ):
                for instant in ("2026-03-10T02:59:59.999999Z", "2026-03-10T03:00Z"):
                    await connection.execute(
                        f"INSERT INTO impetus.{table} (company_id, created_at, {columns})"
                        f" VALUES ($1, $2::text::timestamptz, {values})",
                        company, instant,
                    )  # fmt: skip
            await connection.close()

            async def days(query: str) -> list[int]:
                found = []
                for path in (f"communications?{query}", f"admin/logs/audit?action=x&{query}"):
                    for day in ("2026-03-09", "2026-03-10"):
                        answer = (await admin("GET", f"/api/{path}&from={day}&to={day}"))[1]
                        found.append(answer["pagination"]["total"])
                export = (await admin("GET", f"/api/admin/logs/export?action=x&to=2026-03-09&{query}"))[1]
                return [*found, export.count(b"\n")]

            assert await days("") == await days("time_zone=UTC") == [0, 2, 0, 2, 0]
            assert await days("time_zone=America/Sao_Paulo") == [1, 1, 1, 1, 1]
            assert (await admin("PATCH", "/api/company", json={"time_zone": "America/Sao_Paulo"}))[0] == 200
            assert await days("") == [1, 1, 1, 1, 1]
            assert await days("time_zone=UTC") == [0, 2, 0, 2, 0]

    run(main())
