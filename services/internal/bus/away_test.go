package bus_test

import (
	"bytes"
	"context"
	"errors"
	"net"
	"net/url"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nkeys"
	"github.com/rs/zerolog"

	"github.com/sekisho/sekisho/events"
	"github.com/sekisho/sekisho/services/internal/bus"
	"github.com/sekisho/sekisho/services/internal/testenv"
)

// comes waits for a signal.
func comes(t *testing.T, what string, signal <-chan struct{}) {
	t.Helper()
	select {
	case <-signal:
	case <-time.After(20 * time.Second):
		t.Fatalf("%s: nothing came", what)
	}
}

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
	comes(t, "the event", handled)
	broker.Server.Shutdown()
	comes(t, "that the broker is away", gone)
	stopped := make(chan struct{})
	go func() { stop(); close(stopped) }()
	select {
	case <-stopped:
	case <-time.After(5 * time.Second): // to drain takes ten
		t.Error("it waits for a broker that is away")
		<-stopped
	}
}

// A change of an account is not kept for later: whoever made it tries again.
func TestAccountWhileTheBusIsAway(t *testing.T) {
	broker := testenv.NATS(t)
	gone := make(chan struct{}, 100)
	b := broker.Bus(t, "console", func(cfg *bus.Config) {
		cfg.Options = append(cfg.Options, nats.ReconnectErrHandler(func(*nats.Conn, error) { gone <- struct{}{} }))
	})
	broker.Server.Shutdown()
	comes(t, "that the broker is away", gone)
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	err := b.Account(ctx, bus.AccountEvent{ID: "x", Source: "console", Kind: "locked", User: "u1", Time: time.Now()})
	if !errors.Is(err, nats.ErrDisconnected) {
		t.Errorf("account: %v", err)
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
		comes(t, "a refusal", refused)
	}
	restart(keys(func(user string) nkeys.KeyPair {
		pair, err := nkeys.FromSeed(broker.Seeds[user])
		if err != nil {
			t.Fatal(err)
		}
		return pair
	}))
	comes(t, "the connection", back)
}

// A broker that holds the connection and answers nothing is not one to be ready with.
func TestUnseenWhileTheBrokerHangs(t *testing.T) {
	broker := testenv.NATS(t)
	dialer, back := &deafDialer{}, make(chan struct{}, 1)
	b := broker.Bus(t, "smsdispatcher", func(cfg *bus.Config) {
		cfg.Options = []nats.Option{nats.SetCustomDialer(dialer), nats.ReconnectWait(time.Millisecond), nats.ReconnectJitter(0, 0),
			nats.ReconnectHandler(func(*nats.Conn) { back <- struct{}{} })}
	})
	handled := make(chan struct{}, 1)
	testenv.Start(t, b, bus.On(func(context.Context, *events.Event, *events.Wanted) ([]*events.Event, error) {
		handled <- struct{}{}
		return nil, nil
	}))
	broker.Publish(t, wanted(t, soon()))
	<-handled
	dialer.deaf.Store(true)
	if err := b.Conn().ForceReconnect(); err != nil { // it looks at once then
		t.Fatal(err)
	}
	<-back
	testenv.Eventually(t, "the consumer is unseen", func() bool { return b.Unseen() != nil })
	if !b.Conn().IsConnected() {
		t.Error("the connection is lost, which tells nothing")
	}
	dialer.deaf.Store(false)
	testenv.Eventually(t, "it is seen again", func() bool { return b.Unseen() == nil })
}

// deafDialer makes connections on which, while deaf, requests for the state of a consumer vanish.
type deafDialer struct{ deaf atomic.Bool }

func (d *deafDialer) Dial(network, address string) (net.Conn, error) {
	conn, err := net.Dial(network, address)
	return &deafConn{conn, d}, err
}

type deafConn struct {
	net.Conn
	d *deafDialer
}

func (c *deafConn) Write(p []byte) (int, error) {
	if c.d.deaf.Load() && bytes.Contains(p, []byte("CONSUMER.INFO")) {
		return len(p), nil
	}
	return c.Conn.Write(p)
}

// To notice a broker that hangs takes 15 s, and no test should: so much for what it rests on.
func TestPings(t *testing.T) {
	o := testenv.NATS(t).Dial(t, "web").Opts
	if took := o.PingInterval * time.Duration(o.MaxPingsOut+1); took > 15*time.Second {
		t.Errorf("a broker that hangs is noticed after %v", took)
	}
}
