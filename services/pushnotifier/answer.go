package pushnotifier

import (
	"context"
	"crypto/ecdsa"
	"crypto/rand"
	"errors"
	"fmt"
	"math"
	"slices"
	"sync"
	"time"

	"github.com/sekisho/sekisho/events"
	"github.com/sekisho/sekisho/services/internal/bus"
	"github.com/sekisho/sekisho/services/internal/directory"
)

// errOver says that a prompt takes no answer any more: it was answered, replaced or has expired, or its login has ended.
var errOver = errors.New("pushnotifier: the prompt is over")

// answer takes a device's answer to a prompt: it becomes the next free of the login's five attempts, and gets its verdict.
// If this process dies between the two, decide follows up. Errors: errToken, errOver.
func (n *notifier) answer(ctx context.Context, c caller, token string) (*verdict, error) {
	var claims assertion
	err := verify(token, assertionType, &claims, func(h header) (*ecdsa.PublicKey, error) {
		if h.device != c.device.ID {
			return nil, errToken
		}
		return n.keys.of(c.device)
	})
	if err != nil {
		return nil, err
	}
	p, err := n.answered(ctx, c.device, &claims)
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
	v, err := n.conclude(ctx, e, &signed{c.device, claims, p})
	// Of "not me" more follows than a verdict, and none of it may get lost: decide does it.
	said = err == nil && v.reason != events.RejectedNotMe
	if err == nil && v.settled() {
		// A process that dies before leaves the row open, which costs a look at the login: its events tell devices that it is over. And
		// the device is asked about the login once more, if there is a notice of it.
		over := end{*p, c.device.ID, v.reason == "" || v.reason == events.RejectedNotMe}
		c.later("a prompt is over", func(ctx context.Context) error { return n.finish(ctx, over) })
	}
	return v, err
}

// conclude judges an answer that has been stored, and says so. What stands before it in the stream is known only now.
func (n *notifier) conclude(ctx context.Context, e *events.Event, by *signed) (*verdict, error) {
	history, err := n.historyOf(ctx, e)
	if err != nil {
		return nil, err
	}
	v, err := n.judge(ctx, history, e, by)
	switch {
	case err != nil:
		return nil, err
	case v.reason == events.RejectedNotMe, judged(history, e, v): // decide, of another process, was faster, and may have ended the login
		return v, nil
	case ended(history):
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
	if err != nil || claims.Round < 1 || claims.Round > events.Rounds || !fresh(claims.IssuedAt, n.now()) {
		return nil, errToken
	}
	switch claims.Decision {
	case approve, deny, notMe:
	default:
		return nil, errToken
	}
	p, err := n.store.prompt(ctx, place{login, claims.Round})
	switch {
	case err != nil:
		return nil, err
	case p == nil || !p.answeredBy(device, claims):
		return nil, errToken
	case p.Ended:
		return nil, errOver
	}
	return p, nil
}

// open is the challenge of a round that a device may answer at this moment, nil if there is none.
func (n *notifier) open(history bus.History, round int) *events.Event {
	challenged, e := bus.Get[*events.Challenged](history, round)
	verified, _ := bus.Get[*events.Verified](history, round)
	if challenged == nil || challenged.Factor != events.Push || verified != nil || ended(history) ||
		!n.now().Before(challenged.Expires) || replaced(history, round, math.MaxUint64) {
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

// take stores a response in the next free of the attempts that a login has. Two that race for one are told apart by their
// nonces. The answer is in this process's hand until it is released.
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

// A hand holds the answers that this process is about to judge for the devices that gave them, so that decide does not do
// the same work at the same time. What is released without a verdict is decide's.
type hand struct {
	mu   sync.Mutex
	held map[string]*held // by event id
}

type held struct {
	released chan struct{}
	said     bool // the verdict is stored
}

func (h *hand) hold(id string) (release func(said bool)) {
	it := &held{released: make(chan struct{})}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.held == nil {
		h.held = make(map[string]*held)
	}
	h.held[id] = it
	return func(said bool) {
		h.mu.Lock()
		defer h.mu.Unlock()
		it.said = said
		close(it.released)
		if h.held[id] == it { // else another answer tries for the same place
			delete(h.held, id)
		}
	}
}

// said waits for an answer to be released, if it is held, and reports whether its verdict has been stored.
func (h *hand) said(ctx context.Context, id string) bool {
	h.mu.Lock()
	it := h.held[id]
	h.mu.Unlock()
	if it == nil {
		return false
	}
	select {
	case <-it.released:
		return it.said
	case <-ctx.Done():
		return false
	}
}

// asking is what bears upon a prompt and its answers.
var asking = append([]events.Step{events.StepRequested, events.StepWanted, events.StepChallenged, events.StepAnswered, events.StepRejected,
	events.StepVerified}, endings...)

// remembered is of how many logins this process remembers what it has read. A prompt that is fetched and answered is looked at four
// times; some 3 KiB for each.
const remembered = 4096

// history reads what bears upon a login's prompts, but for what it has read before: no event changes.
func (n *notifier) history(ctx context.Context, login events.Login) (bus.History, error) {
	known, _ := n.read.Get(login)
	place := uint64(0)
	if len(known) > 0 {
		place = known[len(known)-1].Sequence
	}
	news, err := n.bus.Since(ctx, login, place, asking)
	if err != nil || len(news) == 0 {
		return known, err
	}
	history := slices.Concat(known, news) // others may read what is known at this moment
	n.read.Add(login, history)
	return history, nil
}

// historyOf is the history of a login with an event, and waits for a replica that has it: that one has all that stands before it.
func (n *notifier) historyOf(ctx context.Context, e *events.Event) (bus.History, error) {
	for {
		history, err := n.history(ctx, e.Login)
		if err != nil || slices.ContainsFunc(history, func(other *events.Event) bool { return other.ID() == e.ID() }) {
			return history, err
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("pushnotifier: %w: %w", bus.ErrStale, ctx.Err())
		case <-time.After(staleWait):
		}
	}
}

// staleWait is how soon a replica that was behind is asked again.
const staleWait = 20 * time.Millisecond

// finish takes a prompt off the devices of its user.
func (n *notifier) finish(ctx context.Context, over end) error {
	devices, err := n.store.end(ctx, over)
	n.nudge(devices...)
	return err
}

// decide handles every answered push. Most have their verdict already, by who took the answer from the device; this one
// follows up where that process died between the two, judges what browsers bring back from a provider, and does what must
// not get lost when a user disowns a login.
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
	case ended(history):
		return nil, nil
	}
	return []*events.Event{n.event(e, v)}, nil
}
