package pushnotifier

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/sekisho/sekisho/events"
	"github.com/sekisho/sekisho/services/internal/coalesce"
	"github.com/sekisho/sekisho/services/internal/directory"
)

const (
	limitWindow = 10 * time.Minute // over which the limits of pushes count
	maxBatch    = 64               // requests that share a statement
	maxPrompts  = 10               // open prompts that a device gets at once, newest first
	maxNotices  = 50               // notices that a device gets at once, newest first
	nonceSize   = 16               // bytes

	// endLinger is how long the end of a prompt waits for others to share a statement: devices that still show it can wait.
	endLinger = 20 * time.Millisecond
)

// A store keeps the schema push.
type store struct {
	db        *pgxpool.Pool
	perUser   int // pushes in any time of limitWindow; and as many notices about logins that ring
	perSource int // pushes in a limitWindow that begins with the first
	now       func() time.Time

	intents *coalesce.Group[string, intent, intended]
	rows    *coalesce.Group[place, place, *prompt]
	lists   *coalesce.Group[reader, reader, list]
	proofs  *coalesce.Group[usedProof, usedProof, *directory.Device]
	ends    *coalesce.Group[place, end, []directory.Device]

	listed *lru.Cache[place, prompt] // what devices have fetched from this process: an answer mostly follows, and nothing but the end of a row changes
}

func newStore(db *pgxpool.Pool, perUser, perSource int, now func() time.Time) *store {
	s := &store{db: db, perUser: perUser, perSource: perSource, now: now}
	s.listed, _ = lru.New[place, prompt](remembered) // fails with no size below 1
	s.intents = coalesce.New(s.write, func(i intent) string { return i.User }, maxBatch)
	s.rows = coalesce.New(s.find, func(p place) place { return p }, maxBatch)
	s.lists = coalesce.New(s.list, func(r reader) reader { return r }, maxBatch)
	s.ends = coalesce.New(s.endAll, func(e end) place { return e.place }, maxBatch).Linger(endLinger)
	s.proofs = coalesce.New(s.use, func(p usedProof) usedProof { return p }, maxBatch)
	return s
}

func (s *store) close() {
	s.intents.Close()
	s.rows.Close()
	s.lists.Close()
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
	Decoy   bool // counts like any other, and no device hears of it
	Nonce   []byte
	Created time.Time
	Expires time.Time
	Ended   bool // as this process or another has recorded; the login's events are the truth
}

// intend writes the prompt of a round, or finds the one of an earlier delivery, and finds the devices of its user. There is no
// prompt when a limit or a cooldown forbids it. Prompts of one user, and from one source, are counted one after the other under
// advisory locks, in whatever process they arise, so a limit is never exceeded.
func (s *store) intend(ctx context.Context, p prompt, source string) (intended, error) {
	p.Nonce = make([]byte, nonceSize)
	rand.Read(p.Nonce) // never fails (crypto/rand)
	return s.intents.Do(ctx, intent{p, source})
}

type intent struct {
	prompt
	source string
}

type intended struct {
	prompt  *prompt
	devices []directory.Device
}

// write is one transaction for many intents, no two of one user. Those that need the same lock of a source share a commit, rather than
// waiting for each other's.
func (s *store) write(ctx context.Context, intents []intent) ([]intended, error) {
	now := s.now()
	var (
		gateways, logins, users, sources []string
		rounds                           []int16
		nonces                           [][]byte
		created, expires                 []time.Time
		decoys                           []bool
		locks                            []int64
	)
	for _, i := range intents {
		gateways, logins, rounds = append(gateways, i.Login.Gateway), append(logins, i.Login.ID), append(rounds, int16(i.Round))
		users, sources, nonces = append(users, i.User), append(sources, i.source), append(nonces, i.Nonce)
		created, expires = append(created, i.Created), append(expires, i.Expires)
		decoys = append(decoys, i.Decoy)
		locks = append(locks, lockKey("user", i.User))
		if i.source != "" {
			locks = append(locks, lockKey("source", i.source))
		}
	}
	slices.Sort(locks) // everybody takes them in the same order, so that there is no deadlock
	out := make([]intended, len(intents))
	batch := &pgx.Batch{}
	batch.Queue(`SELECT pg_advisory_xact_lock(k) FROM unnest($1::bigint[]) k`, slices.Compact(locks))
	// The second statement sees what was committed until the first got its locks.
	batch.Queue(`
		WITH asked AS (
			SELECT * FROM unnest($1::text[], $2::uuid[], $3::smallint[], $4::text[], $5::text[], $6::bytea[], $7::timestamptz[], $8::timestamptz[], $13::boolean[])
				WITH ORDINALITY AS a (gateway, login, round, user_id, source, nonce, created_at, expires_at, decoy, n)
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
			INSERT INTO push.prompts (gateway, login, round, user_id, nonce, created_at, expires_at, decoy)
			SELECT gateway, login, round, user_id, nonce, created_at, expires_at, decoy FROM fresh
		)
		SELECT n, nonce, created_at, expires_at FROM earlier UNION ALL SELECT n, nonce, created_at, expires_at FROM fresh`,
		gateways, logins, rounds, users, sources, nonces, created, expires, now, now.Add(-limitWindow), s.perUser, s.perSource, decoys,
	).Query(func(rows pgx.Rows) error {
		var (
			n     int
			found prompt
		)
		_, err := pgx.ForEachRow(rows, []any{&n, &found.Nonce, &found.Created, &found.Expires}, func() error {
			p := intents[n-1].prompt
			p.Nonce, p.Created, p.Expires = slices.Clone(found.Nonce), found.Created, found.Expires
			out[n-1].prompt = &p
			return nil
		})
		return err
	})
	directory.QueueDevicesOf(batch, users, func(i int, device directory.Device) { out[i].devices = append(out[i].devices, device) })
	if err := s.db.SendBatch(ctx, batch).Close(); err != nil {
		return nil, fmt.Errorf("pushnotifier: write prompts: %w", err)
	}
	return out, nil
}

