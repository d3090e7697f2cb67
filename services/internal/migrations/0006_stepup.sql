-- Stepping up: a login may start from a session, which the one that it leads to replaces.

-- +goose Up
ALTER TABLE sessions.sessions ADD COLUMN verdict text NOT NULL DEFAULT ''; -- OK, REVIEW or NG; '': risk was not assessed

CREATE OR REPLACE VIEW sessions.named AS
    SELECT s.gateway, s.login, s.user_id, u.name AS user_name, s.app, s.amr, s.acr, s.auth_time, s.created_at, s.last_seen,
           s.idle_seconds, s.expires_at, s.revoked_at IS NOT NULL OR NOT u.enabled OR u.locked AS revoked, s.verdict
    FROM sessions.sessions s JOIN directory.users u ON u.id = s.user_id;

GRANT USAGE ON SCHEMA sessions TO identityverifier;
GRANT SELECT ON sessions.named TO identityverifier;                    -- whether the session to step up from is good
GRANT UPDATE (revoked_at, revoked_by) ON sessions.sessions TO sessionissuer; -- ends the one that is replaced
