package bus_test

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nkeys"
	"github.com/rs/zerolog"

	"github.com/sekisho/sekisho/events"
	"github.com/sekisho/sekisho/services/internal/bus"
	"github.com/sekisho/sekisho/services/internal/testenv"
)

// credentials are of all users of the tests' gateways.
func credentials(t *testing.T) (seeds map[string][]byte, keys map[string]string) {
	t.Helper()
	seeds, keys = make(map[string][]byte), make(map[string]string)
	for _, u := range bus.Users(testenv.Gateways) {
		pair, err := nkeys.CreateUser()
		if err != nil {
			t.Fatal(err)
		}
		if seeds[u.Name], err = pair.Seed(); err != nil {
			t.Fatal(err)
		}
		if keys[u.Name], err = pair.PublicKey(); err != nil {
			t.Fatal(err)
		}
	}
	return seeds, keys
}

// A login that could not begin while the broker was away does not begin when it is back: nobody holds its secret.
func TestNothingLater(t *testing.T) {
	dir := t.TempDir()
	seeds, keys := credentials(t)
	start := func(addr string) *server.Server {
		t.Helper()
		s, err := bus.StartServer(bus.ServerConfig{Addr: addr, Dir: dir, Gateways: testenv.Gateways, Keys: keys, Log: zerolog.Nop()})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { s.Shutdown(); s.WaitForShutdown() })
		return s
	}
	s := start("127.0.0.1:0")
	addr, url := s.Addr().String(), s.ClientURL()
	admin := func() *nats.Conn {
		t.Helper()
		nc, err := bus.Dial(url, bus.UserSetup, seeds[bus.UserSetup], zerolog.Nop())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(nc.Close)
		return nc
	}
	public, _, err := events.GenerateKey("identityverifier", "k1")
	if err != nil {
		t.Fatal(err)
	}
	nc := admin()
	if err := errors.Join(bus.Provision(t.Context(), nc, 1), bus.PublishKeys(t.Context(), nc, []events.PublicKey{public})); err != nil {
		t.Fatal(err)
	}
	seed := filepath.Join(dir, "web.nk")
	if err := os.WriteFile(seed, seeds["web"], 0o600); err != nil {
		t.Fatal(err)
	}
	client, err := events.Connect(t.Context(), url, seed, events.Options{Gateway: "web", Patience: 2 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	request := events.Request{App: "demo", Method: events.Password, User: "alice", Password: "secret"}
	s.Shutdown()
	s.WaitForShutdown()
	if _, err := client.Request(t.Context(), request); err == nil {
		t.Fatal("a login began without a broker")
	}
	start(addr)
	deadline := time.Now().Add(20 * time.Second)
	for err = errors.New("not yet"); err != nil; _, err = client.Request(t.Context(), request) {
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
	js, err := jetstream.New(admin())
	if err != nil {
		t.Fatal(err)
	}
	stream, err := js.Stream(t.Context(), "LOGIN")
	if err != nil {
		t.Fatal(err)
	}
	if n := stream.CachedInfo().State.Msgs; n != 1 {
		t.Errorf("%d logins have begun, want the last alone", n)
	}
}

// What a broker stored that had one account for everybody is still there.
func TestStoreOfOneAccount(t *testing.T) {
	dir := t.TempDir()
	seeds, keys := credentials(t)
	run := func(do func(jetstream.JetStream) error) {
		t.Helper()
		s, err := bus.StartServer(bus.ServerConfig{Addr: "127.0.0.1:0", Dir: dir, Gateways: testenv.Gateways, Keys: keys, Log: zerolog.Nop()})
		if err != nil {
			t.Fatal(err)
		}
		defer func() { s.Shutdown(); s.WaitForShutdown() }()
		nc, err := bus.Dial(s.ClientURL(), bus.UserSetup, seeds[bus.UserSetup], zerolog.Nop())
		if err != nil {
			t.Fatal(err)
		}
		defer nc.Close()
		js, err := jetstream.New(nc)
		if err == nil {
			err = do(js)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	run(func(js jetstream.JetStream) error {
		_, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "KEPT"})
		return err
	})
	account := func(name string) string { return filepath.Join(dir, "jetstream", name) }
	if err := os.Rename(account("SEKISHO"), account("$G")); err != nil {
		t.Fatal(err)
	}
	run(func(js jetstream.JetStream) error {
		_, err := js.Stream(t.Context(), "KEPT")
		return err
	})
}
