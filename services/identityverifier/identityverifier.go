// Package identityverifier is the worker that finds out who logs in.
//
//	consumes   requested
//	publishes  identified, refused; lapsed of a request that is past its deadline
//	owns       password check (argon2id), user look-up (schema directory), sessions to step up from
//
// Nobody outside can tell a name that exists from one that does not: both take the same statements, the same hash and
// the same events.
package identityverifier

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/sekisho/sekisho/events"
	"github.com/sekisho/sekisho/services/internal/bus"
	"github.com/sekisho/sekisho/services/internal/directory"
	"github.com/sekisho/sekisho/services/internal/runtime"
	"github.com/sekisho/sekisho/services/internal/sessions"
)

// Name is the worker's name.
const Name = "identityverifier"

// Service is the worker.
var Service = runtime.Service{Name: Name, Build: Build}

// leastMemory is what OWASP asks of a hash at least, in KiB.
const leastMemory = 7 << 10

type verifier struct {
	bus      *bus.Bus
	claims   *directory.Claims
	sessions *sessions.Store
	hasher   *directory.Hasher
	opener   *events.Opener
	sealer   *events.Sealer
	secret   []byte      // makes strangers: see stranger
	tokens   atomic.Bool // there are tokens here
	now      func() time.Time
}

// Build makes the worker.
func Build(ctx context.Context, env *runtime.Env) (*runtime.Worker, error) {
	opener, err := env.Credentials.Opener(Name)
	if err != nil {
		return nil, err
	}
	sealer, err := env.Credentials.Sealer()
	if err != nil {
		return nil, err
	}
	secret, err := env.Credentials.Key("directory")
	if err != nil {
		return nil, err
	}
	cost := env.Config.Password
	if cost.Memory < leastMemory {
		env.Log.Warn().Uint32("memory", cost.Memory).Msg("password.memory is for tests: a stolen hash costs next to nothing to guess")
	}
	v := &verifier{
		bus:      env.Bus,
		claims:   directory.NewClaims(env.DB, directory.Rule(env.Config.Lock), env.Now),
		sessions: sessions.New(env.DB, env.Now),
		hasher:   directory.NewHasher(directory.Cost{Memory: cost.Memory, Time: cost.Time, Threads: cost.Threads}, cost.Concurrent),
		opener:   opener,
		sealer:   sealer,
		secret:   secret,
		now:      env.Now,
	}
	if _, err := v.look(ctx); err != nil { // before the first login: what strangers are asked for must not change when the worker is restarted
		v.claims.Close()
		v.sessions.Close()
		return nil, err
	}
	return &runtime.Worker{
		Handlers: []bus.Handler{bus.On(v.identify)},
		Run: []func(context.Context) error{
			func(ctx context.Context) error { return env.Credentials.Follow(ctx, Name, opener) },
			func(ctx context.Context) error { return env.Credentials.Supply(ctx, sealer) },
			func(ctx context.Context) error {
				return runtime.Repeat(ctx, env.Log, lookEvery, nil, "can not find out whether there are tokens", v.look)
			},
		},
		Close: func() { v.claims.Close(); v.sessions.Close() },
	}, nil
}

// lookEvery is how soon a token is asked for under any name once there are tokens, and how long no more once there are none.
const lookEvery = 10 * time.Second

// look finds out whether there are tokens.
func (v *verifier) look(ctx context.Context) (more bool, err error) {
	some, err := v.claims.Tokens(ctx)
	if err == nil {
		v.tokens.Store(some)
	}
	return false, err
}
