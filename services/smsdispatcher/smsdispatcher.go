// Package smsdispatcher is the worker that challenges users by text message, and tells them of changes of their phones.
//
//	consumes   wanted (sms), changes of accounts
//	publishes  challenged, undelivered
//	owns       SMS providers, send limits, notices (schema sms)
//
// A message goes to the first of the configured providers that takes it. That it was accepted, sent and received are
// three facts: the first makes the event, the others are asked for later and recorded. The user's phone number and
// language are all that this worker can read of the directory.
package smsdispatcher

import (
	"context"
	"crypto/hkdf"
	"crypto/sha256"
	"fmt"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"

	"github.com/sekisho/sekisho/events"
	"github.com/sekisho/sekisho/services/internal/bus"
	"github.com/sekisho/sekisho/services/internal/config"
	"github.com/sekisho/sekisho/services/internal/credentials"
	"github.com/sekisho/sekisho/services/internal/directory"
	"github.com/sekisho/sekisho/services/internal/provider"
	"github.com/sekisho/sekisho/services/internal/runtime"
	"github.com/sekisho/sekisho/services/internal/textcode"
)

// Name is the worker's name.
const Name = "smsdispatcher"

// Service is the worker.
var Service = runtime.Service{Name: Name, Build: Build}

// An account is one configured provider.
type account struct {
	sender
	name string
	// status is the same account behind another client, so that a broken status API neither opens the breaker in front
	// of the messages nor takes their slots.
	status sender
	close  func()
}

// statusShare is which part of a provider's concurrency the status API gets beside the messages.
const statusShare = 4

// Build makes the worker.
func Build(_ context.Context, env *runtime.Env) (*runtime.Worker, error) {
	d, err := newDispatcher(env)
	if err != nil {
		return nil, err
	}
	// A redelivered event asks every provider, and may then try every provider.
	patience := time.Duration(2*len(d.accounts)+2) * env.Config.SMS.Timeout
	notices := newNotices(env, d, patience)
	return &runtime.Worker{
		Handlers: []bus.Handler{bus.On(d.dispatch).Concurrency(env.Config.SMS.Concurrency).Timeout(patience)},
		Run:      []func(context.Context) error{d.record, d.deliveries.follow, notices.follow, notices.tell},
		Close: func() {
			for _, a := range d.accounts {
				a.close()
			}
			if err := d.store.close(); err != nil {
				env.Log.Warn().Err(err).Msg("the last accepted messages are not recorded")
			}
		},
	}, nil
}

func newDispatcher(env *runtime.Env) (*dispatcher, error) {
	key, err := env.Credentials.Key("code")
	if err != nil {
		return nil, err
	}
	codes, err := textcode.New(key)
	if err != nil {
		return nil, err
	}
	secret, err := hkdf.Expand(sha256.New, key, "sekisho text numbers v1", sha256.Size)
	if err != nil {
		return nil, fmt.Errorf("smsdispatcher: %w", err)
	}
	numbers, err := lru.New[string, string](rememberedNumbers)
	if err != nil {
		return nil, fmt.Errorf("smsdispatcher: %w", err)
	}
	cfg := env.Config
	d := &dispatcher{
		store: newStore(env.DB, cfg.Limits.SMSPerUser, cfg.Limits.SMSPerNumber), phones: directory.NewPhones(env.DB), numbers: numbers,
		published: env.Bus.Event,
		codes:     codes, secret: secret, validity: cfg.Code, log: env.Log, now: env.Now,
	}
	for _, p := range cfg.SMS.Providers {
		a, err := open(p, env)
		if err != nil {
			return nil, err
		}
		d.accounts = append(d.accounts, a)
	}
	d.deliveries = newDeliveries(env, d.accounts)
	first := &course{}
	if len(d.accounts) == 0 {
		env.Log.Warn().Msg("no provider of text messages is configured: none will be delivered")
		first.reason = events.UndeliveredDown
	}
	d.last.Store(first)
	return d, nil
}

// open makes the account of a configured provider.
func open(p config.SMSProvider, env *runtime.Env) (account, error) {
	if p.Kind == "discard" {
		env.Log.Warn().Msg("text messages are thrown away: their provider is of the kind discard")
		return account{sender: Discard{}, name: p.Name, status: Discard{}, close: func() {}}, nil
	}
	token, err := credentials.Secret(p.TokenFile)
	if err != nil {
		return account{}, fmt.Errorf("smsdispatcher: provider %s: %w", p.Name, err)
	}
	client := func(name string, concurrent int) *provider.Client {
		return env.Provider(provider.Settings{Name: name, Timeout: env.Config.SMS.Timeout, MaxConcurrent: concurrent})
	}
	messages := client(p.Name, env.Config.SMS.Concurrency)
	status := client(p.Name+"-status", max(1, env.Config.SMS.Concurrency/statusShare))
	a := account{name: p.Name, close: func() { messages.CloseIdle(); status.CloseIdle() }}
	switch p.Kind {
	case "karaden":
		k := KaradenConfig{URL: p.URL, Tenant: p.Account, Token: token, ServiceID: p.ServiceID}
		a.sender, a.status = NewKaraden(messages, k), NewKaraden(status, k)
	case "twilio":
		t := TwilioConfig{URL: p.URL, Account: p.Account, Token: token, From: p.From}
		a.sender, a.status = NewTwilio(messages, t), NewTwilio(status, t)
	default:
		return account{}, fmt.Errorf("smsdispatcher: provider %s is of unknown kind %q", p.Name, p.Kind)
	}
	return a, nil
}
