// Package e2e tests the whole of Sekisho from outside: through its HTTP APIs, its pages and its bus, started by the same
// functions as `sekisho up` and `sekisho run`.
package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"github.com/sekisho/sekisho/services"
	"github.com/sekisho/sekisho/services/internal/config"
	"github.com/sekisho/sekisho/services/internal/runtime"
	"github.com/sekisho/sekisho/services/internal/testenv"
	"github.com/sekisho/sekisho/services/internal/up"
)

func TestMain(m *testing.M) { testenv.Main(m) }

// patience bounds what a test waits for. A right program never needs it.
const patience = time.Minute

// cheap are settings for tests: the lowest cost of a hash, and no wait for a denial.
const cheap = "password: {memory: 8, time: 1}\nlogin: {denied_floor: 0s}\n"

// A system is one `sekisho up` that runs in this process.
type system struct {
	t              *testing.T
	dir            string
	HTTP, Ops, Sim string // base URLs
	NATS, Postgres string
	Password       string // of the demo accounts
	adminToken     string
	log            lockedBuffer
	client         *http.Client // follows no redirects, and holds what it sees against schemas/openapi.yaml
	conformity     *conformity
	stop           func()
}

// start runs a system with the given settings until the test ends.
func start(t *testing.T, settings string) *system {
	t.Helper()
	s := &system{t: t, dir: t.TempDir()}
	s.run(settings, services.All)
	return s
}

