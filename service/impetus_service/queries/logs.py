"""The audit and the data-access log: two tables of one form."""

from impetus_service.kit.entries import COLUMNS, TABLES
from impetus_service.kit.statements import Listing

SHOWN = ("id", *(name for name in COLUMNS if name != "company_id"))

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
