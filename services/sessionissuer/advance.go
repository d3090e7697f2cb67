package sessionissuer

import (
	"context"
	"errors"
	"maps"
	"slices"
	"time"

	"github.com/sekisho/sekisho/events"
	"github.com/sekisho/sekisho/services/internal/bus"
	"github.com/sekisho/sekisho/services/internal/sessions"
)

// deciding lists the steps that a decision follows from. `requested`, by far the largest event of a login, is not among them:
// identified says what matters of it.
var deciding = slices.DeleteFunc(slices.Sorted(maps.Keys(events.Steps)), func(s events.Step) bool {
	return s == events.StepRequested || s == events.StepAnswered
})

// history reads what is to be decided on.
func (w *worker) history(ctx context.Context, trigger *events.Event) (bus.History, error) {
	history, err := w.bus.History(ctx, trigger, deciding...)
	if err != nil {
		return nil, err
	}
	if identified, _ := bus.Get[*events.Identified](history, 0); identified == nil {
		return w.bus.History(ctx, trigger) // the login ends before anybody knows who it is
	}
	return history, nil
}

// advance takes the login of an event as far as it goes.
func (w *worker) advance(ctx context.Context, trigger *events.Event) error {
	history, err := w.history(ctx, trigger)
	if err != nil {
		return err
	}
	return w.proceed(ctx, trigger, history)
}

// proceed stores what follows from a history. Where another instance has stored something else first, it reads the history again
// and goes on from that. An event of somebody else that is not in the history yet has a delivery of its own, and so has what
// follows from what is stored here.
func (w *worker) proceed(ctx context.Context, trigger *events.Event, history bus.History) error {
	for {
		next, err := w.decide(ctx, history)
		if err != nil {
			return err
		}
		if next == nil {
			closed, _ := bus.Get[*events.Closed](history, 0)
			return w.settle(ctx, history, closed)
		}
		if err := w.prepare(ctx, history, next); err != nil {
			return err
		}
		stored, mine, err := w.bus.Publish(ctx, trigger, next)
		if err != nil {
			return err
		}
		if mine {
			w.count(stored)
		}
		if closed, ok := stored.Data.(*events.Closed); ok {
			return w.settle(ctx, history, closed)
		}
		if mine {
			return nil
		}
		trigger = stored
		if history, err = w.history(ctx, stored); err != nil {
			return err
		}
	}
}

// due looks at a login whose deadline has come.
func (w *worker) due(ctx context.Context, login events.Login) ([]*events.Event, error) {
	history, err := w.bus.Login(ctx, login)
	if err != nil {
		return nil, err
	}
	_, requested := bus.Get[*events.Requested](history, 0)
	if closed, _ := bus.Get[*events.Closed](history, 0); closed != nil || requested == nil {
		return nil, nil
	}
	if rest := replay(history).deadline.Sub(w.now()); rest > 0 { // the broker's clock is ahead of this machine's
		return nil, bus.RetryAfter(rest, nil)
	}
	return nil, w.proceed(ctx, requested, history)
}

// lately is the age up to which identityverifier's look at the account is good enough for a challenge, which lets nobody in by itself.
const lately = 2 * time.Second

// decide makes the decision with the account's state of this moment. Before a challenge that is read, unless it has just been; before a
// grant, inserting the session's row settles it. No other decision asks the database, so that a login ends in time while that is away.
func (w *worker) decide(ctx context.Context, history bus.History) (*events.Event, error) {
	p, facts := w.policies.Policy(), events.Facts{Now: w.now(), Enabled: true}
	next := Decide(p, history, facts)
	if next == nil {
		return nil, nil
	}
	var err error
	switch data := next.Data.(type) {
	case *events.Wanted: // of a decoy too, which does not care: names must not be told apart by time
		if _, identified := bus.Get[*events.Identified](history, 0); facts.Now.Sub(identified.Stored).Abs() > lately {
			facts.Enabled, err = w.accounts.MayLogIn(ctx, data.User)
		}
	case *events.Closed:
		if data.Outcome == events.Granted {
			facts.Enabled, err = w.issue(ctx, history, data)
		}
	}
	if err != nil || facts.Enabled {
		return next, err
	}
	return Decide(p, history, facts), nil
}

