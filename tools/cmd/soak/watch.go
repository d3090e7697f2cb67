package main

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/sekisho/sekisho/tools/internal/system"
)

// A run has about this many samples, but no two closer together than shortest. Each costs the system two garbage collections.
const (
	samples  = 120
	shortest = 500 * time.Millisecond
)

// settleWait bounds how long the workers may take for what is left at the end: an event of a worker that was killed comes again
// after 15 s, and a delayed retry a few seconds later.
const settleWait = 2 * time.Minute

// A watch takes samples of a system.
type watch struct {
	system *system.System
	viewer *nats.Conn
	js     jetstream.JetStream
	db     *pgx.Conn
	start  time.Time
	every  time.Duration

	mu       sync.Mutex
	took     []time.Duration // logins granted since the last sample
	logins   int             // all that ended
	restarts []time.Duration // since the start
	samples  []sample
}

// A sample is the system at one moment.
type sample struct {
	At         time.Duration // since the start
	Logins     int           // ended since the start
	Rate       float64       // logins per second since the last sample
	P50, P99   time.Duration // of the logins that were granted since then
	Heap, RSS  float64       // bytes, of the process that runs everything
	Goroutines float64
	Files      float64            // open descriptors
	Stored     uint64             // events in LOGIN, which forgets them after 20 minutes
	Dead       uint64             // dead letters
	Tables     map[string]float64 // bytes, indexes included
}

func startWatch(ctx context.Context, s *system.System, every time.Duration) (_ *watch, err error) {
	w := &watch{system: s, start: time.Now(), every: every}
	if w.viewer, err = s.Dial("viewer"); err != nil {
		return nil, err
	}
	if w.js, err = jetstream.New(w.viewer); err != nil {
		w.viewer.Close()
		return nil, err
	}
	if w.db, err = pgx.Connect(ctx, s.Postgres); err != nil {
		w.viewer.Close()
		return nil, fmt.Errorf("database: %w", err)
	}
	return w, nil
}

func (w *watch) close() {
	w.viewer.Close()
	_ = w.db.Close(context.Background()) // nothing was written
}

// ended counts a login that ended as it should; took is 0 unless it was granted.
func (w *watch) ended(took time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.logins++
	if took > 0 {
		w.took = append(w.took, took)
	}
}

func (w *watch) restarted() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.restarts = append(w.restarts, time.Since(w.start))
}

// follow takes samples until ctx ends.
func (w *watch) follow(ctx context.Context) error {
	tick := time.NewTicker(w.every)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		if err := w.sample(ctx); err != nil {
			return unless(ctx, err)
		}
	}
}

// settle waits until the workers have nothing left to do.
func (w *watch) settle(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, settleWait)
	defer cancel()
	return system.AwaitQuiet(ctx, w.viewer)
}

func (w *watch) sample(ctx context.Context) error {
	heap, err := w.system.Heap(ctx)
	if err != nil {
		return err
	}
	metrics, err := w.system.Metrics(ctx)
	if err != nil {
		return err
	}
	now := sample{Heap: float64(heap.Process), RSS: metrics["process_resident_memory_bytes"],
		Goroutines: metrics["go_goroutines"], Files: metrics["process_open_fds"]}
	for name, to := range map[string]*uint64{"LOGIN": &now.Stored, "DEAD": &now.Dead} {
		stream, err := w.js.Stream(ctx, name)
		if err != nil {
			return fmt.Errorf("stream %s: %w", name, err)
		}
		*to = stream.CachedInfo().State.Msgs
	}
	if now.Tables, err = w.tables(ctx); err != nil {
		return err
	}
	w.add(now)
	return nil
}

// tables are the sizes of all tables.
func (w *watch) tables(ctx context.Context) (map[string]float64, error) {
	rows, err := w.db.Query(ctx, `SELECT schemaname || '.' || relname, pg_total_relation_size(relid)::float8 FROM pg_stat_user_tables
		WHERE schemaname !~ '^pg_temp'`)
	if err != nil {
		return nil, fmt.Errorf("sizes of tables: %w", err)
	}
	sizes := make(map[string]float64)
	var name string
	var size float64
	_, err = pgx.ForEachRow(rows, []any{&name, &size}, func() error { sizes[name] = size; return nil })
	if err != nil {
		return nil, fmt.Errorf("sizes of tables: %w", err)
	}
	return sizes, nil
}

// add completes a sample with what has been counted since the last one.
func (w *watch) add(now sample) {
	w.mu.Lock()
	defer w.mu.Unlock()
	now.At, now.Logins = time.Since(w.start), w.logins
	var last sample
	if len(w.samples) > 0 {
		last = w.samples[len(w.samples)-1]
	}
	now.Rate = float64(now.Logins-last.Logins) / (now.At - last.At).Seconds()
	if n := len(w.took); n > 0 {
		slices.Sort(w.took)
		now.P50, now.P99 = w.took[n/2], w.took[n*99/100]
		w.took = w.took[:0]
	}
	w.samples = append(w.samples, now)
}
