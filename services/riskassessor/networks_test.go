package riskassessor

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/sekisho/sekisho/events"
	"github.com/sekisho/sekisho/services/internal/bus"
	"github.com/sekisho/sekisho/services/internal/testenv"
)

// networks is the worker's memory by itself.
func (s *site) networks(t *testing.T) *networks {
	t.Helper()
	key, err := s.env.Credentials.Key("risk")
	if err != nil {
		t.Fatal(err)
	}
	n, err := newNetworks(s.env.DB, key, s.env.Config.Risk.Keep, s.env.Now, s.env.Log)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(n.close)
	return n
}

// alerts are the logins of the alerts about a user, by the alerts' ids.
func (s *site) alerts(t *testing.T, user string) map[string]string {
	t.Helper()
	js, err := jetstream.New(s.broker.Dial(t, bus.UserSetup))
	if err != nil {
		t.Fatal(err)
	}
	consumer, err := js.OrderedConsumer(t.Context(), "ACCOUNT", jetstream.OrderedConsumerConfig{FilterSubjects: []string{"alert.unknown-environment." + user}})
	if err != nil {
		t.Fatal(err)
	}
	batch, err := consumer.FetchNoWait(100)
	if err != nil {
		t.Fatal(err)
	}
	found := make(map[string]string)
	for msg := range batch.Messages() {
		ce, err := events.ReadMessage(msg.Headers(), msg.Data())
		if err != nil {
			t.Fatal(err)
		}
		var data map[string]string
		if err := json.Unmarshal(ce.Data(), &data); err != nil {
			t.Fatal(err)
		}
		if len(data) != 2 || data["app"] != "demo" || ce.Source() != Name || ce.Type() != "sekisho.alert.unknown-environment.v1" || ce.Subject() != user {
			t.Errorf("alert %v", ce)
		}
		found[ce.ID()] = data["login"]
	}
	return found
}

// A browser or a network that the user was not granted a login in before is unknown, each time anew, and each time there
// is an alert.
func TestUnknownEnvironment(t *testing.T) {
	s := newSite(t).start(t)
	if err := s.sim.SetRisk("mallory", "NG"); err != nil {
		t.Fatal(err)
	}
	of := func(user string) func(events.Login, *events.Identified) {
		return func(_ events.Login, i *events.Identified) { i.User = user }
	}
	fresh := func(_ events.Login, i *events.Identified) { i.Device = "" }
	decoy := func(_ events.Login, i *events.Identified) {
		i.User, i.Primary, i.Decoy, i.Device = "ghost", events.None, true, ""
	}
	alerted := 0
	for _, step := range []struct {
		name, ip string
		alter    []func(events.Login, *events.Identified)
		close    events.Outcome
		want     bool
	}{
		{"the first login", "192.0.2.7", nil, events.Denied, true},
		{"again, since nothing was granted", "192.0.2.7", nil, events.Granted, true},
		{"where a login was granted", "192.0.2.7", nil, events.Granted, false},
		{"the network around it", "192.0.2.200", nil, events.Granted, false},
		{"written otherwise", "::ffff:192.0.2.9", nil, events.Granted, false},
		{"a new browser", "192.0.2.7", []func(events.Login, *events.Identified){fresh}, events.Failed, true},
		{"the next network", "192.0.3.7", nil, events.Failed, true},
		{"IPv6", "2001:db8:1:2::3", nil, events.Granted, true},
		{"the same site", "2001:db8:1:ffff::1", nil, events.Granted, false},
		{"another site", "2001:db8:2::1", nil, events.Failed, true},
		{"a gateway that does not tell", "", nil, events.Granted, false},
		{"a gateway that tells nonsense", "192.0.2.7:1234", nil, events.Granted, true},
		{"a browser that is new, and nothing else is told", "", []func(events.Login, *events.Identified){fresh}, events.Granted, true},
		{"a decoy", "203.0.113.1", []func(events.Login, *events.Identified){decoy}, events.Failed, false},
	} {
		login := s.loginFrom(t, "bob", &events.Environment{IP: step.ip}, step.alter...)
		if got := s.assessed(t, login).Unknown; got != step.want {
			t.Errorf("%s: unknown %v", step.name, got)
		}
		s.handled(t, events.StepIdentified) // the alert follows the verdict
		if step.want {
			alerted++
		}
		if s.alerts(t, "u1")[login.String()+"/alert/unknown-environment"] == login.String() != step.want || len(s.alerts(t, "u1")) != alerted {
			t.Errorf("%s: alerts %v", step.name, s.alerts(t, "u1"))
		}
		s.close(t, login, step.close)
		s.handled(t, events.StepClosed)
	}
	// The verdict makes no difference, and what one user does is nothing to another.
	if got := s.assessed(t, s.loginFrom(t, "mallory", &events.Environment{IP: "192.0.2.7"}, of("u2"))); got.Verdict != events.NG || !got.Unknown {
		t.Errorf("%+v", got)
	}
	s.handled(t, events.StepIdentified)
	if len(s.alerts(t, "u2")) != 1 || len(s.alerts(t, "ghost")) != 0 {
		t.Errorf("alerts of u2 %v, of a decoy %v", s.alerts(t, "u2"), s.alerts(t, "ghost"))
	}
}

