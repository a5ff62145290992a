"""The service's own schema: its migrations, and what its tables were before they bore a mark (kit/ownership.py)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from impetus_service.kit.migrate import Migration, read_migrations

_LOG = (
    "id bigint not null identity, company_id bigint not null, user_id bigint, action text not null, entity text not null,"
    " entity_id text, severity text not null, description text not null, address inet, request_id text,"
    " created_at timestamp with time zone not null"
)
_JOB = (
    "id bigint not null identity, company_id bigint not null, user_id bigint, kind text not null,"
    " parameters jsonb not null, state text not null, progress smallint not null, attempt smallint not null,"
    " result jsonb, error text, file text, idempotency_key text, request_id text,"
    " created_at timestamp with time zone not null, started_at timestamp with time zone,"
    " finished_at timestamp with time zone"
)
_SESSION = (
    "id bigint not null identity, company_id bigint not null, user_id bigint not null, token_hash bytea not null,"
    " address inet, created_at timestamp with time zone not null, expires_at timestamp with time zone not null"
)
_COMMUNICATION = (
    "id bigint not null identity, company_id bigint not null, author_id bigint, kind text not null,"
    " subject text not null, body text not null, created_at timestamp with time zone not null"
)
# What releases that set no mark have made: by the number of the migration that made the table, or changed it.
UNMARKED: Mapping[str, Mapping[int, str]] = {
    "companies": {
        1: "id bigint not null identity, name text not null, created_at timestamp with time zone not null",
        2: "id bigint not null identity, name text not null, created_at timestamp with time zone not null,"
        " updated_at timestamp with time zone not null",
        10: "id bigint not null identity, name text not null, created_at timestamp with time zone not null,"
        " updated_at timestamp with time zone not null, time_zone text not null",
    },
    "roles": {
        2: "id bigint not null identity, company_id bigint not null, name text not null, level smallint not null,"
        " created_at timestamp with time zone not null",
    },
    "users": {
        2: "id bigint not null identity, company_id bigint not null, role_id bigint not null, email text not null,"
        " name text not null, password_hash text not null, active boolean not null,"
        " created_at timestamp with time zone not null",
    },
    "sessions": {2: _SESSION, 8: _SESSION + ", user_agent text"},
    "login_attempts": {2: "key bytea not null, count integer not null, expires_at timestamp with time zone not null"},
    "communications": {3: _COMMUNICATION, 11: _COMMUNICATION + ", updated_at timestamp with time zone"},
    "audit_logs": {4: _LOG},
    "data_access_logs": {4: _LOG},
    "jobs": {
        5: _JOB,
        6: _JOB + ", run bigint not null",  # from here on where the mark could not be set meanwhile
    },
}


def shipped() -> list[Migration]:
    """The migrations of this release, in order."""
    return [
        replace(
            each,
            unmarked={table: forms[each.number] for table, forms in UNMARKED.items() if each.number in forms},
        )
        for each in read_migrations("impetus_service")
    ]
