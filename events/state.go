package events

import (
	"cmp"
	"slices"
	"time"
)

// MaxDeadline is the longest that a login may take, counted from the broker's timestamp of its request
// (SP 800-63B-4 section 3.1.3.2: out-of-band authentication ends within ten minutes).
const MaxDeadline = 10 * time.Minute

// Ends is when the login of a request ends at the latest: at the deadline that it asks for, and no later than [MaxDeadline]
// after the broker has stored it.
func (d *Requested) Ends(stored time.Time) time.Time {
	if latest := stored.Add(MaxDeadline); latest.Before(d.Deadline) {
		return latest
	}
	return d.Deadline
}

// A Status is where a login stands, as far as its user may know.
type Status string

// The statuses. All but the first two are endings and never change again.
const (
	StatusPending   Status = "pending"
	StatusChallenge Status = "challenge"
	StatusGranted          = Status(Granted)
	StatusDenied           = Status(Denied)
	StatusFailed           = Status(Failed)
	StatusExpired          = Status(Expired)
	StatusCancelled        = Status(CancelledBy)
)

// A State is what a gateway may know of a login: those of its events that gateways hear. It is a set, so neither the
// order in which they arrive nor how often makes a difference, and every instance of a gateway comes to the same State.
// A State that a [Client] gave away does not change any more.
type State struct {
	Login     Login
	Requested *Requested // nil while not even that has been seen
	Stored    time.Time  // the broker's timestamp of Requested; zero when it has not been read back
	Trace     string     // W3C traceparent of the login

	Challenged  [Rounds + 1]*Challenged  // by round; 0 is not used
	Undelivered [Rounds + 1]*Undelivered // by round
	Rejected    [Attempts + 1]*Rejected  // by attempt

	Lapsed   *Lapsed // is an ending, also without Closed
	Closed   *Closed
	ClosedAt time.Time // the broker's timestamp of Closed

	steps []time.Time // the broker's timestamps, in order, of all that is neither the request nor an ending
	ended time.Time   // the broker's timestamp of the first ending; zero when it is not known
}

// A Challenge is what the user is asked for.
type Challenge struct {
	Challenged
	Round        int
	AttemptsLeft int
	Rejected     string // why the last answer of this round was not accepted; empty when there was none
	Exhausted    bool   // the factor takes no more answers: what is left is to choose another, and Choices has only others
}

// Add takes an event in, and reports whether it is news. Events of other logins and of steps that gateways do not hear are none.
func (s *State) Add(e *Event) bool {
	if e.Login != s.Login {
		return false
	}
	switch data := e.Data.(type) {
	case *Requested:
		// A gateway's own request is known before the broker's timestamp of it is.
		if s.Requested != nil && (!s.Stored.IsZero() || e.Stored.IsZero()) {
			return false
		}
		s.Requested, s.Stored, s.Trace = data, e.Stored, e.Trace
	case *Challenged:
		return put(&s.Challenged[e.N], data) && s.step(e)
	case *Undelivered:
		return put(&s.Undelivered[e.N], data) && s.step(e)
	case *Rejected:
		return put(&s.Rejected[e.N], data) && s.step(e)
	case *Lapsed:
		return put(&s.Lapsed, data) && s.end(e)
	case *Closed:
		s.ClosedAt = cmp.Or(s.ClosedAt, e.Stored)
		return put(&s.Closed, data) && s.end(e)
	default:
		return false
	}
	return true
}

func put[T any](place **T, data *T) bool {
	if *place != nil {
		return false
	}
	*place = data
	return true
}

func (s *State) step(e *Event) bool {
	s.steps = append(slices.Clip(s.steps), e.Stored) // clipped: a copy of the State may grow by itself
	slices.SortFunc(s.steps, time.Time.Compare)
	return true
}

func (s *State) end(e *Event) bool {
	if s.ended.IsZero() || !e.Stored.IsZero() && e.Stored.Before(s.ended) {
		s.ended = e.Stored
	}
	return true
}

// Version counts what has happened: 1 for a login that was requested, one more for every later event in the State, and one for the
// ending. What a worker says of a login that has ended does not count: an ended login does not change any more.
func (s *State) Version() int {
	n := 1
	for _, stored := range s.steps {
		if s.ended.IsZero() || !stored.After(s.ended) {
			n++
		}
	}
	if s.Ended() {
		n++
	}
	return n
}

// Status is where the login stands.
func (s *State) Status() Status {
	switch {
	case s.Closed != nil:
		return Status(s.Closed.Outcome)
	case s.Lapsed != nil:
		return StatusExpired
	case s.Challenge() != nil:
		return StatusChallenge
	default:
		return StatusPending
	}
}

