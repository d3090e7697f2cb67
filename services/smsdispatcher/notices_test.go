package smsdispatcher

import (
	"bytes"
	"context"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode/utf8"

	cloudevents "github.com/cloudevents/sdk-go/v2/event"
	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"

	"github.com/sekisho/sekisho/events"
	"github.com/sekisho/sekisho/services/internal/bus"
	"github.com/sekisho/sekisho/services/internal/config"
	"github.com/sekisho/sekisho/services/internal/testenv"
	"github.com/sekisho/sekisho/services/simulators"
)

const added = "device-enrolled"

// notices are those of another process.
func (s *site) notices(t *testing.T) *notices {
	t.Helper()
	return newNotices(s.env, s.start(t), 0)
}

// changed is a change of an account as it is stored.
func (s *site) changed(kind, user string) bus.Stored {
	ce := cloudevents.New()
	ce.SetID(uuid.NewString())
	ce.SetSource("console")
	ce.SetType("sekisho.account." + kind + ".v1")
	ce.SetTime(s.clock())
	msg := events.WriteMessage("account."+kind+"."+user, ce)
	return bus.Stored{Stream: "ACCOUNT", Time: s.clock(), Subject: msg.Subject, Header: msg.Header, Data: msg.Data}
}

func (n *notices) hear(t *testing.T, changes ...bus.Stored) {
	t.Helper()
	if err := n.intend(t.Context(), changes); err != nil {
		t.Fatal(err)
	}
}

// work tries what is due, and returns how many that were.
func (n *notices) work(t *testing.T) int {
	t.Helper()
	count, err := n.sendDue(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return count
}

// told are the states of all notices, in the order of their creation.
func (s *site) told(t *testing.T) []string {
	t.Helper()
	rows, err := s.admin.Query(t.Context(), `SELECT trim(state || ' ' || provider) FROM sms.notices ORDER BY created_at, user_id, state`)
	if err != nil {
		t.Fatal(err)
	}
	states, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		t.Fatal(err)
	}
	return states
}

func TestNoticeTexts(t *testing.T) {
	at := time.Date(2026, 9, 28, 23, 59, 0, 0, time.FixedZone("", 9*3600))
	for locale, want := range map[string]struct {
		room int
		time string
	}{"ja": {70, "09/28 14:59(UTC)"}, "en": {160, "28 September at 14:59 UTC"}, "": {70, "09/28 14:59(UTC)"}} {
		seen := map[string]bool{}
		for _, kind := range []string{added, "device-removed"} {
			body := noticeText(locale, kind, at)
			if n := utf8.RuneCountInString(body); n > want.room || !strings.Contains(body, want.time) || strings.Contains(body, "%!") || seen[body] {
				t.Errorf("%q %s: %d characters of %d: %s", locale, kind, n, want.room, body)
			}
			seen[body] = true
		}
	}
}

// Each change is told once, in the user's language, whatever a process had done when it died.
func TestNoticeIsToldOnce(t *testing.T) {
	for name, tc := range map[string]struct {
		before func(t *testing.T, s *site, n *notices, change bus.Stored)
		rows   string
	}{
		"nothing written":       {func(*testing.T, *site, *notices, bus.Stored) {}, "accepted karaden"},
		"written, not acked":    {func(t *testing.T, _ *site, n *notices, change bus.Stored) { n.hear(t, change) }, "accepted karaden"},
		"written twice at once": {func(t *testing.T, _ *site, n *notices, change bus.Stored) { n.hear(t, change, change) }, "accepted karaden"},
		"claimed, not sent": {func(t *testing.T, s *site, n *notices, change bus.Stored) {
			n.hear(t, change)
			s.claimed(t)
		}, "accepted karaden"},
		"sent by the first, not recorded": {func(t *testing.T, s *site, n *notices, change bus.Stored) {
			n.hear(t, change)
			n.work(t)
			s.claimed(t)
		}, "sent karaden"}, // the simulator moves a message on when it is read
		"sent by the second, not recorded": {func(t *testing.T, s *site, n *notices, change bus.Stored) {
			n.hear(t, change)
			s.fault(t, simulators.SMS, simulators.Fault{Mode: simulators.Error})
			n.work(t)
			s.fault(t, simulators.SMS, simulators.Fault{Mode: simulators.None})
			s.claimed(t)
		}, "sent twilio"},
		"recorded": {func(t *testing.T, _ *site, n *notices, change bus.Stored) {
			n.hear(t, change)
			n.work(t)
		}, "accepted karaden"},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSite(t)
			change := s.changed(added, "alice")
			tc.before(t, s, s.notices(t), change)
			next := s.notices(t)
			next.hear(t, change)
			next.work(t)
			messages := s.Messages(phone)
			expect(t, "messages", len(messages), 1)
			expect(t, "body", messages[0].Body, noticeText("ja", added, change.Time))
			if rows := s.told(t); len(rows) != 1 || rows[0] != tc.rows && rows[0] != strings.Replace(tc.rows, "sent", "accepted", 1) {
				t.Errorf("rows: %q, want %q", rows, tc.rows)
			}
			s.pass(noticeFor / 2)
			expect(t, "due after that", next.work(t), 0)
		})
	}
}

