"""Numbered SQL migrations, each applied exactly once however many workers start at the same moment.

A migration is a file `migrations/NNNN_name.sql`. It runs in one transaction together with the row that records it, under
an advisory lock that the transaction holds: another worker waits, and then finds it done. One that fails leaves nothing.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from importlib.resources import files
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

LOCK = 0x696D7065747573  # "impetus": the key of the advisory lock, the same in every release
BOOKKEEPING = """
CREATE TABLE IF NOT EXISTS schema_migration (
    number     integer PRIMARY KEY,
    name       text NOT NULL,
    sha256     text NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT now()
)
"""


class MigrationError(Exception):
    """The schema cannot be brought up to date: which migration, and why."""


@dataclass(frozen=True)
class Migration:
    """One step of the schema."""

    number: int
    name: str
    sql: str

    @property
    def sha256(self) -> str:
        """Of the text, to notice a file that was edited after it had been applied."""
        return hashlib.sha256(self.sql.encode()).hexdigest()


def shipped() -> list[Migration]:
    """The migrations of this release, in order."""
    found = []
    for file in files("impetus_service").joinpath("migrations").iterdir():
        match = re.fullmatch(r"(\d{4})_(\w+)\.sql", file.name)
        if match is not None:
            found.append(Migration(int(match[1]), match[2], file.read_text(encoding="utf-8")))
    return sorted(found, key=lambda migration: migration.number)


async def migrate(connection: Any, migrations: Sequence[Migration]) -> list[Migration]:
    """Apply what the database of an asyncpg connection lacks; returns what *this* call applied.

    Raises MigrationError for a migration that fails or was changed; the ones before it stay applied.
    """
    applied = []
    for migration in migrations:
        try:
            async with connection.transaction():
                if await _apply(connection, migration):
                    applied.append(migration)
        except MigrationError:
            raise
        except Exception as error:
            if connection.is_closed():
                raise  # the database went away, which says nothing about the migration
            raise MigrationError(f"migration {migration.number:04} {migration.name} failed: {error}") from error
    return applied


async def _apply(connection: Any, migration: Migration) -> bool:
    await connection.execute("SET LOCAL statement_timeout = 0")  # an index on a large table takes its time
    # Locked first: two concurrent CREATE TABLE IF NOT EXISTS can both find nothing, and one then fails.
    await connection.execute("SELECT pg_advisory_xact_lock($1)", LOCK)
    await connection.execute(BOOKKEEPING)
    known = await connection.fetchval("SELECT sha256 FROM schema_migration WHERE number = $1", migration.number)
    if known is None:
        await connection.execute(migration.sql)
        await connection.execute(
            "INSERT INTO schema_migration (number, name, sha256) VALUES ($1, $2, $3)",
            migration.number,
            migration.name,
            migration.sha256,
        )
        return True
    if known != migration.sha256:
        raise MigrationError(
            f"migration {migration.number:04} {migration.name} was changed after it had been applied:"
            " restore the file and put the change into a new one"
        )
    return False
