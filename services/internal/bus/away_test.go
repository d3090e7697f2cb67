package bus_test

import (
	"context"
	"errors"
	"net/url"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nkeys"
	"github.com/rs/zerolog"

	"github.com/sekisho/sekisho/events"
	"github.com/sekisho/sekisho/services/internal/bus"
	"github.com/sekisho/sekisho/services/internal/testenv"
)

// A worker that is told to stop while the broker is away has nothing to wait for.
func TestStopWhileTheBusIsAway(t *testing.T) {
	broker := testenv.NATS(t)
	handled, gone := make(chan struct{}, 1), make(chan struct{}, 100)
	b := broker.Bus(t, "smsdispatcher", func(cfg *bus.Config) {
		cfg.Options = append(cfg.Options, nats.ReconnectErrHandler(func(*nats.Conn, error) { gone <- struct{}{} }))
	})
	stop := testenv.Start(t, b, bus.On(func(context.Context, *events.Event, *events.Wanted) ([]*events.Event, error) {
		handled <- struct{}{}
		return nil, nil
	}))
	broker.Publish(t, wanted(t, soon()))
	<-handled
	broker.Server.Shutdown()
	<-gone
	stopped := make(chan struct{})
	go func() { stop(); close(stopped) }()
	select {
	case <-stopped:
	case <-time.After(5 * time.Second): // to drain takes ten
		t.Error("it waits for a broker that is away")
		<-stopped
	}
}

// A broker that knows other users for a moment, as by a mistake in its configuration, keeps nobody away for ever.
func TestWrongUsersForAMoment(t *testing.T) {
	broker := testenv.NATS(t)
	refused, back := make(chan struct{}, 100), make(chan struct{}, 1)
	broker.Bus(t, "identityverifier", func(cfg *bus.Config) {
		cfg.Options = append(cfg.Options, nats.ReconnectWait(time.Millisecond), nats.ReconnectJitter(0, 0),
			nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) {
				if errors.Is(err, nats.ErrAuthorization) {
					refused <- struct{}{}
				}
			}),
			nats.ReconnectHandler(func(*nats.Conn) { back <- struct{}{} }))
	})
	address, err := url.Parse(broker.URL)
	if err != nil {
		t.Fatal(err)
	}
	keys := func(of func(user string) nkeys.KeyPair) map[string]string {
		public := make(map[string]string)
		for _, u := range bus.Users(testenv.Gateways) {
			if public[u.Name], err = of(u.Name).PublicKey(); err != nil {
				t.Fatal(err)
			}
		}
		return public
	}
	restart := func(keys map[string]string) {
		broker.Server.Shutdown()
		broker.Server.WaitForShutdown()
		broker.Server, err = bus.StartServer(bus.ServerConfig{Addr: address.Host, Dir: t.TempDir(), Gateways: testenv.Gateways, Keys: keys, Log: zerolog.Nop()})
		if err != nil {
			t.Fatal(err)
		}
	}
	restart(keys(func(string) nkeys.KeyPair {
		pair, err := nkeys.CreateUser()
		if err != nil {
			t.Fatal(err)
		}
		return pair
	}))
	for range 3 { // the client gives up after two, unless it is told not to
		<-refused
	}
	restart(keys(func(user string) nkeys.KeyPair {
		pair, err := nkeys.FromSeed(broker.Seeds[user])
		if err != nil {
			t.Fatal(err)
		}
		return pair
	}))
	<-back
}
