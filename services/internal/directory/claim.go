package directory

import (
	"context"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"
)

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

// Claim is [Directory.Account] and [Directory.Begin] in one: it looks a user up and counts the attempt, which is to be finished
// with the Attempt that it returns. Where there is no such user the account is nil, and all the rest is the same.
func (d *Directory) Claim(ctx context.Context, c Claim) (*Account, Attempt, Standing, error) {
	found, err := d.claims.Do(ctx, &c)
	return found.account, found.attempt, found.standing, err
}

func (d *Directory) claim(ctx context.Context, claims []*Claim) ([]claimed, error) {
	// Ids hold no spaces: what a gateway says that does is nobody's.
	const statement = `
		SELECT a.n, a.id, a.locale, a.primary_method, a.generation, a.enabled, a.locked, a.hash, a.phone, a.given_up, a.shut, a.push,
		       a.authenticator, a.device, s.allowed, s.verdict, s.contended
		FROM (SELECT q.n, q.event, q.digest, 'password:' || coalesce(u.id, q.stranger) AS authenticator,
				CASE WHEN u.id = ANY(string_to_array(q.users, ' ')) THEN q.device ELSE '' END AS device, ` + accountColumns + `
			FROM unnest($6::text[], $7::text[], $8::text[], $9::text[], $10::text[], $11::bytea[])
				WITH ORDINALITY AS q (name, device, users, stranger, event, digest, n)
			LEFT JOIN directory.users u ON u.name = q.name` + accountJoins + `
			ORDER BY authenticator) a, ` + attempt
	var names, devices, users, strangers, events []string
	var digests [][]byte
	for _, c := range claims {
		names, devices, users = append(names, c.Name), append(devices, c.Device), append(users, strings.Join(c.DeviceUsers, " "))
		strangers, events, digests = append(strangers, c.Stranger), append(events, c.Event), append(digests, c.Digest)
	}
	args := append(d.rule.args(d.now()), names, devices, users, strangers, events, digests)
	out := make([]claimed, len(claims))
	err := again(func() error {
		rows, err := d.db.Query(ctx, statement, args...)
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
			c := claims[n-1]
			a.Event, a.Digest = c.Event, c.Digest
			out[n-1] = claimed{attempt: a, standing: s}
			if row.account.ID != "" {
				out[n-1].account = row.of(&c.Who)
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
