package gateway

import (
	"errors"
	"net/http"
	"strings"
	"time"

	"github.com/sekisho/sekisho/events"
	"github.com/sekisho/sekisho/services/gateway/authenticator"
	"github.com/sekisho/sekisho/services/gateway/pages"
	"github.com/sekisho/sekisho/services/internal/httpapi"
)

// busyFor is how long a client is told to wait when the bus or the database is away. Both come back within seconds.
const busyFor = 2 * time.Second

// problem is what the client may know of an error.
func (g *gateway) problem(err error) *httpapi.Problem {
	conflict := func(detail string) *httpapi.Problem {
		return &httpapi.Problem{Status: http.StatusConflict, Detail: detail}
	}
	if p, ok := errors.AsType[*httpapi.Problem](err); ok {
		return p
	}
	if early, ok := errors.AsType[*events.TooSoonError](err); ok {
		return &httpapi.Problem{Status: http.StatusTooManyRequests, Detail: "the last challenge is too recent",
			RetryAfter: max(early.At.Sub(g.now()), time.Second)}
	}
	switch {
	case errors.Is(err, events.ErrNotFound):
		return &httpapi.Problem{Status: http.StatusNotFound}
	case errors.Is(err, events.ErrEnded):
		return conflict("the login has ended")
	case errors.Is(err, events.ErrNotAsked):
		return conflict("the login does not ask for this")
	case errors.Is(err, events.ErrNoAttempts):
		return conflict("all attempts are used")
	case errors.Is(err, events.ErrNoRounds):
		return conflict("all rounds are used")
	case errors.Is(err, events.ErrInvalid):
		return &httpapi.Problem{Status: http.StatusInternalServerError}
	default: // nothing but the bus and the database can fail
		return &httpapi.Problem{Status: http.StatusServiceUnavailable, RetryAfter: busyFor}
	}
}

// report logs an error that is our fault. That a client has left is none.
func (g *gateway) report(r *http.Request, err error) {
	if g.problem(err).Status >= http.StatusInternalServerError && r.Context().Err() == nil {
		g.log.Error().Err(err).Str("route", r.Pattern).Msg("request failed")
	}
}

func (g *gateway) problemPage(w http.ResponseWriter, r *http.Request, p *httpapi.Problem) {
	httpapi.SetRetryAfter(w, p.RetryAfter)
	lang := g.language(w, r)
	onPhone := strings.HasPrefix(r.URL.Path, authenticator.Path+"/")
	if err := g.pages.Render(w, p.Status, lang, pages.Problem{Status: p.Status, OnPhone: onPhone, Start: r.URL.Path == "/",
		Posted: r.Method != http.MethodGet && r.Method != http.MethodHead}); err != nil {
		g.log.Error().Err(err).Str("route", r.Pattern).Msg("problem was not shown")
	}
}

// orNotFoundPage shows people a page where there is nothing, and everybody else a problem document.
func (g *gateway) orNotFoundPage(mux *http.ServeMux, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, pattern := mux.Handler(r)
		person := strings.Contains(r.Header.Get("Accept"), "text/html") && !strings.HasPrefix(r.URL.Path, "/v1/")
		if pattern == "" && person && r.Method == http.MethodGet {
			g.problemPage(w, r, &httpapi.Problem{Status: http.StatusNotFound})
			return
		}
		next.ServeHTTP(w, r)
	})
}
