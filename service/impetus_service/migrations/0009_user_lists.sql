-- The orders that users are listed in, and the search in names and addresses: by trigrams, where there are some.
CREATE INDEX users_name ON users (company_id, lower(name), id);
CREATE INDEX users_email_page ON users (company_id, email, id);
DO $$
DECLARE
    place text;
BEGIN
    SELECT quote_ident(nspname) INTO place
    FROM pg_extension JOIN pg_namespace ON pg_namespace.oid = extnamespace WHERE extname = 'pg_trgm';
    IF place IS NOT NULL THEN
        EXECUTE format('CREATE INDEX users_text ON users USING gin ((name || '' '' || email) %s.gin_trgm_ops)', place);
    END IF;
END
$$;
