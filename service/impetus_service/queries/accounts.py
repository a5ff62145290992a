"""Companies, roles, users, sessions and login attempts."""

from impetus_service.kit.statements import CompanyQuery, Listing, Order, Query, instant

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
VALUES ($1, 1, now() + $2::interval)
ON CONFLICT (key) DO UPDATE SET
    count = CASE WHEN known.expires_at <= now() THEN 1 ELSE known.count + 1 END,
    expires_at = CASE WHEN known.expires_at <= now() THEN excluded.expires_at ELSE known.expires_at END
RETURNING count, EXTRACT(EPOCH FROM expires_at - now())::float8 AS seconds_left
""")
FORGET_ATTEMPTS = Query("DELETE FROM login_attempts WHERE key = $1")
TAKE_BACK_ATTEMPTS = Query("""
UPDATE login_attempts SET count = greatest(count - 1, 0)
WHERE key IN (SELECT key FROM login_attempts WHERE key = ANY($1::bytea[]) ORDER BY key FOR UPDATE)
""")

ADD_SESSION = CompanyQuery("""
INSERT INTO sessions (company_id, user_id, token_hash, address, expires_at, user_agent)
VALUES ($1, $2, $3, $4, now() + $5::interval, $6) RETURNING id, expires_at
""")
# Of a user whose password is still $3.
LOCK_CREDENTIALS = CompanyQuery("""
SELECT id FROM users WHERE company_id = $1 AND id = $2 AND password_hash = $3 AND active FOR NO KEY UPDATE
""")
SESSIONS = Listing(
    "sessions",
    "id, false AS current, host(address) AS address, user_agent, created_at, expires_at",
    conditions={"user": "user_id = {}", "live": "(sessions.expires_at > now()) = {}"},
    required=("user",),
)
# All but the $3 newest.
END_OLD_SESSIONS = CompanyQuery("""
DELETE FROM sessions WHERE company_id = $1 AND user_id = $2 AND id = ANY (ARRAY(
    SELECT id FROM sessions WHERE company_id = $1 AND user_id = $2 ORDER BY created_at DESC, id DESC OFFSET $3
))
""")
END_SESSION_OF = CompanyQuery("DELETE FROM sessions WHERE company_id = $1 AND user_id = $2 AND id = $3")
END_SESSION = CompanyQuery("DELETE FROM sessions WHERE company_id = $1 AND id = $2")
END_OTHER_SESSIONS = CompanyQuery("DELETE FROM sessions WHERE company_id = $1 AND user_id = $2 AND id <> $3")
END_SESSIONS = CompanyQuery("DELETE FROM sessions WHERE company_id = $1 AND user_id = $2")

# -- the company and its roles

COMPANY = CompanyQuery("SELECT id, name, time_zone, created_at FROM companies WHERE companies.id = $1")
LOCK_COMPANY = CompanyQuery("SELECT name, time_zone FROM companies WHERE companies.id = $1 FOR NO KEY UPDATE")
UPDATE_COMPANY = CompanyQuery("""
UPDATE companies SET name = coalesce($2, name), time_zone = coalesce($3, time_zone), updated_at = now()
WHERE companies.id = $1 RETURNING id, name, time_zone, created_at
""")
TIME_ZONE = CompanyQuery("SELECT time_zone FROM companies WHERE companies.id = $1")
SUMMARY = CompanyQuery("""
SELECT (SELECT count(*) FROM users WHERE company_id = $1) AS users,
       (SELECT count(*) FROM communications WHERE company_id = $1) AS communications,
       (SELECT max(created_at) FROM communications WHERE company_id = $1) AS latest_communication
