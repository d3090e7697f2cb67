package console

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"

	"github.com/sekisho/sekisho/events"
	"github.com/sekisho/sekisho/services/internal/bus"
	"github.com/sekisho/sekisho/services/internal/config"
	"github.com/sekisho/sekisho/services/internal/credentials"
	"github.com/sekisho/sekisho/services/internal/directory"
	"github.com/sekisho/sekisho/services/internal/runtime"
	"github.com/sekisho/sekisho/services/internal/sessions"
	"github.com/sekisho/sekisho/services/internal/testenv"
)

func TestMain(m *testing.M) { testenv.Main(m) }

const token = "the admin token"

// world is the worker on a real broker and a real database.
type world struct {
	*testing.T
	db      *testenv.Database
	env     *runtime.Env
	console *console
	wire    *wire // of the console to the broker
	handler http.Handler
	log     *journal
	heard   *nats.Subscription // account events
	ended   *nats.Subscription // session revocations
}

// A journal is a log that can be read while it is written: the relay may have something to say at any time.
type journal struct {
	mu   sync.Mutex
	text strings.Builder
}

func (j *journal) Write(line []byte) (int, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.text.Write(line)
}

func (j *journal) String() string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.text.String()
}

func newWorld(t *testing.T) *world {
	t.Helper()
	broker := testenv.NATS(t)
	w := &world{T: t, db: testenv.Migrated(t), wire: new(wire), log: new(journal)}
	listener := broker.Dial(t, bus.UserSetup)
	var err error
	w.heard, err = listener.SubscribeSync("account.>")
	w.check(err)
	w.ended, err = listener.SubscribeSync("session.revoked.>")
	w.check(err)
	w.check(listener.Flush())

	cfg := config.Default()
	cfg.AdminToken = token
	cfg.Password = config.Password{Memory: 64, Time: 1, Threads: 1, Concurrent: 1, MinLength: 8}
	folder := credentials.Open(t.TempDir())
	w.check(folder.Ensure(credentials.Contents{Keys: []string{"token"}}))
	w.env = &runtime.Env{Name: Name, Config: cfg, Credentials: folder, Log: zerolog.New(w.log), DB: w.db.Pool(t, Name),
		Bus:     broker.Bus(t, Name, func(c *bus.Config) { c.Options = append(c.Options, nats.SetCustomDialer(w.wire)) }),
		Metrics: prometheus.NewRegistry(), Now: time.Now}
	w.console, err = newConsole(w.env)
	w.check(err)
	ctx, stop := context.WithCancel(context.Background())
	relayed := make(chan error)
	go func() { relayed <- w.console.relay(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-relayed; err != nil {
			t.Error(err)
		}
		w.console.close()
	})
	w.handler = w.console.handler()
	return w
}

// A wire is a connection that can be cut.
type wire struct {
	mu   sync.Mutex
	conn net.Conn
	down bool
}

func (w *wire) Dial(network, address string) (net.Conn, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.down {
		return nil, errors.New("the wire is cut")
	}
	var err error
	w.conn, err = net.Dial(network, address)
	return w.conn, err
}

func (w *wire) cut() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.down = true
	w.conn.Close()
}

func (w *wire) mend() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.down = false
}

func (w *world) check(err error) {
	w.Helper()
	if err != nil {
		w.Fatal(err)
	}
}

// call asks as an admin.
func (w *world) call(method, path, body string, adjust ...func(*http.Request)) *httptest.ResponseRecorder {
	w.Helper()
	r := httptest.NewRequest(method, path, strings.NewReader(body))
	r.Header.Set("Authorization", "Bearer "+token)
	if body != "" {
		r.Header.Set("Content-Type", "application/json")
	}
	for _, f := range adjust {
		f(r)
	}
	answer := httptest.NewRecorder()
	w.handler.ServeHTTP(answer, r)
	return answer
}

