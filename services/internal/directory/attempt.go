package directory

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

// PasswordOf and SMSOf name a user's authenticators, for [Attempt] and for the events.
func PasswordOf(user string) string { return "password:" + user }
func SMSOf(user string) string      { return "sms:" + user }

// An Attempt is one try to prove something with an authenticator, and what it came to.
type Attempt struct {
	Event         string // id of the event that asks for it
	Digest        []byte // of the event's payload: another payload under the same id is another attempt, and counts for nothing
	Authenticator string // see [PasswordOf]; for a name that nobody has "password:?" and a keyed hash of the name
	Device        string // a device that the user logged in with before; "" for none
	Verdict       string // not ""; stays secret until it was judged
	Right         bool   // takes back what failed before; any other attempt is a failure
}

// Judge counts an attempt and returns the verdict that stands: the attempt's, or that of an earlier delivery of the same event, which is
// not counted again. It is "" where an attempt counts for nothing, right or wrong, since its authenticator is locked; an outsider could
// keep one locked for ever otherwise. Whoever tells nobody what an attempt came to before it has stood here can not be outrun by parallel
// guesses: they are judged one after the other, in whatever process.
//
// A device that the user logged in with has a counter of its own, which an outsider can not touch. It is never locked:
// once it has reached the rule's After it is given up, and the device counts with everybody else until a success.
func (d *Directory) Judge(ctx context.Context, a Attempt) (string, error) {
	return d.attempts.Do(ctx, a)
}

func (d *Directory) judge(ctx context.Context, attempts []Attempt) ([]string, error) {
	// In one order for all, so that the batches of several processes do not wait for each other.
	const statement = `
		SELECT coalesce(directory.judge(a.event, a.digest, a.authenticator, a.device, a.verdict, a.is_right, $7, $8, $9, $10, $11), ''), a.n
		FROM (SELECT * FROM unnest($1::text[], $2::bytea[], $3::text[], $4::text[], $5::text[], $6::bool[])
			WITH ORDINALITY AS a (event, digest, authenticator, device, verdict, is_right, n) ORDER BY authenticator) a`
	var events, authenticators, devices, verdicts []string
	var digests [][]byte
	var rights []bool
	for _, a := range attempts {
		events, digests = append(events, a.Event), append(digests, a.Digest)
		authenticators, devices = append(authenticators, a.Authenticator), append(devices, a.Device)
		verdicts, rights = append(verdicts, a.Verdict), append(rights, a.Right)
	}
	args := append([]any{events, digests, authenticators, devices, verdicts, rights, d.now()}, d.rule.args()...)
	out := make([]string, len(attempts))
	err := again(func() error {
		rows, err := d.db.Query(ctx, statement, args...)
		if err != nil {
			return err
		}
		var verdict string
		var n int
		_, err = pgx.ForEachRow(rows, []any{&verdict, &n}, func() error {
			out[n-1] = verdict
			return nil
		})
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("directory: judge attempts: %w", err)
	}
	return out, nil
}

// args are the last parameters of the function directory.judge.
func (r Rule) args() []any {
	return []any{r.After, r.First.Seconds(), r.Max.Seconds(), r.DisableAfter}
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
func (d *Directory) Purge(ctx context.Context, now time.Time) error {
	if _, err := d.db.Exec(ctx, `DELETE FROM directory.verdicts WHERE created_at < $1`, now.Add(-keep)); err != nil {
		return fmt.Errorf("directory: purge verdicts: %w", err)
	}
	const counters = `
		DELETE FROM directory.counters
		WHERE changed_at < $1 AND (failures = 0 OR authenticator LIKE 'password:?%')`
	if _, err := d.db.Exec(ctx, counters, now.Add(-keep)); err != nil {
		return fmt.Errorf("directory: purge counters: %w", err)
	}
	if _, err := d.db.Exec(ctx, `DELETE FROM directory.activations WHERE expires_at < $1`, now); err != nil {
		return fmt.Errorf("directory: purge activations: %w", err)
	}
	return nil
}
