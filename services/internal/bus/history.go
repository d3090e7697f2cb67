package bus

import (
	"cmp"
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

// Endings are the steps that end a login.
var Endings = []events.Step{events.StepClosed, events.StepCancelled, events.StepLapsed}

// Ended tells whether the login has come to its end.
func (h History) Ended() bool {
	return slices.ContainsFunc(h, func(e *events.Event) bool { return slices.Contains(Endings, e.Step) })
}

// Replaced tells whether a later round was challenged before a place in the stream.
func (h History) Replaced(round int, before uint64) bool {
	return slices.ContainsFunc(h, func(e *events.Event) bool {
		return e.Step == events.StepChallenged && e.N > round && e.Sequence < before
	})
}

// Untimely is why an answer is rejected for where it stands in its login, whatever it says: it came before the question, to something that
// was not asked, as one attempt too many, after a later challenge, or too late. It is empty for one that came in time.
func (h History) Untimely(e *events.Event, attempts int) (reason string) {
	answer := e.Data.(*events.Answered)
	challenged, put := Get[*events.Challenged](h, answer.Round)
	switch {
	case challenged == nil || put.Sequence > e.Sequence || challenged.Factor != answer.Factor || e.N > attempts:
		return events.RejectedWrong
	case h.Replaced(answer.Round, e.Sequence):
		return events.RejectedSuperseded
	case !e.Stored.Before(challenged.Expires):
		return events.RejectedExpired
	default:
		return ""
	}
}

// ErrStale says that a read was answered by a replica that is behind. It is a moment's matter.
var ErrStale = errors.New("history is behind the event that asked for it")

// staleWait is how soon a read that was behind is tried again.
const staleWait = 20 * time.Millisecond

// History reads the login of an event: all of it, or some steps, since each one that is left out saves the broker a message. What it
// returns holds that event and everything before it. Otherwise the error is a [RetryAfter] that wraps [ErrStale]: any replica may answer
// a direct get, and one may be a moment behind.
func (b *Bus) History(ctx context.Context, trigger *events.Event, steps ...events.Step) (History, error) {
	if len(steps) > 0 {
		return b.partOf(ctx, trigger, steps)
	}
	h, _, err := b.read(ctx, trigger.Login, trigger, 0, tree(trigger.Login))
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

// partOf reads some steps. It asks for the trigger only if there is nothing else: a replica that has found anything says how far it is.
func (b *Bus) partOf(ctx context.Context, trigger *events.Event, steps []events.Step) (History, error) {
	others := subjects(trigger.Login, slices.DeleteFunc(slices.Clone(steps), func(s events.Step) bool { return s == trigger.Step && trigger.N == 0 }))
	h, upTo, err := b.read(ctx, trigger.Login, trigger, 0, others)
	if err == nil && upTo == 0 { // nothing but the trigger is there, if even that
		h, upTo, err = b.read(ctx, trigger.Login, trigger, 0, append(others, trigger.Subject())) // of one replica, again
	}
	switch {
	case err != nil:
		return nil, err
	case trigger.Sequence == 0 || upTo < trigger.Sequence: // a replica that has an event has all before it
		return nil, RetryAfter(staleWait, ErrStale)
	case !slices.Contains(h, trigger):
		h = append(h, trigger)
		inOrder(h)
	}
	return h, nil
}

// Login reads a login with one batched direct get. Events that can not be decoded are left out: their own consumers
// put them into DEAD.
func (b *Bus) Login(ctx context.Context, login events.Login) (History, error) {
	h, _, err := b.read(ctx, login, nil, 0, tree(login))
	return h, err
}

// Since reads the events of some steps of a login, whatever their numbers, that stand after a place in the stream. Whoever has read
// what is before it need not read that again, since no event changes. A replica that is behind returns fewer events.
func (b *Bus) Since(ctx context.Context, login events.Login, place uint64, steps []events.Step) (History, error) {
	h, _, err := b.read(ctx, login, nil, place+1, subjects(login, steps))
	return h, err
}

// subjects are those of some steps of a login.
func subjects(login events.Login, steps []events.Step) []string {
	list := make([]string, len(steps))
	for i, step := range steps {
		list[i] = login.Subject(step, 0)
		if events.Steps[step].Max > 0 {
			list[i] += ".*"
		}
	}
	return list
}

// tree is all subjects of a login.
func tree(login events.Login) []string {
	every := "login.*." + login.Gateway + "." + login.ID
	return []string{every, every + ".*"}
}

// read reads events of a login from a place in the stream on, and returns the last sequence of the replica that answered: 0 if it had
// none of the subjects. known is an event that the caller has as it was stored, so that it is not decoded again; nil for none.
func (b *Bus) read(ctx context.Context, login events.Login, known *events.Event, from uint64, subjects []string) (h History, upTo uint64, err error) {
	messages, upTo, err := b.getter.read(ctx, from, subjects)
	if err != nil {
		return nil, 0, fmt.Errorf("bus: history of %s: %w", login, err)
	}
	h = make(History, 0, len(messages)+1) // and one that the caller may add
	for _, msg := range messages {
		subject, sequence, stored, err := place(msg)
		if err != nil {
			return nil, 0, fmt.Errorf("bus: history of %s: %w", login, err)
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
	inOrder(h)
	return h, upTo, nil
}

// inOrder sorts events as they stand in the stream.
func inOrder(h History) {
	slices.SortFunc(h, func(a, b *events.Event) int { return cmp.Compare(a.Sequence, b.Sequence) })
}

// Event reads one event of a login by direct get. It returns [ErrNotFound] when the event is not there.
func (b *Bus) Event(ctx context.Context, login events.Login, step events.Step, n int) (*events.Event, error) {
	for {
		one, cancel := context.WithTimeout(ctx, answerWait)
		e, err := events.Get(one, b.nc, login, step, n)
		cancel()
		if errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil { // the answer got lost
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("bus: %w", err)
		}
		return e, nil
	}
}
