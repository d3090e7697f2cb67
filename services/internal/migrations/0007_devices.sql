-- Phones that hold a key of their user, and the invitations to enroll one. Their SQL is in package directory.

-- +goose Up
CREATE TABLE directory.devices (
    id          text        PRIMARY KEY,                -- opaque and random
    user_id     text        NOT NULL REFERENCES directory.users ON DELETE CASCADE,
    kind        text        NOT NULL CHECK (kind IN ('sekisho', 'mamoru')), -- our own authenticator, or a provider that hosts the approval
    name        text        NOT NULL,                   -- as the user calls it
    public_key  bytea       CHECK (octet_length(public_key) = 65), -- sekisho: P-256 point, uncompressed (SEC 1 section 2.3.3)
    account     text        NOT NULL,                   -- mamoru: the provider's name of the user
    gateway     text        NOT NULL,                   -- where the phone's page is served
    transport   text        NOT NULL CHECK (transport IN ('', 'webpush', 'fcm')), -- '': the phone asks by itself
    target      jsonb,                                  -- where the transport sends to
    enrolled_at timestamptz NOT NULL,
    last_seen   timestamptz NOT NULL,                   -- written at most once a minute
    CHECK ((kind = 'sekisho') = (public_key IS NOT NULL)),
    CHECK ((kind = 'mamoru') = (account <> '')),
    CHECK ((transport <> '') = (target IS NOT NULL))
);
CREATE INDEX devices_user ON directory.devices (user_id);

-- Deleted by the enrollment that uses it, in the same transaction.
CREATE TABLE directory.activations (
    hash       bytea       PRIMARY KEY,                 -- SHA-256 of the code: who reads the table can not use one
    user_id    text        NOT NULL REFERENCES directory.users ON DELETE CASCADE,
    expires_at timestamptz NOT NULL,
    created_at timestamptz NOT NULL
);
CREATE INDEX activations_user ON directory.activations (user_id);

GRANT USAGE ON SCHEMA directory, sessions TO pushnotifier;

GRANT SELECT, INSERT, UPDATE, DELETE ON directory.devices TO pushnotifier;
GRANT SELECT, INSERT, DELETE ON directory.activations TO pushnotifier, console;
GRANT SELECT ON directory.accounts TO pushnotifier;
GRANT SELECT (id, name, locale) ON directory.users TO pushnotifier;      -- a phone shows whose it is
GRANT SELECT ON sessions.named TO pushnotifier;                          -- who invites a phone from a session
GRANT SELECT, UPDATE (revoked_at, revoked_by) ON sessions.sessions TO pushnotifier; -- "this was not me" ends one

GRANT SELECT (user_id) ON directory.devices TO identityverifier;         -- whether there is one

GRANT SELECT (id, user_id, kind, name, account, gateway, enrolled_at, last_seen), INSERT, DELETE ON directory.devices TO console;

GRANT SELECT (expires_at), DELETE ON directory.activations TO recorder;
