-- What the members of a company write to each other.
CREATE TABLE communications (
    id         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    company_id bigint NOT NULL,
    author_id  bigint,  -- null when the author was deleted
    kind       text NOT NULL CHECK (kind <> ''),
    subject    text NOT NULL,
    body       text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    FOREIGN KEY (company_id, author_id) REFERENCES users (company_id, id) ON DELETE SET NULL (author_id)
);
CREATE INDEX communications_page ON communications (company_id, created_at, id);
CREATE INDEX communications_author ON communications (company_id, author_id, created_at, id);
CREATE INDEX communications_kind ON communications (company_id, kind, created_at, id);
