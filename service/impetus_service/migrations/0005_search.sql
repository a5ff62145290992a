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
