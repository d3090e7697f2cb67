// Package sessions is the record of sessions: one row per granted login. A gateway makes the token of a session from the
// login, so no token is stored; the row says whose the session is and whether it still lives. All SQL of the schema sessions
// is here.
package sessions

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/sekisho/sekisho/events"
	"github.com/sekisho/sekisho/services/internal/coalesce"
)

// ErrNotFound says that a login has no session, or that its user is gone.
var ErrNotFound = errors.New("sessions: no such session")

const (
	maxBatch = 64             // requests that share a statement
	keep     = 24 * time.Hour // how long an expired session stays in the table, for whoever looks into something
)

// A Session is what a granted login gives its user.
type Session struct {
	Login    events.Login
	User     string // opaque id
	Name     string // canonical user name; not read by Insert
	App      string
	AMR      []string // RFC 8176
	ACR      string
	Verdict  events.Verdict // of the risk assessment; empty where there was none
	AuthTime time.Time
	Created  time.Time     // set by Insert
	LastSeen time.Time     // set by Insert; at most a minute behind
	Idle     time.Duration // seconds count
	Expires  time.Time     // absolute
	Revoked  bool          // or its user may no longer log in; not read by Insert

	// Generation is the account's when the login found out who it is; 0 if that is not known. Read by Insert only.
	Generation int
	// Replaces is the login's id of the session that this one steps up from, at the same gateway. Read by Insert only.
	Replaces string
}

// Live reports whether the session is good at an instant.
func (s *Session) Live(now time.Time) bool {
	return !s.Revoked && now.Before(s.Expires) && now.Before(s.LastSeen.Add(s.Idle))
}

// Used reports whether anybody has come with the session's token yet.
func (s *Session) Used() bool { return s.LastSeen.After(s.Created) }

// A Store is one process's access to the sessions. It is safe for concurrent use.
type Store struct {
	db  *pgxpool.Pool
	now func() time.Time

	inserts *coalesce.Group[events.Login, Session, bool]
	gets    *coalesce.Group[events.Login, events.Login, *Session]
	touches *coalesce.Group[events.Login, events.Login, struct{}]
}

// New makes a Store. All times that it writes or compares come from now.
func New(db *pgxpool.Pool, now func() time.Time) *Store {
	s := &Store{db: db, now: now}
	itself := func(l events.Login) events.Login { return l }
	s.inserts = coalesce.New(s.insert, func(v Session) events.Login { return v.Login }, maxBatch).Beside(2)
	s.gets = coalesce.New(s.get, itself, maxBatch)
	s.touches = coalesce.New(s.touch, itself, maxBatch)
	return s
}

// Close waits for what is under way.
func (s *Store) Close() {
	s.inserts.Close()
	s.gets.Close()
	s.touches.Close()
}

// Insert records a session, if at that moment the account is enabled, not locked and of the same generation, and the session that it
// replaces, if any, is the same user's and lives. It reports whether the session is there: a repeat finds the first one's, unless it was
// revoked. The replaced session stays as it is.
func (s *Store) Insert(ctx context.Context, session Session) (bool, error) {
	return s.inserts.Do(ctx, session)
}

