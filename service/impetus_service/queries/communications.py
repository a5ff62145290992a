"""What the members of a company write to each other."""

from impetus_service.kit.statements import CompanyQuery, Listing

COLUMNS = "id, author_id, kind, subject, body, created_at, updated_at"

LISTING = Listing(
    "communications",
    COLUMNS,
    conditions={
        "author": "author_id = {}",
        "kind": "kind = {}",
        "from": "created_at >= {}",
        "to": "created_at < {}",
        "text": "(communications.subject || E'\\n' || communications.body) ILIKE {}",
    },
    weight="octet_length(subject) + octet_length(body)",
)
ADD = CompanyQuery(f"""
INSERT INTO communications (company_id, author_id, kind, subject, body)
VALUES ($1, $2, $3, $4, $5) RETURNING {COLUMNS}
""")
GET = CompanyQuery(f"SELECT {COLUMNS} FROM communications WHERE company_id = $1 AND id = $2")
LOCK = CompanyQuery(f"SELECT {COLUMNS} FROM communications WHERE company_id = $1 AND id = $2 FOR UPDATE")
UPDATE = CompanyQuery(f"""
UPDATE communications SET kind = coalesce($3, kind), subject = coalesce($4, subject), body = coalesce($5, body),
                          updated_at = now()
WHERE company_id = $1 AND id = $2 RETURNING {COLUMNS}
""")
DELETE = CompanyQuery("DELETE FROM communications WHERE company_id = $1 AND id = $2")
