"""Numbered SQL migrations, each applied exactly once however many workers start at the same moment.

A migration is a file `migrations/NNNN_name.sql`. It runs in one transaction together with the row that records it, under
an advisory lock that the transaction holds: another worker waits, and then finds it done. One that fails, also because a
table stayed locked for LOCK_TIMEOUT_MS, leaves nothing.
Before each, the names that the service uses are looked at: tables of somebody else are refused (ownership.py).
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, field
from functools import partial
from importlib.resources import files
from typing import TYPE_CHECKING, Any

import asyncpg

from impetus_service.kit import ownership
from impetus_service.kit.move import move_older
from impetus_service.kit.ownership import MigrationError, Own, mark, own_tables, quoted

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

LOCK = 0x696D7065747573  # "impetus": the key of the advisory lock, the same in every release
OLDEST_MAJOR = 15  # of PostgreSQL
CONNECT_TIMEOUT = 5.0  # seconds
LOCK_TIMEOUT_MS = 2000  # for a table: requests that come to wait behind a migration wait no longer
BOOKKEEPING = """
CREATE TABLE schema_migration (
    number     integer PRIMARY KEY,
    name       text NOT NULL,
    sha256     text NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT now()
)
"""


@dataclass(frozen=True)
class Migration:
    """One step of the schema."""

    number: int
    name: str
    sql: str
    unmarked: Mapping[str, str] = field(default_factory=dict)  # table to columns, as a release without marks made them

    @property
    def sha256(self) -> str:
        """Of the text, to notice a file that was edited after it had been applied."""
        return hashlib.sha256(self.sql.encode()).hexdigest()

    @property
    def tables(self) -> list[str]:
        """Those that it makes: each CREATE TABLE stands at the beginning of a line or a statement."""
        return re.findall(r"(?:^|;)\s*CREATE TABLE (\w+)", self.sql, re.MULTILINE)

    def __str__(self) -> str:
        return f"migration {self.number:04} {self.name}"


def read_migrations(package: str) -> list[Migration]:
    """Those in the folder `migrations` of a package, in order."""
    found = []
    for file in files(package).joinpath("migrations").iterdir():
        match = re.fullmatch(r"(\d{4})_(\w+)\.sql", file.name)
        if match is not None:
            found.append(Migration(int(match[1]), match[2], file.read_text(encoding="utf-8")))
    return sorted(found, key=lambda migration: migration.number)


async def own(connection: Any, schema: str, migrations: Sequence[Migration], *, queue: bool = False) -> Own:
    """The service's tables, as `migrations` make them; see own_tables. Raises ForeignTables."""
    made_by = {table: migration.number for migration in migrations for table in migration.tables}
    names = {each.number: each.name for each in migrations}
    forms: dict[str, dict[int, str]] = {}
    for each in migrations:
        for table, columns in each.unmarked.items():
            forms.setdefault(table, {})[each.number] = columns
    return await own_tables(connection, schema, made_by, names, forms, queue=queue)


async def migrate(
    connection: Any,
    migrations: Sequence[Migration],
    schema: str,
    former_path: Callable[[], Awaitable[str]] | None = None,
) -> list[Migration]:
    """Apply what `schema` of the database of an asyncpg connection lacks; returns what *this* call applied.

    The schema is made when there is none. Where it has nothing of the service yet, what a release without a schema of its
    own has made is moved there, from where what `former_path` gives, the search_path of that release, leads to.

    Raises MigrationError for a migration that fails or was changed (the ones before it stay applied), and for a server that
    is too old. Raises ForeignTables, before anything is changed, when names that the migrations use are somebody else's.
    """
    server = connection.get_server_version()
    if server.major < OLDEST_MAJOR:
        raise MigrationError(
            f"the server of DATABASE_URL is PostgreSQL {server.major}, but {OLDEST_MAJOR} or newer is required"
        )
    applied: list[Migration] = []
    while True:
        async with connection.transaction():
            await connection.execute("SET LOCAL statement_timeout = 0")  # an index on a large table takes its time
            await connection.execute("SELECT pg_advisory_xact_lock($1)", LOCK)
            # Not before: for the advisory lock one waits as long as the migrations of another worker take.
            await connection.execute(f"SET LOCAL lock_timeout = {LOCK_TIMEOUT_MS}")
            there = await own(connection, schema, migrations)
            if not there.tables:
                await _make_schema(connection, schema)
                if former_path is not None:
                    path = await former_path()
                    await move_older(connection, schema, path, partial(own, connection, migrations=migrations))
                    there = await own(connection, schema, migrations)
            await connection.execute("SELECT set_config('search_path', quote_ident($1), true)", schema)
            missing = _missing(there, migrations)
            await _mark_older(connection, there)
            if not missing:
                return applied
            await _apply(connection, missing[0], there)
        applied.append(missing[0])


async def default_path(url: str) -> str:
    """The search_path of a connection that names none: where a release without a schema of its own made its tables."""
    connection = await asyncpg.connect(url, timeout=CONNECT_TIMEOUT)
    try:
        path: str = await connection.fetchval("SELECT current_setting('search_path')", timeout=CONNECT_TIMEOUT)
        return path
    finally:
        connection.terminate()


async def _make_schema(connection: Any, schema: str) -> None:
    if await connection.fetchval("SELECT to_regnamespace(quote_ident($1)) IS NULL", schema):
        try:
            await connection.execute(f"CREATE SCHEMA {quoted(schema)}")
        except asyncpg.InsufficientPrivilegeError as error:
            raise MigrationError(
                f"the schema {schema} cannot be created: {error}; ask a database administrator to run"
                f" CREATE SCHEMA {quoted(schema)} AUTHORIZATION the_user_of_DATABASE_URL, or set another schema in"
                " DB_SCHEMA"
            ) from error
    # So that an installation in a schema of its own is never taken for one of before there were such.
    if await connection.fetchval(
        "SELECT nspname <> 'public' AND pg_has_role(nspowner, 'USAGE') FROM pg_namespace WHERE nspname = $1", schema
    ):
        await connection.execute(f"COMMENT ON SCHEMA {quoted(schema)} IS '{ownership.MARK}its tables'")


def _missing(there: Own, migrations: Sequence[Migration]) -> list[Migration]:
    for each in migrations:
        if there.recorded.get(each.number, each.sha256) != each.sha256:
            raise MigrationError(
                f"{each} was changed after it had been applied; restore it and put the change into a new file"
            )
    return [each for each in migrations if each.number not in there.recorded]


async def _apply(connection: Any, migration: Migration, there: Own) -> None:
    try:
        if not there.tables:
            await connection.execute(BOOKKEEPING)
            await mark(connection, there.schema, [ownership.BOOKKEEPING], "the migrations that were applied")
        await connection.execute(migration.sql)
        await mark(connection, there.schema, migration.tables, f"created by {migration}")
        await connection.execute(
            "INSERT INTO schema_migration (number, name, sha256) VALUES ($1, $2, $3)",
            migration.number,
            migration.name,
            migration.sha256,
        )
    except Exception as error:
        if connection.is_closed():
            raise  # the database went away, which says nothing about the migration
        raise MigrationError(f"{migration} failed: {error}") from error


async def _mark_older(connection: Any, there: Own) -> None:
    """Mark what a release without the mark has made: unless another role owns it, or a VACUUM is under way, this time."""
    if there.unmarked:
        try:
            async with connection.transaction():
                await mark(connection, there.schema, sorted(there.unmarked), "created by an older release")
        except (asyncpg.InsufficientPrivilegeError, asyncpg.LockNotAvailableError):
            pass