// insert locks the users' rows. So an admin who locks a user either waits, and then finds the session to revoke, or came
// first, and then there is none. It locks the rows of replaced sessions too, so that none of them ends while it is replaced.
func (s *Store) insert(ctx context.Context, list []Session) ([]bool, error) {
	// AMR values hold no commas: they are words of RFC 8176.
	const statement = `
		WITH wanted AS (
			SELECT * FROM unnest($1::text[], $2::uuid[], $3::text[], $4::text[], $5::text[], $6::text[], $7::timestamptz[],
				$8::integer[], $9::timestamptz[], $10::text[], $11::uuid[], $13::integer[])
				AS w (gateway, login, user_id, app, amr, acr, auth_time, idle_seconds, expires_at, verdict, replaces, generation)
		), allowed AS (
			SELECT user_id, generation FROM directory.accounts
			WHERE user_id = ANY($3::text[]) AND may_log_in ORDER BY user_id FOR SHARE
		), replaced AS (
			SELECT o.gateway, o.login, o.user_id FROM sessions.sessions o
			WHERE o.login = ANY($11::uuid[]) AND o.gateway = ANY($1::text[]) AND o.revoked_at IS NULL AND o.expires_at > $12
				AND o.last_seen + make_interval(secs => o.idle_seconds) > $12 ORDER BY o.gateway, o.login FOR SHARE
		)
		INSERT INTO sessions.sessions AS s
			(gateway, login, user_id, app, amr, acr, auth_time, created_at, last_seen, idle_seconds, expires_at, verdict)
		SELECT w.gateway, w.login, w.user_id, w.app, string_to_array(w.amr, ','), w.acr, w.auth_time, $12, $12, w.idle_seconds, w.expires_at, w.verdict
		FROM wanted w JOIN allowed a USING (user_id)
		WHERE w.generation IN (0, a.generation)
			AND (w.replaces IS NULL OR EXISTS (SELECT FROM replaced o WHERE (o.gateway, o.login, o.user_id) = (w.gateway, w.replaces, w.user_id)))
		ORDER BY w.gateway, w.login
		ON CONFLICT (gateway, login) DO UPDATE SET last_seen = s.last_seen -- changes nothing, but returns the row
			WHERE s.user_id = excluded.user_id AND s.revoked_at IS NULL
		RETURNING s.gateway, s.login::text`
	var c columns
	for _, v := range list {
		c.add(v)
	}
	rows, err := s.db.Query(ctx, statement, c.gateways, c.logins, c.users, c.apps, c.amrs, c.acrs, c.authTimes, c.idles, c.expires,
		c.verdicts, c.replaced, s.now(), c.generations)
	if err != nil {
		return nil, fmt.Errorf("sessions: insert: %w", err)
	}
	there, err := pgx.CollectRows(rows, pgx.RowToStructByPos[events.Login])
	if err != nil {
		return nil, fmt.Errorf("sessions: insert: %w", err)
	}
	out := make([]bool, len(list))
	for i, v := range list {
		out[i] = slices.Contains(there, v.Login)
	}
	return out, nil
}

// columns are sessions as the arrays that unnest takes.
type columns struct {
	gateways, logins, users, apps, amrs, acrs, verdicts []string
	authTimes, expires                                  []time.Time
	idles, generations                                  []int32
	replaced                                            []*string
}

func (c *columns) add(v Session) {
	c.gateways, c.logins = append(c.gateways, v.Login.Gateway), append(c.logins, v.Login.ID)
	c.users, c.apps = append(c.users, v.User), append(c.apps, v.App)
	c.amrs, c.acrs = append(c.amrs, strings.Join(v.AMR, ",")), append(c.acrs, v.ACR)
	c.authTimes, c.expires = append(c.authTimes, v.AuthTime), append(c.expires, v.Expires)
	c.idles, c.verdicts = append(c.idles, int32(v.Idle/time.Second)), append(c.verdicts, string(v.Verdict))
	c.generations = append(c.generations, int32(v.Generation))
	var replaces *string
	if v.Replaces != "" {
		replaces = &v.Replaces
	}
	c.replaced = append(c.replaced, replaces)
}

// Remove deletes a session that was never given out, since another ending of the login won.
func (s *Store) Remove(ctx context.Context, login events.Login) error {
	_, err := s.db.Exec(ctx, `DELETE FROM sessions.sessions WHERE gateway = $1 AND login = $2`, login.Gateway, login.ID)
	if err != nil {
		return fmt.Errorf("sessions: remove: %w", err)
	}
	return nil
}

const selectNamed = `
	SELECT s.gateway, s.login::text, s.user_id, s.user_name, s.app, s.amr, s.acr, s.auth_time, s.created_at, s.last_seen,
	       s.idle_seconds, s.expires_at, s.revoked, s.verdict
	FROM sessions.named s `

func scan(row pgx.CollectableRow) (*Session, error) {
	var (
		v    Session
		idle int32
	)
	err := row.Scan(&v.Login.Gateway, &v.Login.ID, &v.User, &v.Name, &v.App, &v.AMR, &v.ACR, &v.AuthTime, &v.Created,
		&v.LastSeen, &idle, &v.Expires, &v.Revoked, &v.Verdict)
	v.Idle = time.Duration(idle) * time.Second
	return &v, err
}

// Get reads the session of a login, live or not, or returns [ErrNotFound].
func (s *Store) Get(ctx context.Context, login events.Login) (*Session, error) {
	session, err := s.gets.Do(ctx, login)
	if err == nil && session == nil {
		err = ErrNotFound
	}
	return session, err
}

