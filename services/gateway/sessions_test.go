package gateway

import (
	"bytes"
	"errors"
	"net/http"
	"net/http/httptest"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/rs/zerolog"

	"github.com/sekisho/sekisho/events"
	"github.com/sekisho/sekisho/services/internal/runtime"
	"github.com/sekisho/sekisho/services/internal/sessions"
	"github.com/sekisho/sekisho/services/internal/testenv"
)

// signedIn starts and grants a login and returns the token of its session.
func (w *world) signedIn(app *caller) (events.Login, string) {
	w.t.Helper()
	body := startBodyFor("0s")
	body["tokens"] = true
	v := app.post("/v1/logins", body).status(w.t, http.StatusCreated).view(w.t)
	w.grant(v.login())
	app.header.Set("Authorization", "Bearer "+v.LoginToken)
	granted := app.get("/v1/logins/"+v.ID+"?after=1&wait=30s").status(w.t, http.StatusOK).view(w.t)
	if granted.SessionToken == "" {
		w.t.Fatalf("no session: %+v", granted)
	}
	app.header.Set("Authorization", "Bearer "+granted.SessionToken)
	return v.login(), granted.SessionToken
}

func TestLogOutReachesEveryGateway(t *testing.T) {
	w := newWorld(t)
	one, two := w.app(w.gateway()), w.app(w.gateway())
	_, token := w.signedIn(one)
	two.header.Set("Authorization", "Bearer "+token)
	one.get("/v1/session").status(t, http.StatusOK)
	two.get("/v1/session").status(t, http.StatusOK) // and remembers it
	if out := one.do("DELETE", "/v1/session", "", "").status(t, http.StatusNoContent); out.Header.Get("Set-Cookie") != "" {
		t.Errorf("a client without cookies got %q", out.Header.Get("Set-Cookie"))
	}
	one.get("/v1/session").status(t, http.StatusUnauthorized)
	testenv.Eventually(t, "the signal is heard", func() bool { return two.get("/v1/session").StatusCode == http.StatusUnauthorized })
	one.do("DELETE", "/v1/session", "", "").status(t, http.StatusUnauthorized)
}

func TestRevocationWithoutSignal(t *testing.T) {
	w := newWorld(t)
	app := w.app(w.gateway())
	login, _ := w.signedIn(app)
	app.get("/v1/session").status(t, http.StatusOK)
	if _, err := w.sessions.Revoke(t.Context(), login, "admin"); err != nil {
		t.Fatal(err)
	}
	w.later(5 * time.Second)
	app.get("/v1/session").status(t, http.StatusUnauthorized)
}

func TestRevokedStaysRevoked(t *testing.T) {
	w := newWorld(t)
	app := w.app(w.gateway())
	login, _ := w.signedIn(app)
	app.get("/v1/session").status(t, http.StatusOK)
	// The signal alone: what is read of the record later may be from before.
	if err := w.Bus(t, "console").Revoke(t.Context(), login); err != nil {
		t.Fatal(err)
	}
	testenv.Eventually(t, "the signal is heard", func() bool { return app.get("/v1/session").StatusCode == http.StatusUnauthorized })
	w.later(10 * time.Second)
	app.get("/v1/session").status(t, http.StatusUnauthorized)
}

func TestLogOutWithoutBus(t *testing.T) {
	w := newWorld(t)
	app := w.app(w.gateway())
	w.signedIn(app)
	app.get("/v1/session").status(t, http.StatusOK)
	w.Server.Shutdown()
	app.do("DELETE", "/v1/session", "", "").status(t, http.StatusNoContent)
	app.get("/v1/session").status(t, http.StatusUnauthorized)
}

func TestRevocationDuringARead(t *testing.T) {
	w := newWorld(t)
	login := testenv.NewLogin(t, "web")
	now := w.now()
	if _, err := w.sessions.Insert(t.Context(), sessions.Session{Login: login, User: alice, App: "demo", AMR: []string{"pwd"}, ACR: "1fa",
		AuthTime: now, Idle: time.Hour, Expires: now.Add(time.Hour)}); err != nil {
		t.Fatal(err)
	}
	live, err := newLiveSessions(w.sessions, w.now)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := live.get(t.Context(), login); err != nil {
		t.Fatal(err)
	}
	w.later(sessionAge) // the next one reads again, and finds the table locked
	lock, err := w.db.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := lock.Exec(t.Context(), `LOCK TABLE sessions.sessions`); err != nil {
		t.Fatal(err)
	}
	got := make(chan error, 1)
	go func() {
		_, err := live.get(t.Context(), login)
		got <- err
	}()
	testenv.Eventually(t, "somebody waits for the lock", func() bool {
		var waits bool
		err := w.db.QueryRow(t.Context(), `SELECT EXISTS (SELECT FROM pg_locks l JOIN pg_database d ON d.oid = l.database
			WHERE d.datname = current_database() AND NOT l.granted)`).Scan(&waits)
		return err == nil && waits
	})
	live.revoked(login)
	if err := lock.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := <-got; !errors.Is(err, errNobody) {
		t.Errorf("what was read before wins: %v", err)
	}
	if _, err := live.get(t.Context(), login); !errors.Is(err, errNobody) {
		t.Errorf("and stays: %v", err)
	}
}

