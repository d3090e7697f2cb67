package runtime

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/rs/zerolog"
)

const (
	firstDelay = 250 * time.Millisecond // before a loop that failed is started again; doubled each time
	maxDelay   = 30 * time.Second
	steady     = 5 * time.Second // a loop that has run for so long counts as running, and its next delay is the first again
)

// A loop is a part of a worker that runs until the end, and is started again when it fails.
type loop struct {
	name string
	run  func(ctx context.Context) error
	// failure is what the loop last failed with, until it has run steadily again.
	failure atomic.Pointer[string]
}

// supervise returns when ctx has ended and the loop with it, or when the loop has done all it had to.
func (l *loop) supervise(ctx context.Context, log zerolog.Logger) {
	for delay := firstDelay; ; delay = min(2*delay, maxDelay) {
		started := time.Now()
		recovered := time.AfterFunc(steady, func() { l.failure.Store(nil) })
		err := l.once(ctx, log)
		recovered.Stop()
		if err == nil || ctx.Err() != nil {
			return
		}
		text := said(err)
		l.failure.Store(&text)
		if time.Since(started) >= steady {
			delay = firstDelay
		}
		log.Error().Err(err).Str("loop", l.name).Dur("delay", delay).Msg("failed, starts again")
		select {
		case <-ctx.Done():
			return
		case <-time.After(delay):
		}
	}
}

// said is an error's text for operators. That of a database that can not be reached is not told: it names hosts and roles.
func said(err error) string {
	if _, away := errors.AsType[*pgconn.ConnectError](err); away {
		return "the database can not be reached"
	}
	return err.Error()
}

func (l *loop) once(ctx context.Context, log zerolog.Logger) (err error) {
	defer func() {
		if r := recover(); r != nil {
			log.Error().Str("loop", l.name).Bytes("stack", debug.Stack()).Msg("panicked")
			err = fmt.Errorf("panic: %T", r) // its value may be personal
		}
	}()
	return l.run(ctx)
}
