package e2e

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/sekisho/sekisho/services"
	"github.com/sekisho/sekisho/services/internal/bus"
	"github.com/sekisho/sekisho/services/internal/config"
)

// Every answer that schemas/openapi.yaml describes is given by the program. The transport of the requests holds each
// against the document.
func TestOpenAPIStatuses(t *testing.T) {
	// The shares of one address in a minute, for logins and for requests about phones: expectLimited uses up its own, the
	// others make fewer.
	s := start(t, cheap+"gateway: {proxies: [127.0.0.1/32], streams_per_device: 1}\nlimits: {logins_per_source: 20, device_per_source: 150}\n")
	meetLogins(s)
	meetSessions(s)
	meetPages(s)
	meetUsers(s)
	meetTokens(s)
	meetPhones(s)
	meetOperations(s)
	meetSimulators(s)

	alone := &system{t: t, dir: t.TempDir()}
	alone.run(cheap+"code: {resend_after: 0s}\n", nil)
	alone.conformity.met = s.conformity.met
	alone.runWorkers()
	meetResend(alone)
	meetOutage(alone)
	for _, missing := range s.conformity.missing() {
		t.Errorf("schemas/openapi.yaml describes %s, which was not met", missing)
	}
}

// expect makes a request whose answer has the status.
func (s *system) expect(status int, method, address string, options ...func(*http.Request)) []byte {
	s.t.Helper()
	got, body := s.request(method, address, options...)
	if got != status {
		s.t.Errorf("%s %s: %d, want %d: %s", method, address, got, status, body)
	}
	return body
}

// expectLimited makes a request until its source has used its share up. The share grows back with time, so on a slow
// machine a request is let through for which there was nothing left a moment ago.
func (s *system) expectLimited(method, address string, options ...func(*http.Request)) {
	s.t.Helper()
	for range 1000 {
		if status, _ := s.request(method, address, options...); status == http.StatusTooManyRequests {
			return
		}
	}
	s.t.Errorf("%s %s is not limited", method, address)
}

func (s *system) request(method, address string, options ...func(*http.Request)) (int, []byte) {
	s.t.Helper()
	req, err := http.NewRequestWithContext(s.t.Context(), method, address, nil)
	must(s.t, err)
	for _, option := range options {
		option(req)
	}
	return s.do(req)
}

func withHeader(name, value string) func(*http.Request) {
	return func(r *http.Request) { r.Header.Set(name, value) }
}

func withBearer(token string) func(*http.Request) {
	return withHeader("Authorization", "Bearer "+token)
}

func withCookie(name, value string) func(*http.Request) {
	return func(r *http.Request) { r.AddCookie(&http.Cookie{Name: name, Value: value}) }
}

// withBody sends JSON unless a later option names another media type.
func withBody(body string) func(*http.Request) {
	return func(r *http.Request) {
		r.Body, r.ContentLength = io.NopCloser(strings.NewReader(body)), int64(len(body))
		r.Header.Set("Content-Type", "application/json")
	}
}

// expectBadBodies sends what every operation with a body refuses.
func (s *system) expectBadBodies(method, address string, options ...func(*http.Request)) {
	s.t.Helper()
	with := func(more ...func(*http.Request)) []func(*http.Request) {
		return append(options[:len(options):len(options)], more...)
	}
	s.expect(http.StatusBadRequest, method, address, with(withBody("not JSON"))...)
	s.expect(http.StatusRequestEntityTooLarge, method, address, with(withBody(`{"user": "`+strings.Repeat("a", 70<<10)+`"}`))...)
	s.expect(http.StatusUnsupportedMediaType, method, address, with(withBody(`{}`), withHeader("Content-Type", "text/plain"))...)
	s.expect(http.StatusUnprocessableEntity, method, address, with(withBody(`{"nonsense": true}`))...)
}

// pause keeps a worker from receiving a step until resume is called.
func (s *system) pause(consumer string) (resume func()) {
	s.t.Helper()
	js, err := jetstream.New(s.dial(bus.UserOperator))
	must(s.t, err)
	set := func(until time.Time) {
		body, err := json.Marshal(map[string]time.Time{"pause_until": until})
		must(s.t, err)
		_, err = js.Conn().Request("$JS.API.CONSUMER.PAUSE.LOGIN."+consumer, body, patience)
		must(s.t, err)
	}
	set(time.Now().Add(time.Hour))
	return func() { set(time.Now().Add(-time.Hour)) }
}