""")

ADD_ROLE = CompanyQuery("""
INSERT INTO roles (company_id, name, level) VALUES ($1, $2, $3)
ON CONFLICT (company_id, name) DO NOTHING RETURNING id, name, level, created_at
""")
ROLE = CompanyQuery("SELECT id, level FROM roles WHERE company_id = $1 AND name = $2")
ROLES = Listing("roles", "id, name, level, created_at", conditions={})
LOCK_ROLE = CompanyQuery("SELECT id, name, level FROM roles WHERE company_id = $1 AND id = $2 FOR NO KEY UPDATE")
UPDATE_ROLE = CompanyQuery("""
UPDATE roles SET name = coalesce($3, name), level = coalesce($4, level)
WHERE company_id = $1 AND id = $2 RETURNING id, name, level, created_at
""")
USERS_OF_ROLE = CompanyQuery("SELECT count(*) FROM users WHERE company_id = $1 AND role_id = $2")
DELETE_ROLE = CompanyQuery("""
DELETE FROM roles WHERE company_id = $1 AND id = $2 AND level < $3
AND NOT EXISTS (SELECT FROM users WHERE users.company_id = $1 AND users.role_id = roles.id)
RETURNING name, level
""")

# -- users

_USER = "users.id, users.email, users.name, roles.name AS role, roles.level, users.active, users.created_at"
_ROLE = "JOIN roles ON roles.company_id = users.company_id AND roles.id = users.role_id"

USERS = Listing(
    f"users {_ROLE}",
    _USER,
    conditions={
        "active": "active = {}",
        "role": "role_id = (SELECT roles.id FROM roles WHERE roles.company_id = $1 AND roles.name = {})",
        "text": "(users.name || ' ' || users.email) ILIKE {}",
    },
    orders={
        "created_at": Order("users.created_at", read=instant),
        "name": Order("lower(users.name)"),
        "-name": Order("lower(users.name)", descending=True),
        "email": Order("users.email"),
        "-email": Order("users.email", descending=True),
    },
)
USER = CompanyQuery(f"SELECT {_USER} FROM users {_ROLE} WHERE users.company_id = $1 AND users.id = $2")
LOCK_USER = CompanyQuery("SELECT id FROM users WHERE company_id = $1 AND id = $2 FOR UPDATE")
LEVEL = CompanyQuery(f"SELECT roles.level FROM users {_ROLE} WHERE users.company_id = $1 AND users.id = $2 AND active")
HAS_ADMINISTRATOR = CompanyQuery(f"""
SELECT EXISTS (SELECT FROM users {_ROLE} WHERE users.company_id = $1 AND users.active AND roles.level >= $2)
""")
SET_NAME = CompanyQuery("UPDATE users SET name = $3 WHERE company_id = $1 AND id = $2")
PASSWORD = CompanyQuery("SELECT password_hash FROM users WHERE company_id = $1 AND id = $2")
SET_PASSWORD = CompanyQuery("UPDATE users SET password_hash = $3 WHERE company_id = $1 AND id = $2")
# No row when somebody else has the address, in whatever company.
ADD_USER = CompanyQuery("""
INSERT INTO users (company_id, role_id, email, name, password_hash) VALUES ($1, $2, $3, $4, $5)
ON CONFLICT (email) DO NOTHING RETURNING id
""")
# Only of one who stands below $3 still, whatever was true when that was looked at. A null changes nothing.
UPDATE_USER = CompanyQuery("""
UPDATE users SET name = coalesce($4, name), role_id = coalesce($5, role_id), active = coalesce($6, active),
                 password_hash = coalesce($7, password_hash)
WHERE company_id = $1 AND id = $2
AND EXISTS (SELECT FROM roles WHERE roles.company_id = $1 AND roles.id = users.role_id AND roles.level < $3)
""")
DELETE_USER = CompanyQuery("""
DELETE FROM users WHERE company_id = $1 AND id = $2
AND EXISTS (SELECT FROM roles WHERE roles.company_id = $1 AND roles.id = users.role_id AND roles.level < $3)
""")

# -- from nothing

# A company with the roles $5, of levels $6, and a user with the highest of them.
ADD_COMPANY = Query("""
WITH company AS (INSERT INTO companies (name) VALUES ($1) RETURNING id),
     added AS (
         INSERT INTO roles (company_id, name, level)
         SELECT company.id, role.name, role.level FROM company, unnest($5::text[], $6::smallint[]) AS role (name, level)
         RETURNING id, company_id, level
     )
INSERT INTO users (company_id, role_id, email, name, password_hash)
SELECT company_id, id, $2, $3, $4 FROM added ORDER BY level DESC LIMIT 1 RETURNING company_id, id
""")
# A user with the highest role of the company that has the name $1.
ADD_ADMINISTRATOR = Query("""
INSERT INTO users (company_id, role_id, email, name, password_hash)
SELECT roles.company_id, roles.id, $2, $3, $4 FROM companies JOIN roles ON roles.company_id = companies.id
WHERE companies.name = $1 ORDER BY companies.id, roles.level DESC LIMIT 1 RETURNING company_id, id
""")
