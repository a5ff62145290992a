"""Jobs over HTTP, and the workers that do them: also when one is killed, when the database goes away, and when all fails."""

from __future__ import annotations

import asyncio
import csv
import io
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import asyncpg
import fake_provider as fake
import msgspec
import pytest
from fake_provider import KEY, FakeProvider
from hypothesis import given
from hypothesis import strategies as st
from served import Person, served
from server import run
from waiting import PATIENCE, until

from impetus_service import job_kinds
from impetus_service.app import APIS
from impetus_service.job_kinds import KINDS, ReportJob
from impetus_service.kit import health, job_files, job_worker, logs, outgoing
from impetus_service.kit.job_kinds import Run
from impetus_service.kit.job_worker import Worker, delay_before
from impetus_service.kit.validation import from_builtins
from impetus_service.schema import shipped
from impetus_service.settings import Settings

ROOT = Path(__file__).parents[2]
REPORT = {"of": "audit", "by": "day", "from": "2026-01-01", "to": "2026-01-02"}
EXPORT = {"log": "audit", "format": "jsonl", "action": "test"}


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr(outgoing, "FIRST_PAUSE", 0.0)
    monkeypatch.setattr(job_worker, "FIRST_DELAY", 0.01)
    monkeypatch.setattr("impetus_service.kit.job_kinds.PROGRESS_EVERY", 0.0)


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("JOB_FILES_DIR", str(tmp_path))
    return tmp_path


@asynccontextmanager
async def working(**settings: Any) -> AsyncIterator[Worker]:
    """A job worker in this process, with the settings of the environment."""
    given = Settings.from_environment({**os.environ, "JOB_HEARTBEAT_S": "60", **settings})
    worker = Worker(given, shipped(), KINDS)
    running = asyncio.create_task(worker.run())
    try:
        yield worker
    finally:
        worker.stop()
        await running


async def ended(person: Person, job: int) -> dict[str, Any]:
    """The job, once it waits and runs no more."""
    found: dict[str, Any] = {}

    async def look() -> bool:
        found.update((await person("GET", f"/api/jobs/{job}"))[1])
        return found["state"] not in {"queued", "running"}

    await until(look)
    return found


async def log_entries(database: str, company: int, count: int) -> None:
    connection = await asyncpg.connect(database)
    await connection.execute(
        "INSERT INTO audit_logs (company_id, action, entity, severity, description, created_at)"
        " SELECT $1, 'test', 'x', 'info', '=' || n, '2026-01-01Z'::timestamptz + n * interval '1 hour'"
        " FROM generate_series(1, $2) n",
        company, count,
    )  # fmt: skip
    await connection.close()


async def company_of(person: Person) -> int:
    return (await person("GET", "/api/company"))[1]["id"]


def test_an_export_of_any_size_is_a_file(database, folder):
    async def main() -> None:
        async with served(database) as service:
            admin, other = await service.administrator(), await service.administrator()
            for one, count in ((admin, 6000), (other, 3)):
                await log_entries(database, await company_of(one), count)
            status, job = await admin("POST", "/api/jobs/exports", json=EXPORT)
            assert (status, job["state"], job["progress"]) == (202, "queued", 0)
            _, table = await admin("POST", "/api/jobs/exports", json={**EXPORT, "format": "csv", "to": "2026-01-01"})
            async with working():
                done = await ended(admin, job["id"])
                assert (done["state"], done["progress"], done["error"]) == ("succeeded", 100, None)
                status, file = await admin("GET", f"/api/jobs/{job['id']}/file")
                lines = file.splitlines()
                assert (status, len(lines), done["result"]) == (200, 6000, {"rows": 6000, "bytes": len(file)})
                assert [json.loads(line)["description"] for line in (lines[0], lines[-1])] == ["=6000", "=1"]
                assert (await ended(admin, table["id"]))["result"]["rows"] == 23
                text = (await admin("GET", f"/api/jobs/{table['id']}/file"))[1].decode()
                head, first, *_ = csv.reader(text.splitlines())
                assert dict(zip(head, first, strict=True))["description"] == "'=23"  # no formula
            assert sorted(os.listdir(folder)) == [f"{job['id']}-1.jsonl", f"{table['id']}-1.csv"]

    run(main())


