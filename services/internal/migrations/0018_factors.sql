-- Whether a user has more than one factor, which a session that changes phones must then rest on: pushnotifier sees who has a
-- password or a number, and neither of them.

-- +goose Up
GRANT SELECT (user_id) ON directory.passwords, directory.phones TO pushnotifier;
