package gateway

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"

	"github.com/sekisho/sekisho/events"
	"github.com/sekisho/sekisho/services/internal/bus"
	"github.com/sekisho/sekisho/services/internal/config"
	"github.com/sekisho/sekisho/services/internal/credentials"
	"github.com/sekisho/sekisho/services/internal/runtime"
	"github.com/sekisho/sekisho/services/internal/sessions"
	"github.com/sekisho/sekisho/services/internal/testenv"
)

// A world is a bus, a database with the user alice, and any number of gateways. The test plays the other workers.
type world struct {
	*testenv.Broker
	t        *testing.T
	database *testenv.Database
	db       *pgxpool.Pool // of the superuser
	keys     *credentials.Folder
	policy   string          // file
	sessions *sessions.Store // as sessionissuer and console use it

	mu     sync.Mutex
	offset time.Duration // of the gateways' clock
}

const alice = "u-alice"

// policyFile has an app that one factor is enough for, and one that takes two.
const policyFile = `apps:
  demo: {name: {en: Sekisho demo}, methods: [password, none]}
  payroll: {name: {en: Payroll}, on_ok: 2}
`

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{Broker: testenv.NATS(t), t: t, keys: credentials.Open(t.TempDir())}
	w.policy = filepath.Join(t.TempDir(), "policy.yaml")
	if err := os.WriteFile(w.policy, []byte(policyFile), 0o600); err != nil {
		t.Fatal(err)
	}
	w.database = testenv.Migrated(t)
	w.db = w.database.Pool(t, "")
	w.sessions = sessions.New(w.db, w.now)
	t.Cleanup(w.sessions.Close)
	_, err := w.db.Exec(t.Context(), `INSERT INTO directory.users (id, name, locale, primary_method, enabled, locked, created_at, changed_at)
		VALUES ($1, 'alice', 'en', 'password', true, false, now(), now())`, alice)
	if err != nil {
		t.Fatal(err)
	}
	if err := w.keys.Ensure(credentials.Contents{Keys: []string{"gateway-web"}}); err != nil {
		t.Fatal(err)
	}
	return w
}

func (w *world) now() time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	return time.Now().Add(w.offset)
}

// later moves the gateways' clock.
func (w *world) later(d time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.offset += d
}

// gateway starts one more instance and returns its URL.
func (w *world) gateway(adjust ...func(*runtime.Env)) string {
	w.t.Helper()
	server := httptest.NewUnstartedServer(w.handler(adjust...))
	server.Config.ReadTimeout = 100 * time.Millisecond                                       // waiting must outlast it
	server.Config.ReadHeaderTimeout, server.Config.IdleTimeout = 10*time.Second, time.Minute // left out, they were as short
	server.Start()
	w.t.Cleanup(server.Close)
	return server.URL
}

// handler is one more instance without a server.
func (w *world) handler(adjust ...func(*runtime.Env)) http.Handler {
	w.t.Helper()
	cfg := *config.Default()
	cfg.Policy = w.policy
	env := &runtime.Env{
		Name: Name, Config: &cfg, Log: zerolog.Nop(), DB: w.database.Pool(w.t, Name), Credentials: w.keys,
		Bus:     w.Bus(w.t, Name, func(c *bus.Config) { c.User, c.Seed = "web", w.Seeds["web"] }),
		Metrics: prometheus.NewRegistry(), Now: w.now,
	}
	for _, f := range adjust {
		f(env)
	}
	worker, err := Build(w.t.Context(), env)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(worker.Close)
	return worker.Public
}

// grant ends a login as sessionissuer does: the session first.
func (w *world) grant(login events.Login) {
	w.t.Helper()
	now := w.now()
	there, err := w.sessions.Insert(w.t.Context(), sessions.Session{Login: login, User: alice, App: "demo", AMR: []string{"pwd", "sms"}, ACR: "2fa",
		AuthTime: now, Idle: time.Hour, Expires: now.Add(12 * time.Hour)})
	if err != nil || !there {
		w.t.Fatalf("session: %v, %v", there, err)
	}
	closeLogin(w.t, w.Broker, login, events.Closed{Outcome: events.Granted, User: alice, AMR: []string{"pwd", "sms"}, ACR: "2fa",
		AuthTime: now, Expires: now.Add(12 * time.Hour)})
}

// A caller is somebody with an HTTP client.
type caller struct {
	t      *testing.T
	base   string
	client *http.Client
	header http.Header
}

// app is a client without cookies.
func (w *world) app(base string) *caller {
	return &caller{w.t, base, &http.Client{CheckRedirect: noRedirect}, make(http.Header)}
}

// browser keeps cookies, says that it asks for pages of the same origin, and follows no redirect by itself.
func (w *world) browser(base string) *caller {
	c := w.app(base)
	c.client.Jar = secureJar()
	c.header.Set("Sec-Fetch-Site", "same-origin")
	return c
}

func noRedirect(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }

