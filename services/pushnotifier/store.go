package pushnotifier

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/sekisho/sekisho/events"
	"github.com/sekisho/sekisho/services/internal/coalesce"
)

const (
	limitWindow = 10 * time.Minute // over which the limits of pushes count
	maxBatch    = 64               // requests that share a statement
	maxPrompts  = 10               // open prompts that a device gets at once, newest first
	maxNotices  = 50               // notices that a device gets at once, newest first
	nonceSize   = 16               // bytes
)

// A store keeps the schema push.
type store struct {
	db        *pgxpool.Pool
	perUser   int // pushes in any time of limitWindow
	perSource int // pushes in a limitWindow that begins with the first
	now       func() time.Time

	intents *coalesce.Group[string, intent, *prompt]
	proofs  *coalesce.Group[usedProof, usedProof, bool]
	ends    *coalesce.Group[place, place, struct{}]
}

func newStore(db *pgxpool.Pool, perUser, perSource int, now func() time.Time) *store {
	s := &store{db: db, perUser: perUser, perSource: perSource, now: now}
	s.intents = coalesce.New(s.write, func(i intent) string { return i.User }, maxBatch)
	s.ends = coalesce.New(s.endAll, func(p place) place { return p }, maxBatch)
	s.proofs = coalesce.New(s.use, func(p usedProof) usedProof { return p }, maxBatch)
	return s
}

func (s *store) close() {
	s.intents.Close()
	s.proofs.Close()
	s.ends.Close()
}

// A place names the row of one prompt.
type place struct {
	Login events.Login
	Round int
}

// A prompt is what devices are asked in one round.
type prompt struct {
	place
	User    string
	Nonce   []byte
	Created time.Time
	Expires time.Time
	Ended   bool // as this process or another has recorded; the login's events are the truth
}

// intend writes the prompt of a round, or finds the one of an earlier delivery. It returns nil when a limit or a cooldown
// forbids it. Prompts of one user, and from one source, are counted one after the other under advisory locks, in whatever
// process they arise, so a limit is never exceeded.
func (s *store) intend(ctx context.Context, p prompt, source string) (*prompt, error) {
	p.Nonce = make([]byte, nonceSize)
	rand.Read(p.Nonce) // never fails (crypto/rand)
	return s.intents.Do(ctx, intent{p, source})
}

type intent struct {
	prompt
	source string
}

