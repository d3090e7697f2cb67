package pushnotifier

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/sekisho/sekisho/events"
	"github.com/sekisho/sekisho/services/internal/bus"
	"github.com/sekisho/sekisho/services/internal/config"
	"github.com/sekisho/sekisho/services/internal/directory"
	"github.com/sekisho/sekisho/services/simulators"
)

func unseen(l *login) { l.unseen = true }

// warned is the one notice that a phone gets.
func (p *phone) warned(t testing.TB) noticeView {
	t.Helper()
	var notices []noticeView
	eventually(t, "a notice", func() bool {
		notices = fetch(t, p).Notices
		return len(notices) > 0
	})
	if len(notices) != 1 || notices[0].Kind != unknownEnvironment {
		t.Fatalf("%+v", notices)
	}
	return notices[0]
}

func (p *phone) heed(t testing.TB, notice noticeView, decision string) int {
	t.Helper()
	status, _ := p.ask(t, "POST", "/v1/authenticator/notices/"+notice.ID, map[string]string{"decision": decision})
	return status
}

func (s *site) alerts(t testing.TB) (n uint64) {
	t.Helper()
	js, err := jetstream.New(s.broker.Dial(t, bus.UserSetup))
	check(t, err)
	stream, err := js.Stream(t.Context(), "ACCOUNT")
	check(t, err)
	info, err := stream.Info(t.Context(), jetstream.WithSubjectFilter("alert.not-me.alice"))
	check(t, err)
	return info.State.Subjects["alert.not-me.alice"]
}

func (s *site) cooled(t testing.TB) bool {
	t.Helper()
	return s.count(t, `SELECT count(*) FROM push.cooldowns WHERE user_id = 'alice' AND until > $1`, s.clock()) == 1
}

// granted gives the login a session and closes it.
func (l *login) granted(t testing.TB) {
	t.Helper()
	l.sql(t, `INSERT INTO sessions.sessions (gateway, login, user_id, app, amr, acr, auth_time, created_at, last_seen, idle_seconds, expires_at)
		VALUES ('web', $1, 'alice', 'demo', '{pwd}', '1fa', now(), now(), now(), 3600, now() + interval '1 hour')`, l.ID)
	l.close(t, &events.Closed{Outcome: events.Granted, App: "demo", User: "alice", AMR: []string{"pwd"}, ACR: "1fa",
		AuthTime: l.clock(), Expires: l.clock().Add(time.Hour)})
}

func (l *login) close(t testing.TB, closed *events.Closed) {
	t.Helper()
	closed.Decision = events.Decision{Policy: "p", Facts: events.Facts{Now: l.clock(), Enabled: true}, After: l.EventID(events.StepAssessed, 0)}
	l.say(t, "sessionissuer", 0, closed)
}

func (l *login) revoked(t testing.TB) bool {
	t.Helper()
	return l.count(t, `SELECT count(*) FROM sessions.sessions WHERE login = $1 AND revoked_by = 'not_me'`, l.ID) == 1
}

func TestUnknownEnvironment(t *testing.T) {
	s := newSite(t)
	n := s.serve(t)
	first, second, bob := s.phone(t, "alice"), s.phone(t, "alice"), s.phone(t, "bob")
	first.push(t, n, "alice", simulators.WebPush)
	names := events.Names{EN: "Demo", JA: "デモ"}
	l := s.login(t, "alice", unseen, func(l *login) { l.prompt.Names = names })
	for range 2 { // a redelivery tells nothing twice
		check(t, n.heed(t.Context(), l.alert(t)))
	}
	notice := first.warned(t)
	expect(t, "notice", []string{notice.App, notice.Place, notice.Browser}, []string{"demo", "place.canary", "browser.canary"})
	expect(t, "names", notice.AppNames, names)
	messages, err := s.far.WaitPush(t.Context(), "alice", 2)
	check(t, err)
	expect(t, "the same topic", messages[0].Topic, messages[1].Topic)
	expect(t, "bob's", len(fetch(t, bob).Notices), 0)
	other := second.warned(t)
	expect(t, "another device's notice", second.heed(t, notice, "seen"), 404)
	expect(t, "seen", first.heed(t, notice, "seen"), 204)
	expect(t, "after that", len(fetch(t, first).Notices), 0)
	expect(t, "on the other phone", second.warned(t), other)

	decoy := s.login(t, "alice", func(l *login) { l.decoy = true })
	check(t, n.heed(t.Context(), decoy.alert(t)))
	expect(t, "after a decoy", len(fetch(t, first).Notices), 0)
	another := s.login(t, "bob").alert(t)
	another.Subject = "alert.unknown-environment.alice"
	check(t, n.heed(t.Context(), another))
	expect(t, "of another user's login", len(fetch(t, first).Notices), 0)
}

