package smsdispatcher

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
	"unicode/utf8"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"

	"github.com/sekisho/sekisho/events"
	"github.com/sekisho/sekisho/services/internal/bus"
	"github.com/sekisho/sekisho/services/internal/config"
	"github.com/sekisho/sekisho/services/internal/credentials"
	"github.com/sekisho/sekisho/services/internal/runtime"
	"github.com/sekisho/sekisho/services/internal/testenv"
	"github.com/sekisho/sekisho/services/simulators"
)

func TestMain(m *testing.M) { testenv.Main(m) }

// A site is what a dispatcher runs on: a database with two users, simulators, credentials, and a clock.
type site struct {
	simulated
	admin *pgxpool.Pool
	env   *runtime.Env

	mu  sync.Mutex
	now time.Time
}

// newSite makes a site with both providers. adjust may change the settings.
func newSite(t testing.TB, adjust ...func(*config.Config)) *site {
	s := &site{simulated: startSimulators(t), now: time.Now()}
	db := testenv.Migrated(t)
	s.admin = db.Pool(t, "")
	for user, number := range map[string]string{"alice": phone, "bob": "+819087654321", "carol": phone, "dora": ""} {
		s.sql(t, `INSERT INTO directory.users (id, name, locale, primary_method, enabled, locked, created_at, changed_at)
			VALUES ($1, $1, 'ja', 'password', true, false, now(), now())`, user)
		if number != "" {
			s.sql(t, `INSERT INTO directory.phones (user_id, number, changed_at) VALUES ($1, $2, now())`, user, number)
		}
	}
	folder := credentials.Open(t.TempDir())
	if err := folder.Ensure(credentials.Contents{Keys: []string{"code"}}); err != nil {
		t.Fatal(err)
	}
	secret := func(name string) string {
		path := filepath.Join(t.TempDir(), name)
		if err := os.WriteFile(path, []byte(name+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	cfg := config.Default()
	cfg.SMS.Timeout = time.Minute // no test waits for it: faults are answered, or the time-out is what is tested
	cfg.SMS.Providers = []config.SMSProvider{
		{Name: "karaden", Kind: "karaden", URL: s.url + "/karaden/api", Account: "tenant", TokenFile: secret("karaden-token"), ServiceID: 1},
		{Name: "twilio", Kind: "twilio", URL: s.url + "/twilio", Account: "AC1", TokenFile: secret("twilio-token"), From: "+815012345678"},
	}
	for _, f := range adjust {
		f(cfg)
	}
	s.env = &runtime.Env{
		Name: Name, Config: cfg, Log: zerolog.Nop(), DB: db.Pool(t, Name), Credentials: folder, Now: s.clock,
	}
	return s
}

func (s *site) clock() time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.now
}

func (s *site) pass(d time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.now = s.now.Add(d)
}

func (s *site) sql(t testing.TB, statement string, args ...any) {
	t.Helper()
	if _, err := s.admin.Exec(t.Context(), statement, args...); err != nil {
		t.Fatal(err)
	}
}

// start makes a dispatcher, as another process would be.
func (s *site) start(t testing.TB) *dispatcher {
	t.Helper()
	env := *s.env
	env.Metrics = prometheus.NewRegistry()
	d, err := newDispatcher(&env)
	if err != nil {
		t.Fatal(err)
	}
	if env.Bus == nil {
		d.published = func(context.Context, events.Login, events.Step, int) (*events.Event, error) {
			return nil, bus.ErrNotFound
		}
	}
	t.Cleanup(func() {
		for _, a := range d.accounts {
			a.close()
		}
	})
	return d
}

// states are the states of all rows, in the order of the rows.
func (s *site) states(t *testing.T) []string {
	t.Helper()
	rows, err := s.admin.Query(t.Context(), `SELECT state || ' ' || provider FROM sms.sends ORDER BY created_at, login`)
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	states := []string{}
	for rows.Next() {
		var state string
		if err := rows.Scan(&state); err != nil {
			t.Fatal(err)
		}
		states = append(states, strings.TrimSpace(state))
	}
	return states
}

// wanted is a round that asks for a text message.
func (s *site) wanted(t testing.TB, user string) *events.Event {
	t.Helper()
	login := testenv.NewLogin(t, "web")
	deadline := s.clock().Add(10 * time.Minute).UTC()
	e := events.New(login, 1, &events.Wanted{
		Factor: events.SMS, Left: []events.Factor{events.Push}, App: "demo", User: user, Locale: "ja", Deadline: deadline,
		Decision: events.Decision{Policy: "p", Facts: events.Facts{Now: s.clock(), Enabled: true}, After: login.EventID(events.StepAssessed, 0)},
	})
	e.By, e.Time, e.Expires = "sessionissuer", s.clock(), deadline
	return e
}

// dispatch handles an event, and sees to it that the receipt is recorded.
func dispatch(t testing.TB, d *dispatcher, e *events.Event) events.Data {
	t.Helper()
	data := dispatchOnly(t, d, e)
	if err := d.store.record(t.Context()); err != nil {
		t.Fatal(err)
	}
	return data
}

func dispatchOnly(t testing.TB, d *dispatcher, e *events.Event) events.Data {
	t.Helper()
	out, err := d.dispatch(t.Context(), e, e.Data.(*events.Wanted))
	if err != nil {
		t.Fatal(err)
	}
	if len(out) != 1 || out[0].Login != e.Login || out[0].N != e.N {
		t.Fatalf("%d events, want one of the same round", len(out))
	}
	if err := out[0].Data.Validate(); err != nil {
		t.Fatal(err)
	}
	return out[0].Data
}

func undeliveredFor(reason string) events.Data {
	return &events.Undelivered{Factor: events.SMS, Reason: reason}
}

func expect(t *testing.T, what string, got, want any) {
	t.Helper()
	if !reflect.DeepEqual(got, want) {
		t.Errorf("%s: %+v, want %+v", what, got, want)
	}
}

func TestChallenge(t *testing.T) {
	s := newSite(t)
	d := s.start(t)
	e := s.wanted(t, "alice")
	at := s.clock().UTC().Truncate(time.Microsecond)
	expect(t, "event", dispatch(t, d, e), events.Data(&events.Challenged{
		Factor: events.SMS, Hint: "•••-••••-5678", Expires: at.Add(5 * time.Minute), ResendAt: at.Add(30 * time.Second),
		Choices: []events.Factor{events.SMS, events.Push},
	}))
	got := s.Messages(phone)
	if len(got) != 1 || !strings.HasPrefix(got[0].Body, d.codes.Code(e.Login, 1)) || !strings.Contains(got[0].Body, "demo") {
		t.Fatalf("phone received %+v, want one message that starts with the code", got)
	}
	expect(t, "rows", s.states(t), []string{"accepted karaden"})
	named := s.wanted(t, "alice")
	named.Data.(*events.Wanted).AppName = "Demonstration"
	dispatch(t, d, named)
	if got := s.Messages(phone); len(got) != 2 || !strings.Contains(got[0].Body, "Demonstration") {
		t.Errorf("phone received %+v, want what people call the app", got)
	}
}

func TestTheDeadlineBoundsTheCode(t *testing.T) {
	s := newSite(t)
	e := s.wanted(t, "alice")
	wanted := e.Data.(*events.Wanted)
	wanted.Deadline = s.clock().Add(time.Minute).UTC()
	expect(t, "expires", dispatch(t, s.start(t), e).(*events.Challenged).Expires, wanted.Deadline)
}

func TestOtherFactorsAreOthersWork(t *testing.T) {
	s := newSite(t)
	e := s.wanted(t, "alice")
	e.Data.(*events.Wanted).Factor = events.Push
	out, err := s.start(t).dispatch(t.Context(), e, e.Data.(*events.Wanted))
	if err != nil || len(out) != 0 {
		t.Errorf("%d events, %v", len(out), err)
	}
	expect(t, "rows", s.states(t), []string{})
}

func TestNoNumber(t *testing.T) {
	s := newSite(t)
	expect(t, "event", dispatch(t, s.start(t), s.wanted(t, "dora")), undeliveredFor(events.UndeliveredRefused))
}

// Crash windows: whatever a process had done when it died, the next one sends at most what is missing.
func TestRedelivery(t *testing.T) {
	for name, tc := range map[string]struct {
		before func(t *testing.T, s *site, d *dispatcher, e *events.Event) // what the process did that died
		rows   []string
	}{
		"nothing written": {func(*testing.T, *site, *dispatcher, *events.Event) {}, []string{"accepted karaden"}},
		"intent written, not sent": {func(t *testing.T, s *site, d *dispatcher, e *events.Event) {
			s.intend(t, d, e)
		}, []string{"accepted karaden"}},
		"sent by the first, not recorded": {func(t *testing.T, s *site, d *dispatcher, e *events.Event) {
			s.intend(t, d, e)
			s.send(t, d, e, 0)
		}, []string{"accepted karaden"}},
		"sent by the second, not recorded": {func(t *testing.T, s *site, d *dispatcher, e *events.Event) {
			s.intend(t, d, e)
			s.send(t, d, e, 1)
		}, []string{"sent twilio"}}, // the simulator moves a message on when it is read
		"sent by the second, the first is down": {func(t *testing.T, s *site, d *dispatcher, e *events.Event) {
			s.intend(t, d, e)
			s.send(t, d, e, 1)
			s.fault(t, simulators.SMS, simulators.Fault{Mode: simulators.Error})
		}, []string{"sent twilio"}},
		"challenged, not recorded": {func(t *testing.T, s *site, d *dispatcher, e *events.Event) {
			dispatchOnly(t, d, e)
		}, []string{"accepted karaden"}},
		"recorded, not published": {func(t *testing.T, s *site, d *dispatcher, e *events.Event) {
			dispatch(t, d, e)
		}, []string{"accepted karaden"}},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSite(t)
			e := s.wanted(t, "alice")
			tc.before(t, s, s.start(t), e)
			if _, ok := dispatch(t, s.start(t), e).(*events.Challenged); !ok {
				t.Error("not challenged")
			}
			expect(t, "messages", len(s.Messages(phone)), 1)
			rows := s.states(t)
			if len(rows) != 1 || rows[0] != tc.rows[0] && rows[0] != strings.Replace(tc.rows[0], "accepted", "sent", 1) {
				t.Errorf("rows: %q, want %q", rows, tc.rows)
			}
		})
	}
}

