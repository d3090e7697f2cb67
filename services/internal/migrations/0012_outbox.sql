-- Events about accounts that the bus has not taken yet. Its SQL is in package directory.

-- +goose Up
CREATE TABLE directory.outbox (
    id         uuid        PRIMARY KEY,                 -- of the event, UUIDv7: the order in which they are published
    source     text        NOT NULL DEFAULT current_user, -- the worker that made the change, which has a role of its name
    kind       text        NOT NULL,
    user_id    text        NOT NULL,                    -- no reference: the event outlives a deleted user
    data       json        NOT NULL,                    -- as it is published: nothing secret, nothing personal
    created_at timestamptz NOT NULL
);

-- Who makes a change publishes it, and what another has left.
GRANT SELECT, INSERT, DELETE ON directory.outbox TO console, pushnotifier;

-- A user's row is held while their devices are counted: see 0001_directory.sql for what the privilege is worth.
GRANT SELECT, UPDATE (may_log_in) ON directory.accounts TO console, pushnotifier;
