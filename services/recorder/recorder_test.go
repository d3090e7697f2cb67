package recorder

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/nats-io/nats.go"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/rs/zerolog"

	"github.com/sekisho/sekisho/events"
	"github.com/sekisho/sekisho/services/internal/bus"
	"github.com/sekisho/sekisho/services/internal/config"
	"github.com/sekisho/sekisho/services/internal/runtime"
	"github.com/sekisho/sekisho/services/internal/testenv"
)

func TestMain(m *testing.M) { testenv.Main(m) }

// A place is a broker, a database, and the tests' view of the audit log.
type place struct {
	broker *testenv.Broker
	db     *testenv.Database
	admin  *pgxpool.Pool
}

func newPlace(t *testing.T) *place {
	db := testenv.Migrated(t)
	return &place{testenv.NATS(t), db, db.Pool(t, "")}
}

// recorder makes one, as a process of its own would. adjust may change the settings and the clock.
func (p *place) recorder(t *testing.T, adjust ...func(*runtime.Env)) *recorder {
	t.Helper()
	env := &runtime.Env{Name: Name, Config: config.Default(), Log: zerolog.Nop(), DB: p.db.Pool(t, Name),
		Bus: p.broker.Bus(t, Name), Metrics: prometheus.NewRegistry(), Now: time.Now}
	for _, f := range adjust {
		f(env)
	}
	r := build(env)
	t.Cleanup(r.sessions.Close)
	return r
}

// start runs it until the test ends, and gives what run returns.
func start(t *testing.T, r *recorder) (stop func() error) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- r.run(ctx) }()
	stop = sync.OnceValue(func() error { cancel(); return <-done })
	t.Cleanup(func() { _ = stop() })
	return stop
}

func ask[T any](t *testing.T, p *place, query string, args ...any) T {
	t.Helper()
	rows, err := p.admin.Query(t.Context(), query, args...)
	if err != nil {
		t.Fatal(err)
	}
	value, err := pgx.CollectExactlyOneRow(rows, pgx.RowTo[T])
	if err != nil {
		t.Fatalf("%s: %v", query, err)
	}
	return value
}

func event(login events.Login, by string, data events.Data) *events.Event {
	e := events.New(login, 0, data)
	e.By, e.Time = by, time.Now()
	return e
}

func (p *place) requested(t *testing.T, login events.Login, deadline time.Time) *events.Event {
	t.Helper()
	identity, err := p.broker.Sealer(t).Seal("identityverifier", login.Subject(events.StepRequested, 0), "identity", events.Identity{User: "alice", Password: "secret"})
	if err != nil {
		t.Fatal(err)
	}
	return event(login, "gateway/"+login.Gateway, &events.Requested{App: "demo", Method: events.Password, Deadline: deadline, Identity: identity, SourceTag: "tag"})
}

func identified(login events.Login) *events.Event {
	return event(login, "identityverifier", &events.Identified{App: "demo", User: "u1", Primary: events.Password, Deadline: time.Now().Add(time.Minute)})
}

func closed(login events.Login) *events.Event {
	return ending(login, events.Failed, events.FailedAttempts)
}

func ending(login events.Login, outcome events.Outcome, reason string) *events.Event {
	return event(login, "sessionissuer", &events.Closed{Outcome: outcome, Reason: reason, App: "demo",
		Decision: events.Decision{Policy: "p", After: "x", Facts: events.Facts{Now: time.Now()}}})
}