func meetLogins(s *system) {
	s.t.Helper()
	all := s.HTTP + "/v1/logins"
	body := fmt.Sprintf(`{"user": "bob", "method": "password", "password": %q, "app": "demo", "locale": "en"}`, s.Password)
	s.expect(http.StatusCreated, http.MethodPost, all, withBody(body), withHeader("Accept-Language", "ja"))
	s.expectBadBodies(http.MethodPost, all)
	again := withBody(`{"method": "session", "app": "demo", "tokens": true}`)
	s.expect(http.StatusUnauthorized, http.MethodPost, all, again)
	done := s.begin("bob", s.Password)
	s.expect(http.StatusConflict, http.MethodPost, all, again, withBearer(done.SessionToken))
	s.expectLimited(http.MethodPost, all, withBody(body), withHeader("X-Forwarded-For", "198.51.100.1"))

	open := s.begin("alice", s.Password)
	path, ended := s.path(open), s.path(done)
	mine, late := withBearer(open.LoginToken), withBearer(done.LoginToken)
	s.expect(http.StatusOK, http.MethodGet, path+"?after=1&wait=1s", mine)
	s.expect(http.StatusNotFound, http.MethodGet, path)
	s.expect(http.StatusUnprocessableEntity, http.MethodGet, path+"?after=soon", mine)
	stream := s.expect(http.StatusOK, http.MethodGet, ended+"/events", late)
	data, ok := strings.CutPrefix(string(stream), fmt.Sprintf(":\n\nid: %d\ndata: ", done.Version))
	if err := fitsJSON(s.conformity.login, []byte(data)); !ok || err != nil {
		s.t.Errorf("stream %q: %v", stream, err)
	}
	s.expect(http.StatusNoContent, http.MethodGet, ended+"/events", late, withHeader("Last-Event-ID", strconv.Itoa(done.Version)))
	s.expect(http.StatusNotFound, http.MethodGet, ended+"/events")

	code := s.newestCode("09012341234")
	answer := func(code, wait string) func(*http.Request) {
		return withBody(fmt.Sprintf(`{"code": %q, "wait": %q}`, code, wait))
	}
	s.expect(http.StatusNotFound, http.MethodPost, path+"/answers", answer(code, "0s"))
	s.expectBadBodies(http.MethodPost, path+"/answers", mine)
	resume := s.pause("otpvalidator-answered")
	s.expect(http.StatusAccepted, http.MethodPost, path+"/answers", mine, answer(wrong(code), "0s"))
	resume()
	s.expect(http.StatusNotFound, http.MethodPost, path+"/factor", withBody(`{"factor": "sms"}`))
	s.expectBadBodies(http.MethodPost, path+"/factor", mine)
	s.expect(http.StatusTooManyRequests, http.MethodPost, path+"/factor", mine, withBody(`{"factor": "sms"}`))
	s.expect(http.StatusConflict, http.MethodPost, ended+"/factor", late, withBody(`{"factor": "sms"}`))
	s.expect(http.StatusOK, http.MethodPost, path+"/answers", mine, answer(code, "20s"))
	s.untilStatus(open, "granted")
	s.expect(http.StatusConflict, http.MethodPost, path+"/answers", mine, answer(code, "0s"))

	open = s.begin("alice", s.Password)
	s.expect(http.StatusNotFound, http.MethodDelete, s.path(open))
	s.expect(http.StatusOK, http.MethodDelete, s.path(open), withBearer(open.LoginToken))
	s.expect(http.StatusConflict, http.MethodDelete, ended, late)
	s.expect(http.StatusNotFound, http.MethodGet, s.HTTP+"/v1/nothing")
	s.expect(http.StatusMethodNotAllowed, http.MethodPut, path)
}

