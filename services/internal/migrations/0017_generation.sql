-- A login that is under way rests on what it found of its user, and must not outlive that: a code that was sent to the old number, a
-- password that has been changed, a user who was locked meanwhile.

-- +goose Up

-- How often something that the user logs in with was changed or taken away, or the user was kept out. A login becomes a session only if
-- it has begun in the generation that is.
ALTER TABLE directory.users ADD COLUMN generation integer NOT NULL DEFAULT 1;

CREATE OR REPLACE VIEW directory.accounts AS
    SELECT id AS user_id, enabled AND NOT locked AS may_log_in, generation FROM directory.users;

GRANT SELECT (generation), UPDATE (generation) ON directory.users TO pushnotifier; -- a user removes a phone
