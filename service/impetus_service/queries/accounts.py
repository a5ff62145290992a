"""Companies, roles, users, sessions and login attempts."""

from impetus_service.queries import CompanyQuery, Query

SESSION = Query("""
SELECT sessions.id, sessions.user_id, sessions.company_id, roles.level
FROM sessions
JOIN users ON users.company_id = sessions.company_id AND users.id = sessions.user_id
JOIN roles ON roles.company_id = users.company_id AND roles.id = users.role_id
WHERE sessions.token_hash = $1 AND sessions.expires_at > now() AND users.active
""")

# -- logging in

USER_BY_EMAIL = Query("SELECT id, company_id, password_hash FROM users WHERE email = $1 AND active")

# Counts an attempt of every key in $1 before it is made, in the order of the keys so that two at once do not deadlock,
# and gives the count that this one is. A window that has ended begins anew.
COUNT_ATTEMPT = Query("""
INSERT INTO login_attempts AS known (key, count, expires_at)
SELECT key, 1, now() + $2::interval FROM unnest($1::bytea[]) AS key ORDER BY key
ON CONFLICT (key) DO UPDATE SET
    count = CASE WHEN known.expires_at <= now() THEN 1 ELSE known.count + 1 END,
    expires_at = CASE WHEN known.expires_at <= now() THEN excluded.expires_at ELSE known.expires_at END
RETURNING key, count, EXTRACT(EPOCH FROM expires_at - now())::float8 AS seconds_left
""")
FORGET_ATTEMPTS = Query("DELETE FROM login_attempts WHERE key = $1")
TAKE_BACK_ATTEMPT = Query("UPDATE login_attempts SET count = greatest(count - 1, 0) WHERE key = $1")

ADD_SESSION = CompanyQuery("""
INSERT INTO sessions (company_id, user_id, token_hash, address, expires_at)
VALUES ($1, $2, $3, $4, now() + $5::interval) RETURNING expires_at
""")
END_SESSION = CompanyQuery("DELETE FROM sessions WHERE company_id = $1 AND id = $2")
END_OTHER_SESSIONS = CompanyQuery("DELETE FROM sessions WHERE company_id = $1 AND user_id = $2 AND id <> $3")
END_SESSIONS = CompanyQuery("DELETE FROM sessions WHERE company_id = $1 AND user_id = $2")
