-- +goose Up
CREATE SCHEMA sms;

-- One row per round that asks for a text message, written before any provider is asked. It holds no phone number and no code.
CREATE TABLE sms.sends (
    gateway     text        NOT NULL,
    login       uuid        NOT NULL,
    round       smallint    NOT NULL,
    user_id     text        NOT NULL,
    number_hash bytea       NOT NULL, -- keyed hash of the number
    state       text        NOT NULL CHECK (state IN ('intent', 'accepted', 'sent', 'received', 'failed')),
    provider    text        NOT NULL DEFAULT '',
    provider_id text        NOT NULL DEFAULT '', -- the provider's id of the message
    created_at  timestamptz NOT NULL,
    accepted_at timestamptz,
    check_at    timestamptz,          -- when the provider is next asked what became of it; null: never
    checks      smallint    NOT NULL DEFAULT 0,
    PRIMARY KEY (gateway, login, round)
);

-- The send limits count by these.
CREATE INDEX sends_user ON sms.sends (user_id, created_at);
CREATE INDEX sends_number ON sms.sends (number_hash, created_at);
CREATE INDEX sends_check ON sms.sends (check_at) WHERE check_at IS NOT NULL;
CREATE INDEX sends_created ON sms.sends (created_at);

GRANT USAGE ON SCHEMA sms TO smsdispatcher;
GRANT SELECT, INSERT, UPDATE, DELETE ON sms.sends TO smsdispatcher;
