// Package console is the worker behind the admin API.
//
//	consumes   (HTTP requests of admins, on the ops address)
//	publishes  account events, session revocations
//	owns       accounts, authenticators, one-time password tokens, sessions of users as an admin sees them
//
// A change is committed together with the event that announces it (package directory), so no admin waits for the bus. Its consequences
// are committed after it: sessions end. Where something is taken away that order is turned round, since nobody would find it again to
// repeat the rest. So an admin who is told of a failure just tries again, except after creating a user, whose name is taken then.
package console

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"net/http"
	"strings"
	"time"

	"github.com/rs/zerolog"

	"github.com/sekisho/sekisho/services/internal/bus"
	"github.com/sekisho/sekisho/services/internal/config"
	"github.com/sekisho/sekisho/services/internal/directory"
	"github.com/sekisho/sekisho/services/internal/httpapi"
	"github.com/sekisho/sekisho/services/internal/runtime"
	"github.com/sekisho/sekisho/services/internal/sessions"
)

// Name is the worker's name.
const Name = "console"

// Service is the worker.
var Service = runtime.Service{Name: Name, Build: Build}

const (
	maxBody  = 16 << 10         // bytes of a request
	patience = 10 * time.Second // for the database to do what one request asks for, and the gateways to be told
)

type console struct {
	cfg       *config.Config
	log       zerolog.Logger
	outbox    *directory.Outbox
	users     *directory.Users
	devices   *directory.Devices
	tokens    *directory.Tokens
	hasher    *directory.Hasher
	blocklist directory.Blocklist
	sessions  *sessions.Store
	bus       *bus.Bus
}

// Build makes the worker.
func Build(_ context.Context, env *runtime.Env) (*runtime.Worker, error) {
	c, err := newConsole(env)
	if err != nil {
		return nil, err
	}
	return &runtime.Worker{Admin: c.handler(), Run: []func(context.Context) error{c.relay}, Close: c.close}, nil
}

func newConsole(env *runtime.Env) (*console, error) {
	if env.Config.AdminToken == "" {
		return nil, errors.New("console: there is no admin token: set SEKISHO_ADMIN_TOKEN")
	}
	cost := env.Config.Password
	blocklist, err := directory.NewBlocklist(cost.Blocklist)
	if err != nil {
		return nil, err
	}
	outbox := directory.NewOutbox(env.DB, env.Now)
	key, err := env.Credentials.Key("token")
	if err != nil {
		return nil, err
	}
	tokens, err := directory.NewTokens(outbox, key)
	if err != nil {
		return nil, err
	}
	return &console{
		cfg:       env.Config,
		log:       env.Log,
		outbox:    outbox,
		users:     directory.NewUsers(outbox),
		devices:   directory.NewDevices(outbox),
		tokens:    tokens,
		hasher:    directory.NewHasher(directory.Cost{Memory: cost.Memory, Time: cost.Time, Threads: cost.Threads}, cost.Concurrent),
		blocklist: blocklist,
		sessions:  sessions.New(env.DB, env.Now),
		bus:       env.Bus,
	}, nil
}

// relay publishes the changes of accounts that are in the outbox, also those of other processes.
func (c *console) relay(ctx context.Context) error {
	return c.outbox.Relay(ctx, c.log, c.bus.Account)
}

func (c *console) close() {
	c.devices.Close()
	c.sessions.Close()
}

