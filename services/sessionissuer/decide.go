package sessionissuer

import (
	"fmt"
	"slices"

	"github.com/sekisho/sekisho/events"
	"github.com/sekisho/sekisho/services/internal/policy"
)

// Decide is the only decision of a login: what comes next after what has happened. It returns wanted or closed, or nil when
// the login waits for somebody. It is pure: the same policy, history (in stream order) and facts give the same event, so that a
// recorded decision can be made again. A granted one lacks the end of its session, which is set when the session is issued.
//
// Endings come before grants, and the stricter ending before the milder one: when a login has both its proof and its
// cancellation, it is cancelled. One that has lapsed has ended already, and closed is the record of it.
func Decide(p *policy.Policy, history []*events.Event, facts events.Facts) *events.Event {
	if len(history) == 0 {
		return nil
	}
	l := replay(history)
	d := &decision{login: l, Decision: events.Decision{Policy: p.Hash(), Facts: facts, After: history[len(history)-1].ID()}}
	switch {
	case l.closed:
		return nil
	case l.lapsed:
		return d.close(events.Expired, "")
	case l.cancelled:
		return d.close(events.CancelledBy, "")
	case !l.deadline.IsZero() && !facts.Now.Before(l.deadline):
		return d.close(events.Expired, "")
	case l.refused:
		return d.close(events.Denied, "refused")
	case l.disowned:
		return d.close(events.Denied, "user")
	case l.exhausted():
		return d.close(events.Failed, events.FailedAttempts)
	case l.identified == nil || l.assessed == nil:
		return nil
	}

	app := p.Apps[l.app]
	if app == nil || !l.mayBegin(app, facts.Now) {
		return d.close(events.Denied, "policy")
	}
	need := app.Need(l.assessed)
	if need == policy.Deny {
		return d.close(events.Denied, "risk")
	}
	if !l.decoy && !facts.Enabled {
		return d.close(events.Denied, "account")
	}
	d.Need = max(int(need), l.need, l.stepUp(app))
	done := l.done(app)
	if len(done) >= d.Need {
		return d.grant(done)
	}
	return d.challenge(app, done)
}

// challenge asks for the next factor, unless the user is still busy with the last.
func (d *decision) challenge(app *policy.App, done []string) *events.Event {
	l := d.login
	choices := l.choices(app, done)
	switch {
	case len(l.spent) > 0 && (len(choices) == 0 || len(done)+len(choices) < d.Need):
		return d.close(events.Failed, events.FailedAttempts)
	case len(done) == 0 && len(choices) == 0:
		// Somebody who has shown nothing but a name must not learn what that user has: a challenge that nobody can answer. It
		// offers one factor, as that of most users does.
		l.decoy, choices = true, app.Allowed(0)[:1]
	case len(done) > 0 && len(done)+len(choices) < d.Need:
		return d.close(events.Failed, events.FailedUnavailable)
	}
	current := l.rounds[l.round]
	if l.round > 0 && !slices.Contains(done, current.wanted.Factor.AMR()) {
		switch {
		case slices.Contains(choices, current.chosen) && l.round < events.Rounds:
			return d.want(app, current.chosen, choices, done)
		case current.challenged != nil || !current.undelivered || l.lives(done, d.Facts.Now):
			return nil
		}
	}
	fresh := slices.DeleteFunc(slices.Clone(choices), l.failedToReach)
	switch {
	case len(fresh) == 0 || l.round == events.Rounds:
		return d.close(events.Failed, events.FailedUndelivered)
	case slices.Contains(fresh, l.prefer):
		return d.want(app, l.prefer, choices, done)
	default:
		return d.want(app, fresh[0], choices, done)
	}
}

// A decision is a Decide on its way to an event.
type decision struct {
	login *login
	events.Decision
}

func (d *decision) want(app *policy.App, factor events.Factor, choices []events.Factor, done []string) *events.Event {
	l := d.login
	wanted := &events.Wanted{
		Factor: factor, Left: slices.DeleteFunc(slices.Clone(choices), func(f events.Factor) bool { return f == factor }), Done: done,
		App: l.app, AppName: app.Name.In(l.identified.Locale), User: l.identified.User, Decoy: l.decoy, Locale: l.identified.Locale, Device: l.identified.Device,
		Deadline: l.deadline, Decision: d.Decision,
	}
	if factor == events.Push {
		wanted.Tap, wanted.SourceTag = app.PushTap, l.sourceTag
	}
	return d.event(l.round+1, wanted)
}

func (d *decision) grant(done []string) *events.Event {
	return d.event(0, &events.Closed{
		Outcome: events.Granted, App: d.login.app, User: d.login.identified.User,
		AMR: done, ACR: fmt.Sprintf("%dfa", len(done)), AuthTime: d.login.authTime(d.Facts.Now), Decision: d.Decision,
	})
}

func (d *decision) close(outcome events.Outcome, reason string) *events.Event {
	return d.event(0, &events.Closed{Outcome: outcome, Reason: reason, App: d.login.app, Decision: d.Decision})
}

func (d *decision) event(n int, data events.Data) *events.Event {
	e := events.New(d.login.name, n, data)
	e.Expires = d.login.deadline
	return e
}
