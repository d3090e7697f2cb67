package riskassessor

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

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

// A site is the worker on a real broker, beside a simulated provider.
type site struct {
	broker *testenv.Broker
	sim    *simulators.Simulators
	sealer *events.Sealer
	env    *runtime.Env
	worker *runtime.Worker
}

func newSite(t *testing.T, adjust ...func(*config.Config)) *site {
	s := &site{broker: testenv.NATS(t)}
	sim, url := simulatedOMotion(t)
	s.sim = sim
	folder := credentials.Open(t.TempDir())
	if err := folder.RotateSealing([]string{Name}, time.Now(), time.Hour); err != nil {
		t.Fatal(err)
	}
	if err := folder.Ensure(credentials.Contents{Keys: []string{"risk"}}); err != nil {
		t.Fatal(err)
	}
	var err error
	if s.sealer, err = folder.Sealer(); err != nil {
		t.Fatal(err)
	}
	signature := filepath.Join(t.TempDir(), "signature")
	if err := os.WriteFile(signature, []byte("signature\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	cfg := config.Default()
	cfg.Risk.URL, cfg.Risk.SignatureFile = url+"/omotion", signature
	cfg.Risk.Timeout = time.Minute // no test waits for it, but those that shorten it
	for _, f := range adjust {
		f(cfg)
	}
	s.env = &runtime.Env{
		Name: Name, Config: cfg, Log: zerolog.Nop(), Credentials: folder, Now: time.Now,
		Bus: s.broker.Bus(t, Name), Metrics: prometheus.NewRegistry(), DB: testenv.Migrated(t).Pool(t, Name),
	}
	if s.worker, err = Build(t.Context(), s.env); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.worker.Close)
	return s
}

// assessor is the handler by itself.
func (s *site) assessor(t *testing.T) *assessor {
	t.Helper()
	opener, err := s.env.Credentials.Opener(Name)
	if err != nil {
		t.Fatal(err)
	}
	client := omotionAt(t, strings.TrimSuffix(s.env.Config.Risk.URL, "/omotion"), time.Minute)
	return &assessor{bus: s.env.Bus, opener: opener, networks: s.networks(t), provider: client, log: s.env.Log}
}

func (s *site) start(t *testing.T) *site {
	testenv.Start(t, s.env.Bus, s.worker.Handlers...)
	return s
}

// fault switches a fault of the provider on.
func (s *site) fault(t *testing.T, f simulators.Fault) {
	t.Helper()
	if err := s.sim.SetFault(simulators.Risk, f); err != nil {
		t.Fatal(err)
	}
}

func (s *site) seal(t *testing.T, subject, field string, value any) *events.Sealed {
	t.Helper()
	sealed, err := s.sealer.Seal(Name, subject, field, value)
	if err != nil {
		t.Fatal(err)
	}
	return sealed
}

func (s *site) publish(t *testing.T, by string, login events.Login, cause string, data events.Data) {
	t.Helper()
	e := events.New(login, 0, data)
	e.By, e.Time, e.Cause = by, time.Now(), cause
	s.broker.Publish(t, e)
}

// login publishes the events of a login up to identified, with a browser that is known. assessment is what the gateway read
// from the browser; nil leaves the environment out. alter may change what identityverifier says.
func (s *site) login(t *testing.T, user string, assessment *string, alter ...func(events.Login, *events.Identified)) events.Login {
	t.Helper()
	if assessment == nil {
		return s.loginFrom(t, user, nil, alter...)
	}
	return s.loginFrom(t, user, &events.Environment{Assessment: *assessment}, alter...)
}

func (s *site) loginFrom(t *testing.T, user string, environment *events.Environment, alter ...func(events.Login, *events.Identified)) events.Login {
	t.Helper()
	login := testenv.NewLogin(t, "web")
	requested := &events.Requested{
		App: "demo", Method: events.Password, Deadline: time.Now().Add(time.Hour),
		Identity: s.seal(t, login.Subject(events.StepRequested, 0), "identity", "sealed to somebody else"),
	}
	if environment != nil {
		requested.Environment = s.seal(t, login.Subject(events.StepRequested, 0), "environment", environment)
	}
	s.publish(t, "gateway/web", login, "", requested)
	identified := &events.Identified{
		App: "demo", User: "u1", Primary: events.Password, Deadline: time.Now().Add(time.Hour), Device: "known",
		Subject:     s.seal(t, login.Subject(events.StepIdentified, 0), "subject", events.Subject{UserHash: hash(user)}),
		Environment: requested.Environment,
	}
	for _, f := range alter {
		f(login, identified)
	}
	s.publish(t, "identityverifier", login, login.EventID(events.StepRequested, 0), identified)
	return login
}

func (s *site) assessed(t *testing.T, login events.Login) *events.Assessed {
	t.Helper()
	return s.broker.Await(t, login, events.StepAssessed, 0).Data.(*events.Assessed)
}

func expect(t *testing.T, what string, got, want any) {
	t.Helper()
	if !reflect.DeepEqual(got, want) {
		t.Errorf("%s: %+v, want %+v", what, got, want)
	}
}

func TestVerdicts(t *testing.T) {
	s := newSite(t).start(t)
	if err := s.sim.SetRisk("mallory", "NG"); err != nil {
		t.Fatal(err)
	}
	decoy := func(_ events.Login, i *events.Identified) { i.Primary, i.Decoy = events.None, true }
	for name, tc := range map[string]struct {
		login events.Login
		want  events.Assessed
	}{
		"ok":     {s.login(t, "bob", new("a-1")), events.Assessed{Verdict: events.OK, Reasons: []string{"USER_DEVICE"}, Assessment: "a-1"}},
		"review": {s.login(t, "alice", new("a-2")), events.Assessed{Verdict: events.Review, Reasons: []string{"FIRST_USER_DEVICE"}, Assessment: "a-2"}},
		"ng":     {s.login(t, "mallory", new("a-3")), events.Assessed{Verdict: events.NG, Reasons: []string{"NG_DEVICE"}, Assessment: "a-3"}},
		"bot":    {s.login(t, "bob", new("bot-1")), events.Assessed{Verdict: events.NG, Reasons: []string{"BOT"}, Assessment: "bot-1"}},
		"decoy":  {s.login(t, "ghost", new("a-4"), decoy), events.Assessed{Verdict: events.OK, Reasons: []string{"USER_DEVICE"}, Assessment: "a-4"}},
		// The provider works, and the id is the browser's own invention: that is no outage, which a policy may let pass.
		"malformed id": {s.login(t, "bob", new("../a")), events.Assessed{Verdict: events.Review, Reasons: []string{reasonNoAssessment}}},
	} {
		tc.want.Provider = "omotion"
		expect(t, name, *s.assessed(t, tc.login), tc.want)
	}
}

// A login without the collector's id gets the user's latest assessment, with or without an environment.
func TestLatestAssessment(t *testing.T) {
	s := newSite(t).start(t)
	for _, id := range []*string{nil, new("")} {
		got := s.assessed(t, s.login(t, "alice", id))
		if got.Verdict != events.Review || got.Degraded || got.Assessment == "" {
			t.Errorf("%+v, want the latest assessment of alice", got)
		}
	}
}

var degraded = events.Assessed{Verdict: events.Review, Degraded: true, Provider: "omotion"}

func TestProviderDown(t *testing.T) {
	s := newSite(t, func(c *config.Config) { c.Breaker.Failures = 100 }).start(t)
	for _, mode := range []simulators.Mode{simulators.Error, simulators.Garbage, simulators.Reset} {
		s.fault(t, simulators.Fault{Mode: mode})
		expect(t, string(mode), *s.assessed(t, s.login(t, "bob", new("a-1"))), degraded)
	}
}

func TestProviderHangs(t *testing.T) {
	s := newSite(t, func(c *config.Config) { c.Risk.Timeout = 50 * time.Millisecond }).start(t)
	s.fault(t, simulators.Fault{Mode: simulators.Hang})
	expect(t, "assessed", *s.assessed(t, s.login(t, "bob", new("a-1"))), degraded)
}

// With the breaker open the provider is not asked, and nobody waits.
func TestOpenBreaker(t *testing.T) {
	s := newSite(t, func(c *config.Config) { c.Breaker = config.Breaker{Failures: 2, Open: time.Hour} }).start(t)
	s.fault(t, simulators.Fault{Mode: simulators.Error})
	for range 5 {
		expect(t, "assessed", *s.assessed(t, s.login(t, "bob", new("a-1"))), degraded)
	}
	expect(t, "calls", len(s.sim.Calls(simulators.Risk)), 2)
}

func TestNoProvider(t *testing.T) {
	s := newSite(t, func(c *config.Config) { c.Risk = config.Risk{Timeout: time.Second, Concurrency: 1} }).start(t)
	login := s.login(t, "bob", new("a-1"))
	expect(t, "assessed", *s.assessed(t, login), events.Assessed{Verdict: events.Review, Degraded: true})
}

func TestStaticVerdict(t *testing.T) {
	s := newSite(t, func(c *config.Config) { c.Risk.Static, c.Risk.URL = "OK", "" }).start(t)
	login := s.login(t, "alice", new("a-1"))
	expect(t, "assessed", *s.assessed(t, login), events.Assessed{Verdict: events.OK, Provider: "static"})
	expect(t, "calls", len(s.sim.Calls(simulators.Risk)), 0)
}

// What is sealed to somebody else, for another field or for another login, is never opened, and the login gets no verdict.
func TestWhatCanNotBeOpened(t *testing.T) {
	s := newSite(t)
	a := s.assessor(t)
	another := s.login(t, "alice", nil)
	for name, alter := range map[string]func(events.Login, *events.Identified){
		"no subject": func(_ events.Login, i *events.Identified) { i.Subject = nil },
		"another login's": func(_ events.Login, i *events.Identified) {
			i.Subject = s.seal(t, another.Subject(events.StepIdentified, 0), "subject", events.Subject{UserHash: hash("alice")})
		},
		"another field's": func(l events.Login, i *events.Identified) {
			i.Subject = s.seal(t, l.Subject(events.StepIdentified, 0), "user", events.Subject{UserHash: hash("alice")})
		},
	} {
		login := s.login(t, "bob", nil, alter)
		e := s.broker.Await(t, login, events.StepIdentified, 0)
		if assessed, err := a.judge(t.Context(), e, e.Data.(*events.Identified)); assessed != nil || !errors.Is(err, events.ErrSealed) || !isPermanent(err) {
			t.Errorf("%s: %v, %v; want a permanent error", name, assessed, err)
		}
	}
}

// isPermanent tells whether the runtime would give the event up: only such errors differ from what they wrap.
func isPermanent(err error) bool {
	return reflect.TypeOf(err) == reflect.TypeOf(bus.Permanent(err))
}

// A worker that is stopped while the provider hangs does not call that an outage.
func TestStopWhileAsking(t *testing.T) {
	s := newSite(t)
	s.fault(t, simulators.Fault{Mode: simulators.Hang})
	a := s.assessor(t)
	identified := s.broker.Await(t, s.login(t, "bob", new("a-1")), events.StepIdentified, 0)
	ctx, stop := context.WithCancel(t.Context())
	failed := make(chan error, 1)
	go func() {
		_, err := a.assess(ctx, identified, identified.Data.(*events.Identified))
		failed <- err
	}()
	if err := s.sim.WaitCall(t.Context(), simulators.Risk, simulators.OutcomePending); err != nil {
		t.Fatal(err)
	}
	stop()
	if err := <-failed; !errors.Is(err, context.Canceled) {
		t.Errorf("error %v, want that of the context", err)
	}
}

func (s *site) close(t *testing.T, login events.Login, outcome events.Outcome) {
	t.Helper()
	closed := &events.Closed{
		Outcome: outcome, Decision: events.Decision{Policy: "p", Facts: events.Facts{Now: time.Now()}, After: "x"},
	}
	if outcome == events.Granted {
		closed.App, closed.User, closed.AMR, closed.ACR = "demo", "u1", []string{"pwd"}, "1fa"
		closed.AuthTime, closed.Expires = time.Now(), time.Now().Add(time.Hour)
	}
	s.publish(t, "sessionissuer", login, login.EventID(events.StepAssessed, 0), closed)
}

// reports are the reports that the provider got, by assessment.
func (s *site) reports() map[string]int {
	reports := make(map[string]int)
	for _, call := range s.sim.Calls(simulators.Risk) {
		if id, ok := strings.CutSuffix(call.Path, "/login-result"); ok && call.Outcome == simulators.OutcomeAnswered {
			reports[id[strings.LastIndexByte(id, '/')+1:]]++
		}
	}
	return reports
}

// The provider hears how logins ended that it assessed, and nothing of those that simply stopped.
func TestReport(t *testing.T) {
	s := newSite(t)
	a := s.assessor(t)
	r := &reporter{bus: a.bus, opener: a.opener, provider: a.provider}
	for _, outcome := range []events.Outcome{events.Granted, events.Denied, events.Failed, events.Expired, events.CancelledBy} {
		login := s.login(t, "alice", new("a-"+string(outcome)))
		identified := s.broker.Await(t, login, events.StepIdentified, 0)
		if _, err := a.assess(t.Context(), identified, identified.Data.(*events.Identified)); err != nil {
			t.Fatal(err)
		}
		s.close(t, login, outcome)
		if err := s.report(t, r, login); err != nil {
			t.Fatal(err)
		}
	}
	expect(t, "reports", s.reports(), map[string]int{"a-granted": 1, "a-denied": 1, "a-failed": 1})
}

func (s *site) report(t *testing.T, r *reporter, login events.Login) error {
	t.Helper()
	closed := s.broker.Await(t, login, events.StepClosed, 0)
	out, err := r.report(t.Context(), closed, closed.Data.(*events.Closed))
	if len(out) != 0 {
		t.Errorf("%d events", len(out))
	}
	return err
}

// On the bus a report is made by itself, and is tried again until the provider takes it; logins are assessed meanwhile.
func TestReportOnTheBus(t *testing.T) {
	s := newSite(t, func(c *config.Config) { c.Breaker = config.Breaker{Failures: 1, Open: 10 * time.Millisecond} }).start(t)
	login := s.login(t, "alice", new("a-1"))
	s.assessed(t, login)
	s.fault(t, simulators.Fault{Mode: simulators.Error})
	s.close(t, login, events.Granted)
	if err := s.sim.WaitCall(t.Context(), simulators.Risk, string(simulators.Error)); err != nil {
		t.Fatal(err)
	}
	s.fault(t, simulators.Fault{Mode: simulators.None})
	expect(t, "verdict of another", s.assessed(t, s.login(t, "bob", new("a-2"))).Verdict, events.OK)
	testenv.Eventually(t, "it is reported", func() bool { return s.reports()["a-1"] > 0 })
}
