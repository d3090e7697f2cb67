package pushnotifier

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/sekisho/sekisho/services/internal/coalesce"
	"github.com/sekisho/sekisho/services/internal/directory"
)

const (
	limitWindow = 10 * time.Minute // over which the limits of pushes count
	maxBatch    = 64               // requests that share a statement
	// endLinger is how long the end of a prompt waits for others to share a statement: devices that still show it can wait.
	endLinger = 20 * time.Millisecond
)

// A store keeps the schema push: prompts.go, notices.go, proofs.go, and waiting.go for what a device fetches of the first two.
type store struct {
	db        *pgxpool.Pool
	perUser   int // pushes in any time of limitWindow; and as many notices about logins that ring
	perSource int // pushes in a limitWindow that begins with the first
	now       func() time.Time

	intents *coalesce.Group[string, intent, intended]
	rows    *coalesce.Group[place, place, *prompt]
	lists   *coalesce.Group[reader, reader, list]
	proofs  *coalesce.Group[usedProof, usedProof, *directory.Device]
	ends    *coalesce.Group[place, end, []directory.Device]

	listed *lru.Cache[place, prompt] // what devices have fetched from this process: an answer mostly follows, and nothing but the end of a row changes
}

func newStore(db *pgxpool.Pool, perUser, perSource int, now func() time.Time) *store {
	s := &store{db: db, perUser: perUser, perSource: perSource, now: now}
	s.listed, _ = lru.New[place, prompt](remembered) // fails with no size below 1
	s.intents = coalesce.New(s.write, func(i intent) string { return i.User }, maxBatch)
	s.rows = coalesce.New(s.find, func(p place) place { return p }, maxBatch)
	s.lists = coalesce.New(s.list, func(r reader) reader { return r }, maxBatch)
	s.ends = coalesce.New(s.endAll, func(e end) place { return e.place }, maxBatch).Linger(endLinger)
	s.proofs = coalesce.New(s.use, func(p usedProof) usedProof { return p }, maxBatch)
	return s
}

func (s *store) close() {
	s.intents.Close()
	s.rows.Close()
	s.lists.Close()
	s.proofs.Close()
	s.ends.Close()
}

// purge deletes what is of no use any more: proofs that are too old to be used again, and rows older than keep.
func (s *store) purge(ctx context.Context, keep time.Duration) error {
	now := s.now()
	var errs []error
	for statement, before := range map[string]time.Time{
		`DELETE FROM push.proofs WHERE used_at < $1`:     now.Add(-3 * skew),
		`DELETE FROM push.cooldowns WHERE until < $1`:    now,
		`DELETE FROM push.sources WHERE started_at < $1`: now.Add(-limitWindow),
		`DELETE FROM push.prompts WHERE created_at < $1`: now.Add(-keep),
		`DELETE FROM push.notices WHERE created_at < $1`: now.Add(-keep),
	} {
		_, err := s.db.Exec(ctx, statement, before) // one that fails keeps no other from being done
		errs = append(errs, err)
	}
	return failed("purge", errors.Join(errs...))
}

// failed is the error of a statement, nil if it has none.
func failed(what string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("pushnotifier: %s: %w", what, err)
}

// scan reads what a statement that many callers share returns for each of them: rows that end with the caller's number, counted from 1.
func scan[T any](columns func(*T) []any, each func(n int, found *T)) func(pgx.Rows) error {
	return func(rows pgx.Rows) error {
		for rows.Next() {
			found, n := new(T), 0
			if err := rows.Scan(append(columns(found), &n)...); err != nil {
				return err
			}
			each(n, found)
		}
		return rows.Err()
	}
}

// lockKey spreads locks over all of PostgreSQL's advisory lock numbers; a rare collision costs waiting only.
func lockKey(kind, value string) int64 {
	sum := sha256.Sum256([]byte("pushnotifier " + kind + "\x00" + value))
	return int64(binary.BigEndian.Uint64(sum[:]))
}