const promptColumns = `p.gateway, p.login::text, p.round, p.user_id, p.nonce, p.created_at, p.expires_at, p.ended_at IS NOT NULL`

// columns are where promptColumns are read to.
func (p *prompt) columns() []any {
	return []any{&p.Login.Gateway, &p.Login.ID, &p.Round, &p.User, &p.Nonce, &p.Created, &p.Expires, &p.Ended}
}

// prompt is the prompt of a round that devices may answer, nil if there is none. If it has ended since this process listed it, only the
// login's events say so.
func (s *store) prompt(ctx context.Context, at place) (*prompt, error) {
	if p, ok := s.listed.Get(at); ok {
		return &p, nil
	}
	return s.rows.Do(ctx, at)
}

func (s *store) find(ctx context.Context, places []place) ([]*prompt, error) {
	gateways, logins, rounds := columnsOf(places)
	rows, err := s.db.Query(ctx, `
		SELECT `+promptColumns+`, q.n
		FROM unnest($1::text[], $2::uuid[], $3::smallint[]) WITH ORDINALITY AS q (gateway, login, round, n) JOIN push.prompts p USING (gateway, login, round)
		WHERE NOT p.decoy`,
		gateways, logins, rounds)
	if err != nil {
		return nil, fmt.Errorf("pushnotifier: read prompts: %w", err)
	}
	out := make([]*prompt, len(places))
	if err := scan(rows, func(n int, p *prompt) { out[n-1] = p }); err != nil {
		return nil, fmt.Errorf("pushnotifier: read prompts: %w", err)
	}
	return out, nil
}

// A row is what a statement that is shared by many callers returns for one of them.
type row[T any] interface {
	*T
	columns() []any
}

// scan reads rows that end with the number of the caller that they are for, counted from 1.
func scan[T any, R row[T]](rows pgx.Rows, each func(n int, found R)) error {
	defer rows.Close()
	for rows.Next() {
		var (
			found T
			n     int
		)
		if err := rows.Scan(append(R(&found).columns(), &n)...); err != nil {
			return err
		}
		each(n, &found)
	}
	return rows.Err()
}

func columnsOf(places []place) (gateways, logins []string, rounds []int16) {
	for _, at := range places {
		gateways, logins, rounds = append(gateways, at.Login.Gateway), append(logins, at.Login.ID), append(rounds, int16(at.Round))
	}
	return gateways, logins, rounds
}

type reader struct{ user, device string }

// A list is what waits for a device, newest first. Notices of changes of the user's devices come before those of logins: anybody can
// cause the latter, and must not be able to hide with them that a phone was added.
type list struct {
	prompts []prompt // of its user, that may still be answered
	notices []notice // that it has not seen yet
}

// waiting is the list of a device of a user.
func (s *store) waiting(ctx context.Context, user, device string) (list, error) {
	return s.lists.Do(ctx, reader{user, device})
}

// list reads many lists by two statements in one round trip.
func (s *store) list(ctx context.Context, readers []reader) ([]list, error) {
	users, devices := make([]string, len(readers)), make([]string, len(readers))
	for i, r := range readers {
		users[i], devices[i] = r.user, r.device
	}
	now := s.now()
	out := make([]list, len(readers))
	batch := &pgx.Batch{}
	batch.Queue(`
		SELECT `+promptColumns+`, q.n FROM unnest($1::text[]) WITH ORDINALITY AS q (user_id, n), LATERAL (
			SELECT * FROM push.prompts WHERE user_id = q.user_id AND created_at > $2 AND expires_at > $3 AND ended_at IS NULL AND NOT decoy
			ORDER BY created_at DESC LIMIT $4
		) p ORDER BY q.n, p.created_at DESC`, users, now.Add(-events.MaxDeadline), now, maxPrompts,
	).Query(func(rows pgx.Rows) error {
		return scan(rows, func(n int, p *prompt) {
			out[n-1].prompts = append(out[n-1].prompts, *p)
			s.listed.Add(p.place, *p)
		})
	})
	batch.Queue(`
		SELECT `+noticeColumns+`, q.n FROM unnest($1::text[]) WITH ORDINALITY AS q (device, n), LATERAL (
			SELECT * FROM push.notices WHERE device = q.device AND seen_at IS NULL ORDER BY kind = $3, created_at DESC, id LIMIT $2
		) v ORDER BY q.n, v.kind = $3, v.created_at DESC, v.id`, devices, maxNotices, unknownEnvironment,
	).Query(func(rows pgx.Rows) error {
		return scan(rows, func(n int, told *notice) { out[n-1].notices = append(out[n-1].notices, *told) })
	})
	if err := s.db.SendBatch(ctx, batch).Close(); err != nil {
		return nil, fmt.Errorf("pushnotifier: list prompts and notices: %w", err)
	}
	return out, nil
}