func TestRecordsLoginsAndAccounts(t *testing.T) {
	p := newPlace(t)
	start(t, p.recorder(t))
	login := testenv.NewLogin(t, "web")
	deadline := time.Now().Add(5 * time.Minute).Truncate(time.Microsecond)
	for _, e := range []*events.Event{p.requested(t, login, deadline), identified(login), closed(login)} {
		e.Cause, e.Trace = "some/cause", "00-trace"
		p.broker.Publish(t, e)
	}
	console := p.broker.Bus(t, "console")
	said := bus.AccountEvent{ID: uuid.NewString(), Source: "console", Kind: "locked", User: "u1", Data: json.RawMessage(`{"by":"admin\u0000"}`), Time: time.Now()}
	for range 2 { // as by a relay that did not learn that the broker had it
		if err := console.Account(t.Context(), said); err != nil {
			t.Fatal(err)
		}
	}
	said.ID = uuid.NewString()
	if err := console.Account(t.Context(), said); err != nil {
		t.Fatal(err)
	}
	testenv.Eventually(t, "the last line", func() bool { return ask[int](t, p, `SELECT count(*) FROM audit.events WHERE id = $1`, said.ID) == 1 })
	testenv.Eventually(t, "five lines", func() bool { return ask[int](t, p, `SELECT count(*) FROM audit.events`) == 5 })

	var data map[string]any
	text := ask[string](t, p, `SELECT data::text FROM audit.events WHERE id = $1`, login.EventID(events.StepRequested, 0))
	if err := json.Unmarshal([]byte(text), &data); err != nil {
		t.Fatal(err)
	}
	if data["app"] != "demo" || data["identity"] != nil || data["source_tag"] != "tag" {
		t.Errorf("requested was recorded as %s", text)
	}
	line := ask[string](t, p, `SELECT concat_ws(' ', stream, source, type, about, gateway, login, step, n, cause, trace, problem) FROM audit.events WHERE step = 'closed'`)
	if want := fmt.Sprintf("ARCHIVE sessionissuer sekisho.login.closed.v1 %s web %s closed 0 some/cause 00-trace", login, login.ID); line != want {
		t.Errorf("line %q\nwant %q", line, want)
	}
	line = ask[string](t, p, `SELECT concat_ws(' ', source, type, about, gateway, step, data->>'by') FROM audit.events WHERE id = $1`, said.ID)
	if want := "console sekisho.account.locked.v1 u1 admin\ufffd"; line != want {
		t.Errorf("line %q\nwant %q", line, want)
	}
	line = ask[string](t, p, `SELECT concat_ws(' ', app, method, user_id, outcome, reason, opened_at IS NOT NULL, closed_at >= opened_at)
		FROM audit.logins WHERE gateway = 'web' AND login = $1 AND deadline = $2`, login.ID, deadline)
	if want := "demo password u1 failed attempts t t"; line != want {
		t.Errorf("login %q\nwant %q", line, want)
	}
}

// TestOddEventsDoNotBlock publishes what no schema allows; each is kept with the reason, and what comes after it is recorded.
func TestOddEventsDoNotBlock(t *testing.T) {
	p := newPlace(t)
	start(t, p.recorder(t))
	gateway := p.broker.Dial(t, "example")
	publish := func(login events.Login, header nats.Header, data string) {
		t.Helper()
		reply, err := gateway.RequestMsg(&nats.Msg{Subject: login.Subject(events.StepRequested, 0), Header: header, Data: []byte(data)}, 10*time.Second)
		if err != nil || bytes.Contains(reply.Data, []byte("error")) {
			t.Fatalf("%v %s", err, reply.Data)
		}
	}
	publish(testenv.NewLogin(t, "example"), nil, "garbage")
	publish(testenv.NewLogin(t, "example"), nats.Header{"ce-id": {"\x01%00"}, "ce-specversion": {"1.0"}, "ce-type": {"%00"}, "ce-source": {"x"}}, "\x00\xff")
	// A gateway that speaks of another's login would keep the true event out of the log.
	victim := testenv.NewLogin(t, "web")
	forged, err := p.requested(t, victim, time.Now().Add(time.Minute)).Message()
	if err != nil {
		t.Fatal(err)
	}
	publish(testenv.NewLogin(t, "example"), forged.Header, string(forged.Data))
	p.broker.Publish(t, p.requested(t, victim, time.Now().Add(2*time.Minute)))

	testenv.Eventually(t, "four lines", func() bool { return ask[int](t, p, `SELECT count(*) FROM audit.events`) == 4 })
	if bad := ask[int](t, p, `SELECT count(*) FROM audit.events WHERE problem <> '' AND data IS NULL AND step IS NULL`); bad != 3 {
		t.Errorf("%d lines with a problem, want 3", bad)
	}
	if n := ask[int](t, p, `SELECT count(*) FROM audit.events WHERE id = $1 AND problem IS NULL`, victim.EventID(events.StepRequested, 0)); n != 1 {
		t.Error("the true event is not there")
	}
	if n := ask[int](t, p, `SELECT count(*) FROM audit.logins`); n != 1 {
		t.Errorf("%d logins, want the true one only", n)
	}
}

