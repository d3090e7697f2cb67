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

// batchRetry is how long a batch that failed waits.
const batchRetry = 2 * time.Second

// Batches hands whole streams of the table's row over in batches of at most `most` messages, waiting at most `wait` for
// a batch to fill, until ctx ends. When fn returns nil the batch is acked, else it comes again; so fn must take
// repetitions.
func (b *Bus) Batches(ctx context.Context, stream string, most int, wait time.Duration, fn func(ctx context.Context, batch []Stored) error) error {
	name := batchConsumer(b.worker, stream)
	c, err := b.js.Consumer(ctx, stream, name)
	if err != nil {
		if ctx.Err() != nil {
			return nil
		}
		return fmt.Errorf("bus: consumer %s: %w", name, err)
	}
	lag, stop := context.WithCancel(ctx)
	watching := make(chan struct{})
	go func() { defer close(watching); b.watchLag(lag, stream, c) }()
	defer func() { stop(); <-watching }()
	for ctx.Err() == nil {
		if err := b.batch(ctx, c, most, wait, fn); err != nil && ctx.Err() == nil {
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

func (b *Bus) batch(ctx context.Context, c jetstream.Consumer, most int, wait time.Duration, fn func(ctx context.Context, batch []Stored) error) error {
	// The first message may take long to come. The rest of the batch is what the stream has by then, or when `wait` is over: taken at
	// once, it costs a fraction of what each message costs that is handed over when it comes.
	first, err := c.Next(jetstream.FetchContext(ctx), jetstream.FetchHeartbeat(2*time.Second))
	if err != nil {
		if errors.Is(err, nats.ErrTimeout) || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
			return nil
		}
		return err
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
	batch := make([]Stored, 0, len(messages))
	for _, m := range messages {
		meta, err := m.Metadata()
		if err != nil {
			return err
		}
		batch = append(batch, Stored{Stream: meta.Stream, Sequence: meta.Sequence.Stream, Pending: meta.NumPending, Time: meta.Timestamp,
			Subject: m.Subject(), Header: m.Headers(), Data: m.Data()})
	}
	if err := fn(ctx, batch); err != nil {
		for _, m := range messages {
			_ = m.NakWithDelay(batchRetry) // the ack wait does the same later
		}
		return err
	}
	for _, m := range messages {
		if err := m.Ack(); err != nil {
			return err
		}
	}
	b.metrics.events.WithLabelValues(batch[0].Stream, outcomeHandled).Add(float64(len(batch)))
	return nil
}
