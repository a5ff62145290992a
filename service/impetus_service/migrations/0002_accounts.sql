-- Who may do what. Every row belongs to one company; the keys (company_id, id) let rows that refer to each other prove
-- that they belong to the same one.
ALTER TABLE companies ADD COLUMN updated_at timestamptz NOT NULL DEFAULT now();

-- A role is a level of a hierarchy: who stands higher may manage who stands lower.
CREATE TABLE roles (
    id         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    company_id bigint NOT NULL REFERENCES companies (id),
    name       text NOT NULL CHECK (name <> ''),
    level      smallint NOT NULL CHECK (level BETWEEN 1 AND 100),
    created_at timestamptz NOT NULL DEFAULT now(),
    UNIQUE (company_id, id),
    UNIQUE (company_id, name)
);

CREATE TABLE users (
    id            bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    company_id    bigint NOT NULL REFERENCES companies (id),
    role_id       bigint NOT NULL,
    email         text NOT NULL CHECK (email = lower(email)),
    name          text NOT NULL CHECK (name <> ''),
    password_hash text NOT NULL,
    active        boolean NOT NULL DEFAULT true,
    created_at    timestamptz NOT NULL DEFAULT now(),
    UNIQUE (company_id, id),
    FOREIGN KEY (company_id, role_id) REFERENCES roles (company_id, id)
);
CREATE UNIQUE INDEX users_email ON users (email);
CREATE INDEX users_page ON users (company_id, created_at, id);
CREATE INDEX users_role ON users (company_id, role_id);

-- The token itself is nowhere: only its SHA-256.
CREATE TABLE sessions (
    id         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    company_id bigint NOT NULL,
    user_id    bigint NOT NULL,
    token_hash bytea NOT NULL UNIQUE,
    address    inet,
    created_at timestamptz NOT NULL DEFAULT now(),
    expires_at timestamptz NOT NULL,
    FOREIGN KEY (company_id, user_id) REFERENCES users (company_id, id) ON DELETE CASCADE
);
CREATE INDEX sessions_expiry ON sessions (expires_at);
CREATE INDEX sessions_user ON sessions (company_id, user_id);

-- Failed logins within a window, by SHA-256 of "account:…" or "address:…": all workers and hosts count here. No company:
-- who only tries to log in has none.
CREATE TABLE login_attempts (
    key        bytea PRIMARY KEY,
    count      integer NOT NULL,
    expires_at timestamptz NOT NULL
);
CREATE INDEX login_attempts_expiry ON login_attempts (expires_at);
