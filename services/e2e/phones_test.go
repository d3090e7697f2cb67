package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"

	"github.com/sekisho/sekisho/services/internal/config"
)

// phoneCalls is one of each call of the phones' API, with something for each to refuse.
func phoneCalls(base string) []call {
	api := base + "/v1/authenticator"
	return []call{
		{http.MethodPost, api + "/devices", `{"activation": "", "name": "", "public_key": ""}`}, {http.MethodGet, api + "/devices", ""},
		{http.MethodPatch, api + "/devices/nobody", `{"name": "phone"}`}, {http.MethodDelete, api + "/devices/nobody", ""},
		{http.MethodPut, api + "/subscription", `{"transport": ""}`},
		{http.MethodGet, api + "/prompts", ""}, {http.MethodPost, api + "/prompts", `{"assertion": "a.b.c"}`},
		{http.MethodPost, api + "/notices/nobody", `{"decision": "seen"}`}, {http.MethodGet, api + "/stream", ""},
	}
}

// ownPhoneCalls is one of each call of a user about the user's own phones.
func ownPhoneCalls(base string) []call {
	return []call{
		{http.MethodPost, base + "/v1/activations", ""}, {http.MethodGet, base + "/v1/devices", ""},
		{http.MethodPatch, base + "/v1/devices/nobody", `{"name": "phone"}`}, {http.MethodDelete, base + "/v1/devices/nobody", ""},
	}
}

// meet makes a request of a phone, whose answer has the status.
func (p *phone) meet(s *system, status int, method, path, body string, options ...func(*http.Request)) []byte {
	p.t.Helper()
	all := []func(*http.Request){withHeader("Authorization", p.proof(method, path, []byte(body)))}
	if body != "" {
		all = append(all, withBody(body))
	}
	return s.expect(status, method, s.HTTP+path, append(all, options...)...)
}

// meetBadBodies sends what every operation with a body refuses.
func (p *phone) meetBadBodies(s *system, method, path string) {
	p.t.Helper()
	p.meet(s, http.StatusBadRequest, method, path, "not JSON")
	p.meet(s, http.StatusRequestEntityTooLarge, method, path, strings.Repeat("a", 70<<10))
	p.meet(s, http.StatusUnsupportedMediaType, method, path, "{}", withHeader("Content-Type", "text/plain"))
	p.meet(s, http.StatusUnprocessableEntity, method, path, `{"nonsense": true}`)
}

func meetPhones(s *system) {
	s.t.Helper()
	s.addUser("phones", "09011110041")
	p := s.phone()
	p.meetBadBodies(s, http.MethodPost, "/v1/authenticator/devices")
	p.enroll(s.invite("phones"), "one")
	const api = "/v1/authenticator"
	mine := api + "/devices/" + p.id
	p.meetBadBodies(s, http.MethodPatch, mine)
	p.meetBadBodies(s, http.MethodPut, api+"/subscription")
	p.meetBadBodies(s, http.MethodPost, api+"/prompts")
	p.meetBadBodies(s, http.MethodPost, api+"/notices/nobody")
	p.meet(s, http.StatusOK, http.MethodGet, api+"/devices", "")
	p.meet(s, http.StatusOK, http.MethodPatch, mine, `{"name": "first"}`)
	p.meet(s, http.StatusNotFound, http.MethodPatch, api+"/devices/nobody", `{"name": "first"}`)
	p.meet(s, http.StatusNotFound, http.MethodDelete, api+"/devices/nobody", "")
	p.meet(s, http.StatusNoContent, http.MethodPut, api+"/subscription", `{"transport": ""}`)
	p.meet(s, http.StatusNotFound, http.MethodPost, api+"/notices/nobody", `{"decision": "seen"}`)
	meetPrompts(s, p)
	meetStream(s, p)

	other := s.phone()
	other.enroll(s.invite("phones"), "two")
	var told struct{ Notices []struct{ ID string } }
	must(s.t, json.Unmarshal(p.meet(s, http.StatusOK, http.MethodGet, api+"/prompts", ""), &told))
	if len(told.Notices) == 0 {
		s.t.Fatal("the first phone is not told of the second")
	}
	p.meet(s, http.StatusNoContent, http.MethodPost, api+"/notices/"+told.Notices[0].ID, `{"decision": "seen"}`)
	p.meet(s, http.StatusNoContent, http.MethodDelete, api+"/devices/"+other.id, "")

	session := meetOwnPhones(s, p)
	crowd := withHeader("X-Forwarded-For", "198.51.100.2")
	for _, call := range phoneCalls(s.HTTP) {
		s.expect(http.StatusUnauthorized, call.method, call.address, withBody(call.body))
		s.expectLimited(call.method, call.address, withBody(call.body), crowd, withHeader("Authorization", "Device a.b.c"))
	}
	for _, call := range ownPhoneCalls(s.HTTP) {
		s.expect(http.StatusUnauthorized, call.method, call.address, withBody(call.body))
		s.expectLimited(call.method, call.address, withBody(call.body), crowd, withBearer(session))
	}
	s.expectLimited(http.MethodGet, s.HTTP+"/devices", crowd, withCookie("__Host-sekisho", session))
}