// must is a call that succeeds with a status; it returns the answer's JSON.
func (w *world) must(status int, method, path, body string) map[string]any {
	w.Helper()
	answer := w.call(method, path, body)
	if answer.Code != status {
		w.Fatalf("%s %s: %d %s, want %d", method, path, answer.Code, answer.Body, status)
	}
	if answer.Body.Len() == 0 {
		return nil
	}
	var got map[string]any
	w.check(json.Unmarshal(answer.Body.Bytes(), &got))
	return got
}

// announced is the next account event: its kind, its user and its data.
func (w *world) announced(kind, user, data string) {
	w.Helper()
	msg, err := w.heard.NextMsg(10 * time.Second)
	if err != nil {
		w.Fatalf("%s of %s was not announced: %v", kind, user, err)
	}
	if msg.Subject != "account."+kind+"."+user || string(msg.Data) != data {
		w.Errorf("announced %s %s, want %s of %s with %s", msg.Subject, msg.Data, kind, user, data)
	}
}

// published waits until nothing is left to announce.
func (w *world) published() {
	w.Helper()
	ctx, cancel := context.WithTimeout(w.Context(), 20*time.Second)
	defer cancel()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for left := 1; left > 0; {
		w.check(w.db.Pool(w, "").QueryRow(ctx, `SELECT count(*) FROM directory.outbox`).Scan(&left))
		<-tick.C
	}
}

// session inserts a session of a user.
func (w *world) session(user string) events.Login {
	w.Helper()
	store := sessions.New(w.db.Pool(w, "sessionissuer"), time.Now)
	defer store.Close()
	login := testenv.NewLogin(w, "web")
	there, err := store.Insert(w.Context(), sessions.Session{Login: login, User: user, App: "demo", AMR: []string{"pwd"}, ACR: "1fa",
		AuthTime: time.Now(), Idle: time.Hour, Expires: time.Now().Add(time.Hour)})
	if err != nil || !there {
		w.Fatalf("Insert = %v, %v", there, err)
	}
	return login
}

// revoked waits until gateways are told of a session's end.
func (w *world) revoked(login events.Login) {
	w.Helper()
	msg, err := w.ended.NextMsg(10 * time.Second)
	if err != nil {
		w.Fatalf("%s was not revoked: %v", login, err)
	}
	if want := "session.revoked." + login.Gateway + "." + login.ID; msg.Subject != want {
		w.Errorf("revoked %s, want %s", msg.Subject, want)
	}
}

func TestUser(t *testing.T) {
	w := newWorld(t)
	answer := w.call("POST", "/admin/v1/users", `{"user":"Alice","password":"correct horse","phone":"090-1234-5678","locale":"en"}`)
	if answer.Code != 201 || answer.Header().Get("Location") != "/admin/v1/users/alice" {
		t.Fatalf("created: %d %v %s", answer.Code, answer.Header(), answer.Body)
	}
	var created map[string]any
	w.check(json.Unmarshal(answer.Body.Bytes(), &created))
	id := created["id"].(string)
	delete(created, "created")
	want := map[string]any{"user": "alice", "id": id, "locale": "en", "primary": "password", "phone": "+819012345678", "enabled": true,
		"locked": false, "authenticators": []any{"password", "sms"}}
	if fmt.Sprint(created) != fmt.Sprint(want) {
		t.Errorf("created %v, want %v", created, want)
	}
	w.announced("created", id, `{"authenticators":["password","sms"],"primary":"password"}`)

	if got := w.must(200, "GET", "/admin/v1/users/ALICE", ""); got["id"] != id {
		t.Errorf("alice in another spelling = %v", got)
	}
	got := w.must(200, "PATCH", "/admin/v1/users/alice", `{"locale":"ja","primary":"token","phone":""}`)
	if got["locale"] != "ja" || got["primary"] != "token" || got["phone"] != nil || fmt.Sprint(got["authenticators"]) != "[password]" {
		t.Errorf("changed to %v", got)
	}
	w.announced("changed", id, `{"fields":["locale","phone","primary"]}`)
	if got := w.must(200, "PATCH", "/admin/v1/users/alice", `{}`); got["locale"] != "ja" { // changes and announces nothing
		t.Errorf("after an empty change: %v", got)
	}

	if got := w.must(200, "POST", "/admin/v1/users/alice/lock", ""); got["locked"] != true {
		t.Errorf("locked = %v", got)
	}
	w.announced("locked", id, `{}`)
	if got := w.must(200, "POST", "/admin/v1/users/alice/unlock", ""); got["locked"] != false {
		t.Errorf("unlocked = %v", got)
	}
	w.announced("unlocked", id, `{}`)
	if got := w.must(200, "GET", "/admin/v1/users/alice", ""); got["locked"] != false {
		t.Errorf("after unlock: %v", got)
	}
	w.must(204, "DELETE", "/admin/v1/users/alice", "")
	w.announced("locked", id, `{}`)
	w.announced("deleted", id, `{}`)
	w.must(404, "GET", "/admin/v1/users/alice", "")
}