func meetSessions(s *system) {
	s.t.Helper()
	l := s.begin("bob", s.Password)
	mine, check := withBearer(l.SessionToken), s.HTTP+"/auth/check"
	s.expect(http.StatusOK, http.MethodGet, s.HTTP+"/v1/session", mine)
	s.expect(http.StatusUnauthorized, http.MethodGet, s.HTTP+"/v1/session")
	s.expect(http.StatusOK, http.MethodGet, check+"?app=demo", mine)
	s.expect(http.StatusOK, http.MethodPost, check+"?app=demo", mine)
	s.expect(http.StatusUnauthorized, http.MethodGet, check+"?app=demo")
	s.expect(http.StatusFound, http.MethodGet, check+"?app=demo&redirect=1")
	s.expect(http.StatusUnprocessableEntity, http.MethodGet, check+"?app=nothing", mine)
	s.expect(http.StatusNoContent, http.MethodDelete, s.HTTP+"/v1/session", mine)
	s.expect(http.StatusUnauthorized, http.MethodDelete, s.HTTP+"/v1/session", mine)
}

func meetPages(s *system) {
	s.t.Helper()
	l := s.begin("bob", s.Password)
	s.expect(http.StatusOK, http.MethodGet, s.HTTP+"/login?app=demo&return_to=/&lang=ja")
	s.expect(http.StatusNotFound, http.MethodGet, s.HTTP+"/login?app=nothing")
	s.expect(http.StatusOK, http.MethodGet, s.HTTP+"/", withCookie("__Host-sekisho", l.SessionToken))
	s.expect(http.StatusSeeOther, http.MethodGet, s.HTTP+"/", withCookie("__Host-sekisho", "nobody's"))
	for _, file := range []string{"/authenticator", "/docs", "/docs/openapi.yaml", "/docs/requested.schema.json", "/docs/schemas/requested.schema.json"} {
		res, err := s.client.Get(s.HTTP + file)
		must(s.t, err)
		res.Body.Close()
		if res.StatusCode != http.StatusOK {
			s.t.Errorf("%s: %d", file, res.StatusCode)
		}
		s.expect(http.StatusNotModified, http.MethodGet, s.HTTP+file, withHeader("If-None-Match", res.Header.Get("ETag")))
	}
	s.expect(http.StatusNotFound, http.MethodGet, s.HTTP+"/docs/nothing.yaml")
	s.expect(http.StatusNotFound, http.MethodGet, s.HTTP+"/docs/schemas/nothing.schema.json")
}

func meetUsers(s *system) {
	s.t.Helper()
	all, admin := s.Ops+"/admin/v1/users", withBearer(s.adminToken)
	one := all + "/met"
	s.expect(http.StatusCreated, http.MethodPost, all, admin, withBody(fmt.Sprintf(`{"user": "met", "password": %q, "phone": "09011110031"}`, userPassword)))
	s.expect(http.StatusConflict, http.MethodPost, all, admin, withBody(`{"user": "met"}`))
	s.expectBadBodies(http.MethodPost, all, admin)
	s.expect(http.StatusOK, http.MethodGet, all+"?q=me&page=1", admin)
	s.expect(http.StatusUnprocessableEntity, http.MethodGet, all+"?page=0", admin)
	s.expect(http.StatusOK, http.MethodPatch, one, admin, withBody(`{"locale": "en", "enabled": true}`))
	s.expectBadBodies(http.MethodPatch, one, admin)
	l := s.begin("met", userPassword)
	s.expect(http.StatusOK, http.MethodGet, one+"/sessions", admin)
	s.expect(http.StatusNoContent, http.MethodDelete, one+"/sessions/web."+l.ID, admin)
	s.expect(http.StatusOK, http.MethodGet, one+"/authenticators", admin)
	s.expect(http.StatusNoContent, http.MethodDelete, one+"/authenticators/sms", admin)
	link := func(n int) func(*http.Request) {
		return withBody(fmt.Sprintf(`{"kind": "mamoru", "account": "met-%d@example.com"}`, n))
	}
	s.expect(http.StatusCreated, http.MethodPost, one+"/activations", admin)
	for i := range config.Default().Push.Devices {
		s.expect(http.StatusCreated, http.MethodPost, one+"/authenticators", admin, link(i))
	}
	s.expect(http.StatusConflict, http.MethodPost, one+"/authenticators", admin, link(-1))
	s.expect(http.StatusConflict, http.MethodPost, one+"/activations", admin)
	s.expectBadBodies(http.MethodPost, one+"/authenticators", admin)
	s.expect(http.StatusOK, http.MethodPost, one+"/lock", admin)
	s.expect(http.StatusOK, http.MethodPost, one+"/unlock", admin)
	s.expect(http.StatusOK, http.MethodGet, one, admin)
	s.expect(http.StatusNoContent, http.MethodDelete, one, admin)
	for _, call := range adminCalls(all, one) {
		s.expect(http.StatusUnauthorized, call.method, call.address, withBody(call.body))
		if call.address != all {
			s.expect(http.StatusNotFound, call.method, call.address, admin, withBody(call.body))
		}
	}
}

