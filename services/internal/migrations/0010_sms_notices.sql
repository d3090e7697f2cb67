-- Text messages that tell users of changes of their phones. Their SQL is in the worker smsdispatcher.

-- +goose Up

-- One row per change of a phone, written before any provider is asked. It holds no phone number.
CREATE TABLE sms.notices (
    event       uuid        PRIMARY KEY,            -- id of the event of ACCOUNT: a change is told once
    user_id     text        NOT NULL,
    kind        text        NOT NULL CHECK (kind IN ('device-enrolled', 'device-removed')),
    state       text        NOT NULL CHECK (state IN ('intent', 'dropped', 'accepted', 'sent', 'received', 'failed')),
    provider    text        NOT NULL DEFAULT '',
    provider_id text        NOT NULL DEFAULT '',    -- the provider's id of the message
    changed_at  timestamptz NOT NULL,               -- when the phone was added or removed
    created_at  timestamptz NOT NULL,
    due_at      timestamptz,                        -- when it is tried next; null: never
    tries       smallint    NOT NULL DEFAULT 0
);

CREATE INDEX notices_user ON sms.notices (user_id, created_at); -- the limit counts by this
CREATE INDEX notices_due ON sms.notices (due_at) WHERE due_at IS NOT NULL;
CREATE INDEX notices_created ON sms.notices (created_at);

GRANT SELECT, INSERT, UPDATE, DELETE ON sms.notices TO smsdispatcher;

GRANT SELECT (id, locale) ON directory.users TO smsdispatcher; -- in which language