func TestPasswordIsKeptAsAHash(t *testing.T) {
	w := newWorld(t)
	w.must(201, "POST", "/admin/v1/users", `{"user":"alice","password":"pa\u0301sswort"}`)
	w.must(200, "PATCH", "/admin/v1/users/alice", `{"password":"ne\u0301w secret"}`)
	var hash string
	w.check(w.db.Pool(t, "").QueryRow(t.Context(), `SELECT hash FROM directory.passwords`).Scan(&hash))
	hasher := directory.NewHasher(directory.Cost{Memory: 64, Time: 1, Threads: 1}, 1)
	if right, outdated, err := hasher.Verify(t.Context(), "n\u00e9w secret", hash); !right || outdated || err != nil {
		t.Errorf("Verify = %v, %v, %v", right, outdated, err)
	}
}

func TestUsersList(t *testing.T) {
	w := newWorld(t)
	for i := range directory.PageSize + 1 {
		w.must(201, "POST", "/admin/v1/users", fmt.Sprintf(`{"user":"u%02d"}`, i))
	}
	w.must(201, "POST", "/admin/v1/users", `{"user":"たろう"}`)
	for _, tt := range []struct {
		query string
		n     int
		next  any
	}{
		{"", directory.PageSize, 2.0}, {"?page=2", 2, nil}, {"?q=U1", 10, nil}, {"?q=%E3%81%9F", 1, nil}, {"?q=nobody", 0, nil}, {"?q=u&page=2", 1, nil},
	} {
		got := w.must(200, "GET", "/admin/v1/users"+tt.query, "")
		if users, ok := got["users"].([]any); !ok || len(users) != tt.n || got["next"] != tt.next {
			t.Errorf("%s: %d users, next %v, want %d, %v", tt.query, len(users), got["next"], tt.n, tt.next)
		}
	}
	if got := w.must(200, "GET", "/admin/v1/users/%E3%81%9F%E3%82%8D%E3%81%86", ""); got["user"] != "たろう" {
		t.Errorf("by an escaped path: %v", got)
	}
}

