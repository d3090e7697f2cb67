package gateway

import (
	"crypto/rand"
	"net/http"
	"strings"
	"time"

	"github.com/sekisho/sekisho/events"
)

// Names of cookies. Browsers take one with the prefix __Host- from this very host only, over a secure connection
// (loopback counts as one), so nobody else can plant it.
const (
	loginName    = "__Host-sekisho_login"
	typedCookie  = "__Host-sekisho_name"
	sessionName  = "__Host-sekisho"
	domainName   = "__Secure-sekisho" // the session's, where it is for a whole domain
	browserName  = "__Host-sekisho_browser"
	languageName = "__Host-sekisho_lang"
)

// hostCookie is a cookie for this host, out of reach of scripts. age 0: until the browser is closed.
func hostCookie(name, value string, age time.Duration) *http.Cookie {
	return &http.Cookie{Name: name, Value: value, Path: "/", MaxAge: int(age / time.Second),
		Secure: true, HttpOnly: true, SameSite: http.SameSiteLaxMode}
}

// expired removes a cookie.
func expired(c *http.Cookie) *http.Cookie {
	c.Value, c.MaxAge = "", -1
	return c
}

func cookieValue(r *http.Request, name string) string {
	c, err := r.Cookie(name)
	if err != nil {
		return ""
	}
	return c.Value
}

// setLogin gives the browser the secret of the login that it started, and where to go after it. A browser has one
// login at a time.
func (g *gateway) setLogin(w http.ResponseWriter, login events.Login, returnTo string) error {
	value, err := g.keys.token(loginSecret, login)
	if err != nil {
		return err
	}
	if returnTo != "" {
		value += "." + tokenEncoding.EncodeToString([]byte(returnTo))
	}
	http.SetCookie(w, hostCookie(loginName, value, events.MaxDeadline+grantWindow))
	return nil
}

// browserLogin is the login of the browser and where to go after it. The latter is checked like any other input, so
// that a cookie can lead nowhere else than a link could.
func (g *gateway) browserLogin(r *http.Request) (login events.Login, returnTo string, ok bool) {
	token, target, _ := strings.Cut(cookieValue(r, loginName), ".")
	if login, ok = g.keys.login(loginSecret, token); !ok {
		return events.Login{}, "", false
	}
	if raw, err := tokenEncoding.DecodeString(target); err == nil {
		returnTo, _ = g.border.returnTo(g.border.own(r), string(raw))
	}
	return login, returnTo, true
}

// keepName leaves the name that a login by ID was begun with in the browser, so that it need not be typed again for a password.
// It is sealed, since this cookie should give it away as little as the bus and URLs do. It is not part of the login's cookie, which
// older instances read too.
func (g *gateway) keepName(w http.ResponseWriter, login events.Login, name string) error {
	sealed, err := g.keys.seal(typedName, login, name)
	if err != nil {
		return err
	}
	http.SetCookie(w, hostCookie(typedCookie, sealed, events.MaxDeadline))
	return nil
}

// keptName is the name that this browser began the login by ID with, empty for every other login.
func (g *gateway) keptName(r *http.Request, login events.Login) string {
	return g.keys.open(typedName, login, cookieValue(r, typedCookie))
}

// sessionCookie carries the session's token.
func (g *gateway) sessionCookie(token string, age time.Duration) *http.Cookie {
	c := hostCookie(sessionName, token, age)
	if domain := g.cfg.Gateway.CookieDomain; domain != "" {
		c.Name, c.Domain = domainName, domain
	}
	return c
}

// browser is a random name that this browser keeps until it is closed. Forms are bound to it.
func (g *gateway) browser(w http.ResponseWriter, r *http.Request) string {
	if name := cookieValue(r, browserName); len(name) == len(rand.Text()) {
		return name
	}
	name := rand.Text()
	http.SetCookie(w, hostCookie(browserName, name, 0))
	return name
}