// loopbackJar takes loopback for secure, as browsers do.
type loopbackJar struct{ *cookiejar.Jar }

func secureJar() http.CookieJar {
	jar, err := cookiejar.New(nil)
	if err != nil {
		panic(err) // never fails (net/http/cookiejar)
	}
	return loopbackJar{jar}
}

func overTLS(u *url.URL) *url.URL {
	tls := *u
	tls.Scheme = "https"
	return &tls
}

func (j loopbackJar) SetCookies(u *url.URL, cookies []*http.Cookie) {
	j.Jar.SetCookies(overTLS(u), cookies)
}
func (j loopbackJar) Cookies(u *url.URL) []*http.Cookie { return j.Jar.Cookies(overTLS(u)) }

func (c *caller) cookie(name string) string {
	u, err := url.Parse(c.base)
	if err != nil {
		c.t.Fatal(err)
	}
	for _, cookie := range c.client.Jar.Cookies(u) {
		if cookie.Name == name {
			return cookie.Value
		}
	}
	return ""
}

// A reply is an answer with its body read.
type reply struct {
	*http.Response
	body []byte
}

func (c *caller) do(method, path, contentType, body string) reply {
	c.t.Helper()
	r, err := http.NewRequestWithContext(c.t.Context(), method, c.base+path, strings.NewReader(body))
	if err != nil {
		c.t.Fatal(err)
	}
	for name, values := range c.header {
		r.Header[name] = values
	}
	if contentType != "" {
		r.Header.Set("Content-Type", contentType)
	}
	resp, err := c.client.Do(r)
	if err != nil {
		c.t.Fatal(err)
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		c.t.Fatal(err)
	}
	return reply{resp, data}
}

func (c *caller) get(path string) reply { c.t.Helper(); return c.do("GET", path, "", "") }

func (c *caller) post(path string, body any) reply {
	c.t.Helper()
	data, err := json.Marshal(body)
	if err != nil {
		c.t.Fatal(err)
	}
	return c.do("POST", path, "application/json", string(data))
}

// form sends a form with the token of the page that was shown last.
func (c *caller) form(path string, page reply, fields ...string) reply {
	c.t.Helper()
	form := url.Values{"csrf": {formField(c.t, page, "csrf")}}
	for i := 0; i < len(fields); i += 2 {
		form.Set(fields[i], fields[i+1])
	}
	return c.do("POST", path, "application/x-www-form-urlencoded", form.Encode())
}

func formField(t *testing.T, page reply, name string) string {
	t.Helper()
	_, after, ok := bytes.Cut(page.body, []byte(`name="`+name+`" value="`))
	value, _, closed := bytes.Cut(after, []byte(`"`))
	if !ok || !closed {
		t.Fatalf("the page has no field %s: %d %s", name, page.StatusCode, page.body)
	}
	return string(value)
}

// status makes sure of the status, and that nothing may keep the answer.
func (r reply) status(t *testing.T, want int) reply {
	t.Helper()
	if r.StatusCode != want {
		t.Fatalf("%s %s: %d, want %d: %s", r.Request.Method, r.Request.URL.Path, r.StatusCode, want, r.body)
	}
	if r.Header.Get("Cache-Control") != "no-store" || r.Header.Get("X-Content-Type-Options") != "nosniff" {
		t.Errorf("%s %s: headers %v", r.Request.Method, r.Request.URL.Path, r.Header)
	}
	return r
}

func (r reply) view(t *testing.T) loginView {
	t.Helper()
	var v loginView
	if err := json.Unmarshal(r.body, &v); err != nil {
		t.Fatalf("%v: %s", err, r.body)
	}
	return v
}

// login is the login that the answer is about.
func (v loginView) login() events.Login { return events.Login{Gateway: "web", ID: v.ID} }

// startBodyFor is a complete start of alice.
func startBodyFor(wait string) map[string]any {
	return map[string]any{"user": "alice", "method": "password", "password": "secret password", "app": "demo", "wait": wait}
}

// later runs a call at the same time.
func later(call func() reply) <-chan reply {
	done := make(chan reply, 1)
	go func() { done <- call() }()
	return done
}

// onRequested runs another worker's handler, which acts on each login that is requested, until the end of the test or stop.
func (w *world) onRequested(act func(login events.Login)) (stop func()) {
	w.t.Helper()
	b := w.Bus(w.t, "identityverifier")
	return testenv.Start(w.t, b, bus.On(func(_ context.Context, e *events.Event, _ *events.Requested) ([]*events.Event, error) {
		act(e.Login)
		return nil, nil
	}))
}

// nextRequest is the next login that is requested.
func (w *world) nextRequest(t *testing.T) events.Login {
	t.Helper()
	requested := make(chan events.Login, 16)
	stop := testenv.Start(t, w.Bus(t, "identityverifier"), bus.On(func(_ context.Context, e *events.Event, _ *events.Requested) ([]*events.Event, error) {
		requested <- e.Login
		return nil, nil
	}))
	defer stop()
	return <-requested
}