type call struct{ method, address, body string }

// adminCalls is one of each call of the admin API.
func adminCalls(all, one string) []call {
	return []call{
		{http.MethodGet, all, ""}, {http.MethodPost, all, `{"user": "late"}`},
		{http.MethodGet, one, ""}, {http.MethodPatch, one, `{}`}, {http.MethodDelete, one, ""},
		{http.MethodPost, one + "/lock", ""}, {http.MethodPost, one + "/unlock", ""},
		{http.MethodGet, one + "/authenticators", ""}, {http.MethodDelete, one + "/authenticators/sms", ""},
		{http.MethodPost, one + "/authenticators", `{"kind": "mamoru", "account": "late"}`}, {http.MethodPost, one + "/activations", ""},
		{http.MethodGet, one + "/sessions", ""}, {http.MethodDelete, one + "/sessions/web.0199a4c1-7d3e-7bbb-8a52-1f0e5d3c2b1a", ""},
	}
}

// tokenOf is a file with one token of the type HOTP. Its secret is that of RFC 4226 appendix D, as are its codes.
func tokenOf(serial string) func(*http.Request) {
	return withFile("text/csv", serial+",3132333435363738393031323334353637383930,HOTP,6,0")
}

func withFile(media, file string) func(*http.Request) {
	return func(r *http.Request) {
		withBody(file)(r)
		r.Header.Set("Content-Type", media)
	}
}

func meetTokens(s *system) {
	s.t.Helper()
	all, admin := s.Ops+"/admin/v1/tokens", withBearer(s.adminToken)
	one, files := all+"/met-1", all+"/import"
	s.expect(http.StatusOK, http.MethodPost, files, admin, tokenOf("met-1"))
	s.expect(http.StatusOK, http.MethodPost, files, admin, tokenOf("met-1")) // which is there
	s.expect(http.StatusRequestEntityTooLarge, http.MethodPost, files, admin, withFile("text/csv", strings.Repeat("#", 16<<20+1)))
	s.expect(http.StatusUnsupportedMediaType, http.MethodPost, files, admin, withBody(`{}`))
	s.expect(http.StatusUnprocessableEntity, http.MethodPost, files, admin, withFile("application/pskc+xml", "gibberish"), withHeader("Sekisho-Import-Key", "phrase"))
	s.expect(http.StatusOK, http.MethodGet, all+"?q=met&page=1", admin)
	s.expect(http.StatusUnprocessableEntity, http.MethodGet, all+"?page=0", admin)

	s.expect(http.StatusCreated, http.MethodPost, s.Ops+"/admin/v1/users", admin, withBody(`{"user": "holder", "primary": "token"}`))
	s.expect(http.StatusConflict, http.MethodPost, one+"/pin", admin, withBody(`{"pin": "1357"}`))
	s.expect(http.StatusOK, http.MethodPost, one+"/assign", admin, withBody(`{"user": "holder"}`))
	s.expect(http.StatusConflict, http.MethodPost, one+"/assign", admin, withBody(`{"user": "alice"}`))
	s.expect(http.StatusOK, http.MethodPost, one+"/pin", admin, withBody(`{"pin": "1357"}`))
	s.expect(http.StatusOK, http.MethodPost, one+"/resync", admin, withBody(`{"codes": ["755224", "287082"]}`))
	s.expect(http.StatusConflict, http.MethodPost, one+"/resync", admin, withBody(`{"codes": ["755224", "287082"]}`))
	for _, action := range []string{"/assign", "/pin", "/resync"} {
		s.expectBadBodies(http.MethodPost, one+action, admin)
	}
	for _, action := range []string{"/disable", "/unlock", "/reset"} {
		s.expect(http.StatusOK, http.MethodPost, one+action, admin)
	}
	s.expect(http.StatusOK, http.MethodGet, s.Ops+"/admin/v1/users/holder/authenticators", admin)
	s.expect(http.StatusOK, http.MethodGet, s.Ops+"/admin/v1/users/holder", admin)
	s.expect(http.StatusOK, http.MethodPost, one+"/unassign", admin)
	s.expect(http.StatusOK, http.MethodGet, one, admin)
	s.expect(http.StatusNoContent, http.MethodDelete, one, admin)
	for _, call := range tokenCalls(all, one) {
		s.expect(http.StatusUnauthorized, call.method, call.address, withBody(call.body))
		if call.address != all {
			s.expect(http.StatusNotFound, call.method, call.address, admin, withBody(call.body))
		}
	}
	s.expect(http.StatusUnauthorized, http.MethodPost, files, tokenOf("met-1"))
}

