"""What maintenance counts and deletes. $1 is the instant before which a row goes, $2 of a DELETE the most rows at once.

A batch takes the rows that nobody holds, oldest first, by their place in the table: no statement waits for a lock, and
each is over within milliseconds.
"""

from __future__ import annotations

from impetus_service.kit.statements import Query


def _count(table: str, column: str) -> Query:
    return Query(f"SELECT count(*) FROM {table} WHERE {column} < $1")


def _delete(table: str, column: str) -> Query:
    return Query(
        f"""
        DELETE FROM {table} WHERE ctid = ANY (ARRAY(
            SELECT ctid FROM {table} WHERE {column} < $1 ORDER BY {column} LIMIT $2 FOR UPDATE SKIP LOCKED
        ))
        """
    )


COUNT_SESSIONS, DELETE_SESSIONS = _count("sessions", "expires_at"), _delete("sessions", "expires_at")
COUNT_LOGINS, DELETE_LOGINS = _count("login_attempts", "expires_at"), _delete("login_attempts", "expires_at")
COUNT_KEYS, DELETE_KEYS = _count("idempotency_keys", "expires_at"), _delete("idempotency_keys", "expires_at")
COUNT_AUDIT, DELETE_AUDIT = _count("audit_logs", "created_at"), _delete("audit_logs", "created_at")
COUNT_ACCESS, DELETE_ACCESS = _count("data_access_logs", "created_at"), _delete("data_access_logs", "created_at")
COUNT_JOBS, DELETE_JOBS = _count("jobs", "finished_at"), _delete("jobs", "finished_at")
COUNT_QUEUE_LOG, DELETE_QUEUE_LOG = _count("pgqueuer_log", "created"), _delete("pgqueuer_log", "created")

NOW = Query("SELECT now()")
LOCK = Query("SELECT pg_try_advisory_lock($1)")

# By name of the table; a VACUUM takes no parameters, and no transaction may be around it.
VACUUM = {
    table: Query(f"VACUUM (ANALYZE) {table}")
    for table in ("audit_logs", "data_access_logs", "communications", "sessions")
}

# Company 0 is the installation itself: what concerns its operator, which no company's request reads.
RECORD = Query(
    """
    INSERT INTO audit_logs (company_id, action, entity, severity, description)
    VALUES (0, 'maintenance', 'database', $1, $2)
    """
)
