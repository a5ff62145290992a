"""Jobs: as their users see them, and as a worker goes through them.

The row of `jobs` is the truth. A worker may write to it as long as `run` is the one that it has begun: one that was taken
over by another, cancelled, or given up and requeued, finds no row. (`attempt` is asked for besides since workers of the
release before know no `run`.)
"""

from impetus_service.kit.statements import CompanyQuery, Listing, Query

CHANNEL = "impetus_jobs"  # notified when there is a job to be taken up

_SUMMARY = """id, user_id, kind, state, progress, attempt, error, file IS NOT NULL AS has_file,
    request_id, created_at, started_at, finished_at"""
# Of what was asked for, lists are not shown: they may be long.
_SHOWN = """(SELECT coalesce(jsonb_object_agg(key, value), '{}') FROM jsonb_each(parameters)
     WHERE jsonb_typeof(value) <> 'array') AS parameters"""
_COLUMNS = f"{_SUMMARY}, {_SHOWN}, result"

LISTING = Listing("jobs", _SUMMARY, conditions={"user": "user_id = {}", "state": "state = {}", "kind": "kind = {}"})

# $3, where it is not null, is the only user whose jobs these are.
GET = CompanyQuery(f"""
SELECT {_COLUMNS} FROM jobs WHERE company_id = $1 AND id = $2 AND ($3::bigint IS NULL OR user_id = $3)
""")
SUMMARY = CompanyQuery(f"""
SELECT {_SUMMARY} FROM jobs WHERE company_id = $1 AND id = $2 AND ($3::bigint IS NULL OR user_id = $3)
""")
FILE = CompanyQuery("""
SELECT file, kind FROM jobs
WHERE company_id = $1 AND id = $2 AND ($3::bigint IS NULL OR user_id = $3) AND file IS NOT NULL
""")

# Nothing when there is a job of that idempotency key.
ADD = CompanyQuery(f"""
WITH added AS (
    INSERT INTO jobs (company_id, user_id, kind, parameters, idempotency_key, request_id)
    VALUES ($1, $2, $3, $4, $5, $6)
    ON CONFLICT (company_id, user_id, idempotency_key) WHERE idempotency_key IS NOT NULL DO NOTHING
    RETURNING *
)
SELECT {_COLUMNS}, pg_notify('{CHANNEL}', '') FROM added
""")
BY_KEY = CompanyQuery(f"""
SELECT {_COLUMNS}, kind = $4 AND parameters = $5 AS same FROM jobs
WHERE company_id = $1 AND user_id = $2 AND idempotency_key = $3
""")

CANCEL = CompanyQuery(f"""
UPDATE jobs SET state = 'cancelled', finished_at = now()
WHERE company_id = $1 AND id = $2 AND ($3::bigint IS NULL OR user_id = $3) AND state IN ('queued', 'running')
RETURNING {_COLUMNS}
""")
REQUEUE = CompanyQuery(f"""
WITH again AS (
    UPDATE jobs SET state = 'queued', progress = 0, attempt = 0, error = NULL, started_at = NULL, finished_at = NULL
    WHERE company_id = $1 AND id = $2 AND ($3::bigint IS NULL OR user_id = $3) AND state = 'failed'
    RETURNING *
)
SELECT {_COLUMNS}, pg_notify('{CHANNEL}', '') FROM again
""")

BACKLOG = Query("""
SELECT count(*) FILTER (WHERE state = 'queued') AS queued, count(*) FILTER (WHERE state = 'running') AS running,
       coalesce(EXTRACT(EPOCH FROM now() - min(created_at) FILTER (WHERE state = 'queued')), 0)::float8 AS oldest_s,
       (SELECT count(*) FROM jobs WHERE state = 'failed') AS failed
FROM jobs WHERE state IN ('queued', 'running')
""")

# -- a worker's

# What pgqueuer does not know, or knows no more: new jobs, and ones whose entry it has lost with an outage.
NOT_DISPATCHED = Query("""
SELECT id FROM jobs WHERE state IN ('queued', 'running') AND NOT EXISTS (
    SELECT FROM pgqueuer WHERE dedupe_key = jobs.id::text AND status IN ('queued', 'picked')
) ORDER BY id LIMIT $1
""")
BEGIN = Query("""
UPDATE jobs SET state = 'running', attempt = attempt + 1, run = run + 1, progress = 0, started_at = now()
WHERE id = $1 AND state IN ('queued', 'running')
RETURNING id, company_id, kind, parameters, attempt, run, request_id
""")
_MINE = "WHERE company_id = $1 AND id = $2 AND attempt = $3 AND run = $4 AND state = 'running'"
PROGRESS = CompanyQuery(f"UPDATE jobs SET progress = $5 {_MINE}")
SUCCEED = CompanyQuery(f"""
UPDATE jobs SET state = 'succeeded', progress = 100, result = $5, file = $6, error = NULL, finished_at = now() {_MINE}
""")
FAIL = CompanyQuery(f"UPDATE jobs SET state = 'failed', error = $5, finished_at = now() {_MINE}")
RETRY = CompanyQuery(f"UPDATE jobs SET state = 'queued', error = $5 {_MINE}")
GIVE_BACK = CompanyQuery(f"UPDATE jobs SET state = 'queued', attempt = attempt - 1 {_MINE}")

# Which of the files $1 belong to a job that did not end before $2.
FILES = Query("SELECT file FROM jobs WHERE file = ANY ($1::text[]) AND (finished_at IS NULL OR finished_at >= $2)")
