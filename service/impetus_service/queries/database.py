"""What `impetusd-service` tells about the database itself, from PostgreSQL's own statistics."""

from __future__ import annotations

from impetus_service.kit.statements import Query

# Normalised by PostgreSQL: what stood for a parameter or a literal is $1, so no value of a row is shown. Statements of other
# roles have no text for us.
SLOW = Query(
    """
    SELECT calls, mean_exec_time, total_exec_time, rows, query
    FROM pg_stat_statements
    WHERE dbid = (SELECT oid FROM pg_database WHERE datname = current_database()) AND query <> '<insufficient privilege>'
    ORDER BY mean_exec_time DESC LIMIT $1
    """
)

ABOUT = Query(
    """
    SELECT current_database() AS name, pg_database_size(current_database()) AS bytes,
           current_setting('server_version') AS server,
           current_setting('max_connections')::int - current_setting('superuser_reserved_connections')::int AS limit,
           (SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend') AS connections,
           (SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND state = 'active') - 1 AS active
    """
)

TABLES = Query(
    """
    SELECT relname AS name, pg_total_relation_size(relid) AS bytes, n_live_tup AS live, n_dead_tup AS dead,
           greatest(last_vacuum, last_autovacuum) AS vacuumed
    FROM pg_stat_user_tables WHERE schemaname = current_schema() ORDER BY bytes DESC, name
    """
)

# Not those that make something unique: their work is done without being read. Nor small ones: a table with few rows is read
# without them.
UNUSED_INDEXES = Query(
    """
    SELECT s.indexrelname AS name, s.relname AS table, pg_relation_size(s.indexrelid) AS bytes
    FROM pg_stat_user_indexes s JOIN pg_index i USING (indexrelid)
    WHERE s.schemaname = current_schema() AND s.idx_scan = 0 AND NOT i.indisunique AND pg_relation_size(s.indexrelid) >= 1000000
    ORDER BY bytes DESC, name
    """
)

NOW = Query("SELECT now()")
STATISTICS_SINCE = Query("SELECT stats_reset FROM pg_stat_database WHERE datname = current_database()")

LAST_MAINTENANCE = Query(
    """
    SELECT created_at, severity, description FROM audit_logs
    WHERE company_id = 0 AND action = 'maintenance' ORDER BY created_at DESC, id DESC LIMIT 1
    """
)
