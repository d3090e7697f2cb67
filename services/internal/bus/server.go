package bus

import (
	"fmt"
	"net"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/rs/zerolog"
)

// ServerConfig is what an embedded broker needs.
type ServerConfig struct {
	Addr     string            // host:port to listen on; port 0 picks a free one
	Dir      string            // JetStream's store
	Gateways []string          //
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
	for _, u := range Users(cfg.Gateways) {
		key, ok := cfg.Keys[u.Name]
		if !ok {
			return nil, fmt.Errorf("bus: no public key of NATS user %s", u.Name)
		}
		permissions := &server.Permissions{
			Publish:   &server.SubjectPermission{Allow: u.Publish},
			Subscribe: &server.SubjectPermission{Allow: u.Subscribe, Deny: u.Unheard},
		}
		if u.Responds {
			permissions.Response = &server.ResponsePermission{MaxMsgs: 1, Expires: respondWait}
		}
		opts.Nkeys = append(opts.Nkeys, &server.NkeyUser{Nkey: key, Permissions: permissions})
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

// UsersConf is the authorization block for the configuration of a broker that is not embedded.
func UsersConf(gateways []string, keys map[string]string) string {
	var b strings.Builder
	b.WriteString("# Users and permissions of Sekisho. Written by `sekisho setup`; include it in nats-server's configuration.\nauthorization {\n  users = [\n")
	list := func(subjects []string) string {
		if len(subjects) == 0 {
			return "[]"
		}
		return `["` + strings.Join(subjects, `", "`) + `"]`
	}
	for _, u := range Users(gateways) {
		responses := ""
		if u.Responds {
			responses = fmt.Sprintf(", allow_responses: { max: 1, expires: %q }", respondWait)
		}
		fmt.Fprintf(&b, "    # %s\n    { nkey: %s, permissions: { publish: { allow: %s }, subscribe: { allow: %s, deny: %s }%s } }\n",
			u.Name, keys[u.Name], list(u.Publish), list(u.Subscribe), list(u.Unheard), responses)
	}
	b.WriteString("  ]\n}\n")
	return b.String()
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
