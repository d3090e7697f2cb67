package load

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// served takes 10 ms for each call.
func served(context.Context, int) error { <-time.After(10 * time.Millisecond); return nil }

// timed sleeps by the bubble's clock.
func timed(d time.Duration) { <-time.After(d) }

func TestSaturate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var inFlight, most atomic.Int64
		r, err := Saturate(t.Context(), 7, time.Second, 2*time.Second, func(ctx context.Context, n int) error {
			most.Store(max(most.Load(), inFlight.Add(1)))
			defer inFlight.Add(-1)
			return served(ctx, n)
		})
		if err != nil || most.Load() != 7 || r.Calls < 2090 || r.Calls > 2110 || r.Rate < 690 || r.Rate > 710 {
			t.Errorf("%d calls, %.0f a second, %d in flight, %v", r.Calls, r.Rate, most.Load(), err)
		}
		if r.Quantile(0.5) != 10*time.Millisecond || r.Quantile(0.99) != 10*time.Millisecond {
			t.Errorf("p50 %v, p99 %v", r.Quantile(0.5), r.Quantile(0.99))
		}
	})
}

func TestFlood(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, err := Flood(t.Context(), 7, 100, served)
		if err != nil || r.Calls != 100 {
			t.Errorf("%d calls, %v", r.Calls, err)
		}
	})
}

// One call that hangs does not hold the others up, and its time counts.
func TestPace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, err := pace(t.Context(), 100, time.Second, timed, func(ctx context.Context, n int) error {
			if n == 10 {
				<-time.After(3 * time.Second)
			}
			return served(ctx, n)
		})
		if err != nil || r.Calls != 100 {
			t.Errorf("%d calls, %v", r.Calls, err)
		}
		if r.Quantile(0.5) != 10*time.Millisecond || r.Quantile(1) != 3010*time.Millisecond {
			t.Errorf("p50 %v, longest %v", r.Quantile(0.5), r.Quantile(1))
		}
	})
}

func TestAnErrorEndsTheRun(t *testing.T) {
	broken := errors.New("broken")
	fail := func(_ context.Context, n int) error {
		if n == 5 {
			return broken
		}
		return nil
	}
	synctest.Test(t, func(t *testing.T) {
		if _, err := Saturate(t.Context(), 3, time.Hour, time.Hour, fail); !errors.Is(err, broken) {
			t.Errorf("saturated: %v", err)
		}
		if _, err := pace(t.Context(), 1000, time.Hour, timed, fail); !errors.Is(err, broken) {
			t.Errorf("paced: %v", err)
		}
		if _, err := Flood(t.Context(), 3, 1000, fail); !errors.Is(err, broken) {
			t.Errorf("flooded: %v", err)
		}
	})
}
