package bus_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/rs/zerolog"

	"github.com/sekisho/sekisho/events"
	"github.com/sekisho/sekisho/services/internal/bus"
	"github.com/sekisho/sekisho/services/internal/testenv"
)

// wanted is an event that smsdispatcher consumes.
func wanted(t *testing.T, deadline time.Time) *events.Event {
	t.Helper()
	login, err := events.NewLogin("web")
	if err != nil {
		t.Fatal(err)
	}
	e := events.New(login, 1, &events.Wanted{Factor: events.SMS, App: "demo", User: "u1", Deadline: deadline,
		Decision: events.Decision{Policy: "p", After: "x", Facts: events.Facts{Now: time.Now()}}})
	e.By, e.Time, e.Expires = "sessionissuer", time.Now(), deadline
	e.Trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
	return e
}

func soon() time.Time { return time.Now().Add(5 * time.Minute) }

func undelivered(e *events.Event) []*events.Event {
	return []*events.Event{events.New(e.Login, e.N, &events.Undelivered{Factor: events.SMS, Reason: events.UndeliveredDown})}
}

// dead waits for the dead letter of an event.
func dead(t *testing.T, broker *testenv.Broker, worker, subject string) *jetstream.RawStreamMsg {
	t.Helper()
	js, err := jetstream.New(broker.Dial(t, bus.UserSetup))
	if err != nil {
		t.Fatal(err)
	}
	stream, err := js.Stream(t.Context(), "DEAD")
	if err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(20 * time.Second); ; {
		msg, err := stream.GetLastMsgForSubject(t.Context(), "dead."+worker+"."+subject)
		if err == nil {
			return msg
		}
		if time.Now().After(deadline) {
			t.Fatalf("no dead letter of %s: %v", subject, err)
		}
	}
}

// An event in, events out: the runtime says who, why and until when, and carries the trace on.
func TestHandlerPublishes(t *testing.T) {
	broker := testenv.NATS(t)
	b := broker.Bus(t, "smsdispatcher")
	testenv.Start(t, b, bus.On(func(_ context.Context, e *events.Event, _ *events.Wanted) ([]*events.Event, error) {
		return undelivered(e), nil
	}))
	in := wanted(t, soon())
	broker.Publish(t, in)
	out := broker.Await(t, in.Login, events.StepUndelivered, 1)
	if out.By != "smsdispatcher" || out.Cause != in.ID() || out.Trace != in.Trace || !out.Expires.Equal(in.Expires) {
		t.Errorf("published %+v", out)
	}
}

// What a handler's error says is what happens to the event.
func TestVerbs(t *testing.T) {
	broker := testenv.NATS(t)
	fail := errors.New("no database")
	for name, c := range map[string]struct {
		first   error // of the first delivery; later ones succeed
		panics  bool
		outcome string
	}{
		"retry after":     {first: bus.RetryAfter(time.Millisecond, nil), outcome: "retried"},
		"any other error": {first: fail, outcome: "failed"},
		"panic":           {panics: true, outcome: "failed"},
	} {
		t.Run(name, func(t *testing.T) {
			var runs atomic.Int32
			reg := prometheus.NewRegistry()
			b := broker.Bus(t, "smsdispatcher", func(cfg *bus.Config) { cfg.Metrics = reg })
			stop := testenv.Start(t, b, bus.On(func(_ context.Context, e *events.Event, _ *events.Wanted) ([]*events.Event, error) {
				if runs.Add(1) == 1 {
					if c.panics {
						panic("first")
					}
					return undelivered(e), c.first
				}
				return undelivered(e), nil
			}))
			in := wanted(t, soon())
			broker.Publish(t, in)
			broker.Await(t, in.Login, events.StepUndelivered, 1)
			stop()
			if runs.Load() != 2 {
				t.Errorf("handled %d times, want 2", runs.Load())
			}
			// What may go wrong is there before it does: nobody sees the increase of a counter that begins at 1.
			count := map[string]int{"dead": 0, "failed": 0, "handled": 1}
			count[c.outcome] = 1
			want := "# HELP sekisho_events_total Deliveries of events by step and outcome: handled, retried (asked for by the handler), failed, dead, late, stopped.\n" +
				"# TYPE sekisho_events_total counter\nsekisho_events_total{outcome=\"dead\",step=\"redo\"} 0\nsekisho_events_total{outcome=\"failed\",step=\"redo\"} 0\n"
			for _, outcome := range slices.Sorted(maps.Keys(count)) {
				want += fmt.Sprintf("sekisho_events_total{outcome=%q,step=\"wanted\"} %d\n", outcome, count[outcome])
			}
			if err := testutil.GatherAndCompare(reg, strings.NewReader(want), "sekisho_events_total"); err != nil {
				t.Error(err)
			}
		})
	}
}

