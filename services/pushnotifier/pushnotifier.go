// Package pushnotifier is the worker that challenges users on their phones, and that hears their phones.
//
//	consumes   wanted (push), answered (push); changes of accounts, alerts of unknown environments
//	publishes  challenged, undelivered, answered (push), verified, rejected
//	answers    requests of devices, which gateways hand on
//	owns       push providers, devices, prompts and notices (schema push)
//
// A device holds a key that can not leave it. What it is asked is in the database before anybody is told, and a push service
// only wakes the phone: when all of them are down, the phone's page still finds its prompts. What a device answers becomes
// an event, and the verdict follows from what stands before that event in the stream.
package pushnotifier

import (
	"context"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"github.com/rs/zerolog"

	"github.com/sekisho/sekisho/events"
	"github.com/sekisho/sekisho/services/internal/bus"
	"github.com/sekisho/sekisho/services/internal/config"
	"github.com/sekisho/sekisho/services/internal/directory"
	"github.com/sekisho/sekisho/services/internal/policy"
	"github.com/sekisho/sekisho/services/internal/runtime"
	"github.com/sekisho/sekisho/services/internal/sessions"
)

// Name is the worker's name.
const Name = "pushnotifier"

// Service is the worker.
var Service = runtime.Service{Name: Name, Build: Build}

type notifier struct {
	bus      *bus.Bus
	store    *store
	accounts *directory.Accounts
	devices  *directory.Devices
	outbox   *directory.Outbox
	sessions *sessions.Store
	policy   *policy.Store
	vendors  *vendors
	opener   *events.Opener
	sealer   *events.Sealer // to this worker itself: answers of devices lie in the stream

	hand   hand
	keys   keys
	read   *lru.Cache[events.Login, bus.History] // see history
	heeded *lru.Cache[heeded, struct{}]          // see follow

	settings    config.Push
	resendAfter time.Duration
	attempts    int // answers that one login may take
	log         zerolog.Logger
	now         func() time.Time
}

// Build makes the worker.
func Build(ctx context.Context, env *runtime.Env) (*runtime.Worker, error) {
	n, err := newNotifier(env)
	if err != nil {
		return nil, err
	}
	return &runtime.Worker{
		// A login that was disowned is followed beyond its deadline, until its end is known.
		Handlers: []bus.Handler{bus.On(n.dispatch), bus.On(n.decide).Late()},
		Run: []func(context.Context) error{
			n.serve, n.follow, n.relay, n.purge,
			func(ctx context.Context) error { return env.Credentials.Follow(ctx, Name, n.opener) },
			func(ctx context.Context) error { return env.Credentials.Supply(ctx, n.sealer) },
		},
		Reload: n.policy.Reload,
		Close:  n.close,
	}, nil
}

func newNotifier(env *runtime.Env) (*notifier, error) {
	opener, err := env.Credentials.Opener(Name)
	if err != nil {
		return nil, err
	}
	sealer, err := env.Credentials.Sealer()
	if err != nil {
		return nil, err
	}
	vendors, err := openVendors(env)
	if err != nil {
		return nil, err
	}
	read, err := lru.New[events.Login, bus.History](remembered)
	if err != nil {
		return nil, err
	}
	told, err := lru.New[heeded, struct{}](remembered)
	if err != nil {
		return nil, err
	}
	cfg := env.Config
	policies, err := policy.Open(cfg.Policy)
	if err != nil {
		return nil, err
	}
	outbox := directory.NewOutbox(env.DB, env.Now)
	return &notifier{
		bus:      env.Bus,
		store:    newStore(env.DB, cfg.Limits.PushPerUser, cfg.Limits.PushPerSource, env.Now),
		accounts: directory.NewAccounts(env.DB),
		devices:  directory.NewDevices(outbox),
		outbox:   outbox,
		sessions: sessions.New(env.DB, env.Now),
		policy:   policies,
		vendors:  vendors,
		opener:   opener, sealer: sealer, read: read, heeded: told,
		settings: cfg.Push, resendAfter: cfg.Code.ResendAfter, attempts: cfg.Attempts, log: env.Log, now: env.Now,
	}, nil
}

func (n *notifier) close() {
	n.vendors.close()
	n.store.close()
	n.accounts.Close()
	n.devices.Close()
	n.sessions.Close()
}

// relay publishes what changes of devices, and other processes' changes of accounts, have left in the outbox.
func (n *notifier) relay(ctx context.Context) error {
	return n.outbox.Relay(ctx, n.log, n.bus.Account)
}

// purgeEvery is how often what is of no use any more is deleted.
const purgeEvery = 10 * time.Minute

// purge deletes old rows until ctx ends.
func (n *notifier) purge(ctx context.Context) error {
	return runtime.Repeat(ctx, n.log, purgeEvery, nil, "can not purge", func(ctx context.Context) (bool, error) {
		return false, n.store.purge(ctx, n.settings.Keep)
	})
}