// The grant itself tells the session to who started the login: nobody waits for the record then.
func TestGrantIsNotReadBack(t *testing.T) {
	w := newWorld(t)
	app := w.app(w.gateway())
	body := startBodyFor("0s")
	body["tokens"], body["user"] = true, "ALICE" // who is alice in the record
	v := app.post("/v1/logins", body).status(t, http.StatusCreated).view(t)
	w.grant(v.login())
	read, err := w.sessions.Get(t.Context(), v.login())
	if err != nil {
		t.Fatal(err)
	}
	lock, err := w.db.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := lock.Exec(t.Context(), `LOCK TABLE sessions.sessions`); err != nil {
		t.Fatal(err)
	}
	app.header.Set("Authorization", "Bearer "+v.LoginToken)
	granted := app.get("/v1/logins/"+v.ID+"?after=1&wait=30s").status(t, http.StatusOK).view(t)
	if err := lock.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	want := sessionView{User: "alice", AMR: read.AMR, ACR: read.ACR, Expires: read.Expires.UTC()}
	if granted.SessionToken == "" || granted.Session == nil || !reflect.DeepEqual(*granted.Session, want) {
		t.Errorf("granted %+v, want %+v", granted.Session, want)
	}
	w.later(sessionAge) // then the record counts again
	if err := w.sessions.Remove(t.Context(), v.login()); err != nil {
		t.Fatal(err)
	}
	if gone := app.get("/v1/logins/"+v.ID).status(t, http.StatusOK).view(t); gone.Session != nil || gone.SessionToken != "" {
		t.Errorf("without a record: %+v", gone.Session)
	}
}

// A session whose end was heard before its grant is none, and of an old grant the record counts.
func TestGrantIsNotTheLastWord(t *testing.T) {
	w := newWorld(t)
	live, err := newLiveSessions(w.sessions, w.now)
	if err != nil {
		t.Fatal(err)
	}
	login := testenv.NewLogin(t, "web")
	live.begin(login, "alice")
	state := &events.State{Login: login, ClosedAt: w.now(), Closed: &events.Closed{Outcome: events.Granted, User: alice, Expires: w.now().Add(time.Hour)}}
	if session, err := live.granted(t.Context(), state); err != nil || session.Name != "alice" || session.Used() {
		t.Errorf("%+v, %v", session, err)
	}
	live.revoked(login)
	if _, err := live.granted(t.Context(), state); !errors.Is(err, errNobody) {
		t.Errorf("revoked: %v", err)
	}
	state.Login = testenv.NewLogin(t, "web")
	live.begin(state.Login, "alice")
	w.later(sessionAge)
	if _, err := live.granted(t.Context(), state); !errors.Is(err, errNobody) {
		t.Errorf("without a record: %v", err)
	}
}

func TestSessionsEndWhenIdle(t *testing.T) {
	w := newWorld(t)
	app := w.app(w.gateway())
	w.signedIn(app)
	for range 3 { // each request keeps it alive
		w.later(59 * time.Minute)
		app.get("/v1/session").status(t, http.StatusOK)
	}
	w.later(time.Hour)
	app.get("/v1/session").status(t, http.StatusUnauthorized)
}

func TestSessionsEndAtLast(t *testing.T) {
	w := newWorld(t)
	app := w.app(w.gateway())
	w.signedIn(app)
	for range 12 {
		app.get("/v1/session").status(t, http.StatusOK)
		w.later(59 * time.Minute)
	}
	app.get("/v1/session").status(t, http.StatusOK)
	w.later(13 * time.Minute) // twelve hours and a minute
	app.get("/v1/session").status(t, http.StatusUnauthorized)
}

