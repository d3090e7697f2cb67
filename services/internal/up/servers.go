package up

import (
	"context"
	"errors"
	"net/url"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"github.com/sekisho/sekisho/services/internal/bus"
	"github.com/sekisho/sekisho/services/internal/postgres"
	"github.com/sekisho/sekisho/services/internal/setup"
)

const (
	startWait = time.Minute      // for the database to start, recovery after a crash included
	stopWait  = 20 * time.Second // for the database to write its checkpoint

	brokerEvery = 3 * time.Second // how often the broker is looked at
)

// startServers starts the broker and the database that are not given, at the same time. What it has started before an error is for
// stopServers too.
func (u *up) startServers(ctx context.Context, fail func(error)) error {
	var (
		starting      sync.WaitGroup
		dbErr, busErr error
	)
	if u.postgresURL = u.Environment.PostgresURL; u.postgresURL != "" {
		u.addresses.Postgres = u.postgresURL
	} else {
		starting.Go(func() { dbErr = u.startDatabase(ctx, fail) })
	}
	if u.natsURL = u.Environment.NATSURL; u.natsURL == "" {
		starting.Go(func() { busErr = u.startBroker(ctx, fail) })
	}
	starting.Wait()
	if err := errors.Join(busErr, dbErr); err != nil {
		return err
	}
	at, err := url.Parse(u.natsURL)
	if err != nil {
		return errors.New("SEKISHO_NATS_URL is malformed")
	}
	u.addresses.NATS = at.Host
	return nil
}

func (u *up) startDatabase(ctx context.Context, fail func(error)) error {
	ctx, cancel := context.WithTimeout(ctx, startWait)
	defer cancel()
	s, err := postgres.Start(ctx, postgres.Config{Dir: filepath.Join(u.Environment.DataDir, "postgres"), Log: u.Log})
	if err != nil {
		return err
	}
	u.database, u.postgresURL, u.addresses.Postgres = s, s.LocalURL(), s.URL()
	go func() { // until the server ends, which stopServers sees to
		<-s.Done()
		fail(errors.New("the database has ended"))
	}()
	return nil
}

func (u *up) startBroker(ctx context.Context, fail func(error)) error {
	keys, err := setup.NKeys(u.Config, u.folder)
	if err != nil {
		return err
	}
	s, err := bus.StartServer(bus.ServerConfig{
		Addr: u.brokerAddr(), Dir: filepath.Join(u.Environment.DataDir, "nats"), Gateways: setup.Gateways(u.Config), Keys: keys, Log: u.Log,
	})
	if err != nil {
		return err
	}
	u.broker, u.natsURL = s, s.ClientURL()
	u.natsOptions = []nats.Option{nats.InProcessServer(s)} // workers authenticate there like anybody else
	go watchBroker(ctx, s, brokerEvery, fail)
	return nil
}

// watchBroker tells when the broker stores no more, until ctx ends.
func watchBroker(ctx context.Context, s *server.Server, every time.Duration, fail func(error)) {
	tick := time.NewTicker(every)
	defer tick.Stop()
	for stores(s) {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
	fail(errors.New("the broker stores no more, most likely since its disk is full: free space and start again"))
}

// stores tells whether the broker stores what it is given. When a write fails, as on a full disk, it gives up that stream or all of JetStream
// until it is started again, and goes on with everything else.
func stores(s *server.Server) bool {
	for _, e := range s.Healthz(&server.HealthzOptions{Details: true}).Errors {
		if e.Type == server.HealthzErrorJetStream || strings.Contains(e.Error, "write error") { // the one sign of that
			return false
		}
	}
	return true
}

func (u *up) stopServers() (err error) {
	if u.database != nil {
		ctx, cancel := context.WithTimeout(context.Background(), stopWait)
		defer cancel()
		err = u.database.Stop(ctx)
	}
	if u.broker != nil {
		u.broker.Shutdown()
		u.broker.WaitForShutdown()
	}
	return err
}
