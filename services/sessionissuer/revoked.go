package sessionissuer

import (
	"context"
	"strings"
	"time"

	"github.com/sekisho/sekisho/events"
	"github.com/sekisho/sekisho/services/internal/bus"
)

const (
	revokedBatch = 100
	revokedWait  = 50 * time.Millisecond // for a batch to fill: how far the record is behind
)

// follow ends in the record what was ended on the bus, until ctx ends. Whoever has the database writes the row first, and finds
// nothing left to do here. A gateway without it, at a log-out, has the bus alone.
func (w *worker) follow(ctx context.Context) error {
	return w.bus.Batches(ctx, bus.StreamSession, revokedBatch, revokedWait, w.end)
}

func (w *worker) end(ctx context.Context, revoked []bus.Stored) error {
	for _, m := range revoked {
		login, err := events.ParseLogin(strings.ReplaceAll(strings.TrimPrefix(m.Subject, "session.revoked."), ".", "/"))
		if err != nil {
			continue // no session has that name
		}
		if _, err := w.sessions.Revoke(ctx, login, "gateway"); err != nil {
			return err
		}
	}
	return nil
}
