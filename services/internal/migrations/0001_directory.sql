-- The authentication database: who may log in, and with what. Its SQL is in package directory.

-- +goose Up
REVOKE ALL ON SCHEMA public FROM PUBLIC;

CREATE SCHEMA directory;

CREATE TABLE directory.users (
    id             text        PRIMARY KEY,             -- opaque and random: the only name of a user on the bus
    name           text        COLLATE "C" NOT NULL UNIQUE, -- canonical (RFC 8265 UsernameCaseMapped); "C" serves the search by prefix
    locale         text        NOT NULL CHECK (locale IN ('ja', 'en')),
    primary_method text        NOT NULL CHECK (primary_method IN ('password', 'token')),
    enabled        boolean     NOT NULL,
    locked         boolean     NOT NULL,                -- by an admin; locks by failures are in counters
    created_at     timestamptz NOT NULL,
    changed_at     timestamptz NOT NULL
);

-- Secrets and phones have tables of their own, so that a role can be given one and not the other.
CREATE TABLE directory.passwords (
    user_id    text        PRIMARY KEY REFERENCES directory.users ON DELETE CASCADE,
    hash       text        NOT NULL,                    -- PHC string, argon2id
    changed_at timestamptz NOT NULL
);

CREATE TABLE directory.phones (
    user_id    text        PRIMARY KEY REFERENCES directory.users ON DELETE CASCADE,
    number     text        NOT NULL CHECK (number ~ '^\+[1-9][0-9]{6,14}$'), -- E.164
    changed_at timestamptz NOT NULL
);

-- Failures in a row. No reference to users: an unknown name is counted like any other, under a keyed hash.
CREATE TABLE directory.counters (
    authenticator text        NOT NULL,                 -- "password:<user id>", "sms:<user id>", "password:?<keyed hash>"
    device        text        NOT NULL,                 -- '': everybody without a device that the user logged in with before
    failures      integer     NOT NULL CHECK (failures >= 0),
    locked_until  timestamptz,                          -- 'infinity': until an admin unlocks
    changed_at    timestamptz NOT NULL,
    PRIMARY KEY (authenticator, device)
) WITH (fillfactor = 50);                               -- updated at each login, in place

-- What was said of an event, so that its redelivery is answered alike and counted once.
CREATE TABLE directory.verdicts (
    event      text        PRIMARY KEY,                 -- event id
    digest     bytea       NOT NULL,                    -- of the payload
    counted_on text,                                    -- device of the counter; null: locked, not to be evaluated
    verdict    text        NOT NULL,                    -- '' until it is known
    created_at timestamptz NOT NULL
) WITH (fillfactor = 80);
CREATE INDEX verdicts_created ON directory.verdicts (created_at);

-- When the lock of a counter ends that has reached a number of failures; null: it is not locked.
CREATE FUNCTION directory.lock_end(failures integer, now timestamptz, lock_after integer, first_seconds float8,
                                   max_seconds float8, disable_after integer) RETURNS timestamptz
    LANGUAGE sql IMMUTABLE AS $$
    SELECT CASE
        WHEN failures >= disable_after THEN 'infinity'
        WHEN failures >= lock_after THEN now + make_interval(secs => least(max_seconds, first_seconds * power(2, failures - lock_after)))
    END $$;

CREATE VIEW directory.accounts AS
    SELECT id AS user_id, enabled AND NOT locked AS may_log_in FROM directory.users;

GRANT USAGE ON SCHEMA directory TO identityverifier, otpvalidator, smsdispatcher, sessionissuer, console, recorder;

GRANT SELECT ON directory.users TO identityverifier;
GRANT SELECT, UPDATE ON directory.passwords TO identityverifier; -- a hash of an old cost is replaced
GRANT SELECT (user_id) ON directory.phones TO identityverifier;  -- whether there is one
GRANT SELECT, INSERT, UPDATE ON directory.counters, directory.verdicts TO identityverifier, otpvalidator;

GRANT SELECT (user_id, number) ON directory.phones TO smsdispatcher;

-- may_log_in is computed, so that nobody can update it: the privilege is what SELECT … FOR SHARE asks for.
GRANT SELECT, UPDATE (may_log_in) ON directory.accounts TO sessionissuer;

GRANT SELECT, INSERT, UPDATE, DELETE ON directory.users, directory.phones TO console;
GRANT SELECT (user_id, changed_at), INSERT, UPDATE, DELETE ON directory.passwords TO console; -- an admin never reads a hash
GRANT SELECT, DELETE ON directory.counters TO console;

GRANT SELECT (authenticator, failures, locked_until, changed_at), DELETE ON directory.counters TO recorder;
GRANT SELECT (created_at), DELETE ON directory.verdicts TO recorder;
