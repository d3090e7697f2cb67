package bus

import (
	"context"
	"fmt"
)

// Provisioned fails when a consumer that [Bus.Run] needs for the handlers is not there. A worker that starts before
// `sekisho setup` has run asks until it is.
func (b *Bus) Provisioned(ctx context.Context, handlers ...Handler) error {
	ask := func(stream, what string) error {
		name := consumerName(b.worker, what)
		if _, err := b.js.Consumer(ctx, stream, name); err != nil {
			return fmt.Errorf("bus: consumer %s: %w", name, err)
		}
		return nil
	}
	for _, h := range handlers {
		stream := streamLogin
		if h.timer != nil {
			stream = streamTimer
		}
		if err := ask(stream, h.name()); err != nil {
			return err
		}
	}
	if len(handlers) == 0 {
		return nil
	}
	return ask(streamRedo, "redo")
}
