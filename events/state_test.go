package events

import (
	"math/rand/v2"
	"reflect"
	"slices"
	"testing"
	"time"
)

func sampleLogin(t *testing.T) (Login, time.Time) {
	t.Helper()
	login, err := NewLogin("web")
	if err != nil {
		t.Fatal(err)
	}
	return login, login.Time()
}

// road is everything that gateways hear of a login with a resend, a failed delivery and two wrong codes.
func road(login Login, start time.Time) []*Event {
	at := func(seconds int) time.Time { return start.Add(time.Duration(seconds) * time.Second) }
	all := []*Event{
		New(login, 0, &Requested{App: "demo", Method: Password, Deadline: at(300)}),
		New(login, 1, &Challenged{Factor: SMS, Hint: "one", Expires: at(100), Choices: []Factor{SMS, Push}}),
		New(login, 1, &Rejected{Round: 1, Factor: SMS, Reason: RejectedWrong, AttemptsLeft: 4}),
		New(login, 2, &Undelivered{Factor: SMS, Reason: UndeliveredDown}),
		New(login, 3, &Challenged{Factor: SMS, Hint: "three", Expires: at(200), Choices: []Factor{SMS, Push}}),
		New(login, 2, &Rejected{Round: 1, Factor: SMS, Reason: RejectedSuperseded, AttemptsLeft: 3}),
		New(login, 3, &Rejected{Round: 3, Factor: SMS, Reason: RejectedWrong, AttemptsLeft: 2}),
		New(login, 0, &Closed{Outcome: Granted, App: "demo", User: "u1", AMR: []string{"pwd", "sms"}}),
	}
	for i, e := range all {
		e.Stored = start.Add(time.Duration(i) * time.Millisecond)
	}
	return all
}

func TestStateIsTheSameInEveryOrder(t *testing.T) {
	login, start := sampleLogin(t)
	events := road(login, start)
	want := State{Login: login}
	for _, e := range events {
		if !want.Add(e) {
			t.Errorf("%s is no news", e.ID())
		}
	}
	if want.Version() != len(events) {
		t.Errorf("version %d, want %d", want.Version(), len(events))
	}
	random := rand.New(rand.NewPCG(1, 2))
	for range 500 {
		twice := append(append([]*Event{}, events...), events...)
		random.Shuffle(len(twice), func(i, j int) { twice[i], twice[j] = twice[j], twice[i] })
		got, news := State{Login: login}, 0
		for _, e := range twice {
			if got.Add(e) {
				news++
			}
		}
		if news != len(events) || !reflect.DeepEqual(got, want) {
			t.Fatalf("%d news, state %+v\nwant %d, %+v", news, got, len(events), want)
		}
	}
}

func TestStateAtEachStep(t *testing.T) {
	login, start := sampleLogin(t)
	steps := []struct {
		status   Status
		round    int // of the challenge that is shown
		left     int
		rejected string
	}{
		{StatusPending, 0, 0, ""},
		{StatusChallenge, 1, 5, ""},
		{StatusChallenge, 1, 4, RejectedWrong},
		{StatusChallenge, 1, 4, RejectedWrong}, // the resend failed: the old code is still good
		{StatusChallenge, 3, 4, ""},
		{StatusChallenge, 3, 3, ""}, // an answer to the round before
		{StatusChallenge, 3, 2, RejectedWrong},
		{StatusGranted, 0, 0, ""},
	}
	s := State{Login: login}
	for i, e := range road(login, start) {
		s.Add(e)
		want := steps[i]
		if s.Version() != i+1 || s.Status() != want.status || s.Ended() != (want.status == StatusGranted) {
			t.Errorf("after %s: version %d, status %s, ended %v", e.ID(), s.Version(), s.Status(), s.Ended())
		}
		c := s.Challenge()
		if (c == nil) != (want.round == 0) {
			t.Fatalf("after %s: challenge %+v", e.ID(), c)
		}
		if c != nil && (c.Round != want.round || c.AttemptsLeft != want.left || c.Rejected != want.rejected) {
			t.Errorf("after %s: challenge %+v, want %+v", e.ID(), c, want)
		}
	}
	if s.Round() != 3 {
		t.Errorf("highest round %d, want 3", s.Round())
	}
}

func TestStateTakesOnlyItsOwn(t *testing.T) {
	login, _ := sampleLogin(t)
	other, _ := sampleLogin(t)
	s := State{Login: login}
	if s.Add(New(other, 0, &Closed{Outcome: Granted})) || s.Add(New(login, 0, &Cancelled{})) || s.Version() != 1 || s.Ended() {
		t.Errorf("took what is not its own: %+v", s)
	}
	first, second := &Closed{Outcome: Denied, Reason: "operators only"}, &Closed{Outcome: Granted}
	if !s.Add(New(login, 0, first)) || s.Add(New(login, 0, second)) || s.Closed != first {
		t.Error("an ending was replaced")
	}
	if s.Reason() != "" {
		t.Errorf("a denial has the reason %q", s.Reason())
	}
}

