package runtime

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/pprof" // also registers on http.DefaultServeMux, which nothing here serves
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// readyWait bounds the checks of one /readyz.
const readyWait = 2 * time.Second

// A lack is one thing that keeps the process from being ready.
type lack struct {
	Worker string `json:"worker,omitempty"`
	Part   string `json:"part"`
	Error  string `json:"error"`
}

// opsHandler serves what operators and their tools ask. It works from the first moment on, while workers still wait for the bus.
func (p *process) opsHandler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		writeJSON(w, http.StatusOK, map[string]string{"status": "alive"})
	})
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, r *http.Request) {
		if lacks := p.lacks(r.Context()); len(lacks) > 0 {
			writeJSON(w, http.StatusServiceUnavailable, map[string]any{"status": "not ready", "not_ready": lacks})
			return
		}
		writeJSON(w, http.StatusOK, map[string]string{"status": "ready"})
	})
	mux.Handle("GET /metrics", promhttp.HandlerFor(p.registry, promhttp.HandlerOpts{}))
	if p.Config.Debug.Profiles {
		mux.HandleFunc("GET /debug/pprof/", pprof.Index)
		mux.HandleFunc("GET /debug/pprof/profile", pprof.Profile)
		mux.HandleFunc("GET /debug/pprof/trace", pprof.Trace)
	}
	mux.HandleFunc("/admin/", func(w http.ResponseWriter, r *http.Request) {
		for _, i := range p.built() {
			if i.worker.Admin != nil {
				i.worker.Admin.ServeHTTP(w, r)
				return
			}
		}
		http.NotFound(w, r) // no console here, or not yet
	})
	return mux
}

func writeJSON(w http.ResponseWriter, status int, value any) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(value)
}

// lacks asks everything that must work, all at once.
func (p *process) lacks(ctx context.Context) []lack {
	switch p.phase.Load() {
	case starting:
		return []lack{{Part: "process", Error: "starting: waiting for the bus, the database or a worker"}}
	case draining:
		return []lack{{Part: "process", Error: "shutting down"}}
	}
	ctx, cancel := context.WithTimeout(ctx, readyWait)
	defer cancel()
	instances := p.built()
	found := make([][]lack, len(instances))
	var wg sync.WaitGroup
	for n, i := range instances {
		wg.Go(func() { found[n] = i.lacks(ctx) })
	}
	wg.Wait()
	var all []lack
	for _, f := range found {
		all = append(all, f...)
	}
	return all
}

// takesWrites says what keeps the database from taking writes. The driver's text is not told: it names hosts and roles.
func (i *instance) takesWrites(ctx context.Context) error {
	var readOnly string
	err := i.env.DB.QueryRow(ctx, "SHOW transaction_read_only").Scan(&readOnly)
	switch {
	case readOnly == "on" || errors.Is(err, pgconn.ErrReadOnlyConnection):
		return errors.New("takes no writes")
	case err != nil:
		return errors.New("does not answer")
	default:
		return nil
	}
}

func (i *instance) lacks(ctx context.Context) (found []lack) {
	add := func(part string, err error) {
		if err != nil {
			found = append(found, lack{i.env.Name, part, err.Error()})
		}
	}
	if !i.env.Bus.Conn().IsConnected() {
		add("bus", errors.New("not connected"))
	} else {
		add("bus", i.env.Bus.Unseen())
	}
	add("database", i.takesWrites(ctx))
	for _, l := range i.loops {
		if failure := l.failure.Load(); failure != nil {
			add(l.name, errors.New(*failure))
		}
	}
	if i.worker.Ready != nil {
		add("worker", i.worker.Ready(ctx))
	}
	return found
}
