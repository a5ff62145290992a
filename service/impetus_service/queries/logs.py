"""The audit and the data-access log: two tables of one form."""

from impetus_service.kit.statements import Listing, Query

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
SHOWN = ("id", *(name for name in COLUMNS if name != "company_id"))
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

LISTING = {
    table: Listing(
        table,
        ", ".join("host(address) AS address" if name == "address" else name for name in SHOWN),
        conditions={
            "user": "user_id = {}",
            "action": "action = {}",
            "entity": "entity = {}",
            "severity": "severity = {}",
            "from": "created_at >= {}",
            "to": "created_at < {}",
            "text": "description ILIKE {}",
        },
    )
    for table in TABLES
}