// run starts the given workers, and all that they need, in the system's data dir.
func (s *system) run(settings string, workers []runtime.Service) {
	s.t.Helper()
	file := filepath.Join(s.dir, "sekisho.yaml")
	must(s.t, os.WriteFile(file, []byte(settings), 0o600))
	cfg, err := config.Load(file)
	must(s.t, err)
	env := config.Environment{HTTPAddr: "127.0.0.1:0", OpsAddr: "127.0.0.1:0", SimAddr: "127.0.0.1:0", NATSAddr: "127.0.0.1:0",
		DataDir: s.dir, CredentialsDir: filepath.Join(s.dir, "credentials")}
	ctx, cancel := context.WithCancel(context.Background())
	out, ready := newSignal()
	done := make(chan error, 1)
	go func() {
		done <- up.Run(ctx, up.Options{Services: workers, Config: cfg, Environment: env, Log: zerolog.New(&s.log), Out: out})
	}()
	var once sync.Once
	s.stop = func() {
		once.Do(func() {
			cancel()
			if err := <-done; err != nil {
				s.t.Errorf("up: %v", err)
			}
		})
	}
	s.t.Cleanup(s.stop)
	select {
	case <-ready:
	case err := <-done:
		done <- err
		s.t.Fatalf("up did not start: %v\n%s", err, s.log.String())
	case <-time.After(patience):
		s.t.Fatalf("up is not ready\n%s", s.log.String())
	}
	var at struct{ HTTP, Ops, Sim, NATS, Postgres string }
	data, err := os.ReadFile(filepath.Join(s.dir, "addresses.json"))
	must(s.t, err)
	must(s.t, json.Unmarshal(data, &at))
	s.HTTP, s.Ops, s.Sim, s.NATS, s.Postgres = "http://"+at.HTTP, "http://"+at.Ops, "http://"+at.Sim, at.NATS, at.Postgres
	s.conformity = newConformity(s)
	s.client = &http.Client{Transport: s.conformity, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	s.Password = s.secret("demo-password")
	s.adminToken = s.secret("admin-token")
}

func (s *system) secret(name string) string {
	s.t.Helper()
	data, err := os.ReadFile(filepath.Join(s.dir, name))
	must(s.t, err)
	return strings.TrimSpace(string(data))
}

// A login is the API's answer about a login, and the tokens that came with it.
type login struct {
	ID        string   `json:"id"`
	Version   int      `json:"version"`
	Status    string   `json:"status"`
	Reason    string   `json:"reason"`
	App       string   `json:"app"`
	Choices   []string `json:"choices"`
	Challenge *struct {
		Round        int       `json:"round"`
		Factor       string    `json:"factor"`
		Hint         string    `json:"hint"`
		Expires      time.Time `json:"expires"`
		ResendAt     time.Time `json:"resend_at"`
		AttemptsLeft int       `json:"attempts_left"`
		Number       string    `json:"number"`   // for the phone
		Question     string    `json:"question"` // for the token
	} `json:"challenge"`
	Session *struct {
		User string   `json:"user"`
		AMR  []string `json:"amr"`
		ACR  string   `json:"acr"`
	} `json:"session"`
	LoginToken   string `json:"login_token"`
	SessionToken string `json:"session_token"`
}

// call makes one request; body is JSON unless nil. The answer is decoded into dst, unless that is nil or the call failed.
func (s *system) call(method, address, bearer string, body, dst any) int {
	s.t.Helper()
	status, data := s.raw(method, address, bearer, body)
	if dst != nil && status/100 == 2 { // problem documents have another shape
		if err := json.Unmarshal(data, dst); err != nil {
			s.t.Fatalf("%s %s: %d %s: %v", method, address, status, data, err)
		}
	}
	return status
}

func (s *system) raw(method, address, bearer string, body any) (int, []byte) {
	s.t.Helper()
	var reader io.Reader
	if body != nil {
		data, err := json.Marshal(body)
		must(s.t, err)
		reader = bytes.NewReader(data)
	}
	req, err := http.NewRequestWithContext(s.t.Context(), method, address, reader)
	must(s.t, err)
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	if bearer != "" {
		req.Header.Set("Authorization", "Bearer "+bearer)
	}
	return s.do(req)
}

func (s *system) do(req *http.Request) (int, []byte) {
	s.t.Helper()
	res, err := s.client.Do(req)
	must(s.t, err)
	defer res.Body.Close()
	data, err := io.ReadAll(res.Body)
	must(s.t, err)
	return res.StatusCode, data
}

// begin starts a login with a password and returns what the API says, the login's secret included.
func (s *system) begin(user, password string) login {
	s.t.Helper()
	return s.beginWith(map[string]any{"user": user, "method": "password", "password": password})
}

func (s *system) beginWith(body map[string]any) login {
	s.t.Helper()
	body["app"], body["tokens"] = "demo", true
	if body["wait"] == nil {
		body["wait"] = "20s"
	}
	var l login
	if status := s.call(http.MethodPost, s.HTTP+"/v1/logins", "", body, &l); status != http.StatusCreated || l.LoginToken == "" {
		s.t.Fatalf("start of a login: %d %+v", status, l)
	}
	return l
}

func (s *system) path(l login) string { return s.HTTP + "/v1/logins/" + l.ID }

// look asks where a login stands.
func (s *system) look(l login) login {
	s.t.Helper()
	var now login
	if status := s.call(http.MethodGet, s.path(l), l.LoginToken, nil, &now); status != http.StatusOK {
		s.t.Fatalf("look: %d", status)
	}
	return now
}

// until waits for the login to come to a state.
func (s *system) until(l login, what string, ok func(login) bool) login {
	s.t.Helper()
	now := s.look(l)
	for deadline := time.Now().Add(patience); !ok(now); {
		if time.Now().After(deadline) {
			s.t.Fatalf("the login never was %s: %+v\n%s", what, now, s.log.String())
		}
		query := fmt.Sprintf("?after=%d&wait=5s", now.Version)
		now = login{}
		if status := s.call(http.MethodGet, s.path(l)+query, l.LoginToken, nil, &now); status != http.StatusOK {
			s.t.Fatalf("look: %d", status)
		}
	}
	return now
}

func (s *system) untilStatus(l login, status string) login {
	s.t.Helper()
	return s.until(l, status, func(now login) bool { return now.Status == status })
}

// answer answers the challenge and returns the HTTP status and the API's answer.
func (s *system) answer(l login, code string) (int, login) {
	s.t.Helper()
	var now login
	status := s.call(http.MethodPost, s.path(l)+"/answers", l.LoginToken, map[string]any{"code": code, "wait": "20s"}, &now)
	return status, now
}

// messages are the text messages that a simulated phone got, newest first.
func (s *system) messages(to string) (all []message) {
	s.t.Helper()
	s.call(http.MethodGet, s.Sim+"/sim/sms/messages?to="+url.QueryEscape(to), "", nil, &all)
	return all
}

type message struct{ To, Body, Provider string }

// code is the code in a message, six digits in a row; "" in a message that tells of a change of a phone.
func (m message) code() string {
	for i := 0; i+6 <= len(m.Body); i++ {
		if strings.Trim(m.Body[i:i+6], "0123456789") == "" {
			return m.Body[i : i+6]
		}
	}
	return ""
}

// codes are the codes that a simulated phone got by text message, newest first.
func (s *system) codes(to string) (codes []string) {
	s.t.Helper()
	for _, m := range s.messages(to) {
		if code := m.code(); code != "" {
			codes = append(codes, code)
		}
	}
	return codes
}

// newestCode is the newest code that a number got.
func (s *system) newestCode(to string) string {
	s.t.Helper()
	codes := s.codes(to)
	if len(codes) == 0 {
		s.t.Fatalf("no code to %s\n%s", to, s.log.String())
	}
	return codes[0]
}

func (s *system) fault(provider, mode string) {
	s.t.Helper()
	if status := s.call(http.MethodPut, s.Sim+"/sim/faults/"+provider, "", map[string]any{"mode": mode}, nil); status/100 != 2 {
		s.t.Fatalf("fault: %d", status)
	}
}

func (s *system) risk(user, result string) {
	s.t.Helper()
	if status := s.call(http.MethodPut, s.Sim+"/sim/risk/users/"+user, "", map[string]any{"result": result}, nil); status/100 != 2 {
		s.t.Fatalf("risk: %d", status)
	}
}

func (s *system) admin(method, path string, body, dst any) int {
	s.t.Helper()
	return s.call(method, s.Ops+"/admin/v1"+path, s.adminToken, body, dst)
}

// addUser makes a user with a password and a phone of its own.
func (s *system) addUser(name, phone string) {
	s.t.Helper()
	if status := s.admin(http.MethodPost, "/users", map[string]any{"user": name, "password": userPassword, "phone": phone, "primary": "password"}, nil); status != http.StatusCreated {
		s.t.Fatalf("add user: %d", status)
	}
}

const userPassword = "a long enough password"

// poll waits for a condition that nothing signals.
func poll(t *testing.T, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(2 * patience); !ok(); <-tick.C {
		if time.Now().After(end) {
			t.Errorf("never %s", what)
			return
		}
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// A lockedBuffer may be written and read at the same time.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// newSignal is a writer and a channel that is closed by the first write: the summary says that all is ready.
func newSignal() (io.Writer, <-chan struct{}) {
	ready := make(chan struct{})
	var once sync.Once
	return writerFunc(func(p []byte) (int, error) {
		once.Do(func() { close(ready) })
		return len(p), nil
	}), ready
}

type writerFunc func(p []byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }
