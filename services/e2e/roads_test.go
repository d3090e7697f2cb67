package e2e

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
)

// wrong is a code that is not the given one.
func wrong(code string) string {
	last := code[len(code)-1]
	return code[:len(code)-1] + string('0'+(last-'0'+1)%10)
}

// The roads that need no special settings, on one system.
func TestRoads(t *testing.T) {
	s := start(t, cheap+"limits: {sms_per_user: 3}\n")

	t.Run("password and OK", func(t *testing.T) {
		l := s.begin("bob", s.Password)
		if l.Status != "granted" || l.Session == nil || l.Session.User != "bob" || !slices.Equal(l.Session.AMR, []string{"pwd"}) || l.SessionToken == "" {
			t.Fatalf("%+v", l)
		}
		var me struct{ User, App, ACR string }
		if status := s.call(http.MethodGet, s.HTTP+"/v1/session", l.SessionToken, nil, &me); status != 200 || me.User != "bob" || me.App != "demo" {
			t.Errorf("session: %d %+v", status, me)
		}
		if again := s.look(l); again.SessionToken != "" {
			t.Error("the session token was given again after it was used")
		}
		if status, _ := s.raw(http.MethodDelete, s.HTTP+"/v1/session", l.SessionToken, nil); status != http.StatusNoContent {
			t.Errorf("log out: %d", status)
		}
		if status, _ := s.raw(http.MethodGet, s.HTTP+"/v1/session", l.SessionToken, nil); status != http.StatusUnauthorized {
			t.Errorf("session after log-out: %d", status)
		}
	})

	t.Run("password and REVIEW", func(t *testing.T) {
		l := s.begin("alice", s.Password)
		if l.Status != "challenge" || l.Challenge.Factor != "sms" || l.Challenge.Round != 1 || l.Challenge.AttemptsLeft != 5 || !strings.HasSuffix(l.Challenge.Hint, "1234") {
			t.Fatalf("%+v", l)
		}
		code := s.newestCode("09012341234")
		status, now := s.answer(l, wrong(code))
		if status != 200 || now.Status != "challenge" || now.Challenge.AttemptsLeft != 4 {
			t.Fatalf("wrong code: %d %+v", status, now)
		}
		if status, _ := s.answer(l, "12345"); status != http.StatusUnprocessableEntity {
			t.Errorf("short code: %d", status)
		}
		status, now = s.answer(l, code)
		now = s.untilStatus(l, "granted")
		if status != 200 || !slices.Contains(now.Session.AMR, "pwd") || !slices.Contains(now.Session.AMR, "sms") || now.Session.ACR != "2fa" {
			t.Errorf("right code: %d %+v", status, now)
		}
		if status, _ := s.answer(l, code); status != http.StatusConflict {
			t.Errorf("answer to a login that has ended: %d", status)
		}
	})

	t.Run("NG", func(t *testing.T) {
		s.addUser("nora", "+819011110001")
		s.risk("nora", "NG")
		if l := s.begin("nora", userPassword); l.Status != "denied" || l.Reason != "" || l.Session != nil {
			t.Errorf("%+v", l)
		}
		if sent := s.messages("+819011110001"); len(sent) != 0 {
			t.Errorf("something was sent: %v", sent)
		}
	})

	t.Run("wrong password, unknown user, locked user", func(t *testing.T) {
		for _, c := range [][2]string{{"bob", "not it"}, {"nobody", s.Password}, {"dave", s.Password}, {"dave", "not it"}, {"carol", s.Password}} {
			l := s.begin(c[0], c[1])
			if l.Status != "denied" || l.Reason != "" || l.Challenge != nil || l.Choices != nil || l.Version != 2 {
				t.Errorf("%s: %+v", c[0], l)
			}
		}
	})

	t.Run("five wrong codes", func(t *testing.T) {
		s.addUser("five", "+819011110005")
		s.risk("five", "REVIEW")
		l := s.begin("five", userPassword)
		code := s.newestCode("+819011110005")
		for range 5 {
			s.answer(l, wrong(code))
		}
		if now := s.untilStatus(l, "failed"); now.Reason != "attempts" {
			t.Errorf("%+v", now)
		}
		if status, _ := s.answer(l, code); status != http.StatusConflict {
			t.Errorf("the right code after five wrong ones: %d", status)
		}
	})

	t.Run("cancelled", func(t *testing.T) {
		s.addUser("cancan", "+819011110006")
		s.risk("cancan", "REVIEW")
		l := s.begin("cancan", userPassword)
		var now login
		if status := s.call(http.MethodDelete, s.path(l), l.LoginToken, nil, &now); status != 200 || now.Status != "cancelled" {
			t.Errorf("%d %+v", status, now)
		}
	})

	t.Run("somebody else's login", func(t *testing.T) {
		l, other := s.begin("bob", s.Password), s.begin("bob", s.Password)
		for _, bearer := range []string{"", other.LoginToken, l.LoginToken[:len(l.LoginToken)-2], l.SessionToken} {
			if status, _ := s.raw(http.MethodGet, s.path(l), bearer, nil); status != http.StatusNotFound {
				t.Errorf("status %d with %q", status, bearer)
			}
		}
	})

	t.Run("first SMS provider down", func(t *testing.T) {
		s.addUser("second", "+819011110007")
		s.risk("second", "REVIEW")
		for _, mode := range []string{"error", "reset", "garbage"} {
			s.fault("sms", mode)
			l := s.begin("second", userPassword)
			if l.Status != "challenge" || l.Challenge.Round != 1 {
				t.Errorf("%s: %+v", mode, l)
				continue
			}
			sent := s.messages("+819011110007")
			if sent[0].Provider != "sms2" {
				t.Errorf("%s: sent by %s", mode, sent[0].Provider)
			}
			s.answer(l, sent[0].code())
			s.untilStatus(l, "granted")
		}
		s.fault("sms", "none")
	})

	t.Run("sends are limited", func(t *testing.T) {
		// The user above has had three messages, which is the limit here.
		if l := s.begin("second", userPassword); l.Status != "failed" || l.Reason != "undelivered" {
			t.Errorf("%+v", l)
		}
	})

	t.Run("all SMS providers down", func(t *testing.T) {
		s.addUser("nosms", "+819011110008")
		s.risk("nosms", "REVIEW")
		s.fault("sms", "error")
		s.fault("sms2", "error")
		if l := s.begin("nosms", userPassword); l.Status != "failed" || l.Reason != "undelivered" {
			t.Errorf("%+v", l)
		}
		s.fault("sms", "none")
		s.fault("sms2", "none")
	})

	t.Run("risk provider down", func(t *testing.T) {
		s.addUser("norisk", "+819011110009")
		s.fault("risk", "error")
		// By default the policy asks for one more factor; after five failures the breaker answers at once.
		for range 2 {
			if l := s.begin("norisk", userPassword); l.Status != "challenge" || l.Challenge.Factor != "sms" {
				t.Errorf("%+v", l)
			}
		}
		s.fault("risk", "none")
	})

	t.Run("admin locks and unlocks", func(t *testing.T) {
		s.addUser("locked", "+819011110010")
		l := s.begin("locked", userPassword)
		if l.Status != "granted" && l.Status != "challenge" {
			t.Fatalf("%+v", l)
		}
		if status := s.admin(http.MethodPost, "/users/locked/lock", nil, nil); status/100 != 2 {
			t.Fatalf("lock: %d", status)
		}
		if status, _ := s.raw(http.MethodGet, s.HTTP+"/v1/session", l.SessionToken, nil); l.SessionToken != "" && status != http.StatusUnauthorized {
			t.Errorf("session of a locked user: %d", status)
		}
		if l := s.begin("locked", userPassword); l.Status != "denied" {
			t.Errorf("locked: %+v", l)
		}
		if status := s.admin(http.MethodPost, "/users/locked/unlock", nil, nil); status/100 != 2 {
			t.Fatalf("unlock: %d", status)
		}
		if l := s.begin("locked", userPassword); l.Status == "denied" {
			t.Errorf("unlocked: %+v", l)
		}
	})

	t.Run("failures lock a password", func(t *testing.T) {
		s.addUser("guessed", "+819011110011")
		for range 5 {
			s.begin("guessed", "not it")
		}
		if l := s.begin("guessed", userPassword); l.Status != "denied" {
			t.Errorf("the right password while locked: %+v", l)
		}
		s.admin(http.MethodPost, "/users/guessed/unlock", nil, nil)
		if l := s.begin("guessed", userPassword); l.Status != "granted" {
			t.Errorf("after unlock: %+v", l)
		}
	})

	s.checkBus()
}

