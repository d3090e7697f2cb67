package pushnotifier

import (
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/sekisho/sekisho/events"
	"github.com/sekisho/sekisho/services/internal/config"
	"github.com/sekisho/sekisho/services/internal/httpapi"
)

// has gives a user a password, a number or a phone.
func (s *site) has(t *testing.T, user string, kinds ...string) {
	t.Helper()
	for _, kind := range kinds {
		switch kind {
		case "password":
			s.sql(t, `INSERT INTO directory.passwords (user_id, hash, changed_at) VALUES ($1, 'x', now())`, user)
		case "number":
			s.sql(t, `INSERT INTO directory.phones (user_id, number, changed_at) VALUES ($1, '+819012345678', now())`, user)
		case "phone":
			s.phone(t, user)
		}
	}
}

// Who has two factors changes phones with a session that rests on both.
func TestChangesTakeTwoFactors(t *testing.T) {
	path := filepath.Join(t.TempDir(), "policy.yaml")
	for name, tt := range map[string]struct {
		has    []string
		amr    []string
		policy string
		want   httpapi.Problem // zero: the session is enough
	}{
		"password, number":           {[]string{"password", "number"}, []string{"pwd"}, "{demo: {}}", httpapi.Problem{App: "demo", Method: "session"}},
		"password, phone":            {[]string{"password", "phone"}, []string{"pwd"}, "{demo: {}}", httpapi.Problem{App: "demo", Method: "session"}},
		"number, phone":              {[]string{"number", "phone"}, []string{"swk"}, "{demo: {methods: [none]}}", httpapi.Problem{App: "demo", Method: "session"}},
		"both were shown":            {[]string{"password", "number"}, []string{"pwd", "sms"}, "{demo: {}}", httpapi.Problem{}},
		"password":                   {[]string{"password"}, []string{"pwd"}, "{demo: {}}", httpapi.Problem{}},
		"two phones":                 {[]string{"phone", "phone"}, []string{"swk"}, "{demo: {methods: [none]}}", httpapi.Problem{}},
		"a number for notices only":  {[]string{"password", "number"}, []string{"pwd"}, "{demo: {factors: [push]}}", httpapi.Problem{}},
		"an app that lets nobody in": {[]string{"password", "number"}, []string{"pwd"}, "{demo: {factors: [push]}, off: {on_ok: deny, on_review: deny}}", httpapi.Problem{}},
		// A step-up asks for no password.
		"the password is missing": {[]string{"password", "phone"}, []string{"swk"}, "{demo: {methods: [password, none]}}", httpapi.Problem{App: "demo"}},
		// An app that takes less is no way around.
		"another app asks for it":      {[]string{"password", "number"}, []string{"pwd"}, "{demo: {factors: [push]}, wiki: {}}", httpapi.Problem{App: "wiki", Method: "session"}},
		"another app asks for it anew": {[]string{"password", "number"}, []string{"pwd"}, "{demo: {factors: [push]}, wiki: {session_max_age: 0s}}", httpapi.Problem{App: "wiki"}},
	} {
		t.Run(name, func(t *testing.T) {
			check(t, os.WriteFile(path, []byte("apps: "+tt.policy), 0o600))
			s := newSite(t, func(c *config.Config) { c.Policy = path })
			s.serve(t)
			s.has(t, "alice", tt.has...)
			session := s.session(t, "alice", "web", tt.amr...)
			status, _ := s.send(t, events.DeviceRequest{Method: "GET", Path: "/v1/devices", Session: session})
			expect(t, "list", status, http.StatusOK)
			// Whether there is such a phone is not looked at before.
			for call, through := range map[[2]string]int{
				{"POST", "/v1/activations"}: http.StatusCreated, {"PATCH", "/v1/devices/x"}: http.StatusNotFound, {"DELETE", "/v1/devices/x"}: http.StatusNotFound,
			} {
				r := events.DeviceRequest{Method: call[0], Path: call[1], Session: session}
				if call[0] == "PATCH" {
					r.Body = []byte(`{"name":"x"}`)
				}
				response, err := s.gateway.Device(t.Context(), r)
				check(t, err)
				if tt.want.App == "" {
					expect(t, call[0], []any{response.Status, response.Authenticate}, []any{through, ""})
					continue
				}
				var got httpapi.Problem
				check(t, json.Unmarshal(response.Body, &got))
				expect(t, call[0], []any{response.Status, response.Authenticate, got.App, got.ACR, got.Method}, []any{
					http.StatusUnauthorized, `Bearer error="insufficient_user_authentication", acr_values="2fa"`, tt.want.App, "2fa", tt.want.Method})
			}
		})
	}
}

// Locking a factor, which wrong codes do, does not take it away.
func TestLockedFactorsCount(t *testing.T) {
	s := newSite(t)
	s.serve(t)
	s.has(t, "alice", "password", "number")
	s.sql(t, `INSERT INTO directory.counters (authenticator, device, failures, locked_until, changed_at)
		VALUES ('sms:alice', '', 100, $1, $2)`, s.clock().Add(time.Hour), s.clock())
	status, _ := s.send(t, events.DeviceRequest{Method: "POST", Path: "/v1/activations", Session: s.session(t, "alice", "web")})
	expect(t, "invite", status, http.StatusUnauthorized)
}