// write is one transaction for many intents, no two of one user: what waits for each other's locks shares a commit.
func (s *store) write(ctx context.Context, intents []intent) ([]*prompt, error) {
	now := s.now()
	var (
		gateways, logins, users, sources []string
		rounds                           []int16
		nonces                           [][]byte
		created, expires                 []time.Time
		locks                            []int64
	)
	for _, i := range intents {
		gateways, logins, rounds = append(gateways, i.Login.Gateway), append(logins, i.Login.ID), append(rounds, int16(i.Round))
		users, sources, nonces = append(users, i.User), append(sources, i.source), append(nonces, i.Nonce)
		created, expires = append(created, i.Created), append(expires, i.Expires)
		locks = append(locks, lockKey("user", i.User))
		if i.source != "" {
			locks = append(locks, lockKey("source", i.source))
		}
	}
	slices.Sort(locks) // everybody in the same order, so that nobody waits in a circle
	out := make([]*prompt, len(intents))
	batch := &pgx.Batch{}
	batch.Queue(`SELECT pg_advisory_xact_lock(k) FROM unnest($1::bigint[]) k`, slices.Compact(locks))
	// The second statement sees what was committed until the first got its locks.
	batch.Queue(`
		WITH asked AS (
			SELECT * FROM unnest($1::text[], $2::uuid[], $3::smallint[], $4::text[], $5::text[], $6::bytea[], $7::timestamptz[], $8::timestamptz[])
				WITH ORDINALITY AS a (gateway, login, round, user_id, source, nonce, created_at, expires_at, n)
		), earlier AS (
			SELECT a.n, p.nonce, p.created_at, p.expires_at FROM asked a JOIN push.prompts p USING (gateway, login, round)
		), allowed AS (
			SELECT a.*, row_number() OVER (PARTITION BY a.source ORDER BY a.n) AS place FROM asked a
			WHERE a.n NOT IN (SELECT n FROM earlier)
			  AND NOT EXISTS (SELECT FROM push.cooldowns c WHERE c.user_id = a.user_id AND c.until > $9)
			  AND (SELECT count(*) FROM push.prompts p WHERE p.user_id = a.user_id AND p.created_at > $10) < $11
		), fresh AS (
			SELECT a.* FROM allowed a LEFT JOIN push.sources s ON s.tag = a.source AND s.started_at > $10
			WHERE a.source = '' OR coalesce(s.prompts, 0) + a.place <= $12
		), counted AS (
			INSERT INTO push.sources AS s (tag, prompts, started_at)
			SELECT source, count(*), $9 FROM fresh WHERE source <> '' GROUP BY source
			ON CONFLICT (tag) DO UPDATE SET
				prompts = CASE WHEN s.started_at > $10 THEN s.prompts ELSE 0 END + excluded.prompts,
				started_at = CASE WHEN s.started_at > $10 THEN s.started_at ELSE $9 END
		), written AS (
			INSERT INTO push.prompts (gateway, login, round, user_id, nonce, created_at, expires_at)
			SELECT gateway, login, round, user_id, nonce, created_at, expires_at FROM fresh
		)
		SELECT n, nonce, created_at, expires_at FROM earlier UNION ALL SELECT n, nonce, created_at, expires_at FROM fresh`,
		gateways, logins, rounds, users, sources, nonces, created, expires, now, now.Add(-limitWindow), s.perUser, s.perSource,
	).Query(func(rows pgx.Rows) error {
		var (
			n     int
			found prompt
		)
		_, err := pgx.ForEachRow(rows, []any{&n, &found.Nonce, &found.Created, &found.Expires}, func() error {
			p := intents[n-1].prompt
			p.Nonce, p.Created, p.Expires = slices.Clone(found.Nonce), found.Created, found.Expires
			out[n-1] = &p
			return nil
		})
		return err
	})
	if err := s.db.SendBatch(ctx, batch).Close(); err != nil {
		return nil, fmt.Errorf("pushnotifier: write prompts: %w", err)
	}
	return out, nil
}

const selectPrompt = `SELECT gateway, login::text, round, user_id, nonce, created_at, expires_at, ended_at IS NOT NULL FROM push.prompts `

func scanPrompt(row pgx.CollectableRow) (prompt, error) {
	var p prompt
	err := row.Scan(&p.Login.Gateway, &p.Login.ID, &p.Round, &p.User, &p.Nonce, &p.Created, &p.Expires, &p.Ended)
	return p, err
}

// prompt is the prompt of a round, nil if there is none.
func (s *store) prompt(ctx context.Context, at place) (*prompt, error) {
	found, err := s.prompts(ctx, `WHERE gateway = $1 AND login = $2 AND round = $3`, at.Login.Gateway, at.Login.ID, at.Round)
	if err != nil || len(found) == 0 {
		return nil, err
	}
	return &found[0], nil
}

// open lists the prompts of a user that may still be answered, newest first.
func (s *store) open(ctx context.Context, user string) ([]prompt, error) {
	return s.prompts(ctx, `WHERE user_id = $1 AND created_at > $2 AND expires_at > $3 AND ended_at IS NULL
		ORDER BY created_at DESC LIMIT $4`, user, s.now().Add(-events.MaxDeadline), s.now(), maxPrompts)
}

func (s *store) prompts(ctx context.Context, which string, args ...any) ([]prompt, error) {
	rows, err := s.db.Query(ctx, selectPrompt+which, args...)
	if err != nil {
		return nil, fmt.Errorf("pushnotifier: read prompts: %w", err)
	}
	found, err := pgx.CollectRows(rows, scanPrompt)
	if err != nil {
		return nil, fmt.Errorf("pushnotifier: read prompts: %w", err)
	}
	return found, nil
}