func TestSessionsEnd(t *testing.T) {
	w := newWorld(t)
	ended := [2]string{"sessions_revoked", `{"sessions":1}`}
	for name, tt := range map[string]struct {
		method, path, body string
		announced          [][2]string
	}{
		"lock":         {"POST", "/lock", "", [][2]string{{"locked", `{}`}, ended}},
		"delete":       {"DELETE", "", "", [][2]string{{"locked", `{}`}, ended, {"deleted", `{}`}}},
		"disable":      {"PATCH", "", `{"enabled":false}`, [][2]string{{"changed", `{"fields":["enabled"]}`}, ended}},
		"password":     {"PATCH", "", `{"password":"another secret"}`, [][2]string{{"changed", `{"fields":["password"]}`}, ended}},
		"phone":        {"PATCH", "", `{"phone":"+819087654321"}`, [][2]string{{"changed", `{"fields":["phone"]}`}, ended}},
		"remove phone": {"DELETE", "/authenticators/sms", "", [][2]string{ended, {"changed", `{"fields":["phone"]}`}}},
	} {
		t.Run(name, func(t *testing.T) {
			user := strings.ReplaceAll(name, " ", "-")
			id := w.must(201, "POST", "/admin/v1/users", `{"user":"`+user+`","password":"correct horse","phone":"09012345678"}`)["id"].(string)
			w.announced("created", id, `{"authenticators":["password","sms"],"primary":"password"}`)
			login := w.session(id)
			if answer := w.call(tt.method, "/admin/v1/users/"+user+tt.path, tt.body); answer.Code >= 300 {
				t.Fatalf("%d %s", answer.Code, answer.Body)
			}
			w.revoked(login)
			for _, event := range tt.announced {
				w.announced(event[0], id, event[1])
			}
			var live int
			w.check(w.db.Pool(t, "").QueryRow(t.Context(), `SELECT count(*) FROM sessions.sessions WHERE user_id = $1 AND revoked_at IS NULL`, id).Scan(&live))
			if live != 0 {
				t.Error("a session lives on")
			}
		})
	}
	id := w.must(201, "POST", "/admin/v1/users", `{"user":"frank","password":"correct horse"}`)["id"].(string)
	w.session(id)
	w.must(200, "PATCH", "/admin/v1/users/frank", `{"locale":"en"}`)
	if list := w.must(200, "GET", "/admin/v1/users/frank/sessions", "")["sessions"].([]any); len(list) != 1 {
		t.Error("a change of the language ended the session")
	}
}

func TestSessions(t *testing.T) {
	w := newWorld(t)
	alice := w.must(201, "POST", "/admin/v1/users", `{"user":"alice"}`)["id"].(string)
	w.must(201, "POST", "/admin/v1/users", `{"user":"bob"}`)
	one, two := w.session(alice), w.session(alice)
	ids := func(user string) (ids []string) {
		t.Helper()
		for _, s := range w.must(200, "GET", "/admin/v1/users/"+user+"/sessions", "")["sessions"].([]any) {
			ids = append(ids, s.(map[string]any)["id"].(string))
		}
		return ids
	}
	first, second := "web."+one.ID, "web."+two.ID
	if got := ids("alice"); len(got) != 2 || !slices.Contains(got, first) || !slices.Contains(got, second) {
		t.Errorf("alice's sessions = %v", got)
	}
	for _, path := range []string{"bob/sessions/" + first, "alice/sessions/web", "alice/sessions/web.0199", "nobody/sessions/" + first} {
		w.must(404, "DELETE", "/admin/v1/users/"+path, "")
	}
	w.must(204, "DELETE", "/admin/v1/users/alice/sessions/"+first, "")
	w.revoked(one)
	if got := ids("alice"); !slices.Equal(got, []string{second}) {
		t.Errorf("alice's sessions after one ended = %v", got)
	}
	w.must(204, "DELETE", "/admin/v1/users/alice/sessions/"+first, "") // again, as after an answer that got lost
}

func TestAuthenticators(t *testing.T) {
	w := newWorld(t)
	id := w.must(201, "POST", "/admin/v1/users", `{"user":"alice","password":"correct horse","phone":"09012345678"}`)["id"].(string)
	attempts := directory.NewAttempts(w.db.Pool(t, "otpvalidator"), directory.Rule(w.env.Config.Lock), time.Now)
	defer attempts.Close()
	for i := range w.env.Config.Lock.After {
		_, err := attempts.Begin(t.Context(), directory.Attempt{Event: fmt.Sprint(i), Digest: []byte{1}, Authenticator: directory.SMSOf(id)})
		w.check(err)
	}
	list := func() string {
		t.Helper()
		text := ""
		for _, v := range w.must(200, "GET", "/admin/v1/users/alice/authenticators", "")["authenticators"].([]any) {
			a := v.(map[string]any)
			text += fmt.Sprintf("%v %v %v;", a["id"], a["failures"], a["locked"])
		}
		return text
	}
	if got := list(); got != "password 0 false;sms 5 true;" {
		t.Errorf("authenticators = %s", got)
	}
	w.must(200, "POST", "/admin/v1/users/alice/unlock", "")
	if got := list(); got != "password 0 false;sms 0 false;" {
		t.Errorf("authenticators after unlock = %s", got)
	}
	w.must(404, "DELETE", "/admin/v1/users/alice/authenticators/token", "")
	w.must(204, "DELETE", "/admin/v1/users/alice/authenticators/password", "")
	w.must(404, "DELETE", "/admin/v1/users/alice/authenticators/password", "")
	if got := list(); got != "sms 0 false;" {
		t.Errorf("authenticators without the password = %s", got)
	}
}