// An end is a prompt that a device has decided.
type end struct {
	prompt
	by   string // the device
	says bool   // by its answer the device has said whether the login is the user's
}

// end records that a prompt is over, so that no list leads to its login again, and finds the devices that have yet to learn of it. The
// device that decided knows already, unless its answer also settled its notice of the same login: that counts as seen then. Notices on
// other devices stay.
func (s *store) end(ctx context.Context, e end) ([]directory.Device, error) {
	return s.ends.Do(ctx, e)
}

func (s *store) endAll(ctx context.Context, ends []end) ([][]directory.Device, error) {
	places, users := make([]place, len(ends)), make([]string, len(ends))
	var devices, causes []string // of the notices
	for i, e := range ends {
		places[i], users[i] = e.place, e.User
		if e.says {
			devices, causes = append(devices, e.by), append(causes, e.Login.String())
		}
	}
	gateways, logins, rounds := columnsOf(places)
	out := make([][]directory.Device, len(ends))
	batch := &pgx.Batch{}
	batch.Queue(`
		UPDATE push.prompts p SET ended_at = $4 FROM unnest($1::text[], $2::uuid[], $3::smallint[]) AS q (gateway, login, round)
		WHERE (p.gateway, p.login, p.round) = (q.gateway, q.login, q.round) AND p.ended_at IS NULL`, gateways, logins, rounds, s.now())
	seen := make(map[string]bool) // devices whose notice has gone
	batch.Queue(`
		UPDATE push.notices v SET seen_at = $4 FROM unnest($1::text[], $2::text[]) AS q(device, cause)
		WHERE (v.device, v.kind, v.cause) = (q.device, $3, q.cause) AND v.seen_at IS NULL RETURNING v.device`, devices, causes, unknownEnvironment, s.now(),
	).Query(func(rows pgx.Rows) error {
		var device string
		_, err := pgx.ForEachRow(rows, []any{&device}, func() error {
			seen[device] = true
			return nil
		})
		return err
	})
	directory.QueueDevicesOf(batch, users, func(i int, device directory.Device) {
		if device.ID != ends[i].by || seen[device.ID] {
			out[i] = append(out[i], device)
		}
	})
	if err := s.db.SendBatch(ctx, batch).Close(); err != nil {
		return nil, fmt.Errorf("pushnotifier: end prompts: %w", err)
	}
	return out, nil
}

type usedProof struct{ device, id string }

// useProof records the id of a device's proof, and finds the device. It returns nil when the device is not there, or has used the
// proof before.
func (s *store) useProof(ctx context.Context, device, id string) (*directory.Device, error) {
	return s.proofs.Do(ctx, usedProof{device, id})
}

func (s *store) use(ctx context.Context, proofs []usedProof) ([]*directory.Device, error) {
	devices, ids := make([]string, len(proofs)), make([]string, len(proofs))
	for i, p := range proofs {
		devices[i], ids[i] = p.device, p.id
	}
	var (
		first []usedProof
		out   = make([]*directory.Device, len(proofs))
		batch pgx.Batch
	)
	batch.Queue(`
		INSERT INTO push.proofs (device, id, used_at) SELECT d, i, $3 FROM unnest($1::text[], $2::text[]) AS p (d, i) ORDER BY d, i
		ON CONFLICT DO NOTHING RETURNING device, id`, devices, ids, s.now(),
	).Query(func(rows pgx.Rows) (err error) {
		first, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (p usedProof, err error) { return p, row.Scan(&p.device, &p.id) })
		return err
	})
	directory.QueueDevices(&batch, devices, func(i int, device directory.Device) {
		if slices.Contains(first, proofs[i]) {
			out[i] = &device
		}
	})
	if err := s.db.SendBatch(ctx, &batch).Close(); err != nil {
		return nil, fmt.Errorf("pushnotifier: record proofs: %w", err)
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
	if err := s.db.SendBatch(ctx, batch).Close(); err != nil {
		return telling{}, fmt.Errorf("pushnotifier: write notices: %w", err)
	}
	return told, nil
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
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return nil, nil
	case err != nil:
		return nil, fmt.Errorf("pushnotifier: notices: %w", err)
	}
	return &found, nil
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
