// Package load calls something many times and keeps how long each call took: as often as it can be done with a fixed number in
// flight, or at a fixed rate whatever happens.
package load

import (
	"context"
	"math"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// A Result is what a run of calls took.
type Result struct {
	Calls int     // all that ended
	Rate  float64 // calls per second that ended while the run was in full swing
	took  []time.Duration
}

// Quantile is the time within which the share q of the calls ended, by the nearest-rank method; 0 without calls. Like Rate it is of the
// calls that ended while the run was in full swing.
func (r Result) Quantile(q float64) time.Duration {
	if len(r.took) == 0 {
		return 0
	}
	rank := int(math.Ceil(q * float64(len(r.took))))
	return r.took[max(rank-1, 0)]
}

// A Call is what is measured; n counts the calls of a run.
type Call func(ctx context.Context, n int) error

// A recorder collects the calls of many goroutines, and the first error.
type recorder struct {
	start  time.Time
	ctx    context.Context // of the calls; ends with the first error
	stop   context.CancelFunc
	mu     sync.Mutex
	calls  []ended
	failed error
}

func newRecorder(ctx context.Context) *recorder {
	ctx, stop := context.WithCancel(ctx)
	return &recorder{start: time.Now(), ctx: ctx, stop: stop}
}

type ended struct{ at, took time.Duration } // at: since the start of the run

func (r *recorder) record(began time.Time, err error) {
	now := time.Now()
	r.mu.Lock()
	defer r.mu.Unlock()
	if err == nil {
		r.calls = append(r.calls, ended{now.Sub(r.start), now.Sub(began)})
	} else if r.failed == nil { // the others are cut short
		r.failed = err
		r.stop()
	}
}

// result looks at what ended between two instants of the run.
func (r *recorder) result(from, to time.Duration) (Result, error) {
	result := Result{Calls: len(r.calls)}
	for _, c := range r.calls {
		if c.at > from && c.at <= to {
			result.took = append(result.took, c.took)
		}
	}
	slices.Sort(result.took)
	result.Rate = float64(len(result.took)) / (to - from).Seconds()
	return result, r.failed
}

// Saturate keeps inFlight calls under way and returns when the last has ended. The run is in full swing after the lead, since the first
// calls all begin at once and come back as a wave. The first error ends the run.
func Saturate(ctx context.Context, inFlight int, lead, lasting time.Duration, call Call) (Result, error) {
	over, stopBeginning := context.WithTimeout(ctx, lead+lasting)
	defer stopBeginning()
	r := newRecorder(ctx)
	r.flood(over, inFlight, -1, call)
	return r.result(lead, lead+lasting)
}

// Flood makes a number of calls, inFlight of them at once, and returns when the last has ended.
func Flood(ctx context.Context, inFlight, calls int, call Call) (Result, error) {
	r := newRecorder(ctx)
	r.flood(ctx, inFlight, calls, call)
	return r.result(0, time.Since(r.start))
}

// flood makes calls until over ends; -1 is any number of them.
func (r *recorder) flood(over context.Context, inFlight, calls int, call Call) {
	defer r.stop()
	var begun atomic.Int64
	var running sync.WaitGroup
	for range inFlight {
		running.Go(func() {
			for over.Err() == nil && r.ctx.Err() == nil {
				n := int(begun.Add(1)) - 1
				if calls >= 0 && n >= calls {
					return
				}
				r.record(time.Now(), call(r.ctx, n))
			}
		})
	}
	running.Wait()
}

// Pace begins rate calls a second, evenly, for a time, and returns when all have ended. A call's time counts from when it was due, so a
// delay in this process or the callee is in it.
func Pace(ctx context.Context, rate float64, lasting time.Duration, call Call) (Result, error) {
	return pace(ctx, rate, lasting, nanosleep, call)
}

// nanosleep is more precise than Go's timers, which in a process that waits for nothing else may be a millisecond late: epoll's clock is
// no finer.
func nanosleep(d time.Duration) {
	rest := syscall.NsecToTimespec(int64(d))
	_ = syscall.Nanosleep(&rest, nil) // a signal cuts it short, and the caller looks at the clock
}

func pace(ctx context.Context, rate float64, lasting time.Duration, sleep func(time.Duration), call Call) (Result, error) {
	r := newRecorder(ctx)
	defer r.stop()
	interval := time.Duration(float64(time.Second) / rate)
	var running sync.WaitGroup
	for n := 0; r.ctx.Err() == nil && time.Duration(n)*interval < lasting; n++ {
		due := r.start.Add(time.Duration(n) * interval)
		for rest := time.Until(due); rest > 0 && r.ctx.Err() == nil; rest = time.Until(due) {
			sleep(min(rest, time.Second)) // so that the end of the run need not wait for the next call
		}
		running.Go(func() { r.record(due, call(r.ctx, n)) })
	}
	running.Wait()
	return r.result(0, time.Since(r.start))
}