// What an admin does while the bus is away is done, and announced when it is back: once, and in order.
func TestBusIsAway(t *testing.T) {
	w := newWorld(t)
	id := w.must(201, "POST", "/admin/v1/users", `{"user":"alice","password":"correct horse","phone":"09012345678"}`)["id"].(string)
	w.announced("created", id, `{"authenticators":["password","sms"],"primary":"password"}`)
	w.published()
	lost := w.env.Bus.Conn().StatusChanged(nats.RECONNECTING)
	w.wire.cut()
	<-lost
	w.session(id)
	linked := w.must(201, "POST", "/admin/v1/users/alice/authenticators", `{"kind":"mamoru","account":"alice@example"}`)["id"].(string)
	for _, authenticator := range []string{linked, "sms", "password"} {
		w.must(204, "DELETE", "/admin/v1/users/alice/authenticators/"+authenticator, "")
		w.must(404, "DELETE", "/admin/v1/users/alice/authenticators/"+authenticator, "")
	}
	bob := w.must(201, "POST", "/admin/v1/users", `{"user":"bob"}`)["id"].(string)
	w.session(bob)
	w.must(204, "DELETE", "/admin/v1/users/bob", "")
	if msg, err := w.heard.NextMsg(time.Millisecond); err == nil {
		t.Fatalf("heard %s of a bus that is away", msg.Subject)
	}
	w.wire.mend()
	device := `{"device":"` + strings.TrimPrefix(linked, "push:") + `"}`
	w.announced("device-enrolled", id, device)
	w.announced("sessions_revoked", id, `{"sessions":1}`)
	w.announced("device-removed", id, device)
	w.announced("changed", id, `{"fields":["phone"]}`)
	w.announced("changed", id, `{"fields":["password"]}`)
	w.announced("created", bob, `{"authenticators":[],"primary":"password"}`)
	w.announced("locked", bob, `{}`)
	w.announced("sessions_revoked", bob, `{"sessions":1}`)
	w.announced("deleted", bob, `{}`)
	w.published()
	w.must(201, "POST", "/admin/v1/users", `{"user":"carol"}`)
	if msg, err := w.heard.NextMsg(10 * time.Second); err != nil || !strings.HasPrefix(msg.Subject, "account.created.") {
		t.Errorf("then: %v, %v", msg, err)
	}
}

