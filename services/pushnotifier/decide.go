package pushnotifier

import (
	"context"
	"time"

	"github.com/sekisho/sekisho/events"
	"github.com/sekisho/sekisho/services/internal/bus"
)

// decide handles every answered push. Most have their verdict already, from the process that took the answer from the device. This
// one follows up if that process died before it, judges what browsers bring back from a provider, and does what must not get lost
// when a user disowns a login.
func (n *notifier) decide(ctx context.Context, e *events.Event, answer *events.Answered) ([]*events.Event, error) {
	if answer.Factor != events.Push {
		return nil, nil // another worker's
	}
	if n.hand.said(ctx, e.ID()) {
		return nil, nil
	}
	history, err := n.bus.History(ctx, e)
	if err != nil {
		return nil, err
	}
	v, err := n.judge(ctx, history, e, nil)
	switch {
	case err != nil:
		return nil, err
	case v.reason == events.RejectedNotMe:
		return nil, n.disown(ctx, history, e, v)
	case history.Ended():
		return nil, nil
	}
	return []*events.Event{n.event(e, v)}, nil
}

// closeWait is how soon a login that was disowned is looked at again, until its end is known.
const closeWait = 250 * time.Millisecond

// disown does what follows when the user says that somebody else is logging in: no pushes for a while, an alert, and the
// rejection that closes the login as denied. If the login is granted all the same, which may have been decided a moment before,
// its session is ended. Only closed tells, so disown waits for it.
func (n *notifier) disown(ctx context.Context, history bus.History, e *events.Event, v *verdict) error {
	closed, _ := bus.Get[*events.Closed](history, 0)
	rejected, _ := bus.Get[*events.Rejected](history, e.N)
	identified, _ := bus.Get[*events.Identified](history, 0)
	if rejected == nil && identified != nil {
		if err := n.alarm(ctx, identified.User, e.Login); err != nil {
			return err
		}
		if _, _, err := n.bus.Publish(ctx, e, n.event(e, v)); err != nil {
			return err
		}
	}
	switch {
	case closed != nil && closed.Outcome == events.Granted:
		return n.revoke(ctx, e.Login)
	case final(history):
		return nil
	default:
		return bus.RetryAfter(closeWait, nil)
	}
}

// alarm keeps pushes away from a user for a while and raises the alert, once for each login.
func (n *notifier) alarm(ctx context.Context, user string, login events.Login) error {
	if err := n.store.cool(ctx, user, n.now().Add(n.settings.Cooldown)); err != nil {
		return err
	}
	return n.bus.AlertOf(ctx, login, "not-me", user, map[string]string{"login": login.String()})
}

// revoke ends the session of a login, if it has one, and tells its gateway, even if the session had ended before: whoever ended it
// may have died before telling.
func (n *notifier) revoke(ctx context.Context, login events.Login) error {
	if _, err := n.sessions.Revoke(ctx, login, "not_me"); err != nil {
		return err
	}
	return n.bus.Revoke(ctx, login)
}
