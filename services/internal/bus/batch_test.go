package bus_test

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/sekisho/sekisho/events"
	"github.com/sekisho/sekisho/services/internal/bus"
	"github.com/sekisho/sekisho/services/internal/testenv"
)

// A log is what somebody who follows ACCOUNT has been handed.
type log struct {
	mu   sync.Mutex
	seen []uint64
	come chan struct{} // something has
}

func newLog() *log { return &log{come: make(chan struct{}, 1)} }

func (l *log) take(batch []bus.Stored) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, m := range batch {
		l.seen = append(l.seen, m.Sequence)
	}
	select {
	case l.come <- struct{}{}:
	default:
	}
}

// await waits until all of the sequences have been handed over.
func (l *log) await(t *testing.T, want ...uint64) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	for {
		l.mu.Lock()
		missing := slices.ContainsFunc(want, func(n uint64) bool { return !slices.Contains(l.seen, n) })
		seen := slices.Clone(l.seen)
		l.mu.Unlock()
		if !missing {
			return
		}
		select {
		case <-l.come:
		case <-ctx.Done():
			t.Fatalf("handed over %d, want %d", seen, want)
		}
	}
}

// follow runs fn on the batches of ACCOUNT as a worker does, until stop is called.
func follow(t *testing.T, b *bus.Bus, fn func(context.Context, []bus.Stored) error) (stop func()) {
	t.Helper()
	return followSlowly(t, b, time.Millisecond, fn)
}

// followSlowly waits so long for each batch to fill.
func followSlowly(t *testing.T, b *bus.Bus, wait time.Duration, fn func(context.Context, []bus.Stored) error) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- b.Batches(ctx, "ACCOUNT", 100, wait, fn) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(stop)
	return stop
}

// account stores so many events in ACCOUNT.
func account(t *testing.T, broker *testenv.Broker, n int) {
	t.Helper()
	console := broker.Bus(t, "console")
	for range n {
		e := bus.AccountEvent{ID: uuid.NewString(), Source: "console", Kind: "locked", User: "u1", Data: []byte("{}"), Time: time.Now()}
		if err := console.Account(t.Context(), e); err != nil {
			t.Fatal(err)
		}
	}
}

// settled waits until the broker knows everything up to a message to be done.
func settled(t *testing.T, c jetstream.Consumer, want uint64) {
	t.Helper()
	await(t, c, func(info *jetstream.ConsumerInfo) bool {
		return info.AckFloor.Stream == want && info.NumAckPending == 0
	})
}

// await waits for a state of a consumer.
func await(t *testing.T, c jetstream.Consumer, holds func(*jetstream.ConsumerInfo) bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		info, err := c.Info(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if holds(info) {
			return
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("settled up to %d with %d pending", info.AckFloor.Stream, info.NumAckPending)
		}
	}
}

