-- Who did what (audit_logs) and who saw what (data_access_logs): two tables of one form. Without foreign keys: a log
-- outlives what it tells of. created_at is when it happened; rows are written in batches a little later.
CREATE TABLE audit_logs (
    id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    company_id  bigint NOT NULL,
    user_id     bigint,
    action      text NOT NULL,
    entity      text NOT NULL,
    entity_id   text,
    severity    text NOT NULL CHECK (severity IN ('info', 'warning', 'critical')),
    description text NOT NULL,
    address     inet,
    request_id  text,
    created_at  timestamptz NOT NULL DEFAULT now()
);
CREATE TABLE data_access_logs (LIKE audit_logs INCLUDING ALL);

-- One index for each filter of a page, in the order of the page; the last for the retention, which asks for no company.
CREATE INDEX audit_logs_page ON audit_logs (company_id, created_at, id);
CREATE INDEX audit_logs_user ON audit_logs (company_id, user_id, created_at, id);
CREATE INDEX audit_logs_action ON audit_logs (company_id, action, created_at, id);
CREATE INDEX audit_logs_entity ON audit_logs (company_id, entity, created_at, id);
CREATE INDEX audit_logs_severity ON audit_logs (company_id, severity, created_at, id) WHERE severity <> 'info';
CREATE INDEX audit_logs_age ON audit_logs (created_at);

CREATE INDEX data_access_logs_page ON data_access_logs (company_id, created_at, id);
CREATE INDEX data_access_logs_user ON data_access_logs (company_id, user_id, created_at, id);
CREATE INDEX data_access_logs_action ON data_access_logs (company_id, action, created_at, id);
CREATE INDEX data_access_logs_entity ON data_access_logs (company_id, entity, created_at, id);
CREATE INDEX data_access_logs_severity ON data_access_logs (company_id, severity, created_at, id) WHERE severity <> 'info';
CREATE INDEX data_access_logs_age ON data_access_logs (created_at);

-- The text search of the logs, by trigrams, where the server has pg_trgm (Debian's has) and lets us; without, a search
-- reads the rows that the other conditions leave. It is looked up where it lies: the search_path may not lead there.
DO $$
DECLARE
    place text;
    log text;
BEGIN
    BEGIN
        CREATE EXTENSION IF NOT EXISTS pg_trgm WITH SCHEMA public;
    EXCEPTION WHEN insufficient_privilege OR feature_not_supported OR undefined_file OR invalid_schema_name THEN
        RAISE NOTICE 'no index for the text search of the logs: %', SQLERRM;
    END;
    SELECT quote_ident(nspname) INTO place
    FROM pg_extension JOIN pg_namespace ON pg_namespace.oid = extnamespace WHERE extname = 'pg_trgm';
    IF place IS NOT NULL THEN
        FOREACH log IN ARRAY ARRAY['audit_logs', 'data_access_logs'] LOOP
            EXECUTE format('CREATE INDEX %I ON %I USING gin (description %s.gin_trgm_ops)', log || '_text', log, place);
        END LOOP;
    END IF;
END
$$;
