package directory

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/sekisho/sekisho/services/internal/coalesce"
)

// A Rule says when failures in a row lock an authenticator.
type Rule struct {
	After        int           // failures that lock it
	First        time.Duration // the first lock, doubled by each further failure
	Max          time.Duration // the longest lock, if First is not longer
	DisableAfter int           // failures after which it stays locked until an admin unlocks
}

// Attempts counts attempts and keeps their verdicts.
type Attempts struct {
	db       *pgxpool.Pool
	rule     Rule
	now      func() time.Time
	begins   *coalesce.Group[string, Attempt, Standing]
	finishes *coalesce.Group[string, Result, struct{}]
}

// NewAttempts makes an Attempts.
func NewAttempts(db *pgxpool.Pool, rule Rule, now func() time.Time) *Attempts {
	a := &Attempts{db: db, rule: rule, now: now}
	// One attempt per authenticator and batch, so that one that locks stands before the next.
	a.begins = coalesce.New(a.begin, func(attempt Attempt) string { return attempt.Authenticator }, maxBatch)
	a.finishes = coalesce.New(a.finish, func(r Result) string { return r.Authenticator }, maxBatch).Linger(finishLinger)
	return a
}

// Close waits for what is under way.
func (a *Attempts) Close() {
	a.begins.Close()
	a.finishes.Close()
}

// PasswordOf and SMSOf name a user's authenticators, for [Attempt] and for the events.
func PasswordOf(user string) string { return "password:" + user }
func SMSOf(user string) string      { return "sms:" + user }

// An Attempt is one try to prove something with an authenticator.
type Attempt struct {
	Event         string // id of the event that asks for it
	Digest        []byte // of the event's payload: another payload under the same id is another attempt, and never allowed
	Authenticator string // see [PasswordOf]; for a name that nobody has "password:?" and a keyed hash of the name
	Device        string // a device that the user logged in with before; "" for none
}

// Standing is what may become of an Attempt.
type Standing struct {
	Allowed bool   // the answer may be looked at: the authenticator is not locked
	Verdict string // what an earlier delivery of the same event came to; "" when there is none
	// Contended: not allowed, by a lock that is less than a second old. Attempts count as failures while they are looked at, so
	// many right ones at once lock too, until the first of them is done. Worth another try in a moment.
	Contended bool
}

// Begin counts an attempt as failed before anybody looks at it, so that parallel guesses can not outrun the count, and
// says whether it may be looked at. A redelivered event is not counted again. An attempt on a locked authenticator is neither
// counted, else an outsider could keep it locked for ever, nor noted.
//
// A device that the user logged in with has a counter of its own, which an outsider can not touch. It is never locked:
// once it has reached the rule's After it is given up, and the device counts with everybody else until a success. So does a device
// that has not logged in lately once all of an authenticator's devices together have reached DisableAfter: which devices there
// are is a gateway's word.
//
// The function directory.attempt of the database does this.
func (a *Attempts) Begin(ctx context.Context, attempt Attempt) (Standing, error) {
	return a.begins.Do(ctx, attempt)
}