// TestAnEndingThatWasShownStays takes every pair of endings that the broker lets into one login (see the tests of package
// bus), and lets what a gateway hears of it arrive in every order.
func TestAnEndingThatWasShownStays(t *testing.T) {
	login, _ := sampleLogin(t)
	closed := func(o Outcome) *Event { return New(login, 0, &Closed{Outcome: o}) }
	lapsed := New(login, 0, &Lapsed{})
	others := []*Event{New(login, 0, &Requested{}), New(login, 1, &Challenged{Factor: SMS}), New(login, 1, &Rejected{Round: 1})}
	for _, test := range []struct {
		endings []*Event
		want    Status
	}{
		{[]*Event{closed(Granted)}, StatusGranted}, {[]*Event{closed(Denied)}, StatusDenied}, {[]*Event{closed(Failed)}, StatusFailed},
		{[]*Event{closed(CancelledBy)}, StatusCancelled}, {[]*Event{closed(Expired)}, StatusExpired},
		{[]*Event{lapsed}, StatusExpired}, {[]*Event{lapsed, closed(Expired)}, StatusExpired},
	} {
		var arrive func(s State, rest []*Event)
		arrive = func(s State, rest []*Event) {
			for i, e := range rest {
				before, next := s.Ended(), s
				next.Add(e)
				if next.Ended() && (next.Status() != test.want || next.Challenge() != nil || next.Reason() != s.Reason() && before) {
					t.Fatalf("%s after %s, want %s", next.Status(), e.ID(), test.want)
				}
				if before && !next.Ended() {
					t.Fatalf("%s opened the login again", e.ID())
				}
				if ending := slices.Contains(test.endings, e); ending && before && next.Version() != s.Version() {
					t.Fatalf("the ending counts twice")
				}
				arrive(next, slices.Concat(rest[:i], rest[i+1:]))
			}
			if len(rest) == 0 && s.Version() != 1+2+1 { // requested, what followed, and the ending
				t.Fatalf("version %d", s.Version())
			}
		}
		arrive(State{Login: login}, slices.Concat(test.endings, others))
	}
}

func TestTheLastRoundOffersNoOther(t *testing.T) {
	login, start := sampleLogin(t)
	for round, want := range map[int]bool{Rounds - 1: true, Rounds: false} {
		s := State{Login: login}
		s.Add(New(login, round, &Challenged{Factor: SMS, Expires: start.Add(time.Minute), ResendAt: start, Choices: []Factor{SMS, Push}}))
		if c := s.Challenge(); len(c.Choices) > 0 != want || c.ResendAt.IsZero() == want {
			t.Errorf("round %d: %+v", round, c)
		}
	}
}

func TestWhatHasRunOutCanBeSentAgain(t *testing.T) {
	login, start := sampleLogin(t)
	for resend, want := range map[time.Duration]time.Duration{time.Second: time.Second, time.Minute: 2 * time.Second, 0: 0} {
		c := &Challenged{Factor: SMS, Expires: start.Add(2 * time.Second)}
		if resend > 0 { // nothing is sent to a token
			c.ResendAt = start.Add(resend)
		}
		s := State{Login: login}
		s.Add(New(login, 1, c))
		if got := s.Challenge().ResendAt; resend > 0 && !got.Equal(start.Add(want)) || resend == 0 && !got.IsZero() {
			t.Errorf("%v: %v", resend, got)
		}
	}
}

func TestNobodyIsAskedWithoutAttemptsLeft(t *testing.T) {
	login, start := sampleLogin(t)
	s := State{Login: login}
	s.Add(New(login, 1, &Challenged{Factor: SMS, Expires: start.Add(time.Minute)}))
	for left, want := range map[int]Status{1: StatusChallenge, 0: StatusPending} {
		s.Rejected[1] = &Rejected{Round: 1, Factor: SMS, Reason: RejectedWrong, AttemptsLeft: left}
		if got := s.Status(); got != want {
			t.Errorf("%d left: %s, want %s", left, got, want)
		}
	}
}

// TestAnEndedLoginHasOneVersion lets a worker speak after the ending, and what a gateway hears arrive in every order.
func TestAnEndedLoginHasOneVersion(t *testing.T) {
	login, start := sampleLogin(t)
	at := func(e *Event, ms int) *Event {
		e.Stored = start.Add(time.Duration(ms) * time.Millisecond)
		return e
	}
	before := []*Event{at(New(login, 0, &Requested{}), 0), at(New(login, 1, &Challenged{Factor: SMS}), 1)}
	late := []*Event{at(New(login, 2, &Undelivered{Factor: SMS}), 3), at(New(login, 1, &Rejected{Round: 1}), 4)}
	for _, endings := range [][]*Event{
		{at(New(login, 0, &Closed{Outcome: CancelledBy}), 2)},
		{at(New(login, 0, &Lapsed{}), 2), at(New(login, 0, &Closed{Outcome: Expired}), 5)},
	} {
		var arrive func(s State, rest []*Event)
		arrive = func(s State, rest []*Event) {
			for i, e := range rest {
				next := s
				next.Add(e)
				arrive(next, slices.Concat(rest[:i], rest[i+1:]))
			}
			if len(rest) == 0 && s.Version() != len(before)+1 {
				t.Fatalf("version %d, want %d: %+v", s.Version(), len(before)+1, s)
			}
		}
		arrive(State{Login: login}, slices.Concat(before, endings, late))
	}
}

