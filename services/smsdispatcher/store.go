package smsdispatcher

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"maps"
	"slices"
	"sync"
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

	intents *coalesce.Group[round, intent, send]

	mu       sync.Mutex
	receipts map[round]accepted // that are not in the table yet
	taken    chan struct{}      // wakes who records: there are receipts
}

// maxBatch is how many rounds share a statement.
const maxBatch = 64

func newStore(db *pgxpool.Pool, perUser, perNumber int) *store {
	s := &store{db: db, perUser: perUser, perNumber: perNumber, receipts: make(map[round]accepted), taken: make(chan struct{}, 1)}
	s.intents = coalesce.New(s.writeIntents, func(i intent) round { return i.round }, maxBatch)
	return s
}

// close waits for what is under way, and records the last receipts.
func (s *store) close() error {
	s.intents.Close()
	ctx, cancel := context.WithTimeout(context.Background(), closeWait)
	defer cancel()
	return s.record(ctx)
}

// A round names the row of one message.
type round struct {
	login events.Login
	n     int
}

// A send is what the row of a round says when a handler comes to it.
type send struct {
	number     string    // the user's at this moment, "" for none. If it is not that of the intent nothing was done
	state      State     // "" where a limit forbids the message
	acceptedAt time.Time // zero while the state is an intent
	fresh      bool      // this call wrote the intent: no provider has been asked yet
}

// An intent asks for a message of a round.
type intent struct {
	round
	user   string
	number string // what the caller takes for the user's; "" to be told
	decoy  bool   // the number is nobody's, and right
	hash   []byte // keyed, of the number
	at     time.Time
}

// intend writes the intent of a round, or finds the row of an earlier delivery, if the user has the number of the intent. Two
// intents of one user, or to one number, are counted one after the other under advisory locks, in whatever process they
// arise, so a limit is never exceeded.
func (s *store) intend(ctx context.Context, i intent) (send, error) {
	if s.unrecorded(i.round) { // the event could not be published; its message is out
		if err := s.record(ctx); err != nil {
			return send{}, err
		}
	}
	return s.intents.Do(ctx, i)
}

func (s *store) writeIntents(ctx context.Context, list []intent) ([]send, error) {
	var known []intent
	for _, i := range list {
		if i.number != "" {
			known = append(known, i)
		}
	}
	fresh, err := s.insert(ctx, known)
	if err != nil {
		return nil, err
	}
	found := make([]send, len(list))
	var others []int // places in the list
	for n, i := range list {
		if _, ok := fresh[i.round]; ok {
			found[n] = send{number: i.number, state: stateIntent, fresh: true}
		} else {
			others = append(others, n)
		}
	}
	return found, s.find(ctx, list, others, found)
}

// insert writes intents, and returns those rounds for which it did.
func (s *store) insert(ctx context.Context, list []intent) (map[round]struct{}, error) {
	if len(list) == 0 {
		return nil, nil
	}
	var (
		gateways, logins, users, numbers []string
		rounds, ofUser, ofNumber         []int16
		decoys                           []bool
		hashes                           [][]byte
		times                            []time.Time
		locks                            []int64
		latest                           time.Time
	)
	counts := make(map[string]int16) // intents of one user, or to one number, count by their place, written or not
	count := func(key string) int16 { counts[key]++; return counts[key] }
	for _, i := range list {
		gateways, logins, rounds = append(gateways, i.login.Gateway), append(logins, i.login.ID), append(rounds, int16(i.n))
		users, numbers, decoys = append(users, i.user), append(numbers, i.number), append(decoys, i.decoy)
		hashes, times = append(hashes, i.hash), append(times, i.at)
		ofUser, ofNumber = append(ofUser, count("user "+i.user)), append(ofNumber, count("number "+i.number))
		locks = append(locks, lockKey("user", []byte(i.user)), lockKey("number", i.hash))
		if i.at.After(latest) {
			latest = i.at
		}
	}
	slices.Sort(locks) // everybody in the same order, so that nobody waits in a circle

	// The batch is one transaction. The second statement sees what was committed until the first got its locks. An intent whose
	// number is not the user's any more, or whose row is there, is left out.
	batch := &pgx.Batch{}
	batch.Queue(`SELECT pg_advisory_xact_lock(k) FROM unnest($1::bigint[]) k`, slices.Compact(locks))
	fresh := make(map[round]struct{}, len(list))
	batch.Queue(`
		INSERT INTO sms.sends (gateway, login, round, user_id, number_hash, state, created_at)
		SELECT gateway, login, round, user_id, number_hash, 'intent', at
		FROM unnest($1::text[], $2::uuid[], $3::smallint[], $4::text[], $5::text[], $6::bool[], $7::bytea[], $8::timestamptz[], $9::smallint[], $10::smallint[])
			AS a (gateway, login, round, user_id, number, decoy, number_hash, at, of_user, of_number)
		WHERE (decoy OR EXISTS (SELECT FROM directory.phones p WHERE p.user_id = a.user_id AND p.number = a.number))
		  AND of_user + (SELECT count(*) FROM sms.sends s WHERE s.user_id = a.user_id AND s.created_at > $11) <= $12
		  AND of_number + (SELECT count(*) FROM sms.sends s WHERE s.number_hash = a.number_hash AND s.created_at > $11) <= $13
		ON CONFLICT DO NOTHING
		RETURNING gateway, login::text, round`,
		gateways, logins, rounds, users, numbers, decoys, hashes, times, ofUser, ofNumber, latest.Add(-limitWindow), s.perUser, s.perNumber,
	).Query(func(rows pgx.Rows) error {
		var r round
		_, err := pgx.ForEachRow(rows, []any{&r.login.Gateway, &r.login.ID, &r.n}, func() error {
			fresh[r] = struct{}{}
			return nil
		})
		return err
	})
	if err := s.db.SendBatch(ctx, batch).Close(); err != nil {
		return nil, fmt.Errorf("smsdispatcher: write intents of sends: %w", err)
	}
	return fresh, nil
}