def test_a_report_counts_by_period(database, folder):
    async def main() -> None:
        async with served(database) as service, working():
            admin = await service.administrator()
            await log_entries(database, await company_of(admin), 47)
            body = {"of": "audit", "by": "day", "from": "2026-01-01", "to": "2026-01-31"}
            job = (await admin("POST", "/api/jobs/reports", json=body))[1]
            rows = (await ended(admin, job["id"]))["result"]["rows"]
            assert rows == [
                {"period": "2026-01-01", "what": "test", "count": 23},
                {"period": "2026-01-02", "what": "test", "count": 24},
            ]
            for of in ("data-access", "communications"):
                job = (await admin("POST", "/api/jobs/reports", json={**body, "of": of, "by": "month"}))[1]
                assert (await ended(admin, job["id"]))["state"] == "succeeded"

    run(main())


async def write_at(database: str, company: int, *instants: str) -> None:
    connection = await asyncpg.connect(database)
    await connection.execute(
        "INSERT INTO communications (company_id, kind, subject, body, created_at)"
        " SELECT $1, 'note', '', '', at::timestamptz FROM unnest($2::text[]) AS at",
        company, list(instants),
    )  # fmt: skip
    await connection.close()


def test_the_days_of_a_report_are_those_of_a_time_zone(database, folder):
    async def main() -> None:
        async with served(database) as service, working():
            admin = await service.administrator()
            # The last instant of a day in São Paulo, and the first of the next: one day in UTC. Then a day that has no
            # midnight there, as the clocks went on to 1:00, and one of 25 hours.
            await write_at(database, await company_of(admin), "2026-03-10T02:59:59Z", "2026-03-10T03:00Z")
            await write_at(database, await company_of(admin), "2018-11-04T02:59:59Z", "2018-11-04T03:00Z")
            await write_at(
                database, await company_of(admin), "2018-02-18T01:30Z", "2018-02-18T02:59Z", "2018-02-18T03:00Z"
            )

            async def report(day: str, to: str = "", by: str = "day", **zone: str) -> dict[str, int]:
                body = {"of": "communications", "by": by, "from": day, "to": to or day, **zone}
                status, job = await admin("POST", "/api/jobs/reports", json=body)
                assert status == 202, job
                result = (await ended(admin, job["id"]))["result"]
                assert result["time_zone"] == zone.get("time_zone", own)
                return {row["period"]: row["count"] for row in result["rows"]}

            own = "UTC"
            assert await report("2026-03-09", "2026-03-10") == {"2026-03-10": 2}
            there = {"time_zone": "America/Sao_Paulo"}
            assert await report("2026-03-09", "2026-03-10", **there) == {"2026-03-09": 1, "2026-03-10": 1}
            assert await report("2026-03-09", **there) == {"2026-03-09": 1}
            assert await report("2018-11-03", "2018-11-04", **there) == {"2018-11-03": 1, "2018-11-04": 1}
            assert await report("2018-02-17", "2018-02-18", **there) == {"2018-02-17": 2, "2018-02-18": 1}
            assert await report("2026-03-01", "2026-03-31", by="month", **there) == {"2026-03-01": 2}
            assert (await admin("PATCH", "/api/company", json=there))[0] == 200
            own = "America/Sao_Paulo"
            assert await report("2026-03-09") == {"2026-03-09": 1}
            assert await report("2026-03-10", time_zone="UTC") == {"2026-03-10": 2}

    run(main())


def test_a_time_zone_that_the_database_does_not_know_is_told(database, folder, monkeypatch):
    async def main() -> None:
        async with served(database) as service, working():
            admin = await service.administrator()
            await write_at(database, await company_of(admin), "2026-01-01T12:00Z")
            body = REPORT | {"of": "communications", "time_zone": "Mars/Base"}
            job = (await admin("POST", "/api/jobs/reports", json=body))[1]
            failed = await ended(admin, job["id"])
            assert (failed["state"], failed["attempt"]) == ("failed", 1)
            assert failed["error"] == "the database does not know the time zone Mars/Base"

    with open("/usr/share/zoneinfo/UTC", "rb") as file:
        mars = ZoneInfo.from_file(file, key="Mars/Base")
    monkeypatch.setattr("impetus_service.kit.validation._zone", lambda _name: mars)
    run(main())


