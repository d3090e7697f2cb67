package bus

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/rs/zerolog"
)

// ServerConfig is what an embedded broker needs.
type ServerConfig struct {
	Addr     string            // host:port to listen on; port 0 picks a free one
	Dir      string            // JetStream's store
	Gateways []string          // their names
	Keys     map[string]string // public nkey of each user of Users(Gateways)
	Sync     bool              // fsync before each ack, as a cluster must; without it a power cut may lose seconds
	Log      zerolog.Logger
}

// maxStore lifts the broker's own guess of the disk from what is free at start; streams have bounds of their own.
const maxStore = 1 << 40

// StartServer starts an embedded broker: JetStream, a listener, and the users of the table, who must all authenticate.
// It returns when clients can connect. Stop it with Shutdown and WaitForShutdown.
func StartServer(cfg ServerConfig) (*server.Server, error) {
	host, portText, err := net.SplitHostPort(cfg.Addr)
	if err != nil {
		return nil, fmt.Errorf("bus: listen address %q: %w", cfg.Addr, err)
	}
	port, err := strconv.Atoi(portText)
	if err != nil {
		return nil, fmt.Errorf("bus: listen address %q: %w", cfg.Addr, err)
	}
	if port == 0 {
		port = server.RANDOM_PORT
	}
	opts := &server.Options{
		ServerName: "sekisho", Host: host, Port: port, NoSigs: true,
		JetStream: true, StoreDir: cfg.Dir, SyncAlways: cfg.Sync, JetStreamMaxStore: maxStore,
		JetStreamMaxMemory: 1 << 30, // no stream is kept in memory; consumers' state is
		WriteDeadline:      10 * time.Second,
	}
	if err := checkKeys(cfg); err != nil {
		return nil, err
	}
	if err := opts.ProcessConfigString(UsersConf(cfg.Gateways, cfg.Keys)); err != nil {
		return nil, fmt.Errorf("bus: users of the broker: %w", err)
	}
	if err := adopt(cfg.Dir); err != nil {
		return nil, fmt.Errorf("bus: %w", err)
	}
	s, err := server.NewServer(opts)
	if err != nil {
		return nil, fmt.Errorf("bus: broker: %w", err)
	}
	fatal := make(chan string, 1)
	s.SetLoggerV2(serverLog{cfg.Log, fatal}, false, false, false)
	go s.Start()
	ready := make(chan bool, 1)
	go func() { ready <- s.ReadyForConnections(30 * time.Second) }()
	select {
	case msg := <-fatal:
		s.Shutdown()
		return nil, fmt.Errorf("bus: broker on %s: %s", cfg.Addr, msg)
	case ok := <-ready:
		if !ok {
			s.Shutdown()
			return nil, fmt.Errorf("bus: broker on %s is not ready after 30 s", cfg.Addr)
		}
		return s, nil
	}
}

// checkKeys tells which user has no key.
func checkKeys(cfg ServerConfig) error {
	for _, u := range Users(cfg.Gateways) {
		if cfg.Keys[u.Name] == "" {
			return fmt.Errorf("bus: no public key of NATS user %s", u.Name)
		}
	}
	return nil
}

// adopt moves the streams of an earlier version to coreAccount. All users were in the broker's default account then.
func adopt(dir string) error {
	const before = "$G"
	at := func(account string) string { return filepath.Join(dir, "jetstream", account) }
	if _, err := os.Stat(at(coreAccount)); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := os.Rename(at(before), at(coreAccount)); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// serverLog is the broker's logger: its notices are details to us, its warnings and errors are not.
type serverLog struct {
	log   zerolog.Logger
	fatal chan<- string
}

func (l serverLog) Noticef(format string, v ...any) { l.log.Debug().Msgf(format, v...) }
func (l serverLog) Warnf(format string, v ...any)   { l.log.Warn().Msgf(format, v...) }
func (l serverLog) Errorf(format string, v ...any)  { l.log.Error().Msgf(format, v...) }
func (l serverLog) Debugf(format string, v ...any)  { l.log.Trace().Msgf(format, v...) }
func (l serverLog) Tracef(format string, v ...any)  { l.log.Trace().Msgf(format, v...) }

// Fatalf must not end the process: the caller decides.
func (l serverLog) Fatalf(format string, v ...any) {
	select {
	case l.fatal <- fmt.Sprintf(format, v...):
	default:
	}
}
