package sessionissuer

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/sekisho/sekisho/events"
	"github.com/sekisho/sekisho/services/internal/policy"
)

var (
	start = time.Date(2026, 1, 5, 9, 0, 0, 0, time.UTC)
	end   = start.Add(5 * time.Minute)
	soon  = events.Facts{Now: start.Add(time.Second), Enabled: true}
	late  = events.Facts{Now: end, Enabled: true}
	name  = events.Login{Gateway: "web", ID: "0199a0b0-0000-7000-8000-000000000001"}
)

func load(t testing.TB, app string) *policy.Policy {
	t.Helper()
	path := filepath.Join(t.TempDir(), "policy.yaml")
	if err := os.WriteFile(path, []byte("apps:\n  demo: "+app+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	p, err := policy.Load(path)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func event(n int, data events.Data) *events.Event {
	e := events.New(name, n, data)
	if data.Step() == events.StepRequested {
		e.Stored = start
	}
	return e
}

// What the parties other than sessionissuer say.
func requested(method events.Method) *events.Event {
	return event(0, &events.Requested{App: "demo", Method: method, Deadline: end})
}
func identified(primary events.Method, enrolled ...events.Factor) *events.Event {
	return event(0, &events.Identified{App: "demo", User: "u1", Primary: primary, Factors: enrolled, Deadline: end})
}
func decoy() *events.Event {
	return event(0, &events.Identified{App: "demo", User: "u0", Primary: events.None, Factors: events.Factors, Deadline: end, Decoy: true})
}

// steppedUp is identified of a login that steps up from a session of half an hour ago.
func steppedUp(shown []string, enrolled ...events.Factor) *events.Event {
	e := identified(events.None, enrolled...)
	e.Data.(*events.Identified).Session = &events.SteppedFrom{ID: "0199a0b0-0000-7000-8000-000000000000", AMR: shown, AuthTime: start.Add(-30 * time.Minute)}
	return e
}
func assessed(v events.Verdict) *events.Event { return event(0, &events.Assessed{Verdict: v}) }
func degraded() *events.Event {
	return event(0, &events.Assessed{Verdict: events.Review, Degraded: true})
}
func challenged(round int, f events.Factor) *events.Event {
	return event(round, &events.Challenged{Factor: f, Expires: start.Add(2 * time.Minute)})
}
func undelivered(round int, f events.Factor) *events.Event {
	return event(round, &events.Undelivered{Factor: f, Reason: events.UndeliveredDown})
}
func verified(round int, f events.Factor) *events.Event {
	return event(round, &events.Verified{Factor: f, Authenticator: string(f) + ":u1"})
}
func rejected(attempt, round int, f events.Factor, reason string) *events.Event {
	return event(attempt, &events.Rejected{Round: round, Factor: f, Reason: reason, AttemptsLeft: events.Attempts - attempt})
}
func chosen(round int, f events.Factor) *events.Event { return event(round, &events.Chosen{Factor: f}) }
func cancelled() *events.Event                        { return event(0, &events.Cancelled{}) }
func lapsed() *events.Event                           { return event(0, &events.Lapsed{}) }
func refused() *events.Event                          { return event(0, &events.Refused{Reason: "wrong_password"}) }

// A stream is LOGIN in small: a subject takes one event, and a login one ending.
type stream struct {
	policy  *policy.Policy
	history []*events.Event
}

func (s *stream) store(e *events.Event) bool {
	if s.has(e.ID()) {
		return false
	}
	switch data := e.Data.(type) {
	case *events.Lapsed:
		if s.closed() != nil {
			return false
		}
	case *events.Closed:
		if data.Outcome != events.Expired && s.has(name.EventID(events.StepLapsed, 0)) {
			return false
		}
	}
	s.history = append(s.history, e)
	return true
}

func (s *stream) has(id string) bool {
	return slices.ContainsFunc(s.history, func(e *events.Event) bool { return e.ID() == id })
}

// settle stores decisions until there is none.
func (s *stream) settle(t *testing.T, facts events.Facts) {
	t.Helper()
	for range events.Rounds + 2 {
		next := Decide(s.policy, s.history, facts)
		s.partial(t, next, facts)
		if next == nil {
			return
		}
		s.check(t, next)
		if !s.store(next) {
			t.Fatalf("decided %s, which is there already\n%s", next.ID(), s)
		}
	}
	t.Fatalf("no end of decisions\n%s", s)
}

// partial holds a decision against the one that follows from what is read of a login once it is identified: the same.
func (s *stream) partial(t *testing.T, next *events.Event, facts events.Facts) {
	t.Helper()
	part := slices.DeleteFunc(slices.Clone(s.history), func(e *events.Event) bool { return !slices.Contains(deciding, e.Step) })
	if len(part) == 0 || part[0].Step != events.StepIdentified || part[len(part)-1] != s.history[len(s.history)-1] {
		return
	}
	if again := Decide(s.policy, part, facts); !reflect.DeepEqual(again, next) {
		t.Fatalf("decided %+v, and of a part %+v\n%s", next, again, s)
	}
}

// check holds one decision against what must be true of every decision.
func (s *stream) check(t *testing.T, next *events.Event) {
	t.Helper()
	if s.closed() != nil {
		t.Fatalf("decided %s after the end\n%s", next.ID(), s)
	}
	completed := *next
	if closed, ok := next.Data.(*events.Closed); ok && closed.Outcome == events.Granted {
		issued := *closed
		issued.Expires = closed.AuthTime.Add(time.Hour)
		completed.Data = &issued
		if proof := proven(s.history); len(proof) < needed(s.policy, s.history) || len(proof) == 0 {
			t.Fatalf("granted on %v\n%s", proof, s)
		}
	}
	if err := completed.Data.Validate(); err != nil {
		t.Fatalf("%s: %v\n%s", next.ID(), err, s)
	}
}

func (s *stream) closed() *events.Closed {
	for _, e := range s.history {
		if c, ok := e.Data.(*events.Closed); ok {
			return c
		}
	}
	return nil
}

func (s *stream) outcome() string {
	if c := s.closed(); c != nil {
		return string(c.Outcome)
	}
	return "open"
}

func (s *stream) String() string {
	var out string
	for _, e := range s.history {
		data, err := json.Marshal(e.Data)
		if err != nil {
			return err.Error()
		}
		out += fmt.Sprintf("  %s/%d %s\n", e.Step, e.N, data)
	}
	return out
}

// proven is written apart from the code under test: the kinds of proof in a history that may still be granted.
func proven(history []*events.Event) map[string]bool {
	proof := make(map[string]bool)
	asked := make(map[int]*events.Wanted)
	wrong := 0
	for _, e := range history {
		switch data := e.Data.(type) {
		case *events.Wanted:
			asked[e.N] = data
		case *events.Rejected:
			wrong++
			if data.Reason == events.RejectedDenied || data.Reason == events.RejectedNotMe {
				return nil
			}
		case *events.Cancelled, *events.Lapsed, *events.Refused:
			return nil
		}
	}
	for _, e := range history {
		switch data := e.Data.(type) {
		case *events.Identified:
			if data.Decoy {
				return nil
			}
			if data.Primary == events.Password {
				proof["password"] = true
			}
			if data.Session != nil {
				for _, kind := range data.Session.AMR {
					proof[map[string]string{"pwd": "password", "sms": "sms", "swk": "push", "otp": "token"}[kind]] = true
				}
			}
		case *events.Verified:
			if w := asked[e.N]; w != nil && w.Factor == data.Factor && !w.Decoy {
				proof[string(data.Factor)] = true
			}
		}
	}
	if wrong == events.Attempts {
		return nil
	}
	return proof
}

// needed is the number of factors that the policy, and every decision so far, ask for.
func needed(p *policy.Policy, history []*events.Event) int {
	need := 0
	for _, e := range history {
		switch data := e.Data.(type) {
		case *events.Assessed:
			if n := p.Apps["demo"].Need(data); n == policy.Deny {
				need = 99
			} else {
				need = max(need, int(n))
			}
		case *events.Wanted:
			need = max(need, data.Decision.Need)
		case *events.Identified:
			if data.Session != nil {
				need = max(need, len(data.Session.AMR)+1)
			}
		}
	}
	return need
}

const (
	standard = "{methods: [password, none]}"
	strict   = "{methods: [password], on_ok: 3, on_review: 3}"
)

// roads are logins as they come about, with the events of the other parties in their order.
var roads = []struct {
	name    string
	app     string
	events  []*events.Event
	outcome string
	reason  string
	amr     []string
	wanted  []events.Factor // round by round
}{
	{name: "password, OK", app: standard, outcome: "granted", amr: []string{"pwd"},
		events: []*events.Event{requested(events.Password), identified(events.Password, events.SMS), assessed(events.OK)}},
	{name: "password, REVIEW, text message", app: standard, outcome: "granted", amr: []string{"pwd", "sms"}, wanted: []events.Factor{events.SMS},
		events: []*events.Event{requested(events.Password), identified(events.Password, events.SMS), assessed(events.Review),
			challenged(1, events.SMS), rejected(1, 1, events.SMS, events.RejectedWrong), verified(1, events.SMS)}},
	{name: "five wrong codes", app: standard, outcome: "failed", reason: events.FailedAttempts, wanted: []events.Factor{events.SMS},
		events: []*events.Event{requested(events.Password), identified(events.Password, events.SMS), assessed(events.Review),
			rejected(1, 1, events.SMS, events.RejectedWrong), rejected(2, 1, events.SMS, events.RejectedWrong), rejected(3, 1, events.SMS, events.RejectedSuperseded),
			rejected(4, 1, events.SMS, events.RejectedWrong), rejected(5, 1, events.SMS, events.RejectedWrong)}},
	{name: "the fourth code is right, the fifth wrong", app: standard, outcome: "granted", amr: []string{"pwd", "sms"}, wanted: []events.Factor{events.SMS},
		events: []*events.Event{requested(events.Password), identified(events.Password, events.SMS), assessed(events.Review),
			rejected(1, 1, events.SMS, events.RejectedWrong), rejected(2, 1, events.SMS, events.RejectedWrong), rejected(3, 1, events.SMS, events.RejectedWrong),
			rejected(5, 1, events.SMS, events.RejectedWrong), verified(1, events.SMS)}},
	{name: "resend", app: standard, outcome: "granted", amr: []string{"pwd", "sms"}, wanted: []events.Factor{events.SMS, events.SMS},
		events: []*events.Event{requested(events.Password), identified(events.Password, events.SMS), assessed(events.Review),
			challenged(1, events.SMS), chosen(1, events.SMS), challenged(2, events.SMS), verified(2, events.SMS)}},
	{name: "the old code after a resend that was refused", app: standard, outcome: "granted", amr: []string{"pwd", "sms"}, wanted: []events.Factor{events.SMS, events.SMS},
		events: []*events.Event{requested(events.Password), identified(events.Password, events.SMS), assessed(events.Review),
			challenged(1, events.SMS), chosen(1, events.SMS), undelivered(2, events.SMS), verified(1, events.SMS)}},
	{name: "next factor when one can not be delivered", app: standard, outcome: "granted", amr: []string{"pwd", "sms"}, wanted: []events.Factor{events.Push, events.SMS},
		events: []*events.Event{requested(events.Password), identified(events.Password, events.SMS, events.Push), assessed(events.Review),
			undelivered(1, events.Push), challenged(2, events.SMS), verified(2, events.SMS)}},
	{name: "nothing can be delivered", app: standard, outcome: "failed", reason: events.FailedUndelivered, wanted: []events.Factor{events.Push, events.SMS},
		events: []*events.Event{requested(events.Password), identified(events.Password, events.SMS, events.Push), assessed(events.Review),
			undelivered(1, events.Push), undelivered(2, events.SMS)}},
	{name: "no factor is enrolled", app: standard, outcome: "failed", reason: events.FailedUnavailable,
		events: []*events.Event{requested(events.Password), identified(events.Password), assessed(events.Review), chosen(1, events.SMS), verified(1, events.SMS)}},
	{name: "two factors in a row", app: strict, outcome: "granted", amr: []string{"pwd", "swk", "sms"}, wanted: []events.Factor{events.Push, events.SMS},
		events: []*events.Event{requested(events.Password), identified(events.Password, events.SMS, events.Push), assessed(events.OK),
			challenged(1, events.Push), verified(1, events.Push), challenged(2, events.SMS), verified(2, events.SMS)}},
	{name: "too few factors for two in a row", app: strict, outcome: "failed", reason: events.FailedUnavailable,
		events: []*events.Event{requested(events.Password), identified(events.Password, events.SMS), assessed(events.OK)}},
	{name: "by ID only", app: standard, outcome: "granted", amr: []string{"otp"}, wanted: []events.Factor{events.Token},
		events: []*events.Event{requested(events.None), identified(events.None, events.SMS, events.Token), assessed(events.OK), challenged(1, events.Token), verified(1, events.Token)}},
	{name: "by ID only, REVIEW: a text message once something is proven", app: standard, outcome: "granted", amr: []string{"swk", "sms"}, wanted: []events.Factor{events.Push, events.SMS},
		events: []*events.Event{requested(events.None), identified(events.None, events.SMS, events.Push), assessed(events.Review),
			challenged(1, events.Push), verified(1, events.Push), challenged(2, events.SMS), verified(2, events.SMS)}},
	{name: "by ID only, and a text message can not be delivered: what is proven takes no answer", app: "{methods: [none], on_ok: 2}", outcome: "granted",
		amr: []string{"swk", "otp"}, wanted: []events.Factor{events.Push, events.SMS, events.Token},
		events: []*events.Event{requested(events.None), identified(events.None, events.Factors...), assessed(events.OK),
			challenged(1, events.Push), verified(1, events.Push), undelivered(2, events.SMS), verified(3, events.Token)}},
	{name: "by ID only, and only a phone number: a decoy", app: standard, outcome: "failed", reason: events.FailedAttempts, wanted: []events.Factor{events.Push},
		events: []*events.Event{requested(events.None), identified(events.None, events.SMS), assessed(events.OK), verified(1, events.Push),
			rejected(1, 1, events.Push, events.RejectedWrong), rejected(2, 1, events.Push, events.RejectedWrong), rejected(3, 1, events.Push, events.RejectedWrong),
			rejected(4, 1, events.Push, events.RejectedWrong), rejected(5, 1, events.Push, events.RejectedWrong)}},
	{name: "by ID only of nobody: a decoy", app: standard, outcome: "open", wanted: []events.Factor{events.Push, events.Token},
		events: []*events.Event{requested(events.None), decoy(), assessed(events.OK), challenged(1, events.Push), verified(1, events.Push),
			chosen(1, events.Token), verified(2, events.Token)}},
	{name: "by ID only where it is not accepted", app: "{methods: [password]}", outcome: "denied", reason: "policy",
		events: []*events.Event{requested(events.None), identified(events.None, events.Push), assessed(events.OK), verified(1, events.Push)}},
	{name: "wrong password", app: standard, outcome: "denied", reason: "refused",
		events: []*events.Event{requested(events.Password), refused(), assessed(events.OK), verified(1, events.SMS)}},
	{name: "NG", app: standard, outcome: "denied", reason: "risk",
		events: []*events.Event{requested(events.Password), identified(events.Password, events.SMS), assessed(events.NG), chosen(1, events.SMS), verified(1, events.SMS)}},
	{name: "NG that the policy lets in with three factors", app: "{methods: [password], on_ng: 3}", outcome: "granted", amr: []string{"pwd", "swk", "otp"},
		wanted: []events.Factor{events.Push, events.Token},
		events: []*events.Event{requested(events.Password), identified(events.Password, events.Push, events.Token), assessed(events.NG), verified(1, events.Push), verified(2, events.Token)}},
	{name: "no assessment, step up", app: standard, outcome: "granted", amr: []string{"pwd", "sms"}, wanted: []events.Factor{events.SMS},
		events: []*events.Event{requested(events.Password), identified(events.Password, events.SMS), degraded(), challenged(1, events.SMS), verified(1, events.SMS)}},
	{name: "no assessment, allow", app: "{on_unavailable: allow}", outcome: "granted", amr: []string{"pwd"},
		events: []*events.Event{requested(events.Password), identified(events.Password, events.SMS), degraded()}},
	{name: "no assessment, deny", app: "{on_unavailable: deny}", outcome: "denied", reason: "risk",
		events: []*events.Event{requested(events.Password), identified(events.Password, events.SMS), degraded(), verified(1, events.SMS)}},
	{name: "the user says no", app: standard, outcome: "denied", reason: "user", wanted: []events.Factor{events.Push},
		events: []*events.Event{requested(events.Password), identified(events.Password, events.Push, events.SMS), assessed(events.Review),
			challenged(1, events.Push), rejected(1, 1, events.Push, events.RejectedNotMe), chosen(1, events.SMS)}},
	{name: "by ID only, approved on the phone", app: standard, outcome: "granted", amr: []string{"swk"}, wanted: []events.Factor{events.Push},
		events: []*events.Event{requested(events.None), identified(events.None, events.SMS, events.Push), assessed(events.OK), challenged(1, events.Push), verified(1, events.Push)}},
	{name: "three wrong numbers and no other factor", app: standard, outcome: "failed", reason: events.FailedAttempts, wanted: []events.Factor{events.Push},
		events: []*events.Event{requested(events.None), identified(events.None, events.SMS, events.Push), assessed(events.OK), challenged(1, events.Push),
			rejected(1, 1, events.Push, events.RejectedWrong), rejected(2, 1, events.Push, events.RejectedWrong), rejected(3, 1, events.Push, events.RejectedExhausted)}},
	{name: "three wrong numbers and too few other factors", app: strict, outcome: "failed", reason: events.FailedAttempts, wanted: []events.Factor{events.Push},
		events: []*events.Event{requested(events.Password), identified(events.Password, events.SMS, events.Push), assessed(events.OK), challenged(1, events.Push),
			rejected(3, 1, events.Push, events.RejectedExhausted)}},
	{name: "three wrong numbers: the user is to choose", app: standard, outcome: "open", wanted: []events.Factor{events.Push},
		events: []*events.Event{requested(events.Password), identified(events.Password, events.SMS, events.Push), assessed(events.Review), challenged(1, events.Push),
			rejected(3, 1, events.Push, events.RejectedExhausted), chosen(1, events.Push)}},
	{name: "three wrong numbers, then another factor", app: standard, outcome: "granted", amr: []string{"pwd", "sms"}, wanted: []events.Factor{events.Push, events.SMS},
		events: []*events.Event{requested(events.Password), identified(events.Password, events.SMS, events.Push), assessed(events.Review), challenged(1, events.Push),
			rejected(3, 1, events.Push, events.RejectedExhausted), chosen(1, events.SMS), challenged(2, events.SMS), verified(2, events.SMS)}},
	{name: "three wrong numbers, then a factor that can not be delivered", app: standard, outcome: "failed", reason: events.FailedUndelivered,
		wanted: []events.Factor{events.Push, events.SMS},
		events: []*events.Event{requested(events.Password), identified(events.Password, events.SMS, events.Push), assessed(events.Review), challenged(1, events.Push),
			rejected(3, 1, events.Push, events.RejectedExhausted), chosen(1, events.SMS), undelivered(2, events.SMS)}},
	{name: "the user gives up", app: standard, outcome: "cancelled", wanted: []events.Factor{events.SMS},
		events: []*events.Event{requested(events.Password), identified(events.Password, events.SMS), assessed(events.Review),
			challenged(1, events.SMS), rejected(1, 1, events.SMS, events.RejectedWrong), cancelled(), lapsed()}},
	{name: "nobody answers", app: standard, outcome: "expired", wanted: []events.Factor{events.SMS},
		events: []*events.Event{requested(events.Password), identified(events.Password, events.SMS), assessed(events.Review), challenged(1, events.SMS), lapsed()}},
	{name: "seven rounds", app: standard, outcome: "open", wanted: []events.Factor{events.SMS, events.SMS, events.SMS, events.SMS, events.SMS, events.SMS},
		events: []*events.Event{requested(events.Password), identified(events.Password, events.SMS), assessed(events.Review),
			chosen(1, events.SMS), chosen(2, events.SMS), chosen(3, events.SMS), chosen(4, events.SMS), chosen(5, events.SMS), chosen(6, events.SMS)}},
	{name: "an old choice", app: standard, outcome: "open", wanted: []events.Factor{events.Push, events.SMS},
		events: []*events.Event{requested(events.Password), identified(events.Password, events.Push, events.SMS), assessed(events.Review),
			undelivered(1, events.Push), challenged(2, events.SMS), chosen(1, events.SMS)}},
	{name: "a choice that nobody offered", app: standard, outcome: "open", wanted: []events.Factor{events.SMS},
		events: []*events.Event{requested(events.Password), identified(events.Password, events.SMS), assessed(events.Review), challenged(1, events.SMS), chosen(1, events.Token)}},
	{name: "step up", app: "{on_ok: 2}", outcome: "granted", amr: []string{"pwd", "sms"}, wanted: []events.Factor{events.SMS},
		events: []*events.Event{requested(events.None), steppedUp([]string{"pwd"}, events.SMS), assessed(events.OK), challenged(1, events.SMS), verified(1, events.SMS)}},
	{name: "step up where one factor would do: a fresh one all the same", app: standard, outcome: "open", wanted: []events.Factor{events.SMS},
		events: []*events.Event{requested(events.None), steppedUp([]string{"pwd"}, events.SMS), assessed(events.OK), challenged(1, events.SMS)}},
	{name: "step up by what has not been shown", app: "{on_ok: 3, on_review: 3}", outcome: "granted", amr: []string{"pwd", "sms", "otp"}, wanted: []events.Factor{events.Token},
		events: []*events.Event{requested(events.None), steppedUp([]string{"pwd", "sms"}, events.SMS, events.Token), assessed(events.OK), verified(1, events.Token)}},
	{name: "step up by two factors", app: strict, outcome: "granted", amr: []string{"pwd", "swk", "sms"}, wanted: []events.Factor{events.Push, events.SMS},
		events: []*events.Event{requested(events.None), steppedUp([]string{"pwd"}, events.Push, events.SMS), assessed(events.OK), verified(1, events.Push), verified(2, events.SMS)}},
	{name: "step up with nothing left to show", app: standard, outcome: "failed", reason: events.FailedUnavailable,
		events: []*events.Event{requested(events.None), steppedUp([]string{"pwd", "sms"}, events.SMS), assessed(events.OK), verified(1, events.SMS)}},
	{name: "step up from a session with everything", app: standard, outcome: "denied", reason: "policy",
		events: []*events.Event{requested(events.None), steppedUp([]string{"pwd", "swk", "sms", "otp"}, events.Factors...), assessed(events.Review)}},
	{name: "step up from a session with nothing that counts", app: "{factors: [sms, token]}", outcome: "denied", reason: "policy",
		events: []*events.Event{requested(events.None), steppedUp([]string{"swk"}, events.SMS), assessed(events.OK), verified(1, events.SMS)}},
	{name: "step up from a session that is too old", app: "{session_max_age: 30m}", outcome: "denied", reason: "policy",
		events: []*events.Event{requested(events.None), steppedUp([]string{"pwd"}, events.SMS), assessed(events.OK), verified(1, events.SMS)}},
	{name: "step up where no session counts", app: "{methods: [password, none], session_max_age: 0s}", outcome: "denied", reason: "policy",
		events: []*events.Event{requested(events.None), steppedUp([]string{"pwd"}, events.SMS), assessed(events.OK), verified(1, events.SMS)}},
	{name: "step up, NG", app: standard, outcome: "denied", reason: "risk",
		events: []*events.Event{requested(events.None), steppedUp([]string{"pwd"}, events.SMS), assessed(events.NG), verified(1, events.SMS)}},
	{name: "step up, given up", app: standard, outcome: "cancelled", wanted: []events.Factor{events.SMS},
		events: []*events.Event{requested(events.None), steppedUp([]string{"pwd"}, events.SMS), assessed(events.OK), challenged(1, events.SMS), cancelled()}},
	{name: "delivered after all", app: standard, outcome: "open", wanted: []events.Factor{events.Push},
		events: []*events.Event{requested(events.Password), identified(events.Password, events.SMS, events.Push), assessed(events.Review),
			challenged(1, events.Push), undelivered(1, events.Push)}},
}

func TestRoads(t *testing.T) {
	for _, road := range roads {
		t.Run(road.name, func(t *testing.T) {
			s := &stream{policy: load(t, road.app)}
			for _, e := range road.events {
				s.store(e)
				s.settle(t, soon)
			}
			if s.outcome() != road.outcome {
				t.Fatalf("%s, want %s\n%s", s.outcome(), road.outcome, s)
			}
			if c := s.closed(); c != nil && (c.Reason != road.reason || !slices.Equal(c.AMR, road.amr)) {
				t.Errorf("reason %q amr %q, want %q %q", c.Reason, c.AMR, road.reason, road.amr)
			}
			var asked []events.Factor
			for _, e := range s.history {
				if w, ok := e.Data.(*events.Wanted); ok {
					asked = append(asked, w.Factor)
				}
			}
			if !slices.Equal(asked, road.wanted) {
				t.Errorf("asked for %q, want %q", asked, road.wanted)
			}
		})
	}
}

// TestEveryOrder lets the events of each road (the first eight: 40,320 orders) arrive in every order, looks at every beginning
// of every order, and hands every event over twice.
func TestEveryOrder(t *testing.T) {
	for _, road := range roads {
		t.Run(road.name, func(t *testing.T) {
			t.Parallel()
			p := load(t, road.app)
			var arrive func(s stream, rest []*events.Event)
			arrive = func(s stream, rest []*events.Event) {
				expired := stream{policy: p, history: slices.Clip(s.history)}
				expired.settle(t, late)
				if len(s.history) > 0 && slices.ContainsFunc(s.history, isRequested) && expired.closed() == nil {
					t.Fatalf("open past the deadline\n%s", &expired)
				}
				for i, e := range rest {
					next := stream{policy: p, history: slices.Clip(s.history)}
					next.store(e)
					next.settle(t, soon)
					if next.store(e) {
						t.Fatalf("%s was taken twice", e.ID())
					}
					if again := Decide(p, next.history, soon); again != nil {
						t.Fatalf("a repeated %s led to %s\n%s", e.ID(), again.ID(), &next)
					}
					if next.outcome() == "granted" && road.outcome != "granted" {
						t.Fatalf("granted in this order only\n%s", &next)
					}
					arrive(next, slices.Concat(rest[:i], rest[i+1:]))
				}
			}
			arrive(stream{policy: p}, road.events[:min(len(road.events), 8)])
		})
	}
}

// TestWhatAPushIsTold: only a push is told the policy's say on taps and where the login comes from.
func TestWhatAPushIsTold(t *testing.T) {
	for _, tt := range []struct {
		app    string
		factor events.Factor
		tap    bool
		tag    string
	}{
		{"{methods: [password]}", events.Push, false, "tag"},
		{"{methods: [password], push_tap: true}", events.Push, true, "tag"},
		{"{methods: [password], push_tap: true}", events.SMS, false, ""},
	} {
		request, found := requested(events.Password), identified(events.Password, tt.factor)
		request.Data.(*events.Requested).SourceTag = "tag"
		found.Data.(*events.Identified).SourceTag = "tag"
		for _, history := range [][]*events.Event{{request, found, assessed(events.Review)}, {found, assessed(events.Review)}} {
			next := Decide(load(t, tt.app), history, soon)
			if wanted, ok := next.Data.(*events.Wanted); !ok || wanted.Factor != tt.factor || wanted.Tap != tt.tap || wanted.SourceTag != tt.tag {
				t.Errorf("%s with %s: %+v", tt.app, tt.factor, next.Data)
			}
		}
	}
}

// TestDecoyOffersWhatAUserHas: a login by ID only offers one factor to a user who has one, and to who has none that may come first.
func TestDecoyOffersWhatAUserHas(t *testing.T) {
	for _, enrolled := range [][]events.Factor{{events.Push}, {events.SMS}, nil} {
		next := Decide(load(t, standard), []*events.Event{requested(events.None), identified(events.None, enrolled...), assessed(events.OK)}, soon)
		if wanted, ok := next.Data.(*events.Wanted); !ok || wanted.Factor != events.Push || len(wanted.Left) > 0 {
			t.Errorf("with %v: %+v", enrolled, next.Data)
		}
	}
}

// TestNeedOfARequest: a login may ask for more than the policy does, never for less.
func TestNeedOfARequest(t *testing.T) {
	for _, tt := range []struct {
		app  string
		need int
		want int
	}{{"{}", 0, 1}, {"{}", 1, 1}, {"{}", 2, 2}, {"{}", 3, 3}, {"{on_ok: 2}", 1, 2}, {"{on_ok: 2}", 3, 3}} {
		found := identified(events.Password, events.Push, events.SMS)
		found.Data.(*events.Identified).Need = tt.need
		next := Decide(load(t, tt.app), []*events.Event{found, assessed(events.OK)}, soon)
		got := 0
		switch data := next.Data.(type) {
		case *events.Wanted:
			got = data.Decision.Need
		case *events.Closed:
			got = data.Decision.Need
		}
		if got != tt.want {
			t.Errorf("%s, asked for %d: %d factors, want %d", tt.app, tt.need, got, tt.want)
		}
	}
}

func isRequested(e *events.Event) bool { return e.Step == events.StepRequested }

// TestEndingsBeatGrants: what ends a login wins over all its proof.
func TestEndingsBeatGrants(t *testing.T) {
	full := []*events.Event{requested(events.Password), identified(events.Password, events.SMS), assessed(events.Review),
		event(1, &events.Wanted{Factor: events.SMS, App: "demo", User: "u1", Deadline: end}), verified(1, events.SMS)}
	for _, test := range []struct {
		name  string
		facts events.Facts
		also  *events.Event
		want  events.Outcome
	}{
		{"nothing", soon, nil, events.Granted},
		{"cancelled", soon, cancelled(), events.CancelledBy},
		{"lapsed", soon, lapsed(), events.Expired},
		{"cancelled and past the deadline", late, cancelled(), events.CancelledBy},
		{"deadline", late, nil, events.Expired},
		{"refused", soon, refused(), events.Denied},
		{"denied by the user", soon, rejected(1, 1, events.Push, events.RejectedDenied), events.Denied},
		{"locked account", events.Facts{Now: soon.Now}, nil, events.Denied},
	} {
		t.Run(test.name, func(t *testing.T) {
			history := full
			if test.also != nil {
				history = append(slices.Clip(full), test.also)
			}
			if got := Decide(load(t, standard), history, test.facts).Data.(*events.Closed).Outcome; got != test.want {
				t.Errorf("%s, want %s", got, test.want)
			}
		})
	}
}

func TestDeadlineIsTenMinutesAtMost(t *testing.T) {
	far := event(0, &events.Requested{App: "demo", Method: events.Password, Deadline: start.Add(time.Hour)})
	history := []*events.Event{far, identified(events.Password, events.SMS), assessed(events.Review)}
	p := load(t, standard)
	w := Decide(p, history, soon)
	if want := start.Add(10 * time.Minute); !w.Data.(*events.Wanted).Deadline.Equal(want) || !w.Expires.Equal(want) {
		t.Errorf("deadline %v, expires %v, want %v", w.Data.(*events.Wanted).Deadline, w.Expires, want)
	}
	c := Decide(p, history, events.Facts{Now: start.Add(10 * time.Minute), Enabled: true}).Data.(*events.Closed)
	if c.Outcome != events.Expired {
		t.Errorf("outcome %s ten minutes after the request", c.Outcome)
	}
}

// TestSteppingUpRenewsNothing: the session that is granted ends when the one before it would have ended.
func TestSteppingUpRenewsNothing(t *testing.T) {
	history := []*events.Event{requested(events.None), steppedUp([]string{"pwd"}, events.SMS), assessed(events.OK),
		event(1, &events.Wanted{Factor: events.SMS, App: "demo", User: "u1", Deadline: end}), verified(1, events.SMS)}
	c := Decide(load(t, standard), history, soon).Data.(*events.Closed)
	if c.Outcome != events.Granted || !c.AuthTime.Equal(start.Add(-30*time.Minute)) {
		t.Errorf("%s, logged in at %v", c.Outcome, c.AuthTime)
	}
}

func TestFirstFactor(t *testing.T) {
	for _, test := range []struct {
		prefer events.Factor
		want   events.Factor
	}{{"", events.Push}, {events.SMS, events.SMS}, {events.Token, events.Push}} { // no token is enrolled
		r := event(0, &events.Requested{App: "demo", Method: events.Password, Prefer: test.prefer, Deadline: end})
		i := event(0, &events.Identified{App: "demo", User: "u1", Primary: events.Password, Locale: "ja", Device: "d1",
			Factors: []events.Factor{events.SMS, events.Push}, Deadline: end})
		p := load(t, standard)
		p.Apps["demo"].Name = policy.Name{EN: "Demo", JA: "デモ"}
		w := Decide(p, []*events.Event{r, i, assessed(events.Review)}, soon).Data.(*events.Wanted)
		if w.Factor != test.want {
			t.Errorf("prefer %q: asked for %q, want %q", test.prefer, w.Factor, test.want)
		}
		if len(w.Left) != 1 || w.Left[0] == w.Factor || !slices.Equal(w.Done, []string{"pwd"}) || w.Locale != "ja" || w.AppName != "デモ" || w.Device != "d1" || w.User != "u1" {
			t.Errorf("wanted %+v", w)
		}
	}
}

// TestProofThatNobodyAskedForDoesNotCount: a verified counts only with the wanted that asked for it.
func TestProofThatNobodyAskedForDoesNotCount(t *testing.T) {
	begin := []*events.Event{requested(events.Password), identified(events.Password, events.SMS, events.Push), assessed(events.Review)}
	ask := func(n int, f events.Factor, decoy bool) *events.Event {
		return event(n, &events.Wanted{Factor: f, App: "demo", User: "u1", Decoy: decoy, Deadline: end})
	}
	for _, test := range []struct {
		name string
		more []*events.Event
	}{
		{"no round", []*events.Event{verified(1, events.SMS)}},
		{"another factor", []*events.Event{ask(1, events.SMS, false), verified(1, events.Push)}},
		{"another round", []*events.Event{ask(1, events.SMS, false), verified(2, events.SMS)}},
		{"a decoy", []*events.Event{ask(1, events.SMS, true), verified(1, events.SMS)}},
		{"a factor that the policy does not accept", []*events.Event{ask(1, events.Token, false), verified(1, events.Token)}},
	} {
		t.Run(test.name, func(t *testing.T) {
			next := Decide(load(t, "{factors: [push, sms]}"), slices.Concat(begin, test.more), soon)
			if next == nil {
				return
			}
			if c, ok := next.Data.(*events.Closed); ok && c.Outcome == events.Granted {
				t.Errorf("granted with %q", c.AMR)
			}
		})
	}
}

// TestFewerAttempts: the answers themselves say how many the login had.
func TestFewerAttempts(t *testing.T) {
	p := load(t, standard)
	history := []*events.Event{requested(events.Password), identified(events.Password, events.SMS), assessed(events.Review)}
	last := func(n, left int) *events.Event {
		return event(n, &events.Rejected{Round: 1, Factor: events.SMS, Reason: events.RejectedWrong, AttemptsLeft: left})
	}
	s := &stream{policy: p, history: history}
	s.settle(t, soon)
	for _, e := range []*events.Event{last(1, 2), last(3, 0)} {
		s.store(e)
		s.settle(t, soon)
	}
	if s.outcome() != "open" {
		t.Fatalf("%s while the second answer is on its way", s.outcome())
	}
	s.store(last(2, 1))
	s.settle(t, soon)
	if c := s.closed(); c == nil || c.Reason != events.FailedAttempts {
		t.Fatalf("after the third wrong answer of three: %+v", c)
	}
}

// TestPolicyChangesOnTheWay: a login keeps the stricter of the policies that it saw.
func TestPolicyChangesOnTheWay(t *testing.T) {
	mild, hard, closed := load(t, "{on_ok: 1, on_review: 2}"), load(t, "{on_ok: 1, on_review: 3}"), load(t, "{on_review: deny, on_ng: deny}")
	begin := []*events.Event{requested(events.Password), identified(events.Password, events.SMS, events.Push), assessed(events.Review)}
	for _, test := range []struct {
		name          string
		before, after *policy.Policy
		want          string
	}{
		{"stays", mild, mild, "granted"},
		{"becomes harder", mild, hard, "open"},
		{"becomes milder", hard, mild, "open"},
		{"denies", mild, closed, "denied"},
		{"denied before", closed, mild, "denied"},
		{"app goes", mild, load(t, "{methods: [none]}"), "denied"},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := &stream{policy: test.before, history: slices.Clip(begin)}
			s.settle(t, soon)
			s.policy = test.after
			s.store(verified(1, events.Push))
			s.settle(t, soon)
			if s.outcome() != test.want {
				t.Fatalf("%s, want %s\n%s", s.outcome(), test.want, s)
			}
			if test.want == "open" {
				s.policy = mild
				s.store(verified(2, events.SMS))
				s.settle(t, soon)
				if c := s.closed(); c == nil || c.Outcome != events.Granted || c.ACR != "3fa" || c.Decision.Need != 3 {
					t.Fatalf("with all three factors: %+v", c)
				}
			}
		})
	}
}

// TestDecisionsCanBeMadeAgain: the record of a decision, the policy of that hash and the history up to the event that it names
// give the same event.
func TestDecisionsCanBeMadeAgain(t *testing.T) {
	for _, road := range roads {
		t.Run(road.name, func(t *testing.T) {
			s := &stream{policy: load(t, road.app)}
			for _, e := range road.events {
				s.store(e)
				s.settle(t, soon)
			}
			s.settle(t, late)
			again(t, s.history, map[string]*policy.Policy{s.policy.Hash(): s.policy})
		})
	}
}

// again makes every decision of a history again.
func again(t *testing.T, history []*events.Event, policies map[string]*policy.Policy) {
	t.Helper()
	for _, e := range history {
		var d events.Decision
		switch data := e.Data.(type) {
		case *events.Wanted:
			d = data.Decision
		case *events.Closed:
			d = data.Decision
		default:
			continue
		}
		last := slices.IndexFunc(history, func(e *events.Event) bool { return e.ID() == d.After })
		if last < 0 || policies[d.Policy] == nil {
			t.Fatalf("%s rests on %q and policy %q, which are not known", e.ID(), d.After, d.Policy)
		}
		remade := Decide(policies[d.Policy], history[:last+1], d.Facts)
		if remade == nil {
			t.Fatalf("%s would not be decided again", e.ID())
		}
		if was, is := encoded(t, e), encoded(t, remade); was != is {
			t.Fatalf("%s was\n%s\nand is now\n%s", e.ID(), was, is)
		}
	}
}

func encoded(t *testing.T, e *events.Event) string {
	t.Helper()
	data, err := json.Marshal(e.Data)
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("%s %s %s", e.ID(), e.Expires, data)
}