// Who finds an intent and its event knows that the message is out, also if no provider can tell.
func TestPublishedButNotRecorded(t *testing.T) {
	s := newSite(t)
	e := s.wanted(t, "alice")
	challenged := dispatchOnly(t, s.start(t), e)
	for _, name := range []string{simulators.SMS, simulators.SMS2} {
		s.fault(t, name, simulators.Fault{Mode: simulators.Error})
	}
	next := s.start(t)
	var asked []string
	next.published = func(_ context.Context, login events.Login, step events.Step, n int) (*events.Event, error) {
		asked = append(asked, login.EventID(step, n))
		return events.New(login, n, challenged), nil
	}
	calls := len(s.Calls(simulators.SMS)) + len(s.Calls(simulators.SMS2))
	out, err := next.dispatch(t.Context(), e, e.Data.(*events.Wanted))
	if err != nil || len(out) != 0 {
		t.Errorf("%d events, %v", len(out), err)
	}
	expect(t, "asked for", asked, []string{e.Login.EventID(events.StepChallenged, 1)})
	expect(t, "calls", len(s.Calls(simulators.SMS))+len(s.Calls(simulators.SMS2)), calls)
	expect(t, "messages", len(s.Messages(phone)), 1)
}

// A bus that can not tell whether the event is out holds a message up that may be.
func TestNobodyKnowsWhetherItIsPublished(t *testing.T) {
	s := newSite(t)
	e, d := s.wanted(t, "alice"), s.start(t)
	s.intend(t, d, e)
	down := errors.New("down")
	d.published = func(context.Context, events.Login, events.Step, int) (*events.Event, error) { return nil, down }
	if _, err := d.dispatch(t.Context(), e, e.Data.(*events.Wanted)); !errors.Is(err, down) {
		t.Errorf("error %v", err)
	}
	expect(t, "messages", len(s.Messages(phone)), 0)
}

