package gateway

import (
	"context"
	"net/http"
	"strings"
	"time"

	"github.com/sekisho/sekisho/events"
	"github.com/sekisho/sekisho/services/internal/httpapi"
	"github.com/sekisho/sekisho/services/internal/sessions"
)

// errNobody says that the request comes with no good session.
var errNobody = &httpapi.Problem{Status: http.StatusUnauthorized}

// signalWait bounds the signal of a revocation, which needs the bus.
const signalWait = 2 * time.Second

// endSession revokes a session: in the record first, then here, then everywhere.
func (g *gateway) endSession(ctx context.Context, login events.Login) error {
	if _, err := g.sessions.store.Revoke(ctx, login, "user"); err != nil {
		return err
	}
	g.sessions.revoked(login)
	ctx, cancel := context.WithTimeout(ctx, signalWait)
	defer cancel()
	if err := g.bus.Revoke(ctx, login); err != nil {
		// The session has ended all the same: gateways that did not hear of it read it again within seconds.
		g.log.Warn().Err(err).Str("login", login.String()).Msg("revocation was not signaled")
	}
	return nil
}

// session is the session whose token the request carries: as bearer token, or as a cookie if cookies count.
func (g *gateway) session(r *http.Request, cookies bool) (*sessions.Session, error) {
	token, bearer := bearerToken(r)
	if !bearer && cookies {
		token = cookieValue(r, g.sessionCookie("", 0).Name)
	}
	login, ok := g.keys.login(sessionToken, token)
	if !ok {
		return nil, errNobody
	}
	return g.sessions.use(r.Context(), login)
}

func bearerToken(r *http.Request) (token string, ok bool) {
	scheme, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	if !strings.EqualFold(scheme, "Bearer") {
		return "", false
	}
	return token, true
}

// whoAmI answers GET /v1/session.
func (g *gateway) whoAmI(w http.ResponseWriter, r *http.Request) error {
	s, err := g.session(r, g.border.cookiesCount(r))
	if err != nil {
		return err
	}
	httpapi.Write(w, http.StatusOK, struct {
		User     string    `json:"user"`
		App      string    `json:"app"`
		AMR      []string  `json:"amr"`
		ACR      string    `json:"acr"`
		AuthTime time.Time `json:"auth_time"`
		Expires  time.Time `json:"expires"`
	}{s.Name, s.App, s.AMR, s.ACR, s.AuthTime.UTC(), s.Expires.UTC()})
	return nil
}

// logOut answers DELETE /v1/session.
func (g *gateway) logOut(w http.ResponseWriter, r *http.Request) error {
	s, err := g.session(r, g.border.cookiesCount(r))
	if err != nil {
		return err
	}
	if err := g.endSession(r.Context(), s.Login); err != nil {
		return err
	}
	if _, bearer := bearerToken(r); !bearer { // a cookie beside it is of another session
		http.SetCookie(w, expired(g.sessionCookie("", 0)))
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}
