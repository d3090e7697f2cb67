// Package up is `sekisho up`: a whole Sekisho in one process, for a developer's machine and for tests. It brings a broker and a
// database if none are given, provisions them, runs the provider simulators and all workers, and makes demo accounts. What it keeps
// is in the data dir:
//
//	lock             held while it runs; tells its pid
//	addresses.json   where it listens; there while it is ready
//	admin-token      bearer token of the admin API
//	demo-password    password of the demo accounts; demo-made says that these have been made
//	demo-token       secret of carol's one-time password token, in base32; demo-token-made says that she has been given it
//	credentials/     see package credentials
//	nats/            the broker's store
//	postgres/        the database, with postgres.password beside it
package up

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"io"
	"net"
	"path/filepath"
	"sync"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/rs/zerolog"

	"github.com/sekisho/sekisho/services/internal/config"
	"github.com/sekisho/sekisho/services/internal/credentials"
	"github.com/sekisho/sekisho/services/internal/postgres"
	"github.com/sekisho/sekisho/services/internal/runtime"
	"github.com/sekisho/sekisho/services/internal/setup"
)

// Options say what runs.
type Options struct {
	Services    []runtime.Service
	Config      *config.Config
	Environment config.Environment
	Log         zerolog.Logger
	Out         io.Writer // for the summary
}

// up is one run.
type up struct {
	Options
	folder    *credentials.Folder
	addresses addresses

	public, ops, sim net.Listener
	natsURL          string
	natsOptions      []nats.Option
	postgresURL      string
	broker           *server.Server   // nil when SEKISHO_NATS_URL names another
	database         *postgres.Server // nil when SEKISHO_POSTGRES_URL names another
}

// A failure ends the run although nobody asked for it.
type failure struct{ error }

// Run starts everything and returns when ctx has ended and all has stopped. An error says what is wrong and which variable helps.
func Run(ctx context.Context, o Options) (err error) {
	unlock, err := lock(o.Environment.DataDir)
	if err != nil {
		return err
	}
	defer unlock()
	u := &up{Options: o, folder: credentials.Open(o.Environment.CredentialsDir)}
	running, cancel := context.WithCancelCause(ctx)
	err = u.run(running, cancel)
	if f, ok := errors.AsType[failure](context.Cause(running)); ok {
		return errors.Join(f.error, err)
	}
	if ctx.Err() != nil && errors.Is(err, context.Canceled) {
		return nil // it was stopped while it started
	}
	return err
}

// run reads in the order of the start; the deferred calls are the order of the end.
func (u *up) run(ctx context.Context, cancel context.CancelCauseFunc) (err error) {
	fail := func(err error) { cancel(failure{err}) }
	if err := removeAddresses(u.Environment.DataDir); err != nil {
		return err
	}
	if u.Config.AdminToken = u.Environment.AdminToken; u.Config.AdminToken == "" {
		if u.Config.AdminToken, err = keptSecret(filepath.Join(u.Environment.DataDir, "admin-token"), rand.Text); err != nil {
			return err
		}
	}
	defer u.closeListeners()
	if err := u.listen(); err != nil { // first: a port that is taken shows at once
		return err
	}
	u.Config.Gateway.Base = "http://" + u.addresses.HTTP
	if err := setup.Credentials(u.Config, u.folder, time.Now()); err != nil {
		return err
	}

	defer func() {
		cancel(nil) // from here on the end of a server is no failure
		err = errors.Join(err, u.stopServers())
	}()
	if err := u.startServers(ctx, fail); err != nil {
		return err
	}
	stopSimulators, err := u.startSimulators(fail)
	if err != nil {
		return err
	}
	defer stopSimulators()

	nc, err := setup.Connect(ctx, u.natsURL, u.folder, u.Log, u.natsOptions...)
	if err != nil {
		return err
	}
	defer nc.Close()
	if err := setup.NATS(ctx, nc, u.Config, u.folder); err != nil {
		return err
	}
	if err := setup.Postgres(ctx, u.postgresURL, u.folder, u.Log); err != nil {
		return err
	}
	demo, err := u.makeDemo(ctx)
	if err != nil {
		return err
	}

	rotating, stopRotating := context.WithCancel(ctx)
	var rotation sync.WaitGroup
	rotation.Go(func() { setup.KeepRotating(rotating, nc, u.Config, u.folder, u.Log) })
	defer rotation.Wait()
	defer stopRotating()

	defer func() { err = errors.Join(err, removeAddresses(u.Environment.DataDir)) }()
	return runtime.Run(ctx, runtime.Options{
		Services:    u.Services,
		Config:      u.Config,
		Credentials: u.folder,
		Log:         u.Log,
		NATSURL:     u.natsURL,
		NATSOptions: u.natsOptions,
		PostgresURL: u.postgresURL,
		Public:      u.public,
		Ops:         u.ops,
		Ready: func() {
			if err := u.addresses.write(u.Environment.DataDir); err != nil {
				fail(err)
				return
			}
			u.summary(demo)
		},
	})
}

func (u *up) listen() (err error) {
	for _, l := range []struct {
		variable, addr, fallback string
		to                       *net.Listener
		said                     *string
	}{
		{"SEKISHO_HTTP_ADDR", u.Environment.HTTPAddr, "127.0.0.1:8080", &u.public, &u.addresses.HTTP},
		{"SEKISHO_OPS_ADDR", u.Environment.OpsAddr, "127.0.0.1:8081", &u.ops, &u.addresses.Ops},
		{"SEKISHO_SIM_ADDR", u.Environment.SimAddr, "127.0.0.1:8090", &u.sim, &u.addresses.Sim},
	} {
		listener, err := runtime.Listen(l.variable, cmp.Or(l.addr, l.fallback))
		if err != nil {
			return err
		}
		*l.to, *l.said = listener, listener.Addr().String()
	}
	if u.Environment.NATSURL != "" {
		return nil
	}
	probe, err := runtime.Listen("SEKISHO_NATS_ADDR", u.brokerAddr()) // the broker opens its own, and its error names no variable
	if err != nil {
		return err
	}
	return probe.Close()
}

func (u *up) brokerAddr() string { return cmp.Or(u.Environment.NATSAddr, "127.0.0.1:4222") }

func (u *up) closeListeners() {
	for _, l := range []net.Listener{u.public, u.ops, u.sim} {
		if l != nil {
			l.Close() // again, for those whose server has closed it
		}
	}
}
