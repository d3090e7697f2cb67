package bus

import (
	"context"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// UntilTheStop holds each message back until the worker is told to stop. come is called when it has come.
func (h Handler) UntilTheStop(come func()) Handler {
	deliver := h.deliver
	h.deliver = func(b *Bus, ctx context.Context, c jetstream.Consumer, most int, take func(jetstream.Msg), trouble func(error)) error {
		return deliver(b, ctx, c, most, func(msg jetstream.Msg) {
			come()
			<-ctx.Done()
			take(msg)
		}, trouble)
	}
	return h
}

// BatchTimeout sets how long one batch may take.
func (b *Bus) BatchTimeout(d time.Duration) { b.batchTimeout = d }