func TestLockedUserHasNoSession(t *testing.T) {
	w := newWorld(t)
	app := w.app(w.gateway())
	w.signedIn(app)
	app.get("/v1/session").status(t, http.StatusOK)
	if _, err := w.db.Exec(t.Context(), `UPDATE directory.users SET locked = true WHERE id = $1`, alice); err != nil {
		t.Fatal(err)
	}
	w.later(5 * time.Second)
	app.get("/v1/session").status(t, http.StatusUnauthorized)
}

func TestCookieDomain(t *testing.T) {
	w := newWorld(t)
	browser := w.browser(w.gateway(func(env *runtime.Env) { env.Config.Gateway.CookieDomain = "example.com" }))
	v := browser.post("/v1/logins", startBodyFor("0s")).view(t)
	w.grant(v.login())
	granted := browser.get("/v1/logins/"+v.ID+"?after=1&wait=30s").status(t, http.StatusOK)
	for _, c := range granted.Cookies() {
		if c.Name == "__Secure-sekisho" && c.Domain == "example.com" && c.Secure && c.HttpOnly {
			return
		}
	}
	t.Errorf("cookies %v", granted.Cookies())
}

func TestAuthCheck(t *testing.T) {
	w := newWorld(t)
	base := w.gateway(func(env *runtime.Env) {
		env.Config.Gateway.Proxies = []string{"127.0.0.0/8"}
		env.Config.Gateway.Origins = []string{"https://app.example.com"}
	})
	app := w.app(base)
	app.get("/auth/check").status(t, http.StatusUnprocessableEntity)
	app.get("/auth/check?app=other").status(t, http.StatusUnprocessableEntity)
	if r := app.get("/auth/check?app=demo").status(t, http.StatusUnauthorized); r.Header.Get("Location") != base+"/login?app=demo" {
		t.Errorf("Location: %s", r.Header.Get("Location"))
	}
	app.header.Set("X-Forwarded-Proto", "https")
	app.header.Set("X-Forwarded-Host", "app.example.com")
	app.header.Set("X-Forwarded-Uri", "/page?a=b")
	want := strings.Replace(base, "http:", "https:", 1) + "/login?app=demo&return_to=https%3A%2F%2Fapp.example.com%2Fpage%3Fa%3Db"
	if r := app.get("/auth/check?app=demo&redirect=1").status(t, http.StatusFound); r.Header.Get("Location") != want {
		t.Errorf("Location: %s, want %s", r.Header.Get("Location"), want)
	}
	app.header.Set("X-Forwarded-Host", "evil.example")
	if r := app.get("/auth/check?app=demo").status(t, http.StatusUnauthorized); strings.Contains(r.Header.Get("Location"), "evil") {
		t.Errorf("Location: %s", r.Header.Get("Location"))
	}
	app = w.app(base)
	login, token := w.signedIn(app)
	app.header.Del("Authorization")
	app.header.Set("Cookie", "__Host-sekisho="+token) // as a proxy passes it on
	r := app.get("/auth/check?app=demo").status(t, http.StatusOK)
	if r.Header.Get("Remote-User") != "alice" || r.Header.Get("Sekisho-Amr") != "pwd,sms" || r.Header.Get("Sekisho-Acr") != "2fa" {
		t.Errorf("headers %v", r.Header)
	}
	if r := app.do("POST", "/auth/check?app=demo", "", "").status(t, http.StatusOK); r.Header.Get("Remote-User") != "alice" {
		t.Errorf("with the method of the request: headers %v", r.Header)
	}
	// Envoy puts the request's own path behind its prefix.
	if r := app.get("/auth/check?app=payroll&redirect=1&asked=/page?app=demo&redirect=0").status(t, http.StatusOK); r.Header.Get("Sekisho-Acr") != "2fa" {
		t.Errorf("headers %v", r.Header)
	}
	w.adjust(login, `app = 'gone', amr = '{sms}'`) // which demo takes from nobody as the first proof
	app.get("/auth/check?app=demo").status(t, http.StatusUnauthorized)
	app.get("/auth/check?app=payroll&redirect=1&asked=/page?app=demo&redirect=0").status(t, http.StatusFound)
}

