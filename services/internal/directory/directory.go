// Package directory is the authentication database: users, their passwords, phones and devices, the counters of failed attempts,
// the verdicts that make a redelivered event be answered alike, and the outbox of events about accounts. All of the schema
// directory's SQL is here; what a worker may call is decided by the grants of its PostgreSQL role (package migrations).
package directory

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/sekisho/sekisho/services/internal/coalesce"
)

// ErrNotFound says that there is no such user.
var ErrNotFound = errors.New("directory: no such user")

// maxBatch is how many requests share a statement. Beyond it the gain is small, and locks are held for longer.
const maxBatch = 64

// finishLinger is how long the results of attempts wait for more of them, to share a statement. No login waits for that: see
// [Directory.Finish].
const finishLinger = 10 * time.Millisecond

// A Rule says when failures in a row lock an authenticator.
type Rule struct {
	After        int           // failures that lock it
	First        time.Duration // the first lock, doubled by each further failure
	Max          time.Duration // the longest lock, if First is not longer
	DisableAfter int           // failures after which it stays locked until an admin unlocks
}

// A Directory is one process's access to the authentication database. It is safe for concurrent use.
type Directory struct {
	db   *pgxpool.Pool
	rule Rule
	now  func() time.Time

	fresh chan struct{} // wakes Relay: there is something in the outbox

	lookups  *coalesce.Group[*Who, *Who, *Account]
	accounts *coalesce.Group[string, string, bool]
	claims   *coalesce.Group[string, *Claim, claimed]
	begins   *coalesce.Group[string, Attempt, Standing]
	finishes *coalesce.Group[string, Result, struct{}]
	devices  *coalesce.Group[string, string, []Device] // by id
	owned    *coalesce.Group[string, string, []Device] // by user
	sights   *coalesce.Group[string, string, struct{}]
}

// New makes a Directory. All times that it writes or compares come from now.
func New(db *pgxpool.Pool, rule Rule, now func() time.Time) *Directory {
	d := &Directory{db: db, rule: rule, now: now, fresh: make(chan struct{}, 1)}
	d.lookups = coalesce.New(d.lookUp, func(w *Who) *Who { return w }, maxBatch)
	d.accounts = coalesce.New(d.mayLogIn, func(user string) string { return user }, maxBatch)
	// One attempt per authenticator and batch, so that one that locks stands before the next.
	d.claims = coalesce.New(d.claim, func(c *Claim) string { return c.Stranger }, maxBatch)
	d.begins = coalesce.New(d.begin, func(a Attempt) string { return a.Authenticator }, maxBatch)
	d.finishes = coalesce.New(d.finish, func(r Result) string { return r.Authenticator }, maxBatch).Linger(finishLinger)
	itself := func(id string) string { return id }
	d.devices = coalesce.New(d.lookUpDevices(QueueDevices), itself, maxBatch)
	d.owned = coalesce.New(d.lookUpDevices(QueueDevicesOf), itself, maxBatch)
	d.sights = coalesce.New(d.saw, itself, maxBatch)
	return d
}

// Close waits for what is under way.
func (d *Directory) Close() {
	d.lookups.Close()
	d.accounts.Close()
	d.claims.Close()
	d.begins.Close()
	d.finishes.Close()
	d.devices.Close()
	d.owned.Close()
	d.sights.Close()
}

// MayLogIn reports whether the account exists, is enabled and is not locked by an admin.
func (d *Directory) MayLogIn(ctx context.Context, user string) (bool, error) {
	return d.accounts.Do(ctx, user)
}

func (d *Directory) mayLogIn(ctx context.Context, users []string) ([]bool, error) {
	const query = `
		SELECT coalesce(a.may_log_in, false)
		FROM unnest($1::text[]) WITH ORDINALITY AS q (user_id, n) LEFT JOIN directory.accounts a USING (user_id)
		ORDER BY q.n`
	return collect[bool](ctx, d.db, "read accounts", query, users)
}

// collect reads a statement of one column.
func collect[T any](ctx context.Context, db *pgxpool.Pool, what, query string, args ...any) ([]T, error) {
	rows, err := db.Query(ctx, query, args...)
	if err != nil {
		return nil, fmt.Errorf("directory: %s: %w", what, err)
	}
	out, err := pgx.CollectRows(rows, pgx.RowTo[T])
	if err != nil {
		return nil, fmt.Errorf("directory: %s: %w", what, err)
	}
	return out, nil
}

// PostgreSQL's error codes that the directory knows what to do about.
const (
	uniqueViolation     = "23505"
	foreignKeyViolation = "23503"
	deadlockDetected    = "40P01"
)

func hasCode(err error, codes ...string) bool {
	pg, ok := errors.AsType[*pgconn.PgError](err)
	return ok && slices.Contains(codes, pg.Code)
}
