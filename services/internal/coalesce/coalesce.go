// Package coalesce turns concurrent requests into batches: sixty-four rows in one statement cost a tenth of sixty-four
// statements.
package coalesce

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
)

// ErrClosed is returned by Do after Close.
var ErrClosed = errors.New("coalesce: group is closed")

// When a crowd of callers has come while a batch ran, the next batch waits a moment for more of them, since a batch of ten costs
// little more than one of three. Fewer callers do not wait. In a crowd a statement takes some 3 ms, and a login has eight of them: the
// moment is little beside the wait for a processor that it saves.
const (
	crowd  = 3
	moment = 8 * time.Millisecond
)

// timeout bounds a batch, also while somebody waits who has no such bound: a database that has gone silent never answers, and all who come
// later wait behind it.
const timeout = 30 * time.Second

// A Group runs what concurrent callers ask for in batches, one batch at a time. The first caller's batch starts at once;
// those who come while it runs form the next one. So batches grow with the load; see [Group.Linger] and [Group.Beside] for the exceptions.
type Group[K comparable, In, Out any] struct {
	run func(context.Context, []In) ([]Out, error)
	key func(In) K
	max int

	linger time.Duration
	most   int           // batches at once
	full   chan struct{} // signals that the queue is as long as a batch may be

	mu      sync.Mutex
	queue   []*call[In, Out] // in order of arrival
	running int              // goroutines that will look at the queue again
	crowds  int              // of these have a crowd's batch, or gather one: nobody begins another beside them
	closed  bool
	wg      sync.WaitGroup
}

type call[In, Out any] struct {
	in    In
	batch *batch        // nil while it is in the queue
	done  chan struct{} // closed once out and err are set
	out   Out
	err   error
}

// A batch is canceled when the last of its callers has left, or its time is over.
type batch struct {
	waiting int // guarded by the group's mu
	cancel  context.CancelFunc
}

// New makes a Group. run answers a batch of at most max inputs, no two with the same key, with one output for each, in
// their order. Its error fails the whole batch: inputs must be valid before they get in, and an output that can fail by
// itself says so itself.
func New[K comparable, In, Out any](run func(context.Context, []In) ([]Out, error), key func(In) K, max int) *Group[K, In, Out] {
	return &Group[K, In, Out]{run: run, key: key, max: max, most: 1, full: make(chan struct{}, 1)}
}

// Linger makes every batch that is not full wait that long for more callers. It is for work that no user waits for, which then is
// cheap even when there is little of it. It is called before the first Do.
func (g *Group[K, In, Out]) Linger(d time.Duration) *Group[K, In, Out] {
	g.linger = d
	return g
}

// Beside lets up to `most` batches run at once while they are small. It is for work that waits for the disk, where a caller who just
// missed a batch would wait for two writes. Batches that run at once may have the same key. It is called before the first Do.
func (g *Group[K, In, Out]) Beside(most int) *Group[K, In, Out] {
	g.most = most
	return g
}

// Do runs in as part of a batch and returns its output. When ctx ends first, Do returns its error, and in may be done or not.
func (g *Group[K, In, Out]) Do(ctx context.Context, in In) (Out, error) {
	c := &call[In, Out]{in: in, done: make(chan struct{})}
	g.mu.Lock()
	if g.closed {
		g.mu.Unlock()
		return c.out, ErrClosed
	}
	if g.queue = append(g.queue, c); len(g.queue) == g.max {
		select {
		case g.full <- struct{}{}:
		default: // an earlier signal is still there
		}
	}
	if g.running == 0 || g.running < g.most && g.crowds == 0 {
		g.running++
		g.wg.Go(g.work)
	}
	g.mu.Unlock()

	select {
	case <-c.done:
		return c.out, c.err
	case <-ctx.Done():
		g.leave(c)
		var none Out
		return none, context.Cause(ctx)
	}
}

// Close refuses new callers and returns when those that are in have their answers.
func (g *Group[K, In, Out]) Close() {
	g.mu.Lock()
	g.closed = true
	g.mu.Unlock()
	g.wg.Wait()
}