// alert is what riskassessor says of a login from an environment that is new.
func (l *login) alert(t testing.TB) bus.Stored {
	t.Helper()
	data, err := json.Marshal(map[string]string{"login": l.String(), "app": "demo"})
	check(t, err)
	return bus.Stored{Stream: "ACCOUNT", Sequence: 1, Time: l.clock(), Subject: "alert.unknown-environment." + l.user, Data: data}
}

// The phone that says of a login whether it is the user's is not asked again, whenever the alert arrives. All others are asked.
func TestUnknownEnvironmentAnsweredHere(t *testing.T) {
	for _, decision := range []string{approve, notMe, deny} {
		t.Run(decision, func(t *testing.T) {
			s := newSite(t)
			n := s.serve(t)
			first, second := s.phone(t, "alice"), s.phone(t, "alice")
			earlier, l := s.login(t, "alice", unseen), s.login(t, "alice", unseen)
			for _, each := range []*login{earlier, l} {
				check(t, n.heed(t.Context(), each.alert(t)))
			}
			l.challenged(t, n, 1)
			asked := first.asked(t)
			for range 2 * 3 { // two notices and a prompt on two phones
				<-s.hints
			}
			status, _ := first.ask(t, "POST", "/v1/authenticator/prompts", map[string]string{"assertion": first.assertion(t, asked, decision, number)})
			expect(t, "answer", status, 200)
			left, hear := 1, []string{first.id, second.id}
			if decision == deny { // which does not say who it was
				left, hear = 2, []string{second.id}
			}
			eventually(t, "who is concerned hears of it", func() bool { return len(s.hints) == len(hear) })
			var heard []string
			for range hear {
				heard = append(heard, <-s.hints)
			}
			slices.Sort(hear)
			slices.Sort(heard)
			expect(t, "who hears of it", heard, hear)
			expect(t, "notices here", len(fetch(t, first).Notices), left)
			expect(t, "notices on the other phone", len(fetch(t, second).Notices), 2)
			expect(t, "disowned", s.count(t, `SELECT count(*) FROM push.notices WHERE disowned`), 0)

			late := s.login(t, "alice")
			if decision != approve {
				return
			}
			late.challenged(t, n, 1)
			expect(t, "answer", first.answer(t, first.assertion(t, first.asked(t), approve, number)), "approved 3")
			check(t, n.heed(t.Context(), late.alert(t)))
			expect(t, "notices here, of an alert that comes later", len(fetch(t, first).Notices), left)
			expect(t, "on the other phone", len(fetch(t, second).Notices), 3)
		})
	}
}

// Of a login whose time in the stream is over only the alert is left, and the phone is told all the same.
func TestUnknownEnvironmentOfAnOldLogin(t *testing.T) {
	s := newSite(t)
	n := s.serve(t)
	p := s.phone(t, "alice")
	id, err := events.NewLogin("web")
	check(t, err)
	said := (&login{site: s, Login: id, user: "alice"}).alert(t)
	s.pass(events.MaxDeadline + time.Minute)
	check(t, n.heed(t.Context(), said))
	notice := p.warned(t)
	expect(t, "notice", []string{notice.App, notice.Place, notice.Browser}, []string{"demo", "", ""})
	expect(t, "answer", p.heed(t, notice, notMe), 204)
	expect(t, "cooled down", s.cooled(t), true)
}