func meetPrompts(s *system, p *phone) {
	s.t.Helper()
	l := s.beginWith(map[string]any{"user": "phones", "method": "none"})
	if l.Challenge == nil {
		s.t.Fatalf("no push: %+v", l)
	}
	asked := p.asked(loginOf(l))
	if status, _ := p.decide(asked, "approve", l.Challenge.Number); status != http.StatusOK {
		s.t.Errorf("approve: %d", status)
	}
	if status, _ := p.decide(asked, "approve", l.Challenge.Number); status != http.StatusConflict {
		s.t.Errorf("approve again: %d", status)
	}
	s.untilStatus(l, "granted")
}

// meetStream opens a stream, which ends when the phone opens another.
func meetStream(s *system, p *phone) {
	s.t.Helper()
	const path = "/v1/authenticator/stream"
	ended := make(chan struct{})
	first, proof := withHeader("Authorization", p.proof(http.MethodGet, path, nil)), p.proof(http.MethodGet, path, nil)
	go func() {
		defer close(ended)
		s.expect(http.StatusOK, http.MethodGet, s.HTTP+path, first)
	}()
	ctx, cancel := context.WithCancel(s.t.Context())
	defer cancel()
	poll(s.t, "ended by a newer stream", func() bool { // whichever of them the gateway got first
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.HTTP+path, nil)
		must(s.t, err)
		req.Header.Set("Authorization", proof)
		res, err := http.DefaultClient.Do(req)
		must(s.t, err)
		defer res.Body.Close()
		proof = p.proof(http.MethodGet, path, nil)
		select {
		case <-ended:
			return true
		default:
			return false
		}
	})
}

// stepUpOnPhone makes a session of two factors of one of a password, with which its user may look at phones and change none.
func (s *system) stepUpOnPhone(l login, p *phone) login {
	s.t.Helper()
	for _, call := range ownPhoneCalls(s.HTTP) {
		if call.method == http.MethodGet {
			s.expect(http.StatusOK, call.method, call.address, withBearer(l.SessionToken))
			continue
		}
		var problem map[string]any
		must(s.t, json.Unmarshal(s.expect(http.StatusUnauthorized, call.method, call.address, withBody(call.body), withBearer(l.SessionToken)), &problem))
		if problem["app"] != "demo" || problem["acr"] != "2fa" || problem["method"] != "session" {
			s.t.Errorf("%s %s: %v", call.method, call.address, problem)
		}
	}
	var more login
	body := map[string]any{"method": "session", "app": "demo", "acr": "2fa", "tokens": true, "wait": "20s"}
	if status := s.call(http.MethodPost, s.HTTP+"/v1/logins", l.SessionToken, body, &more); status != http.StatusCreated || more.Challenge == nil {
		s.t.Fatalf("step-up: %d %+v", status, more)
	}
	if status, result := p.decide(p.asked(loginOf(more)), "approve", more.Challenge.Number); status != http.StatusOK {
		s.t.Fatalf("approve: %d %s", status, result)
	}
	return s.untilStatus(more, "granted")
}

func meetOwnPhones(s *system, p *phone) (session string) {
	s.t.Helper()
	l := s.stepUpOnPhone(s.begin("phones", userPassword), p)
	mine, own, phone := withBearer(l.SessionToken), s.HTTP+"/v1/devices", s.HTTP+"/v1/devices/"+p.id
	s.expect(http.StatusOK, http.MethodGet, own, mine)
	s.expectBadBodies(http.MethodPatch, phone, mine)
	s.expect(http.StatusOK, http.MethodPatch, phone, mine, withBody(`{"name": "mine"}`))
	s.expect(http.StatusNotFound, http.MethodPatch, own+"/nobody", mine, withBody(`{"name": "mine"}`))
	s.expect(http.StatusOK, http.MethodGet, s.HTTP+"/devices", withCookie("__Host-sekisho", l.SessionToken))
	s.expect(http.StatusSeeOther, http.MethodGet, s.HTTP+"/devices")
	var invited struct {
		URL string `json:"activation_url"`
	}
	must(s.t, json.Unmarshal(s.expect(http.StatusCreated, http.MethodPost, s.HTTP+"/v1/activations", mine), &invited))
	for i := range config.Default().Push.Devices - 1 {
		account := map[string]string{"kind": "mamoru", "account": fmt.Sprint("phones", i)}
		if status := s.admin(http.MethodPost, "/users/phones/authenticators", account, nil); status != http.StatusCreated {
			s.t.Fatalf("link: %d", status)
		}
	}
	_, code, _ := strings.Cut(invited.URL, "#")
	if status := s.phone().tryEnroll(code, "one too many", nil); status != http.StatusConflict {
		s.t.Errorf("enroll one too many: %d", status)
	}
	s.expect(http.StatusConflict, http.MethodPost, s.HTTP+"/v1/activations", mine)
	s.expect(http.StatusNoContent, http.MethodDelete, phone, mine)
	s.expect(http.StatusNotFound, http.MethodDelete, phone, mine)
	return l.SessionToken
}
