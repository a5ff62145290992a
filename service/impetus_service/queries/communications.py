"""What the members of a company write to each other."""

from impetus_service.kit.statements import CompanyQuery, Listing

COLUMNS = "id, author_id, kind, subject, body, created_at"

LISTING = Listing(
    "communications",
    COLUMNS,
    conditions={"author": "author_id = {}", "kind": "kind = {}"},
    weight="octet_length(subject) + octet_length(body)",
)
ADD = CompanyQuery(f"""
INSERT INTO communications (company_id, author_id, kind, subject, body)
VALUES ($1, $2, $3, $4, $5) RETURNING {COLUMNS}
""")
GET = CompanyQuery(f"SELECT {COLUMNS} FROM communications WHERE company_id = $1 AND id = $2")