// issue inserts the session's row, which is worth nothing before closed is stored. It reports false when the account may not
// log in at this moment, or is no longer what the login found, or the session that it steps up from has ended.
func (w *worker) issue(ctx context.Context, history bus.History, granted *events.Closed) (bool, error) {
	granted.Expires = granted.AuthTime.Add(w.session.Absolute)
	session := sessions.Session{
		Login: history[0].Login, User: granted.User, App: granted.App, AMR: granted.AMR, ACR: granted.ACR,
		AuthTime: granted.AuthTime, Idle: w.session.Idle, Expires: granted.Expires,
	}
	if identified, _ := bus.Get[*events.Identified](history, 0); identified != nil {
		session.Generation = identified.Generation
	}
	if assessed, _ := bus.Get[*events.Assessed](history, 0); assessed != nil && !assessed.Degraded {
		session.Verdict = assessed.Verdict
	}
	if replaced, ok := replaces(history); ok {
		session.Replaces = replaced.ID
	}
	return w.sessions.Insert(ctx, session)
}

// replaces is the session that the login steps up from.
func replaces(history bus.History) (events.Login, bool) {
	identified, e := bus.Get[*events.Identified](history, 0)
	if identified == nil || identified.Session == nil {
		return events.Login{}, false
	}
	return events.Login{Gateway: e.Login.Gateway, ID: identified.Session.ID}, true
}

// prepare does what must come before an event is stored.
func (w *worker) prepare(ctx context.Context, history bus.History, next *events.Event) error {
	if next.Step == events.StepWanted && next.N == 1 {
		return w.bus.Schedule(ctx, next.Login, next.Expires)
	}
	if closed, ok := next.Data.(*events.Closed); !ok || closed.Outcome != events.Denied {
		return nil
	}
	opened := history[0]
	if opened.Step != events.StepRequested {
		requested, err := w.bus.Event(ctx, next.Login, events.StepRequested, 0)
		switch {
		case err == nil:
			opened = requested
		case !errors.Is(err, bus.ErrNotFound) && !errors.Is(err, events.ErrInvalid): // without it, what followed a moment later will do
			return err
		}
	}
	// Counted from one instant, the broker's timestamp, so that repeats do not add up.
	if rest := w.deniedFloor - w.now().Sub(opened.Stored); rest > 0 {
		return bus.RetryAfter(min(rest, w.deniedFloor), nil)
	}
	return nil
}

// settle does what must follow an ending.
func (w *worker) settle(ctx context.Context, history bus.History, closed *events.Closed) error {
	switch {
	case closed == nil:
		return nil
	case closed.Outcome == events.Granted:
		return w.endReplaced(ctx, history)
	default:
		return w.takeBack(ctx, history)
	}
}

// endReplaced ends the session that a granted login stepped up from: not before the grant is stored, since another ending
// could still win and must leave the user the old session. Between the two both live; if this process dies there, the
// event that led here is delivered again.
func (w *worker) endReplaced(ctx context.Context, history bus.History) error {
	replaced, ok := replaces(history)
	if !ok {
		return nil
	}
	if _, err := w.sessions.Revoke(ctx, replaced, "step_up"); err != nil {
		return err
	}
	return w.bus.Revoke(ctx, replaced)
}

// takeBack removes the session's row of a login that ended without a grant. There is one if an instance was about to grant the login
// when the other ending won, or died between its two writes. Either way that instance's event is delivered again, and whoever handles
// it finds the ending and comes here: no row outlives its login, not even one that was inserted after another instance was here.
func (w *worker) takeBack(ctx context.Context, history bus.History) error {
	requested, _ := bus.Get[*events.Requested](history, 0)
	identified, _ := bus.Get[*events.Identified](history, 0)
	assessed, _ := bus.Get[*events.Assessed](history, 0)
	switch {
	case assessed != nil:
		return w.sessions.Remove(ctx, history[0].Login)
	case requested != nil || identified != nil: // nothing is granted before that
		return nil
	default:
		return w.endLost(ctx, history[0].Login)
	}
}

// endLost ends the session of a login of which the broker has lost all that came before, as with its store. It may have been granted, but
// the record says otherwise from now on.
func (w *worker) endLost(ctx context.Context, login events.Login) error {
	ended, err := w.sessions.Revoke(ctx, login, "lost")
	if err != nil || !ended {
		return err
	}
	return w.bus.Revoke(ctx, login)
}

func (w *worker) count(stored *events.Event) {
	switch data := stored.Data.(type) {
	case *events.Wanted:
		w.wanted.WithLabelValues(string(data.Factor)).Inc()
	case *events.Closed:
		w.closed.WithLabelValues(string(data.Outcome), data.Reason).Inc()
	}
}