// end records that a prompt is over, so that no device is asked to look at its login again.
func (s *store) end(ctx context.Context, at place) error {
	_, err := s.ends.Do(ctx, at)
	return err
}

func (s *store) endAll(ctx context.Context, places []place) ([]struct{}, error) {
	gateways, logins, rounds := make([]string, len(places)), make([]string, len(places)), make([]int16, len(places))
	for i, at := range places {
		gateways[i], logins[i], rounds[i] = at.Login.Gateway, at.Login.ID, int16(at.Round)
	}
	_, err := s.db.Exec(ctx, `
		UPDATE push.prompts p SET ended_at = $4 FROM unnest($1::text[], $2::uuid[], $3::smallint[]) AS q (gateway, login, round)
		WHERE (p.gateway, p.login, p.round) = (q.gateway, q.login, q.round) AND p.ended_at IS NULL`, gateways, logins, rounds, s.now())
	if err != nil {
		return nil, fmt.Errorf("pushnotifier: end prompts: %w", err)
	}
	return make([]struct{}, len(places)), nil
}

type usedProof struct{ device, id string }

// useProof records a proof's id. It reports false when the device has used it before.
func (s *store) useProof(ctx context.Context, device, id string) (bool, error) {
	return s.proofs.Do(ctx, usedProof{device, id})
}

func (s *store) use(ctx context.Context, proofs []usedProof) ([]bool, error) {
	devices, ids := make([]string, len(proofs)), make([]string, len(proofs))
	for i, p := range proofs {
		devices[i], ids[i] = p.device, p.id
	}
	rows, err := s.db.Query(ctx, `
		INSERT INTO push.proofs (device, id, used_at) SELECT d, i, $3 FROM unnest($1::text[], $2::text[]) AS p (d, i) ORDER BY d, i
		ON CONFLICT DO NOTHING RETURNING device, id`, devices, ids, s.now())
	if err != nil {
		return nil, fmt.Errorf("pushnotifier: record proofs: %w", err)
	}
	first, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (p usedProof, err error) {
		return p, row.Scan(&p.device, &p.id)
	})
	if err != nil {
		return nil, fmt.Errorf("pushnotifier: record proofs: %w", err)
	}
	out := make([]bool, len(proofs))
	for i, p := range proofs {
		out[i] = slices.Contains(first, p)
	}
	return out, nil
}

// cool keeps pushes away from a user until an instant.
func (s *store) cool(ctx context.Context, user string, until time.Time) error {
	_, err := s.db.Exec(ctx, `INSERT INTO push.cooldowns AS c (user_id, until) VALUES ($1, $2)
		ON CONFLICT (user_id) DO UPDATE SET until = greatest(c.until, $2)`, user, until)
	if err != nil {
		return fmt.Errorf("pushnotifier: begin a cooldown: %w", err)
	}
	return nil
}

// A notice is what one device is told.
type notice struct {
	ID      string
	User    string
	Device  string // who is told
	Kind    string
	Cause   string        // a device is told once of a kind and a cause
	Login   *events.Login // with unknownEnvironment
	App     string
	Place   string
	Browser string
	Name    string // of the device that was changed
	Created time.Time
}

// tell writes a notice for each of some devices, and reports whether any of them had not been told.
func (s *store) tell(ctx context.Context, n notice, devices []string) (news bool, err error) {
	ids := make([]string, len(devices))
	for i := range ids {
		ids[i] = rand.Text()
	}
	var gateway, login *string
	if n.Login != nil {
		gateway, login = &n.Login.Gateway, &n.Login.ID
	}
	tag, err := s.db.Exec(ctx, `
		INSERT INTO push.notices (id, device, user_id, kind, cause, gateway, login, app, place, browser, name, created_at)
		SELECT id, device, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12 FROM unnest($1::text[], $2::text[]) AS d (id, device)
		ON CONFLICT (device, kind, cause) DO NOTHING`,
		ids, devices, n.User, n.Kind, n.Cause, gateway, login, n.App, n.Place, n.Browser, n.Name, s.now())
	if err != nil {
		return false, fmt.Errorf("pushnotifier: write notices: %w", err)
	}
	return tag.RowsAffected() > 0, nil
}

