-- Work that takes longer than a request may: what its users see of it. Workers take it up through a queue of their own.
CREATE TABLE jobs (
    id              bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    company_id      bigint NOT NULL REFERENCES companies (id),
    user_id         bigint,  -- null when the user was deleted
    kind            text NOT NULL CHECK (kind IN ('export', 'report', 'embeddings')),
    parameters      jsonb NOT NULL,
    state           text NOT NULL DEFAULT 'queued'
                    CHECK (state IN ('queued', 'running', 'succeeded', 'failed', 'cancelled')),
    progress        smallint NOT NULL DEFAULT 0 CHECK (progress BETWEEN 0 AND 100),
    attempt         smallint NOT NULL DEFAULT 0,  -- of the run that may write to this row
    result          jsonb,
    error           text,
    file            text,  -- its name in JOB_FILES_DIR
    idempotency_key text,
    request_id      text,
    created_at      timestamptz NOT NULL DEFAULT now(),
    started_at      timestamptz,
    finished_at     timestamptz,
    FOREIGN KEY (company_id, user_id) REFERENCES users (company_id, id) ON DELETE SET NULL (user_id)
);
CREATE UNIQUE INDEX jobs_idempotency ON jobs (company_id, user_id, idempotency_key) WHERE idempotency_key IS NOT NULL;
CREATE INDEX jobs_page ON jobs (company_id, created_at, id);
CREATE INDEX jobs_user ON jobs (company_id, user_id, created_at, id);
CREATE INDEX jobs_state ON jobs (company_id, state, created_at, id);
CREATE INDEX jobs_open ON jobs (id) WHERE state IN ('queued', 'running');
CREATE INDEX jobs_failed ON jobs (id) WHERE state = 'failed';
CREATE INDEX jobs_file ON jobs (file) WHERE file IS NOT NULL;
CREATE INDEX jobs_finished ON jobs (finished_at) WHERE finished_at IS NOT NULL;