// A phone is invited by an admin, enrolls, shows among the authenticators, and is removed with the sessions.
func TestPhone(t *testing.T) {
	w := newWorld(t)
	w.env.Config.Gateway.URL = "https://login.example.com"
	id := w.must(201, "POST", "/admin/v1/users", `{"user":"alice"}`)["id"].(string)
	w.announced("created", id, `{"authenticators":[],"primary":"password"}`)
	w.must(201, "POST", "/admin/v1/users", `{"user":"bob"}`)
	if _, err := w.heard.NextMsg(10 * time.Second); err != nil {
		t.Fatal(err)
	}

	before := time.Now()
	invited := w.must(201, "POST", "/admin/v1/users/ALICE/activations", "")
	code, ok := strings.CutPrefix(invited["activation_url"].(string), "https://login.example.com/authenticator#")
	expires, err := time.Parse(time.RFC3339Nano, invited["expires"].(string))
	if !ok || err != nil || !strings.HasPrefix(invited["qr_svg"].(string), "<svg ") || len(invited) != 3 {
		t.Fatalf("invited: %v", invited)
	}
	if lifetime := expires.Sub(before); lifetime < 10*time.Minute || lifetime > 11*time.Minute {
		t.Errorf("the invitation lives for %v", lifetime)
	}
	phones := directory.NewDevices(directory.NewOutbox(w.db.Pool(t, "pushnotifier"), time.Now))
	defer phones.Close()
	device, err := phones.Enroll(t.Context(), code, directory.Device{Name: "my phone", PublicKey: append([]byte{4}, make([]byte, 64)...), Gateway: "web"}, 1)
	if err != nil || device.User != id {
		t.Fatalf("enrolled %+v, %v", device, err)
	}
	w.announced("device-enrolled", id, `{"device":"`+device.ID+`","by":"`+device.ID+`"}`) // which that process did not do

	list := w.must(200, "GET", "/admin/v1/users/alice/authenticators", "")["authenticators"].([]any)
	if a := list[0].(map[string]any); len(list) != 1 || a["id"] != "push:"+device.ID || a["kind"] != "push" || a["name"] != "my phone" {
		t.Errorf("authenticators = %v", list)
	}
	if got := w.must(200, "GET", "/admin/v1/users/alice", "")["authenticators"].([]any); len(got) != 1 || got[0] != "push" {
		t.Errorf("alice has %v", got)
	}
	session := w.session(id)
	path := "/authenticators/push:" + device.ID
	w.must(404, "DELETE", "/admin/v1/users/bob"+path, "")
	w.must(204, "DELETE", "/admin/v1/users/alice"+path, "")
	w.revoked(session)
	w.announced("sessions_revoked", id, `{"sessions":1}`)
	w.announced("device-removed", id, `{"device":"`+device.ID+`"}`)
	w.must(404, "DELETE", "/admin/v1/users/alice"+path, "")
	w.must(404, "POST", "/admin/v1/users/nobody/activations", "")
	if strings.Contains(w.log.String(), code) {
		t.Error("the invitation is in the log")
	}

	w.env.Config.Push.Devices = 1
	linked := w.must(201, "POST", "/admin/v1/users/alice/authenticators", `{"kind":"mamoru","account":"alice@example"}`)
	w.announced("device-enrolled", id, `{"device":"`+strings.TrimPrefix(linked["id"].(string), "push:")+`"}`)
	if linked["name"] != "Mamoru" || linked["kind"] != "push" {
		t.Errorf("linked %v", linked)
	}
	again := w.must(201, "POST", "/admin/v1/users/alice/authenticators", `{"kind":"mamoru","account":"alice@example"}`) // as after an answer that got lost
	if again["id"] != linked["id"] {
		t.Errorf("linked again: %v, want %v", again, linked)
	}
	w.must(409, "POST", "/admin/v1/users/alice/authenticators", `{"kind":"mamoru","account":"another"}`)
	w.must(409, "POST", "/admin/v1/users/alice/activations", "")
	w.must(404, "POST", "/admin/v1/users/nobody/authenticators", `{"kind":"mamoru","account":"x"}`)

	w.env.Config.Gateway.URL = ""
	w.must(409, "POST", "/admin/v1/users/bob/activations", "")
	w.env.Config.Gateway.Base = "http://127.0.0.1:8080"
	if url := w.must(201, "POST", "/admin/v1/users/bob/activations", "")["activation_url"].(string); !strings.HasPrefix(url, "http://127.0.0.1:8080/authenticator#") {
		t.Errorf("without gateway.url: %s", url)
	}
}

