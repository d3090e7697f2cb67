-- Sessions, one row per granted login. Its SQL is in package sessions.

-- +goose Up
CREATE SCHEMA sessions;

CREATE TABLE sessions.sessions (
    gateway      text        NOT NULL,
    login        uuid        NOT NULL,
    user_id      text        NOT NULL, -- no reference: a session outlives a deleted user by its last line in the record
    app          text        NOT NULL,
    amr          text[]      NOT NULL, -- RFC 8176
    acr          text        NOT NULL,
    auth_time    timestamptz NOT NULL,
    created_at   timestamptz NOT NULL,
    last_seen    timestamptz NOT NULL, -- written at most once a minute
    idle_seconds integer     NOT NULL CHECK (idle_seconds > 0),
    expires_at   timestamptz NOT NULL, -- absolute
    revoked_at   timestamptz,
    revoked_by   text,                 -- 'user', 'admin', …
    PRIMARY KEY (gateway, login)
) WITH (fillfactor = 80);
CREATE INDEX sessions_user ON sessions.sessions (user_id);
CREATE INDEX sessions_expires ON sessions.sessions (expires_at);

-- What a gateway sees: the user's name for each session, and no other name. A user who may not log in has no session.
CREATE VIEW sessions.named AS
    SELECT s.gateway, s.login, s.user_id, u.name AS user_name, s.app, s.amr, s.acr, s.auth_time, s.created_at, s.last_seen,
           s.idle_seconds, s.expires_at, s.revoked_at IS NOT NULL OR NOT u.enabled OR u.locked AS revoked
    FROM sessions.sessions s JOIN directory.users u ON u.id = s.user_id;

GRANT USAGE ON SCHEMA sessions TO gateway, sessionissuer, console, recorder;

GRANT SELECT, INSERT, DELETE, UPDATE (last_seen) ON sessions.sessions TO sessionissuer;

GRANT SELECT ON sessions.named TO gateway, console;
GRANT SELECT, UPDATE (last_seen, revoked_at, revoked_by) ON sessions.sessions TO gateway;

GRANT SELECT, UPDATE (revoked_at, revoked_by) ON sessions.sessions TO console;

GRANT SELECT (expires_at), DELETE ON sessions.sessions TO recorder;