// tokenCalls is one of each call of the admin API about tokens, but for the import.
func tokenCalls(all, one string) []call {
	return []call{
		{http.MethodGet, all, ""}, {http.MethodGet, one, ""}, {http.MethodDelete, one, ""},
		{http.MethodPost, one + "/assign", `{"user": "alice"}`}, {http.MethodPost, one + "/unassign", ""}, {http.MethodPost, one + "/disable", ""},
		{http.MethodPost, one + "/unlock", ""}, {http.MethodPost, one + "/reset", ""}, {http.MethodPost, one + "/resync", `{"codes": ["755224", "287082"]}`},
		{http.MethodPost, one + "/pin", `{"pin": "1357"}`},
	}
}

func meetOperations(s *system) {
	s.t.Helper()
	for _, path := range []string{"/healthz", "/readyz", "/metrics"} {
		s.expect(http.StatusOK, http.MethodGet, s.Ops+path)
	}
}

func meetSimulators(s *system) {
	s.t.Helper()
	s.expect(http.StatusOK, http.MethodGet, s.Sim+"/sim/sms/messages?to=09012341234&since=2026-01-01T00:00:00Z")
	s.expect(http.StatusUnprocessableEntity, http.MethodGet, s.Sim+"/sim/sms/messages?to=me")
	s.expect(http.StatusOK, http.MethodGet, s.Sim+"/sim/push/messages?user=bob")
	apps := s.Sim + "/sim/push/subscriptions"
	var app struct{ ID string }
	must(s.t, json.Unmarshal(s.expect(http.StatusCreated, http.MethodPost, apps, withBody(`{"user": "bob"}`)), &app))
	s.expectBadBodies(http.MethodPost, apps)
	s.expect(http.StatusNoContent, http.MethodDelete, apps+"/"+app.ID)
	s.expect(http.StatusNotFound, http.MethodDelete, apps+"/nobody")
	s.expect(http.StatusOK, http.MethodGet, s.Sim+"/sim/calls?provider=risk")
	s.expect(http.StatusUnprocessableEntity, http.MethodGet, s.Sim+"/sim/calls?provider=nobody")
	s.expect(http.StatusNoContent, http.MethodPut, s.Sim+"/sim/faults/vacman", withBody(`{"mode": "slow", "rate": 0.5, "delay": "2s"}`))
	s.expect(http.StatusNotFound, http.MethodPut, s.Sim+"/sim/faults/nobody", withBody(`{"mode": "none"}`))
	s.expectBadBodies(http.MethodPut, s.Sim+"/sim/faults/vacman")
	s.expect(http.StatusNoContent, http.MethodPut, s.Sim+"/sim/risk/users/met", withBody(`{"result": "OK"}`))
	s.expectBadBodies(http.MethodPut, s.Sim+"/sim/risk/users/met")
	s.expect(http.StatusNotFound, http.MethodGet, s.Sim+"/sim/nothing")
}