func TestAdminsOnly(t *testing.T) {
	w := newWorld(t)
	for name, value := range map[string]string{
		"nothing": "", "another token": "Bearer another", "longer": "Bearer " + token + "x", "shorter": "Bearer " + token[1:],
		"no scheme": token, "another scheme": "Basic " + token, "empty": "Bearer ",
	} {
		for _, path := range []string{"/admin/v1/users", "/admin/v1/unknown"} {
			answer := w.call("GET", path, "", func(r *http.Request) { r.Header.Set("Authorization", value) })
			if answer.Code != 401 || answer.Header().Get("WWW-Authenticate") == "" || answer.Header().Get("Content-Type") != "application/problem+json" {
				t.Errorf("%s: GET %s: %d %v", name, path, answer.Code, answer.Header())
			}
		}
	}
	if answer := w.call("GET", "/admin/v1/users", "", func(r *http.Request) { r.Header.Set("Authorization", "bearer "+token) }); answer.Code != 200 {
		t.Errorf("scheme in small letters: %d", answer.Code)
	}
	w.env.Config.AdminToken = ""
	if _, err := Build(t.Context(), w.env); err == nil {
		t.Error("built without an admin token")
	}
}

func TestBadInput(t *testing.T) {
	w := newWorld(t)
	w.must(201, "POST", "/admin/v1/users", `{"user":"taken"}`)
	for name, tt := range map[string]struct {
		method, path, body string
		status             int
		field              string
	}{
		"taken":             {"POST", "", `{"user":"TAKEN"}`, 409, "user"},
		"no name":           {"POST", "", `{}`, 422, "user"},
		"bad name":          {"POST", "", `{"user":"a b"}`, 422, "user"},
		"long name":         {"POST", "", `{"user":"` + strings.Repeat("a", 129) + `"}`, 422, "user"},
		"bad phone":         {"POST", "", `{"user":"a","phone":"123"}`, 422, "phone"},
		"bad locale":        {"POST", "", `{"user":"a","locale":"de"}`, 422, "locale"},
		"bad primary":       {"POST", "", `{"user":"a","primary":"sms"}`, 422, "primary"},
		"short password":    {"POST", "", `{"user":"a","password":"1234567"}`, 422, "password"},
		"short after NFC":   {"POST", "", `{"user":"a","password":"e\u0301e\u0301e\u0301e\u0301"}`, 422, "password"},
		"long password":     {"POST", "", `{"user":"a","password":"` + strings.Repeat("x", 1025) + `"}`, 422, "password"},
		"wrong type":        {"POST", "", `{"user":1}`, 422, "user"},
		"unknown field":     {"POST", "", `{"user":"a","enabled":true}`, 422, "enabled"},
		"unknown in change": {"PATCH", "/taken", `{"user":"b"}`, 422, "user"},
		"bad in change":     {"PATCH", "/taken", `{"password":"short"}`, 422, "password"},
		"common password":   {"POST", "", `{"user":"a","password":"Password123"}`, 422, "password"},
		"name as password":  {"POST", "", `{"user":"Marguerite","password":"marguerite"}`, 422, "password"},
		"common in change":  {"PATCH", "/taken", `{"password":"1qaz2wsx"}`, 422, "password"},
		"link of a phone":   {"POST", "/taken/authenticators", `{"kind":"sekisho","account":"a"}`, 422, "kind"},
		"link to nothing":   {"POST", "/taken/authenticators", `{"kind":"mamoru"}`, 422, "account"},
		"link, long name":   {"POST", "/taken/authenticators", `{"kind":"mamoru","account":"a","name":"` + strings.Repeat("x", 65) + `"}`, 422, "name"},
		"link, line break":  {"POST", "/taken/authenticators", `{"kind":"mamoru","account":"a\nb"}`, 422, "account"},
		"duplicate":         {"POST", "", `{"user":"a","user":"b"}`, 400, "user"},
		"not JSON":          {"POST", "", `user=a`, 400, ""},
		"not UTF-8":         {"POST", "", "{\"user\":\"\xff\"}", 400, ""},
		"too large":         {"POST", "", `{"user":"` + strings.Repeat("a", maxBody) + `"}`, 413, ""},
		"unknown user":      {"PATCH", "/nobody", `{"locale":"en"}`, 404, ""},
		"impossible user":   {"GET", "/a%20b%00", "", 404, ""},
		"bad page":          {"GET", "?page=0", "", 422, "page"},
		"page of letters":   {"GET", "?page=two", "", 422, "page"},
		"bad prefix":        {"GET", "?q=a%20b", "", 422, "q"},
		"wrong method":      {"PUT", "/taken", `{}`, 405, ""},
		"unknown path":      {"GET", "/taken/unknown", "", 404, ""},
	} {
		t.Run(name, func(t *testing.T) {
			answer := w.call(tt.method, "/admin/v1/users"+tt.path, tt.body)
			var problem struct {
				Status int
				Field  string
			}
			if err := json.Unmarshal(answer.Body.Bytes(), &problem); err != nil {
				t.Fatal(err)
			}
			if answer.Code != tt.status || problem.Status != tt.status || problem.Field != tt.field ||
				answer.Header().Get("Content-Type") != "application/problem+json" {
				t.Errorf("%d %s, want %d, field %q", answer.Code, answer.Body, tt.status, tt.field)
			}
			if tt.status == 405 && answer.Header().Get("Allow") != "DELETE, GET, HEAD, PATCH" {
				t.Errorf("Allow: %s", answer.Header().Get("Allow"))
			}
		})
	}
	answer := w.call("POST", "/admin/v1/users", `{"user":"a"}`, func(r *http.Request) { r.Header.Set("Content-Type", "text/plain") })
	if answer.Code != 415 {
		t.Errorf("text/plain: %d", answer.Code)
	}
	if got := w.must(200, "GET", "/admin/v1/users", "")["users"].([]any); len(got) != 1 {
		t.Errorf("%d users after nothing but bad input, want the first one", len(got))
	}
}

