package pushnotifier

import (
	"context"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/sekisho/sekisho/events"
	"github.com/sekisho/sekisho/services/internal/bus"
	"github.com/sekisho/sekisho/services/internal/config"
)

// session signs a user in and returns the id of the session.
func (s *site) session(t testing.TB, user, gateway string, amr ...string) string {
	t.Helper()
	if amr == nil {
		amr = []string{"pwd"}
	}
	id, err := events.NewLogin(gateway)
	check(t, err)
	s.sql(t, `INSERT INTO sessions.sessions (gateway, login, user_id, app, amr, acr, auth_time, created_at, last_seen, idle_seconds, expires_at)
		VALUES ($1, $2, $3, 'demo', $6, '1fa', $4, $4, $4, 3600, $5)`, gateway, id.ID, user, s.clock(), s.clock().Add(time.Hour), amr)
	return id.ID
}

// activate invites a user and returns the code.
func (s *site) activate(t testing.TB, user string) string {
	t.Helper()
	status, answer := s.send(t, events.DeviceRequest{Method: "POST", Path: "/v1/activations", Session: s.session(t, user, "web"), Base: "https://login.example"})
	if status != http.StatusCreated {
		t.Fatal(status, answer)
	}
	code, ok := strings.CutPrefix(answer["activation_url"].(string), "https://login.example/authenticator#")
	expires, err := time.Parse(time.RFC3339Nano, answer["expires"].(string))
	if !ok || len(code) < 26 || err != nil || !strings.HasPrefix(answer["qr_svg"].(string), "<svg ") ||
		expires.Sub(s.clock()).Round(time.Second) != s.env.Config.Push.Activation {
		t.Fatal(answer)
	}
	return code
}

// enrollment is the request of a phone that has no name yet; key signs it.
func (s *site) enrollment(t testing.TB, code, name string, public []byte, key *ecdsa.PrivateKey) events.DeviceRequest {
	t.Helper()
	body, err := json.Marshal(map[string]string{"activation": code, "name": name, "public_key": encode(public)})
	check(t, err)
	sum := sha256.Sum256(body)
	path := "/v1/authenticator/devices"
	token := jwt.NewWithClaims(jwt.SigningMethodES256, jwt.MapClaims{
		"htm": "POST", "htu": path, "iat": s.clock().Unix(), "jti": rand.Text(), "body": encode(sum[:]),
	})
	own := point(t, key)
	token.Header["typ"] = proofType
	token.Header["jwk"] = map[string]string{"kty": "EC", "crv": "P-256", "x": encode(own[1:33]), "y": encode(own[33:])}
	text, err := token.SignedString(key)
	check(t, err)
	return events.DeviceRequest{Method: "POST", Path: path, Body: body, Proof: "Device " + text}
}

func (s *site) enroll(t testing.TB, code, name string) (*phone, int) {
	t.Helper()
	p := &phone{site: s, key: newKey(t)}
	status, answer := s.send(t, s.enrollment(t, code, name, point(t, p.key), p.key))
	if status == http.StatusCreated {
		p.id = answer["device"].(map[string]any)["id"].(string)
		expect(t, "name", answer["device"].(map[string]any)["name"], any(strings.TrimSpace(name)))
		expect(t, "user", answer["device"].(map[string]any)["user"], any("alice.canary"))
		if len(answer["vapid"].(string)) != 87 || answer["app"] != "Sekisho" {
			t.Errorf("answer: %v", answer)
		}
	}
	return p, status
}

// recorded waits for the latest change of a user in the record.
func (s *site) recorded(t testing.TB, subject string) map[string]string {
	t.Helper()
	js, err := jetstream.New(s.broker.Dial(t, bus.UserSetup))
	check(t, err)
	stream, err := js.Stream(t.Context(), "ACCOUNT")
	check(t, err)
	var data map[string]string
	eventually(t, subject, func() bool {
		msg, err := stream.GetLastMsgForSubject(t.Context(), subject)
		return err == nil && json.Unmarshal(msg.Data, &data) == nil
	})
	return data
}

