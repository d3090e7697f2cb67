-- Attempts are looked at before they are counted, and count by what they are: one statement per attempt, in a function that runs what
-- a row needs and no more.

-- +goose Up

-- Counts an attempt and returns the verdict that stands: that of an earlier delivery of the event, else the one given, or null when
-- the attempt counts for nothing: the authenticator is locked, or the event is known with another payload. See Judge of package
-- directory. Whoever judges several attempts in one transaction does so in the order of authenticator, so that no two wait for each
-- other.
-- +goose StatementBegin
CREATE FUNCTION directory.judge(_event text, _digest bytea, _authenticator text, _device text, _verdict text, is_right boolean,
                                now timestamptz, lock_after integer, first_seconds float8, max_seconds float8, disable_after integer)
    RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    known   directory.verdicts;
    counter directory.counters;
    counted text; -- device of the counter; null: locked
BEGIN
    -- No login waits for the disk here. A server that crashes (a worker that does makes no difference) forgets the attempts of its last
    -- half second at most, which nobody can make it do.
    PERFORM set_config('synchronous_commit', 'off', true);

    SELECT * INTO known FROM directory.verdicts v WHERE v.event = _event;
    IF FOUND AND (known.verdict <> '' OR known.digest <> _digest) THEN
        RETURN CASE WHEN known.digest = _digest THEN known.verdict END;
    END IF;

    -- A device that the user logged in with has a counter of its own, until that is full.
    IF _device <> '' THEN
        IF is_right THEN
            SELECT * INTO counter FROM directory.counters c WHERE c.authenticator = _authenticator AND c.device = _device;
            IF NOT FOUND OR counter.failures = 0 THEN
                counted := _device;
            ELSE
                UPDATE directory.counters c SET failures = 0, changed_at = now
                    WHERE c.authenticator = _authenticator AND c.device = _device AND c.failures < lock_after
                    RETURNING c.device INTO counted;
            END IF;
        ELSE
            INSERT INTO directory.counters AS c (authenticator, device, failures, changed_at) VALUES (_authenticator, _device, 1, now)
                ON CONFLICT (authenticator, device) DO UPDATE SET failures = c.failures + 1, changed_at = excluded.changed_at
                WHERE c.failures < lock_after
                RETURNING c.device INTO counted;
        END IF;
    END IF;

    -- Everybody else shares one. A counter that holds nothing is not written: a right attempt then stands before the wrong ones that are
    -- counted at this moment, and where there is something to take back it waits for them.
    IF counted IS NULL THEN
        IF is_right THEN
            SELECT * INTO counter FROM directory.counters c WHERE c.authenticator = _authenticator AND c.device = '';
            IF NOT FOUND OR counter.failures = 0 AND counter.locked_until IS NULL THEN
                counted := '';
            ELSE
                UPDATE directory.counters c SET failures = 0, locked_until = NULL, changed_at = now
                    WHERE c.authenticator = _authenticator AND c.device = '' AND (c.locked_until IS NULL OR c.locked_until <= now)
                    RETURNING c.device INTO counted;
            END IF;
            IF counted IS NOT NULL AND _device <> '' THEN -- the device comes back
                UPDATE directory.counters c SET failures = 0, changed_at = now WHERE c.authenticator = _authenticator AND c.device = _device;
            END IF;
        ELSE
            INSERT INTO directory.counters AS c (authenticator, device, failures, locked_until, changed_at)
                VALUES (_authenticator, '', 1, directory.lock_end(1, now, lock_after, first_seconds, max_seconds, disable_after), now)
                ON CONFLICT (authenticator, device) DO UPDATE SET failures = c.failures + 1, changed_at = excluded.changed_at,
                    locked_until = directory.lock_end(c.failures + 1, excluded.changed_at, lock_after, first_seconds, max_seconds, disable_after)
                WHERE c.locked_until IS NULL OR c.locked_until <= excluded.changed_at
                RETURNING c.device INTO counted;
        END IF;
    END IF;
    IF counted IS NULL THEN
        RETURN NULL;
    END IF;

    IF known.event IS NULL THEN
        -- Of two deliveries of one event at the same moment the second fails here, which takes its count back; the repeat finds the row.
        INSERT INTO directory.verdicts (event, digest, counted_on, verdict, created_at) VALUES (_event, _digest, counted, _verdict, now);
    ELSE -- begun by a worker of an earlier version, and counted there
        UPDATE directory.verdicts v SET verdict = _verdict WHERE v.event = _event;
    END IF;
    RETURN _verdict;
END $$;
-- +goose StatementEnd

-- For the purges alone. Rows come in the order of time, so that a summary of each range of pages finds the old ones, and costs
-- nothing where an index costs each attempt an entry.
DROP INDEX directory.verdicts_created;
CREATE INDEX verdicts_created ON directory.verdicts USING brin (created_at) WITH (autosummarize = on);
DROP INDEX sessions.sessions_expires;
CREATE INDEX sessions_expires ON sessions.sessions USING brin (expires_at) WITH (autosummarize = on);