// claimed leaves the row as a process does that dies between its claim and its record, when its time is over.
func (s *site) claimed(t *testing.T) {
	s.sql(t, `UPDATE sms.notices SET state = 'intent', provider = '', provider_id = '', tries = 1, due_at = $1`, s.clock())
}

func TestNoticeInEnglish(t *testing.T) {
	s := newSite(t)
	s.sql(t, `UPDATE directory.users SET locale = 'en' WHERE id = 'alice'`)
	n, change := s.notices(t), s.changed("device-removed", "alice")
	n.hear(t, change)
	n.work(t)
	expect(t, "body", s.Messages(phone)[0].Body, noticeText("en", "device-removed", change.Time))
}

// Two processes never try one notice at the same time, nor exceed the limit together.
func TestNoticesAreShared(t *testing.T) {
	s := newSite(t, func(c *config.Config) { c.Limits.NoticesPerUser = 20 })
	processes := []*notices{s.notices(t), s.notices(t)}
	changes := make([]bus.Stored, 30)
	for i := range changes {
		changes[i] = s.changed(added, "alice")
	}
	var group sync.WaitGroup
	for i, n := range processes {
		group.Go(func() {
			if err := n.intend(t.Context(), changes[10*i:10*i+20]); err != nil {
				t.Error(err)
			}
			if _, err := n.sendDue(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
	group.Wait()
	expect(t, "messages", len(s.Messages(phone)), 20)
}

// What another process has under way is left to it, and what it is counting is waited for.
func TestNoticesAreLocked(t *testing.T) {
	s := newSite(t, func(c *config.Config) { c.Limits.NoticesPerUser = 2 })
	n := s.notices(t)
	n.hear(t, s.changed(added, "alice"))
	other, err := s.admin.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer other.Rollback(context.Background())
	for _, statement := range []string{
		`SELECT 1 FROM sms.notices FOR UPDATE`,
		`SELECT pg_advisory_xact_lock(` + strconv.FormatInt(lockKey("notices", nil), 10) + `)`,
		`INSERT INTO sms.notices (event, user_id, kind, state, changed_at, created_at)
			SELECT gen_random_uuid(), user_id, kind, state, changed_at, created_at FROM sms.notices`,
	} {
		if _, err := other.Exec(t.Context(), statement); err != nil {
			t.Fatal(err)
		}
	}
	ctx, stop := context.WithTimeout(t.Context(), 20*time.Second)
	defer stop()
	if count, err := n.sendDue(ctx); count != 0 || err != nil {
		t.Errorf("%d were due, %v", count, err)
	}
	done := make(chan error, 1)
	change := s.changed(added, "alice")
	go func() { done <- n.intend(ctx, []bus.Stored{change}) }()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for waiting := 0; waiting == 0; {
		select {
		case err := <-done:
			t.Fatalf("did not wait: %v", err)
		case <-tick.C:
		}
		if err := s.admin.QueryRow(ctx, `SELECT count(*) FROM pg_locks JOIN pg_database d ON d.oid = database
			WHERE d.datname = current_database() AND locktype = 'advisory' AND NOT granted`).Scan(&waiting); err != nil {
			t.Fatal(err)
		}
	}
	if err := other.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	expect(t, "rows", s.told(t), []string{"dropped", "intent", "intent"})
}

func TestNoticeFailover(t *testing.T) {
	s := newSite(t)
	s.fault(t, simulators.SMS, simulators.Fault{Mode: simulators.Error})
	n := s.notices(t)
	n.hear(t, s.changed(added, "alice"))
	n.work(t)
	expect(t, "rows", s.told(t), []string{"accepted twilio"})
	expect(t, "counted", n.counted("twilio", StateAccepted), 1.0)
}

// A notice that nobody takes is tried ever more rarely, for a day.
func TestNoticeOutlastsAnOutage(t *testing.T) {
	s := newSite(t, func(c *config.Config) { c.Breaker.Failures = 1000 })
	outage := func(mode simulators.Mode) {
		for _, name := range []string{simulators.SMS, simulators.SMS2} {
			s.fault(t, name, simulators.Fault{Mode: mode})
		}
	}
	outage(simulators.Error)
	n := s.notices(t)
	n.hear(t, s.changed(added, "alice"))
	tries := func(d time.Duration) (count int) {
		for end := s.clock().Add(d); s.clock().Before(end); s.pass(time.Minute) {
			count += n.work(t)
		}
		return count
	}
	expect(t, "tries in an hour", tries(time.Hour), 6) // in minutes: 0, 1, 3, 7, 15, 31
	expect(t, "rows", s.told(t), []string{"intent"})
	outage(simulators.None)
	expect(t, "tries in the next", tries(time.Hour), 1)
	expect(t, "messages", len(s.Messages(phone)), 1)

	outage(simulators.Error)
	n.hear(t, s.changed(added, "alice"))
	tries(noticeFor + noticeRetryMost)
	expect(t, "rows after a day", s.told(t)[1], "failed")
	outage(simulators.None)
	expect(t, "tries after a day", tries(2*time.Hour), 0)
	expect(t, "messages", len(s.Messages(phone)), 1)
}

// A number that all providers refuse is tried once, and is nobody else's trouble.
func TestNoticeToABadNumber(t *testing.T) {
	s := newSite(t, func(c *config.Config) { c.SMS.Providers = c.SMS.Providers[:1] })
	s.sql(t, `UPDATE directory.phones SET number = '+12025550123' WHERE user_id = 'alice'`) // not Japanese
	n := s.notices(t)
	n.hear(t, s.changed(added, "alice"), s.changed(added, "bob"))
	expect(t, "due", n.work(t), 2)
	expect(t, "rows", s.told(t), []string{"failed", "accepted karaden"})
}

func TestNoticeForNobody(t *testing.T) {
	s := newSite(t)
	n := s.notices(t)
	n.hear(t, s.changed(added, "dora"), s.changed(added, "ghost"))
	n.work(t)
	expect(t, "messages", len(s.Messages("")), 0)
	expect(t, "rows", s.told(t), []string{"dropped", "dropped"})
}

// What tells of no phone, is too old, or is no event of ours, makes no notice and holds nothing up.
func TestWhatIsNotTold(t *testing.T) {
	s := newSite(t)
	old, odd, nameless := s.changed(added, "alice"), s.changed(added, "alice"), s.changed(added, "alice")
	old.Time = s.clock().Add(-noticeFor)
	odd.Subject = "account." + added + ".\xff"
	nameless.Header.Set("ce-id", "1")
	n := s.notices(t)
	n.hear(t, old, odd, nameless, s.changed("device-renamed", "alice"), s.changed("locked", "alice"), bus.Stored{Subject: "account.x", Time: s.clock()})
	expect(t, "rows", s.told(t), []string{})
}

// The limit holds over batches and processes, for one user at a time; it takes nothing from codes, nor they from it.
func TestNoticeLimit(t *testing.T) {
	s := newSite(t, func(c *config.Config) { c.Limits.NoticesPerUser, c.Limits.SMSPerUser, c.Limits.SMSPerNumber = 5, 1, 1 })
	var log bytes.Buffer
	s.env.Log = zerolog.New(&log)
	first, second := s.notices(t), s.notices(t)
	many := func(count int) (changes []bus.Stored) {
		for range count {
			changes = append(changes, s.changed(added, "alice"))
		}
		return changes
	}
	batch := many(4)
	first.hear(t, batch...)
	s.pass(limitWindow / 2)
	again := append(batch[:1:1], many(3)...)
	second.hear(t, append(again, s.changed(added, "bob"))...)
	if !strings.Contains(log.String(), `"notices":2`) || strings.Contains(log.String(), "alice") {
		t.Errorf("log: %s", log.String())
	}
	second.hear(t, again...) // once dropped, for ever
	first.work(t)
	expect(t, "messages to alice", len(s.Messages(phone)), 5)
	expect(t, "all messages", len(s.Messages("")), 6)
	if _, ok := dispatch(t, first.dispatcher, s.wanted(t, "alice")).(*events.Challenged); !ok {
		t.Error("no code for alice")
	}
	s.pass(limitWindow / 2)
	second.hear(t, append(again, many(6)...)...)
	second.work(t)
	expect(t, "messages when four are an hour old", len(s.Messages(phone)), 5+1+4)
}

func TestNoticesArePurged(t *testing.T) {
	s := newSite(t, func(c *config.Config) { c.SMS.Keep = time.Hour })
	n := s.notices(t)
	change := s.changed(added, "alice")
	n.hear(t, change)
	n.work(t)
	for _, left := range []int{1, 0} {
		s.pass(noticeFor/2 + time.Second)
		if err := n.deliveries.purge(t.Context()); err != nil {
			t.Fatal(err)
		}
		n.hear(t, change)
		n.work(t)
		expect(t, "rows", len(s.told(t)), left)
	}
	expect(t, "messages", len(s.Messages(phone)), 1)
}

// On the real bus, through an outage: the text arrives, and nothing personal is in it or in the log.
func TestNoticeOnTheBus(t *testing.T) {
	s := newSite(t)
	s.sql(t, `INSERT INTO directory.users (id, name, locale, primary_method, enabled, locked, created_at, changed_at)
		VALUES ('U1', 'name.canary', 'en', 'password', true, false, now(), now())`)
	s.sql(t, `INSERT INTO directory.phones (user_id, number, changed_at) VALUES ('U1', '+819055554444', now())`)
	for _, name := range []string{simulators.SMS, simulators.SMS2} {
		s.fault(t, name, simulators.Fault{Mode: simulators.Garbage})
	}
	var log bytes.Buffer
	s.env.Log = zerolog.New(zerolog.SyncWriter(&log))
	broker := testenv.NATS(t)
	s.env.Metrics = prometheus.NewRegistry()
	s.env.Bus = broker.Bus(t, Name, func(c *bus.Config) { c.Now, c.Log = s.clock, s.env.Log })
	worker, err := Build(t.Context(), s.env)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithTimeout(t.Context(), 30*time.Second)
	defer stop()
	var running sync.WaitGroup
	for _, run := range worker.Run {
		running.Go(func() {
			if err := run(ctx); err != nil {
				t.Error(err)
			}
		})
	}
	console := broker.Bus(t, "console")
	said := bus.AccountEvent{ID: uuid.NewString(), Source: "console", Kind: added, User: "U1", Data: []byte(`{"device":"device.canary"}`), Time: s.clock()}
	for range 2 { // as by a relay that did not learn that the broker had it
		if err := console.Account(t.Context(), said); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.WaitCall(ctx, simulators.SMS2, string(simulators.Garbage)); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{simulators.SMS, simulators.SMS2} {
		s.fault(t, name, simulators.Fault{Mode: simulators.None})
	}
	s.pass(noticeRetryMost)
	got, err := s.WaitMessage(ctx, "+819055554444", 1)
	if err != nil {
		t.Fatal(err)
	}
	stop()
	running.Wait()
	worker.Close()
	expect(t, "rows", len(s.told(t)), 1)
	if log.Len() == 0 {
		t.Error("nothing was logged of the outage")
	}
	for name, text := range map[string]string{"the message": got[0].Body, "the log": log.String()} {
		for _, personal := range []string{"canary", "5555", "U1"} {
			if strings.Contains(text, personal) {
				t.Errorf("%s has %s: %s", name, personal, text)
			}
		}
	}
}