// untold lists what a device has not seen yet, newest first.
func (s *store) untold(ctx context.Context, device string) ([]notice, error) {
	return s.notices(ctx, `WHERE device = $1 AND seen_at IS NULL ORDER BY created_at DESC, id LIMIT $2`, device, maxNotices)
}

// disowned is the notice of which a user said that it was not them, nil if there is none of that id.
func (s *store) disowned(ctx context.Context, id string) (*notice, error) {
	found, err := s.notices(ctx, `WHERE id = $1 AND disowned`, id)
	if err != nil || len(found) == 0 {
		return nil, err
	}
	return &found[0], nil
}

// see records that a device has shown a notice, and whether its user disowns what it tells. It returns nil when the device
// has no such notice. What was disowned stays so.
func (s *store) see(ctx context.Context, id, device string, disown bool) (*notice, error) {
	found, err := s.collectNotices(ctx, `
		UPDATE push.notices SET seen_at = coalesce(seen_at, $3), disowned = disowned OR $4 AND login IS NOT NULL
		WHERE id = $1 AND device = $2 RETURNING `+noticeColumns, id, device, s.now(), disown)
	if err != nil || len(found) == 0 {
		return nil, err
	}
	return &found[0], nil
}

const noticeColumns = `id, user_id, device, kind, cause, gateway, login::text, app, place, browser, name, created_at`

func (s *store) notices(ctx context.Context, which string, args ...any) ([]notice, error) {
	return s.collectNotices(ctx, `SELECT `+noticeColumns+` FROM push.notices `+which, args...)
}

func (s *store) collectNotices(ctx context.Context, statement string, args ...any) ([]notice, error) {
	rows, err := s.db.Query(ctx, statement, args...)
	if err != nil {
		return nil, fmt.Errorf("pushnotifier: notices: %w", err)
	}
	found, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (n notice, err error) {
		var gateway, login *string
		err = row.Scan(&n.ID, &n.User, &n.Device, &n.Kind, &n.Cause, &gateway, &login, &n.App, &n.Place, &n.Browser, &n.Name, &n.Created)
		if gateway != nil && login != nil {
			n.Login = &events.Login{Gateway: *gateway, ID: *login}
		}
		return n, err
	})
	if err != nil {
		return nil, fmt.Errorf("pushnotifier: notices: %w", err)
	}
	return found, nil
}

// purge deletes what is of no use any more: proofs that are too old to be used again, and rows older than keep.
func (s *store) purge(ctx context.Context, keep time.Duration) error {
	now := s.now()
	for statement, before := range map[string]time.Time{
		`DELETE FROM push.proofs WHERE used_at < $1`:     now.Add(-3 * skew),
		`DELETE FROM push.cooldowns WHERE until < $1`:    now,
		`DELETE FROM push.sources WHERE started_at < $1`: now.Add(-limitWindow),
		`DELETE FROM push.prompts WHERE created_at < $1`: now.Add(-keep),
		`DELETE FROM push.notices WHERE created_at < $1`: now.Add(-keep),
	} {
		if _, err := s.db.Exec(ctx, statement, before); err != nil {
			return fmt.Errorf("pushnotifier: purge: %w", err)
		}
	}
	return nil
}

// lockKey spreads locks over all of PostgreSQL's advisory lock numbers; a rare collision costs waiting only.
func lockKey(kind, value string) int64 {
	sum := sha256.Sum256([]byte("pushnotifier " + kind + "\x00" + value))
	return int64(binary.BigEndian.Uint64(sum[:]))
}
