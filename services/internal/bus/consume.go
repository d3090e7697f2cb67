package bus

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/sync/errgroup"

	"github.com/sekisho/sekisho/events"
)

const (
	// panics is the number of deliveries after which an event is given up whose handler panics.
	panics = 5
	// firstRetry and lastRetry bound the growing delay of an event whose handler failed.
	firstRetry, lastRetry = 100 * time.Millisecond, 5 * time.Second
	// drainWait is how long handlers that run may go on after the worker was told to stop. What they have not finished
	// then is handed to another instance.
	drainWait = 8 * time.Second
	// settleWait bounds what is still published after the context of a run has ended.
	settleWait = 5 * time.Second
)

// Run handles events until ctx ends, then hands back what it has not begun, waits for the handlers that run, and returns.
// It fails when a consumer of the table is not there, or goes away.
func (b *Bus) Run(ctx context.Context, handlers ...Handler) error {
	work, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	stop := context.AfterFunc(ctx, func() { time.AfterFunc(drainWait, cancel) })
	defer stop()
	byStep := make(map[string]Handler, len(handlers))
	group, ctx := errgroup.WithContext(ctx)
	for _, h := range handlers {
		if h.stream == streamLogin {
			byStep[h.name] = h
		}
		group.Go(func() error { return b.consume(ctx, work, h, b.handleOne(h)) })
	}
	if len(byStep) > 0 {
		group.Go(func() error { return b.consume(ctx, work, redoHandler, b.redoOne(byStep)) })
	}
	return group.Wait()
}

// Provisioned fails when a consumer that [Bus.Run] needs for the handlers is not there. A worker that starts before
// `sekisho setup` has run asks until it is.
func (b *Bus) Provisioned(ctx context.Context, handlers ...Handler) error {
	if len(handlers) == 0 {
		return nil
	}
	for _, h := range append(slices.Clip(handlers), redoHandler) {
		if _, err := b.consumer(ctx, h); err != nil {
			return err
		}
	}
	return nil
}

// consumer finds the handler's durable consumer.
func (b *Bus) consumer(ctx context.Context, h Handler) (jetstream.Consumer, error) {
	name := consumerName(b.worker, h.name)
	c, err := b.js.Consumer(ctx, h.stream, name)
	if err != nil {
		return nil, fmt.Errorf("bus: consumer %s: %w", name, err)
	}
	return c, nil
}

// An input is a message that somebody has begun to handle.
type input struct {
	jetstream.Msg
	*jetstream.MsgMetadata
	begun time.Time
}

// A task handles one input. Its context ends when a stopping worker can wait no longer.
type task func(ctx context.Context, in input)

// consume runs a task for each message of the handler's consumer, as many at once as the handler may run, until ctx ends.
func (b *Bus) consume(ctx, work context.Context, h Handler, do task) error {
	c, err := b.consumer(ctx, h)
	if ctx.Err() != nil {
		return nil
	}
	if err != nil {
		return err
	}
	var running sync.WaitGroup
	defer running.Wait()
	// Goroutines are kept: their stacks have grown to what a handler needs. Only this callback starts any.
	waiting, started := make(chan jetstream.Msg), 0
	defer close(waiting)
	handle := func(msg jetstream.Msg) {
		for ok := true; ok; msg, ok = <-waiting {
			meta, err := msg.Metadata()
			if err != nil {
				b.log.Error().Err(err).Msg("message is not from JetStream")
				continue
			}
			do(work, input{msg, meta, time.Now()})
		}
	}
	take := func(msg jetstream.Msg) {
		if ctx.Err() != nil {
			b.handBack(msg, h.name)
			return
		}
		select {
		case waiting <- msg:
			return
		default:
		}
		if started < h.concurrency {
			started++
			running.Go(func() { handle(msg) })
			return
		}
		select {
		case waiting <- msg:
		case <-ctx.Done():
			b.handBack(msg, h.name)
		}
	}
	watching, stop := context.WithCancel(ctx)
	defer stop()
	running.Go(func() { b.watchLag(watching, h.name, c) })
	trouble := func(err error) {
		if ctx.Err() == nil {
			b.log.Warn().Err(err).Str("step", h.name).Msg("consumer is in trouble")
		}
	}
	// What waits in the client ages against the ack wait, so little is fetched ahead.
	if err := h.deliver(b, ctx, c, 2*h.concurrency, take, trouble); err != nil {
		return fmt.Errorf("bus: consumer %s: %w", consumerName(b.worker, h.name), err)
	}
	return nil
}