func TestEnroll(t *testing.T) {
	s := newSite(t)
	s.run(t)
	code := s.activate(t, "alice")
	p, status := s.enroll(t, code, " phone.canary ")
	expect(t, "status", status, http.StatusCreated)
	expect(t, "record", s.recorded(t, "account.device-enrolled.alice"), map[string]string{"device": p.id, "by": p.id})
	_, status = s.enroll(t, code, "second")
	expect(t, "used twice", status, http.StatusUnprocessableEntity)

	second, status := s.enroll(t, s.activate(t, "alice"), "second")
	expect(t, "second", status, http.StatusCreated)
	notices := fetch(t, p).Notices
	if len(notices) != 1 || notices[0].Kind != deviceEnrolled || notices[0].Device != "second" {
		t.Errorf("notices of the first: %+v", notices)
	}
	expect(t, "notices of the second", len(fetch(t, second).Notices), 0)

	l := s.login(t, "alice")
	l.wanted(t, 1)
	l.event(t, events.StepChallenged, 1)
	expect(t, "result", second.answer(t, second.assertion(t, second.asked(t), approve, number)), "approved 3")
}

func TestEnrollFromTwoPhonesAtOnce(t *testing.T) {
	s := newSite(t)
	s.serve(t)
	code := s.activate(t, "alice")
	statuses := make(chan int, 8)
	for range cap(statuses) {
		key := newKey(t)
		r := s.enrollment(t, code, "phone", point(t, key), key)
		go func() {
			response, err := s.gateway.Device(t.Context(), r)
			if err != nil {
				statuses <- 0
				return
			}
			statuses <- response.Status
		}()
	}
	got := make(map[int]int)
	for range cap(statuses) {
		got[<-statuses]++
	}
	expect(t, "statuses", got, map[int]int{201: 1, 422: 7})
	expect(t, "devices", s.count(t, `SELECT count(*) FROM directory.devices`), 1)
}

func TestEnrollRefused(t *testing.T) {
	s := newSite(t)
	s.serve(t)
	key, other := newKey(t), newKey(t)
	code := s.activate(t, "alice")
	for name, tt := range map[string]struct {
		request events.DeviceRequest
		status  int
		field   any
	}{
		"an unknown code":     {s.enrollment(t, rand.Text(), "phone", point(t, key), key), 422, "activation"},
		"somebody else's key": {s.enrollment(t, code, "phone", point(t, other), key), 401, nil},
		"not a point":         {s.enrollment(t, code, "phone", make([]byte, 65), key), 422, "public_key"},
		"a compressed point":  {s.enrollment(t, code, "phone", point(t, key)[:33], key), 422, "public_key"},
		"no name":             {s.enrollment(t, code, "  ", point(t, key), key), 422, "name"},
		"a long name":         {s.enrollment(t, code, strings.Repeat("x", 65), point(t, key), key), 422, "name"},
		"a name in two lines": {s.enrollment(t, code, "a\nb", point(t, key), key), 422, "name"},
		"without a proof": {func() events.DeviceRequest {
			r := s.enrollment(t, code, "phone", point(t, key), key)
			r.Proof = ""
			return r
		}(), 401, nil},
		"a proof for elsewhere": {func() events.DeviceRequest {
			r := s.enrollment(t, code, "phone", point(t, key), key)
			r.Path += "/"
			return r
		}(), 404, nil},
		"another body": {func() events.DeviceRequest {
			r := s.enrollment(t, code, "phone", point(t, key), key)
			r.Body = []byte(strings.Replace(string(r.Body), "phone", "other", 1))
			return r
		}(), 401, nil},
	} {
		t.Run(name, func(t *testing.T) {
			status, answer := s.send(t, tt.request)
			expect(t, "status", status, tt.status)
			expect(t, "field", answer["field"], tt.field)
		})
	}
	t.Run("out of time", func(t *testing.T) {
		s.pass(s.env.Config.Push.Activation)
		_, status := s.enroll(t, code, "phone")
		expect(t, "status", status, 422)
	})
	t.Run("a locked user", func(t *testing.T) {
		code := s.activate(t, "alice")
		s.sql(t, `UPDATE directory.users SET locked = true WHERE id = 'alice'`)
		_, status := s.enroll(t, code, "phone")
		expect(t, "status", status, 422)
	})
	expect(t, "devices", s.count(t, `SELECT count(*) FROM directory.devices`), 0)
}

func TestSessions(t *testing.T) {
	s := newSite(t, func(c *config.Config) { c.Push.Devices = 1 })
	s.serve(t)
	revoked := s.session(t, "alice", "web")
	s.sql(t, `UPDATE sessions.sessions SET revoked_at = now()`)
	for name, session := range map[string]string{
		"none": "", "unknown": func() string { l, _ := events.NewLogin("web"); return l.ID }(), "nonsense": "x' OR 1=1",
		"revoked": revoked, "another gateway's": s.session(t, "alice", "example"),
	} {
		for _, r := range []events.DeviceRequest{{Method: "POST", Path: "/v1/activations"}, {Method: "GET", Path: "/v1/devices"}} {
			r.Session = session
			status, _ := s.send(t, r)
			expect(t, name+" at "+r.Path, status, http.StatusUnauthorized)
		}
	}
	s.phone(t, "alice")
	status, _ := s.send(t, events.DeviceRequest{Method: "POST", Path: "/v1/activations", Session: s.session(t, "alice", "web")})
	expect(t, "too many devices", status, http.StatusConflict)
}

