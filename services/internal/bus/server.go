package bus

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"slices"
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

// coreAccount is the NATS account of the streams and the workers.
const coreAccount = "SEKISHO"

// accountOf is the NATS account of a user that is apart.
func accountOf(user string) string { return "user-" + user }

// batched matches the way to a direct get that is answered by many messages.
var batched = regexp.MustCompile(`DIRECT\.GET\.[A-Z]+"$`)

// UsersConf is the part of a broker's configuration that says who may do what: accounts, their users and permissions.
//
// The broker checks what a user publishes to, and not where the answer is to go: within one account, whoever asks for something can
// have the broker itself publish the answer as somebody else's event, or as a call of the management API. So each gateway and each tool has an account
// of its own, with a way to each subject that it may use. An answer never leaves the account that has asked.
func UsersConf(gateways []string, keys map[string]string) string {
	var core, others strings.Builder
	exports := make(map[string][]string) // accounts by "service: <subject>" or "stream: <subject>"
	for _, u := range Users(gateways) {
		if !u.Apart {
			fmt.Fprintf(&core, "      %s\n", userConf(u, keys[u.Name]))
			continue
		}
		account := accountOf(u.Name)
		fmt.Fprintf(&others, "  %s {\n    users = [\n      %s\n    ]\n    imports = [\n", account, userConf(u, keys[u.Name]))
		use := func(kind, subject string) {
			way := fmt.Sprintf("%s: %q", kind, subject)
			exports[way] = append(exports[way], account)
			fmt.Fprintf(&others, "      { %s: { account: %s, subject: %q } }\n", kind, coreAccount, subject)
		}
		for _, subject := range u.Publish {
			use("service", subject)
		}
		for _, subject := range u.Subscribe {
			if subject != InboxPrefix(u.Name)+".>" { // answers arrive in the account itself
				use("stream", subject)
			}
		}
		others.WriteString("    ]\n  }\n")
	}
	var b strings.Builder
	fmt.Fprintf(&b, `# Accounts, users and permissions of Sekisho. Written by "sekisho setup"; include it in nats-server's configuration.
accounts {
  %s {
    jetstream: enabled
    users = [
%s    ]
    exports = [
`, coreAccount, core.String())
	for _, way := range slices.Sorted(maps.Keys(exports)) {
		response := ""
		if batched.MatchString(way) {
			response = ", response: stream"
		}
		fmt.Fprintf(&b, "      { %s, accounts: %s%s }\n", way, list(exports[way]), response)
	}
	fmt.Fprintf(&b, "    ]\n  }\n%s}\n", others.String())
	return b.String()
}

func userConf(u User, key string) string {
	responses := ""
	if u.Responds {
		responses = fmt.Sprintf(", allow_responses: { max: 1, expires: %q }", respondWait)
	}
	return fmt.Sprintf("{ nkey: %s, permissions: { publish: { allow: %s }, subscribe: { allow: %s, deny: %s }%s } } # %s",
		key, list(u.Publish), list(u.Subscribe), list(u.Unheard), responses, u.Name)
}

func list(words []string) string {
	if len(words) == 0 {
		return "[]"
	}
	return `["` + strings.Join(words, `", "`) + `"]`
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