func TestStateDeadline(t *testing.T) {
	login, start := sampleLogin(t)
	requested := func(after time.Duration, stored time.Time) *Event {
		e := New(login, 0, &Requested{Deadline: start.Add(after)})
		e.Stored = stored
		return e
	}
	s := State{Login: login}
	if !s.Deadline().IsZero() {
		t.Error("a deadline out of nothing")
	}
	s.Add(requested(time.Hour, time.Time{}))
	if got := s.Deadline(); !got.Equal(start.Add(MaxDeadline)) {
		t.Errorf("deadline %v after the start, want %v", got.Sub(start), MaxDeadline)
	}
	// The broker's clock counts once it is known.
	if !s.Add(requested(time.Hour, start.Add(time.Second))) || !s.Deadline().Equal(start.Add(time.Second+MaxDeadline)) {
		t.Errorf("deadline %v after the start", s.Deadline().Sub(start))
	}
	early := State{Login: login}
	early.Add(requested(time.Minute, start))
	if !early.Deadline().Equal(start.Add(time.Minute)) {
		t.Errorf("deadline %v after the start, want a minute", early.Deadline().Sub(start))
	}
}

func TestMissingEventsAreAsked(t *testing.T) {
	login, start := sampleLogin(t)
	s := State{Login: login}
	all := len(s.missing())
	if want := 3 + 2*Rounds + Attempts; all != want {
		t.Errorf("%d events may exist, want %d", all, want)
	}
	for i, e := range road(login, start) {
		s.Add(e)
		want := all - i - 1
		if s.Ended() {
			want-- // of two endings one is enough
		}
		if got := len(s.missing()); got != want {
			t.Errorf("after %s: %d missing, want %d", e.ID(), got, want)
		}
	}
}

// Nothing that is known is read again, and of a login that nobody was challenged in yet no more than can be there.
func TestUnreadEvents(t *testing.T) {
	login, start := sampleLogin(t)
	s := State{Login: login}
	expect := func(what string, want []address) {
		t.Helper()
		if got := s.unread(); !slices.Equal(got, want) {
			t.Errorf("%s: %v, want %v", what, got, want)
		}
	}
	expect("of an unknown login", []address{{StepRequested, 0}, {StepLapsed, 0}, {StepClosed, 0}, {StepChallenged, 1}, {StepUndelivered, 1}})
	events := road(login, start)
	own := *events[0]
	own.Stored = time.Time{} // as its gateway has it, which does not know the broker's time of it
	s.Add(&own)
	expect("of an own login", []address{{StepRequested, 0}, {StepLapsed, 0}, {StepClosed, 0}, {StepChallenged, 1}, {StepUndelivered, 1}})
	s.Add(events[0])
	expect("once it was read", []address{{StepLapsed, 0}, {StepClosed, 0}, {StepChallenged, 1}, {StepUndelivered, 1}})
	s.Add(events[1])
	expect("after a challenge", s.missing())
	if n := len(s.missing()); n != 2+(2*Rounds-1)+Attempts {
		t.Errorf("%d events may exist after a challenge", n)
	}
}

// Wrong numbers exhaust a push, not the login: what can be chosen then is another factor.
func TestExhaustedFactor(t *testing.T) {
	login, start := sampleLogin(t)
	s := State{Login: login}
	for _, e := range []*Event{
		New(login, 0, &Requested{App: "demo", Method: Password, Deadline: start.Add(time.Minute)}),
		New(login, 1, &Challenged{Factor: Push, Expires: start.Add(time.Minute), Choices: []Factor{Push, SMS}}),
		New(login, 1, &Rejected{Round: 1, Factor: Push, Reason: RejectedWrong, AttemptsLeft: 4}),
	} {
		s.Add(e)
	}
	if c := s.Challenge(); c.Exhausted || !slices.Equal(c.Choices, []Factor{Push, SMS}) {
		t.Errorf("after one wrong number: %+v", c)
	}
	s.Add(New(login, 3, &Rejected{Round: 1, Factor: Push, Reason: RejectedSuperseded, AttemptsLeft: 2}))
	s.Add(New(login, 2, &Rejected{Round: 1, Factor: Push, Reason: RejectedExhausted, AttemptsLeft: 3}))
	if c := s.Challenge(); !c.Exhausted || !slices.Equal(c.Choices, []Factor{SMS}) {
		t.Errorf("after the last wrong number: %+v", c)
	}
	s.Add(New(login, 2, &Challenged{Factor: SMS, Expires: start.Add(time.Minute), Choices: []Factor{SMS}}))
	if c := s.Challenge(); c.Exhausted || c.Factor != SMS {
		t.Errorf("after another was chosen: %+v", c)
	}
}
