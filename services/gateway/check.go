package gateway

import (
	"errors"
	"net/http"
	"strings"

	"github.com/sekisho/sekisho/services/gateway/pages"
	"github.com/sekisho/sekisho/services/internal/httpapi"
)

// authCheck answers /auth/check?app=: reverse proxies ask it about each request to an app, with the request's cookies, and
// some of them with its method.
func (g *gateway) authCheck(w http.ResponseWriter, r *http.Request) error {
	query := r.URL.Query()
	app := query.Get("app")
	if g.policy.Policy().Apps[app] == nil {
		return httpapi.Invalid("app", "there is no such app")
	}
	h := w.Header()
	s, err := g.sessionFor(r, app)
	if errors.Is(err, errNobody) || errors.Is(err, errShort) {
		h.Set("Location", g.loginURL(r, app))
		if query.Get("redirect") == "1" {
			w.WriteHeader(http.StatusFound)
			return nil
		}
	}
	if errors.Is(err, errShort) {
		h.Set("WWW-Authenticate", `Bearer error="insufficient_user_authentication"`) // RFC 9470 section 3
	}
	if err != nil {
		return err
	}
	h.Set("Remote-User", s.Name)
	h.Set("Sekisho-Acr", s.ACR)
	h.Set("Sekisho-Amr", strings.Join(s.AMR, ","))
	w.WriteHeader(http.StatusOK)
	return nil
}

// loginURL is the login page, which also steps up. It leads back to what the browser asked the proxy for.
func (g *gateway) loginURL(r *http.Request, app string) string {
	returnTo := ""
	own := g.border.at(r, r.Host) // what proxies forward here is the app's host, not the gateway's
	if host := g.border.forwarded(r, "X-Forwarded-Host"); host != "" {
		asked := g.border.forwarded(r, "X-Forwarded-Proto") + "://" + host + g.border.forwarded(r, "X-Forwarded-Uri")
		returnTo, _ = g.border.returnTo(own, asked)
	}
	return own + pages.SignInURL(app, "", returnTo, false)
}