// An event that could not be published is delivered again at once: this process knows of the receipt, also if it is not
// written down yet.
func TestRepeatBeforeTheReceiptIsRecorded(t *testing.T) {
	s := newSite(t)
	e, d := s.wanted(t, "alice"), s.start(t)
	first := dispatchOnly(t, d, e)
	for _, name := range []string{simulators.SMS, simulators.SMS2} {
		s.fault(t, name, simulators.Fault{Mode: simulators.Error})
	}
	s.pass(time.Second)
	expect(t, "repeat", dispatchOnly(t, d, e), first)
	expect(t, "messages", len(s.Messages(phone)), 1)
	expect(t, "rows", s.states(t), []string{"accepted karaden"})
}

// A receipt that can not be written is kept, and a worker that stops leaves none.
func TestReceiptsAreKept(t *testing.T) {
	s := newSite(t)
	d := s.start(t)
	dispatchOnly(t, d, s.wanted(t, "alice"))
	away, cancel := context.WithCancel(t.Context())
	cancel()
	if err := d.store.record(away); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v, want that of the context", err)
	}
	expect(t, "rows", s.states(t), []string{"intent"})
	if err := d.store.close(); err != nil {
		t.Error(err)
	}
	expect(t, "rows of a worker that stopped", s.states(t), []string{"accepted karaden"})
	expect(t, "receipts to record", len(d.store.receipts), 0)
}