// handled waits until the worker has no event of a step left.
func (s *site) handled(t *testing.T, step events.Step) {
	t.Helper()
	js, err := jetstream.New(s.broker.Dial(t, bus.UserSetup))
	if err != nil {
		t.Fatal(err)
	}
	consumer, err := js.Consumer(t.Context(), "LOGIN", Name+"-"+string(step))
	if err != nil {
		t.Fatal(err)
	}
	testenv.Eventually(t, "all are handled", func() bool {
		info, err := consumer.Info(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return info.NumPending == 0 && info.NumAckPending == 0
	})
}

// An event that is handled again gives the same alert again.
func TestOneAlertOfALogin(t *testing.T) {
	s := newSite(t)
	a := s.assessor(t)
	login := s.loginFrom(t, "bob", &events.Environment{IP: "192.0.2.7"})
	e := s.broker.Await(t, login, events.StepIdentified, 0)
	for range 3 {
		if _, err := a.assess(t.Context(), e, e.Data.(*events.Identified)); err != nil {
			t.Fatal(err)
		}
		if err := a.networks.remember(t.Context(), "u1", "192.0.2.7"); err != nil { // another login was granted meanwhile
			t.Fatal(err)
		}
		e.Data.(*events.Identified).Device = "known"
	}
	expect(t, "alerts", len(s.alerts(t, "u1")), 1)
}

// Nobody is told that nothing is new when the worker can not look.
func TestWithoutDatabase(t *testing.T) {
	s := newSite(t)
	a := s.assessor(t)
	e := s.broker.Await(t, s.loginFrom(t, "bob", &events.Environment{IP: "192.0.2.7"}), events.StepIdentified, 0)
	s.env.DB.Close()
	if assessed, err := a.judge(t.Context(), e, e.Data.(*events.Identified)); err == nil {
		t.Errorf("%v", assessed)
	}
}

// The record holds no address, and no network that could be compared with another user's. What is used stays, and is
// written once a day.
func TestNetworksAreKept(t *testing.T) {
	s := newSite(t)
	now := time.Now()
	s.env.Now = func() time.Time { return now }
	n := s.networks(t)
	const ip = "192.0.2.7"
	one, _ := n.visit("u1", ip)
	other, _ := n.visit("u2", ip)
	if one.network == other.network {
		t.Error("two users have the same hash of a network")
	}
	row := func() (written, text string) {
		t.Helper()
		err := s.env.DB.QueryRow(t.Context(), `SELECT xmin::text || ' ' || ctid::text, n::text FROM risk.networks n WHERE user_id = 'u1'`).Scan(&written, &text)
		if err != nil {
			t.Fatal(err)
		}
		return written, text
	}
	remember := func() {
		t.Helper()
		if err := n.remember(t.Context(), "u1", ip); err != nil {
			t.Fatal(err)
		}
	}
	remember()
	first, text := row()
	if strings.Contains(text, "192.0") {
		t.Errorf("the row is %s", text)
	}
	now = now.Add(seenEvery - time.Minute)
	remember()
	if again, _ := row(); again != first {
		t.Error("it was written twice in a day")
	}
	now = now.Add(2 * time.Minute)
	remember()
	if later, _ := row(); later == first {
		t.Error("it was not written in two days")
	}
	for _, age := range []time.Duration{s.env.Config.Risk.Keep - time.Minute, s.env.Config.Risk.Keep + time.Minute} {
		seen := now
		now = now.Add(age)
		if err := n.forget(t.Context()); err != nil {
			t.Fatal(err)
		}
		known, err := n.known(t.Context(), events.Login{}, "u1", ip)
		if err != nil || known != (age < s.env.Config.Risk.Keep) {
			t.Errorf("known %v after %v, %v", known, age, err)
		}
		now = seen
	}
}

// A login from a network that was seen in the last day is not looked at again when it has been granted, nor is that network looked
// up again; a day later both are.
func TestNetworksThatAreCurrent(t *testing.T) {
	s := newSite(t)
	now := time.Now()
	s.env.Now = func() time.Time { return now }
	n := s.networks(t)
	const ip = "192.0.2.7"
	if err := n.remember(t.Context(), "u1", ip); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		user    string
		later   time.Duration
		current bool
		lookUps int64
	}{{"u1", 0, true, 1}, {"u2", 0, false, 1}, {"u1", seenEvery - time.Minute, true, 0}, {"u1", 2 * time.Minute, false, 1}} {
		now = now.Add(tc.later)
		before := s.env.DB.Stat().AcquireCount()
		login := testenv.NewLogin(t, "web")
		known, err := n.known(t.Context(), login, tc.user, ip)
		if err != nil || known != (tc.user == "u1") || n.current.Contains(login) != tc.current {
			t.Errorf("%+v: known %v, current %v, %v", tc, known, n.current.Contains(login), err)
		}
		if got := s.env.DB.Stat().AcquireCount() - before; got != tc.lookUps {
			t.Errorf("%+v: %d statements", tc, got)
		}
	}
}
