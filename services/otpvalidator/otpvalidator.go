// Package otpvalidator is the worker that checks the codes that users type.
//
//	consumes   wanted (token), answered (sms, token)
//	publishes  challenged (token), verified, rejected
//	owns       verification of codes, where tokens stand
//
// A code sent by text message is derived, not stored: this worker and smsdispatcher hold the same key. What a code is
// checked against is the login's history, and the user's tokens; how often a user may be wrong is counted in the directory, over all logins.
package otpvalidator

import (
	"context"

	"github.com/sekisho/sekisho/services/internal/bus"
	"github.com/sekisho/sekisho/services/internal/directory"
	"github.com/sekisho/sekisho/services/internal/runtime"
	"github.com/sekisho/sekisho/services/internal/textcode"
)

// Name is the worker's name.
const Name = "otpvalidator"

// Service is the worker.
var Service = runtime.Service{Name: Name, Build: Build}

// Build makes the worker.
func Build(_ context.Context, env *runtime.Env) (*runtime.Worker, error) {
	v, err := newVerifier(env)
	if err != nil {
		return nil, err
	}
	return &runtime.Worker{
		Handlers: []bus.Handler{bus.On(v.challenge), bus.On(v.verify)},
		Run: []func(context.Context) error{
			func(ctx context.Context) error { return env.Credentials.Follow(ctx, Name, v.opener) },
		},
		Close: v.attempts.Close,
	}, nil
}

func newVerifier(env *runtime.Env) (*verifier, error) {
	key, err := env.Credentials.Key("code")
	if err != nil {
		return nil, err
	}
	codes, err := textcode.New(key)
	if err != nil {
		return nil, err
	}
	opener, err := env.Credentials.Opener(Name)
	if err != nil {
		return nil, err
	}
	if key, err = env.Credentials.Key("token"); err != nil {
		return nil, err
	}
	tokens, err := directory.NewTokens(directory.NewOutbox(env.DB, env.Now), key)
	if err != nil {
		return nil, err
	}
	return &verifier{
		bus: env.Bus, opener: opener, codes: codes, tokens: tokens, settings: env.Config.Token, most: env.Config.Attempts,
		attempts: directory.NewAttempts(env.DB, directory.Rule(env.Config.Lock), env.Now),
	}, nil
}