// TestBatchesComeAgain lets the recorder die at each step of a batch: before the commit, and between commit and ack.
func TestBatchesComeAgain(t *testing.T) {
	p := newPlace(t)
	r := p.recorder(t)
	login := testenv.NewLogin(t, "web")
	var batch []bus.Stored
	for i, e := range []*events.Event{p.requested(t, login, time.Now().Add(time.Minute)), identified(login), closed(login)} {
		msg, err := e.Message()
		if err != nil {
			t.Fatal(err)
		}
		msg.Header.Set("Nats-Stream-Source", "LOGIN 1 > > "+msg.Subject)
		batch = append(batch, bus.Stored{Stream: bus.StreamArchive, Sequence: uint64(i + 1), Time: time.Now(), Header: msg.Header, Data: msg.Data})
	}
	record := func(batch []bus.Stored, crash bool) {
		t.Helper()
		log, err := open(t.Context(), r.db, zerolog.Nop())
		if err != nil {
			t.Fatal(err)
		}
		defer log.close()
		if crash {
			// The connection dies under the transaction.
			if _, err := p.admin.Exec(t.Context(), `SELECT pg_terminate_backend($1, 10000)`, log.conn.PgConn().PID()); err != nil {
				t.Fatal(err)
			}
		}
		if err := r.record(t.Context(), log, batch); (err != nil) != crash {
			t.Fatalf("record: %v", err)
		}
		if log.lost() != crash {
			t.Errorf("lost: %v", log.lost())
		}
	}
	record(batch, true)
	if n := ask[int](t, p, `SELECT count(*) FROM audit.events`); n != 0 {
		t.Fatalf("%d lines of a transaction that was not committed", n)
	}
	record(batch[:2], false) // committed, and not acked
	record(append(batch, batch...), false)
	if n := ask[int](t, p, `SELECT count(*) FROM audit.events`); n != 3 {
		t.Errorf("%d lines, want 3", n)
	}
	if n := ask[int](t, p, `SELECT count(*) FROM audit.logins WHERE outcome = 'failed' AND opened_at IS NOT NULL AND user_id = 'u1'`); n != 1 {
		t.Errorf("%d logins, want 1", n)
	}
}

// TestOneAtATime runs two recorders and takes the lock from the one that records.
func TestOneAtATime(t *testing.T) {
	p := newPlace(t)
	holder := func() int {
		return ask[int](t, p, `SELECT coalesce(max(pid), 0) FROM pg_locks WHERE locktype = 'advisory' AND granted AND database = (SELECT oid FROM pg_database WHERE datname = current_database())`)
	}
	first := p.recorder(t)
	stopFirst := start(t, first)
	testenv.Eventually(t, "the first holds the lock", func() bool { return holder() != 0 })
	said := make(chan string, 100)
	second := p.recorder(t, func(env *runtime.Env) { env.Log = zerolog.New(logged(said)) })
	start(t, second)
	if line := <-said; !strings.Contains(line, "another recorder holds the lock") {
		t.Errorf("the second says: %s", line)
	}

	const each = 20
	send := func() {
		for range each {
			p.broker.Publish(t, p.requested(t, testenv.NewLogin(t, "web"), time.Now().Add(time.Minute)))
		}
	}
	send()
	testenv.Eventually(t, "the first half", func() bool { return ask[int](t, p, `SELECT count(*) FROM audit.events`) == each })
	if testutil.ToFloat64(first.active) != 1 || testutil.ToFloat64(second.active) != 0 {
		t.Fatal("two recorders are active")
	}
	old := holder()
	if _, err := p.admin.Exec(t.Context(), `SELECT pg_terminate_backend($1)`, old); err != nil {
		t.Fatal(err)
	}
	testenv.Eventually(t, "the second holds the lock", func() bool { pid := holder(); return pid != 0 && pid != old })
	send()
	testenv.Eventually(t, "the second half", func() bool { return ask[int](t, p, `SELECT count(*) FROM audit.events`) == 2*each })
	testenv.Eventually(t, "the second is active", func() bool { return testutil.ToFloat64(second.active) == 1 })
	testenv.Eventually(t, "the first gives up", func() bool { return testutil.ToFloat64(first.active) == 0 })
	if err := stopFirst(); err == nil || !strings.Contains(err.Error(), "the lock is lost") {
		t.Errorf("the first ended with %v", err)
	}
}

// logged is a log of which each line is sent.
type logged chan<- string

func (l logged) Write(p []byte) (int, error) {
	l <- string(p)
	return len(p), nil
}

// TestSilentConnection: nothing comes back on the connection that holds the lock, and nothing says so.
func TestSilentConnection(t *testing.T) {
	p := newPlace(t)
	line := &mutable{}
	r := p.recorder(t, func(env *runtime.Env) {
		cfg := env.DB.Config()
		cfg.ConnConfig.DialFunc = line.dial
		pool, err := pgxpool.NewWithConfig(t.Context(), cfg)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(pool.Close)
		env.DB = pool
	})
	r.pingEvery, r.pingWait = 10*time.Millisecond, 100*time.Millisecond
	stop := start(t, r)
	testenv.Eventually(t, "it records", func() bool { return testutil.ToFloat64(r.active) == 1 })
	line.mute.Store(true)
	testenv.Eventually(t, "it gives up", func() bool { return testutil.ToFloat64(r.active) == 0 })
	if err := stop(); !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "the lock is lost") {
		t.Errorf("it ended with %v", err) // as when the server ended it, a minute later
	}
}

