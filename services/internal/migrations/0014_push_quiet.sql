-- What phones are not shown, and what they are told silently. Its SQL is in the worker pushnotifier.

-- +goose Up

-- A decoy's prompt counts for the limits like any other, and no device ever sees it: not even one that its user, who had none, has
-- added since.
ALTER TABLE push.prompts ADD COLUMN decoy boolean NOT NULL DEFAULT false;

-- Whether a push service was asked to ring for a notice. Those about logins are limited, since anybody can cause them.
ALTER TABLE push.notices ADD COLUMN rings boolean NOT NULL DEFAULT true;
CREATE INDEX notices_rings ON push.notices (user_id, created_at) WHERE kind = 'unknown_environment' AND rings; -- the limit counts by this