// rung is of how many notices about logins phones were woken.
func (s *site) rung(t testing.TB) int {
	t.Helper()
	return s.count(t, `SELECT count(DISTINCT cause) FROM push.notices WHERE kind = 'unknown_environment' AND rings`)
}

// unknown makes n logins of a user from environments that are new, and returns what is said of them.
func (s *site) unknown(t testing.TB, user string, n int) (said []bus.Stored) {
	t.Helper()
	for range n {
		id, err := events.NewLogin("web")
		check(t, err)
		said = append(said, (&login{site: s, Login: id, user: user}).alert(t))
	}
	s.pass(events.MaxDeadline + time.Minute) // so nobody waits for their events, which are not there
	return said
}

// Whoever begins many logins in a user's name lets their phones ring no more often than pushes may, in whatever processes; each is
// in the list all the same.
func TestNoticesOfLoginsRingSeldom(t *testing.T) {
	s := newSite(t, func(c *config.Config) { c.Limits.PushPerUser = 3 })
	instances := []*notifier{s.serve(t), s.start(t)}
	n := instances[0]
	p, bob := s.phone(t, "alice"), s.phone(t, "bob")
	p.push(t, n, "alice", simulators.WebPush)
	bob.push(t, n, "bob", simulators.WebPush)
	s.phone(t, "alice") // another phone makes no login two
	said := s.unknown(t, "alice", 12)
	results := make(chan error, len(said))
	for i, message := range said {
		go func() { results <- instances[i%2].heed(t.Context(), message) }()
	}
	for range said {
		check(t, <-results)
	}
	expect(t, "notices", len(fetch(t, p).Notices), len(said))
	expect(t, "rung", s.rung(t), 3)
	woken := func(want int) {
		t.Helper()
		messages, err := s.far.WaitPush(t.Context(), "alice", want)
		check(t, err)
		expect(t, "messages", len(messages), want)
	}
	woken(3)
	for range len(said) * 2 { // to both phones
		<-s.hints
	}
	for _, message := range said { // the same again, as after a crash: what rang rings again, and nothing else
		check(t, n.heed(t.Context(), message))
	}
	expect(t, "rung", s.rung(t), 3)
	woken(6)

	check(t, n.heed(t.Context(), s.unknown(t, "bob", 1)[0]))
	_, err := s.far.WaitPush(t.Context(), "bob", 1)
	check(t, err)
	check(t, n.changed(t.Context(), deviceEnrolled, directory.Device{ID: "x", User: "alice", Name: "thief"}, "x", ""))
	woken(7)
}

// A notice rings again once limitWindow is over since another did. Those that did not ring do not count.
func TestNoticesOfLoginsRingAgain(t *testing.T) {
	s := newSite(t, func(c *config.Config) { c.Limits.PushPerUser = 2 })
	n := s.start(t)
	p := s.phone(t, "alice")
	said := s.unknown(t, "alice", 6)
	rung := func(message bus.Stored, want int) {
		t.Helper()
		check(t, n.heed(t.Context(), message))
		expect(t, "rung", s.rung(t), want)
	}
	rung(said[0], 1)
	s.pass(time.Minute)
	rung(said[1], 2)
	s.pass(limitWindow - time.Minute - time.Millisecond)
	rung(said[2], 2)
	s.pass(time.Millisecond)
	rung(said[3], 3)
	rung(said[4], 3)
	s.pass(time.Minute)
	rung(said[5], 4)
	expect(t, "rows", s.count(t, `SELECT count(*) FROM push.notices WHERE device = $1`, p.id), len(said))
}

