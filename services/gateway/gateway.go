// Package gateway is how browsers and apps log in: the login API, the login pages, and what a login leads to, sessions.
//
//	consumes   challenged, undelivered, rejected, lapsed, closed of its own logins; session revocations
//	publishes  requested, answered (codes, and what a browser brought from a provider), chosen, cancelled, lapsed
//	owns       public HTTP, login pages, the phone's app; what phones ask it hands to pushnotifier
//
// A gateway keeps nothing. Where a login stands is on the bus, who has a session is in PostgreSQL, and who may ask about
// either is proven by tokens that any instance of the gateway can check.
package gateway

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"time"

	"github.com/rs/zerolog"

	"github.com/sekisho/sekisho/events"
	"github.com/sekisho/sekisho/services/gateway/authenticator"
	"github.com/sekisho/sekisho/services/gateway/docs"
	"github.com/sekisho/sekisho/services/gateway/pages"
	"github.com/sekisho/sekisho/services/internal/bus"
	"github.com/sekisho/sekisho/services/internal/config"
	"github.com/sekisho/sekisho/services/internal/httpapi"
	"github.com/sekisho/sekisho/services/internal/policy"
	"github.com/sekisho/sekisho/services/internal/runtime"
	"github.com/sekisho/sekisho/services/internal/sessions"
)

// Name is the worker's name. On the bus each gateway has a name of its own (setting gateway.name).
const Name = events.GatewayWorker

// Service is the worker.
var Service = runtime.Service{Name: Name, Build: Build}

type gateway struct {
	cfg         *config.Config
	log         zerolog.Logger
	now         func() time.Time
	bus         *bus.Bus
	client      *events.Client
	policy      *policy.Store
	pages       *pages.Pages
	docs        *docs.Docs
	keys        *keys
	border      *border
	crossOrigin *http.CrossOriginProtection
	limits      *limits // of logins
	sessions    *liveSessions
	metrics     *metrics

	authenticator *authenticator.App
	deviceLimits  *limits // of requests about phones
	hints         *hints

	ctx       context.Context // ends with the worker
	answering sync.WaitGroup  // codes that wait to be asked for
}

// Build makes the worker.
func Build(ctx context.Context, env *runtime.Env) (*runtime.Worker, error) {
	cfg := env.Config.Gateway
	secrets, err := env.Credentials.Keys(Name + "-" + cfg.Name)
	if err != nil {
		return nil, err
	}
	g := &gateway{
		cfg: env.Config, log: env.Log, now: env.Now, bus: env.Bus,
		crossOrigin: http.NewCrossOriginProtection(), metrics: newMetrics(env.Metrics),
	}
	if g.keys, err = newKeys(cfg.Name, secrets...); err != nil {
		return nil, err
	}
	if g.border, err = newBorder(cfg); err != nil {
		return nil, fmt.Errorf("gateway.proxies: %w", err)
	}
	if cfg.URL != "" {
		if err := g.crossOrigin.AddTrustedOrigin(cfg.URL); err != nil {
			return nil, fmt.Errorf("gateway.url: %w", err)
		}
	}
	if g.policy, err = policy.Open(env.Config.Policy); err != nil {
		return nil, err
	}
	if g.pages, err = pages.New(); err != nil {
		return nil, err
	}
	if g.docs, err = docs.New(); err != nil {
		return nil, err
	}
	shared := []string{"/assets/style.css", "/assets/icon.svg"}
	if g.authenticator, err = authenticator.New(shared, g.pages.Version()); err != nil {
		return nil, err
	}
	if g.limits, err = newLimits(env.Config.Limits.LoginsPerSource); err != nil {
		return nil, err
	}
	if g.deviceLimits, err = newLimits(env.Config.Limits.DevicePerSource); err != nil {
		return nil, err
	}
	g.hints = newHints(cfg.StreamsPerDevice)
	store := sessions.New(env.DB, env.Now)
	if g.sessions, err = newLiveSessions(store, env.Now); err != nil {
		return nil, err
	}
	g.client, err = events.NewClient(ctx, env.Bus.Conn(), events.Options{
		Gateway: cfg.Name, Deadline: env.Config.Login.Deadline, ResendAfter: env.Config.Code.ResendAfter, Revoked: g.sessions.revoked, Prompted: g.hints.tell,
	})
	if err != nil {
		return nil, err
	}
	var stop context.CancelFunc
	g.ctx, stop = context.WithCancel(context.Background())
	return &runtime.Worker{Public: g.handler(), Ready: g.ready, Reload: g.policy.Reload, Close: func() {
		stop()
		g.answering.Wait()
		g.client.Close()
		store.Close()
	}}, nil
}

