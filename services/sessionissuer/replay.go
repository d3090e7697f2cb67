package sessionissuer

import (
	"slices"
	"time"

	"github.com/sekisho/sekisho/events"
	"github.com/sekisho/sekisho/services/internal/policy"
)

// A login is what the events of one login add up to.
type login struct {
	name       events.Login
	requested  *events.Requested // nil also where the history begins with identified, which says what matters of it
	identified *events.Identified
	assessed   *events.Assessed
	app        string
	prefer     events.Factor
	sourceTag  string
	deadline   time.Time // zero while neither of the first two is known
	decoy      bool      // nobody can be granted this login
	refused    bool
	cancelled  bool
	lapsed     bool
	closed     bool
	disowned   bool // the user said no on a device

	round    int                                   // the highest wanted; 0 before the first
	rounds   [events.Rounds + 1]round              // by number
	rejected [events.Attempts + 1]*events.Rejected // by number
	spent    []events.Factor                       // take no more answers, after too many wrong ones
	need     int                                   // the highest that the request has named or a decision recorded
}

// A round is one challenge.
type round struct {
	wanted      *events.Wanted
	challenged  *events.Challenged
	undelivered bool
	verified    *events.Verified
	chosen      events.Factor // what the user wants instead
}

// replay adds up a history that is in stream order. The order counts for one thing only: nobody can leave a round before it
// has begun, so a choice that was stored before its round is an old one, for the round before.
func replay(history []*events.Event) *login {
	l := &login{name: history[0].Login}
	for _, e := range history {
		switch data := e.Data.(type) {
		case *events.Requested:
			l.requested, l.app, l.prefer, l.sourceTag, l.deadline = data, data.App, data.Prefer, data.SourceTag, data.Ends(e.Stored)
		case *events.Identified:
			l.identified = data
			l.decoy = l.decoy || data.Decoy
			l.need = max(l.need, data.Need)
			if l.requested == nil {
				l.app, l.prefer, l.sourceTag, l.deadline = data.App, data.Prefer, data.SourceTag, data.Deadline
			}
		case *events.Refused:
			l.refused = true
		case *events.Assessed:
			l.assessed = data
		case *events.Wanted:
			l.round = e.N
			l.rounds[e.N].wanted = data
			l.decoy = l.decoy || data.Decoy
			l.need = max(l.need, data.Decision.Need)
		case *events.Challenged:
			l.rounds[e.N].challenged = data
		case *events.Undelivered:
			l.rounds[e.N].undelivered = true
		case *events.Verified:
			l.rounds[e.N].verified = data
		case *events.Rejected:
			l.rejected[e.N] = data
			switch data.Reason {
			case events.RejectedDenied, events.RejectedNotMe:
				l.disowned = true
			case events.RejectedExhausted:
				l.spent = append(l.spent, data.Factor)
			}
		case *events.Chosen:
			if e.N >= l.round {
				l.rounds[l.round].chosen = data.Factor
			}
		case *events.Cancelled:
			l.cancelled = true
		case *events.Lapsed:
			l.lapsed = true
		case *events.Closed:
			l.closed = true
		}
	}
	return l
}

// exhausted tells whether all attempts were wrong: every one of them up to the last that the login had, so that a right answer
// that is still on its way is never overtaken.
func (l *login) exhausted() bool {
	for n := 1; n <= events.Attempts && l.rejected[n] != nil; n++ {
		if l.rejected[n].AttemptsLeft == 0 || n == events.Attempts {
			return true
		}
	}
	return false
}

// done lists the kinds of proof that count, as amr values, in the order in which they were asked for. A factor counts once,
// only if it was asked for by us, of a real user, and may be used by the policy in force.
func (l *login) done(app *policy.App) []string {
	if l.decoy {
		return nil
	}
	var shown []string
	switch {
	case l.identified.Session != nil:
		shown = slices.Clone(l.identified.Session.AMR)
	case l.identified.Primary == events.Password:
		shown = append(shown, events.Password.AMR())
	}
	for _, r := range l.rounds[1 : l.round+1] {
		if r.wanted != nil && r.verified != nil && r.wanted.Factor == r.verified.Factor {
			shown = append(shown, r.verified.Factor.AMR())
		}
	}
	return app.Counted(shown)
}

// mayBegin tells whether the app lets a login begin as this one did. One that steps up from a session begins with what was
// shown for it: something that counts for the app, not too long ago, and not everything that there is.
func (l *login) mayBegin(app *policy.App, now time.Time) bool {
	if s := l.identified.Session; s != nil {
		counted := len(app.Counted(s.AMR))
		return app.Honors(now.Sub(s.AuthTime)) && counted > 0 && counted <= len(events.Factors)
	}
	return app.Accepts(l.identified.Primary)
}

// stepUp is how many factors a login needs that steps up from a session: one more than that has, so that no session comes
// of another without a fresh factor. 0 for any other login.
func (l *login) stepUp(app *policy.App) int {
	if l.identified.Session == nil {
		return 0
	}
	return len(app.Counted(l.identified.Session.AMR)) + 1
}

// authTime is when the user logged in. Stepping up does not renew it, and so not the end of the session, which is counted from it.
func (l *login) authTime(now time.Time) time.Time {
	if s := l.identified.Session; s != nil {
		return s.AuthTime
	}
	return now
}

// choices lists the factors that may be challenged next, in the policy's order.
func (l *login) choices(app *policy.App, done []string) []events.Factor {
	return slices.DeleteFunc(slices.Clone(app.Allowed(len(done))), func(f events.Factor) bool {
		return !slices.Contains(l.identified.Factors, f) || slices.Contains(done, f.AMR()) || slices.Contains(l.spent, f)
	})
}

// lives tells whether an earlier challenge can still be answered: a round dies when the next is challenged, so only the last that was counts.
func (l *login) lives(done []string, now time.Time) bool {
	for n := l.round - 1; n > 0; n-- {
		if r := l.rounds[n]; r.challenged != nil {
			factor := r.challenged.Factor
			return now.Before(r.challenged.Expires) && !slices.Contains(done, factor.AMR()) && !slices.Contains(l.spent, factor)
		}
	}
	return false
}

// failedToReach tells whether a challenge by the factor could not be delivered in this login.
func (l *login) failedToReach(f events.Factor) bool {
	return slices.ContainsFunc(l.rounds[1:], func(r round) bool {
		return r.wanted != nil && r.wanted.Factor == f && r.undelivered && r.challenged == nil
	})
}