def test_a_worker_of_the_release_before_reads_what_names_no_time_zone():
    body = {"of": "audit", "by": "day", "from": "2026-01-01", "to": "2026-01-02"}
    assert (
        json.loads(msgspec.json.encode(msgspec.convert(body, ReportJob, dec_hook=from_builtins), enc_hook=str)) == body
    )


def test_embeddings_are_made_in_batches(database, folder, monkeypatch):
    monkeypatch.setattr("impetus_service.kit.provider.PART_TEXTS", 2)

    async def main() -> None:
        async with FakeProvider() as provider:
            names = {"OPENAI_BASE_URL": provider.url, "OPENAI_API_KEY": KEY, "HTTP_RETRIES": "0"}
            provider.next = [fake.status(429)]  # the first attempt is for nothing
            async with served(database, **names) as service, working():
                admin = await service.administrator()
                body = {"texts": ["a", "bb", "ccc", "dddd", "eeeee"]}
                job = (await admin("POST", "/api/jobs/embeddings", json=body))[1]
                done = await ended(admin, job["id"])
                assert (done["state"], done["attempt"], done["parameters"]) == ("succeeded", 2, {"model": None})
                lines = map(json.loads, (await admin("GET", f"/api/jobs/{job['id']}/file"))[1].splitlines())
                assert [(line["index"], line["embedding"][0]) for line in lines] == [(i, i + 1.0) for i in range(5)]
                assert [len(seen["input"]) for seen in provider.seen] == [2, 2, 2, 1]
                assert {headers["X-Request-ID"] for headers in provider.headers} == {job["request_id"]}
                provider.next = [fake.status(400)]  # what would be refused again is not tried again
                job = (await admin("POST", "/api/jobs/embeddings", json=body))[1]
                done = await ended(admin, job["id"])
                assert (done["state"], done["attempt"]) == ("failed", 1)
                assert done["error"] == "the provider rejected the request: no such model"

    run(main())


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("exports", {"log": "users"}),
        ("exports", {"from": "yesterday"}),
        ("reports", {"of": "audit", "by": "day"}),
        ("reports", {"of": "audit", "by": "day", "from": "2026-01-01", "to": ""}),
        ("reports", {"of": "audit", "by": "second", "from": "2026-01-01", "to": "2026-01-02"}),
        ("embeddings", {"texts": []}),
        ("embeddings", {"texts": ["a"] * 10_001}),
        ("embeddings", {"texts": ["a\0b"]}),
    ],
)
def test_what_cannot_be_done_is_refused_at_once(database, path, body):
    async def main() -> None:
        async with served(database) as service:
            admin = await service.administrator()
            assert (await admin("POST", f"/api/jobs/{path}", json=body))[0] == 422
            assert (await admin("GET", "/api/jobs"))[1]["items"] == []

    run(main())


def test_a_job_is_its_companys_and_of_members_its_makers(database, folder):
    async def main() -> None:
        async with served(database) as service:
            admin, stranger = await service.administrator(), await service.administrator()
            one, two = await service.colleague(admin), await service.colleague(admin)
            status, job = await one("POST", "/api/jobs/embeddings", json={"texts": ["a"]})
            assert status == 202
            assert (await one("POST", "/api/jobs/exports", json=EXPORT))[0] == 403
            for who, may in ((admin, True), (one, True), (two, False), (stranger, False)):
                assert (await who("GET", f"/api/jobs/{job['id']}"))[0] == (200 if may else 404)
                assert (await who("GET", f"/api/jobs/{job['id']}/file"))[0] == 404
                assert len((await who("GET", "/api/jobs"))[1]["items"]) == may
            for who in (two, stranger):
                for what in ("cancel", "requeue"):
                    assert (await who("POST", f"/api/jobs/{job['id']}/{what}"))[0] == 404
            assert (await one("POST", f"/api/jobs/{job['id']}/requeue"))[0] == 200  # it is as wanted

    run(main())