// The loop records receipts by itself.
func TestReceiptsAreRecorded(t *testing.T) {
	s := newSite(t)
	d := s.start(t)
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- d.record(ctx) }()
	e := s.wanted(t, "alice")
	dispatchOnly(t, d, e)
	testenv.Eventually(t, "it is recorded", func() bool { return !d.store.unrecorded(round{e.Login, e.N}) })
	expect(t, "rows", s.states(t), []string{"accepted karaden"})
	stop()
	expect(t, "error", <-done, error(nil))
}

// What a process remembers of a number is a guess: the message goes to the number of this moment, or to none.
func TestNumberChanges(t *testing.T) {
	s := newSite(t, func(c *config.Config) { c.Limits.SMSPerNumber = 2 })
	d := s.start(t)
	const other = "+819011112222"
	alice := func() events.Data { return dispatch(t, d, s.wanted(t, "alice")) }
	alice()
	s.sql(t, `UPDATE directory.phones SET number = $1 WHERE user_id = 'alice'`, other)
	expect(t, "hint", alice().(*events.Challenged).Hint, hint(other))
	alice()
	expect(t, "messages to each", [2]int{len(s.Messages(phone)), len(s.Messages(other))}, [2]int{1, 2})
	expect(t, "over the limit of the new number", alice(), undeliveredFor(events.UndeliveredLimited))
	s.sql(t, `DELETE FROM directory.phones WHERE user_id = 'alice'`)
	expect(t, "without a number", alice(), undeliveredFor(events.UndeliveredRefused))
	s.sql(t, `INSERT INTO directory.phones (user_id, number, changed_at) VALUES ('alice', $1, now())`, phone)
	alice()
	expect(t, "over the limit of the old number", alice(), undeliveredFor(events.UndeliveredLimited))
	expect(t, "messages to each", [2]int{len(s.Messages(phone)), len(s.Messages(other))}, [2]int{2, 2})
}

// Intents whose numbers are not known yet count for nobody's limit.
func TestUnknownNumbersDoNotCount(t *testing.T) {
	s := newSite(t, func(c *config.Config) { c.Limits.SMSPerUser, c.Limits.SMSPerNumber = 1, 1 })
	d := s.start(t)
	ask := func(number string) intent {
		return intent{round{s.wanted(t, "alice").Login, 1}, "alice", number, false, d.mac("number", number), s.clock()}
	}
	rows, err := d.store.writeIntents(t.Context(), []intent{ask(""), ask(phone), ask(phone)})
	if err != nil {
		t.Fatal(err)
	}
	expect(t, "rows", rows, []send{{number: phone}, {number: phone, state: stateIntent, fresh: true}, {number: phone}})
}

