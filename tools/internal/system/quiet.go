package system

import (
	"context"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// AwaitQuiet waits until every worker has handled everything that is in the streams; nc is a connection of viewer or operator.
// What sits in a consumer that is paused, or waits for a delayed retry, counts as not handled.
func AwaitQuiet(ctx context.Context, nc *nats.Conn) error {
	js, err := jetstream.New(nc)
	if err != nil {
		return err
	}
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		waiting, err := backlog(ctx, js)
		if err != nil {
			return err
		}
		if waiting == 0 {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%d events are still to be handled: %w", waiting, ctx.Err())
		case <-tick.C:
		}
	}
}

// backlog counts what is not delivered, or delivered and not acked, over all consumers; ARCHIVE's own lag is in it too, since
// a source works through what LOGIN has.
func backlog(ctx context.Context, js jetstream.JetStream) (uint64, error) {
	var waiting uint64
	for _, name := range []string{"LOGIN", "TIMER", "ARCHIVE"} {
		stream, err := js.Stream(ctx, name)
		if err != nil {
			return 0, fmt.Errorf("stream %s: %w", name, err)
		}
		for _, source := range stream.CachedInfo().Sources {
			waiting += source.Lag
		}
		consumers := stream.ListConsumers(ctx)
		for info := range consumers.Info() {
			waiting += info.NumPending + uint64(info.NumAckPending)
		}
		if err := consumers.Err(); err != nil {
			return 0, fmt.Errorf("consumers of %s: %w", name, err)
		}
	}
	return waiting, nil
}