def test_an_idempotency_key_makes_one_job(database):
    async def main() -> None:
        async with served(database) as service:
            admin, other = await service.administrator(), await service.administrator()
            headers = {"Idempotency-Key": "k-1"}
            answers = await asyncio.gather(
                *(admin("POST", "/api/jobs/exports", json=EXPORT, headers=headers) for _ in range(8))
            )
            assert {(status, job["id"]) for status, job in answers} == {(202, answers[0][1]["id"])}
            assert (await other("POST", "/api/jobs/exports", json=EXPORT, headers=headers))[1]["id"] != answers[0][1][
                "id"
            ]
            for path, body in (("exports", {**EXPORT, "format": "csv"}), ("embeddings", {"texts": ["a"]})):
                assert (await admin("POST", f"/api/jobs/{path}", json=body, headers=headers))[0] == 422
            headers = {"Idempotency-Key": "k" * 201}
            assert (await admin("POST", "/api/jobs/exports", json=EXPORT, headers=headers))[0] == 422
            async with service.client.post(
                "/api/jobs/exports", json=EXPORT, headers={"Authorization": f"Bearer {admin.token}"}
            ) as response:
                assert response.headers["Location"] == f"/api/jobs/{(await response.json())['id']}"

    run(main())


def test_a_job_is_cancelled_before_it_runs_and_while_it_does(database, folder):
    async def main() -> None:
        async with FakeProvider() as provider:
            names = {"OPENAI_BASE_URL": provider.url, "OPENAI_API_KEY": KEY}
            async with served(database, **names) as service:
                admin = await service.administrator()
                waiting = (await admin("POST", "/api/jobs/embeddings", json={"texts": ["a"]}))[1]["id"]
                assert (await admin("POST", f"/api/jobs/{waiting}/cancel"))[1]["state"] == "cancelled"
                provider.next = [provider.hang]
                running = (await admin("POST", "/api/jobs/embeddings", json={"texts": ["a"] * 200}))[1]["id"]
                async with working():
                    await until(lambda: len(provider.seen) == 1)
                    assert (await admin("POST", f"/api/jobs/{running}/cancel"))[1]["state"] == "cancelled"
                    provider.let_go.set()
                    last = (await admin("POST", "/api/jobs/embeddings", json={"texts": ["b"]}))[1]["id"]
                    assert (await ended(admin, last))["state"] == "succeeded"
                assert os.listdir(folder) == [f"{last}-1.jsonl"]
                for what in ("cancel", "requeue"):
                    assert (await admin("POST", f"/api/jobs/{last}/{what}"))[0] == 409
                assert (await admin("POST", f"/api/jobs/{running}/cancel"))[0] == 200  # it is as wanted

    run(main())


def test_as_many_texts_as_are_allowed_are_taken_and_the_provider_is_asked_in_bounded_parts(database, folder):
    async def main() -> None:
        async with FakeProvider() as provider:
            names = {"OPENAI_BASE_URL": provider.url, "OPENAI_API_KEY": KEY}
            async with served(database, **names) as service, working():
                admin = await service.administrator()

                async def ask(texts: list[str]) -> tuple[int, Any]:
                    data, headers = json.dumps({"texts": texts}).encode(), {"Content-Type": "application/json"}
                    return await admin("POST", "/api/jobs/embeddings", data=io.BytesIO(data), headers=headers)

                job = (await ask(["x" * 90_000] * 25 + ["y"] * 105))[1]
                assert (await ended(admin, job["id"]))["result"]["texts"] == 130
                assert [len(seen["input"]) for seen in provider.seen] == [11, 11, 100, 8]
                status, job = await ask(["x" * 800] * 10_000)
                assert (status, job["parameters"]) == (202, {"model": None})
                assert (await admin("POST", f"/api/jobs/{job['id']}/cancel"))[0] == 200
                status, problem = await ask(["x" * 900] * 10_000)
                assert (status, str(job_kinds.TEXTS_BYTES) in problem["detail"]) == (413, True)

    run(main())


