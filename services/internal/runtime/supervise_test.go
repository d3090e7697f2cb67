package runtime

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/rs/zerolog"
)

func TestLoopThatFailsStartsAgainAfterAGrowingDelay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		begin := time.Now()
		var starts []time.Duration
		l := &loop{name: "loop", run: func(ctx context.Context) error {
			starts = append(starts, time.Since(begin))
			switch len(starts) {
			case 3:
				panic("third")
			case 5:
				<-time.After(steady)
			case 7:
				return nil
			}
			return errors.New("broken")
		}}
		l.supervise(t.Context(), zerolog.Nop())
		want := []time.Duration{0, firstDelay, 3 * firstDelay, 7 * firstDelay, 15 * firstDelay,
			15*firstDelay + steady + firstDelay, 15*firstDelay + steady + 3*firstDelay}
		if !slices.Equal(starts, want) {
			t.Errorf("started at %v, want %v", starts, want)
		}
	})
}

func TestFailureIsToldUntilTheLoopRunsSteadily(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		first := true
		l := &loop{name: "loop", run: func(ctx context.Context) error {
			if first {
				first = false
				panic("once")
			}
			<-ctx.Done()
			return nil
		}}
		done := make(chan struct{})
		go func() { l.supervise(ctx, zerolog.Nop()); close(done) }()
		<-time.After(firstDelay + steady - time.Millisecond)
		synctest.Wait()
		failure := l.failure.Load()
		if failure == nil || !strings.Contains(*failure, "panic: string") || strings.Contains(*failure, "once") {
			t.Error("the failure is not told, or with what may be personal")
		} else if strings.Contains(*failure, "supervise.go") {
			t.Error("the failure tells the stack, which belongs into the log")
		}
		<-time.After(2 * time.Millisecond)
		synctest.Wait()
		if l.failure.Load() != nil {
			t.Error("the failure is told although the loop runs")
		}
		cancel()
		<-done
	})
}

func TestFailureOfADatabaseThatIsAwayNamesNobody(t *testing.T) {
	_, err := pgconn.Connect(t.Context(), "postgres://recorder:secret@127.0.0.1:1/record")
	if got := said(fmt.Errorf("recorder: %w", err)); err == nil || strings.Contains(got, "record") || !strings.Contains(got, "database") {
		t.Errorf("%v is told as %q", err, got)
	}
}

func TestDelayIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		var last, longest time.Duration
		begin := time.Now()
		l := &loop{run: func(context.Context) error {
			now := time.Since(begin)
			longest, last = max(longest, now-last), now
			return errors.New("broken")
		}}
		l.supervise(ctx, zerolog.Nop())
		if longest != maxDelay {
			t.Errorf("the longest delay is %v, want %v", longest, maxDelay)
		}
	})
}
