package testenv

import (
	"context"
	"strings"
	"testing"
	"time"

	natsserver "github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nkeys"
	"github.com/rs/zerolog"

	"github.com/sekisho/sekisho/events"
	"github.com/sekisho/sekisho/services/internal/bus"
)

// Gateways are the gateways that a test broker knows.
var Gateways = []string{"web", "example"}

// A Broker is a real broker for one test: streams, consumers, users and permissions as in production, with sealing keys
// of every recipient.
type Broker struct {
	URL     string
	Server  *natsserver.Server
	Seeds   map[string][]byte // by NATS user
	Public  []events.PublicKey
	Private map[string]events.PrivateKey // by recipient
}

// Recipients are the workers that something is sealed to.
var Recipients = events.Recipients

// NATS starts a broker and provisions it. It ends with the test.
func NATS(t testing.TB) *Broker {
	t.Helper()
	b := &Broker{Seeds: make(map[string][]byte), Private: make(map[string]events.PrivateKey)}
	public := make(map[string]string)
	for _, u := range bus.Users(Gateways) {
		pair, err := nkeys.CreateUser()
		check(t, err)
		b.Seeds[u.Name], err = pair.Seed()
		check(t, err)
		public[u.Name], err = pair.PublicKey()
		check(t, err)
	}
	var err error
	b.Server, err = bus.StartServer(bus.ServerConfig{Addr: "127.0.0.1:0", Dir: t.TempDir(), Gateways: Gateways, Keys: public, Log: zerolog.Nop()})
	check(t, err)
	t.Cleanup(func() {
		b.Server.Shutdown()
		b.Server.WaitForShutdown()
	})
	b.URL = b.Server.ClientURL()
	for _, recipient := range Recipients {
		pub, private, err := events.GenerateKey(recipient, "k1")
		check(t, err)
		b.Public = append(b.Public, pub)
		b.Private[recipient] = private
	}
	admin := b.Dial(t, bus.UserSetup)
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	check(t, bus.Provision(ctx, admin, 1))
	check(t, bus.PublishKeys(ctx, admin, b.Public))
	return b
}

// Dial connects a NATS user until the test ends.
func (b *Broker) Dial(t testing.TB, user string, options ...nats.Option) *nats.Conn {
	t.Helper()
	nc, err := bus.Dial(b.URL, user, b.Seeds[user], zerolog.Nop(), options...)
	check(t, err)
	t.Cleanup(nc.Close)
	return nc
}

// Bus connects a worker until the test ends. adjust may change the configuration: the clock, the logger, the metrics.
func (b *Broker) Bus(t testing.TB, worker string, adjust ...func(*bus.Config)) *bus.Bus {
	t.Helper()
	cfg := bus.Config{Worker: worker, URL: b.URL, Seed: b.Seeds[worker], Log: zerolog.Nop()}
	for _, f := range adjust {
		f(&cfg)
	}
	w, err := bus.Connect(cfg)
	check(t, err)
	t.Cleanup(w.Close)
	return w
}

// Start runs a worker's handlers until the test ends.
func Start(t testing.TB, b *bus.Bus, handlers ...bus.Handler) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- b.Run(ctx, handlers...) }()
	stopped := false
	stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := <-done; err != nil {
			t.Errorf("run: %v", err)
		}
	}
	t.Cleanup(stop)
	return stop
}

// Sealer seals to the broker's recipients.
func (b *Broker) Sealer(t testing.TB) *events.Sealer {
	t.Helper()
	s, err := events.NewSealer(b.Public...)
	check(t, err)
	return s
}

// Opener opens what was sealed to a worker.
func (b *Broker) Opener(t testing.TB, worker string) *events.Opener {
	t.Helper()
	o, err := events.NewOpener(worker, b.Private[worker])
	check(t, err)
	return o
}

// NewLogin is a login that a gateway has chosen.
func NewLogin(t testing.TB, gateway string) events.Login {
	t.Helper()
	login, err := events.NewLogin(gateway)
	check(t, err)
	return login
}

// Publish stores an event as its publisher would.
func (b *Broker) Publish(t testing.TB, e *events.Event) {
	t.Helper()
	msg, err := e.Message()
	check(t, err)
	user := e.By
	if e.By == events.GatewayWorker+"/"+e.Login.Gateway {
		user = e.Login.Gateway
	}
	nc := b.Dial(t, user)
	defer nc.Close()
	reply, err := nc.RequestMsg(msg, 10*time.Second)
	check(t, err)
	if ack := string(reply.Data); ack == "" || ack[0] != '{' || strings.Contains(ack, `"error"`) {
		t.Fatalf("publish %s: %s", e.ID(), ack)
	}
}

// Await waits for an event of a login, whoever publishes it, and fails the test when it does not come.
func (b *Broker) Await(t testing.TB, login events.Login, step events.Step, n int) *events.Event {
	t.Helper()
	viewer := b.Bus(t, bus.UserViewer)
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		e, err := viewer.Event(ctx, login, step, n)
		if err == nil {
			return e
		}
		select {
		case <-ctx.Done():
			t.Fatalf("no %s: %v", login.EventID(step, n), err)
		case <-tick.C:
		}
	}
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
