package pushnotifier

import (
	"context"
	"crypto/rand"
	"errors"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/sekisho/sekisho/events"
)

// A notice is what one device is told.
type notice struct {
	ID      string
	User    string
	Device  string // that is told
	Kind    string
	Cause   string       // a device is told once of a kind and a cause
	Login   events.Login // with unknownEnvironment
	App     string
	Names   events.Names // of the app
	Place   string
	Browser string
	Name    string // of the device that was changed
	Created time.Time
}

// A telling is what came of a notice.
type telling struct {
	news  bool // a device had not been told, or not the name of the device that was changed, which the event of a change does not say
	rings bool // push services are asked to wake the phones; else it waits in the list
}

// tell writes a notice for each of some devices. Anybody can begin logins, so within a limitWindow no more notices of logins ring than a
// user gets pushes. They are counted one after the other under an advisory lock, in whatever process they arise. One that is told again,
// after a process died, does not count again, and rings if it rang.
func (s *store) tell(ctx context.Context, n notice, devices []string) (told telling, err error) {
	ids := make([]string, len(devices))
	for i := range ids {
		ids[i] = rand.Text()
	}
	now := s.now()
	batch := &pgx.Batch{}
	batch.Queue(`SELECT pg_advisory_xact_lock($1)`, lockKey("notice", n.User))
	// The second statement sees what was committed until the first got its lock.
	batch.Queue(`
		WITH decided AS (
			SELECT $4 <> $13 OR coalesce(
				(SELECT bool_or(rings) FROM push.notices WHERE device = ANY($2) AND kind = $4 AND cause = $5),
				(SELECT count(DISTINCT cause) FROM push.notices
				 WHERE user_id = $3 AND kind = 'unknown_environment' AND rings AND created_at > $14) < $15) AS rings
		), written AS (
			INSERT INTO push.notices (id, device, user_id, kind, cause, gateway, login, app, place, browser, name, created_at, rings, app_en, app_ja)
			SELECT id, device, $3, $4, $5, nullif($6, ''), nullif($7, '')::uuid, $8, $9, $10, $11, $12, rings, $16, $17
			FROM unnest($1::text[], $2::text[]) AS d (id, device), decided
			ON CONFLICT (device, kind, cause) DO UPDATE SET name = excluded.name WHERE notices.name = '' AND excluded.name <> ''
			RETURNING 1
		)
		SELECT EXISTS (SELECT FROM written), rings FROM decided`,
		ids, devices, n.User, n.Kind, n.Cause, n.Login.Gateway, n.Login.ID, n.App, n.Place, n.Browser, n.Name, now,
		unknownEnvironment, now.Add(-limitWindow), s.perUser, n.Names.EN, n.Names.JA,
	).QueryRow(func(row pgx.Row) error { return row.Scan(&told.news, &told.rings) })
	err = failed("write notices", s.db.SendBatch(ctx, batch).Close())
	return told, err
}

// disowned is the notice of a login that the user has disowned, nil if there is none with that id.
func (s *store) disowned(ctx context.Context, id string) (*notice, error) {
	return s.oneNotice(ctx, `SELECT `+noticeColumns+` FROM push.notices v WHERE id = $1 AND disowned`, id)
}

// see records that a device has shown a notice, and whether its user disowns the login that it tells of. It returns nil when the device
// has no such notice. What was disowned stays so.
func (s *store) see(ctx context.Context, id, device string, disown bool) (*notice, error) {
	return s.oneNotice(ctx, `
		UPDATE push.notices v SET seen_at = coalesce(seen_at, $3), disowned = disowned OR $4 AND login IS NOT NULL
		WHERE id = $1 AND device = $2 RETURNING `+noticeColumns, id, device, s.now(), disown)
}

const noticeColumns = `v.id, v.user_id, v.device, v.kind, v.cause, coalesce(v.gateway, ''), coalesce(v.login::text, ''), v.app, v.app_en, v.app_ja, v.place, v.browser, v.name, v.created_at`

// columns are where noticeColumns are read to.
func (v *notice) columns() []any {
	return []any{&v.ID, &v.User, &v.Device, &v.Kind, &v.Cause, &v.Login.Gateway, &v.Login.ID, &v.App, &v.Names.EN, &v.Names.JA, &v.Place, &v.Browser, &v.Name, &v.Created}
}

// oneNotice is what a statement gives, nil if it gives none.
func (s *store) oneNotice(ctx context.Context, statement string, args ...any) (*notice, error) {
	var found notice
	err := s.db.QueryRow(ctx, statement, args...).Scan(found.columns()...)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, nil
	}
	return &found, failed("notices", err)
}