// The database is away: the admin is told so, and nothing of what went wrong.
func TestUnavailable(t *testing.T) {
	w := newWorld(t)
	w.env.DB.Close()
	answer := w.call("POST", "/admin/v1/users", `{"user":"alice"}`)
	if answer.Code != 503 || answer.Header().Get("Retry-After") == "" || strings.Contains(answer.Body.String(), "pool") {
		t.Errorf("%d %v %s", answer.Code, answer.Header(), answer.Body)
	}
	if !strings.Contains(w.log.String(), "closed pool") {
		t.Errorf("log = %s", w.log)
	}
}

func TestLogTellsNothingPersonal(t *testing.T) {
	w := newWorld(t)
	w.must(201, "POST", "/admin/v1/users", `{"user":"canary-name","password":"canary-password","phone":"09011112222"}`)
	w.must(200, "GET", "/admin/v1/users/canary-name", "")
	w.must(200, "GET", "/admin/v1/users?q=canary", "")
	w.must(404, "GET", "/admin/v1/users/canary-nobody", "")
	w.must(409, "POST", "/admin/v1/users", `{"user":"canary-name"}`)
	w.must(204, "DELETE", "/admin/v1/users/canary-name", "")
	lines := 0
	for line := range strings.Lines(w.log.String()) {
		lines++
		for _, canary := range []string{"canary", "1111", token} {
			if strings.Contains(line, canary) {
				t.Errorf("the log tells %q: %s", canary, line)
			}
		}
		if !strings.Contains(line, `"route":"`) || !strings.Contains(line, `"status":`) {
			t.Errorf("line of log = %s", line)
		}
	}
	if lines != 6 {
		t.Errorf("%d lines of log for 6 requests", lines)
	}
	for range 2 { // created, deleted
		msg, err := w.heard.NextMsg(10 * time.Second)
		w.check(err)
		if all := fmt.Sprint(msg.Subject, msg.Header, string(msg.Data)); strings.Contains(all, "canary") || strings.Contains(all, "1111") {
			t.Errorf("the bus tells something personal: %s", all)
		}
	}
}