// Poison goes to DEAD with the reason, without the headers that give orders to the broker, and the consumer lives on.
func TestDeadLetters(t *testing.T) {
	broker := testenv.NATS(t)
	b := broker.Bus(t, "smsdispatcher")
	testenv.Start(t, b, bus.On(func(_ context.Context, e *events.Event, d *events.Wanted) ([]*events.Event, error) {
		if d.App == "poison" {
			return nil, bus.Permanent(errors.New("poisoned\nby test"))
		}
		return undelivered(e), nil
	}))
	admin := broker.Dial(t, bus.UserSetup)
	for name, c := range map[string]struct {
		change func(*nats.Msg)
		says   string
	}{
		"not a CloudEvent":  {func(m *nats.Msg) { m.Header = nats.Header{"X": {"y"}} }, "not a CloudEvent"},
		"unknown version":   {func(m *nats.Msg) { m.Header.Set("ce-type", "sekisho.login.wanted.v9") }, "wanted.v9"},
		"schema violation":  {func(m *nats.Msg) { m.Data = []byte(`{}`) }, "factor"},
		"other login":       {func(m *nats.Msg) { m.Header.Set("ce-subject", "web/0199a4c1-7d3e-7bbb-8a52-1f0e5d3c2b1a") }, "subject"},
		"handler says so":   {func(m *nats.Msg) { m.Data = bytes.Replace(m.Data, []byte(`"demo"`), []byte(`"poison"`), 1) }, "poisoned by test"},
		"orders for broker": {func(m *nats.Msg) { m.Header.Set("Nats-Expected-Stream", "LOGIN"); m.Data = nil }, "not JSON"},
	} {
		t.Run(name, func(t *testing.T) {
			msg, err := wanted(t, soon()).Message()
			if err != nil {
				t.Fatal(err)
			}
			c.change(msg)
			if reply, err := admin.RequestMsg(msg, 10*time.Second); err != nil || strings.Contains(string(reply.Data), "error") {
				t.Fatal("publish:", err)
			}
			letter := dead(t, broker, "smsdispatcher", msg.Subject)
			if got := letter.Header.Get(bus.DeadReason); !strings.Contains(got, c.says) {
				t.Errorf("reason %q, want %q", got, c.says)
			}
			if letter.Header.Get(bus.DeadSubject) != msg.Subject || letter.Header.Get(bus.DeadStream) != "LOGIN" || letter.Header.Get(bus.DeadDeliveries) != "1" {
				t.Errorf("headers %v", letter.Header)
			}
			if !bytes.Equal(letter.Data, msg.Data) || letter.Header.Get("Nats-Expected-Stream") != "" {
				t.Errorf("copied %q with %v", letter.Data, letter.Header)
			}
		})
	}
	in := wanted(t, soon())
	broker.Publish(t, in)
	broker.Await(t, in.Login, events.StepUndelivered, 1)
}