func (s *site) intend(t *testing.T, d *dispatcher, e *events.Event) {
	t.Helper()
	user := e.Data.(*events.Wanted).User
	if row, err := d.store.intend(t.Context(), intent{round{e.Login, e.N}, user, phone, false, d.mac("number", phone), s.clock()}); err != nil || !row.fresh {
		t.Fatalf("intend: %+v, %v", row, err)
	}
}

func (s *site) send(t *testing.T, d *dispatcher, e *events.Event, account int) {
	t.Helper()
	m := Message{To: phone, Body: text("ja", "demo", d.codes.Code(e.Login, e.N)), Tag: tag(e.ID())}
	if _, err := d.accounts[account].Send(t.Context(), m); err != nil {
		t.Fatal(err)
	}
}

// A repeat says what was said before, to the letter, also when time has passed.
func TestRepeatSaysTheSame(t *testing.T) {
	s := newSite(t)
	e := s.wanted(t, "alice")
	first := dispatch(t, s.start(t), e)
	s.pass(time.Minute)
	expect(t, "repeat", dispatch(t, s.start(t), e), first)
	expect(t, "messages", len(s.Messages(phone)), 1)
}

func TestFailover(t *testing.T) {
	for _, mode := range []simulators.Mode{simulators.Error, simulators.Garbage, simulators.Reset} {
		t.Run(string(mode), func(t *testing.T) {
			s := newSite(t)
			s.fault(t, simulators.SMS, simulators.Fault{Mode: mode})
			if _, ok := dispatch(t, s.start(t), s.wanted(t, "alice")).(*events.Challenged); !ok {
				t.Error("not challenged")
			}
			expect(t, "messages", len(s.Messages(phone)), 1)
			expect(t, "rows", s.states(t), []string{"accepted twilio"})
		})
	}
}

// A provider that hangs is given up after its time-out, and the second one sends the same code.
func TestFailoverAfterATimeout(t *testing.T) {
	s := newSite(t, func(c *config.Config) { c.SMS.Timeout = 2 * time.Second }) // for the second one to answer in
	s.fault(t, simulators.SMS, simulators.Fault{Mode: simulators.Hang, Late: true})
	d := s.start(t)
	e := s.wanted(t, "alice")
	if _, ok := dispatch(t, d, e).(*events.Challenged); !ok {
		t.Error("not challenged")
	}
	messages := s.Messages(phone)
	expect(t, "messages", len(messages), 2) // the first was accepted after all: its answer got lost
	for _, m := range messages {
		if !strings.HasPrefix(m.Body, d.codes.Code(e.Login, 1)) {
			t.Error("a message with another code")
		}
	}
}

func TestDiscard(t *testing.T) {
	s := newSite(t, func(c *config.Config) { c.SMS.Providers = []config.SMSProvider{{Name: "discard", Kind: "discard"}} })
	if _, ok := dispatch(t, s.start(t), s.wanted(t, "alice")).(*events.Challenged); !ok {
		t.Error("not challenged")
	}
	expect(t, "messages", len(s.Messages(phone)), 0)
	expect(t, "rows", s.states(t), []string{"received discard"})
}

