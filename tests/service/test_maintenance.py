"""`impetusd-service maintenance` on a real server: what goes, what stays, and what happens when something is missing."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from server import run

from impetus_service import maintenance
from impetus_service.maintenance import LOCK, Busy, Outcome, maintain
from impetus_service.settings import Settings

ROOT = Path(__file__).parents[2]
OLD = "now() - interval '91 days'"
LOGGED = "company_id, action, entity, severity, description"


def log_rows(table: str, count: int, when: str) -> str:
    return (
        f"INSERT INTO {table} ({LOGGED}, created_at) "
        f"SELECT 1, 'a', 'b', 'info', 'c', {when} FROM generate_series(1, {count})"
    )


EXPIRED = f"""
    INSERT INTO companies (name) VALUES ('ACME');
    INSERT INTO roles (company_id, name, level) VALUES (1, 'admin', 100);
    INSERT INTO users (company_id, role_id, email, name, password_hash) VALUES (1, 1, 'a@b', 'A', 'x');
    INSERT INTO sessions (company_id, user_id, token_hash, expires_at)
        SELECT 1, 1, int4send(n), now() + (n - 3) * interval '1 hour' FROM generate_series(1, 5) n;
    INSERT INTO login_attempts VALUES ('\\x01', 1, now() - interval '1 s'), ('\\x02', 1, now() + interval '1 h');
    INSERT INTO idempotency_keys (company_id, user_id, key, request, expires_at)
        SELECT 1, 1, n::text, '', now() + (n - 2) * interval '1 hour' FROM generate_series(1, 3) n;
    {log_rows("audit_logs", 25, OLD)};
    {log_rows("audit_logs", 3, "now() - interval '89 days'")};
    {log_rows("data_access_logs", 7, OLD)};
    {log_rows("data_access_logs", 2, "now()")};
    INSERT INTO jobs (company_id, kind, parameters, state, file, finished_at) VALUES
        (1, 'export', '{{}}', 'succeeded', '1-1.csv', now() - interval '8 days'),
        (1, 'export', '{{}}', 'succeeded', '2-1.csv', now() - interval '6 days'),
        (1, 'export', '{{}}', 'queued', NULL, NULL);
