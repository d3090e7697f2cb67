// Package bus is how workers meet: a worker's connection to NATS JetStream, the consume loop with its verbs, write-once
// publishing, dead letters, timers, and the table of streams, consumers, users and permissions.
//
// A handler takes one event of a login and returns events, or an error whose kind is a verb (see [Permanent] and
// [RetryAfter]). An input that is not acked is the outbox: everything that a handler returns is stored before the input
// is acked, and a repeat does no harm since every subject of a login takes one message.
package bus

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"slices"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nkeys"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"

	"github.com/sekisho/sekisho/events"
)

// Config is what a worker's connection needs.
type Config struct {
	Worker  string // the worker's name, as in the table
	User    string // NATS user, where it is not the worker's name (gateways)
	URL     string
	Seed    []byte // nkey seed of the user
	Log     zerolog.Logger
	Metrics prometheus.Registerer // nil: none
	Now     func() time.Time      // nil: time.Now
	Options []nats.Option         // further options of the connection
}

// A Bus is one worker's connection. It is safe for concurrent use.
type Bus struct {
	worker  string
	nc      *nats.Conn
	js      jetstream.JetStream
	getter  *getter
	log     zerolog.Logger
	now     func() time.Time
	metrics *metrics
	unseen  sync.Map // step → error, of consumers

	batchTimeout time.Duration // of one batch; tests shorten it
}

// Connect connects a worker and reconnects for ever. It fails when there is no broker now; the caller retries.
func Connect(cfg Config) (*Bus, error) {
	if cfg.User == "" {
		cfg.User = cfg.Worker
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	options := cfg.Options
	if cfg.Worker == events.GatewayWorker {
		options = append(slices.Clip(options), events.NothingLater())
	}
	nc, err := Dial(cfg.URL, cfg.User, cfg.Seed, cfg.Log, options...)
	if err != nil {
		return nil, err
	}
	js, err := jetstream.New(nc, jetstream.WithPublishAsyncTimeout(answerWait), jetstream.WithPublishAsyncMaxPending(maxAckPending))
	if err != nil {
		nc.Close()
		return nil, fmt.Errorf("bus: %w", err)
	}
	return &Bus{worker: cfg.Worker, nc: nc, js: js, getter: newGetter(nc), log: cfg.Log, now: cfg.Now, metrics: newMetrics(cfg.Metrics),
		batchTimeout: defaultTimeout}, nil
}

// Dial connects a NATS user. A broker that asks for no credentials is accepted on a loopback address only: elsewhere
// anybody could publish anything.
func Dial(address, user string, seed []byte, log zerolog.Logger, more ...nats.Option) (*nats.Conn, error) {
	options := append([]nats.Option{
		nats.Name("sekisho " + user),
		nats.CustomInboxPrefix(InboxPrefix(user)),
		// A broker that hangs, or whose packets vanish, is left after some 15 s; by default it would be after more than four minutes.
		nats.PingInterval(5 * time.Second), nats.MaxPingsOutstanding(2),
		nats.IgnoreAuthErrorAbort(), // a broker that was given the wrong users for a moment is given the right ones again
		nats.MaxReconnects(-1), nats.ReconnectWait(250 * time.Millisecond), nats.ReconnectJitter(250*time.Millisecond, time.Second),
		nats.DisconnectErrHandler(func(_ *nats.Conn, err error) {
			if err != nil {
				log.Warn().Err(err).Msg("bus is away")
			}
		}),
		nats.ReconnectHandler(func(*nats.Conn) { log.Info().Msg("bus is back") }),
		// A refused publish shows up here only; its caller sees a missing ack.
		nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) { log.Error().Err(err).Msg("bus error") }),
	}, more...)
	var secured []nats.Option
	if seed != nil {
		pair, err := nkeys.FromSeed(seed)
		if err != nil {
			return nil, fmt.Errorf("bus: nkey seed of %s: %w", user, err)
		}
		public, err := pair.PublicKey()
		if err != nil {
			return nil, fmt.Errorf("bus: nkey seed of %s: %w", user, err)
		}
		secured = []nats.Option{nats.Nkey(public, pair.Sign)}
	}
	nc, err := nats.Connect(address, append(secured, options...)...)
	if errors.Is(err, nats.ErrNkeysNotSupported) && loopback(address) {
		log.Warn().Msg("the broker asks for no credentials: anybody on this machine may publish anything")
		nc, err = nats.Connect(address, options...)
	}
	if err != nil {
		return nil, fmt.Errorf("bus: connect %s: %w", user, err)
	}
	return nc, nil
}

func loopback(address string) bool {
	u, err := url.Parse(address)
	if err != nil {
		return false
	}
	ip := net.ParseIP(u.Hostname())
	return u.Hostname() == "localhost" || (ip != nil && ip.IsLoopback())
}

// Conn is the connection, for what is not events of logins.
func (b *Bus) Conn() *nats.Conn { return b.nc }

// Close flushes what was published and closes the connection. While the bus is away there is nobody to flush to.
func (b *Bus) Close() {
	if b.nc.IsConnected() {
		ctx, cancel := context.WithTimeout(context.Background(), answerWait)
		defer cancel()
		_ = b.nc.FlushWithContext(ctx) // best effort: nothing that anybody waits for is left
	}
	b.nc.Close()
}