func (s *Store) get(ctx context.Context, logins []events.Login) ([]*Session, error) {
	gateways, ids := split(logins)
	rows, err := s.db.Query(ctx, selectNamed+`
		JOIN unnest($1::text[], $2::uuid[]) AS q (gateway, login) ON s.gateway = q.gateway AND s.login = q.login`, gateways, ids)
	if err != nil {
		return nil, fmt.Errorf("sessions: get: %w", err)
	}
	found, err := pgx.CollectRows(rows, scan)
	if err != nil {
		return nil, fmt.Errorf("sessions: get: %w", err)
	}
	out := make([]*Session, len(logins))
	for i, l := range logins {
		if at := slices.IndexFunc(found, func(v *Session) bool { return v.Login == l }); at >= 0 {
			out[i] = found[at]
		}
	}
	return out, nil
}

// Touch records that a session is in use: the first time at once, then at most once a minute, and four times in its idle
// time if that is short.
func (s *Store) Touch(ctx context.Context, login events.Login) error {
	_, err := s.touches.Do(ctx, login)
	return err
}

func (s *Store) touch(ctx context.Context, logins []events.Login) ([]struct{}, error) {
	gateways, ids := split(logins)
	_, err := s.db.Exec(ctx, `
		WITH due AS ( -- in one order, so that no two of these wait for each other
			SELECT s.gateway, s.login FROM sessions.sessions s
			JOIN unnest($1::text[], $2::uuid[]) AS q (gateway, login) ON s.gateway = q.gateway AND s.login = q.login
			WHERE s.revoked_at IS NULL
				AND (s.last_seen = s.created_at OR s.last_seen <= $3::timestamptz - make_interval(secs => least(60, s.idle_seconds / 4.0)))
			ORDER BY s.gateway, s.login FOR NO KEY UPDATE OF s
		)
		UPDATE sessions.sessions s SET last_seen = greatest($3, s.created_at + interval '1 microsecond')
		FROM due WHERE s.gateway = due.gateway AND s.login = due.login`,
		gateways, ids, s.now())
	if err != nil {
		return nil, fmt.Errorf("sessions: touch: %w", err)
	}
	return make([]struct{}, len(logins)), nil
}

func split(logins []events.Login) (gateways, ids []string) {
	for _, l := range logins {
		gateways, ids = append(gateways, l.Gateway), append(ids, l.ID)
	}
	return gateways, ids
}

// Revoke ends the session of a login; by says who did, in one word without a name in it. It reports whether the session
// was there and not revoked before.
func (s *Store) Revoke(ctx context.Context, login events.Login, by string) (bool, error) {
	ended, err := s.revoke(ctx, `gateway = $3 AND login = $4`, by, login.Gateway, login.ID)
	return len(ended) > 0, err
}

// RevokeUser ends all sessions of a user and returns their logins, so that the gateways can be told.
func (s *Store) RevokeUser(ctx context.Context, user, by string) ([]events.Login, error) {
	return s.revoke(ctx, `user_id = $3`, by, user)
}

func (s *Store) revoke(ctx context.Context, which, by string, args ...any) ([]events.Login, error) {
	rows, err := s.db.Query(ctx, `
		UPDATE sessions.sessions SET revoked_at = $1, revoked_by = $2
		WHERE revoked_at IS NULL AND `+which+` RETURNING gateway, login::text`, append([]any{s.now(), by}, args...)...)
	if err != nil {
		return nil, fmt.Errorf("sessions: revoke: %w", err)
	}
	ended, err := pgx.CollectRows(rows, pgx.RowToStructByPos[events.Login])
	if err != nil {
		return nil, fmt.Errorf("sessions: revoke: %w", err)
	}
	return ended, nil
}

// List is a user's live sessions, newest first.
func (s *Store) List(ctx context.Context, user string) ([]*Session, error) {
	rows, err := s.db.Query(ctx, selectNamed+`WHERE s.user_id = $1 AND NOT s.revoked AND s.expires_at > $2
		ORDER BY s.created_at DESC, s.login DESC`, user, s.now())
	if err != nil {
		return nil, fmt.Errorf("sessions: list: %w", err)
	}
	list, err := pgx.CollectRows(rows, scan)
	if err != nil {
		return nil, fmt.Errorf("sessions: list: %w", err)
	}
	now := s.now()
	return slices.DeleteFunc(list, func(v *Session) bool { return !v.Live(now) }), nil
}

// Purge deletes sessions that expired long ago.
func (s *Store) Purge(ctx context.Context, now time.Time) error {
	if _, err := s.db.Exec(ctx, `DELETE FROM sessions.sessions WHERE expires_at < $1`, now.Add(-keep)); err != nil {
		return fmt.Errorf("sessions: purge: %w", err)
	}
	return nil
}