// A thief who adds a phone hides that behind no number of logins.
func TestNoticesOfDevicesComeFirst(t *testing.T) {
	s := newSite(t)
	n := s.serve(t)
	p := s.phone(t, "alice")
	said := s.unknown(t, "alice", maxNotices+1)
	for _, cause := range []string{"x", "y"} {
		check(t, n.changed(t.Context(), deviceEnrolled, directory.Device{User: "alice", Name: cause}, cause, ""))
		s.pass(time.Second)
	}
	for _, message := range said {
		check(t, n.heed(t.Context(), message))
		s.pass(time.Second)
	}
	notices := fetch(t, p).Notices
	expect(t, "notices", len(notices), maxNotices)
	expect(t, "the first", []string{notices[0].Device, notices[1].Device, notices[2].Kind}, []string{"y", "x", unknownEnvironment})
	for i := 3; i < len(notices); i++ {
		if notices[i].Kind != unknownEnvironment || !notices[i].At.Before(notices[i-1].At) {
			t.Errorf("%d after %+v: %+v", i, notices[i-1], notices[i])
		}
	}
}

// However many notices nobody has seen, those that an answer settles are looked up one by one: also by a plan that was made before
// PostgreSQL knew anything of the table.
func TestNoticesAreFoundByKey(t *testing.T) {
	s := newSite(t)
	s.sql(t, `INSERT INTO push.notices (id, user_id, device, kind, cause, created_at)
		SELECT 'n' || i, 'u', 'd' || i, $1, 'c' || i, now() FROM generate_series(1, 1000) i`, unknownEnvironment)
	conn, err := s.env.DB.Acquire(t.Context())
	check(t, err)
	defer conn.Release()
	_, err = conn.Exec(t.Context(), "PREPARE see_all AS "+seeAll)
	check(t, err)
	rows, err := conn.Query(t.Context(), "EXPLAIN (COSTS OFF) EXECUTE see_all (NULL, NULL, NULL, NULL)", pgx.QueryExecModeSimpleProtocol)
	check(t, err)
	plan, err := pgx.CollectRows(rows, pgx.RowTo[string])
	check(t, err)
	if text := strings.Join(plan, "\n"); !strings.Contains(text, "Index Cond: ((device = q.device) AND (kind = $3) AND (cause = q.cause))") {
		t.Errorf("plan:\n%s", text)
	}
}

// Whatever else is in ACCOUNT, malformed alerts too, is passed over, and what comes with it in a batch is told once.
func TestFollow(t *testing.T) {
	s := newSite(t)
	p := s.phone(t, "alice")
	nc := s.broker.Dial(t, bus.UserSetup)
	js, err := jetstream.New(nc)
	check(t, err)
	say := func(subject, data string) {
		t.Helper()
		_, err := js.Publish(t.Context(), subject, []byte(data))
		check(t, err)
	}
	old, err := events.NewLogin("web")
	check(t, err)
	for _, data := range []string{``, `x`, `{}`, `{"login":"web/x","app":"demo"}`, `{"login":"` + old.String() + `"}`, `{"app":"demo"}`,
		`{"login":"` + old.String() + `","app":"` + strings.Repeat("x", maxApp+1) + `"}`, `{"login":"` + old.String() + `","app":"demo\u0000"}`, `{"login":["` + old.String() + `"],"app":"demo"}`} {
		say("alert.unknown-environment.alice", data)
	}
	say("alert.unknown-environment.alice.x", `{"login":"`+old.String()+`","app":"demo"}`)
	say("alert.another.alice", `{"login":"`+old.String()+`","app":"demo"}`)
	say("account.device-removed.alice", `x`)
	say("account.locked.alice", ``)
	say("account.device-enrolled.alice", `{"device":"another"}`) // and no CloudEvent
	l := s.login(t, "alice", unseen)
	said := l.alert(t)
	say(said.Subject, string(said.Data)) // the same again, as by a redelivered event of riskassessor
	s.run(t)
	notice := p.warned(t)
	expect(t, "notice", []string{notice.App, notice.Place, notice.Browser}, []string{"demo", "place.canary", "browser.canary"})
	stream, err := js.Consumer(t.Context(), "ACCOUNT", "pushnotifier-account")
	check(t, err)
	eventually(t, "everything is acked", func() bool {
		info, err := stream.Info(t.Context())
		check(t, err)
		return info.NumPending == 0 && info.NumAckPending == 0
	})
	expect(t, "notices", s.count(t, `SELECT count(*) FROM push.notices`), 1)
}