func meetResend(s *system) {
	s.t.Helper()
	l := s.begin("alice", s.Password)
	path, mine := s.path(l)+"/factor", withBearer(l.LoginToken)
	resume := s.pause("smsdispatcher-wanted")
	s.expect(http.StatusAccepted, http.MethodPost, path, mine, withBody(`{"factor": "sms", "wait": "0s"}`))
	resume()
	s.until(l, "in round 2", func(now login) bool { return now.Challenge != nil && now.Challenge.Round == 2 })
	s.expect(http.StatusOK, http.MethodPost, path, mine, withBody(`{"factor": "sms", "wait": "20s"}`))
}

// meetOutage takes the broker and the database away from the workers.
func meetOutage(s *system) {
	s.t.Helper()
	l := s.begin("bob", s.Password)
	used := s.begin("bob", s.Password) // its session is known to the gateway for a while
	s.stop()
	mine, session, admin := withBearer(l.LoginToken), withBearer(l.SessionToken), withBearer(s.adminToken)
	var wg sync.WaitGroup
	away := func(method, address string, options ...func(*http.Request)) {
		wg.Go(func() { s.expect(http.StatusServiceUnavailable, method, address, options...) })
	}
	away(http.MethodGet, s.Ops+"/readyz")
	away(http.MethodPost, s.HTTP+"/v1/logins", withBody(`{"user": "bob", "method": "password", "password": "any", "app": "demo"}`))
	away(http.MethodGet, s.path(l), mine)
	away(http.MethodDelete, s.path(l), mine)
	away(http.MethodGet, s.path(l)+"/events", mine)
	away(http.MethodPost, s.path(l)+"/answers", mine, withBody(`{"code": "123456"}`))
	away(http.MethodPost, s.path(l)+"/factor", mine, withBody(`{"factor": "sms"}`))
	away(http.MethodGet, s.HTTP+"/v1/session", session)
	away(http.MethodDelete, s.HTTP+"/v1/session", session)
	away(http.MethodGet, s.HTTP+"/auth/check?app=demo", session)
	away(http.MethodGet, s.HTTP+"/", withCookie("__Host-sekisho", used.SessionToken))
	away(http.MethodGet, s.HTTP+"/devices", withCookie("__Host-sekisho", used.SessionToken))
	for _, call := range phoneCalls(s.HTTP) {
		away(call.method, call.address, withBody(call.body), withHeader("Authorization", "Device a.b.c"))
	}
	for _, call := range ownPhoneCalls(s.HTTP) {
		away(call.method, call.address, withBody(call.body), session)
	}
	for _, call := range adminCalls(s.Ops+"/admin/v1/users", s.Ops+"/admin/v1/users/alice") {
		away(call.method, call.address, admin, withBody(call.body))
	}
	for _, call := range tokenCalls(s.Ops+"/admin/v1/tokens", s.Ops+"/admin/v1/tokens/any") {
		away(call.method, call.address, admin, withBody(call.body))
	}
	away(http.MethodPost, s.Ops+"/admin/v1/tokens/import", admin, tokenOf("any"))
	wg.Wait()
}

// runWorkers runs all workers in a process of their own on the system's broker and database, which can then be stopped
// without them.
func (s *system) runWorkers() {
	s.t.Helper()
	free := func() string {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		must(s.t, err)
		must(s.t, l.Close())
		return l.Addr().String()
	}
	public, ops := free(), free()
	args := []string{"run"}
	for _, worker := range services.All {
		args = append(args, worker.Name)
	}
	cmd := exec.Command(build(s.t), args...)
	cmd.Env = append(os.Environ(), "SEKISHO_NATS_URL=nats://"+s.NATS, "SEKISHO_POSTGRES_URL="+s.Postgres, "SEKISHO_DATA_DIR="+s.dir,
		"SEKISHO_CONFIG="+filepath.Join(s.dir, "sekisho.yaml"), "SEKISHO_HTTP_ADDR="+public, "SEKISHO_OPS_ADDR="+ops)
	cmd.Stderr = &s.log
	must(s.t, cmd.Start())
	s.t.Cleanup(func() {
		_ = cmd.Process.Kill() // what it would say goodbye to is gone
		_ = cmd.Wait()
	})
	s.HTTP, s.Ops = "http://"+public, "http://"+ops
	poll(s.t, "ready", func() bool {
		res, err := http.Get(s.Ops + "/readyz")
		if err == nil {
			res.Body.Close()
		}
		return err == nil && res.StatusCode == http.StatusOK
	})
}
