-- Where a company's days begin and end: a name of IANA's.
ALTER TABLE companies ADD COLUMN time_zone text NOT NULL DEFAULT 'UTC';
