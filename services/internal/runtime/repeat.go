package runtime

import (
	"context"
	"time"

	"github.com/rs/zerolog"
)

// Repeat calls do every so often, when it is woken, and at once again while there may be more, until ctx ends. Errors are logged, and
// the next time tries again: nobody waits for what is done here.
func Repeat(ctx context.Context, log zerolog.Logger, every time.Duration, wake <-chan struct{}, trouble string, do func(context.Context) (more bool, err error)) error {
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		more, err := do(ctx)
		if err != nil && ctx.Err() == nil {
			log.Warn().Err(err).Msg(trouble)
		}
		if more && err == nil && ctx.Err() == nil {
			continue
		}
		select {
		case <-ctx.Done():
			return nil
		case <-wake:
		case <-tick.C:
		}
	}
}