def test_a_kind_is_declared_once(database, folder, monkeypatch):
    """Routes, names and the description follow; the database, which older releases use as well, takes any."""
    declared = {f"start_{name}": (each.path, each.parameters) for name, each in KINDS.items()}
    started = {
        each.name: (each.path, each.hints["body"]) for api in APIS for each in api.operations if each.status == 202
    }
    assert started == declared

    async def main() -> None:
        async with served(database) as service, working(JOB_ATTEMPTS="1"):
            admin = await service.administrator()
            job = (await admin("POST", "/api/jobs/exports", json=EXPORT))[1]["id"]
            await ended(admin, job)
            connection = await asyncpg.connect(database)
            await connection.execute(
                "UPDATE jobs SET kind = 'later', state = 'queued', attempt = 0, finished_at = NULL"
            )
            await connection.close()
            done = await ended(admin, job)
            assert (done["state"], done["kind"]) == ("failed", "later")
            assert done["error"] == "LookupError: this worker's release does not support jobs of kind later"

    run(main())


def test_dead_letters_are_listed_and_requeued(database, folder, monkeypatch):
    tried: list[int] = []
    export = KINDS["export"]

    async def broken(run: Run, _wanted: Any) -> None:
        tried.append(run.attempt)
        raise ZeroDivisionError("as\nit goes")

    async def main() -> None:
        async with served(database) as service, working(JOB_ATTEMPTS="3"):
            admin = await service.administrator()
            job = (await admin("POST", "/api/jobs/exports", json=EXPORT))[1]["id"]
            done = await ended(admin, job)
            assert (done["state"], done["attempt"], tried) == ("failed", 3, [1, 2, 3])
            assert done["error"] == "ZeroDivisionError: as it goes"
            assert [each["id"] for each in (await admin("GET", "/api/jobs?state=failed"))[1]["items"]] == [job]
            monkeypatch.setitem(KINDS, "export", export)
            status, again = await admin("POST", f"/api/jobs/{job}/requeue")
            assert (status, again["state"], again["attempt"], again["error"]) == (200, "queued", 0, None)
            assert (await ended(admin, job))["state"] == "succeeded"
            assert (await admin("GET", "/api/jobs?state=failed"))[1]["items"] == []

    monkeypatch.setitem(KINDS, "export", replace(export, do=broken))
    run(main())


def test_the_log_lines_of_a_job_are_found_by_its_id(database, folder, capfd):
    """From the request that asks for it to its end, with what goes out for it; on one connection with other requests."""

    async def main() -> list[dict[str, Any]]:
        async with FakeProvider() as provider:
            names = {"OPENAI_BASE_URL": provider.url, "OPENAI_API_KEY": KEY, "LOG_LEVEL": "DEBUG", "HTTP_RETRIES": "0"}
            provider.next = [fake.status(429)]
            async with served(database, **names) as service, working():
                admin = await service.administrator()
                made = [(await admin("POST", "/api/jobs/embeddings", json={"texts": ["a"]}))[1] for _ in range(2)]
                for job in made:
                    await ended(admin, job["id"])
                assert (await admin("POST", f"/api/jobs/{made[0]['id']}/cancel"))[0] == 409
                return made

    asked = run(main())
    logs.stop()
    lines = [json.loads(line) for line in "".join(capfd.readouterr()).splitlines() if line.startswith("{")]
    for job in asked:
        mine = [line for line in lines if line.get("job_id") == job["id"]]
        assert {line["request_id"] for line in mine} == {job["request_id"]}
        assert sum(line["logger"] == "impetus.access" for line in mine) == 1
        said = [line["message"] for line in mine if line["logger"] == "impetus.jobs"]
        assert said[0] == f"job {job['id']} (embeddings): attempt 1 begins"
        assert said[-1] == f"job {job['id']}: succeeded"
    retried = [line for line in lines if "attempt 1 failed" in line.get("message", "")]
    assert [line["job_id"] in {job["id"] for job in asked} for line in retried] == [True]
    assert all("job_id" not in line for line in lines if line.get("path") in {"/api/auth/login", "/api/auth/me"})


