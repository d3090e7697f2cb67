package pushnotifier

import (
	"context"
	"crypto/rand"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/sekisho/sekisho/events"
	"github.com/sekisho/sekisho/services/internal/directory"
)

const nonceSize = 16 // bytes

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
		created, expires, decoys = append(created, i.Created), append(expires, i.Expires), append(decoys, i.Decoy)
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
		SELECT nonce, created_at, expires_at, n FROM earlier UNION ALL SELECT nonce, created_at, expires_at, n FROM fresh`,
		gateways, logins, rounds, users, sources, nonces, created, expires, now, now.Add(-limitWindow), s.perUser, s.perSource, decoys,
	).Query(scan(func(p *prompt) []any { return []any{&p.Nonce, &p.Created, &p.Expires} }, func(n int, found *prompt) {
		p := intents[n-1].prompt
		p.Nonce, p.Created, p.Expires = found.Nonce, found.Created, found.Expires
		out[n-1].prompt = &p
	}))
	directory.QueueDevicesOf(batch, users, func(i int, device directory.Device) { out[i].devices = append(out[i].devices, device) })
	return out, failed("write prompts", s.db.SendBatch(ctx, batch).Close())
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
	out := make([]*prompt, len(places))
	var batch pgx.Batch
	batch.Queue(`
		SELECT `+promptColumns+`, q.n
		FROM unnest($1::text[], $2::uuid[], $3::smallint[]) WITH ORDINALITY AS q (gateway, login, round, n) JOIN push.prompts p USING (gateway, login, round)
		WHERE NOT p.decoy`,
		gateways, logins, rounds,
	).Query(scan((*prompt).columns, func(n int, p *prompt) { out[n-1] = p }))
	return out, failed("read prompts", s.db.SendBatch(ctx, &batch).Close())
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

// seeAll looks each notice up by itself. Left free, PostgreSQL may set out from all notices of the kind that nobody has seen.
const seeAll = `
	UPDATE push.notices v SET seen_at = $4
	FROM unnest($1::text[], $2::text[]) AS q (device, cause), LATERAL (
		SELECT id FROM push.notices WHERE (device, kind, cause) = (q.device, $3, q.cause) AND seen_at IS NULL LIMIT 1
	) unseen
	WHERE v.id = unseen.id RETURNING v.device`

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
	var seen []string // devices whose notice has gone
	batch.Queue(seeAll, devices, causes, unknownEnvironment, s.now()).Query(func(rows pgx.Rows) (err error) {
		seen, err = pgx.CollectRows(rows, pgx.RowTo[string])
		return err
	})
	directory.QueueDevicesOf(batch, users, func(i int, device directory.Device) {
		if device.ID != ends[i].by || slices.Contains(seen, device.ID) {
			out[i] = append(out[i], device)
		}
	})
	return out, failed("end prompts", s.db.SendBatch(ctx, batch).Close())
}

func columnsOf(places []place) (gateways, logins []string, rounds []int16) {
	for _, at := range places {
		gateways, logins, rounds = append(gateways, at.Login.Gateway), append(logins, at.Login.ID), append(rounds, int16(at.Round))
	}
	return gateways, logins, rounds
}

// cool keeps pushes away from a user until an instant.
func (s *store) cool(ctx context.Context, user string, until time.Time) error {
	_, err := s.db.Exec(ctx, `INSERT INTO push.cooldowns AS c (user_id, until) VALUES ($1, $2)
		ON CONFLICT (user_id) DO UPDATE SET until = greatest(c.until, $2)`, user, until)
	return failed("begin a cooldown", err)
}