func (c *console) handler() http.Handler {
	mux := http.NewServeMux()
	for pattern, handle := range map[string]handler{
		"POST /admin/v1/users":                              c.createUser,
		"GET /admin/v1/users":                               c.listUsers,
		"GET /admin/v1/users/{user}":                        c.getUser,
		"PATCH /admin/v1/users/{user}":                      c.changeUser,
		"DELETE /admin/v1/users/{user}":                     c.deleteUser,
		"POST /admin/v1/users/{user}/lock":                  c.lockUser,
		"POST /admin/v1/users/{user}/unlock":                c.unlockUser,
		"GET /admin/v1/users/{user}/authenticators":         c.listAuthenticators,
		"POST /admin/v1/users/{user}/authenticators":        c.link,
		"DELETE /admin/v1/users/{user}/authenticators/{id}": c.removeAuthenticator,
		"POST /admin/v1/users/{user}/activations":           c.activate,
		"GET /admin/v1/users/{user}/sessions":               c.listSessions,
		"DELETE /admin/v1/users/{user}/sessions/{id}":       c.endSession,
		"POST /admin/v1/tokens/import":                      c.importTokens,
		"GET /admin/v1/tokens":                              c.listTokens,
		"GET /admin/v1/tokens/{serial}":                     c.getToken,
		"DELETE /admin/v1/tokens/{serial}":                  c.deleteToken,
		"POST /admin/v1/tokens/{serial}/assign":             c.assignToken,
		"POST /admin/v1/tokens/{serial}/unassign":           c.unassignToken,
		"POST /admin/v1/tokens/{serial}/disable":            c.disableToken,
		"POST /admin/v1/tokens/{serial}/unlock":             c.unlockToken,
		"POST /admin/v1/tokens/{serial}/reset":              c.resetToken,
		"POST /admin/v1/tokens/{serial}/resync":             c.resyncToken,
		"POST /admin/v1/tokens/{serial}/pin":                c.setPIN,
	} {
		mux.Handle(pattern, c.serve(pattern, handle))
	}
	return c.adminsOnly(httpapi.Routes(mux))
}

// adminsOnly lets in who holds the admin token.
func (c *console) adminsOnly(next http.Handler) http.Handler {
	want := sha256.Sum256([]byte(c.cfg.AdminToken)) // hashed, so that not even the length can be told by time
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		scheme, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
		got := sha256.Sum256([]byte(token))
		if !strings.EqualFold(scheme, "Bearer") || subtle.ConstantTimeCompare(got[:], want[:]) != 1 {
			c.log.Warn().Msg("a request without the admin token was refused")
			w.Header().Set("WWW-Authenticate", `Bearer realm="sekisho admin"`)
			(&httpapi.Problem{Status: http.StatusUnauthorized, Detail: "want the admin token as a bearer token"}).Write(w)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// A handler does what a request asks for, and returns the status and the body of the answer; nil is an empty one.
type handler func(w http.ResponseWriter, r *http.Request) (status int, body any, err error)

func (c *console) serve(pattern string, handle handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		start := time.Now()
		ctx, cancel := context.WithTimeout(r.Context(), patience)
		defer cancel()
		status, body, err := handle(w, r.WithContext(ctx))
		switch {
		case err != nil:
			problem := c.problem(pattern, err)
			status = problem.Status
			problem.Write(w)
		case body != nil:
			httpapi.Write(w, status, body)
		default:
			w.WriteHeader(status)
		}
		c.log.Info().Str("method", r.Method).Str("route", pattern).Int("status", status).Dur("duration", time.Since(start)).Msg("request")
	})
}

// problem is what the admin is told of an error.
func (c *console) problem(pattern string, err error) *httpapi.Problem {
	if p, ok := errors.AsType[*httpapi.Problem](err); ok {
		return p
	}
	conflict := func(detail string) *httpapi.Problem {
		return &httpapi.Problem{Status: http.StatusConflict, Detail: detail}
	}
	switch {
	case errors.Is(err, directory.ErrNotFound):
		return &httpapi.Problem{Status: http.StatusNotFound, Detail: "there is no such user"}
	case errors.Is(err, directory.ErrNoToken):
		return &httpapi.Problem{Status: http.StatusNotFound, Detail: "there is no such token"}
	case errors.Is(err, directory.ErrNoDevice):
		return errNoAuthenticator
	case errors.Is(err, directory.ErrTooManyDevices):
		return conflict("the user has as many phones as push.devices allows: remove one")
	case errors.Is(err, directory.ErrTooManyTokens):
		return conflict("the user has as many tokens as token.per_user allows: unassign one")
	case errors.Is(err, directory.ErrAssigned):
		return conflict("the token is another user's: unassign it first")
	case errors.Is(err, directory.ErrNotAssigned):
		return conflict("the token is nobody's: assign it first")
	case errors.Is(err, directory.ErrNoMatch):
		return conflict("these are not two codes in a row that the token may show now")
	case errors.Is(err, directory.ErrTaken):
		return &httpapi.Problem{Status: http.StatusConflict, Field: "user", Detail: "the name is taken"}
	}
	c.log.Error().Err(err).Str("route", pattern).Msg("request failed")
	// Nothing but the database can fail.
	return &httpapi.Problem{Status: http.StatusServiceUnavailable, Detail: "not done, or not all of it: try again", RetryAfter: 2 * time.Second}
}
