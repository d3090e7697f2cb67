-- What a login's app is called in each language: phones may speak another than the login. Its SQL is in the worker pushnotifier.

-- +goose Up
ALTER TABLE push.notices
    ADD COLUMN app_en text NOT NULL DEFAULT '', -- both, or neither where they do not differ
    ADD COLUMN app_ja text NOT NULL DEFAULT '';
