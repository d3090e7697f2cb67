package smsdispatcher

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/sekisho/sekisho/events"
	"github.com/sekisho/sekisho/services/internal/coalesce"
)

// stateIntent is the state of a row before any provider took the message.
const stateIntent State = "intent"

// limitWindow is the time over which the send limits count.
const limitWindow = time.Hour

// A store keeps sms.sends, a row per round that asks for a message: first an intent, then what became of it. What concurrent
// handlers ask for goes into one statement.
type store struct {
	db        *pgxpool.Pool
	perUser   int // messages in limitWindow
	perNumber int

	intents  *coalesce.Group[round, intent, *send]
	receipts *coalesce.Group[round, accepted, struct{}]
}

// maxBatch is how many rounds share a statement.
const maxBatch = 64

func newStore(db *pgxpool.Pool, perUser, perNumber int) *store {
	s := &store{db: db, perUser: perUser, perNumber: perNumber}
	s.intents = coalesce.New(s.writeIntents, func(i intent) round { return i.round }, maxBatch)
	s.receipts = coalesce.New(s.writeReceipts, func(a accepted) round { return a.round }, maxBatch)
	return s
}

// close waits for what is under way.
func (s *store) close() {
	s.intents.Close()
	s.receipts.Close()
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

// An intent asks for a message of a round.
type intent struct {
	round
	user   string
	number []byte // keyed hash
	at     time.Time
}

// intend writes the intent of a round, or finds the row of an earlier delivery. It returns nil when a limit forbids the
// message. Two intents of one user, or to one number, are counted one after the other under advisory locks, in whatever
// process they arise, so a limit is never exceeded.
func (s *store) intend(ctx context.Context, i intent) (*send, error) { return s.intents.Do(ctx, i) }

func (s *store) writeIntents(ctx context.Context, list []intent) ([]*send, error) {
	var (
		gateways, logins, users []string
		rounds                  []int16
		numbers                 [][]byte
		times                   []time.Time
		locks                   []int64
		latest                  time.Time
	)
	for _, i := range list {
		gateways, logins, rounds = append(gateways, i.login.Gateway), append(logins, i.login.ID), append(rounds, int16(i.n))
		users, numbers, times = append(users, i.user), append(numbers, i.number), append(times, i.at)
		locks = append(locks, lockKey("user", []byte(i.user)), lockKey("number", i.number))
		if i.at.After(latest) {
			latest = i.at
		}
	}
	slices.Sort(locks) // everybody in the same order, so that nobody waits in a circle

	// The batch is one transaction. The second statement sees what was committed until the first got its locks. Intents of the
	// same user or number within it count by their place.
	batch := &pgx.Batch{}
	batch.Queue(`SELECT pg_advisory_xact_lock(k) FROM unnest($1::bigint[]) k`, slices.Compact(locks))
	found := make([]*send, len(list))
	batch.Queue(`
		WITH asked AS (
			SELECT *, row_number() OVER (PARTITION BY user_id ORDER BY n) AS of_user, row_number() OVER (PARTITION BY number_hash ORDER BY n) AS of_number
			FROM unnest($1::text[], $2::uuid[], $3::smallint[], $4::text[], $5::bytea[], $6::timestamptz[])
				WITH ORDINALITY AS a (gateway, login, round, user_id, number_hash, at, n)
		), earlier AS (
			SELECT a.n, s.state, s.accepted_at FROM asked a JOIN sms.sends s USING (gateway, login, round)
		), fresh AS (
			INSERT INTO sms.sends (gateway, login, round, user_id, number_hash, state, created_at)
			SELECT gateway, login, round, user_id, number_hash, 'intent', at FROM asked a
			WHERE NOT EXISTS (SELECT FROM earlier e WHERE e.n = a.n)
			  AND of_user + (SELECT count(*) FROM sms.sends s WHERE s.user_id = a.user_id AND s.created_at > $7) <= $8
			  AND of_number + (SELECT count(*) FROM sms.sends s WHERE s.number_hash = a.number_hash AND s.created_at > $7) <= $9
			RETURNING gateway, login, round
		)
		SELECT n, state, accepted_at, false FROM earlier
		UNION ALL SELECT a.n, 'intent', NULL, true FROM asked a JOIN fresh USING (gateway, login, round)`,
		gateways, logins, rounds, users, numbers, times, latest.Add(-limitWindow), s.perUser, s.perNumber,
	).Query(func(rows pgx.Rows) error {
		var n int
		var state State
		var at *time.Time
		var fresh bool
		_, err := pgx.ForEachRow(rows, []any{&n, &state, &at, &fresh}, func() error {
			found[n-1] = &send{state: state, fresh: fresh}
			if at != nil {
				found[n-1].acceptedAt = at.UTC()
			}
			return nil
		})
		return err
	})
	if err := s.db.SendBatch(ctx, batch).Close(); err != nil {
		return nil, fmt.Errorf("smsdispatcher: write intents of sends: %w", err)
	}
	return found, nil
}

// An accepted is a message that a provider took.
type accepted struct {
	round
	provider string
	receipt  Receipt
	at       time.Time
}

// accept records that a provider took the message of a round.
func (s *store) accept(ctx context.Context, a accepted) error {
	_, err := s.receipts.Do(ctx, a)
	return err
}

func (s *store) writeReceipts(ctx context.Context, list []accepted) ([]struct{}, error) {
	var (
		gateways, logins, states, providers, ids []string
		rounds                                   []int16
		times, checks                            []time.Time
	)
	for _, a := range list {
		gateways, logins, rounds = append(gateways, a.login.Gateway), append(logins, a.login.ID), append(rounds, int16(a.n))
		states, providers, ids = append(states, string(a.receipt.State)), append(providers, a.provider), append(ids, a.receipt.ID)
		times, checks = append(times, a.at), append(checks, a.at.Add(firstCheck))
	}
	_, err := s.db.Exec(ctx, `
		UPDATE sms.sends s SET state = a.state, provider = a.provider, provider_id = a.id, accepted_at = a.at,
			check_at = CASE WHEN a.state IN ('accepted', 'sent') THEN a.check_at END
		FROM unnest($1::text[], $2::uuid[], $3::smallint[], $4::text[], $5::text[], $6::text[], $7::timestamptz[], $8::timestamptz[])
			AS a (gateway, login, round, state, provider, id, at, check_at)
		WHERE s.gateway = a.gateway AND s.login = a.login AND s.round = a.round AND s.state = 'intent'`,
		gateways, logins, rounds, states, providers, ids, times, checks)
	if err != nil {
		return nil, fmt.Errorf("smsdispatcher: record accepted sends: %w", err)
	}
	return make([]struct{}, len(list)), nil
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