func (g *Group[K, In, Out]) leave(c *call[In, Out]) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if c.batch == nil {
		for i, queued := range g.queue {
			if queued == c {
				g.queue = append(g.queue[:i:i], g.queue[i+1:]...)
				return
			}
		}
		return
	}
	if c.batch.waiting--; c.batch.waiting == 0 {
		c.batch.cancel()
	}
}

// work runs batches until the queue is empty.
func (g *Group[K, In, Out]) work() {
	for first := true; ; first = false {
		g.gather(first)
		ctx, cancel := context.WithTimeout(context.Background(), timeout)
		calls := g.next(cancel)
		if len(calls) == 0 {
			cancel()
			return
		}
		in := make([]In, len(calls))
		for i, c := range calls {
			in[i] = c.in
		}
		out, errs := g.apart(ctx, in)
		cancel()
		g.dissolve(len(calls))
		for i, c := range calls {
			if c.out = out[i]; errs != nil {
				c.err = errs[i]
			}
			close(c.done)
		}
	}
}

// gather waits for more callers, where that is worth it.
func (g *Group[K, In, Out]) gather(first bool) {
	g.mu.Lock()
	wait := g.linger
	if wait == 0 && !first && len(g.queue) >= crowd {
		wait = moment
	}
	if wait == 0 || len(g.queue) == 0 || len(g.queue) >= g.max || g.closed {
		g.mu.Unlock()
		return
	}
	select { // drop the signal of an earlier batch
	case <-g.full:
	default:
	}
	g.crowds++ // nobody begins a batch beside this one
	g.mu.Unlock()
	defer g.dissolve(crowd)
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-g.full:
	case <-timer.C:
	}
}

// next takes a batch off the queue. What has the key of something before it stays for a later batch.
func (g *Group[K, In, Out]) next(cancel context.CancelFunc) []*call[In, Out] {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.crowds > 0 { // whoever has the crowd takes what is in the queue, too
		g.running--
		return nil
	}
	b := &batch{cancel: cancel}
	taken := make(map[K]struct{}, min(len(g.queue), g.max))
	var calls, rest []*call[In, Out]
	for _, c := range g.queue {
		k := g.key(c.in)
		if _, twice := taken[k]; twice || len(calls) == g.max {
			rest = append(rest, c)
			continue
		}
		taken[k] = struct{}{}
		c.batch = b
		calls = append(calls, c)
	}
	g.queue, b.waiting = rest, len(calls)
	switch {
	case len(calls) == 0:
		g.running--
	case len(calls) >= crowd:
		g.crowds++
	}
	return calls
}

// dissolve says that a batch has ended. If it had as many calls as a crowd, there is one crowd less.
func (g *Group[K, In, Out]) dissolve(calls int) {
	if calls >= crowd {
		g.mu.Lock()
		defer g.mu.Unlock()
		g.crowds--
	}
}

// apart runs a batch and returns an output for each input, and an error for each unless it is nil. When the database refuses a value, such
// as a zero byte in a text (SQLSTATE class 22), the inputs run one by one: it must not fail those who happen to share its statement. Of the
// batch that failed nothing has stayed.
func (g *Group[K, In, Out]) apart(ctx context.Context, in []In) ([]Out, []error) {
	out, err := g.guarded(ctx, in)
	if err == nil {
		return out, nil
	}
	out = make([]Out, len(in))
	errs := slices.Repeat([]error{err}, len(in))
	if refused, ok := errors.AsType[*pgconn.PgError](err); !ok || !strings.HasPrefix(refused.Code, "22") || len(in) == 1 {
		return out, errs
	}
	for i := range in {
		one, err := g.guarded(ctx, in[i:i+1])
		if errs[i] = err; err == nil {
			out[i] = one[0]
		}
	}
	return out, errs
}

// guarded turns a panic of run into an error: it must reach the callers, who know what to do about it, and not end a
// process that serves others. The error tells the panic's type and place only: its value may be personal.
func (g *Group[K, In, Out]) guarded(ctx context.Context, in []In) (out []Out, err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("coalesce: batch panicked: %T\n%s", r, debug.Stack())
		}
	}()
	out, err = g.run(ctx, in)
	if err == nil && len(out) != len(in) {
		err = fmt.Errorf("coalesce: %d outputs for %d inputs", len(out), len(in))
	}
	return out, err
}