// A resend makes a new round. The old code is good until the new one is sent, and no attempt comes back.
func TestResend(t *testing.T) {
	s := start(t, cheap+"code: {resend_after: 1s}\n")
	l := s.begin("alice", s.Password)
	first := s.newestCode("09012341234")
	s.answer(l, wrong(first))
	var now login
	if status := s.call(http.MethodPost, s.path(l)+"/factor", l.LoginToken, map[string]any{"factor": "sms"}, nil); status != http.StatusTooManyRequests && status != http.StatusOK {
		t.Errorf("resend before its time: %d", status)
	}
	now = s.until(l, "resendable", func(login) bool {
		return s.call(http.MethodPost, s.path(l)+"/factor", l.LoginToken, map[string]any{"factor": "sms", "wait": "20s"}, nil) != http.StatusTooManyRequests
	})
	now = s.until(l, "in round 2", func(now login) bool { return now.Challenge != nil && now.Challenge.Round == 2 })
	if now.Challenge.AttemptsLeft != 4 {
		t.Errorf("a resend gave attempts back: %+v", now.Challenge)
	}
	second := s.newestCode("09012341234")
	if first == second {
		t.Fatal("the new round has the old code")
	}
	if _, now := s.answer(l, first); now.Status != "challenge" || now.Challenge.AttemptsLeft != 3 {
		t.Errorf("the old code after the new one was sent: %+v", now)
	}
	s.answer(l, second)
	s.untilStatus(l, "granted")
	s.checkBus()
}

