"""Rows of the audit log and of the data-access log: two tables of one form."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, NamedTuple

from impetus_service.kit.request_id import REQUEST_ID
from impetus_service.kit.statements import Query

COLUMNS = {
    "company_id": "bigint",
    "user_id": "bigint",
    "action": "text",
    "entity": "text",
    "entity_id": "text",
    "severity": "text",
    "description": "text",
    "address": "inet",
    "request_id": "text",
    "created_at": "timestamptz",
}
TABLES = ("audit_logs", "data_access_logs")

# One array for each column. The companies are those of the requests that wrote the entries.
INSERT = {
    table: Query(
        f"INSERT INTO {table} ({', '.join(COLUMNS)}) SELECT * FROM unnest("
        + ", ".join(f"${number}::{kind}[]" for number, kind in enumerate(COLUMNS.values(), 1))
        + ")"
    )
    for table in TABLES
}


class Entry(NamedTuple):
    """A row, in the order of COLUMNS."""

    company_id: int
    user_id: int | None
    action: str  # "user.update"; "user.update.refused" for what was not done
    entity: str  # "user"
    entity_id: str | None
    severity: str  # info, warning, critical
    description: str
    address: str | None
    request_id: str | None
    created_at: datetime


@dataclass(frozen=True)
class Actor:
    """Who does what, as the entries about it say it."""

    user_id: int | None
    action: str
    entity: str
    address: str | None


def entry(
    company_id: int,
    user_id: int | None,
    action: str,
    entity: str,
    *,
    entity_id: object = None,
    severity: str = "info",
    description: str = "",
    address: str | None = None,
) -> Entry:
    """An entry of now and of the present request."""
    return Entry(
        company_id,
        user_id,
        _text(action),
        _text(entity),
        None if entity_id is None else _text(str(entity_id)),
        severity,
        _text(description),
        address,
        REQUEST_ID.get() or None,
        datetime.now(UTC),
    )


def columns(entries: Sequence[Entry]) -> list[list[Any]]:
    """The arguments of INSERT."""
    return [list(column) for column in zip(*entries, strict=True)]


def _text(value: str) -> str:
    """What PostgreSQL can store."""
    return value.replace("\0", "\N{REPLACEMENT CHARACTER}").encode(errors="replace").decode()
