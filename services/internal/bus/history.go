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

// History reads the login of an event, or of that what is of some steps, the event's own among them: each one that is left out
// saves the broker a message. It holds that event and everything before it, or the error is a [RetryAfter] that wraps
// [ErrStale]: direct gets are answered by any replica, which may be a moment behind.
func (b *Bus) History(ctx context.Context, trigger *events.Event, steps ...events.Step) (History, error) {
	if len(steps) > 0 {
		h, err := b.Part(ctx, trigger.Login, steps, trigger)
		if err == nil && !slices.Contains(h, trigger) { // a replica that has an event has all before it
			err = RetryAfter(staleWait, ErrStale)
		}
		return h, err
	}
	h, err := b.read(ctx, trigger.Login, History{trigger}, tree(trigger.Login))
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
	return b.read(ctx, login, nil, tree(login))
}

// Part reads those events of a login that are of some steps, whatever their numbers. What an earlier read of the login gave is not
// decoded again.
func (b *Bus) Part(ctx context.Context, login events.Login, steps []events.Step, earlier ...*events.Event) (History, error) {
	subjects := make([]string, len(steps))
	for i, step := range steps {
		subjects[i] = login.Subject(step, 0)
		if events.Steps[step].Max > 0 {
			subjects[i] += ".*"
		}
	}
	return b.read(ctx, login, earlier, subjects)
}

// tree is all subjects of a login.
func tree(login events.Login) []string {
	every := "login.*." + login.Gateway + "." + login.ID
	return []string{every, every + ".*"}
}

// read reads events of a login. Those that the caller has as they were stored are not decoded again.
func (b *Bus) read(ctx context.Context, login events.Login, known History, subjects []string) (History, error) {
	messages, err := b.trees.read(ctx, streamLogin, subjects...)
	if err != nil {
		return nil, fmt.Errorf("bus: history of %s: %w", login, err)
	}
	h := make(History, 0, len(messages)+1) // and one that the caller may add
	for _, msg := range messages {
		subject, sequence, stored, err := place(msg)
		if err != nil {
			return nil, fmt.Errorf("bus: history of %s: %w", login, err)
		}
		if i := slices.IndexFunc(known, func(e *events.Event) bool { return e.Sequence == sequence }); i >= 0 {
			h = append(h, known[i])
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