// Nothing can follow from a request that nobody can read, so its login ends at once. With an answer it is not so.
func TestUnreadableRequestEndsItsLogin(t *testing.T) {
	broker := testenv.NATS(t)
	gateway := broker.Dial(t, "web")
	testenv.Start(t, broker.Bus(t, "identityverifier"), bus.On(func(context.Context, *events.Event, *events.Requested) ([]*events.Event, error) { return nil, nil }))
	testenv.Start(t, broker.Bus(t, "otpvalidator"), bus.On(func(context.Context, *events.Event, *events.Answered) ([]*events.Event, error) { return nil, nil }))
	answered, requested := testenv.NewLogin(t, "web"), testenv.NewLogin(t, "web")
	for worker, subject := range map[string]string{"otpvalidator": answered.Subject(events.StepAnswered, 1), "identityverifier": requested.Subject(events.StepRequested, 0)} {
		if _, err := gateway.Request(subject, []byte("hello"), 10*time.Second); err != nil {
			t.Fatal(err)
		}
		dead(t, broker, worker, subject)
	}
	if lapsed := broker.Await(t, requested, events.StepLapsed, 0); lapsed.By != "identityverifier" || lapsed.Data.(*events.Lapsed).Reason != "dead_letter" {
		t.Errorf("%+v says %+v", lapsed, lapsed.Data)
	} else if history, err := broker.Bus(t, "sessionissuer").History(t.Context(), lapsed); err != nil || len(history) != 1 {
		t.Errorf("what is left of the login: %v, %v", history, err) // sessionissuer closes it by that
	}
	position := consumer(t, broker, "LOGIN", "otpvalidator-answered")
	for info, err := position.Info(t.Context()); err != nil || info.NumAckPending > 0; info, err = position.Info(t.Context()) { // until it is settled
		if err != nil {
			t.Fatal(err)
		}
	}
	if e, err := broker.Bus(t, bus.UserViewer).Event(t.Context(), answered, events.StepLapsed, 0); !errors.Is(err, bus.ErrNotFound) {
		t.Errorf("an answer that can not be read ended its login: %+v, %v", e, err)
	}
}