// ready fails while the broker has no logins, as when it has lost its store. It asks for one that can not be there.
func (g *gateway) ready(ctx context.Context) error {
	login, err := events.NewLogin(g.cfg.Gateway.Name)
	if err != nil {
		return err
	}
	if _, err = events.Get(ctx, g.bus.Conn(), login, events.StepClosed, 0); errors.Is(err, events.ErrNotFound) {
		return nil
	}
	return err
}

// handler serves all of the gateway's HTTP: this table, wrapped in what holds for every request.
func (g *gateway) handler() http.Handler {
	mux := http.NewServeMux()
	for pattern, handle := range map[string]func(http.ResponseWriter, *http.Request) error{
		"POST /v1/logins":              g.start,
		"GET /v1/logins/{id}":          g.where,
		"GET /v1/logins/{id}/events":   g.stream,
		"POST /v1/logins/{id}/answers": g.answer,
		"POST /v1/logins/{id}/factor":  g.factor,
		"DELETE /v1/logins/{id}":       g.cancel,
		"GET /v1/session":              g.whoAmI,
		"DELETE /v1/session":           g.logOut,
		"/auth/check":                  g.authCheck,

		"POST /v1/authenticator/devices":        g.forwardPhone,
		"GET /v1/authenticator/devices":         g.forwardPhone,
		"PATCH /v1/authenticator/devices/{id}":  g.forwardPhone,
		"DELETE /v1/authenticator/devices/{id}": g.forwardPhone,
		"PUT /v1/authenticator/subscription":    g.forwardPhone,
		"GET /v1/authenticator/prompts":         g.forwardPhone,
		"POST /v1/authenticator/prompts":        g.forwardAnswer,
		"POST /v1/authenticator/notices/{id}":   g.forwardPhone,
		"GET /v1/authenticator/stream":          g.streamHints,
		"POST /v1/activations":                  g.forwardUser,
		"GET /v1/devices":                       g.forwardUser,
		"PATCH /v1/devices/{id}":                g.forwardUser,
		"DELETE /v1/devices/{id}":               g.forwardUser,
	} {
		mux.Handle(pattern, g.api(handle))
	}
	for pattern, handle := range map[string]func(http.ResponseWriter, *http.Request) error{
		"GET /{$}":                 g.home,
		"POST /logout":             g.logOutForm,
		"GET /login":               g.signInPage,
		"POST /login":              g.signInForm,
		"GET /login/{id}":          g.loginPage,
		"POST /login/{id}/answers": g.answerForm,
		"POST /login/{id}/factor":  g.factorForm,
		"POST /login/{id}/cancel":  g.cancelForm,
		"GET /login/{id}/return":   g.returned,

		"GET /devices":              g.devicesPage,
		"POST /devices":             g.inviteForm,
		"POST /devices/{id}":        g.renameForm,
		"POST /devices/{id}/remove": g.removeForm,
	} {
		mux.Handle(pattern, g.page(handle))
	}
	mux.Handle("GET /assets/", g.pages.Assets())
	g.docs.Register(mux)
	g.authenticator.Register(mux, g.page(func(http.ResponseWriter, *http.Request) error { return &httpapi.Problem{Status: http.StatusNotFound} }))
	return g.observe(g.harden(g.orNotFoundPage(mux, httpapi.Routes(mux))))
}

// api turns the error of a handler into a problem document.
func (g *gateway) api(handle func(http.ResponseWriter, *http.Request) error) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if err := handle(w, r); err != nil {
			g.report(r, err)
			p := g.problem(err)
			if p.Status == http.StatusUnauthorized && w.Header().Get("WWW-Authenticate") == "" {
				w.Header().Set("WWW-Authenticate", "Bearer") // RFC 9110 section 15.5.2 asks for one
			}
			p.Write(w)
		}
	})
}

// page turns the error of a handler into a page.
func (g *gateway) page(handle func(http.ResponseWriter, *http.Request) error) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if err := handle(w, r); err != nil {
			g.report(r, err)
			g.problemPage(w, r, g.problem(err))
		}
	})
}
