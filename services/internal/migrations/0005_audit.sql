-- The audit log: every event that the bus has carried, and what became of each login. Its SQL is in the worker recorder.

-- +goose Up
CREATE SCHEMA audit;

CREATE TABLE audit.events (
    id        text        COLLATE "C" PRIMARY KEY, -- CloudEvents id; the place in the stream of what can not be decoded
    stream    text        NOT NULL,
    sequence  bigint      NOT NULL,                -- in that stream
    stored_at timestamptz NOT NULL,                -- when that stream stored it
    time      timestamptz,                         -- by the publisher's clock
    source    text,
    type      text,
    about     text,                                -- CloudEvents subject: the login, or the user's opaque id
    gateway   text,                                -- these four of events of logins
    login     uuid,
    step      text,
    n         smallint,                            -- round or attempt
    cause     text,                                -- id of the event that led to it
    trace     text,                                -- W3C traceparent
    data      jsonb,                               -- without what is sealed
    problem   text                                 -- why it could not be decoded
);
CREATE INDEX events_login ON audit.events (login, gateway) WHERE login IS NOT NULL;
CREATE INDEX events_about ON audit.events (about, stored_at) WHERE login IS NULL;
CREATE INDEX events_stored ON audit.events USING brin (stored_at);

CREATE TABLE audit.logins (
    gateway   text        NOT NULL,
    login     uuid        NOT NULL,
    opened_at timestamptz,                         -- when its request reached the archive
    deadline  timestamptz,
    app       text,
    method    text,
    user_id   text,                                -- opaque; once identified, and not of a decoy
    outcome   text,
    reason    text,
    closed_at timestamptz,
    PRIMARY KEY (gateway, login)
) WITH (fillfactor = 80);                          -- opened, identified and closed one after the other
CREATE INDEX logins_open ON audit.logins (deadline) WHERE closed_at IS NULL;
CREATE INDEX logins_closed ON audit.logins USING brin (closed_at);

GRANT USAGE ON SCHEMA audit TO recorder;
GRANT SELECT, INSERT, UPDATE, DELETE ON audit.events, audit.logins TO recorder;
