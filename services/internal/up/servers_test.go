package up

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// A broker that has given up storing ends the run: all of it, or one stream, as it does on a full disk. One that is stopped does not.
func TestWatchBroker(t *testing.T) {
	for name, giveUp := range map[string]func(*testing.T, *server.Server, string){
		"all": func(t *testing.T, s *server.Server, _ string) { must(t, s.DisableJetStream()) },
		"one stream": func(t *testing.T, s *server.Server, dir string) {
			nc, err := nats.Connect(s.ClientURL())
			must(t, err)
			defer nc.Close()
			js, err := jetstream.New(nc)
			must(t, err)
			_, err = js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "X", Subjects: []string{"x"}, MaxBytes: 64 << 10})
			must(t, err)
			must(t, os.Symlink("/dev/full", filepath.Join(dir, "jetstream", "$G", "streams", "X", "msgs", "2.blk")))
			for range 3 { // the second has no place in the first file
				must(t, nc.Publish("x", make([]byte, 20<<10)))
			}
			must(t, nc.Flush())
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			s, err := server.NewServer(&server.Options{Host: "127.0.0.1", Port: server.RANDOM_PORT, NoSigs: true, NoLog: true, JetStream: true, StoreDir: dir})
			must(t, err)
			s.Start()
			t.Cleanup(func() { s.Shutdown(); s.WaitForShutdown() })
			if !s.ReadyForConnections(30 * time.Second) {
				t.Fatal("no server")
			}
			failed := make(chan error, 1)
			fail := func(err error) { failed <- err }
			stopped, stop := context.WithCancel(t.Context())
			stop()
			watchBroker(stopped, s, time.Hour, fail)
			if len(failed) > 0 {
				t.Fatalf("stopped, and it says: %v", <-failed)
			}
			go watchBroker(t.Context(), s, time.Millisecond, fail)
			giveUp(t, s, dir)
			if err := <-failed; !strings.Contains(err.Error(), "free space and start again") {
				t.Errorf("it says: %v", err)
			}
		})
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
