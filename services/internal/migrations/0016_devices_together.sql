-- A gateway says which users have logged in with a device, and is believed. One whose key was stolen could name a new device, with a
-- counter of its own, for each guess: the devices of an authenticator have no more failures together than disable it, either.

-- +goose Up

-- Counts an attempt, unless its event was counted before, and says what may become of it: see the type Standing of package
-- directory. A counter is locked from its first change to the end of the transaction: whoever counts several attempts in one does
-- so in the order of authenticator, so that no two wait for each other.
-- +goose StatementBegin
CREATE OR REPLACE FUNCTION directory.attempt(_event text, _digest bytea, _authenticator text, _device text, now timestamptz, lock_after integer,
                                  first_seconds float8, max_seconds float8, disable_after integer,
                                  OUT allowed boolean, OUT verdict text, OUT contended boolean)
    LANGUAGE plpgsql AS $$
DECLARE
    known   directory.verdicts;
    counted text; -- device of the counter
BEGIN
    allowed := false;
    verdict := '';
    contended := false;
    SELECT * INTO known FROM directory.verdicts v WHERE v.event = _event;
    IF FOUND THEN
        IF known.digest = _digest THEN -- another payload under the same id is another attempt, and never allowed
            allowed := known.counted_on IS NOT NULL;
            verdict := known.verdict;
        END IF;
        RETURN;
    END IF;
    IF _device <> '' THEN
        UPDATE directory.counters c SET failures = 1, changed_at = now -- after a success, as with nearly every login
            WHERE c.authenticator = _authenticator AND c.device = _device AND c.failures = 0
            RETURNING c.device INTO counted;
        IF counted IS NULL AND (SELECT coalesce(sum(c.failures), 0) FROM directory.counters c
                                WHERE c.authenticator = _authenticator AND c.device <> '') < disable_after THEN
            INSERT INTO directory.counters AS c (authenticator, device, failures, changed_at) VALUES (_authenticator, _device, 1, now)
                ON CONFLICT (authenticator, device) DO UPDATE SET failures = c.failures + 1, changed_at = excluded.changed_at
                WHERE c.failures < lock_after
                RETURNING c.device INTO counted;
        END IF;
    END IF;
    IF counted IS NULL THEN
        INSERT INTO directory.counters AS c (authenticator, device, failures, locked_until, changed_at)
            VALUES (_authenticator, '', 1, directory.lock_end(1, now, lock_after, first_seconds, max_seconds, disable_after), now)
            ON CONFLICT (authenticator, device) DO UPDATE SET failures = c.failures + 1, changed_at = excluded.changed_at,
                locked_until = directory.lock_end(c.failures + 1, excluded.changed_at, lock_after, first_seconds, max_seconds, disable_after)
            WHERE c.locked_until IS NULL OR c.locked_until <= excluded.changed_at
            RETURNING c.device INTO counted;
    END IF;
    IF counted IS NULL THEN
        SELECT c.changed_at > now - interval '1 second' INTO contended FROM directory.counters c
            WHERE c.authenticator = _authenticator AND c.device = '';
        RETURN;
    END IF;
    -- Of two deliveries of one event at the same moment, the second has waited for the first one's counter and fails here on the
    -- primary key, which takes its count back; the repeat finds the first one's row.
    INSERT INTO directory.verdicts (event, digest, counted_on, verdict, created_at) VALUES (_event, _digest, counted, '', now);
    allowed := true;
END $$;
-- +goose StatementEnd
