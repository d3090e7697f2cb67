package e2e

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/sekisho/sekisho/events"
	"github.com/sekisho/sekisho/services/internal/bus"
)

// loginOf is a login's name as phones know it.
func loginOf(l login) string { return "web/" + l.ID }

// another is a number that is not the one shown.
func another(number string) string {
	last := number[len(number)-1]
	return number[:len(number)-1] + string('0'+(last-'0'+1)%10)
}

// challenged follows a login to a challenge of a factor.
func (s *system) challenged(l login, factor string) login {
	s.t.Helper()
	now := s.until(l, "challenged by "+factor, func(now login) bool { return now.Challenge != nil && now.Challenge.Factor == factor })
	now.LoginToken = l.LoginToken
	return now
}

// byID begins a login by ID only.
func (s *system) byID(user string) login {
	s.t.Helper()
	return s.beginWith(map[string]any{"user": user, "method": "none"})
}

// choose takes another factor.
func (s *system) choose(l login, factor string) login {
	s.t.Helper()
	if status := s.call(http.MethodPost, s.path(l)+"/factor", l.LoginToken, map[string]any{"factor": factor}, nil); status/100 != 2 {
		s.t.Fatalf("choose %s: %d", factor, status)
	}
	return s.challenged(l, factor)
}

// alerts is how many alerts of a kind there are about a login.
func (s *system) alerts(kind string, l login) (n int) {
	s.t.Helper()
	js, err := jetstream.New(s.dial(bus.UserViewer))
	must(s.t, err)
	for _, msg := range s.whole(js, "ACCOUNT") {
		var alert struct{ Login string }
		if strings.HasPrefix(msg.Subject, "alert."+kind+".") && json.Unmarshal(msg.Data, &alert) == nil && alert.Login == loginOf(l) {
			n++
		}
	}
	return n
}

// people makes users of one test, each with a telephone number of its own.
type people struct {
	*system
	first int // of the numbers
	n     int
}

func (p *people) add(risk string) (user, number string) {
	p.t.Helper()
	p.n++
	user, number = fmt.Sprintf("person%d", p.n), fmt.Sprintf("+8190%08d", p.first+p.n)
	p.addUser(user, number)
	p.risk(user, risk)
	return user, number
}

