"""What reports count: how many rows of a kind there are in each period of a time zone."""

from impetus_service.kit.statements import CompanyQuery

_REPORT = """
SELECT date_trunc($2, created_at, $6) AS period, {column} AS what, count(*) AS count
FROM {table} WHERE company_id = $1 AND created_at >= $3 AND created_at < $4
GROUP BY 1, 2 ORDER BY 1, 2 LIMIT $5
"""
AUDIT = CompanyQuery(_REPORT.format(table="audit_logs", column="action"))
ACCESS = CompanyQuery(_REPORT.format(table="data_access_logs", column="action"))
COMMUNICATIONS = CompanyQuery(_REPORT.format(table="communications", column="kind"))
