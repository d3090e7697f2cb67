package bus_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nkeys"
	"github.com/rs/zerolog"

	"github.com/sekisho/sekisho/services/internal/bus"
	"github.com/sekisho/sekisho/services/internal/testenv"
)

// What a broker stored that had one account for everybody is still there.
func TestStoreOfOneAccount(t *testing.T) {
	dir, seeds, keys := t.TempDir(), make(map[string][]byte), make(map[string]string)
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
