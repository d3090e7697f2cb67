package bus

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/sekisho/sekisho/events"
)

// A History is the tree of one login: its events in stream order.
type History []*events.Event

// Get is the data and the event of one step, nil when it is not there; n is 0 for steps without number.
func Get[T events.Data](h History, n int) (T, *events.Event) {
	var zero T
	for _, e := range h {
		if data, ok := e.Data.(T); ok && e.N == n {
			return data, e
		}
	}
	return zero, nil
}

// ErrStale says that a read was answered by a replica that is behind. It is a moment's matter.
var ErrStale = errors.New("history is behind the event that asked for it")

// staleWait is how soon a read that was behind is tried again.
const staleWait = 20 * time.Millisecond

// History reads the login of an event. It holds that event and everything that led to it, or the error is a
// [RetryAfter] that wraps [ErrStale]: direct gets are answered by any replica, which may be a moment behind.
func (b *Bus) History(ctx context.Context, trigger *events.Event) (History, error) {
	h, err := b.tree(ctx, trigger.Login, trigger)
	if err != nil {
		return nil, err
	}
	ids := make(map[string]bool, len(h))
	for _, e := range h {
		ids[e.ID()] = true
	}
	if !ids[trigger.ID()] {
		return nil, RetryAfter(staleWait, ErrStale)
	}
	for _, e := range h {
		if e.Cause != "" && !ids[e.Cause] && !strings.HasPrefix(e.By, events.GatewayWorker+"/") { // a gateway may name what it likes
			return nil, RetryAfter(staleWait, ErrStale)
		}
	}
	return h, nil
}

// Login reads a login with one batched direct get. Events that can not be decoded are left out: their own consumers
// put them into DEAD.
func (b *Bus) Login(ctx context.Context, login events.Login) (History, error) {
	return b.tree(ctx, login, nil)
}

// tree reads a login. An event of it that the caller has is not decoded again.
func (b *Bus) tree(ctx context.Context, login events.Login, known *events.Event) (History, error) {
	tree := "login.*." + login.Gateway + "." + login.ID
	messages, err := b.trees.read(ctx, streamLogin, tree, tree+".*")
	if err != nil {
		return nil, fmt.Errorf("bus: history of %s: %w", login, err)
	}
	h := make(History, 0, len(messages)+1) // and one that the caller may add
	for _, msg := range messages {
		subject, sequence, stored, err := place(msg)
		if err != nil {
			return nil, fmt.Errorf("bus: history of %s: %w", login, err)
		}
		if known != nil && known.Sequence == sequence {
			h = append(h, known)
			continue
		}
		e, err := events.Read(subject, msg.Header, msg.Data)
		if err != nil {
			continue
		}
		e.Stored, e.Sequence = stored, sequence
		h = append(h, e)
	}
	slices.SortFunc(h, func(a, b *events.Event) int { return int(a.Sequence) - int(b.Sequence) })
	return h, nil
}

// Event reads one event of a login by direct get. It returns [ErrNotFound] when the event is not there.
func (b *Bus) Event(ctx context.Context, login events.Login, step events.Step, n int) (*events.Event, error) {
	e, err := events.Get(ctx, b.nc, streamLogin, login, step, n)
	if err != nil {
		return nil, fmt.Errorf("bus: %w", err)
	}
	return e, nil
}
