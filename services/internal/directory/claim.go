package directory

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/sekisho/sekisho/services/internal/coalesce"
)

// Claims looks up who somebody says to be. The attempts to prove it with a password begin in the same statement, and are finished as
// all [Attempts] are.
type Claims struct {
	*Attempts
	lookups *coalesce.Group[*Who, *Who, *Account]
	claims  *coalesce.Group[string, *Claim, claimed]
}

// NewClaims makes a Claims.
func NewClaims(db *pgxpool.Pool, rule Rule, now func() time.Time) *Claims {
	c := &Claims{Attempts: NewAttempts(db, rule, now)}
	c.lookups = coalesce.New(c.lookUp, func(w *Who) *Who { return w }, maxBatch)
	c.claims = coalesce.New(c.claim, func(q *Claim) string { return q.Stranger }, maxBatch) // one per name and batch, as in NewAttempts
	return c
}

// Close waits for what is under way.
func (c *Claims) Close() {
	c.Attempts.Close()
	c.lookups.Close()
	c.claims.Close()
}

// A Claim is an attempt with a password by somebody who says to be a user.
type Claim struct {
	Who
	Stranger string // counts instead of a user's id where there is no such user; another one for each name
	Event    string // as in [Attempt]
	Digest   []byte
}

type claimed struct {
	account  *Account
	attempt  Attempt
	standing Standing
}

// Begin is [Claims.Account] and [Attempts.Begin] in one: it looks a user up and counts the attempt, which is to be finished
// with the Attempt that it returns. Where there is no such user the account is nil, and all the rest is the same.
func (c *Claims) Begin(ctx context.Context, claim Claim) (*Account, Attempt, Standing, error) {
	found, err := c.claims.Do(ctx, &claim)
	return found.account, found.attempt, found.standing, err
}

func (c *Claims) claim(ctx context.Context, claims []*Claim) ([]claimed, error) {
	// Ids hold no spaces: what a gateway says that does is nobody's.
	const statement = `
		SELECT a.n, a.id, a.locale, a.primary_method, a.generation, a.enabled, a.locked, a.hash, a.phone, a.given_up, a.shut, a.push, a.token,
		       a.authenticator, a.device, s.allowed, s.verdict, s.contended
		FROM (SELECT q.n, q.event, q.digest, 'password:' || coalesce(u.id, q.stranger) AS authenticator,
				CASE WHEN u.id = ANY(string_to_array(q.users, ' ')) THEN q.device ELSE '' END AS device, ` + accountColumns + `
			FROM unnest($6::text[], $7::text[], $8::text[], $9::text[], $10::text[], $11::bytea[])
				WITH ORDINALITY AS q (name, device, users, stranger, event, digest, n)
			LEFT JOIN directory.users u ON u.name = q.name` + accountJoins + `
			ORDER BY authenticator) a, ` + attempt
	var names, devices, users, strangers, events []string
	var digests [][]byte
	for _, q := range claims {
		names, devices, users = append(names, q.Name), append(devices, q.Device), append(users, strings.Join(q.DeviceUsers, " "))
		strangers, events, digests = append(strangers, q.Stranger), append(events, q.Event), append(digests, q.Digest)
	}
	args := append(c.rule.args(c.now()), names, devices, users, strangers, events, digests)
	out := make([]claimed, len(claims))
	err := again(func() error {
		rows, err := c.db.Query(ctx, statement, args...)
		if err != nil {
			return err
		}
		var (
			n   int
			row accountRow
			a   Attempt
			s   Standing
		)
		scan := append(append([]any{&n}, row.fields()...), &a.Authenticator, &a.Device, &s.Allowed, &s.Verdict, &s.Contended)
		_, err = pgx.ForEachRow(rows, scan, func() error {
			q := claims[n-1]
			a.Event, a.Digest = q.Event, q.Digest
			out[n-1] = claimed{attempt: a, standing: s}
			if row.account.ID != "" {
				out[n-1].account = row.of(&q.Who)
			}
			return nil
		})
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("directory: claims: %w", err)
	}
	return out, nil
}

// Tokens reports whether there is any token, be it nobody's yet: which users have one is not to be told by when strangers change.
func (c *Claims) Tokens(ctx context.Context) (some bool, err error) {
	err = c.db.QueryRow(ctx, `SELECT (SELECT true FROM directory.tokens LIMIT 1) IS NOT NULL`).Scan(&some)
	if err != nil {
		return false, fmt.Errorf("directory: look for tokens: %w", err)
	}
	return some, nil
}
