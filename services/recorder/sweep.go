package recorder

import (
	"context"
	"errors"

	"github.com/sekisho/sekisho/services/internal/directory"
)

const (
	sweepBatch = 1000   // logins in one sweep
	purgeBatch = 10_000 // rows in one transaction
)

// sweep ends logins that are still open some time after their deadline: the last resort when gateway, timer and workers have all
// failed to. Where somebody else has come first, nothing happens.
func (r *recorder) sweep(ctx context.Context) error {
	if r.behind.Load() {
		return nil // what is not recorded yet may be the end of what looks open
	}
	logins, err := overdue(ctx, r.db, r.now().Add(-r.settings.SweepAfter))
	if err != nil {
		return err
	}
	for _, login := range logins {
		if err := r.bus.Lapse(ctx, login, "abandoned"); err != nil {
			return err
		}
		r.lapsed.Inc()
	}
	return nil
}

// purge deletes what is no longer to be kept: what other workers leave behind of attempts and sessions, and audit lines, which come last
// since they may be so many that the next purge has to go on.
func (r *recorder) purge(ctx context.Context) error {
	now := r.now()
	return errors.Join(directory.Purge(ctx, r.db, now), r.sessions.Purge(ctx, now), forget(ctx, r.db, now.Add(-r.settings.Keep)))
}
