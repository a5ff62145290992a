-- What a request with an Idempotency-Key was answered: one with the same key, of the same user, is answered alike.
CREATE TABLE idempotency_keys (
    company_id bigint NOT NULL,
    user_id    bigint NOT NULL,
    key        text NOT NULL,
    request    bytea NOT NULL,  -- SHA-256 of what was asked for
    answer     bytea,  -- null only within the transaction that makes it
    expires_at timestamptz NOT NULL,
    PRIMARY KEY (company_id, user_id, key),
    FOREIGN KEY (company_id, user_id) REFERENCES users (company_id, id) ON DELETE CASCADE
);
CREATE INDEX idempotency_keys_expiry ON idempotency_keys (expires_at);