// What an admin changes or takes away is of no use to a login that has begun before: not the code that went to the old number either.
func TestChangesEndLoginsUnderWay(t *testing.T) {
	s := start(t, cheap)
	for what, change := range map[string]func(user string) int{
		"password": func(user string) int {
			return s.admin(http.MethodPatch, "/users/"+user, map[string]any{"password": "another good password"}, nil)
		},
		"phone": func(user string) int {
			return s.admin(http.MethodPatch, "/users/"+user, map[string]any{"phone": "09055556666"}, nil)
		},
		"no-phone": func(user string) int {
			return s.admin(http.MethodDelete, "/users/"+user+"/authenticators/sms", nil, nil)
		},
		"lock": func(user string) int {
			s.admin(http.MethodPost, "/users/"+user+"/lock", nil, nil)
			return s.admin(http.MethodPost, "/users/"+user+"/unlock", nil, nil)
		},
	} {
		t.Run(what, func(t *testing.T) {
			user, number := "changed-"+what, fmt.Sprintf("0906666%04d", len(what))
			s.addUser(user, number)
			s.risk(user, "REVIEW")
			l := s.challenged(s.begin(user, userPassword), "sms")
			code := s.newestCode(number)
			if status := change(user); status/100 != 2 {
				t.Fatalf("the change: %d", status)
			}
			s.answer(l, code)
			s.untilStatus(l, "denied")
		})
	}
}

// Nobody answers: the login expires at its deadline, and a code that comes later is of no use.
func TestExpires(t *testing.T) {
	s := start(t, "password: {memory: 8, time: 1}\nlogin: {deadline: 2s}\n")
	l := s.begin("alice", s.Password)
	if l.Status != "challenge" {
		t.Fatalf("%+v", l)
	}
	code := s.newestCode("09012341234")
	s.untilStatus(l, "expired")
	if status, _ := s.answer(l, code); status != http.StatusConflict {
		t.Errorf("answer after the deadline: %d", status)
	}
	s.checkBus()
}
