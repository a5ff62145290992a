-- When a communication was last changed, and the search in all of them: by trigrams, where there are some.
ALTER TABLE communications ADD COLUMN updated_at timestamptz;
DO $$
DECLARE
    place text;
BEGIN
    SELECT quote_ident(nspname) INTO place
    FROM pg_extension JOIN pg_namespace ON pg_namespace.oid = extnamespace WHERE extname = 'pg_trgm';
    IF place IS NOT NULL THEN
        EXECUTE format(
            'CREATE INDEX communications_text ON communications USING gin ((subject || E''\n'' || body) %s.gin_trgm_ops)', place
        );
    END IF;
END
$$;