"""
# Sessions 1 and 2 expired hours ago, 3 as the transaction that made it began.
GONE = {
    "expired sessions": 3,
    "expired idempotency keys": 2,
    "expired login attempts": 1,
    "audit_logs older than 90 days": 25,
    "data_access_logs older than 90 days": 7,
    "jobs that ended over 7 days ago": 1,
    "files of deleted jobs": 0,
}
LEFT = {"sessions": 2, "idempotency_keys": 1, "login_attempts": 1, "audit_logs": 3, "data_access_logs": 2, "jobs": 2}


async def outcomes(url: str, **options: bool) -> list[Outcome]:
    return [outcome async for outcome in maintain(Settings(url), **options)]


def command(url: str, *arguments: str, feed: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "impetus_service.command", *arguments],
        env={
            "PATH": os.defpath,
            "PYTHONPATH": f"{ROOT}:{ROOT}/service",
            "DATABASE_URL": url,
            "IMPETUSD_UNIT": "maintenance",
            **environment,
        },
        input=feed,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


async def left(connection: Any) -> dict[str, int]:
    where = "WHERE action <> 'maintenance'"
    return {
        table: await connection.fetchval(f"SELECT count(*) FROM {table} {where if table == 'audit_logs' else ''}")
        for table in LEFT
    }


@pytest.fixture(autouse=True)
def _small_batches(monkeypatch):
    monkeypatch.setattr(maintenance, "BATCH_ROWS", 10)


def test_what_a_dry_run_counts_is_what_goes(database):
    async def main() -> None:
        connection = await asyncpg.connect(database)
        await connection.execute(EXPIRED)
        before = await left(connection)
        counted = {
            outcome.step: outcome.rows for outcome in await outcomes(database, dry_run=True) if outcome.rows is not None
        }
        assert counted == GONE
        assert await left(connection) == before
        assert not await connection.fetchval("SELECT count(*) FROM audit_logs WHERE action = 'maintenance'")
        done = await outcomes(database)
        assert {outcome.step: outcome.rows for outcome in done if outcome.rows is not None} == GONE
        assert await left(connection) == LEFT
        assert [outcome.note for outcome in done if outcome.note] == ["skipped: no such table"]
        assert all(outcome.rows == 0 for outcome in await outcomes(database) if outcome.rows is not None)
        await connection.close()

    run(main())


def test_files_that_no_job_has_any_more_go(database, tmp_path):
    async def main() -> None:
        connection = await asyncpg.connect(database)
        await connection.execute(EXPIRED)
        await connection.close()
        for name in ("1-1.csv", "2-1.csv", "3-1.csv.part", "new.csv.part"):
            (tmp_path / name).touch()
            if not name.startswith("new"):
                os.utime(tmp_path / name, (0, 0))
        settings = Settings(database, job_files_dir=str(tmp_path))
        for dry_run, count in ((True, 2), (False, 2), (False, 0)):
            swept = [o.rows async for o in maintain(settings, dry_run=dry_run) if o.step.startswith("files")]
            assert swept == [count]
        assert sorted(os.listdir(tmp_path)) == ["2-1.csv", "new.csv.part"]

    run(main())


def test_every_table_is_vacuumed_and_analysed(database):
    async def main() -> None:
        await outcomes(database)
        connection = await asyncpg.connect(database)
        statistics = await connection.fetch(
            "SELECT relname FROM pg_stat_user_tables WHERE last_vacuum IS NOT NULL AND last_analyze IS NOT NULL"
        )
        assert {row["relname"] for row in statistics} >= {
            "audit_logs",
            "data_access_logs",
            "communications",
            "sessions",
        }
        await connection.close()

    run(main())


def test_a_missing_table_is_skipped(database):
    async def main() -> None:
        connection = await asyncpg.connect(database)
        await connection.execute("DROP TABLE data_access_logs")
        done = {outcome.step: outcome for outcome in await outcomes(database)}
        for step in ("data_access_logs older than 90 days", "vacuum data_access_logs"):
            assert done[step].note == "skipped: no such table"
        assert not any(outcome.failed for outcome in done.values())
        await connection.close()

    run(main())


def test_a_failing_step_is_told_and_recorded_and_the_others_run(database):
    async def main() -> None:
        connection = await asyncpg.connect(database)
        await connection.execute(EXPIRED)
        await connection.execute(
            "CREATE FUNCTION no() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'not this one'; END $$;"
            "CREATE TRIGGER no BEFORE DELETE ON sessions EXECUTE FUNCTION no()"
        )
        done = await outcomes(database)
        assert [outcome.step for outcome in done if outcome.failed] == ["expired sessions"]
        assert await left(connection) == {**LEFT, "sessions": 5}
        record = await connection.fetchrow("SELECT * FROM audit_logs WHERE action = 'maintenance'")
        assert (record["severity"], record["company_id"]) == ("critical", 0)
        assert record["description"] == "expired sessions: not this one"
        await connection.close()

    run(main())


def test_a_lost_connection_fails_one_step(database):
    async def main() -> None:
        connection = await asyncpg.connect(database)
        await connection.execute(EXPIRED)
        await connection.execute(
            "CREATE FUNCTION die() RETURNS trigger LANGUAGE plpgsql AS "
            "$$ BEGIN PERFORM pg_terminate_backend(pg_backend_pid()); PERFORM pg_sleep(60); RETURN NULL; END $$;"
            "CREATE TRIGGER die BEFORE DELETE ON sessions EXECUTE FUNCTION die()"
        )
        assert [outcome.step for outcome in await outcomes(database) if outcome.failed] == ["expired sessions"]
        assert await left(connection) == {**LEFT, "sessions": 5}
        await connection.close()

    # pg_terminate_backend of one's own is allowed to who is a member of the session's role: itself.
    run(main())


def test_two_at_once_exclude_each_other(database):
    async def main() -> None:
        connection = await asyncpg.connect(database)
        await connection.execute("SELECT pg_advisory_lock($1)", LOCK)
        with pytest.raises(Busy):
            await outcomes(database)
        assert await outcomes(database, dry_run=True)  # counts, which harms nobody
        second = await asyncio.to_thread(command, database, "maintenance")
        assert second.returncode == 1
        assert second.stderr == "impetusd-service: another maintenance is running on this database; nothing was done\n"
        await connection.close()
        assert await outcomes(database)

    run(main())


def test_a_row_that_is_locked_stays_for_the_next_time(database):
    async def main() -> None:
        connection = await asyncpg.connect(database)
        await connection.execute(EXPIRED)
        async with connection.transaction():
            await connection.fetch("SELECT FROM sessions WHERE id = 1 FOR UPDATE")
            done = {outcome.step: outcome for outcome in await outcomes(database)}
            assert (done["expired sessions"].rows, done["expired sessions"].failed) == (2, False)
        assert {o.step: o for o in await outcomes(database)}["expired sessions"].rows == 1
        await connection.close()

    run(main())


def test_the_command_prints_a_row_for_each_step(database):
    done = command(database, "maintenance", AUDIT_LOG_RETENTION_DAYS="7")
    lines = done.stdout.splitlines()
    assert (done.returncode, done.stderr) == (0, "")
    assert lines[0].split() == ["STEP", "ROWS", "TIME"]
    assert lines[4].startswith("audit_logs older than 7 days ")
    assert len(lines) == 1 + len(maintenance.steps(Settings(database)))
    assert max(map(len, lines)) <= 80
    dry = command(database, "maintenance", "--dry-run")
    assert dry.stdout.splitlines()[-1].endswith("not run")


def test_the_command_exits_with_1_when_a_step_failed(database):
    async def main() -> None:
        connection = await asyncpg.connect(database)
        await connection.execute("ALTER TABLE login_attempts RENAME expires_at TO ends_at")
        await connection.close()

    run(main())
    done = command(database, "maintenance")
    assert done.returncode == 1
    assert 'FAILED: column "expires_at" does not exist' in done.stdout
    assert "vacuum sessions" in done.stdout


@pytest.mark.parametrize(
    ("url", "status", "sentence"),
    [
        ("postgresql:///x?host=/nowhere", 1, "the database of DATABASE_URL cannot be used: "),
        ("mysql://x", 2, "DATABASE_URL='mysql://x': must be postgresql://"),
    ],
)
def test_what_cannot_work_is_one_sentence(url, status, sentence):
    for name in ("maintenance", "db", "slow-queries"):
        done = command(url, name)
        assert (done.returncode, done.stdout) == (status, "")
        assert done.stderr.startswith(f"impetusd-service: {sentence}")
        assert "Traceback" not in done.stderr


def test_by_hand_it_says_which_settings_it_uses_and_how_to_have_a_units(database):
    """With those of a unit it says nothing."""
    for name, more in (("maintenance", ", AUDIT_LOG_RETENTION_DAYS=7, JOB_RESULT_DAYS=7"), ("db", "")):
        done = command(database, name, IMPETUSD_UNIT="", AUDIT_LOG_RETENTION_DAYS="7")
        where = database.split("host=")[1].partition("&")[0]
        assert done.returncode == 0
        assert done.stderr == (
            "impetusd-service: uses this shell's environment, not the INI file: "
            f"database {database.split('/')[3].partition('?')[0]} at {where}, schema impetus{more}; "
            f"with a unit's settings: impetusd exec UNIT -- impetusd-service {name}\n"
        )
    done = command("", "maintenance", IMPETUSD_UNIT="")
    assert done.returncode == 2
    assert done.stderr.endswith("with a unit's settings: impetusd exec UNIT -- impetusd-service maintenance\n")
    assert "s3cret" not in command("postgresql://a:s3cret@127.0.0.1:1/x?password=s3cret", "db", IMPETUSD_UNIT="").stderr


def test_a_batch_is_one_plan_that_sorts_nothing(database):
    """So a batch takes as long whatever the table's size."""

    async def main() -> None:
        connection = await asyncpg.connect(database)
        for table in ("sessions", "login_attempts", "audit_logs", "data_access_logs"):
            (step,) = (s for s in maintenance.steps(Settings(database)) if s.table == table and hasattr(s, "delete"))
            await connection.execute("SET enable_seqscan = off; SET plan_cache_mode = force_generic_plan")
            sql = step.delete.sql.replace("$1", "now()").replace("$2", "10")
            plan = "\n".join(row[0] for row in await connection.fetch("EXPLAIN " + sql))
            assert "Sort" not in plan
            assert "Index Scan" in plan
            assert "Tid Scan" in plan
        await connection.close()

    run(main())
