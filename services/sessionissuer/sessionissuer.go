// Package sessionissuer is the worker that decides what comes next in every login, and issues the session.
//
//	consumes   assessed, refused, verified, rejected, undelivered, chosen, cancelled, lapsed, timer; session.revoked
//	publishes  wanted, closed; session.revoked of a session that was stepped up from
//	owns       policy, the decision, session rows
//
// [Decide] is the decision; the rest of the package brings it the history and stores what it says.
package sessionissuer

import (
	"context"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"

	"github.com/sekisho/sekisho/events"
	"github.com/sekisho/sekisho/services/internal/bus"
	"github.com/sekisho/sekisho/services/internal/config"
	"github.com/sekisho/sekisho/services/internal/directory"
	"github.com/sekisho/sekisho/services/internal/policy"
	"github.com/sekisho/sekisho/services/internal/runtime"
	"github.com/sekisho/sekisho/services/internal/sessions"
)

// Name is the worker's name.
const Name = "sessionissuer"

// Service is the worker.
var Service = runtime.Service{Name: Name, Build: Build}

type worker struct {
	bus         *bus.Bus
	policies    *policy.Store
	accounts    *directory.Accounts
	sessions    *sessions.Store
	session     config.Session
	deniedFloor time.Duration
	now         func() time.Time
	closed      *prometheus.CounterVec // by outcome and reason
	wanted      *prometheus.CounterVec // by factor
}

// Build makes the worker.
func Build(_ context.Context, env *runtime.Env) (*runtime.Worker, error) {
	policies, err := policy.Open(env.Config.Policy)
	if err != nil {
		return nil, err
	}
	metrics := promauto.With(env.Metrics)
	w := &worker{
		bus: env.Bus, policies: policies,
		accounts: directory.NewAccounts(env.DB),
		sessions: sessions.New(env.DB, env.Now),
		session:  env.Config.Session, deniedFloor: env.Config.Login.DeniedFloor, now: env.Now,
		closed: metrics.NewCounterVec(prometheus.CounterOpts{
			Name: "sekisho_logins_closed_total", Help: "Logins that this process closed."}, []string{"outcome", "reason"}),
		wanted: metrics.NewCounterVec(prometheus.CounterOpts{
			Name: "sekisho_challenges_wanted_total", Help: "Challenges that this process asked for."}, []string{"factor"}),
	}
	return &runtime.Worker{
		Handlers: []bus.Handler{
			on[*events.Assessed](w), on[*events.Refused](w), on[*events.Verified](w), on[*events.Rejected](w),
			on[*events.Undelivered](w), on[*events.Chosen](w), on[*events.Cancelled](w), on[*events.Lapsed](w),
			bus.OnTimer(w.due),
		},
		Run:    []func(context.Context) error{w.follow},
		Reload: policies.Reload,
		Close:  func() { w.accounts.Close(); w.sessions.Close() },
	}, nil
}

// on handles a step, also after the login's deadline, since it is this worker that closes the login then.
func on[T events.Data](w *worker) bus.Handler {
	return bus.On(func(ctx context.Context, e *events.Event, _ T) ([]*events.Event, error) {
		return nil, w.advance(ctx, e)
	}).Late()
}
