-- +goose Up

-- Gateways, console and pushnotifier may revoke sessions. None of them may undo that.
-- +goose StatementBegin
CREATE FUNCTION sessions.stay_revoked() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'a session that has been revoked stays so' USING ERRCODE = 'insufficient_privilege';
END $$;
-- +goose StatementEnd

CREATE TRIGGER stay_revoked BEFORE UPDATE OF revoked_at ON sessions.sessions
    FOR EACH ROW WHEN (OLD.revoked_at IS NOT NULL AND NEW.revoked_at IS DISTINCT FROM OLD.revoked_at)
    EXECUTE FUNCTION sessions.stay_revoked();
