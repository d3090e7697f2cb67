package provider

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"
)

// The tests run real HTTP over in-memory pipes inside a synctest bubble: timeouts, open breakers and
// Retry-After pass on a fake clock, exactly and at once.

type far struct {
	*Client
	registry *prometheus.Registry
	dials    atomic.Int32
	calls    atomic.Int32 // requests that arrived

	mu     sync.Mutex
	states []string // "from>to" of the breaker
}

// serve starts a provider that answers with handler, and a client of it. Only within a bubble.
func serve(t *testing.T, s Settings, handler http.HandlerFunc) *far {
	listener := pipeListener{conns: make(chan net.Conn), closed: make(chan struct{})}
	f := &far{registry: prometheus.NewRegistry()}
	f.Client = New(s, f.registry, zerolog.New(f))
	f.transport.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
		f.dials.Add(1)
		return listener.dial(ctx)
	}
	var serving sync.WaitGroup
	server := http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		serving.Add(1)
		defer serving.Done()
		f.calls.Add(1)
		handler(w, r)
	})}
	serving.Go(func() { server.Serve(listener) })
	t.Cleanup(func() {
		f.CloseIdle()
		server.Close()
		serving.Wait()
	})
	return f
}

type pipeListener struct {
	conns  chan net.Conn
	closed chan struct{}
}

func (l pipeListener) dial(ctx context.Context) (net.Conn, error) {
	near, far := net.Pipe()
	select {
	case l.conns <- far:
		return near, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (l pipeListener) Accept() (net.Conn, error) {
	select {
	case conn := <-l.conns:
		return conn, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l pipeListener) Close() error   { close(l.closed); return nil }
func (l pipeListener) Addr() net.Addr { return &net.UnixAddr{Name: "pipe"} }

func status(code int) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(code) }
}

func hang(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }

func byStatus(*Response) error { return nil }

func request(t *testing.T, target string) *http.Request {
	t.Helper()
	req, err := http.NewRequest(http.MethodGet, target, nil)
	if err != nil {
		t.Fatal(err)
	}
	return req
}

func (f *far) call(t *testing.T, ctx context.Context) error {
	t.Helper()
	return f.Do(ctx, request(t, "http://provider.test/"), byStatus)
}

// Write takes a line of the log, of which there is one for each change of the breaker.
func (f *far) Write(line []byte) (int, error) {
	var change struct{ Provider, From, To string }
	if err := json.Unmarshal(line, &change); err != nil {
		return 0, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.states = append(f.states, change.From+">"+change.To)
	return len(line), nil
}

func (f *far) breakerStates() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.states)
}

// pass lets time go by on the bubble's clock.
func pass(d time.Duration) { <-time.After(d) }

func wantClass(t *testing.T, err, class error, unsent bool) {
	t.Helper()
	if !errors.Is(err, class) {
		t.Fatalf("error is %v, want class %q", err, class)
	}
	if Unsent(err) != unsent {
		t.Fatalf("Unsent(%v) is %t", err, !unsent)
	}
	e, ok := errors.AsType[*Error](err)
	if !ok || e.Class != class {
		t.Fatalf("%v is not an *Error of class %q", err, class)
	}
}

func TestStatusClasses(t *testing.T) {
	for code, want := range map[int]error{
		200: nil, 201: nil, 204: nil,
		400: ErrRefused, 404: ErrRefused, 409: ErrRefused, 410: ErrRefused, 422: ErrRefused,
		301: ErrUnavailable, 302: ErrUnavailable, 304: ErrUnavailable,
		401: ErrUnavailable, 403: ErrUnavailable, 408: ErrUnavailable,
		500: ErrUnavailable, 502: ErrUnavailable, 503: ErrUnavailable,
		429: ErrLimited,
	} {
		t.Run(strconv.Itoa(code), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := serve(t, Settings{Name: "far", Failures: 1}, status(code))
				err := f.call(t, t.Context())
				if want == nil {
					if err != nil {
						t.Fatal(err)
					}
				} else {
					wantClass(t, err, want, false)
				}
				if opened := f.breakerStates() != nil; opened != (want == ErrUnavailable) {
					t.Fatalf("after %v the breaker went through %v", err, f.breakerStates())
				}
			})
		})
	}
}

