package coalesce

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
)

// desk is a run function that tells the test of each batch and waits to be let go.
type desk struct {
	batches chan []int
	release chan error
}

func newDesk() *desk { return &desk{make(chan []int), make(chan error)} }

func (d *desk) run(ctx context.Context, in []int) ([]int, error) {
	d.batches <- slices.Clone(in)
	select {
	case err := <-d.release:
		out := make([]int, len(in))
		for i, v := range in {
			out[i] = v * 10
		}
		return out, err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func ones(v int) int { return v }

func TestCallersOfOneBatchFormTheNext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDesk()
		g := New(d.run, ones, 3)
		var wg sync.WaitGroup
		ask := func(v int) {
			wg.Go(func() {
				if got, err := g.Do(t.Context(), v); err != nil || got != v*10 {
					t.Errorf("Do(%d) = %d, %v", v, got, err)
				}
			})
			synctest.Wait() // it is in the queue, or in the batch
		}
		ask(1)
		if got := <-d.batches; !slices.Equal(got, []int{1}) {
			t.Fatalf("first batch = %v: the first caller must not wait for others", got)
		}
		for v := 2; v <= 5; v++ {
			ask(v)
		}
		d.release <- nil
		if got := <-d.batches; !slices.Equal(got, []int{2, 3, 4}) {
			t.Fatalf("second batch = %v", got)
		}
		d.release <- nil
		if got := <-d.batches; !slices.Equal(got, []int{5}) {
			t.Fatalf("third batch = %v", got)
		}
		d.release <- nil
		wg.Wait()
		g.Close()
		if _, err := g.Do(t.Context(), 6); !errors.Is(err, ErrClosed) {
			t.Errorf("Do after Close = %v", err)
		}
	})
}

// While many come, a batch waits a moment for more, or until it is full; with a few, none waits.
func TestCrowd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDesk()
		g := New(d.run, ones, 5)
		var wg sync.WaitGroup
		start, v := time.Now(), 0
		ask := func(n int) {
			for range n {
				v++
				wg.Go(func() { g.Do(t.Context(), v) })
				synctest.Wait()
			}
		}
		expect := func(size int, waited time.Duration) {
			t.Helper()
			if got := <-d.batches; len(got) != size || time.Since(start) != waited {
				t.Fatalf("a batch of %d after %v, want %d after %v", len(got), time.Since(start), size, waited)
			}
		}
		next := func() { d.release <- nil; synctest.Wait(); start = time.Now() }
		ask(1)
		expect(1, 0)
		ask(crowd - 1)
		next()
		expect(crowd-1, 0) // a few
		ask(crowd)
		next()
		ask(1)
		expect(crowd+1, moment)
		ask(crowd)
		next()
		ask(5 - crowd)
		expect(5, 0) // full before the moment is over
		ask(5)
		next()
		expect(5, 0) // full from the start
		ask(crowd)
		next()
		expect(crowd, moment) // what was full was another batch
		next()
		wg.Wait()
		g.Close()
	})
}

// Small batches run side by side, up to a number; where there is a crowd one runs at a time.
func TestBeside(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDesk()
		g := New(d.run, ones, 10).Beside(2)
		var wg sync.WaitGroup
		v := 0
		ask := func(n int) {
			for range n {
				v++
				wg.Go(func() { g.Do(t.Context(), v) })
				synctest.Wait()
			}
		}
		expect := func(size int) {
			t.Helper()
			if got := <-d.batches; len(got) != size {
				t.Fatalf("a batch of %d, want %d", len(got), size)
			}
		}
		none := func() {
			t.Helper()
			synctest.Wait()
			select {
			case got := <-d.batches:
				t.Fatalf("a batch of %d at the same time", len(got))
			default:
			}
		}
		ask(1)
		expect(1)
		ask(1)
		expect(1) // beside the first
		ask(crowd)
		none()
		d.release <- nil
		ask(1)
		expect(crowd + 1) // after a moment, in which nobody begins another
		ask(1)
		none()
		d.release <- nil // of the other small one, which leaves what has come to the crowd
		none()
		d.release <- nil
		expect(1)
		ask(1)
		expect(1) // beside again
		d.release <- nil
		d.release <- nil
		wg.Wait()
		g.Close()
	})
}

func TestLinger(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const linger = 10 * time.Millisecond
		type batch struct {
			size int
			at   time.Duration
		}
		var batches []batch
		start := time.Now()
		g := New(func(_ context.Context, in []int) ([]int, error) {
			batches = append(batches, batch{len(in), time.Since(start)})
			return in, nil
		}, ones, 3).Linger(linger)
		var wg sync.WaitGroup
		ask := func(n int) {
			for v := range n {
				wg.Go(func() { g.Do(t.Context(), v) })
			}
		}
		ask(1)
		<-time.After(linger / 2) // of the bubble's clock
		g.Do(t.Context(), 9)     // comes into the batch that lingers already
		ask(3)                   // full, with nothing to wait for
		wg.Wait()
		ask(1) // lingers anew
		wg.Wait()
		g.Close()
		if want := []batch{{2, linger}, {3, linger}, {1, 2 * linger}}; !slices.Equal(batches, want) {
			t.Errorf("batches = %v, want %v", batches, want)
		}
	})
}

func TestSameKeyWaitsForALaterBatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDesk()
		g := New(d.run, func(v int) int { return v % 10 }, 10)
		defer g.Close()
		var wg sync.WaitGroup
		for _, v := range []int{1, 2, 12, 3, 22} {
			wg.Go(func() { g.Do(t.Context(), v) })
			synctest.Wait()
		}
		for _, want := range [][]int{{1}, {2, 3}, {12}, {22}} {
			if got := <-d.batches; !slices.Equal(got, want) {
				t.Fatalf("batch = %v, want %v", got, want)
			}
			d.release <- nil
		}
		wg.Wait()
	})
}

func TestLeavingDoesNotHurtOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDesk()
		g := New(d.run, ones, 10)
		defer g.Close()
		impatient, leave := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		do := func(ctx context.Context, v int, want error) {
			wg.Go(func() {
				if _, err := g.Do(ctx, v); !errors.Is(err, want) {
					t.Errorf("Do(%d) = %v, want %v", v, err, want)
				}
			})
			synctest.Wait()
		}
		do(t.Context(), 1, nil)
		<-d.batches
		do(impatient, 2, context.Canceled) // leaves out of a running batch
		do(t.Context(), 3, nil)
		d.release <- nil
		<-d.batches
		do(impatient, 4, context.Canceled) // leaves the queue
		do(t.Context(), 5, nil)
		leave()
		synctest.Wait()
		d.release <- nil
		if got := <-d.batches; !slices.Equal(got, []int{5}) {
			t.Errorf("batch after one left the queue = %v", got)
		}
		d.release <- nil
		wg.Wait()
	})
}

func TestBatchThatNobodyWaitsForIsCanceled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDesk()
		g := New(d.run, ones, 10)
		ctx, leave := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() { g.Do(ctx, 1) })
		<-d.batches
		leave()
		wg.Wait()
		g.Close() // returns only if the batch has ended, and nobody released it
	})
}

func TestFailures(t *testing.T) {
	broken := errors.New("broken")
	for name, tt := range map[string]struct {
		run  func(context.Context, []int) ([]int, error)
		want string
	}{
		"error":       {func(context.Context, []int) ([]int, error) { return nil, broken }, "broken"},
		"panic":       {func(context.Context, []int) ([]int, error) { panic("boom") }, "panicked: string"},
		"too few":     {func(context.Context, []int) ([]int, error) { return nil, nil }, "0 outputs for 1 inputs"},
		"error again": {func(context.Context, []int) ([]int, error) { return []int{1}, broken }, "broken"},
	} {
		t.Run(name, func(t *testing.T) {
			g := New(tt.run, ones, 10)
			defer g.Close()
			for range 2 { // the group lives on
				if out, err := g.Do(t.Context(), 1); err == nil || !strings.Contains(err.Error(), tt.want) || out != 0 {
					t.Fatalf("Do = %d, %v, want an error with %q", out, err, tt.want)
				}
			}
		})
	}
}

// A value that the database refuses fails its own caller, and nobody who shares its statement.
func TestOneBadValue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var batches [][]int
		g := New(func(_ context.Context, in []int) ([]int, error) {
			batches = append(batches, slices.Clone(in))
			if slices.Contains(in, 2) {
				return nil, fmt.Errorf("statement: %w", &pgconn.PgError{Code: "22021"})
			}
			return in, nil
		}, func(n int) int { return n }, 10).Linger(time.Second)
		var callers sync.WaitGroup
		for n := range 5 {
			callers.Go(func() {
				got, err := g.Do(t.Context(), n)
				if _, refused := errors.AsType[*pgconn.PgError](err); refused != (n == 2) || err == nil && got != n {
					t.Errorf("%d: %d, %v", n, got, err)
				}
			})
		}
		callers.Wait()
		if len(batches) != 6 || len(batches[0]) != 5 {
			t.Errorf("batches %v, want one of five and five of one", batches)
		}
		g.Close()
	})
}

// A batch that gets no answer ends, though its caller would wait for ever, and those who come later get theirs.
func TestBatchThatHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDesk()
		g := New(d.run, ones, 10)
		defer g.Close()
		begin := time.Now()
		var wg sync.WaitGroup
		wg.Go(func() {
			if _, err := g.Do(t.Context(), 1); !errors.Is(err, context.DeadlineExceeded) || time.Since(begin) != timeout {
				t.Errorf("Do = %v after %v", err, time.Since(begin))
			}
		})
		<-d.batches
		wg.Go(func() {
			if out, err := g.Do(t.Context(), 2); err != nil || out != 20 {
				t.Errorf("the next: %d, %v", out, err)
			}
		})
		<-d.batches
		d.release <- nil
		wg.Wait()
	})
}
