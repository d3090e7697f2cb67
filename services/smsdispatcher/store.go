package smsdispatcher

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/sekisho/sekisho/events"
)

// stateIntent is the state of a row before any provider took the message.
const stateIntent State = "intent"

// limitWindow is the time over which the send limits count.
const limitWindow = time.Hour

// A store keeps sms.sends, a row per round that asks for a message: first an intent, then what became of it.
type store struct {
	db        *pgxpool.Pool
	perUser   int // messages in limitWindow
	perNumber int
}

// A round names the row of one message.
type round struct {
	login events.Login
	n     int
}

// A send is what the row of a round says when a handler comes to it.
type send struct {
	state      State
	acceptedAt time.Time // zero while the state is an intent
	fresh      bool      // this call wrote the intent: no provider has been asked yet
}

// intend writes the intent of a round, or finds the row of an earlier delivery. It returns nil when a limit forbids the
// message. Two intents of one user, or to one number, are counted one after the other under advisory locks, in whatever
// process they arise, so a limit is never exceeded.
func (s *store) intend(ctx context.Context, r round, user string, number []byte, now time.Time) (*send, error) {
	locks := []int64{lockKey("user", []byte(user)), lockKey("number", number)}
	slices.Sort(locks) // everybody in the same order, so that nobody waits in a circle

	// The batch is one transaction. The second statement sees what was committed until the first got its locks.
	batch := &pgx.Batch{}
	batch.Queue(`SELECT pg_advisory_xact_lock(k) FROM unnest($1::bigint[]) k`, locks)
	var found *send
	batch.Queue(`
		WITH earlier AS (
			SELECT state, accepted_at FROM sms.sends WHERE gateway = $1 AND login = $2 AND round = $3
		), fresh AS (
			INSERT INTO sms.sends (gateway, login, round, user_id, number_hash, state, created_at)
			SELECT $1, $2, $3, $4, $5, 'intent', $6
			WHERE NOT EXISTS (SELECT FROM earlier)
			  AND (SELECT count(*) FROM sms.sends WHERE user_id = $4 AND created_at > $7) < $8
			  AND (SELECT count(*) FROM sms.sends WHERE number_hash = $5 AND created_at > $7) < $9
			RETURNING state, accepted_at
		)
		SELECT state, accepted_at, false FROM earlier UNION ALL SELECT state, accepted_at, true FROM fresh`,
		r.login.Gateway, r.login.ID, r.n, user, number, now, now.Add(-limitWindow), s.perUser, s.perNumber,
	).QueryRow(func(row pgx.Row) error {
		var at *time.Time
		found = &send{}
		err := row.Scan(&found.state, &at, &found.fresh)
		if errors.Is(err, pgx.ErrNoRows) {
			found = nil
			return nil
		}
		if at != nil {
			found.acceptedAt = at.UTC()
		}
		return err
	})
	if err := s.db.SendBatch(ctx, batch).Close(); err != nil {
		return nil, fmt.Errorf("smsdispatcher: write the intent of a send: %w", err)
	}
	return found, nil
}

// accept records that a provider took the message of a round.
func (s *store) accept(ctx context.Context, r round, provider string, receipt Receipt, now time.Time) error {
	_, err := s.db.Exec(ctx, `
		UPDATE sms.sends SET state = $4, provider = $5, provider_id = $6, accepted_at = $7,
			check_at = CASE WHEN $4 IN ('accepted', 'sent') THEN $8::timestamptz END
		WHERE gateway = $1 AND login = $2 AND round = $3 AND state = 'intent'`,
		r.login.Gateway, r.login.ID, r.n, receipt.State, provider, receipt.ID, now, now.Add(firstCheck))
	if err != nil {
		return fmt.Errorf("smsdispatcher: record an accepted send: %w", err)
	}
	return nil
}

// withdraw takes the intent of a round back that no provider heard of, so that it does not count.
func (s *store) withdraw(ctx context.Context, r round) error {
	_, err := s.db.Exec(ctx, `DELETE FROM sms.sends WHERE gateway = $1 AND login = $2 AND round = $3 AND state = 'intent'`,
		r.login.Gateway, r.login.ID, r.n)
	if err != nil {
		return fmt.Errorf("smsdispatcher: withdraw the intent of a send: %w", err)
	}
	return nil
}

// lockKey spreads locks over all of PostgreSQL's advisory lock numbers; a rare collision costs waiting only.
func lockKey(kind string, value []byte) int64 {
	sum := sha256.Sum256(append([]byte("smsdispatcher "+kind+"\x00"), value...))
	return int64(binary.BigEndian.Uint64(sum[:]))
}
