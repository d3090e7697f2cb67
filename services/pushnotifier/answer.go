package pushnotifier

import (
	"context"
	"crypto/rand"
	"errors"
	"math"

	"github.com/sekisho/sekisho/events"
	"github.com/sekisho/sekisho/services/internal/bus"
	"github.com/sekisho/sekisho/services/internal/directory"
)

// errOver says that a prompt takes no answer any more: it was answered, replaced or has expired, or its login has ended.
var errOver = errors.New("pushnotifier: the prompt is over")

// answer takes a device's answer to a prompt: it becomes the next free of the login's five attempts, and gets its verdict.
// If this process dies between the two, decide follows up. Errors: errAssertion, errOver.
func (n *notifier) answer(ctx context.Context, c caller, token string, claims *assertion) (*verdict, error) {
	p, err := n.answered(ctx, c.device, claims)
	if err != nil {
		return nil, err
	}
	history, err := n.history(ctx, p.Login)
	if err != nil {
		return nil, err
	}
	challenge := n.open(history, p.Round)
	if challenge == nil {
		return nil, errOver
	}
	e, release, err := n.take(ctx, history, challenge, p.Round, events.Response{Assertion: token})
	if err != nil {
		return nil, err
	}
	said := false
	defer func() { release(said) }()
	v, err := n.conclude(ctx, e, &signed{c.device, *claims, p})
	// More than a verdict follows from "not me", and none of it may get lost: that is for decide.
	said = err == nil && v.reason != events.RejectedNotMe
	if err == nil && v.settled() {
		// If this process dies first, the row stays open. That costs a look at the login, whose events say that the prompt is over, and
		// the device is asked once more if there is a notice of the login.
		over := end{*p, c.device.ID, v.reason == "" || v.reason == events.RejectedNotMe}
		c.later("a prompt is over", func(ctx context.Context) error { return n.finish(ctx, over) })
	}
	return v, err
}

// conclude judges an answer that has been stored, and publishes the verdict. Only now is it known what stands before it in the stream.
func (n *notifier) conclude(ctx context.Context, e *events.Event, by *signed) (*verdict, error) {
	history, err := n.historyOf(ctx, e)
	if err != nil {
		return nil, err
	}
	v, err := n.judge(ctx, history, e, by)
	switch {
	case err != nil:
		return nil, err
	case v.reason == events.RejectedNotMe, judged(history, e, v): // decide in another process was faster, and may have ended the login
		return v, nil
	case history.Ended():
		return nil, errOver
	}
	_, _, err = n.bus.Publish(ctx, e, n.event(e, v))
	return v, err
}

// judged tells whether the history has the verdict on an answer.
func judged(history bus.History, e *events.Event, v *verdict) bool {
	if v.reason == "" {
		verified, _ := bus.Get[*events.Verified](history, e.Data.(*events.Answered).Round)
		return verified != nil
	}
	rejected, _ := bus.Get[*events.Rejected](history, e.N)
	return rejected != nil
}

// answered is the prompt that an assertion of a device is about.
func (n *notifier) answered(ctx context.Context, device directory.Device, claims *assertion) (*prompt, error) {
	login, err := events.ParseLogin(claims.Login)
	if err != nil || claims.Round < 1 || claims.Round > events.Rounds {
		return nil, errAssertion
	}
	switch claims.Decision {
	case approve, deny, notMe:
	default:
		return nil, errAssertion
	}
	p, err := n.store.prompt(ctx, place{login, claims.Round})
	switch {
	case err != nil:
		return nil, err
	case p == nil || !p.answeredBy(device, claims):
		return nil, errAssertion
	case p.Ended:
		return nil, errOver
	}
	return p, nil
}

// open is the challenge of a round that a device may answer at this moment, nil if there is none.
func (n *notifier) open(history bus.History, round int) *events.Event {
	challenged, e := bus.Get[*events.Challenged](history, round)
	verified, _ := bus.Get[*events.Verified](history, round)
	if challenged == nil || challenged.Factor != events.Push || verified != nil || history.Ended() ||
		!n.now().Before(challenged.Expires) || history.Replaced(round, math.MaxUint64) {
		return nil
	}
	for _, each := range history {
		rejected, ok := each.Data.(*events.Rejected)
		if ok && rejected.Factor == events.Push && (rejected.Reason == events.RejectedExhausted ||
			rejected.Round == round && (&verdict{reason: rejected.Reason}).settled()) {
			return nil
		}
	}
	return e
}

// take stores a response as the next free one of a login's attempts. Two that race for one are told apart by their nonces. The
// answer is in this process's hand until it is released.
func (n *notifier) take(ctx context.Context, history bus.History, cause *events.Event, round int, response events.Response) (_ *events.Event, release func(said bool), _ error) {
	nonce := rand.Text()
	for attempt := 1; attempt <= n.attempts; attempt++ {
		if used, _ := bus.Get[*events.Answered](history, attempt); used != nil {
			continue
		}
		answer := &events.Answered{Round: round, Factor: events.Push}
		e := events.New(cause.Login, attempt, answer)
		var err error
		if answer.Response, err = n.sealer.Seal(Name, e.Subject(), "response", response); err != nil {
			return nil, nil, err
		}
		e.Nonce = nonce
		release := n.hand.hold(e.ID()) // before it is stored, since decide hears of it at once
		stored, _, err := n.bus.Publish(ctx, cause, e)
		if err == nil && stored.Nonce == nonce {
			return e, release, nil
		}
		release(false)
		if err != nil {
			return nil, nil, err
		}
	}
	return nil, nil, errOver
}

// finish takes a prompt off the devices of its user.
func (n *notifier) finish(ctx context.Context, over end) error {
	devices, err := n.store.end(ctx, over)
	n.nudge(devices...)
	return err
}