@contextmanager
def worker_process(database: str, **environment: str) -> Iterator[subprocess.Popen[bytes]]:
    """A job worker as the program `jobs` runs it."""
    process = subprocess.Popen(
        [sys.executable, "-m", "impetus_service.command", "jobs"],
        env={**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT}/service", "DATABASE_URL": database, **environment},
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def test_the_job_of_a_killed_worker_is_finished_by_another(database, folder):
    async def main() -> None:
        async with FakeProvider() as provider:
            names = {"OPENAI_BASE_URL": provider.url, "OPENAI_API_KEY": KEY, "JOB_HEARTBEAT_S": "60"}
            provider.next = [provider.hang]
            async with served(database, **names) as service:
                admin = await service.administrator()
                job = (await admin("POST", "/api/jobs/embeddings", json={"texts": ["a"]}))[1]["id"]
                with worker_process(database, **names) as process:
                    await until(lambda: len(provider.seen) == 1)
                    process.kill()
                    await asyncio.to_thread(process.wait)
                    connection = await asyncpg.connect(database)
                    silent = await connection.execute("UPDATE pgqueuer SET heartbeat = now() - interval '61 s'")
                    await connection.close()
                    assert silent == "UPDATE 1"
                    async with working(**names):
                        done = await ended(admin, job)
                        assert (done["state"], done["attempt"]) == ("succeeded", 2)

    run(main())


def test_a_job_that_kills_its_workers_is_given_up(database, folder):
    async def main() -> None:
        async with served(database) as service:
            admin = await service.administrator()
            job = (await admin("POST", "/api/jobs/exports", json=EXPORT))[1]["id"]
            connection = await asyncpg.connect(database)
            await connection.execute("UPDATE jobs SET state = 'running', attempt = 5")
            await connection.close()
            async with working(JOB_ATTEMPTS="5"):
                done = await ended(admin, job)
            assert (done["state"], done["error"]) == ("failed", "its worker was lost 5 times")

    run(main())


def test_a_run_that_was_fenced_off_never_writes_again(database, folder, monkeypatch):
    """Given up while its worker stood still, and requeued: the run of then ends in the midst of the run of now."""

    async def main() -> None:
        begun: list[int] = []
        may_end = [asyncio.Event(), asyncio.Event()]

        async def stands_still(run: Run, _wanted: Any) -> Any:
            number = len(begun)
            begun.append(run.attempt)
            await may_end[number].wait()
            async with job_files.writing(run.folder, run.name("jsonl")) as sink:
                await sink.write(bytes, [number])
            run.file = run.name("jsonl")
            ended_runs.append(number)
            return {"run": number}

        ended_runs: list[int] = []
        monkeypatch.setitem(KINDS, "export", replace(KINDS["export"], do=stands_still))
        async with served(database) as service, working():
            admin = await service.administrator()
            job = (await admin("POST", "/api/jobs/exports", json=EXPORT))[1]["id"]
            await until(lambda: len(begun) == 1)
            connection = await asyncpg.connect(database)
            await connection.execute("UPDATE jobs SET state = 'failed', finished_at = now(); DELETE FROM pgqueuer")
            await connection.close()
            assert (await admin("POST", f"/api/jobs/{job}/requeue"))[0] == 200
            await until(lambda: len(begun) == 2)
            assert begun == [1, 1]  # JOB_ATTEMPTS begins anew
            may_end[0].set()
            await until(lambda: ended_runs == [0])
            other = (await admin("POST", "/api/jobs/reports", json=REPORT))[1]["id"]
            await ended(admin, other)
            assert (await admin("GET", f"/api/jobs/{job}"))[1]["state"] == "running"
            may_end[1].set()
            done = await ended(admin, job)
            assert (done["state"], done["result"]) == ("succeeded", {"run": 1})
            assert (await admin("GET", f"/api/jobs/{job}/file"))[1] == b"\x01"

    run(main())


def test_a_worker_that_is_stopped_gives_its_job_back(database, folder, monkeypatch):
    monkeypatch.setattr(job_worker, "GRACE", 0.01)

    async def main() -> None:
        async with FakeProvider() as provider:
            names = {"OPENAI_BASE_URL": provider.url, "OPENAI_API_KEY": KEY}
            provider.next = [provider.hang]
            async with served(database, **names) as service:
                admin = await service.administrator()
                job = (await admin("POST", "/api/jobs/embeddings", json={"texts": ["a"]}))[1]["id"]
                async with working():
                    await until(lambda: len(provider.seen) == 1)
                assert (await admin("GET", f"/api/jobs/{job}"))[1]["state"] == "queued"
                async with working():
                    done = await ended(admin, job)
                assert (done["state"], done["attempt"]) == ("succeeded", 1)  # it was not the job's fault
                assert os.listdir(folder) == [f"{job}-2.jsonl"]

    run(main())


def test_sigterm_ends_a_worker_in_good_order(database, folder, capfd):
    async def main() -> None:
        connection = await asyncpg.connect(database)
        await until(lambda: connection.fetchval("SELECT to_regclass('pgqueuer') IS NOT NULL"))
        await connection.close()

    with worker_process(database) as process:
        run(main())
        process.terminate()
        assert process.wait(60) == 0
    assert "Traceback" not in capfd.readouterr().err


def test_after_an_outage_it_goes_on_by_itself(postgres, folder, capfd):
    async def main() -> None:
        async with served(postgres.url) as service:
            admin = await service.administrator()
            first = (await admin("POST", "/api/jobs/exports", json=EXPORT))[1]["id"]
            with worker_process(postgres.url) as process:
                assert (await ended(admin, first))["state"] == "succeeded"
                await asyncio.to_thread(postgres.stop)
                assert await asyncio.to_thread(process.wait, 60) == 1  # its supervisor's part is played here
            assert "Traceback" not in capfd.readouterr().err
            with worker_process(postgres.url):
                await asyncio.to_thread(postgres.start)
                await until(lambda: _is(admin, 200))
                second = (await admin("POST", "/api/jobs/exports", json=EXPORT))[1]["id"]
                assert (await ended(admin, second))["state"] == "succeeded"

    postgres.start()
    run(main())


async def _is(person: Person, status: int) -> bool:
    return (await person("GET", "/api/auth/me"))[0] == status


def test_what_the_queue_has_lost_is_handed_out_again(database, folder):
    async def main() -> None:
        async with served(database) as service:
            admin = await service.administrator()
            async with working():
                first = (await admin("POST", "/api/jobs/exports", json=EXPORT))[1]["id"]
                await ended(admin, first)
            job = (await admin("POST", "/api/jobs/exports", json=EXPORT))[1]["id"]
            connection = await asyncpg.connect(database)
            await connection.execute("UPDATE jobs SET state = 'running', attempt = 1 WHERE id = $1", job)
            assert await connection.fetchval("SELECT count(*) FROM pgqueuer") == 0
            await connection.close()
            async with working():
                assert (await ended(admin, job))["state"] == "succeeded"

    run(main())


def test_health_tells_the_backlog(database, monkeypatch):
    monkeypatch.setattr(health, "PARTS_TIMEOUT", PATIENCE)

    async def main() -> None:
        async with served(database) as service:
            admin = await service.administrator()
            for _ in range(2):
                await admin("POST", "/api/jobs/exports", json=EXPORT)
            backlog = (await admin("GET", "/health"))[1]["parts"]["jobs"]
            assert (backlog["queued"], backlog["running"], backlog["failed"]) == (2, 0, 0)
            assert backlog["oldest_s"] > 0

    run(main())


def test_a_web_worker_does_not_import_the_queue():
    code = "import sys, impetus_service.app; print('pgqueuer' in sys.modules, 'pydantic' in sys.modules)"
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT}/service"}
    assert subprocess.check_output([sys.executable, "-c", code], env=environment) == b"False False\n"


def test_a_file_that_is_not_finished_is_none(tmp_path):
    async def main() -> None:
        with pytest.raises(ZeroDivisionError):
            async with job_files.writing(str(tmp_path), "1-1.csv") as sink:
                await sink.write(bytes, [1, 2])
                assert os.listdir(tmp_path) == ["1-1.csv.part"]
                raise ZeroDivisionError
        assert os.listdir(tmp_path) == []

    run(main())


@given(st.integers(1, 10_000), st.floats(0, 1, exclude_max=True))
def test_a_delay_is_bounded(attempt, luck):
    assert 0 < delay_before(attempt, luck) <= job_worker.LONGEST_DELAY
