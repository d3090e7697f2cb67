package pushnotifier

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/sekisho/sekisho/events"
	"github.com/sekisho/sekisho/services/internal/bus"
)

// asking lists the steps that matter to a prompt and its answers.
var asking = append([]events.Step{events.StepRequested, events.StepWanted, events.StepChallenged, events.StepAnswered, events.StepRejected,
	events.StepVerified}, bus.Endings...)

// remembered is how many logins' histories this process remembers, at some 3 KiB each. A prompt that is fetched and answered is looked
// at four times.
const remembered = 4096

// history is what matters to a login's prompts. Only what is new is read, since no event changes.
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
	history := slices.Concat(known, news) // not appended: others may be reading what is known
	n.read.Add(login, history)
	return history, nil
}

// historyOf is the history up to an event at least. It waits for a replica that has the event, and so all that stands before it.
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

const (
	staleWait  = 20 * time.Millisecond // until a replica that was behind is asked again
	staleTries = 50                    // of a login, before it is taken for gone
)

// loginOf reads the login that a message of ACCOUNT is about. A replica may not have it yet, so it is tried again. It returns none once
// the login has left the stream.
func (n *notifier) loginOf(ctx context.Context, login events.Login, said time.Time) (bus.History, error) {
	for range staleTries {
		history, err := n.bus.Login(ctx, login)
		if requested, _ := bus.Get[*events.Requested](history, 0); err != nil || requested != nil || n.now().Sub(said) > events.MaxDeadline {
			return history, err
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(staleWait):
		}
	}
	return nil, nil
}

// final tells whether the end of a login is known. One that is cancelled may still turn out to have been granted.
func final(history bus.History) bool {
	closed, _ := bus.Get[*events.Closed](history, 0)
	lapsed, _ := bus.Get[*events.Lapsed](history, 0)
	return closed != nil || lapsed != nil
}