var errGone = errors.New("it is gone")

// A delivery is a way to get the messages of a consumer until ctx ends: handOver or collect. It fetches at most `most` ahead.
type delivery func(b *Bus, ctx context.Context, c jetstream.Consumer, most int, take func(jetstream.Msg), trouble func(error)) error

// handOver delivers each message when it comes.
func (b *Bus) handOver(ctx context.Context, c jetstream.Consumer, most int, take func(jetstream.Msg), trouble func(error)) error {
	sub, err := c.Consume(take, jetstream.PullMaxMessages(most),
		jetstream.ConsumeErrHandler(func(_ jetstream.ConsumeContext, err error) { trouble(err) }))
	if err != nil {
		return err
	}
	select {
	case <-ctx.Done():
		if b.nc.IsConnected() {
			sub.Drain() // what still comes is handed back
		} else {
			sub.Stop() // nothing comes, and to drain would wait for it
		}
		<-sub.Closed()
		return nil
	case <-sub.Closed():
		return errGone
	}
}

// collect delivers messages many at a time, a moment after the first of them has come.
func (b *Bus) collect(ctx context.Context, c jetstream.Consumer, most int, take func(jetstream.Msg), trouble func(error)) error {
	for ctx.Err() == nil {
		messages, err := gather(ctx, c, most, unhurriedWait)
		if errors.Is(err, jetstream.ErrConsumerDeleted) || errors.Is(err, jetstream.ErrConsumerNotFound) {
			return errGone
		}
		if err != nil {
			trouble(err)
			select {
			case <-time.After(batchRetry):
			case <-ctx.Done():
			}
		}
		for _, msg := range messages {
			take(msg)
		}
	}
	return nil
}

// handBack gives an event to another instance at once. It is not a failure, and not logged as one.
func (b *Bus) handBack(msg jetstream.Msg, step string) {
	b.metrics.events.WithLabelValues(step, outcomeStopped).Inc()
	_ = msg.Nak() // if it gets lost, the ack wait does the same later
}

func (b *Bus) handleOne(h Handler) task {
	return func(ctx context.Context, in input) {
		if h.timer != nil {
			b.settle(ctx, in, h, nil, b.runHandler(ctx, in, h, nil))
			return
		}
		e, err := events.Read(in.Subject(), in.Headers(), in.Data())
		if err != nil {
			b.settle(ctx, in, h, nil, Permanent(err))
			return
		}
		e.Stored, e.Sequence = in.Timestamp, in.Sequence.Stream
		b.settle(ctx, in, h, e, b.handleInTime(ctx, in, h, e))
	}
}

// handleInTime runs the handler, unless the login's deadline has passed and the handler has no use for late events.
func (b *Bus) handleInTime(ctx context.Context, in input, h Handler, e *events.Event) error {
	trustExpiry(e)
	if !h.late && b.pastDeadline(e) {
		return errLate
	}
	return b.runHandler(ctx, in, h, e)
}

// trustExpiry drops a deadline that the login's gateway wrote: only the broker's clock and the workers bound a login.
func trustExpiry(e *events.Event) {
	if strings.HasPrefix(e.By, events.GatewayWorker+"/") {
		e.Expires = time.Time{}
	}
}

func (b *Bus) pastDeadline(e *events.Event) bool {
	if !e.Expires.IsZero() {
		return !b.now().Before(e.Expires)
	}
	return b.now().After(e.Stored.Add(events.MaxDeadline)) // no login lives longer, whatever its deadline is
}

var (
	errLate  = errors.New("deadline has passed")
	errPanic = errors.New("handler panicked")
)

// runHandler runs the handler under its time-out with heartbeats, and stores what it returns.
func (b *Bus) runHandler(ctx context.Context, in input, h Handler, e *events.Event) (err error) {
	ctx, cancel := context.WithTimeout(ctx, h.timeout)
	defer cancel()
	stopBeat := heartbeat(in)
	defer stopBeat()
	defer func() {
		if p := recover(); p != nil {
			err = errPanic
			b.log.Error().Str("step", h.name).Str("panic", fmt.Sprintf("%T", p)).Bytes("stack", debug.Stack()).Msg("handler panicked")
		}
	}()
	var out []*events.Event
	if h.timer != nil {
		login, perr := parseTimer(in.Subject())
		if perr != nil {
			return Permanent(perr)
		}
		out, err = h.timer(ctx, login)
	} else {
		out, err = h.run(ctx, e)
	}
	if err != nil || len(out) == 0 {
		return err
	}
	return b.publishAll(ctx, e, out)
}

