package oath

import (
	"crypto/subtle"
	"time"
)

// A State is where a token stands. It only moves forward, so that no code is good twice.
type State struct {
	Next  int64 // the first event, or step of time, whose code is still good
	Drift int64 // steps that the token's clock is ahead of ours, as measured last
}

// A Typed is what a user types, and what was asked for.
type Typed struct {
	Code     string // with the PIN before it, unless the suite hashes it
	PIN      string // that the token is to be used with; "" for none
	Question string // "" if none was asked
}

// Check reports whether a code is good, and where the token stands then. It looks for the code among the next `ahead` events after the one
// that is due (RFC 4226 section 7.4); in this step of time and the one before it (RFC 6238 section 5.2).
func (t Token) Check(typed Typed, s State, now time.Time, ahead int64) (State, bool) {
	return t.find(typed, s, now, window{after: ahead, steps: []int64{0, -1}})
}

// CheckWide is Check for a token of which it is not known where it stands: it looks `far` events ahead, or as many steps either way.
func (t Token) CheckWide(typed Typed, s State, now time.Time, far int64) (State, bool) {
	return t.find(typed, s, now, window{after: far, steps: eitherWay(far)})
}

// Resync finds where a token stands by two codes that it showed one after the other, without PIN and at this time, as far away as
// CheckWide looks. Codes of a token that is asked a question say nothing; for that there is CheckWide.
func (t Token) Resync(first, second string, s State, now time.Time, far int64) (State, bool) {
	suite, err := t.suite()
	if err != nil || suite.text != "" {
		return s, false
	}
	for _, moment := range suite.moments(s, now, window{after: far, steps: eitherWay(far)}) {
		if t.equal(suite, moment, Typed{Code: first}) && t.equal(suite, moment+1, Typed{Code: second}) {
			return suite.reached(s, moment+1, now), true
		}
	}
	return s, false
}

// A window is where codes are looked for.
type window struct {
	after int64   // events after the one that is due
	steps []int64 // from this one, as the token's clock goes
}

// eitherWay is the steps up to `far` away, the nearest first.
func eitherWay(far int64) []int64 {
	steps := []int64{0}
	for n := int64(1); n <= far; n++ {
		steps = append(steps, -n, n)
	}
	return steps
}

// find looks at one code after the other. How long that takes may tell which it was: which one is due is no secret.
func (t Token) find(typed Typed, s State, now time.Time, w window) (State, bool) {
	suite, err := t.suite()
	if err != nil {
		return s, false
	}
	if !suite.counter && suite.step == 0 { // its codes follow from the question alone, which is asked once
		return s, t.equal(suite, 0, typed)
	}
	for _, moment := range suite.moments(s, now, w) {
		if t.equal(suite, moment, typed) {
			return suite.reached(s, moment, now), true
		}
	}
	return s, false
}

func (s Suite) moments(state State, now time.Time, w window) (moments []int64) {
	if s.counter {
		for n := range w.after + 1 {
			moments = append(moments, state.Next+n)
		}
		return moments
	}
	for _, n := range w.steps {
		if moment := s.at(now) + state.Drift + n; moment >= state.Next {
			moments = append(moments, moment)
		}
	}
	return moments
}

// at is the number of the step of time (RFC 6238 section 4.2).
func (s Suite) at(now time.Time) int64 { return now.Unix() / int64(s.step/time.Second) }

// reached is the state after the code of a moment. A code of the step before is late, and says nothing of the clock.
func (s Suite) reached(state State, moment int64, now time.Time) State {
	state.Next = moment + 1
	if s.step != 0 {
		if drift := moment - s.at(now); drift != state.Drift-1 {
			state.Drift = drift
		}
	}
	return state
}

// equal compares in a time that does not tell how much of the code is right.
func (t Token) equal(suite Suite, moment int64, typed Typed) bool {
	code, err := suite.code(t.Secret, moment, typed.Question, typed.PIN)
	if err != nil {
		return false
	}
	if suite.pin == "" {
		code = typed.PIN + code
	}
	return subtle.ConstantTimeCompare([]byte(code), []byte(typed.Code)) == 1
}
