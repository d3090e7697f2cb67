-- From where users have logged in, so that a login from elsewhere is noticed. Its SQL is in the worker riskassessor.

-- +goose Up
CREATE SCHEMA risk;

CREATE TABLE risk.networks (
    user_id   text        NOT NULL, -- no reference: what is left of a user who was deleted goes with risk.keep
    network   bytea       NOT NULL, -- keyed hash of the user and the network: no address is kept, and no two users' rows can be compared
    last_seen timestamptz NOT NULL, -- of a login that was granted; behind by a day at most
    PRIMARY KEY (user_id, network)
);
CREATE INDEX networks_seen ON risk.networks (last_seen);

GRANT USAGE ON SCHEMA risk TO riskassessor;
GRANT SELECT, INSERT, UPDATE, DELETE ON risk.networks TO riskassessor;
