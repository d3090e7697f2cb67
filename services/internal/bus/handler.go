package bus

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/sekisho/sekisho/events"
)

// A Handler is bound to one step, and so to one durable consumer. Make one with [On] or [OnTimer].
type Handler struct {
	stream      string
	name        string // of the step, or timerName, or redoName: the second part of the consumer's name
	run         func(ctx context.Context, e *events.Event) ([]*events.Event, error)
	timer       func(ctx context.Context, login events.Login) ([]*events.Event, error)
	concurrency int
	timeout     time.Duration
	late        bool
	deliver     delivery
}

const (
	// defaultConcurrency is how many of a handler run at once in one process. Handlers mostly wait for the broker and the
	// database, and those who wait for the same statement share it: more of them make larger batches, not more load.
	defaultConcurrency = 128
	defaultTimeout     = 30 * time.Second
	// unhurriedWait is how long an event of an unhurried handler waits for others, to be fetched together with them.
	unhurriedWait = 200 * time.Millisecond
)

// On binds a function to the step of its data type.
func On[T events.Data](fn func(ctx context.Context, e *events.Event, data T) ([]*events.Event, error)) Handler {
	var zero T
	return Handler{
		stream: streamLogin, name: string(zero.Step()), concurrency: defaultConcurrency, timeout: defaultTimeout, deliver: (*Bus).handOver,
		run: func(ctx context.Context, e *events.Event) ([]*events.Event, error) {
			return fn(ctx, e, e.Data.(T))
		},
	}
}

// OnTimer binds a function to the deadlines that [Bus.Schedule] asked for.
func OnTimer(fn func(ctx context.Context, login events.Login) ([]*events.Event, error)) Handler {
	return Handler{
		stream: streamTimer, name: timerName, concurrency: defaultConcurrency, timeout: defaultTimeout, deliver: (*Bus).handOver, late: true,
		timer: fn,
	}
}

// Concurrency sets how many of the handler run at once in this process.
func (h Handler) Concurrency(n int) Handler { h.concurrency = n; return h }

// Timeout bounds one run of the handler.
func (h Handler) Timeout(d time.Duration) Handler { h.timeout = d; return h }

// Unhurried says that nobody waits for what the handler does: events wait a moment and are fetched many at a time, which
// costs the broker less.
func (h Handler) Unhurried() Handler { h.deliver = (*Bus).collect; return h }

// Late makes the handler see events after their login's deadline too. Others do no work then: `lapsed` is published instead.
func (h Handler) Late() Handler { h.late = true; return h }

// redoHandler stands for the consumer of REDO, whose messages are handled by the handlers of the steps that they name.
var redoHandler = Handler{stream: streamRedo, name: redoName, concurrency: 1, deliver: (*Bus).handOver}

type permanent struct{ err error }

func (p permanent) Error() string { return p.err.Error() }
func (p permanent) Unwrap() error { return p.err }

// Permanent says that no repetition can help: the event goes to DEAD with err as the reason. The reason must tell
// nothing secret or personal.
func Permanent(err error) error { return permanent{err} }

type retryAfter struct {
	err   error
	delay time.Duration
}

func (r retryAfter) Error() string { return fmt.Sprintf("retry after %s: %v", r.delay, r.err) }
func (r retryAfter) Unwrap() error { return r.err }

// RetryAfter says that the event is to be handled again after a delay. A nil err means that nothing is wrong.
func RetryAfter(delay time.Duration, err error) error {
	if err == nil {
		err = errors.New("not yet")
	}
	return retryAfter{err, delay}
}