// heartbeat tells the broker three times per ack wait that the handler is alive, until stop is called.
func heartbeat(msg jetstream.Msg) (stop func()) {
	var mu sync.Mutex
	stopped := false
	var timer *time.Timer
	mu.Lock()
	defer mu.Unlock()
	timer = time.AfterFunc(ackWait/3, func() {
		mu.Lock()
		defer mu.Unlock()
		if !stopped {
			_ = msg.InProgress() // a lost one is followed by another
			timer.Reset(ackWait / 3)
		}
	})
	return func() {
		mu.Lock()
		defer mu.Unlock()
		stopped = true
		timer.Stop()
	}
}

// settle does what the handler's error says.
func (b *Bus) settle(ctx context.Context, in input, h Handler, e *events.Event, err error) {
	outcome := outcomeHandled
	var settled error
	after, wantsRetry := errors.AsType[retryAfter](err)
	_, isPermanent := errors.AsType[permanent](err)
	switch {
	case err == nil:
		settled = in.Ack()
	case errors.Is(err, errLate):
		outcome, settled = outcomeLate, b.lapse(ctx, in, e)
	case isPermanent:
		outcome, settled = outcomeDead, b.bury(ctx, in, err.Error(), beginning(in, e), "dead_letter")
	case ctx.Err() != nil:
		b.handBack(in, h.name)
		return
	case errors.Is(err, ErrStale) && in.NumDelivered > staleTries:
		// The events that are missing will never come: they were not decodable, or were never published.
		outcome, settled = outcomeDead, b.bury(ctx, in, err.Error(), nil, "")
	case wantsRetry:
		outcome, settled = outcomeRetried, in.NakWithDelay(after.delay)
	case errors.Is(err, errPanic) && in.NumDelivered >= panics:
		outcome, settled = outcomeDead, b.bury(ctx, in, err.Error(), e, "handler_panicked")
	case e != nil && !h.late && b.pastDeadline(e):
		outcome, settled = outcomeLate, b.lapse(ctx, in, e)
	default:
		outcome, settled = outcomeFailed, in.NakWithDelay(backoff(in.NumDelivered))
	}
	b.report(h, in, e, outcome, err, settled)
}

// beginning is the request that an input brings, or who made it, also one that could not be read: nothing follows from what is buried, so
// its login ends at once. It is nil for any other event, after which the user can try again.
func beginning(in input, e *events.Event) *events.Event {
	if e == nil {
		login, step, _, err := events.ParseSubject(in.Subject())
		if err != nil {
			return nil
		}
		e = &events.Event{Login: login, Step: step}
	}
	if e.Step != events.StepRequested && e.Step != events.StepIdentified {
		return nil
	}
	return e
}

// staleTries is how often a read that is behind is tried again: staleWait apart, for longer than an election of the broker takes.
const staleTries = 500

// backoff doubles with each delivery, with jitter so that a burst of failures does not come back as a burst.
func backoff(deliveries uint64) time.Duration {
	d := lastRetry
	if n := deliveries - 1; n < 6 {
		d = min(firstRetry<<n, lastRetry)
	}
	return d/2 + rand.N(d)
}

// lapse ends the login of an event that is past its deadline, without doing any work.
func (b *Bus) lapse(ctx context.Context, in input, e *events.Event) error {
	if err := b.publishLapsed(ctx, e, ""); err != nil {
		return errors.Join(err, in.NakWithDelay(lastRetry))
	}
	return in.Ack()
}

func (b *Bus) publishLapsed(ctx context.Context, e *events.Event, reason string) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), settleWait)
	defer cancel()
	cause := e
	if e.Data == nil { // nobody can read it, and a history that names it would never be whole
		cause = nil
	}
	return b.publishAll(ctx, cause, []*events.Event{events.New(e.Login, 0, &events.Lapsed{Reason: reason})})
}