// Logins whose proof is a phone, from the invitation to the session.
func TestPushRoads(t *testing.T) {
	s := start(t, cheap+"code: {resend_after: 0s}\n")
	all := &people{system: s, first: 31110000}

	t.Run("ID only", func(t *testing.T) {
		user, _ := all.add("OK")
		p := s.phoneOf(user)
		l := s.challenged(s.byID(user), "push")
		asked := p.asked(loginOf(l))
		if !asked.Number || asked.App != "Sekisho demo" || asked.Place != "127.0.0.1" || len(l.Challenge.Number) != 6 {
			t.Errorf("asked %+v, shown %+v", asked, l.Challenge)
		}
		if status, result := p.decide(asked, "approve", another(l.Challenge.Number)); status != http.StatusOK || result != "wrong" {
			t.Errorf("wrong number: %d %s", status, result)
		}
		if status, result := p.decide(asked, "approve", l.Challenge.Number); status != http.StatusOK || result != "approved" {
			t.Errorf("right number: %d %s", status, result)
		}
		if end := s.untilStatus(l, "granted"); end.Session == nil || end.Session.User != user || !slices.Equal(end.Session.AMR, []string{"swk"}) {
			t.Errorf("granted %+v", end.Session)
		}
		if status, _ := p.decide(asked, "deny", ""); status != http.StatusConflict {
			t.Errorf("denied afterwards: %d", status)
		}
	})

	t.Run("password and REVIEW", func(t *testing.T) {
		user, number := all.add("REVIEW")
		p := s.phoneOf(user)
		l := s.challenged(s.begin(user, userPassword), "push")
		if !slices.Equal(l.Choices, []string{"push", "sms"}) {
			t.Errorf("%+v, choices %v", l.Challenge, l.Choices)
		}
		l = s.choose(l, "sms")
		s.answer(l, wrong(s.newestCode(number)))
		l = s.choose(l, "push")
		p.decide(p.asked(loginOf(l)), "approve", l.Challenge.Number)
		if end := s.untilStatus(l, "granted"); !slices.Equal(end.Session.AMR, []string{"pwd", "swk"}) || end.Session.ACR != "2fa" {
			t.Errorf("granted %+v", end.Session)
		}
	})

	for decision, next := range map[string]string{"deny": "challenge", "not_me": "failed"} {
		t.Run(decision, func(t *testing.T) {
			user, _ := all.add("OK")
			p := s.phoneOf(user)
			l := s.challenged(s.byID(user), "push")
			if status, result := p.decide(p.asked(loginOf(l)), decision, ""); status != http.StatusOK || result != "denied" {
				t.Errorf("%d %s", status, result)
			}
			s.untilStatus(l, "denied")
			s.untilStatus(s.byID(user), next) // who said "this was not me" gets no push for a while
		})
	}

	t.Run("three wrong numbers, then a text message", func(t *testing.T) {
		user, number := all.add("REVIEW")
		p := s.phoneOf(user)
		l := s.challenged(s.begin(user, userPassword), "push")
		asked := p.asked(loginOf(l))
		for _, want := range []string{"wrong", "wrong", "over"} {
			if status, result := p.decide(asked, "approve", another(l.Challenge.Number)); status != http.StatusOK || result != want {
				t.Errorf("wrong number: %d %s, want %s", status, result, want)
			}
		}
		now := s.until(l, "exhausted", func(now login) bool { return now.Challenge != nil && now.Challenge.AttemptsLeft == 2 })
		if slices.Contains(now.Choices, "push") || !slices.Contains(now.Choices, "sms") {
			t.Errorf("choices: %v", now.Choices)
		}
		if status, _ := p.decide(asked, "approve", l.Challenge.Number); status != http.StatusConflict {
			t.Errorf("a fourth number: %d", status)
		}
		l = s.choose(l, "sms")
		s.answer(l, s.newestCode(number))
		if end := s.untilStatus(l, "granted"); !slices.Equal(end.Session.AMR, []string{"pwd", "sms"}) {
			t.Errorf("granted %+v", end.Session)
		}
	})

	t.Run("the first of two phones decides", func(t *testing.T) {
		user, _ := all.add("OK")
		one, two := s.phoneOf(user), s.phoneOf(user)
		l := s.challenged(s.byID(user), "push")
		here, there := one.asked(loginOf(l)), two.asked(loginOf(l))
		results := make([]string, 2)
		var both sync.WaitGroup
		both.Go(func() { _, results[0] = one.decide(here, "approve", l.Challenge.Number) })
		both.Go(func() { _, results[1] = two.decide(there, "deny", "") })
		both.Wait()
		end := s.until(l, "over", func(now login) bool { return now.Status != "challenge" && now.Status != "pending" })
		approved, denied := results[0] == "approved", results[1] == "denied"
		if approved == denied || approved != (end.Status == "granted") {
			t.Errorf("%q, and the login is %s", results, end.Status)
		}
		for _, p := range []*phone{one, two} {
			if left := p.fetch().Prompts; len(left) != 0 {
				t.Errorf("a phone is still asked %+v", left)
			}
		}
	})

	t.Run("a phone that is removed", func(t *testing.T) {
		user, _ := all.add("OK")
		p := s.phoneOf(user)
		l := s.challenged(s.byID(user), "push")
		asked := p.asked(loginOf(l))
		if status := s.admin(http.MethodDelete, "/users/"+user+"/authenticators/push:"+p.id, nil, nil); status != http.StatusNoContent {
			t.Fatalf("remove: %d", status)
		}
		if status, _ := p.decide(asked, "approve", l.Challenge.Number); status != http.StatusUnauthorized {
			t.Errorf("approve: %d", status)
		}
		if now := s.look(l); now.Status != "challenge" {
			t.Errorf("%+v", now)
		}
	})

	t.Run("names without a phone look alike", func(t *testing.T) {
		user, _ := all.add("OK")
		s.phoneOf(user)
		phoneless, _ := all.add("OK")
		want := s.challenged(s.byID(user), "push")
		for _, name := range []string{phoneless, "nobody", "dave"} {
			l := s.challenged(s.byID(name), "push")
			if !slices.Equal(l.Choices, want.Choices) || l.Challenge.AttemptsLeft != want.Challenge.AttemptsLeft || l.Challenge.Hint != want.Challenge.Hint ||
				len(l.Challenge.Number) != len(want.Challenge.Number) {
				t.Errorf("%s: %+v, of who has a phone: %+v", name, l, want)
			}
		}
	})

	if status, _ := s.phone().send(events.DeviceRequest{Method: http.MethodGet, Path: "/v1/authenticator/prompts"}); status != http.StatusUnauthorized {
		t.Errorf("without a proof: %d", status)
	}
	s.checkBus()
}

// usable is how soon a login page has something to go on with, whatever a push service does.
const usable = 2 * time.Second