func TestAllDown(t *testing.T) {
	for _, tc := range []struct {
		name   string
		user   string
		adjust func(*config.Config)
		faults map[string]simulators.Mode
		reason string
		rows   []string
	}{
		{"none configured", "alice", func(c *config.Config) { c.SMS.Providers = nil }, nil, events.UndeliveredDown, []string{}},
		{"errors", "alice", nil, map[string]simulators.Mode{simulators.SMS: simulators.Error, simulators.SMS2: simulators.Reset},
			events.UndeliveredDown, []string{"intent"}},
		{"time-outs", "alice", func(c *config.Config) { c.SMS.Timeout = 300 * time.Millisecond },
			map[string]simulators.Mode{simulators.SMS: simulators.Error, simulators.SMS2: simulators.Hang}, events.UndeliveredTimeout, []string{"intent"}},
		{"refused by all", "alice", func(c *config.Config) { // without a sender Twilio refuses, and there is no such number at Karaden
			c.SMS.Providers = c.SMS.Providers[1:]
			c.SMS.Providers[0].From = ""
		}, nil, events.UndeliveredRefused, []string{"intent"}},
		{"refused by one", "alice", func(c *config.Config) { c.SMS.Providers[1].From = "" },
			map[string]simulators.Mode{simulators.SMS: simulators.Error}, events.UndeliveredDown, []string{"intent"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var adjust []func(*config.Config)
			if tc.adjust != nil {
				adjust = append(adjust, tc.adjust)
			}
			s := newSite(t, adjust...)
			for name, mode := range tc.faults {
				s.fault(t, name, simulators.Fault{Mode: mode})
			}
			expect(t, "event", dispatch(t, s.start(t), s.wanted(t, tc.user)), undeliveredFor(tc.reason))
			expect(t, "rows", s.states(t), tc.rows)
		})
	}
}

// With the breakers open nobody is asked, the answer is there at once, and the try does not count against the user.
func TestOpenBreaker(t *testing.T) {
	s := newSite(t, func(c *config.Config) {
		c.Breaker = config.Breaker{Failures: 2, Open: time.Hour}
		c.Limits.SMSPerUser = 3
	})
	for _, name := range []string{simulators.SMS, simulators.SMS2} {
		s.fault(t, name, simulators.Fault{Mode: simulators.Error})
	}
	d := s.start(t)
	for range 12 {
		expect(t, "event", dispatch(t, d, s.wanted(t, "alice")), undeliveredFor(events.UndeliveredDown))
	}
	expect(t, "calls of the first", len(s.Calls(simulators.SMS)), 2)
	expect(t, "calls of the second", len(s.Calls(simulators.SMS2)), 2)
	expect(t, "rows", s.states(t), []string{"intent", "intent"})
}

// An intent of an earlier delivery is not withdrawn while nobody can say what became of its message.
func TestOldIntentIsKept(t *testing.T) {
	s := newSite(t, func(c *config.Config) { c.Breaker = config.Breaker{Failures: 1, Open: time.Hour} })
	for _, name := range []string{simulators.SMS, simulators.SMS2} {
		s.fault(t, name, simulators.Fault{Mode: simulators.Error})
	}
	d := s.start(t)
	dispatch(t, d, s.wanted(t, "bob")) // opens both breakers
	e := s.wanted(t, "alice")
	s.intend(t, d, e)
	dispatch(t, d, e)
	expect(t, "rows", len(s.states(t)), 2)
}

// A worker that is stopped while a provider hangs does not say that the message was undelivered: the next one goes on.
func TestStopWhileSending(t *testing.T) {
	s := newSite(t)
	s.fault(t, simulators.SMS, simulators.Fault{Mode: simulators.Hang, Late: true})
	e := s.wanted(t, "alice")
	ctx, stop := context.WithCancel(t.Context())
	failed := make(chan error, 1)
	d := s.start(t)
	go func() {
		_, err := d.dispatch(ctx, e, e.Data.(*events.Wanted))
		failed <- err
	}()
	if err := s.WaitCall(t.Context(), simulators.SMS, simulators.OutcomePending); err != nil {
		t.Fatal(err)
	}
	if _, err := s.WaitMessage(t.Context(), phone, 1); err != nil {
		t.Fatal(err)
	}
	stop()
	if err := <-failed; !errors.Is(err, context.Canceled) {
		t.Errorf("error %v, want that of the context", err)
	}
	s.fault(t, simulators.SMS, simulators.Fault{Mode: simulators.None})
	dispatch(t, s.start(t), e)
	expect(t, "messages", len(s.Messages(phone)), 1)
}