func TestNotMe(t *testing.T) {
	s := newSite(t, func(c *config.Config) { c.Push.Cooldown = 2 * time.Minute }) // shorter than a login lasts here
	s.run(t)
	p := s.phone(t, "alice")
	l := s.login(t, "alice")
	l.wanted(t, 1)
	l.event(t, events.StepChallenged, 1)
	expect(t, "result", p.answer(t, p.assertion(t, p.asked(t), notMe, "")), "denied 3")
	expect(t, "verdict", l.verdict(t, 1), "not_me 4")
	expect(t, "alerts", s.alerts(t), uint64(1))
	expect(t, "cooled down", s.cooled(t), true)
	l.close(t, &events.Closed{Outcome: events.Denied})

	next := s.login(t, "alice")
	next.wanted(t, 1)
	expect(t, "the next push", next.event(t, events.StepUndelivered, 1).Data.(*events.Undelivered).Reason, events.UndeliveredLimited)
	s.pass(s.env.Config.Push.Cooldown)
	later := s.login(t, "alice")
	later.wanted(t, 1)
	later.event(t, events.StepChallenged, 1)
}

// Another login of the user, by a password say, that nobody is asked about.
func TestOpenLoginIsDisowned(t *testing.T) {
	s := newSite(t)
	s.run(t)
	p := s.phone(t, "alice")
	l := s.login(t, "alice", unseen)
	expect(t, "answer", p.heed(t, p.warned(t), notMe), 204)
	expect(t, "verdict", l.verdict(t, 1), "not_me 4")
	expect(t, "alerts", s.alerts(t), uint64(1))
	expect(t, "cooled down", s.cooled(t), true)
	l.granted(t) // decided a moment before: it is too late for another ending, not for the session
	eventually(t, "the session is ended", func() bool { return l.revoked(t) })
}

func TestGrantedLoginIsDisowned(t *testing.T) {
	s := newSite(t)
	s.run(t)
	p := s.phone(t, "alice")
	l := s.login(t, "alice", unseen)
	notice := p.warned(t)
	l.granted(t)
	for range 2 { // somebody who presses twice, or whose answer was lost
		expect(t, "answer", p.heed(t, notice, notMe), 204)
	}
	expect(t, "revoked", l.revoked(t), true)
	expect(t, "told to the gateway", s.recordedRevocation(t, l), true)
	expect(t, "cooled down", s.cooled(t), true)
	expect(t, "answered", l.has(t, events.StepAnswered, 1), false)
}

func (s *site) recordedRevocation(t testing.TB, l *login) bool {
	t.Helper()
	js, err := jetstream.New(s.broker.Dial(t, bus.UserSetup))
	check(t, err)
	stream, err := js.Stream(t.Context(), "SESSION")
	check(t, err)
	_, err = stream.GetLastMsgForSubject(t.Context(), "session.revoked.web."+l.ID)
	return err == nil
}

// "This was not me" counts also where another answer has decided the round a moment before.
func TestNotMeAfterAnApproval(t *testing.T) {
	s, n, p, l := prompted(t)
	asked := p.asked(t)
	challenge := l.event(t, events.StepChallenged, 1)
	for _, token := range []string{p.assertion(t, asked, approve, number), p.assertion(t, asked, notMe, "")} {
		history, err := n.bus.Login(t.Context(), l.Login)
		check(t, err)
		_, _, err = n.take(t.Context(), history, challenge, 1, events.Response{Assertion: token})
		check(t, err)
	}
	s.run(t)
	expect(t, "verdict", l.verdict(t, 2), "not_me 3")
	l.granted(t)
	eventually(t, "the session is ended", func() bool { return l.revoked(t) })
}