func TestHeadersOfEveryAnswer(t *testing.T) {
	w := newWorld(t)
	app := w.app(w.gateway(func(env *runtime.Env) {
		env.Config.Gateway.Origins = []string{"https://app.example.com"}
		env.Config.Gateway.Proxies = []string{"127.0.0.0/8"}
	}))
	for _, path := range []string{"/login", "/v1/session", "/nothing"} {
		h := app.get(path).Header
		csp := h.Get("Content-Security-Policy")
		if !strings.Contains(csp, "default-src 'none'") || !strings.Contains(csp, "form-action 'self' https://app.example.com;") ||
			h.Get("Referrer-Policy") != "same-origin" || h.Get("Cross-Origin-Opener-Policy") != "same-origin" || h.Get("Strict-Transport-Security") != "" {
			t.Errorf("%s: %v", path, h)
		}
	}
	asset := strings.SplitN(strings.SplitN(string(app.get("/login").body), `src="`, 2)[1], `"`, 2)[0]
	if h := app.get(asset).Header; !strings.Contains(h.Get("Cache-Control"), "immutable") || h.Get("X-Content-Type-Options") != "nosniff" {
		t.Errorf("%s: %v", asset, h)
	}
	app.header.Set("X-Forwarded-Proto", "https")
	if h := app.get("/login").Header; h.Get("Strict-Transport-Security") == "" {
		t.Error("no HSTS over TLS")
	}
}

func TestScriptsOfOtherOrigins(t *testing.T) {
	w := newWorld(t)
	app := w.app(w.gateway(func(env *runtime.Env) { env.Config.Gateway.Origins = []string{"https://app.example.com"} }))
	ask := func(origin string) http.Header {
		app.header.Set("Origin", origin)
		app.header.Set("Access-Control-Request-Method", "POST")
		return app.do("OPTIONS", "/v1/logins", "", "").Header
	}
	if h := ask("https://app.example.com"); h.Get("Access-Control-Allow-Origin") != "https://app.example.com" || h.Get("Access-Control-Allow-Credentials") != "true" ||
		!strings.Contains(h.Get("Access-Control-Allow-Headers"), "Content-Type") || h.Get("Vary") != "Origin" {
		t.Errorf("configured: %v", h)
	}
	if h := ask("https://evil.example"); h.Get("Access-Control-Allow-Origin") != "" || h.Get("Access-Control-Allow-Credentials") != "" {
		t.Errorf("another: %v", h)
	}
}

// TestNothingPersonalIsLogged plants what must not be told, and looks for it.
func TestNothingPersonalIsLogged(t *testing.T) {
	w := newWorld(t)
	var log bytes.Buffer
	registry := prometheus.NewRegistry()
	app := w.app(w.gateway(func(env *runtime.Env) {
		env.Log, env.Metrics = zerolog.New(zerolog.SyncWriter(&log)), registry
		env.Config.Gateway.Proxies = []string{"127.0.0.0/8"}
	}))
	app.header.Set("X-Forwarded-For", "203.0.113.77")
	app.header.Set("User-Agent", "canary-agent")
	body := map[string]any{"user": "canary-user", "method": "password", "password": "canary-password", "app": "demo", "wait": "0s", "tokens": true}
	v := app.post("/v1/logins", body).status(t, http.StatusCreated).view(t)
	app.header.Set("Authorization", "Bearer "+v.LoginToken)
	challenge(t, w.Broker, v.login(), 1)
	app.get("/v1/logins/" + v.ID + "?after=1&wait=30s&canary-query=1")
	app.post("/v1/logins/"+v.ID+"/answers", map[string]string{"code": "987654", "wait": "0s"}).status(t, http.StatusAccepted)
	app.get("/canary-path")
	_, token := w.signedIn(app)
	app.get("/v1/session").status(t, http.StatusOK)
	w.Server.Shutdown()
	app.post("/v1/logins", body).status(t, http.StatusServiceUnavailable)

	metrics := httptest.NewRecorder()
	promhttp.HandlerFor(registry, promhttp.HandlerOpts{}).ServeHTTP(metrics, httptest.NewRequest("GET", "/metrics", nil))
	told := log.String() + metrics.Body.String()
	for _, canary := range []string{"canary", "987654", "203.0.113.77", "•-1234", "alice", v.LoginToken, token, v.LoginToken[30:50], "127.0.0.1"} {
		if strings.Contains(told, canary) {
			t.Errorf("%q is told:\n%s", canary, told)
		}
	}
	for _, want := range []string{`"route":"POST /v1/logins"`, `"login":"web/` + v.ID + `"`, `"status":202`,
		`sekisho_http_requests_total{route="POST /v1/logins/{id}/answers",status="2xx"} 1`, `route="none",status="4xx"`} {
		if !strings.Contains(told, want) {
			t.Errorf("no %s in\n%s", want, told)
		}
	}
}
