-- What a user may tell his sessions apart by, and their list. sessions_page does all that sessions_user did.
ALTER TABLE sessions ADD COLUMN user_agent text;
CREATE INDEX sessions_page ON sessions (company_id, user_id, created_at, id);
DROP INDEX sessions_user;
