-- Rights that nobody needs: what is recorded is not changed, and a phone is not told its user's language.

-- +goose Up
REVOKE UPDATE ON audit.events FROM recorder;
REVOKE SELECT (locale) ON directory.users FROM pushnotifier;
