-- What pushnotifier asks devices and tells them. Its SQL is in the worker pushnotifier.

-- +goose Up
CREATE SCHEMA push;

-- One row per round that asks for a push, written before any device hears of it. Rows of decoys (0014) count for the limits like any
-- other, and no device ever sees them.
CREATE TABLE push.prompts (
    gateway    text        NOT NULL,
    login      uuid        NOT NULL,
    round      smallint    NOT NULL,
    user_id    text        NOT NULL,
    nonce      bytea       NOT NULL CHECK (length(nonce) = 16), -- what a device signs, so that an answer fits one prompt only
    created_at timestamptz NOT NULL,
    expires_at timestamptz NOT NULL,
    ended_at   timestamptz,                                     -- when it was decided; the login's events are the truth
    PRIMARY KEY (gateway, login, round)
);
CREATE INDEX prompts_user ON push.prompts (user_id, created_at);
CREATE INDEX prompts_created ON push.prompts (created_at);

-- How many prompts a network has caused. A count, since one network may cause many.
CREATE TABLE push.sources (
    tag        text        PRIMARY KEY,                         -- keyed hash of the network
    prompts    integer     NOT NULL,                            -- since
    started_at timestamptz NOT NULL
) WITH (fillfactor = 50);                                       -- updated at each prompt, in place

-- What one device is told, and need not answer. One row per device, so that none of them can hide anything from another.
CREATE TABLE push.notices (
    id         text        PRIMARY KEY,                         -- opaque and random
    user_id    text        NOT NULL,
    device     text        NOT NULL,
    kind       text        NOT NULL CHECK (kind IN ('unknown_environment', 'device_enrolled', 'device_renamed', 'device_removed')),
    cause      text        NOT NULL,                            -- of what it tells: the login, or the change of a device
    gateway    text,                                            -- these six of unknown_environment
    login      uuid,
    app        text        NOT NULL DEFAULT '',
    place      text        NOT NULL DEFAULT '',                 -- in words, as the prompt of that login would show them
    browser    text        NOT NULL DEFAULT '',
    disowned   boolean     NOT NULL DEFAULT false,              -- the user says: this was not me
    name       text        NOT NULL DEFAULT '',                 -- of the device that was changed
    created_at timestamptz NOT NULL,
    seen_at    timestamptz,
    UNIQUE (device, kind, cause)
);
CREATE INDEX notices_created ON push.notices (created_at);

-- Proofs that devices have used, for as long as a proof is good.
CREATE TABLE push.proofs (
    device  text        NOT NULL,
    id      text        NOT NULL,
    used_at timestamptz NOT NULL,
    PRIMARY KEY (device, id)
);
CREATE INDEX proofs_used ON push.proofs (used_at);

-- Users who said that somebody else was logging in: they are left alone for a while.
CREATE TABLE push.cooldowns (
    user_id text        PRIMARY KEY,
    until   timestamptz NOT NULL
);

GRANT USAGE ON SCHEMA push TO pushnotifier;
GRANT SELECT, INSERT, UPDATE, DELETE ON push.prompts, push.sources, push.notices, push.proofs, push.cooldowns TO pushnotifier;