// Headers of a dead letter beside those of the event. Its subject is dead.<worker>.<subject of the event>.
const (
	DeadReason     = "Sekisho-Dead-Reason"
	DeadSubject    = "Sekisho-Dead-Subject"
	DeadStream     = "Sekisho-Dead-Stream"
	DeadSequence   = "Sekisho-Dead-Sequence"
	DeadDeliveries = "Sekisho-Dead-Deliveries"
	DeadTime       = "Sekisho-Dead-Time"
)

// bury copies a message into DEAD and only then terminates it, so that a crash in between repeats the copy, which
// replaces itself. With lapsing it also ends the login of that event at once, and says why.
func (b *Bus) bury(ctx context.Context, in input, reason string, lapsing *events.Event, why string) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), settleWait)
	defer cancel()
	dead := nats.NewMsg("dead." + b.worker + "." + in.Subject())
	for name, values := range in.Headers() {
		// Headers that give orders to the broker came from a publisher who may not give them to DEAD.
		if !strings.HasPrefix(strings.ToLower(name), "nats-") {
			dead.Header[name] = values
		}
	}
	dead.Data = in.Data()
	dead.Header.Set(DeadReason, headerText(reason))
	dead.Header.Set(DeadSubject, in.Subject())
	dead.Header.Set(DeadTime, b.now().UTC().Format(time.RFC3339Nano))
	dead.Header.Set(DeadStream, in.Stream)
	dead.Header.Set(DeadSequence, fmt.Sprint(in.Sequence.Stream))
	dead.Header.Set(DeadDeliveries, fmt.Sprint(in.NumDelivered))
	if err := b.publish(ctx, dead); err != nil {
		return errors.Join(fmt.Errorf("bus: dead letter: %w", err), in.NakWithDelay(lastRetry))
	}
	if lapsing != nil {
		if err := b.publishLapsed(ctx, lapsing, why); err != nil {
			return errors.Join(err, in.NakWithDelay(lastRetry))
		}
	}
	return in.TermWithReason(headerText(reason))
}

// headerText makes a reason fit for a header and for an advisory.
func headerText(s string) string {
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return ' '
		}
		return r
	}, s)
	return s[:min(len(s), 512)]
}

// report writes the one line of an event and counts it.
func (b *Bus) report(h Handler, in input, e *events.Event, outcome string, err, settled error) {
	took := time.Since(in.begun)
	b.metrics.events.WithLabelValues(h.name, outcome).Inc()
	b.metrics.duration.WithLabelValues(h.name).Observe(took.Seconds())
	line := b.log.Info()
	if outcome == outcomeFailed || outcome == outcomeDead || settled != nil {
		line = b.log.Error()
	}
	if line == nil {
		return
	}
	line = line.Str("step", h.name).Str("outcome", outcome).Dur("duration", took)
	if e != nil {
		line = line.Stringer("login", e.Login).Str("event", e.ID())
	}
	if in.NumDelivered > 1 {
		line = line.Uint64("delivery", in.NumDelivered)
	}
	line.AnErr("error", err).AnErr("settle_error", settled).Msg("event")
}

// redoOne handles an event of LOGIN again: the message redo.<worker>.<step>.<gateway>.<login>[.<n>] only names it.
func (b *Bus) redoOne(byStep map[string]Handler) task {
	return func(ctx context.Context, in input) {
		subject := "login." + strings.TrimPrefix(in.Subject(), "redo."+b.worker+".")
		login, step, n, err := events.ParseSubject(subject)
		h, ok := byStep[string(step)]
		if err != nil || !ok {
			b.settle(ctx, in, redoHandler, nil, Permanent(fmt.Errorf("%s does not handle %q", b.worker, subject)))
			return
		}
		e, err := b.Event(ctx, login, step, n)
		if errors.Is(err, ErrNotFound) || errors.Is(err, events.ErrInvalid) {
			err = Permanent(err)
		}
		if err == nil {
			err = b.handleInTime(ctx, in, h, e)
		}
		redo := redoHandler
		redo.late = h.late
		b.settle(ctx, in, redo, e, err)
	}
}

// parseTimer takes the login from timer.due.<gateway>.<login>.
func parseTimer(subject string) (events.Login, error) {
	tokens := strings.Split(subject, ".")
	if len(tokens) != 4 {
		return events.Login{}, fmt.Errorf("bus: %q is not timer.due.<gateway>.<login>", subject)
	}
	login := events.Login{Gateway: tokens[2], ID: tokens[3]}
	return login, login.Validate()
}