func TestDecodeDecidesTheClass(t *testing.T) {
	for name, tc := range map[string]struct {
		status int
		decode error
		want   error
		opens  bool
	}{
		"garbage":               {200, errors.New("no such field"), ErrUnavailable, true},
		"garbage with a 4xx":    {400, errors.New("no envelope"), ErrUnavailable, true},
		"a refusal with 200":    {200, fmt.Errorf("code 7: %w", ErrRefused), ErrRefused, false},
		"an outage with a 4xx":  {400, fmt.Errorf("invalid_version: %w", ErrUnavailable), ErrUnavailable, true},
		"a refusal with a 5xx":  {500, fmt.Errorf("odd: %w", ErrRefused), ErrRefused, false},
		"nothing to add to 422": {422, nil, ErrRefused, false},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := serve(t, Settings{Name: "far", Failures: 1}, status(tc.status))
				err := f.Do(t.Context(), request(t, "http://provider.test/"), func(*Response) error { return tc.decode })
				wantClass(t, err, tc.want, false)
				if opened := f.breakerStates() != nil; opened != tc.opens {
					t.Fatalf("the breaker went through %v", f.breakerStates())
				}
			})
		})
	}
}

func TestBreakerOpensAfterExactlyNFailures(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		code := 500
		f := serve(t, Settings{Name: "far", Failures: 3, Open: 10 * time.Second},
			func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(code) })
		for _, code = range []int{500, 500, 200, 500, 500, 500} {
			f.call(t, t.Context())
			if f.calls.Load() < 6 && len(f.breakerStates()) > 0 {
				t.Fatalf("open after call %d", f.calls.Load())
			}
		}
		wantClass(t, f.call(t, t.Context()), ErrOpen, true)
		if n := f.calls.Load(); n != 6 {
			t.Fatalf("%d calls arrived, want 6", n)
		}

		// One probe; it fails and the breaker opens again.
		pass(10*time.Second + 1)
		wantClass(t, f.call(t, t.Context()), ErrUnavailable, false)
		wantClass(t, f.call(t, t.Context()), ErrOpen, true)

		// The next one succeeds and closes it.
		pass(10*time.Second + 1)
		code = 200
		for range 3 {
			if err := f.call(t, t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		want := []string{"closed>open", "open>half-open", "half-open>open", "open>half-open", "half-open>closed"}
		if got := f.breakerStates(); !slices.Equal(got, want) {
			t.Fatalf("breaker went through %v, want %v", got, want)
		}
	})
}

func TestHalfOpenLetsOneCallThrough(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		f := serve(t, Settings{Name: "far", Failures: 1, Open: time.Second}, func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/probe" {
				<-release
				return
			}
			w.WriteHeader(500)
		})
		f.call(t, t.Context())
		pass(time.Second + 1)
		probe := make(chan error)
		go func() { probe <- f.Do(t.Context(), request(t, "http://provider.test/probe"), byStatus) }()
		synctest.Wait()
		wantClass(t, f.call(t, t.Context()), ErrOpen, true)
		close(release)
		if err := <-probe; err != nil {
			t.Fatal(err)
		}
	})
}

func TestHangEndsAtTheTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := serve(t, Settings{Name: "far", Timeout: 3 * time.Second, Failures: 2}, hang)
		for range 2 {
			start := time.Now()
			wantClass(t, f.call(t, t.Context()), ErrTimeout, false)
			if took := time.Since(start); took != 3*time.Second {
				t.Fatalf("took %v", took)
			}
		}
		wantClass(t, f.call(t, t.Context()), ErrOpen, true)
	})
}

func TestSlowDripEndsAtTheTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := serve(t, Settings{Name: "far", Timeout: 5 * time.Second}, func(w http.ResponseWriter, r *http.Request) {
			for r.Context().Err() == nil {
				io.WriteString(w, " ")
				http.NewResponseController(w).Flush()
				pass(time.Second)
			}
		})
		start := time.Now()
		wantClass(t, f.call(t, t.Context()), ErrTimeout, false)
		if took := time.Since(start); took != 5*time.Second {
			t.Fatalf("took %v", took)
		}
	})
}

func TestDialThatNeverEndsIsUnsent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := serve(t, Settings{Name: "far", Timeout: time.Second}, status(200))
		f.transport.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		}
		wantClass(t, f.call(t, t.Context()), ErrTimeout, true)
	})
}

func TestAnswerIsBoundedInSize(t *testing.T) {
	for size, want := range map[int]error{1000: nil, 1001: ErrUnavailable, 1 << 20: ErrUnavailable} {
		synctest.Test(t, func(t *testing.T) {
			f := serve(t, Settings{Name: "far", MaxBody: 1000}, func(w http.ResponseWriter, r *http.Request) {
				io.WriteString(w, strings.Repeat("x", size))
			})
			err := f.Do(t.Context(), request(t, "http://provider.test/"), func(r *Response) error {
				if len(r.Body) != size {
					return fmt.Errorf("%d bytes", len(r.Body))
				}
				return nil
			})
			if !errors.Is(err, want) {
				t.Fatalf("%d bytes: %v, want %v", size, err, want)
			}
			if err != nil && !errors.Is(err, errTooLarge) {
				t.Fatalf("%d bytes came cut off: %v", size, err)
			}
		})
	}
}