// mutable makes connections on which, while mute, what is written vanishes.
type mutable struct{ mute atomic.Bool }

func (m *mutable) dial(ctx context.Context, network, address string) (net.Conn, error) {
	conn, err := new(net.Dialer).DialContext(ctx, network, address)
	return &muteConn{conn, m}, err
}

type muteConn struct {
	net.Conn
	m *mutable
}

func (c *muteConn) Write(p []byte) (int, error) {
	if c.m.mute.Load() {
		return len(p), nil
	}
	return c.Conn.Write(p)
}

// TestLockEndsWithItsHolder: what the server was told to watch.
func TestLockEndsWithItsHolder(t *testing.T) {
	p := newPlace(t)
	log, err := open(t.Context(), p.recorder(t).db, zerolog.Nop())
	if err != nil {
		t.Fatal(err)
	}
	defer log.close()
	for setting, want := range map[string]string{
		"tcp_keepalives_idle": "5", "tcp_keepalives_interval": "3", "tcp_keepalives_count": "3", "tcp_user_timeout": "15000",
		"idle_session_timeout": "1min", "idle_in_transaction_session_timeout": "1min",
	} {
		var got string
		if err := log.conn.QueryRow(t.Context(), "SHOW "+setting).Scan(&got); err != nil || got != want {
			t.Errorf("%s is %s, want %s; %v", setting, got, want, err)
		}
	}
}

