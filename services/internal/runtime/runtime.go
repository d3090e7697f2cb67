// Package runtime runs workers in one process: one of them, some, or all. Each gets its own connection to the bus under its own
// credentials, its own database role, its own logger and metrics; they share the process and two HTTP listeners. The order in which
// processes, the broker and the database start does not matter: who needs another waits for it.
package runtime

import (
	"context"
	"net"
	"net/http"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/nats-io/nats.go"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"

	"github.com/sekisho/sekisho/services/internal/bus"
	"github.com/sekisho/sekisho/services/internal/config"
	"github.com/sekisho/sekisho/services/internal/credentials"
	"github.com/sekisho/sekisho/services/internal/provider"
)

// A Service is a worker that can be run by its name.
type Service struct {
	Name string
	// Build makes the worker. The bus and the database are there. An error stops the start of the whole process. ctx bounds the
	// building only.
	Build func(ctx context.Context, env *Env) (*Worker, error)
}

// An Env is what a worker is built from.
type Env struct {
	Name        string                // the worker's name
	Config      *config.Config        // shared; not to be changed
	Log         zerolog.Logger        // carries worker=<name>
	DB          *pgxpool.Pool         // connected as the worker's own role
	Bus         *bus.Bus              // connected as the worker's own user
	Credentials *credentials.Folder   // shared
	Metrics     prometheus.Registerer // adds the label worker=<name>
	Now         func() time.Time      // never nil
}

// Provider is a client of an outside system, behind the breaker of the settings.
func (e *Env) Provider(s provider.Settings) *provider.Client {
	s.Failures, s.Open = e.Config.Breaker.Failures, e.Config.Breaker.Open
	return provider.New(s, e.Metrics, e.Log)
}

// A Worker is what a worker does. Everything is optional.
type Worker struct {
	Handlers []bus.Handler
	// Run are background loops: they return nil when ctx ends. One that returns an error is started again after a growing
	// delay, and the process is not ready meanwhile.
	Run    []func(ctx context.Context) error
	Public http.Handler                    // served on the public address (gateway)
	Admin  http.Handler                    // served on the ops address under /admin/ (console)
	Ready  func(ctx context.Context) error // says what keeps the worker from working; part of /readyz
	Reload func() error                    // at SIGHUP; on an error everything stays as it was
	Close  func()                          // after handlers and loops have ended
}

// Options say what runs, and on what.
type Options struct {
	Services    []Service
	Config      *config.Config
	Credentials *credentials.Folder
	Log         zerolog.Logger
	NATSURL     string
	NATSOptions []nats.Option // further options of every connection
	PostgresURL string        // names server and database; each worker puts in its own role and password
	Public      net.Listener  // nil when no service has a public handler
	Ops         net.Listener
	Now         func() time.Time // nil: time.Now
	Ready       func()           // called once, as soon as everything is ready; optional
}