func (a *Attempts) begin(ctx context.Context, attempts []Attempt) ([]Standing, error) {
	const statement = `
		SELECT s.allowed, s.verdict, s.contended
		FROM (SELECT * FROM unnest($6::text[], $7::bytea[], $8::text[], $9::text[])
			WITH ORDINALITY AS a (event, digest, authenticator, device, n) ORDER BY authenticator) a, ` + attempt + `
		ORDER BY a.n`
	events, digests, authenticators, devices := columns(attempts)
	args := append(a.rule.args(a.now()), events, digests, authenticators, devices)
	var standings []Standing
	err := again(func() error {
		rows, err := a.db.Query(ctx, statement, args...)
		if err == nil {
			standings, err = pgx.CollectRows(rows, pgx.RowToStructByPos[Standing])
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("directory: begin attempts: %w", err)
	}
	return standings, nil
}

// attempt counts each row of a (event, digest, authenticator, device), which must come in the order of authenticator, and is what
// may become of it. The parameters $1 to $5 are those of [Rule.args].
//
// The commit does not wait for the disk. Everybody sees the count at once, and the one crash that can undo it is the database's
// own, within three times its wal_writer_delay. A right attempt's count is taken back anyhow; for any other one [Attempts.Finish] waits.
const attempt = `directory.attempt(a.event, a.digest, a.authenticator, a.device, $1, $2, $3, $4, $5) s,
	set_config('synchronous_commit', 'off', true)`

// finishLinger is how long results wait for more of them, to share a statement. No login waits for that: see [Attempts.Finish].
const finishLinger = 10 * time.Millisecond

// A Result is what an Attempt came to.
type Result struct {
	Attempt
	Verdict string // not ""
	Right   bool   // what the attempt's counter holds is taken back, and the lock with it
}

// Finish stores a result, and calls tell, which publishes it. A right one is told before it is stored, since that takes its time: if
// the process dies in between, the event that asks for the attempt comes again and is allowed, and counted once as before. Of any other
// result nobody learns before it is stored: its count is on the disk then, and no crash gives the guess back.
func (a *Attempts) Finish(ctx context.Context, r Result, tell func() error) error {
	if r.Right {
		if err := tell(); err != nil {
			return err
		}
	}
	if _, err := a.finishes.Do(ctx, r); err != nil || r.Right {
		return err
	}
	return tell()
}

func (a *Attempts) finish(ctx context.Context, results []Result) ([]struct{}, error) {
	right := !slices.ContainsFunc(results, func(r Result) bool { return !r.Right })
	// Nobody waits for the disk where all are right: what a crash of the database can undo is that their counts are taken back.
	if err := again(func() error { return a.note(ctx, a.db, results, right) }); err != nil {
		return nil, fmt.Errorf("directory: finish attempts: %w", err)
	}
	return make([]struct{}, len(results)), nil
}

// note stores results, in a transaction or as one. A relaxed one's commit does not wait for the disk.
func (a *Attempts) note(ctx context.Context, db interface {
	Exec(ctx context.Context, statement string, args ...any) (pgconn.CommandTag, error)
}, results []Result, relaxed bool) error {
	const statement = `
		WITH noted AS (
			UPDATE directory.verdicts v SET verdict = f.verdict
			FROM unnest($1::text[], $2::bytea[], $3::text[], $4::text[], $5::text[], $6::bool[])
				AS f (event, digest, authenticator, device, verdict, is_right),
				set_config('synchronous_commit', CASE WHEN $8 THEN 'off' ELSE current_setting('synchronous_commit') END, true)
			WHERE v.event = f.event AND v.digest = f.digest AND v.verdict = ''
			RETURNING f.authenticator, f.device, f.is_right, v.counted_on
		)
		UPDATE directory.counters c SET failures = 0, locked_until = NULL, changed_at = $7
		FROM noted n
		WHERE n.is_right AND c.authenticator = n.authenticator AND (c.device = n.counted_on OR n.counted_on = '' AND c.device = n.device)`
	attempts, verdicts, rights := make([]Attempt, len(results)), make([]string, len(results)), make([]bool, len(results))
	for i, r := range results {
		attempts[i], verdicts[i], rights[i] = r.Attempt, r.Verdict, r.Right
	}
	events, digests, authenticators, devices := columns(attempts)
	_, err := db.Exec(ctx, statement, events, digests, authenticators, devices, verdicts, rights, a.now(), relaxed)
	return err
}

func columns(attempts []Attempt) (events []string, digests [][]byte, authenticators, devices []string) {
	for _, a := range attempts {
		events, digests = append(events, a.Event), append(digests, a.Digest)
		authenticators, devices = append(authenticators, a.Authenticator), append(devices, a.Device)
	}
	return events, digests, authenticators, devices
}

// args are the last parameters of the function directory.attempt.
func (r Rule) args(now time.Time) []any {
	return []any{now, r.After, r.First.Seconds(), max(r.First, r.Max).Seconds(), r.DisableAfter}
}

// again repeats a statement that another process undid: by the row of the same event, or to end a deadlock.
func again(run func() error) error {
	var err error
	for range 3 {
		if err = run(); !hasCode(err, uniqueViolation, deadlockDetected) {
			return err
		}
	}
	return err
}

// keep is how long verdicts and idle counters stay. No login outlives ten minutes; a day leaves room for a look.
const keep = 24 * time.Hour

// Purge deletes old verdicts, counters that hold nothing or are of names that nobody has, and activations out of time.
func Purge(ctx context.Context, db *pgxpool.Pool, now time.Time) error {
	if _, err := db.Exec(ctx, `DELETE FROM directory.verdicts WHERE created_at < $1`, now.Add(-keep)); err != nil {
		return fmt.Errorf("directory: purge verdicts: %w", err)
	}
	const counters = `
		DELETE FROM directory.counters
		WHERE changed_at < $1 AND (failures = 0 OR authenticator LIKE '%:?%')`
	if _, err := db.Exec(ctx, counters, now.Add(-keep)); err != nil {
		return fmt.Errorf("directory: purge counters: %w", err)
	}
	if _, err := db.Exec(ctx, `DELETE FROM directory.activations WHERE expires_at < $1`, now); err != nil {
		return fmt.Errorf("directory: purge activations: %w", err)
	}
	return nil
}