// Fifty rounds at once, in two processes, never send more than the limits allow: per user, and per number of two users.
func TestLimitsUnderConcurrency(t *testing.T) {
	for name, users := range map[string][]string{"user": {"alice"}, "number": {"alice", "carol"}} {
		t.Run(name, func(t *testing.T) {
			s := newSite(t, func(c *config.Config) {
				c.Limits.SMSPerUser, c.Limits.SMSPerNumber = 7, 100
				if name == "number" {
					c.Limits.SMSPerUser, c.Limits.SMSPerNumber = 100, 7
				}
			})
			processes := []*dispatcher{s.start(t), s.start(t)}
			results := make(chan events.Data, 50)
			var group sync.WaitGroup
			for i := range cap(results) {
				e, d := s.wanted(t, users[i%len(users)]), processes[i%len(processes)]
				group.Go(func() {
					out, err := d.dispatch(t.Context(), e, e.Data.(*events.Wanted))
					if err != nil {
						t.Error(err)
						return
					}
					results <- out[0].Data
				})
			}
			group.Wait()
			close(results)
			sent, limited := 0, 0
			for data := range results {
				switch data := data.(type) {
				case *events.Challenged:
					sent++
				case *events.Undelivered:
					expect(t, "reason", data.Reason, events.UndeliveredLimited)
					limited++
				}
			}
			expect(t, "sent and limited", [2]int{sent, limited}, [2]int{7, 43})
			expect(t, "messages", len(s.Messages(phone)), 7)
		})
	}
}

func TestLimitsSlide(t *testing.T) {
	s := newSite(t, func(c *config.Config) { c.Limits.SMSPerUser = 2 })
	d := s.start(t)
	kind := func() string { return fmt.Sprintf("%T", dispatch(t, d, s.wanted(t, "alice"))) }
	got := []string{kind()}
	s.pass(30 * time.Minute)
	got = append(got, kind(), kind())
	s.pass(30 * time.Minute) // the first is an hour old
	got = append(got, kind(), kind())
	const yes, no = "*events.Challenged", "*events.Undelivered"
	expect(t, "course", got, []string{yes, yes, no, yes, no})
}

func (s *site) decoy(t *testing.T, user string) *events.Event {
	e := s.wanted(t, user)
	e.Data.(*events.Wanted).Decoy = true
	return e
}

// A decoy gets what a real user gets: a hint that stays the same, the same limits, the same outages. Nothing is sent.
func TestDecoy(t *testing.T) {
	s := newSite(t, func(c *config.Config) { c.Limits.SMSPerUser = 3 })
	d := s.start(t)
	first := dispatch(t, d, s.decoy(t, "ghost-1")).(*events.Challenged)
	again := dispatch(t, s.start(t), s.decoy(t, "ghost-1")).(*events.Challenged)
	other := dispatch(t, d, s.decoy(t, "ghost-2")).(*events.Challenged)
	real := dispatch(t, d, s.wanted(t, "alice")).(*events.Challenged)
	expect(t, "hint of a second try", again.Hint, first.Hint)
	if other.Hint == first.Hint {
		t.Error("two names have the same hint")
	}
	expect(t, "length of the hint", utf8.RuneCountInString(first.Hint), utf8.RuneCountInString(real.Hint))
	expect(t, "mask", first.Hint[:len(first.Hint)-4], real.Hint[:len(real.Hint)-4])
	first.Hint = real.Hint
	expect(t, "challenge", first, real)

	s.fault(t, simulators.SMS, simulators.Fault{Mode: simulators.Error})
	s.fault(t, simulators.SMS2, simulators.Fault{Mode: simulators.Error})
	expect(t, "real user in an outage", dispatch(t, d, s.wanted(t, "bob")), undeliveredFor(events.UndeliveredDown))
	expect(t, "decoy in an outage", dispatch(t, d, s.decoy(t, "ghost-1")), undeliveredFor(events.UndeliveredDown))
	expect(t, "decoy over the limit", dispatch(t, d, s.decoy(t, "ghost-1")), undeliveredFor(events.UndeliveredLimited))
	expect(t, "messages", len(s.Messages("")), 1)
}

