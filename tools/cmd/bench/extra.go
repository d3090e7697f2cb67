package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/sekisho/sekisho/events"
	"github.com/sekisho/sekisho/tools/internal/load"
	"github.com/sekisho/sekisho/tools/internal/roads"
)

// Extra is what is measured beside logins, on request.
type Extra struct {
	Check      Figures `json:"auth_check"`    // GET /auth/check of a live session
	Empty      Figures `json:"empty_handler"` // an empty net/http handler, asked by the same client
	CheckRatio float64 `json:"auth_check_ratio"`

	// Events that waited for smsdispatcher while it was away: how many a second it handles when it is back.
	Backlog    int     `json:"backlog"`
	Messages   float64 `json:"messages"`    // with a provider that takes 200 ms for each
	Lapsed     float64 `json:"lapsed"`      // of logins whose deadline has passed meanwhile
	LapsedCost float64 `json:"lapsed_cost"` // milliseconds of processor time for one of these
}

// connections are how many requests to /auth/check are under way at once.
const connections = 64

const dispatcher = "smsdispatcher-wanted" // its durable consumer

func measureExtra(ctx context.Context, o options) (*Extra, error) {
	x := &Extra{Backlog: o.backlog}
	err := kinds[0].with(ctx, o, func(s *site) error { return x.check(ctx, s) })
	if err != nil {
		return nil, fmt.Errorf("/auth/check: %w", err)
	}
	err = kinds[1].with(ctx, o, func(s *site) error {
		if err := s.SetFault(ctx, "sms", map[string]any{"mode": "slow", "delay": "200ms"}); err != nil {
			return err
		}
		if x.Messages, _, err = s.drain(ctx, 5*time.Minute); err != nil {
			return err
		}
		short := 5*time.Second + time.Duration(o.backlog)*5*time.Millisecond // enough for all of them to get as far as smsdispatcher
		x.Lapsed, x.LapsedCost, err = s.drain(ctx, short)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("smsdispatcher: %w", err)
	}
	return x, nil
}

func (x *Extra) check(ctx context.Context, s *site) (err error) {
	fmt.Fprintln(os.Stderr, "measuring /auth/check")
	tokens := make([]string, min(len(s.users), 100))
	for i := range tokens {
		var err error
		if tokens[i], err = s.web.Session(ctx, roads.Password, s.users[i]); err != nil {
			return err
		}
	}
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: connections}}
	defer client.CloseIdleConnections()
	ask := func(url string) load.Call {
		return func(ctx context.Context, n int) error { return get(ctx, client, url, tokens[n%len(tokens)]) }
	}
	empty, emptyURL, err := startSelf("-empty", nil)
	if err != nil {
		return fmt.Errorf("empty handler: %w", err)
	}
	defer func() { err = errors.Join(err, stopSelf(empty)) }()
	for _, m := range []struct {
		to  *Figures
		pid int
		url string
	}{{&x.Empty, empty.Process.Pid, emptyURL}, {&x.Check, s.PID(), s.HTTP + "/auth/check?app=" + roads.Password.App}} {
		if err := s.quiet(ctx); err != nil {
			return err
		}
		meter, err := startMeter(m.pid)
		if err != nil {
			return err
		}
		r, err := load.Saturate(ctx, connections, lead, s.phase, ask(m.url))
		if err != nil {
			return err
		}
		if *m.to, err = meter.figures(r, meter.own()); err != nil {
			return err
		}
	}
	x.CheckRatio = x.Check.Rate / x.Empty.Rate
	return nil
}

func get(ctx context.Context, client *http.Client, url, token string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	req.Header.Set("Authorization", "Bearer "+token)
	res, err := client.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if _, err := io.Copy(io.Discard, res.Body); err != nil {
		return err
	}
	if res.StatusCode != http.StatusOK {
		return fmt.Errorf("GET %s: %s", url, res.Status)
	}
	return nil
}

// drain pauses smsdispatcher, lets a backlog of logins ask for messages, and lets it go on: at once if the logins last longer than
// quietWait, else when they have expired. It returns how many of their events it handles a second, and the processor time for one.
func (s *site) drain(ctx context.Context, lasting time.Duration) (rate, cost float64, err error) {
	fmt.Fprintf(os.Stderr, "measuring smsdispatcher with a backlog of %d logins that last %s\n", s.backlog, lasting)
	ctx, cancel := context.WithTimeout(ctx, quietWait)
	defer cancel()
	js, err := jetstream.New(s.operator)
	if err != nil {
		return 0, 0, err
	}
	if _, err := js.PauseConsumer(ctx, "LOGIN", dispatcher, time.Now().Add(quietWait)); err != nil {
		return 0, 0, err
	}
	walking, walkAway := context.WithCancel(ctx)
	defer walkAway()
	var people sync.WaitGroup
	failed := make(chan error, s.backlog)
	for n := range s.backlog {
		people.Go(func() {
			_, outcome, err := s.bus.Behave(walking, roads.Code, s.users[n%len(s.users)], roads.Manner{Leave: lasting})
			if walking.Err() == nil && (err != nil || outcome != events.Expired) {
				failed <- fmt.Errorf("ended %s: %w", outcome, err)
			}
		})
	}
	err = await(ctx, js, dispatcher, waiting(s.backlog))
	if lasting > quietWait { // nobody waits so long
		walkAway()
	}
	people.Wait()
	select {
	case err := <-failed:
		return 0, 0, err
	default:
	}
	if err != nil {
		return 0, 0, err
	}
	meter, err := startMeter(s.PID())
	if err != nil {
		return 0, 0, err
	}
	start := time.Now()
	if _, err := js.ResumeConsumer(ctx, "LOGIN", dispatcher); err != nil {
		return 0, 0, err
	}
	if err := s.bus.Login(ctx, roads.Code, s.users[0]); err != nil { // a resumed consumer goes on only with the next event
		return 0, 0, err
	}
	if err := await(ctx, js, dispatcher, idle); err != nil {
		return 0, 0, err
	}
	took := time.Since(start)
	if err := s.quiet(ctx); err != nil {
		return 0, 0, err
	}
	figures, err := meter.figures(load.Result{Calls: s.backlog}, 0)
	return float64(s.backlog) / took.Seconds(), figures.CPU, err
}

// serveEmpty is the process of the empty handler, until it is told to end.
func serveEmpty() error {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	s := &http.Server{Handler: http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}), ReadHeaderTimeout: 5 * time.Second}
	context.AfterFunc(ctx, func() { s.Close() })
	fmt.Println("http://" + l.Addr().String())
	if err := s.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

func (x *Extra) print(out io.Writer) {
	fmt.Fprintf(out, "\n/auth/check: %.0f/s, %.3f ms of processor time; an empty handler %.0f/s, %.3f ms: ratio %.2f\n",
		x.Check.Rate, x.Check.CPU, x.Empty.Rate, x.Empty.CPU, x.CheckRatio)
	fmt.Fprintf(out, "smsdispatcher, back after a pause with %d events waiting: %.0f messages/s with a provider that takes 200 ms;\n"+
		"of logins past their deadline %.0f/s, %.2f ms of processor time each\n", x.Backlog, x.Messages, x.Lapsed, x.LapsedCost)
}