func TestHeaderIsBoundedInSize(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := serve(t, Settings{Name: "far"}, func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("X-Huge", strings.Repeat("x", 2*maxHeader))
		})
		wantClass(t, f.call(t, t.Context()), ErrUnavailable, false)
	})
}

func TestRedirectIsNotFollowed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := serve(t, Settings{Name: "far"}, func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "/elsewhere", http.StatusFound)
		})
		wantClass(t, f.call(t, t.Context()), ErrUnavailable, false)
		if n := f.calls.Load(); n != 1 {
			t.Fatalf("%d requests arrived, want 1", n)
		}
	})
}

func TestConcurrencyIsLimited(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		f := serve(t, Settings{Name: "far", Timeout: 4 * time.Second, MaxConcurrent: 2},
			func(w http.ResponseWriter, r *http.Request) { <-release })
		results := make(chan error, 3)
		for range 2 {
			go func() { results <- f.call(t, t.Context()) }()
		}
		synctest.Wait()

		start := time.Now()
		wantClass(t, f.call(t, t.Context()), ErrBusy, true)
		if took := time.Since(start); took != 2*time.Second {
			t.Fatalf("waited %v for a slot, want half the timeout", took)
		}

		canceled, cancel := context.WithCancel(t.Context())
		cancel()
		wantClass(t, f.call(t, canceled), context.Canceled, true)
		if n := f.calls.Load(); n != 2 {
			t.Fatalf("%d calls at a time, want 2", n)
		}

		go func() { results <- f.call(t, t.Context()) }() // this one gets a slot in time
		synctest.Wait()
		close(release)
		for range 3 {
			if err := <-results; err != nil {
				t.Fatal(err)
			}
		}
		if n := f.dials.Load(); n != 2 {
			t.Fatalf("%d connections, want 2: the third call reuses one", n)
		}
	})
}

// Calls that queued while the breaker opened must not go out.
func TestQueuedCallsMeetTheOpenBreaker(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		f := serve(t, Settings{Name: "far", MaxConcurrent: 1, Failures: 1},
			func(w http.ResponseWriter, r *http.Request) { <-release; w.WriteHeader(500) })
		first, queued := make(chan error, 1), make(chan error, 1)
		go func() { first <- f.call(t, t.Context()) }()
		synctest.Wait()
		go func() { queued <- f.call(t, t.Context()) }()
		synctest.Wait()
		close(release)
		wantClass(t, <-first, ErrUnavailable, false)
		wantClass(t, <-queued, ErrOpen, true)
		if n := f.calls.Load(); n != 1 {
			t.Fatalf("%d calls arrived, want 1", n)
		}
	})
}

func TestPoolKeepsAConnectionPerSlot(t *testing.T) {
	const slots = 50
	synctest.Test(t, func(t *testing.T) {
		gate := make(chan struct{})
		f := serve(t, Settings{Name: "far", MaxConcurrent: slots},
			func(w http.ResponseWriter, r *http.Request) { <-gate })
		for range 2 {
			var calls sync.WaitGroup
			for range slots {
				calls.Go(func() {
					if err := f.call(t, t.Context()); err != nil {
						t.Error(err)
					}
				})
			}
			synctest.Wait() // all of them are in flight
			for range slots {
				gate <- struct{}{}
			}
			calls.Wait()
			synctest.Wait()
		}
		if n := f.dials.Load(); n != slots {
			t.Fatalf("%d connections for twice %d calls", n, slots)
		}
	})
}

func TestDefaultsCarryAThousandCallsASecond(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := serve(t, Settings{Name: "far"}, func(w http.ResponseWriter, r *http.Request) { pass(200 * time.Millisecond) })
		start := time.Now()
		var calls sync.WaitGroup
		for range 1000 {
			calls.Go(func() {
				if err := f.call(t, t.Context()); err != nil {
					t.Error(err)
				}
			})
		}
		calls.Wait()
		if took := time.Since(start); took > time.Second {
			t.Fatalf("took %v", took)
		}
	})
}

