-- One-time password tokens. Their SQL is in package directory.

-- +goose Up
CREATE TABLE directory.tokens (
    id           text        PRIMARY KEY,               -- opaque and random: the only name of a token on the bus
    serial       text        COLLATE "C" NOT NULL UNIQUE, -- as it is printed on the token
    user_id      text        REFERENCES directory.users ON DELETE SET NULL,
    algorithm    text        NOT NULL CHECK (algorithm IN ('hotp', 'totp', 'ocra')),
    suite        text        NOT NULL,                  -- ocra: RFC 6287 section 6; '' for the others
    hash         text        NOT NULL,                  -- hotp, totp
    digits       integer     NOT NULL,                  -- hotp, totp
    period       integer     NOT NULL,                  -- totp: seconds
    secret       bytea       NOT NULL,                  -- sealed under the key "token" for this row: who reads the table can not use it
    pin          bytea,                                 -- the same
    next         bigint      NOT NULL CHECK (next >= 0), -- the first event or step of time whose code is still good: it never goes back
    drift        bigint      NOT NULL,                  -- steps that the token's clock is ahead
    wide_until   timestamptz,                           -- until then it is not known where it stands, and codes are looked for far away
    disabled     boolean     NOT NULL,                  -- by an admin; locks by failures are in counters
    manufacturer text        NOT NULL,
    model        text        NOT NULL,
    starts_at    timestamptz,
    expires_at   timestamptz,
    imported_at  timestamptz NOT NULL,
    assigned_at  timestamptz,
    used_at      timestamptz,
    CHECK (user_id IS NULL OR assigned_at IS NOT NULL)
) WITH (fillfactor = 80);                               -- updated at each login, in place
CREATE INDEX tokens_user ON directory.tokens (user_id) WHERE user_id IS NOT NULL;

GRANT SELECT, INSERT, UPDATE, DELETE ON directory.tokens TO console; -- it seals what is imported, and opens it to find where a token stands
GRANT SELECT, UPDATE (next, drift, wide_until, used_at) ON directory.tokens TO otpvalidator;
GRANT SELECT (user_id, disabled, starts_at, expires_at) ON directory.tokens TO identityverifier; -- whether there is one to be used
GRANT SELECT (user_id, disabled, starts_at, expires_at) ON directory.tokens TO pushnotifier; -- as in 0018
