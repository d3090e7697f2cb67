package bus

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// A Stored is one message of a stream as it was stored.
type Stored struct {
	Stream   string
	Sequence uint64
	Pending  uint64    // messages that come after it
	Time     time.Time // the broker's timestamp
	Subject  string
	Header   nats.Header
	Data     []byte
}

// batchRetry is how long after a failure a batch is tried again.
const batchRetry = 2 * time.Second

// A follower takes one stream in batches through its durable consumer.
type follower struct {
	js           jetstream.JetStream
	stream, name string
	consumer     jetstream.Consumer
	timeout      time.Duration // of one run of fn

	// A worker that follows its streams alone settles a batch with one request: everything up to done is settled then. done is
	// known only while placed. Otherwise the broker is asked for the first message that is not settled.
	alone, placed bool
	done          uint64
}

// Batches hands whole streams of the table's row over in batches of at most `most` messages, waiting at most `wait` for
// a batch to fill, until ctx ends. When fn returns nil the batch is settled, else it comes again; so fn must tolerate
// repetitions. It has as long as a handler has: a connection that has gone silent must not hold up what comes after it.
func (b *Bus) Batches(ctx context.Context, stream string, most int, wait time.Duration, fn func(ctx context.Context, batch []Stored) error) error {
	f := &follower{js: b.js, stream: stream, name: batchConsumer(b.worker, stream), alone: alone(b.worker), timeout: b.batchTimeout}
	var err error
	if f.consumer, err = b.js.Consumer(ctx, stream, f.name); err != nil {
		if ctx.Err() != nil {
			return nil
		}
		return fmt.Errorf("bus: consumer %s: %w", f.name, err)
	}
	lag, stop := context.WithCancel(ctx)
	watching := make(chan struct{})
	go func() { defer close(watching); b.watchLag(lag, stream, f.consumer) }()
	defer func() { stop(); <-watching }()
	for ctx.Err() == nil {
		n, err := f.batch(ctx, most, wait, fn)
		b.metrics.events.WithLabelValues(stream, outcomeHandled).Add(float64(n))
		if err != nil && ctx.Err() == nil {
			b.metrics.events.WithLabelValues(stream, outcomeFailed).Inc()
			b.log.Error().Err(err).Str("step", stream).Msg("batch")
			select {
			case <-time.After(batchRetry):
			case <-ctx.Done():
			}
		}
	}
	return nil
}

// batch takes one batch and returns how many messages it has settled.
func (f *follower) batch(ctx context.Context, most int, wait time.Duration, fn func(ctx context.Context, batch []Stored) error) (int, error) {
	if f.alone && !f.placed {
		if err := f.reset(ctx, 0); err != nil {
			return 0, err
		}
	}
	messages, err := gather(ctx, f.consumer, most, wait)
	if err != nil || len(messages) == 0 {
		return 0, err
	}
	batch := make([]Stored, 0, len(messages))
	for _, m := range messages {
		meta, err := m.Metadata()
		if err != nil {
			return 0, err
		}
		batch = append(batch, Stored{Stream: meta.Stream, Sequence: meta.Sequence.Stream, Pending: meta.NumPending, Time: meta.Timestamp,
			Subject: m.Subject(), Header: m.Headers(), Data: m.Data()})
	}
	run, cancel := context.WithTimeout(ctx, f.timeout)
	err = fn(run, batch)
	cancel()
	if err != nil {
		f.placed = false
		for _, m := range messages {
			_ = m.NakWithDelay(batchRetry) // the ack wait does the same later
		}
		return 0, err
	}
	return len(batch), f.settle(ctx, messages, batch)
}

// gather waits for a message, and then for `wait`, and returns what has come by then: messages that are fetched together cost a
// fraction of what they cost one by one. It returns none when the broker had none for long, or ctx has ended.
func gather(ctx context.Context, c jetstream.Consumer, most int, wait time.Duration) ([]jetstream.Msg, error) {
	first, err := c.Next(jetstream.FetchContext(ctx), jetstream.FetchHeartbeat(2*time.Second))
	if err != nil {
		if errors.Is(err, nats.ErrTimeout) || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
			return nil, nil
		}
		return nil, err
	}
	messages := []jetstream.Msg{first}
	if meta, err := first.Metadata(); err == nil && meta.NumPending < uint64(most-1) {
		select {
		case <-time.After(wait):
		case <-ctx.Done(): // what has come is still handed over
		}
	}
	if more, err := c.FetchNoWait(most - 1); err == nil {
		for m := range more.Messages() {
			messages = append(messages, m)
		}
	}
	return messages, nil
}

// settle tells the broker that a batch is done: with one request if no message before its end can be missing, else one by one.
func (f *follower) settle(ctx context.Context, messages []jetstream.Msg, batch []Stored) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), settleWait)
	defer cancel()
	if f.placed && follows(f.done, batch) {
		return f.reset(ctx, batch[len(batch)-1].Sequence+1)
	}
	// Something between them is missing. It comes again if it was lost on its way, and never if it is gone from the stream.
	f.placed = false
	for _, m := range messages[:len(messages)-1] {
		if err := m.Ack(); err != nil {
			return err
		}
	}
	return messages[len(messages)-1].DoubleAck(ctx) // the broker knows of the others too then
}

// follows tells whether a batch is what comes next in its stream, without a gap.
func follows(done uint64, batch []Stored) bool {
	for _, m := range batch {
		if done++; m.Sequence != done {
			return false
		}
	}
	return true
}

// reset moves the consumer to a message: everything before it is settled then, and nothing is in flight. With 0 it moves to the
// first message that is not settled.
func (f *follower) reset(ctx context.Context, next uint64) error {
	at, err := f.js.ResetConsumerToSequence(ctx, f.stream, f.name, next)
	if err != nil {
		f.placed = false
		return fmt.Errorf("bus: consumer %s: reset: %w", f.name, err)
	}
	f.placed, f.done = true, at.ResetSeq-1
	return nil
}
