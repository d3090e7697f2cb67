package smsdispatcher

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"
	"golang.org/x/sync/errgroup"

	"github.com/sekisho/sekisho/services/internal/runtime"
)

const (
	lookEvery  = time.Second     // how often rows are looked for that are due
	firstCheck = 5 * time.Second // after a provider took the message; doubles with each check
	followFor  = time.Hour       // after that nobody asks any more
	checkBatch = 200             // rows that one process asks about before it records what it heard
	purgeEvery = time.Hour
)

// deliveries follows what became of the messages that a provider took. Any number of processes share the work: a row
// that is due is claimed by moving its next check on, so a process that dies loses one check and no row.
type deliveries struct {
	db         *pgxpool.Pool
	accounts   map[string]account
	concurrent int
	keep       time.Duration
	log        zerolog.Logger
	now        func() time.Time
	total      *prometheus.CounterVec
}

func newDeliveries(env *runtime.Env, accounts []account) *deliveries {
	d := &deliveries{
		db: env.DB, accounts: make(map[string]account), concurrent: max(1, env.Config.SMS.Concurrency/statusShare),
		keep: env.Config.SMS.Keep, log: env.Log, now: env.Now,
		total: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "sekisho_sms_deliveries_total",
			Help: "Text messages by provider and by each state that they reached.",
		}, []string{"provider", "state"}),
	}
	env.Metrics.MustRegister(d.total)
	for _, a := range accounts {
		d.accounts[a.name] = a
	}
	return d
}

func (d *deliveries) count(provider string, state State) {
	d.total.WithLabelValues(provider, string(state)).Inc()
}

// follow asks for the state of messages until ctx ends.
func (d *deliveries) follow(ctx context.Context) error {
	var purge time.Time
	return runtime.Repeat(ctx, d.log, lookEvery, nil, "can not follow text messages", func(ctx context.Context) (bool, error) {
		n, err := d.check(ctx)
		if now := d.now(); !now.Before(purge) {
			err = errors.Join(err, d.purge(ctx))
			purge = now.Add(purgeEvery)
		}
		return n == checkBatch, err
	})
}

// wake wakes a [runtime.Repeat]. One that has been woken already and has not looked yet will find this too.
func wake(looking chan<- struct{}) {
	select {
	case looking <- struct{}{}:
	default:
	}
}

// A delivery is a row that is due, and then what the provider says of it.
type delivery struct {
	Gateway    string
	Login      string
	Round      int16
	Provider   string
	ProviderID string
	State      State
}

// check claims rows that are due, asks their providers, and records what has changed. It returns how many were due.
func (d *deliveries) check(ctx context.Context) (int, error) {
	due, err := d.claim(ctx)
	if err != nil {
		return 0, err
	}
	heard := make([]State, len(due)) // "" where the provider did not say
	var group errgroup.Group
	group.SetLimit(d.concurrent)
	for i, row := range due {
		a, ok := d.accounts[row.Provider]
		if !ok {
			continue // no longer configured
		}
		group.Go(func() error {
			// A failure is in the client's metrics, and the next check asks again.
			heard[i], _ = a.status.Status(ctx, row.ProviderID)
			return nil
		})
	}
	group.Wait()
	var changed []delivery
	for i, row := range due {
		if heard[i] != "" && heard[i] != row.State && heard[i] != StateAccepted { // a state is never taken back
			row.State = heard[i]
			changed = append(changed, row)
		}
	}
	return len(due), d.record(ctx, changed)
}

func (d *deliveries) claim(ctx context.Context) ([]delivery, error) {
	now := d.now()
	rows, err := d.db.Query(ctx, `
		UPDATE sms.sends s
		SET checks = checks + 1, check_at = CASE WHEN accepted_at > $2 THEN $1 + $3::interval * power(2, checks + 1) END
		FROM (SELECT gateway, login, round FROM sms.sends WHERE check_at <= $1
		      ORDER BY check_at LIMIT $4 FOR UPDATE SKIP LOCKED) due
		WHERE (s.gateway, s.login, s.round) = (due.gateway, due.login, due.round)
		RETURNING s.gateway, s.login::text, s.round, s.provider, s.provider_id, s.state`,
		now, now.Add(-followFor), firstCheck, checkBatch)
	if err != nil {
		return nil, fmt.Errorf("smsdispatcher: claim deliveries: %w", err)
	}
	due, err := pgx.CollectRows(rows, pgx.RowToStructByPos[delivery])
	if err != nil {
		return nil, fmt.Errorf("smsdispatcher: claim deliveries: %w", err)
	}
	return due, nil
}

func (d *deliveries) record(ctx context.Context, changed []delivery) error {
	if len(changed) == 0 {
		return nil
	}
	batch := &pgx.Batch{}
	for _, row := range changed {
		batch.Queue(`
			UPDATE sms.sends SET state = $4, check_at = CASE WHEN $4 = 'sent' THEN check_at END
			WHERE gateway = $1 AND login = $2 AND round = $3`,
			row.Gateway, row.Login, row.Round, row.State)
	}
	if err := d.db.SendBatch(ctx, batch).Close(); err != nil {
		return fmt.Errorf("smsdispatcher: record deliveries: %w", err)
	}
	for _, row := range changed {
		d.count(row.Provider, row.State)
	}
	return nil
}

// purge deletes the rows that are older than sms.keep; of notices none whose event would make another.
func (d *deliveries) purge(ctx context.Context) error {
	const statement = `WITH old AS (DELETE FROM sms.notices WHERE created_at < $2) DELETE FROM sms.sends WHERE created_at < $1`
	now := d.now()
	if _, err := d.db.Exec(ctx, statement, now.Add(-d.keep), now.Add(-max(d.keep, noticeFor))); err != nil {
		return fmt.Errorf("smsdispatcher: purge: %w", err)
	}
	return nil
}
