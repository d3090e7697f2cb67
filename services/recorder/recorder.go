// Package recorder is the worker that writes the audit log, and ends what everybody else has forgotten.
//
//	consumes   everything, from the streams ARCHIVE and ACCOUNT
//	publishes  lapsed (sweep)
//	owns       audit log, projections
//
// One recorder is active at a time, the one that holds an advisory lock of the database; the others wait to take over. All that
// it writes goes through the connection that holds the lock, so that one that has lost it can write no more.
package recorder

import (
	"cmp"
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
	"github.com/rs/zerolog"
	"golang.org/x/sync/errgroup"

	"github.com/sekisho/sekisho/services/internal/bus"
	"github.com/sekisho/sekisho/services/internal/config"
	"github.com/sekisho/sekisho/services/internal/runtime"
	"github.com/sekisho/sekisho/services/internal/sessions"
)

// Name is the worker's name.
const Name = "recorder"

// Service is the worker.
var Service = runtime.Service{Name: Name, Build: Build}

const (
	batchSize  = 2000                   // messages in one transaction; a login whose events share one has its row written once
	batchWait  = 200 * time.Millisecond // for a batch to fill: how far the audit log is behind at least
	purgeEvery = 10 * time.Minute
	pingEvery  = 15 * time.Second
	longestRun = 2 * time.Minute // of what is done now and then: a connection that has gone silent never answers
)

type recorder struct {
	bus      *bus.Bus
	db       *pgxpool.Pool
	sessions *sessions.Store
	settings config.Audit
	log      zerolog.Logger
	now      func() time.Time

	pingEvery, pingWait time.Duration

	behind atomic.Bool // there are archived events that are not recorded yet

	active  prometheus.Gauge
	rows    *prometheus.CounterVec   // by stream
	batches *prometheus.HistogramVec // by stream
	bad     prometheus.Counter
	lapsed  prometheus.Counter
}

// Build makes the worker.
func Build(_ context.Context, env *runtime.Env) (*runtime.Worker, error) {
	r := build(env)
	return &runtime.Worker{Run: []func(context.Context) error{r.run}, Close: r.sessions.Close}, nil
}

func build(env *runtime.Env) *recorder {
	metrics := promauto.With(env.Metrics)
	return &recorder{
		bus: env.Bus, db: env.DB, settings: env.Config.Audit, log: env.Log, now: env.Now,
		sessions:  sessions.New(env.DB, env.Now), // to purge only
		pingEvery: pingEvery, pingWait: answerWait,
		active: metrics.NewGauge(prometheus.GaugeOpts{
			Name: "sekisho_recorder_active", Help: "1 while this process holds the lock and records."}),
		rows: metrics.NewCounterVec(prometheus.CounterOpts{
			Name: "sekisho_recorder_events_total", Help: "Events handed to the audit log, repeats included."}, []string{"stream"}),
		batches: metrics.NewHistogramVec(prometheus.HistogramOpts{
			Name: "sekisho_recorder_batch_events", Help: "Events in one transaction.",
			Buckets: []float64{1, 2, 5, 10, 20, 50, 100, 200, 500, batchSize}}, []string{"stream"}),
		bad: metrics.NewCounter(prometheus.CounterOpts{
			Name: "sekisho_recorder_undecodable_total", Help: "Events that were recorded with a problem instead of their data."}),
		lapsed: metrics.NewCounter(prometheus.CounterOpts{
			Name: "sekisho_recorder_lapsed_total", Help: "Times that the sweep said of an open login that it has lapsed."}),
	}
}

// run waits for the lock and records until ctx ends or the lock is lost.
func (r *recorder) run(ctx context.Context) error {
	log, err := open(ctx, r.db, r.log)
	if err != nil || log == nil {
		return err
	}
	defer log.close()
	r.active.Set(1)
	defer r.active.Set(0)
	r.log.Info().Msg("recording")

	tenure, lose := context.WithCancelCause(ctx)
	defer lose(nil)
	var writing sync.Mutex // both streams go through the one connection
	use := func(do func() error) error {
		writing.Lock()
		defer writing.Unlock()
		err := do()
		if log.lost() {
			lose(fmt.Errorf("recorder: the lock is lost: %w", err))
		}
		return err
	}
	record := func(ctx context.Context, batch []bus.Stored) error {
		return use(func() error { return r.record(ctx, log, batch) })
	}
	ping := func(ctx context.Context) error { // also between batches, since the server ends who is silent
		return use(func() error { return log.ping(ctx, r.pingWait) })
	}
	group, working := errgroup.WithContext(tenure)
	for _, stream := range []string{bus.StreamArchive, bus.StreamAccount} {
		group.Go(func() error { return r.bus.Batches(working, stream, batchSize, batchWait, record) })
	}
	group.Go(func() error { return r.every(working, r.pingEvery, "ping", ping) })
	group.Go(func() error { return r.every(working, r.settings.SweepEvery, "sweep", r.sweep) })
	group.Go(func() error { return r.every(working, purgeEvery, "purge", r.purge) })
	err = group.Wait()
	if ctx.Err() != nil {
		return nil
	}
	return cmp.Or(err, context.Cause(tenure))
}

// every does something now and then. A failure is for the next time: recording goes on. It has until the next time, if that is long.
func (r *recorder) every(ctx context.Context, interval time.Duration, what string, do func(context.Context) error) error {
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			run, cancel := context.WithTimeout(ctx, max(interval, longestRun))
			if err := do(run); err != nil && ctx.Err() == nil {
				r.log.Error().Err(err).Msg(what)
			}
			cancel()
		}
	}
}
