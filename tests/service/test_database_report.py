"""`impetusd-service slow-queries` and `db` on a real server, with pg_stat_statements and without."""

from __future__ import annotations

import re

import asyncpg
from server import run
from test_maintenance import command, log_rows


def test_slow_queries_are_those_of_this_database_slowest_first(database):
    async def main() -> None:
        connection = await asyncpg.connect(database)
        await connection.execute("SELECT pg_sleep(0.05)")
        await connection.fetch("SELECT 'a secret' AS this_one")
        await connection.close()

    run(main())
    done = command(database, "slow-queries", "--limit", "2")
    assert (done.returncode, done.stderr) == (0, "")
    head, *rows = done.stdout.splitlines()
    assert head.split() == ["MEAN", "TOTAL", "CALLS", "ROWS", "QUERY"]
    assert len(rows) == 2
    _, *rows = command(database, "slow-queries", "--limit", "1000").stdout.splitlines()
    means = [float(row.split()[0]) for row in rows]
    assert means == sorted(means, reverse=True)
    (slept,) = (mean for mean, row in zip(means, rows, strict=True) if row.endswith("SELECT pg_sleep($1)"))
    assert slept >= 50
    assert "a secret" not in "".join(rows)


def test_without_the_extension_it_says_how_to_switch_it_on(database):
    async def main() -> None:
        connection = await asyncpg.connect(database.replace("user=impetus", "user=postgres"))
        await connection.execute("DROP EXTENSION pg_stat_statements")
        await connection.close()

    run(main())
    done = command(database, "slow-queries")
    assert (done.returncode, done.stdout) == (1, "")
    assert "shared_preload_libraries = 'pg_stat_statements'" in done.stderr
    assert "CREATE EXTENSION IF NOT EXISTS pg_stat_statements" in done.stderr


def test_without_the_library_it_says_how_to_switch_it_on(postgres):
    async def prepare() -> None:
        connection = await asyncpg.connect(postgres.url.replace("user=impetus", "user=postgres"))
        await connection.execute("ALTER SYSTEM RESET shared_preload_libraries")
        await connection.close()

    postgres.start()
    run(prepare())
    postgres.stop()
    postgres.start()
    assert "ALTER SYSTEM SET shared_preload_libraries" in command(postgres.url, "slow-queries").stderr


def test_db_names_large_indexes_that_nothing_uses(database):
    async def main() -> None:
        connection = await asyncpg.connect(database)
        await connection.execute(log_rows("audit_logs", 60_000, "now()"))
        await connection.close()

    run(main())
    assert re.search(r"^    audit_logs_page +\d+ MB  on audit_logs$", command(database, "db").stdout, re.MULTILINE)


def test_db_tells_what_there_is(database):
    async def main() -> None:
        connection = await asyncpg.connect(database)
        await connection.execute(log_rows("audit_logs", 50, "now()") + "; DELETE FROM audit_logs WHERE id <= 20")
        await connection.execute("SELECT pg_stat_force_next_flush()")
        await connection.close()

    run(main())
    text = command(database, "db").stdout
    lines = text.splitlines()
    assert lines[0].startswith("test_")
    assert " on PostgreSQL " in lines[0]
    assert " of 197, " in lines[1]
    assert lines[2] == "last maintenance: never"
    (row,) = (line.split() for line in lines if line.startswith("audit_logs "))
    assert (row[3], row[4], row[5]) == ("30", "20", "never")
    assert "no unused indexes of 1 MB or more" in text
    assert max(map(len, lines)) <= 80
    assert command(database, "maintenance").returncode == 0
    text = command(database, "db").stdout
    assert " s ago, well" in text