func TestManageDevices(t *testing.T) {
	s := newSite(t)
	s.serve(t)
	first, second, foreign := s.phone(t, "alice"), s.phone(t, "alice"), s.phone(t, "bob")
	l := s.login(t, "alice")
	l.challenged(t, s.start(t), 1)
	asked := second.asked(t)

	status, answer := first.ask(t, "GET", "/v1/authenticator/devices", nil)
	expect(t, "list", []any{status, len(answer["devices"].([]any)), len(answer["vapid"].(string))}, []any{200, 2, 87})
	for _, d := range answer["devices"].([]any) {
		view := d.(map[string]any)
		expect(t, "this", view["this"] == true, view["id"] == first.id)
	}
	status, answer = first.ask(t, "PATCH", "/v1/authenticator/devices/"+second.id, map[string]string{"name": "新しい電話"})
	expect(t, "rename", []any{status, answer["name"]}, []any{200, "新しい電話"})
	expect(t, "record", s.recorded(t, "account.device-renamed.alice"), map[string]string{"device": second.id, "by": first.id})
	notices := fetch(t, second).Notices
	expect(t, "notice", []any{len(notices), notices[0].Kind, notices[0].Device}, []any{1, deviceRenamed, "新しい電話"})
	expect(t, "notices of who did it", len(fetch(t, first).Notices), 0)
	status, _ = first.ask(t, "PATCH", "/v1/authenticator/devices/"+second.id, map[string]string{"name": ""})
	expect(t, "no name", status, 422)

	for method, path := range map[string]string{"PATCH": "/v1/authenticator/devices/", "DELETE": "/v1/authenticator/devices/"} {
		for _, id := range []string{foreign.id, "unknown"} {
			status, _ = first.ask(t, method, path+id, map[string]string{"name": "x"})
			expect(t, method+" of another's", status, http.StatusNotFound)
		}
	}

	for range len(s.hints) {
		<-s.hints
	}
	status, _ = first.ask(t, "DELETE", "/v1/authenticator/devices/"+second.id, nil)
	expect(t, "remove", status, http.StatusNoContent)
	expect(t, "the removed device hears of it", <-s.hints == second.id, true)
	expect(t, "record", s.recorded(t, "account.device-removed.alice"), map[string]string{"device": second.id, "by": first.id})
	status, _ = second.ask(t, "GET", "/v1/authenticator/prompts", nil)
	expect(t, "its key", status, http.StatusUnauthorized)
	expect(t, "its answer to what it was asked", second.answer(t, second.assertion(t, asked, approve, number)), "401")
	expect(t, "verified", l.has(t, events.StepVerified, 1), false)

	// The same by a session, with which the last device is told too.
	session := s.session(t, "alice", "web")
	status, answer = s.send(t, events.DeviceRequest{Method: "GET", Path: "/v1/devices", Session: session})
	expect(t, "list by session", []any{status, len(answer["devices"].([]any)), answer["vapid"]}, []any{200, 1, nil})
	status, _ = s.send(t, events.DeviceRequest{Method: "PATCH", Path: "/v1/devices/" + first.id, Session: session, Body: []byte(`{"name":"x"}`)})
	expect(t, "rename by session", status, 200)
	notices = fetch(t, first).Notices
	expect(t, "notices", []any{len(notices), notices[0].Kind}, []any{1, deviceRenamed})
	status, _ = s.send(t, events.DeviceRequest{Method: "DELETE", Path: "/v1/devices/" + foreign.id, Session: session})
	expect(t, "remove another's", status, 404)
	status, _ = s.send(t, events.DeviceRequest{Method: "DELETE", Path: "/v1/devices/" + first.id, Session: session})
	expect(t, "remove by session", status, 204)
	expect(t, "devices", s.count(t, `SELECT count(*) FROM directory.devices WHERE user_id = 'alice'`), 0)
}