// A history that never becomes whole is given up after many tries, and its event is delivered no more.
func TestStaleForEver(t *testing.T) {
	broker := testenv.NATS(t)
	b := broker.Bus(t, "smsdispatcher")
	stop := testenv.Start(t, b, bus.On(func(context.Context, *events.Event, *events.Wanted) ([]*events.Event, error) {
		return nil, bus.RetryAfter(time.Nanosecond, bus.ErrStale)
	}))
	in := wanted(t, soon())
	broker.Publish(t, in)
	if letter := dead(t, broker, "smsdispatcher", in.Subject()); !strings.Contains(letter.Header.Get(bus.DeadReason), bus.ErrStale.Error()) {
		t.Errorf("reason %q", letter.Header.Get(bus.DeadReason))
	}
	stop()
	position := consumer(t, broker, "LOGIN", "smsdispatcher-wanted")
	for deadline := time.Now().Add(20 * time.Second); ; {
		info, err := position.Info(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if info.NumAckPending == 0 {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal("its event is delivered again and again")
		}
	}
}

// A handler that always panics is given up after five deliveries, and the login ends.
func TestPanicEndsLogin(t *testing.T) {
	broker := testenv.NATS(t)
	b := broker.Bus(t, "smsdispatcher")
	var runs atomic.Int32
	testenv.Start(t, b, bus.On(func(context.Context, *events.Event, *events.Wanted) ([]*events.Event, error) {
		runs.Add(1)
		panic("always")
	}))
	in := wanted(t, soon())
	broker.Publish(t, in)
	lapsed := broker.Await(t, in.Login, events.StepLapsed, 0)
	if lapsed.Data.(*events.Lapsed).Reason == "" || runs.Load() != 5 {
		t.Errorf("lapsed %+v after %d deliveries", lapsed.Data, runs.Load())
	}
	dead(t, broker, "smsdispatcher", in.Subject())
}

// Past the deadline no work is done; the login is told that it lapsed.
func TestDeadline(t *testing.T) {
	broker := testenv.NATS(t)
	b := broker.Bus(t, "smsdispatcher")
	testenv.Start(t, b, bus.On(func(_ context.Context, e *events.Event, _ *events.Wanted) ([]*events.Event, error) {
		t.Error("handled past the deadline")
		return undelivered(e), nil
	}))
	in := wanted(t, time.Now().Add(-time.Second))
	broker.Publish(t, in)
	if by := broker.Await(t, in.Login, events.StepLapsed, 0).By; by != "smsdispatcher" {
		t.Errorf("lapsed by %s", by)
	}
}

// A deadline that a gateway wrote on a later event moves nothing.
func TestGatewayDoesNotMoveDeadline(t *testing.T) {
	broker := testenv.NATS(t)
	b := broker.Bus(t, "sessionissuer")
	got := make(chan time.Time, 1)
	testenv.Start(t, b, bus.On(func(_ context.Context, e *events.Event, _ *events.Cancelled) ([]*events.Event, error) {
		got <- e.Expires
		return nil, nil
	}))
	e := cancelled(t, "web")
	e.Expires = time.Now().Add(time.Hour)
	broker.Publish(t, e)
	if at := <-got; !at.IsZero() {
		t.Errorf("the handler was given the gateway's deadline %v", at)
	}
}

// A subject takes one event. A second publisher learns that it lost, and what is stored.
func TestWriteOnce(t *testing.T) {
	broker := testenv.NATS(t)
	b := broker.Bus(t, "sessionissuer")
	login, err := events.NewLogin("web")
	if err != nil {
		t.Fatal(err)
	}
	decision := events.Decision{Policy: "p", After: "x", Facts: events.Facts{Now: time.Now()}}
	const writers = 16
	var wins atomic.Int32
	var wg sync.WaitGroup
	stored := make([]*events.Event, writers)
	for i := range writers {
		wg.Go(func() {
			e := events.New(login, 0, &events.Closed{Outcome: events.Denied, Reason: fmt.Sprint("r", i), Decision: decision})
			got, mine, err := b.Publish(t.Context(), nil, e)
			if err != nil {
				t.Error(err)
				return
			}
			if mine {
				wins.Add(1)
			}
			stored[i] = got
		})
	}
	wg.Wait()
	if t.Failed() {
		return
	}
	if wins.Load() != 1 {
		t.Fatalf("%d publishers won", wins.Load())
	}
	for _, e := range stored {
		if e.Data.(*events.Closed).Reason != stored[0].Data.(*events.Closed).Reason {
			t.Errorf("two truths: %v and %v", e.Data, stored[0].Data)
		}
	}
}

// A publish whose ack was lost is unknown: it is published again, and is in the stream once.
func TestLostAck(t *testing.T) {
	broker := testenv.NATS(t)
	dialer := &cuttingDialer{}
	b := broker.Bus(t, "sessionissuer", func(cfg *bus.Config) {
		cfg.Options = []nats.Option{nats.SetCustomDialer(dialer), nats.ReconnectWait(time.Millisecond), nats.ReconnectJitter(0, 0)}
	})
	login, err := events.NewLogin("web")
	if err != nil {
		t.Fatal(err)
	}
	dialer.cutAfter("login.closed")
	e := events.New(login, 0, &events.Closed{Outcome: events.Denied, Decision: events.Decision{Policy: "p", After: "x", Facts: events.Facts{Now: time.Now()}}})
	stored, mine, err := b.Publish(t.Context(), nil, e)
	if err != nil || stored.ID() != e.ID() || mine { // nobody can tell that it was
		t.Fatalf("stored %v, mine %t, %v", stored, mine, err)
	}
	if dialer.cuts.Load() != 1 {
		t.Errorf("the connection was cut %d times", dialer.cuts.Load())
	}
}

// cuttingDialer cuts a connection when a word is written to it: the broker gets what was written, and the answer is lost.
type cuttingDialer struct {
	mu   sync.Mutex
	word string
	cuts atomic.Int32
}

func (d *cuttingDialer) cutAfter(word string) { d.mu.Lock(); d.word = word; d.mu.Unlock() }

func (d *cuttingDialer) Dial(network, address string) (net.Conn, error) {
	conn, err := net.Dial(network, address)
	return &cutConn{Conn: conn, d: d}, err
}

type cutConn struct {
	net.Conn
	d    *cuttingDialer
	deaf atomic.Bool
}

func (c *cutConn) Write(p []byte) (int, error) {
	c.d.mu.Lock()
	if c.d.word != "" && bytes.Contains(p, []byte(c.d.word)) {
		c.d.word = ""
		c.d.cuts.Add(1)
		c.deaf.Store(true) // before the write, since the answer may be quick
	}
	c.d.mu.Unlock()
	n, err := c.Conn.Write(p)
	if c.deaf.Load() {
		_ = c.Conn.(*net.TCPConn).CloseRead()
	}
	return n, err
}

func (c *cutConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if c.deaf.Load() {
		return 0, io.EOF
	}
	return n, err
}

// Three instances share the work; each event is handled by one of them.
func TestInstancesShare(t *testing.T) {
	broker := testenv.NATS(t)
	const logins = 60
	var handled sync.Map
	var total atomic.Int32
	for range 3 {
		testenv.Start(t, broker.Bus(t, "smsdispatcher"), bus.On(func(_ context.Context, e *events.Event, _ *events.Wanted) ([]*events.Event, error) {
			if _, again := handled.LoadOrStore(e.Login, true); again {
				t.Errorf("%s handled twice", e.ID())
			}
			total.Add(1)
			return undelivered(e), nil
		}))
	}
	var sent []*events.Event
	for range logins {
		e := wanted(t, soon())
		broker.Publish(t, e)
		sent = append(sent, e)
	}
	for _, e := range sent {
		broker.Await(t, e.Login, events.StepUndelivered, 1)
	}
	if total.Load() != logins {
		t.Errorf("%d handled, want %d", total.Load(), logins)
	}
}

// A worker that stops lets a running handler finish and hands back what it has not begun, at once and without an error.
func TestDrain(t *testing.T) {
	broker := testenv.NATS(t)
	var logged bytes.Buffer
	began, finish := make(chan struct{}), make(chan struct{})
	first := broker.Bus(t, "smsdispatcher", func(cfg *bus.Config) { cfg.Log = zerolog.New(zerolog.SyncWriter(&logged)).Level(zerolog.ErrorLevel) })
	stop := testenv.Start(t, first, bus.On(func(_ context.Context, e *events.Event, _ *events.Wanted) ([]*events.Event, error) {
		close(began)
		<-finish
		return undelivered(e), nil
	}).Concurrency(1))
	running := wanted(t, soon())
	broker.Publish(t, running)
	<-began
	waiting := wanted(t, soon())
	broker.Publish(t, waiting)
	stopped := make(chan struct{})
	go func() { stop(); close(stopped) }()

	// The second instance gets the waiting event while the first still works: it did not have to wait for the ack wait.
	testenv.Start(t, broker.Bus(t, "smsdispatcher"), bus.On(func(_ context.Context, e *events.Event, _ *events.Wanted) ([]*events.Event, error) {
		return undelivered(e), nil
	}))
	broker.Await(t, waiting.Login, events.StepUndelivered, 1)
	select {
	case <-stopped:
		t.Error("stopped before the handler had finished")
	default:
	}
	close(finish)
	<-stopped
	broker.Await(t, running.Login, events.StepUndelivered, 1)
	if logged.Len() > 0 {
		t.Errorf("logged: %s", logged.String())
	}
}

// A worker that was told to stop begins nothing new, though it has room: what still comes is handed back.
func TestNothingBeginsAfterTheStop(t *testing.T) {
	broker := testenv.NATS(t)
	come := make(chan struct{}, 1)
	stop := testenv.Start(t, broker.Bus(t, "smsdispatcher"), bus.On(func(_ context.Context, e *events.Event, _ *events.Wanted) ([]*events.Event, error) {
		t.Errorf("%s was begun", e.ID())
		return undelivered(e), nil
	}).UntilTheStop(func() { come <- struct{}{} }))
	in := wanted(t, soon())
	broker.Publish(t, in)
	comes(t, "the event", come)
	stop()
	testenv.Start(t, broker.Bus(t, "smsdispatcher"), bus.On(func(_ context.Context, e *events.Event, _ *events.Wanted) ([]*events.Event, error) {
		return undelivered(e), nil
	}))
	broker.Await(t, in.Login, events.StepUndelivered, 1)
}

// A handler that takes its time tells the broker that it is alive, so that nobody else is given the event.
func TestHeartbeat(t *testing.T) {
	broker := testenv.NATS(t)
	beats, err := broker.Dial(t, bus.UserSetup).SubscribeSync("$JS.ACK.LOGIN.smsdispatcher-wanted.>")
	if err != nil {
		t.Fatal(err)
	}
	finish := make(chan struct{})
	var runs atomic.Int32
	testenv.Start(t, broker.Bus(t, "smsdispatcher"), bus.On(func(_ context.Context, e *events.Event, _ *events.Wanted) ([]*events.Event, error) {
		runs.Add(1)
		<-finish
		return undelivered(e), nil
	}))
	in := wanted(t, soon())
	broker.Publish(t, in)
	for beat := range 2 { // more than one, so that it goes on
		if msg, err := beats.NextMsg(20 * time.Second); err != nil || string(msg.Data) != "+WPI" {
			t.Fatalf("heartbeat %d: %v, %v", beat, msg, err)
		}
	}
	close(finish)
	broker.Await(t, in.Login, events.StepUndelivered, 1)
	if msg, err := beats.NextMsg(10 * time.Second); err != nil || string(msg.Data) != "+ACK" {
		t.Errorf("after the handler: %v, %v", msg, err)
	}
	if runs.Load() != 1 {
		t.Errorf("handled %d times", runs.Load())
	}
}

// Due deadlines come back even if nobody listened when they were due.
func TestTimer(t *testing.T) {
	broker := testenv.NATS(t)
	b := broker.Bus(t, "sessionissuer")
	login, err := events.NewLogin("web")
	if err != nil {
		t.Fatal(err)
	}
	for range 2 { // asking twice keeps one
		if err := b.Schedule(t.Context(), login, time.Now().Add(300*time.Millisecond)); err != nil {
			t.Fatal(err)
		}
	}
	due := make(chan events.Login, 2)
	testenv.Start(t, b, bus.OnTimer(func(_ context.Context, login events.Login) ([]*events.Event, error) {
		due <- login
		return nil, nil
	}))
	select {
	case got := <-due:
		if got != login {
			t.Errorf("due %v, want %v", got, login)
		}
	case <-time.After(20 * time.Second):
		t.Fatal("the timer never fired")
	}
}

// An operator hands one event again to one worker.
func TestRedo(t *testing.T) {
	broker := testenv.NATS(t)
	var runs atomic.Int32
	b := broker.Bus(t, "smsdispatcher")
	testenv.Start(t, b, bus.On(func(_ context.Context, e *events.Event, _ *events.Wanted) ([]*events.Event, error) {
		if runs.Add(1) == 1 {
			return nil, bus.Permanent(errors.New("a bug"))
		}
		return undelivered(e), nil
	}))
	in := wanted(t, soon())
	broker.Publish(t, in)
	dead(t, broker, "smsdispatcher", in.Subject())
	operator := broker.Dial(t, bus.UserOperator)
	if _, err := operator.Request("redo.smsdispatcher."+strings.TrimPrefix(in.Subject(), "login."), nil, 10*time.Second); err != nil {
		t.Fatal(err)
	}
	broker.Await(t, in.Login, events.StepUndelivered, 1)
	if runs.Load() != 2 {
		t.Errorf("handled %d times", runs.Load())
	}
}

// History holds the event that asked and what led to it.
func TestHistory(t *testing.T) {
	broker := testenv.NATS(t)
	in := wanted(t, soon())
	broker.Publish(t, in)
	answer := events.New(in.Login, 1, &events.Undelivered{Factor: events.SMS, Reason: events.UndeliveredDown})
	answer.By, answer.Time, answer.Cause = "smsdispatcher", time.Now(), in.ID()
	broker.Publish(t, answer)
	b := broker.Bus(t, "sessionissuer")
	h, err := b.History(t.Context(), answer)
	if err != nil {
		t.Fatal(err)
	}
	if len(h) != 2 || h[0].ID() != in.ID() || h[1].ID() != answer.ID() {
		t.Errorf("history %v", h)
	}
	if data, e := bus.Get[*events.Wanted](h, 1); data == nil || e.Stored.IsZero() || e.Sequence == 0 {
		t.Errorf("got %v, %+v", data, e)
	}
	if data, _ := bus.Get[*events.Wanted](h, 2); data != nil {
		t.Error("found a round that is not there")
	}
	absent := events.New(in.Login, 0, &events.Cancelled{})
	if _, err := b.History(t.Context(), absent); !errors.Is(err, bus.ErrStale) {
		t.Errorf("history without its trigger: %v", err)
	}
	other, err := events.NewLogin("web")
	if err != nil {
		t.Fatal(err)
	}
	if h, err := b.Login(t.Context(), other); err != nil || len(h) != 0 {
		t.Errorf("history of nothing: %v, %v", h, err)
	}
	if _, err := b.Event(t.Context(), other, events.StepClosed, 0); !errors.Is(err, bus.ErrNotFound) {
		t.Errorf("event that is not there: %v", err)
	}
}