func TestSweepEndsAbandonedLogins(t *testing.T) {
	p := newPlace(t)
	var ahead atomic.Int64 // of the recorder's clock, in minutes
	ahead.Store(20)
	r := p.recorder(t, func(env *runtime.Env) {
		settings := *env.Config
		settings.Audit.SweepEvery = 20 * time.Millisecond
		env.Config, env.Now = &settings, func() time.Time { return time.Now().Add(time.Duration(ahead.Load()) * time.Minute) }
	})
	abandoned, ended, young := testenv.NewLogin(t, "web"), testenv.NewLogin(t, "web"), testenv.NewLogin(t, "example")
	p.broker.Publish(t, p.requested(t, abandoned, time.Now().Add(time.Hour))) // ten minutes at most
	p.broker.Publish(t, p.requested(t, ended, time.Now().Add(time.Minute)))
	p.broker.Publish(t, closed(ended))
	start(t, r)
	lapsed := p.broker.Await(t, abandoned, events.StepLapsed, 0)
	if lapsed.By != Name || lapsed.Data.(*events.Lapsed).Reason != "abandoned" {
		t.Errorf("%s says %+v", lapsed.By, lapsed.Data)
	}
	how := func() string {
		return ask[string](t, p, `SELECT concat_ws(' ', outcome, reason) FROM audit.logins WHERE login = $1`, abandoned.ID)
	}
	testenv.Eventually(t, "it has ended", func() bool { return how() == "expired abandoned" })
	if _, err := p.broker.Bus(t, bus.UserViewer).Event(t.Context(), ended, events.StepLapsed, 0); err == nil {
		t.Error("a login that has ended was said to have lapsed")
	}

	// Then it is left alone, what follows is only a record of it, and one whose time has not come is always left alone.
	before := testutil.ToFloat64(r.lapsed)
	p.broker.Publish(t, ending(abandoned, events.Expired, ""))
	ahead.Store(0)
	p.broker.Publish(t, p.requested(t, young, time.Now().Add(time.Minute)))
	testenv.Eventually(t, "all is recorded", func() bool {
		return ask[int](t, p, `SELECT count(*) FROM audit.logins WHERE closed_at IS NOT NULL`) == 2 && ask[int](t, p, `SELECT count(*) FROM audit.events`) == 6
	})
	if err := r.sweep(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := p.broker.Bus(t, bus.UserViewer).Event(t.Context(), young, events.StepLapsed, 0); err == nil {
		t.Error("a login whose deadline has not come was said to have lapsed")
	}
	if now := testutil.ToFloat64(r.lapsed); now != before || how() != "expired abandoned" {
		t.Errorf("swept %v times and then %v, ended %s", before, now, how())
	}
}

// TestTheFirstEndingCounts: in one batch and in two.
func TestTheFirstEndingCounts(t *testing.T) {
	p := newPlace(t)
	r := p.recorder(t)
	log, err := open(t.Context(), r.db, zerolog.Nop())
	if err != nil {
		t.Fatal(err)
	}
	defer log.close()
	lapsed := func(login events.Login) *events.Event {
		return event(login, "gateway/web", &events.Lapsed{Reason: "late"})
	}
	for _, together := range []bool{true, false} {
		for name, test := range map[string]struct {
			make func(events.Login) []*events.Event
			want string
		}{
			"lapsed alone": {func(l events.Login) []*events.Event { return []*events.Event{lapsed(l)} }, "expired late"},
			"lapsed, and its record": {func(l events.Login) []*events.Event {
				return []*events.Event{lapsed(l), ending(l, events.Expired, "")}
			}, "expired late"},
			"closed, and a gateway that does not look": {func(l events.Login) []*events.Event {
				return []*events.Event{closed(l), lapsed(l)}
			}, "failed attempts"},
		} {
			login := testenv.NewLogin(t, "web")
			var batches [][]bus.Stored
			for i, e := range test.make(login) {
				msg, err := e.Message()
				if err != nil {
					t.Fatal(err)
				}
				msg.Header.Set("Nats-Stream-Source", "LOGIN 1 > > "+msg.Subject)
				stored := bus.Stored{Stream: bus.StreamArchive, Sequence: uint64(i + 1), Time: time.Now(), Header: msg.Header, Data: msg.Data}
				if i == 0 || !together {
					batches = append(batches, nil)
				}
				batches[len(batches)-1] = append(batches[len(batches)-1], stored)
			}
			for _, batch := range batches {
				if err := r.record(t.Context(), log, batch); err != nil {
					t.Fatal(err)
				}
			}
			if got := ask[string](t, p, `SELECT concat_ws(' ', outcome, reason) FROM audit.logins WHERE login = $1`, login.ID); got != test.want {
				t.Errorf("%s, together %v: %s, want %s", name, together, got, test.want)
			}
		}
	}
}

// TestNoSweepWhileBehind: a login whose end is not recorded yet looks open.
func TestNoSweepWhileBehind(t *testing.T) {
	p := newPlace(t)
	r := p.recorder(t, func(env *runtime.Env) { env.Now = func() time.Time { return time.Now().Add(time.Hour) } })
	login := testenv.NewLogin(t, "web")
	msg, err := p.requested(t, login, time.Now()).Message()
	if err != nil {
		t.Fatal(err)
	}
	msg.Header.Set("Nats-Stream-Source", "LOGIN 1 > > "+msg.Subject)
	log, err := open(t.Context(), r.db, zerolog.Nop())
	if err != nil {
		t.Fatal(err)
	}
	defer log.close()
	for _, pending := range []uint64{7, 0} {
		batch := []bus.Stored{{Stream: bus.StreamArchive, Sequence: 1, Pending: pending, Time: time.Now(), Header: msg.Header, Data: msg.Data}}
		if err := r.record(t.Context(), log, batch); err != nil {
			t.Fatal(err)
		}
		if err := r.sweep(t.Context()); err != nil {
			t.Fatal(err)
		}
		if swept := testutil.ToFloat64(r.lapsed) > 0; swept != (pending == 0) {
			t.Errorf("swept: %v, with %d events to come", swept, pending)
		}
	}
}

func TestPurge(t *testing.T) {
	p := newPlace(t)
	now := time.Now()
	r := p.recorder(t, func(env *runtime.Env) { env.Now = func() time.Time { return now } })
	for i, age := range []time.Duration{r.settings.Keep + time.Hour, r.settings.Keep - time.Hour} {
		stored := now.Add(-age)
		if _, err := p.admin.Exec(t.Context(), `INSERT INTO audit.events (id, stream, sequence, stored_at) VALUES ($1, 'ARCHIVE', $2, $3)`, fmt.Sprint(i), i, stored); err != nil {
			t.Fatal(err)
		}
		if _, err := p.admin.Exec(t.Context(), `INSERT INTO audit.logins (gateway, login, closed_at) VALUES ('web', $1, $2)`, testenv.NewLogin(t, "web").ID, stored); err != nil {
			t.Fatal(err)
		}
	}
	if err := r.purge(t.Context()); err != nil {
		t.Fatal(err)
	}
	if lines, logins := ask[int](t, p, `SELECT count(*) FROM audit.events WHERE id = '1'`), ask[int](t, p, `SELECT count(*) FROM audit.events`); lines != 1 || logins != 1 {
		t.Errorf("%d of the lines to keep, %d lines in all, want one and one", lines, logins)
	}
	if logins := ask[int](t, p, `SELECT count(*) FROM audit.logins`); logins != 1 {
		t.Errorf("%d logins are left, want 1", logins)
	}
}
