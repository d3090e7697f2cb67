package directory

import (
	"context"
	"fmt"
	"slices"

	"github.com/jackc/pgx/v5"

	"github.com/sekisho/sekisho/events"
)

// Who is what a login says of its user.
type Who struct {
	Name        string   // canonical; "" is nobody
	Device      string   // hash of the browser's name, "" for none
	DeviceUsers []string // opaque ids of the users who logged in with that browser before
}

// An Account is what a login needs to know of a user.
type Account struct {
	ID       string
	Locale   string
	Primary  Primary
	Enabled  bool
	Locked   bool            // by an admin
	Password string          // PHC string; "" for none
	Device   string          // the device, if this user logged in with it before
	Factors  []events.Factor // enrolled, and not locked for this device

	Generation int // see events.Identified
}

// Account looks a user up by name. It returns nil when there is no such user.
func (c *Claims) Account(ctx context.Context, who Who) (*Account, error) {
	return c.lookups.Do(ctx, &who)
}

// accountColumns and accountJoins read the Account of a user u, who need not exist, on a device q.device. The parameters $1 and $2 are the
// time and Rule.After. It is not EXISTS that finds out whether there is a device or a token: PostgreSQL may answer that by reading all there are.
const (
	accountColumns = `
		coalesce(u.id, '') AS id, coalesce(u.locale, '') AS locale, coalesce(u.primary_method, '') AS primary_method,
		coalesce(u.generation, 0) AS generation, coalesce(u.enabled, false) AS enabled, coalesce(u.locked, false) AS locked, coalesce(p.hash, '') AS hash, h.user_id IS NOT NULL AS phone,
		coalesce(own.failures >= $2, false) AS given_up, coalesce(shared.locked_until > $1, false) AS shut,
		(SELECT true FROM directory.devices d WHERE d.user_id = u.id LIMIT 1) IS NOT NULL AS push,
		(SELECT true FROM directory.tokens t WHERE t.user_id = u.id AND ` + tokenIsGood + ` LIMIT 1) IS NOT NULL AS token`
	accountJoins = `
		LEFT JOIN directory.passwords p ON p.user_id = u.id
		LEFT JOIN directory.phones h ON h.user_id = u.id
		LEFT JOIN directory.counters own ON own.authenticator = 'sms:' || u.id AND own.device = q.device AND q.device <> ''
		LEFT JOIN directory.counters shared ON shared.authenticator = 'sms:' || u.id AND shared.device = ''`
)

// An accountRow is accountColumns of one user.
type accountRow struct {
	account                           Account
	phone, givenUp, shut, push, token bool
}

func (r *accountRow) fields() []any {
	a := &r.account
	return []any{&a.ID, &a.Locale, &a.Primary, &a.Generation, &a.Enabled, &a.Locked, &a.Password, &r.phone, &r.givenUp, &r.shut, &r.push, &r.token}
}

// of is the account for w, whose device counts only if this user logged in with it before.
func (r *accountRow) of(w *Who) *Account {
	found := r.account
	if w.Device != "" && slices.Contains(w.DeviceUsers, found.ID) {
		found.Device = w.Device
	}
	if ownCounter := found.Device != "" && !r.givenUp; r.phone && (ownCounter || !r.shut) {
		found.Factors = append(found.Factors, events.SMS)
	}
	if r.push {
		found.Factors = append(found.Factors, events.Push)
	}
	if r.token { // a locked one too: its answers are rejected, so that nobody who only knows the name learns of the lock
		found.Factors = append(found.Factors, events.Token)
	}
	return &found
}

func (c *Claims) lookUp(ctx context.Context, who []*Who) ([]*Account, error) {
	const query = `
		SELECT q.n, ` + accountColumns + `
		FROM unnest($3::text[], $4::text[]) WITH ORDINALITY AS q (name, device, n)
		JOIN directory.users u ON u.name = q.name` + accountJoins
	var names, devices []string
	for _, w := range who {
		names, devices = append(names, w.Name), append(devices, w.Device)
	}
	rows, err := c.db.Query(ctx, query, c.now(), c.rule.After, names, devices)
	if err != nil {
		return nil, fmt.Errorf("directory: look up: %w", err)
	}
	out := make([]*Account, len(who))
	var (
		n   int
		row accountRow
	)
	_, err = pgx.ForEachRow(rows, append([]any{&n}, row.fields()...), func() error {
		out[n-1] = row.of(who[n-1])
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("directory: look up: %w", err)
	}
	return out, nil
}

// Rehash replaces the hash of a password by one of today's cost, unless the password was changed meanwhile.
func (c *Claims) Rehash(ctx context.Context, id, old, hash string) error {
	_, err := c.db.Exec(ctx, `UPDATE directory.passwords SET hash = $3 WHERE user_id = $1 AND hash = $2`, id, old, hash)
	if err != nil {
		return fmt.Errorf("directory: rehash: %w", err)
	}
	return nil
}