func TestSubscription(t *testing.T) {
	s := newSite(t)
	s.serve(t)
	p := s.phone(t, "alice")
	for name, body := range map[string]any{
		"inside":     map[string]any{"transport": "webpush", "target": map[string]any{"endpoint": "https://127.0.0.1/x", "keys": map[string]string{"p256dh": "x", "auth": "y"}}},
		"unknown":    map[string]any{"transport": "pigeon", "target": map[string]any{}},
		"nothing":    map[string]any{"transport": "fcm"},
		"null":       map[string]any{"transport": "fcm", "target": nil},
		"not object": map[string]any{"transport": "fcm", "target": 1},
	} {
		status, _ := p.ask(t, "PUT", "/v1/authenticator/subscription", body)
		expect(t, name, status, 422)
	}
	p.push(t, s.start(t), "alice", "fcm")
	expect(t, "told by FCM", s.count(t, `SELECT count(*) FROM directory.devices WHERE transport = 'fcm'`), 1)
	status, _ := p.ask(t, "PUT", "/v1/authenticator/subscription", map[string]string{"transport": ""})
	expect(t, "none", status, 204)
	expect(t, "told by nothing", s.count(t, `SELECT count(*) FROM directory.devices WHERE transport = '' AND target IS NULL`), 1)
}

func TestStream(t *testing.T) {
	s := newSite(t)
	s.serve(t)
	p := s.phone(t, "alice")
	status, answer := p.ask(t, "GET", "/v1/authenticator/stream", nil)
	expect(t, "answer", []any{status, answer["device"]}, []any{200, p.id})
}

// What a client may get wrong is answered as a problem, and nothing of it is repeated.
func TestProblems(t *testing.T) {
	s := newSite(t)
	s.serve(t)
	p := s.phone(t, "alice")
	for _, tt := range []struct {
		method, path string
		body         any
		want         int
	}{
		{"GET", "/v1/authenticator", nil, 404},
		{"PUT", "/v1/authenticator/prompts", nil, 405},
		{"POST", "/v1/authenticator/prompts", "canary", 422},
		{"POST", "/v1/authenticator/prompts", map[string]string{"canary": "x"}, 422},
		{"POST", "/v1/authenticator/prompts", strings.Repeat("x", maxBody), 413},
		{"POST", "/v1/authenticator/prompts", map[string]string{"assertion": strings.Repeat("x", maxJWS+1)}, 401},
		{"POST", "/v1/authenticator/notices/unknown", map[string]string{"decision": "seen"}, 404},
		{"POST", "/v1/authenticator/notices/unknown", map[string]string{"decision": "canary"}, 422},
		{"POST", "/v1/authenticator/notices/\x00", map[string]string{"decision": "seen"}, 404},
		{"POST", "/v1/authenticator/notices/%00", map[string]string{"decision": "seen"}, 404},
	} {
		status, answer := p.ask(t, tt.method, tt.path, tt.body)
		expect(t, fmt.Sprintf("%s %s %.20v", tt.method, tt.path, tt.body), status, tt.want)
		expect(t, "status in the problem", answer["status"], any(float64(tt.want)))
		if field, _ := answer["field"].(string); field != "canary" && strings.Contains(fmt.Sprint(answer), "canary") {
			t.Errorf("answer: %v", answer)
		}
	}
}

// Without the database a device is told to come again, and learns no more.
func TestDatabaseIsAway(t *testing.T) {
	s := newSite(t)
	s.serve(t)
	p := s.phone(t, "alice")
	s.env.DB.Close()
	response, err := s.gateway.Device(t.Context(), events.DeviceRequest{Method: "GET", Path: "/v1/authenticator/prompts",
		Proof: "Device " + p.proof(t, "GET", "/v1/authenticator/prompts", nil)})
	check(t, err)
	expect(t, "answer", []any{response.Status, response.RetryAfter, strings.Contains(string(response.Body), "pool")}, []any{503, 1, false})
}

// A phone learns its id although telling the others takes all the time that its request has.
func TestEnrolledWhileOthersCanNotBeTold(t *testing.T) {
	s := newSite(t)
	n := s.serve(t)
	code, key := s.activate(t, "alice"), newKey(t)
	r := s.enrollment(t, code, "phone", point(t, key), key)
	hold, err := s.admin.Begin(t.Context())
	check(t, err)
	defer hold.Rollback(t.Context())
	_, err = hold.Exec(t.Context(), `LOCK TABLE push.notices`)
	check(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	answered := make(chan events.DeviceResponse, 1)
	go func() {
		var left []task
		answered <- handle(ctx, n.routes(), caller{gateway: "web", proof: strings.TrimPrefix(r.Proof, "Device "), after: &left}, r)
	}()
	eventually(t, "it waits", func() bool {
		return s.count(t, `SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'push.notices'::regclass`) == 1
	})
	cancel()
	expect(t, "status", (<-answered).Status, http.StatusCreated)
}