func consumer(t *testing.T, broker *testenv.Broker, stream, name string) jetstream.Consumer {
	t.Helper()
	js, err := jetstream.New(broker.Dial(t, bus.UserSetup))
	if err != nil {
		t.Fatal(err)
	}
	c, err := js.Consumer(t.Context(), stream, name)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// TestBatches of a worker that follows its streams alone, and of one that shares them.
func TestBatches(t *testing.T) {
	for _, worker := range []string{"recorder", "smsdispatcher"} {
		t.Run(worker, func(t *testing.T) {
			broker := testenv.NATS(t)
			position := consumer(t, broker, "ACCOUNT", worker+"-account")
			account(t, broker, 3)
			seen, failed := newLog(), make(chan struct{})
			broken := sync.OnceValue(func() error { close(failed); return errors.New("the database is away") })
			once := true
			stop := follow(t, broker.Bus(t, worker), func(_ context.Context, batch []bus.Stored) error {
				if once {
					once = false
					return broken()
				}
				seen.take(batch)
				return nil
			})
			<-failed
			seen.await(t, 1, 2, 3) // what failed comes again
			account(t, broker, 2)
			seen.await(t, 4, 5)
			settled(t, position, 5)
			stop()

			// Another one goes on from there.
			account(t, broker, 1)
			next := newLog()
			follow(t, broker.Bus(t, worker), func(_ context.Context, batch []bus.Stored) error { next.take(batch); return nil })
			next.await(t, 6)
			settled(t, position, 6)
			if slices.ContainsFunc(next.seen, func(n uint64) bool { return n < 6 }) {
				t.Errorf("handed over again: %d", next.seen)
			}
		})
	}
}

// TestLostDelivery loses messages on their way to a worker that settles whole batches: they are not passed over.
func TestLostDelivery(t *testing.T) {
	broker := testenv.NATS(t)
	position := consumer(t, broker, "ACCOUNT", "recorder-account")
	steal := func() {
		t.Helper()
		if _, err := position.Next(jetstream.FetchMaxWait(10 * time.Second)); err != nil {
			t.Fatal(err)
		}
	}
	account(t, broker, 3)
	steal() // a predecessor had it in hand
	seen := newLog()
	inHand, goOn := make(chan struct{}, 2), make(chan struct{})
	follow(t, broker.Bus(t, "recorder"), func(_ context.Context, batch []bus.Stored) error {
		if first := batch[0].Sequence; first == 4 || first == 8 {
			inHand <- struct{}{}
			<-goOn
		}
		seen.take(batch)
		return nil
	})
	seen.await(t, 1, 2, 3)
	settled(t, position, 3)

	account(t, broker, 1)
	<-inHand
	account(t, broker, 1)
	steal() // the fifth is delivered, and never comes
	account(t, broker, 2)
	goOn <- struct{}{}
	seen.await(t, 4, 5, 6, 7)
	settled(t, position, 7)

	// One that is gone from the stream holds nothing up.
	account(t, broker, 1)
	<-inHand
	account(t, broker, 3)
	js, err := jetstream.New(broker.Dial(t, bus.UserSetup))
	if err != nil {
		t.Fatal(err)
	}
	stream, err := js.Stream(t.Context(), "ACCOUNT")
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.DeleteMsg(t.Context(), 10); err != nil {
		t.Fatal(err)
	}
	goOn <- struct{}{}
	seen.await(t, 8, 9, 11)
	settled(t, position, 11)
	account(t, broker, 1)
	seen.await(t, 12)
	settled(t, position, 12)
}

// TestGap loses a message in the midst of a batch: what comes after it is settled by itself, and it comes again.
func TestGap(t *testing.T) {
	broker := testenv.NATS(t)
	position := consumer(t, broker, "ACCOUNT", "recorder-account")
	seen := newLog()
	// Long enough for what follows here; should it not be, there is no gap, and nothing is lost either.
	followSlowly(t, broker.Bus(t, "recorder"), time.Second, func(_ context.Context, batch []bus.Stored) error { seen.take(batch); return nil })
	account(t, broker, 1)
	seen.await(t, 1)
	settled(t, position, 1)
	account(t, broker, 1)
	await(t, position, func(info *jetstream.ConsumerInfo) bool { return info.NumAckPending == 1 }) // and it waits for more
	account(t, broker, 1)
	if _, err := position.Next(jetstream.FetchMaxWait(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	account(t, broker, 1)
	seen.await(t, 2, 3, 4)
	settled(t, position, 4)
}

// TestUnhurried: events that nobody waits for are handled all the same, a few at once, and handed back when the worker stops.
func TestUnhurried(t *testing.T) {
	broker := testenv.NATS(t)
	const few, n = 4, 20
	begun, goOn := make(chan string, n), make(chan struct{})
	handler := bus.On(func(_ context.Context, e *events.Event, _ *events.Wanted) ([]*events.Event, error) {
		begun <- e.ID()
		<-goOn
		return undelivered(e), nil
	}).Unhurried().Concurrency(few)
	var sent []*events.Event
	for range n {
		e := wanted(t, soon())
		broker.Publish(t, e)
		sent = append(sent, e)
	}
	stopFirst := testenv.Start(t, broker.Bus(t, "smsdispatcher"), handler)
	for range few {
		<-begun
	}
	stopped := make(chan struct{})
	go func() { defer close(stopped); stopFirst() }()
	testenv.Start(t, broker.Bus(t, "smsdispatcher"), handler)
	for range few { // of the other
		<-begun
	}
	close(goOn)
	<-stopped
	for _, e := range sent {
		broker.Await(t, e.Login, events.StepUndelivered, 1)
	}
	if left := len(begun); left != n-2*few {
		t.Errorf("handled %d more, want each once", left)
	}
}

// TestBatchThatHangs: what gets no answer, as from a database that has gone silent, ends and comes again.
func TestBatchThatHangs(t *testing.T) {
	broker := testenv.NATS(t)
	b := broker.Bus(t, "recorder")
	b.BatchTimeout(time.Millisecond)
	account(t, broker, 1)
	seen, once := newLog(), true
	follow(t, b, func(ctx context.Context, batch []bus.Stored) error {
		if once {
			once = false
			<-ctx.Done()
			return ctx.Err()
		}
		seen.take(batch)
		return nil
	})
	seen.await(t, 1)
}