// Push services that work, that hang and that fail: phones find their prompts by themselves.
func TestPushServices(t *testing.T) {
	s := start(t, cheap+"push: {timeout: 1m}\n") // hangs longer than any test waits
	all := &people{system: s, first: 32220000}
	user, number := all.add("REVIEW")
	p := s.phoneOf(user)
	p.subscribe(s, user, "webpush")
	s.phoneOf(user).subscribe(s, user, "fcm")
	approve := func(t *testing.T, l login) {
		t.Helper()
		if status, result := p.decide(p.asked(loginOf(l)), "approve", l.Challenge.Number); status != http.StatusOK || result != "approved" {
			t.Errorf("approve: %d %s", status, result)
		}
	}

	t.Run("working", func(t *testing.T) {
		l := s.challenged(s.begin(user, userPassword), "push")
		var got []struct{ Provider, Body, Urgency string }
		poll(t, "woken by both", func() bool {
			s.call(http.MethodGet, s.Sim+"/sim/push/messages?user="+user, "", nil, &got)
			got = slices.DeleteFunc(got, func(m struct{ Provider, Body, Urgency string }) bool { return m.Urgency != "high" }) // notices
			return len(got) == 2
		})
		for _, m := range got {
			if m.Body != `{"event":"prompts"}` {
				t.Errorf("%s was given %q", m.Provider, m.Body)
			}
		}
		approve(t, l)
		s.untilStatus(l, "granted")
	})

	t.Run("hanging", func(t *testing.T) {
		s.fault("push", "hang")
		defer s.fault("push", "none")
		fastest := time.Hour
		for range 3 { // the machine may be busy
			began := time.Now()
			l := s.challenged(s.begin(user, userPassword), "push")
			fastest = min(fastest, time.Since(began))
			approve(t, l)
			s.untilStatus(l, "granted")
		}
		if fastest > usable {
			t.Errorf("challenged after %v", fastest)
		}
	})

	t.Run("failing, and a text message is chosen", func(t *testing.T) {
		s.fault("push", "error")
		defer s.fault("push", "none")
		l := s.choose(s.challenged(s.begin(user, userPassword), "push"), "sms")
		s.answer(l, s.newestCode(number))
		if end := s.untilStatus(l, "granted"); !slices.Equal(end.Session.AMR, []string{"pwd", "sms"}) {
			t.Errorf("granted %+v", end.Session)
		}
	})
}

// A login from where the user has not been before raises an alert and is told to the phone, whatever the verdict on it, and the
// user can disown it.
func TestUnknownEnvironment(t *testing.T) {
	s := start(t, cheap)
	all := &people{system: s, first: 33330000}
	user, _ := all.add("OK")
	p := s.phoneOf(user)
	disown := func(n notice) {
		t.Helper()
		if status := p.call(http.MethodPost, "/v1/authenticator/notices/"+n.ID, map[string]string{"decision": "not_me"}, nil); status != http.StatusNoContent {
			t.Fatalf("not me: %d", status)
		}
	}
	for verdict, status := range map[string]string{"OK": "granted", "REVIEW": "challenge", "NG": "denied"} {
		s.risk(user, verdict)
		l := s.begin(user, userPassword)
		if l.Status != status {
			t.Fatalf("%s: %+v", verdict, l)
		}
		told := p.warned(1)
		if len(told) != 1 || told[0].Place != "127.0.0.1" || s.alerts("unknown-environment", l) != 1 {
			t.Errorf("%s: the phone was told %+v, and %d alerts were raised", verdict, told, s.alerts("unknown-environment", l))
		}
		disown(told[0])
		poll(t, "an alert", func() bool { return s.alerts("not-me", l) == 1 })
		switch verdict {
		case "OK":
			poll(t, "logged out", func() bool {
				status, _ := s.raw(http.MethodGet, s.HTTP+"/v1/session", l.SessionToken, nil)
				return status == http.StatusUnauthorized
			})
		case "REVIEW":
			s.untilStatus(l, "denied")
		}
	}
}

// Who asks and asks gets no further push out, for the user or from the network, and the login goes on with another factor.
func TestPushLimits(t *testing.T) {
	s := start(t, cheap+"limits: {push_per_user: 10, push_per_source: 12}\n")
	all := &people{system: s, first: 34440000}
	user, number := all.add("REVIEW")
	s.phoneOf(user)
	other, _ := all.add("OK")
	s.phoneOf(other)
	for range 10 {
		s.challenged(s.byID(user), "push")
	}
	l := s.challenged(s.begin(user, userPassword), "sms")
	s.answer(l, s.newestCode(number))
	s.untilStatus(l, "granted")
	if l := s.untilStatus(s.byID(user), "failed"); l.Reason != "undelivered" {
		t.Errorf("%+v", l)
	}
	for range 2 {
		s.challenged(s.byID(other), "push")
	}
	if l := s.untilStatus(s.byID(other), "failed"); l.Reason != "undelivered" {
		t.Errorf("from a network that has caused enough: %+v", l)
	}
}
