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
}

// Account looks a user up by name. It returns nil when there is no such user.
func (d *Directory) Account(ctx context.Context, who Who) (*Account, error) {
	return d.lookups.Do(ctx, &who)
}

func (d *Directory) lookUp(ctx context.Context, who []*Who) ([]*Account, error) {
	const query = `
		SELECT q.n, u.id, u.locale, u.primary_method, u.enabled, u.locked, coalesce(p.hash, ''), h.user_id IS NOT NULL,
		       coalesce(own.failures >= $3, false), coalesce(shared.locked_until > $4, false),
		       EXISTS (SELECT FROM directory.devices d WHERE d.user_id = u.id)
		FROM unnest($1::text[], $2::text[]) WITH ORDINALITY AS q (name, device, n)
		JOIN directory.users u ON u.name = q.name
		LEFT JOIN directory.passwords p ON p.user_id = u.id
		LEFT JOIN directory.phones h ON h.user_id = u.id
		LEFT JOIN directory.counters own ON own.authenticator = 'sms:' || u.id AND own.device = q.device AND q.device <> ''
		LEFT JOIN directory.counters shared ON shared.authenticator = 'sms:' || u.id AND shared.device = ''`
	names, devices := make([]string, len(who)), make([]string, len(who))
	for i, w := range who {
		names[i], devices[i] = w.Name, w.Device
	}
	rows, err := d.db.Query(ctx, query, names, devices, d.rule.After, d.now())
	if err != nil {
		return nil, fmt.Errorf("directory: look up: %w", err)
	}
	out := make([]*Account, len(who))
	var (
		n                          int
		a                          Account
		phone, givenUp, shut, push bool
	)
	scan := []any{&n, &a.ID, &a.Locale, &a.Primary, &a.Enabled, &a.Locked, &a.Password, &phone, &givenUp, &shut, &push}
	_, err = pgx.ForEachRow(rows, scan, func() error {
		found := a
		w := who[n-1]
		if w.Device != "" && slices.Contains(w.DeviceUsers, found.ID) {
			found.Device = w.Device
		}
		if ownCounter := found.Device != "" && !givenUp; phone && (ownCounter || !shut) {
			found.Factors = append(found.Factors, events.SMS)
		}
		if push {
			found.Factors = append(found.Factors, events.Push)
		}
		out[n-1] = &found
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("directory: look up: %w", err)
	}
	return out, nil
}
