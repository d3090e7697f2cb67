// Package riskassessor is the worker that asks how risky a login is.
//
//	consumes   identified, closed
//	publishes  assessed; alert.unknown-environment
//	owns       risk providers, the networks that users log in from (schema risk)
//
// A provider's verdict never replaces an authenticator. When no provider can be asked, the worker says so at once
// (degraded), and the app's policy decides.
package riskassessor

import (
	"context"
	"fmt"

	"github.com/sekisho/sekisho/events"
	"github.com/sekisho/sekisho/services/internal/bus"
	"github.com/sekisho/sekisho/services/internal/credentials"
	"github.com/sekisho/sekisho/services/internal/provider"
	"github.com/sekisho/sekisho/services/internal/runtime"
)

// Name is the worker's name.
const Name = "riskassessor"

// Service is the worker.
var Service = runtime.Service{Name: Name, Build: Build}

// Build makes the worker.
func Build(_ context.Context, env *runtime.Env) (*runtime.Worker, error) {
	cfg := env.Config
	opener, err := env.Credentials.Opener(Name)
	if err != nil {
		return nil, err
	}
	key, err := env.Credentials.Key("risk")
	if err != nil {
		return nil, err
	}
	networks, err := newNetworks(env.DB, key, cfg.Risk.Keep, env.Now, env.Log)
	if err != nil {
		return nil, err
	}
	a := &assessor{bus: env.Bus, opener: opener, networks: networks, static: events.Verdict(cfg.Risk.Static), log: env.Log}
	r := &reporter{bus: env.Bus, opener: opener, networks: networks}
	worker := &runtime.Worker{
		Handlers: []bus.Handler{
			bus.On(a.assess).Concurrency(cfg.Risk.Concurrency),
			bus.On(r.learn).Late().Unhurried(), // a closed login is past its deadline more often than not, and needs no `lapsed`
		},
		Run: []func(context.Context) error{
			func(ctx context.Context) error { return env.Credentials.Follow(ctx, Name, opener) },
			networks.purge,
		},
		Close: networks.close,
	}
	if cfg.Risk.Static != "" {
		env.Log.Warn().Str("verdict", cfg.Risk.Static).Msg("no risk provider is asked: risk.static is the verdict on every login")
		return worker, nil
	}
	if cfg.Risk.URL == "" {
		env.Log.Warn().Msg("no risk provider is configured: the policy's on_unavailable decides every login")
		return worker, nil
	}
	signature, err := credentials.Secret(cfg.Risk.SignatureFile)
	if err != nil {
		return nil, fmt.Errorf("riskassessor: %w", err)
	}
	client := func(name string) *provider.Client {
		return env.Provider(provider.Settings{Name: name, Timeout: cfg.Risk.Timeout, MaxConcurrent: cfg.Risk.Concurrency})
	}
	// Reports have a client of their own, so that trouble with them never keeps a login from being assessed.
	account := OMotionConfig{URL: cfg.Risk.URL, Signature: signature}
	assessments, reports := client("omotion"), client("omotion-report")
	a.provider, r.provider = NewOMotion(assessments, account), NewOMotion(reports, account)
	worker.Close = func() { networks.close(); assessments.CloseIdle(); reports.CloseIdle() }
	return worker, nil
}