// Who is a decoy in one login and challenged in another is shown the real number in that one only.
func TestDecoyOfAUser(t *testing.T) {
	s := newSite(t)
	d := s.start(t)
	real := dispatch(t, d, s.wanted(t, "alice")).(*events.Challenged)
	decoy := dispatch(t, d, s.decoy(t, "alice")).(*events.Challenged)
	if decoy.Hint == real.Hint {
		t.Error("the decoy has the user's hint")
	}
	expect(t, "hint after the decoy", dispatch(t, d, s.wanted(t, "alice")).(*events.Challenged).Hint, real.Hint)
	expect(t, "messages", len(s.Messages("")), 2)
}

// A decoy takes the time that the last real message took, and ends with its worker.
func TestDecoyTakesItsTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := &dispatcher{}
		d.last.Store(&course{took: 7 * time.Second, reason: "r"})
		start := time.Now()
		reason, err := d.pretend(t.Context())
		if took := time.Since(start); took != 7*time.Second || reason != "r" || err != nil {
			t.Errorf("%q, %v after %v", reason, err, took)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := d.pretend(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%v, want that of the context", err)
		}
	})
}

func TestTexts(t *testing.T) {
	longest := strings.Repeat("x", 37)
	for locale, room := range map[string]int{"ja": 70, "en": 160, "": 70} {
		body := text(locale, longest, "123456")
		if n := utf8.RuneCountInString(body); n > room || !strings.HasPrefix(body, "123456 ") || !strings.Contains(body, longest) {
			t.Errorf("%q: %d characters of %d: %s", locale, n, room, body)
		}
	}
}

// On the real bus, with the first provider down: one challenge, by the second.
func TestOnTheBus(t *testing.T) {
	s := newSite(t)
	s.fault(t, simulators.SMS, simulators.Fault{Mode: simulators.Error})
	broker := testenv.NATS(t)
	s.env.Metrics, s.env.Bus = prometheus.NewRegistry(), broker.Bus(t, Name, func(c *bus.Config) { c.Now = s.clock })
	worker, err := Build(t.Context(), s.env)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(worker.Close)
	testenv.Start(t, s.env.Bus, worker.Handlers...)
	e := s.wanted(t, "alice")
	broker.Publish(t, e)
	challenged := broker.Await(t, e.Login, events.StepChallenged, 1)
	expect(t, "by", challenged.By, Name)
	expect(t, "cause", challenged.Cause, e.ID())
	expect(t, "deadline", challenged.Expires.Equal(e.Expires), true)
	expect(t, "messages", len(s.Messages(phone)), 1)
}

// Messages in a second with a provider that takes 200 ms, as many at a time as the default setting allows.
func BenchmarkDispatch(b *testing.B) {
	s := newSite(b)
	s.fault(b, simulators.SMS, simulators.Fault{Mode: simulators.Slow, Delay: 200 * time.Millisecond})
	const users = 5000
	s.sql(b, `INSERT INTO directory.users (id, name, locale, primary_method, enabled, locked, created_at, changed_at)
		SELECT 'u' || n, 'u' || n, 'ja', 'password', true, false, now(), now() FROM generate_series(1, $1) n`, users)
	s.sql(b, `INSERT INTO directory.phones (user_id, number, changed_at)
		SELECT 'u' || n, '+8190' || 10000000 + n, now() FROM generate_series(1, $1) n`, users)
	d := s.start(b)
	rounds := make(chan *events.Event, b.N)
	for i := range b.N {
		rounds <- s.wanted(b, fmt.Sprintf("u%d", 1+i%users))
	}
	close(rounds)
	b.ResetTimer()
	var group sync.WaitGroup
	for range s.env.Config.SMS.Concurrency {
		group.Go(func() {
			for e := range rounds {
				if _, ok := dispatch(b, d, e).(*events.Challenged); !ok {
					b.Error("not challenged")
				}
			}
		})
	}
	group.Wait()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "messages/s")
}
