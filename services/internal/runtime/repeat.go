package runtime

import (
	"context"
	"time"

	"github.com/rs/zerolog"
)

// sameTrouble is how long a trouble that goes on is not logged again, as when the bus is away for an hour.
const sameTrouble = time.Minute

// longestRun bounds one run, for a connection that has gone silent never answers: pgx closes one whose context ends, and the next run
// gets another. Most take less than a second, but a purge deletes all that is due in one statement, and would begin anew each time if
// it were stopped.
const longestRun = 2 * time.Minute

// Repeat calls do every so often, when it is woken, and at once again while there may be more, until ctx ends. Errors are logged, and
// the next time tries again: nobody waits for what is done here. A run has [longestRun].
func Repeat(ctx context.Context, log zerolog.Logger, every time.Duration, wake <-chan struct{}, trouble string, do func(context.Context) (more bool, err error)) error {
	tick := time.NewTicker(every)
	defer tick.Stop()
	var said string
	var saidAt time.Time
	for {
		run, cancel := context.WithTimeout(ctx, longestRun)
		more, err := do(run)
		cancel()
		switch {
		case err == nil:
			said = ""
		case ctx.Err() == nil && (err.Error() != said || time.Since(saidAt) >= sameTrouble):
			log.Warn().Err(err).Msg(trouble)
			said, saidAt = err.Error(), time.Now()
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