// find fills in why intents at some places of the list were not written: the number, an earlier row, or else a limit.
func (s *store) find(ctx context.Context, list []intent, places []int, found []send) error {
	if len(places) == 0 {
		return nil
	}
	var gateways, logins, users []string
	var rounds []int16
	for _, n := range places {
		i := list[n]
		gateways, logins, rounds, users = append(gateways, i.login.Gateway), append(logins, i.login.ID), append(rounds, int16(i.n)), append(users, i.user)
	}
	rows, err := s.db.Query(ctx, `
		SELECT a.n, coalesce(p.number, ''), coalesce(s.state, ''), s.accepted_at
		FROM unnest($1::text[], $2::uuid[], $3::smallint[], $4::text[]) WITH ORDINALITY AS a (gateway, login, round, user_id, n)
		LEFT JOIN directory.phones p USING (user_id) LEFT JOIN sms.sends s USING (gateway, login, round)`,
		gateways, logins, rounds, users)
	if err != nil {
		return fmt.Errorf("smsdispatcher: find sends: %w", err)
	}
	var n int
	var row send
	var at *time.Time
	_, err = pgx.ForEachRow(rows, []any{&n, &row.number, &row.state, &at}, func() error {
		place := places[n-1]
		if row.acceptedAt = (time.Time{}); at != nil {
			row.acceptedAt = at.UTC()
		}
		if list[place].decoy {
			row.number = list[place].number
		}
		found[place] = row
		return nil
	})
	if err != nil {
		return fmt.Errorf("smsdispatcher: find sends: %w", err)
	}
	return nil
}

// An accepted is a message that a provider took.
type accepted struct {
	round
	provider string
	receipt  Receipt
	at       time.Time
}

const (
	// receiptDelay is for more receipts to come, so that they share a statement. No failed delivery is repeated sooner.
	receiptDelay = 50 * time.Millisecond
	closeWait    = 5 * time.Second // for the last receipts of a worker that stops
)

// accept keeps the receipt of a round's message, which record writes down together with others. Nobody waits for that. If the
// process dies before, the row stays an intent, and the next delivery learns from the event, or from the providers, that the
// message is out. If the event has been acked, there is no next delivery, and what became of the message is never asked.
func (s *store) accept(a accepted) {
	s.mu.Lock()
	s.receipts[a.round] = a
	s.mu.Unlock()
	wake(s.taken)
}

// record writes the receipts down that have come. What can not be written is kept for the next time.
func (s *store) record(ctx context.Context) error {
	s.mu.Lock()
	list := slices.Collect(maps.Values(s.receipts))
	s.mu.Unlock()
	if len(list) == 0 {
		return nil
	}
	if err := s.writeReceipts(ctx, list); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, a := range list {
		delete(s.receipts, a.round)
	}
	return nil
}

func (s *store) unrecorded(r round) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, ok := s.receipts[r]
	return ok
}

func (s *store) writeReceipts(ctx context.Context, list []accepted) error {
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
		return fmt.Errorf("smsdispatcher: record accepted sends: %w", err)
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