func TestRetryAfter(t *testing.T) {
	for name, tc := range map[string]struct {
		header func() string
		want   time.Duration
	}{
		"seconds":          {func() string { return "7" }, 7 * time.Second},
		"HTTP date":        {func() string { return time.Now().Add(9 * time.Second).UTC().Format(http.TimeFormat) }, 9 * time.Second},
		"date in the past": {func() string { return time.Now().Add(-time.Hour).UTC().Format(http.TimeFormat) }, 0},
		"beyond the bound": {func() string { return "86400" }, 30 * time.Second},
		"far beyond":       {func() string { return "99999999999999999999" }, defaultRetryAfter},
		"absent":           {func() string { return "" }, defaultRetryAfter},
		"negative":         {func() string { return "-3" }, defaultRetryAfter},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := serve(t, Settings{Name: "far", MaxRetryAfter: 30 * time.Second}, func(w http.ResponseWriter, r *http.Request) {
					w.Header().Set("Retry-After", tc.header())
					w.WriteHeader(http.StatusTooManyRequests)
				})
				err := f.call(t, t.Context())
				wantClass(t, err, ErrLimited, false)
				if limited, _ := errors.AsType[*Error](err); limited.RetryAfter != tc.want {
					t.Fatalf("RetryAfter is %v, want %v", limited.RetryAfter, tc.want)
				}
				if tc.want == 0 {
					return
				}

				pass(tc.want - time.Millisecond)
				err = f.call(t, t.Context())
				wantClass(t, err, ErrLimited, true)
				if limited, _ := errors.AsType[*Error](err); limited.RetryAfter != time.Millisecond {
					t.Fatalf("the rest of RetryAfter is %v, want 1ms", limited.RetryAfter)
				}
				if n := f.calls.Load(); n != 1 {
					t.Fatalf("%d calls arrived while limited", n)
				}
				pass(time.Millisecond)
				wantClass(t, f.call(t, t.Context()), ErrLimited, false)
			})
		})
	}
}

func TestCallersWhoGiveUpDoNotTripTheBreaker(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := serve(t, Settings{Name: "far", Timeout: time.Minute, Failures: 1}, hang)
		for range 3 {
			ctx, cancel := context.WithCancel(t.Context())
			time.AfterFunc(time.Second, cancel)
			wantClass(t, f.call(t, ctx), context.Canceled, false)

			ctx, cancel = context.WithTimeout(t.Context(), time.Second)
			wantClass(t, f.call(t, ctx), ErrTimeout, false)
			cancel()
		}
		ended, cancel := context.WithDeadline(t.Context(), time.Now())
		defer cancel()
		wantClass(t, f.call(t, ended), ErrTimeout, true)
		if states := f.breakerStates(); states != nil {
			t.Fatalf("the breaker went through %v", states)
		}
		wantClass(t, f.call(t, t.Context()), ErrTimeout, false)
		wantClass(t, f.call(t, t.Context()), ErrOpen, true)
	})
}

func TestPanicInDecodeFreesTheSlot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := serve(t, Settings{Name: "far", MaxConcurrent: 1}, status(200))
		func() {
			defer func() {
				if recover() == nil {
					t.Fatal("the panic was swallowed")
				}
			}()
			f.Do(t.Context(), request(t, "http://provider.test/"), func(*Response) error { panic("decode") })
		}()
		if err := f.call(t, t.Context()); err != nil {
			t.Fatal(err)
		}
	})
}

func TestMetrics(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		code := 200
		f := serve(t, Settings{Name: "far", Failures: 1}, func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(code) })
		New(Settings{Name: "other"}, f.registry, zerolog.Nop()) // shares the collectors
		for _, code = range []int{200, 422, 500, 200} {
			f.call(t, t.Context())
		}
		want := map[string]float64{
			"sekisho_provider_calls_total far ok": 1, "sekisho_provider_calls_total far refused": 1,
			"sekisho_provider_calls_total far unavailable": 1, "sekisho_provider_calls_total far open": 1,
			"sekisho_provider_calls_total other ok":   0,
			"sekisho_provider_duration_seconds far":   3,
			"sekisho_provider_duration_seconds other": 0,
			"sekisho_breaker_state far":               2,
			"sekisho_breaker_state other":             0,
		}
		got := map[string]float64{}
		families, err := f.registry.Gather()
		if err != nil {
			t.Fatal(err)
		}
		for _, family := range families {
			for _, m := range family.GetMetric() {
				name := family.GetName()
				for _, label := range slices.Backward(m.GetLabel()) { // they come sorted: outcome, provider
					name += " " + label.GetValue()
				}
				got[name] = m.GetCounter().GetValue() + m.GetGauge().GetValue() + float64(m.GetHistogram().GetSampleCount())
			}
		}
		for name, value := range want {
			if v, ok := got[name]; !ok || v != value {
				t.Errorf("%s is %v, want %v", name, v, value)
			}
		}
		if len(got) != len(want) {
			t.Errorf("got %v", got)
		}
	})
}

// A refusal of what stands before a provider is in a format of its own, so its status has to tell.
func TestNotJSON(t *testing.T) {
	var v any
	err := (&Response{Status: http.StatusUnauthorized, Body: []byte("<html>secret")}).JSON(&v)
	if err == nil || err.Error() != "answer 401 is not the JSON of this API" {
		t.Errorf("it says: %v", err)
	}
}