// Ended reports whether the login has come to its one ending.
func (s *State) Ended() bool { return s.Closed != nil || s.Lapsed != nil }

// Reason is why a login failed, and empty for every other status: why one was denied is not for its user.
func (s *State) Reason() string {
	if s.Closed == nil || s.Closed.Outcome != Failed {
		return ""
	}
	return s.Closed.Reason
}

// Deadline is when the login ends if nothing else ends it; zero while the request has not been seen.
func (s *State) Deadline() time.Time {
	if s.Requested == nil {
		return time.Time{}
	}
	start := s.Stored
	if start.IsZero() {
		start = s.Login.Time()
	}
	return s.Requested.Ends(start)
}

// overdue tells whether the login should have ended by now.
func (s *State) overdue(now time.Time) bool {
	deadline := s.Deadline()
	return !s.Ended() && !deadline.IsZero() && !now.Before(deadline)
}

// untilDeadline is how long there is to wait, at most, for the login's deadline if that is yet to come.
func (s *State) untilDeadline(most time.Duration) time.Duration {
	if rest := time.Until(s.Deadline()); rest > 0 {
		return min(rest, most)
	}
	return most
}

// Challenge is the challenge to show: that of the highest round that was challenged. A round ends when the next is
// challenged, not before: until then its code is good. Nil when there is none, or when the login has ended.
func (s *State) Challenge() *Challenge {
	if s.Ended() {
		return nil
	}
	for round := Rounds; round > 0; round-- {
		if s.Challenged[round] != nil {
			c := &Challenge{Challenged: *s.Challenged[round], Round: round, AttemptsLeft: Attempts}
			for _, r := range s.Rejected[1:] {
				if r == nil {
					continue
				}
				c.AttemptsLeft = min(c.AttemptsLeft, r.AttemptsLeft)
				if r.Round == round {
					c.Rejected = r.Reason
				}
				if r.Reason == RejectedExhausted && r.Factor == c.Factor {
					c.Exhausted = true
				}
			}
			if c.AttemptsLeft == 0 { // the login is about to end
				return nil
			}
			c.ResendAt = s.Again(c.Factor)
			if round == Rounds { // there is no other
				c.ResendAt, c.Choices = time.Time{}, nil
			}
			if c.Exhausted {
				c.Choices = slices.DeleteFunc(slices.Clone(c.Choices), func(f Factor) bool { return f == c.Factor })
			}
			return c
		}
	}
	return nil
}

// Again is when a factor may be asked for again: when its last challenge says so, or has run out. Zero if it was not asked for yet.
func (s *State) Again(factor Factor) time.Time {
	for round := Rounds; round > 0; round-- {
		c := s.Challenged[round]
		switch {
		case c == nil || c.Factor != factor:
		case c.ResendAt.After(c.Expires):
			return c.Expires
		default:
			return c.ResendAt
		}
	}
	return time.Time{}
}

// Round is the highest round of which the outcome is known: its challenge was sent, or could not be. 0 when there is none.
func (s *State) Round() int {
	for round := Rounds; round > 0; round-- {
		if s.Challenged[round] != nil || s.Undelivered[round] != nil {
			return round
		}
	}
	return 0
}

// An address names one event of a login.
type address struct {
	step Step
	n    int
}

// opening are the events that gateways hear of a login before any others, and its endings.
var opening = []address{{StepRequested, 0}, {StepLapsed, 0}, {StepClosed, 0}, {StepChallenged, 1}, {StepUndelivered, 1}}

// unread lists the events to look for next. While no round has an outcome, only the opening can be there.
func (s *State) unread() []address {
	all := s.missing()
	if s.Round() > 0 {
		return all
	}
	return slices.DeleteFunc(all, func(a address) bool { return !slices.Contains(opening, a) })
}

// missing lists the events that may exist and are not in the State, or not as the broker has them.
func (s *State) missing() []address {
	var all []address
	want := func(step Step, n int, have bool) {
		if !have {
			all = append(all, address{step, n})
		}
	}
	want(StepRequested, 0, s.Requested != nil && !s.Stored.IsZero())
	want(StepLapsed, 0, s.Ended())
	want(StepClosed, 0, s.Ended())
	for round := 1; round <= Rounds; round++ {
		want(StepChallenged, round, s.Challenged[round] != nil)
		want(StepUndelivered, round, s.Undelivered[round] != nil)
	}
	for attempt := 1; attempt <= Attempts; attempt++ {
		want(StepRejected, attempt, s.Rejected[attempt] != nil)
	}
	return all
}