// A notice of a change of a device is about no login.
func TestDisownADevice(t *testing.T) {
	s := newSite(t)
	n := s.serve(t)
	p := s.phone(t, "alice")
	_, err := n.store.tell(t.Context(), notice{User: "alice", Kind: deviceEnrolled, Cause: "x", Name: "new"}, []string{p.id})
	check(t, err)
	told := fetch(t, p).Notices[0]
	expect(t, "not me", p.heed(t, told, notMe), 422)
	expect(t, "seen", p.heed(t, told, "seen"), 204)
	expect(t, "alerts", s.alerts(t), uint64(0))
}

// What an admin does to a phone is told to the user's others: once, and not what its user did.
func TestAdminChangesDevices(t *testing.T) {
	s := newSite(t)
	s.run(t)
	p, second := s.phone(t, "alice"), s.phone(t, "alice")
	admin := s.broker.Bus(t, "console")
	said := func(kind, device, by string) bus.AccountEvent {
		data, err := json.Marshal(directory.DeviceChange{Device: device, By: by})
		check(t, err)
		return bus.AccountEvent{ID: uuid.NewString(), Source: "console", Kind: kind, User: "alice", Data: data, Time: time.Now()}
	}
	enrolled, removed := said("device-enrolled", second.id, ""), said("device-removed", "gone", "")
	for _, event := range []bus.AccountEvent{enrolled, enrolled, said("disabled", "x", ""), said("device-renamed", "x", ""), removed, removed} {
		check(t, admin.Account(t.Context(), event))
	}
	var got []noticeView
	eventually(t, "notices", func() bool {
		got = fetch(t, p).Notices
		return len(got) == 2
	})
	expect(t, "notices", map[string]string{got[0].Kind: got[0].Device, got[1].Kind: got[1].Device},
		map[string]string{deviceEnrolled: "phone.canary", deviceRemoved: ""})
	status, _ := p.ask(t, "DELETE", "/v1/authenticator/devices/"+second.id, nil)
	expect(t, "removed", status, 204)
	late := s.phone(t, "alice")
	check(t, admin.Account(t.Context(), removed)) // again, when there is one more
	check(t, admin.Account(t.Context(), said("device-removed", "last", "")))
	eventually(t, "all changes have been looked at", func() bool { return len(fetch(t, p).Notices) == 3 })
	expect(t, "notices of who came later", s.count(t, `SELECT count(*) FROM push.notices WHERE device = $1 AND cause = 'gone'`, late.id), 0)
	expect(t, "notices of who removed it",
		s.count(t, `SELECT count(*) FROM push.notices WHERE kind = 'device_removed' AND device = $1 AND cause = $2`, p.id, second.id), 0)
}

// A phone that is added by a process that dies right after it is told all the same, but not to itself.
func TestEnrollmentOfADeadProcess(t *testing.T) {
	s := newSite(t)
	first := s.phone(t, "alice")
	s.pass(time.Minute)
	dead := s.start(t)
	code, _, err := dead.devices.Activate(t.Context(), "alice", time.Minute, 5)
	check(t, err)
	device, err := dead.devices.Enroll(t.Context(), code, directory.Device{Name: "thief", PublicKey: point(t, newKey(t)), Gateway: "web"}, 5)
	check(t, err)
	s.run(t)
	eventually(t, "a notice", func() bool { return s.count(t, `SELECT count(*) FROM push.notices`) > 0 })
	expect(t, "who is told of what", s.count(t, `SELECT count(*) FROM push.notices WHERE device = $1 AND kind = 'device_enrolled' AND cause = $2 AND name = 'thief'`,
		first.id, device.ID), 1)
	expect(t, "notices", s.count(t, `SELECT count(*) FROM push.notices`), 1)
}
