package sessionissuer

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/nats-io/nats.go"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"

	"github.com/sekisho/sekisho/events"
	"github.com/sekisho/sekisho/services/internal/bus"
	"github.com/sekisho/sekisho/services/internal/config"
	"github.com/sekisho/sekisho/services/internal/directory"
	"github.com/sekisho/sekisho/services/internal/runtime"
	"github.com/sekisho/sekisho/services/internal/sessions"
	"github.com/sekisho/sekisho/services/internal/testenv"
)

func TestMain(m *testing.M) { testenv.Main(m) }

// A place is a broker, a database and a user, without any worker.
type place struct {
	broker   *testenv.Broker
	db       *testenv.Database
	users    *directory.Users // the superuser's
	sessions *sessions.Store  // the superuser's
	user     string
}

func newPlace(t *testing.T) *place {
	t.Helper()
	db := testenv.Migrated(t)
	admin := db.Pool(t, "")
	p := &place{broker: testenv.NATS(t), db: db, users: directory.NewUsers(directory.NewOutbox(admin, time.Now)), sessions: sessions.New(admin, time.Now)}
	t.Cleanup(p.sessions.Close)
	user, err := p.users.Create(t.Context(), directory.User{Name: "alice", Locale: "ja", Primary: directory.Password}, "")
	if err != nil {
		t.Fatal(err)
	}
	p.user = user.ID
	return p
}

// issuer runs one, as a process of its own would.
func (p *place) issuer(t *testing.T, adjust ...func(*runtime.Env)) *runtime.Worker {
	t.Helper()
	settings := config.Default()
	settings.Login.DeniedFloor = 0
	env := &runtime.Env{Name: Name, Config: settings, Log: zerolog.Nop(), DB: p.db.Pool(t, Name),
		Bus: p.broker.Bus(t, Name), Metrics: prometheus.NewRegistry(), Now: time.Now}
	for _, f := range adjust {
		f(env)
	}
	w, err := Build(t.Context(), env)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.Close)
	testenv.Start(t, env.Bus, w.Handlers...)
	return w
}

// A player publishes what the other workers and the gateway say of one login.
type player struct {
	*place
	t        *testing.T
	login    events.Login
	deadline time.Time
}

func (p *place) login(t *testing.T) *player {
	t.Helper()
	login := testenv.NewLogin(t, "web")
	return &player{place: p, t: t, login: login}
}

func (p *player) say(by string, n int, data events.Data) {
	p.t.Helper()
	e := events.New(p.login, n, data)
	e.By, e.Time, e.Expires = by, time.Now(), p.deadline
	if by == "gateway" {
		e.By, e.Cause = "gateway/web", "whatever a gateway says"
	}
	if data.Step() == events.StepChosen {
		e.Nonce = "0123456789abcdef"
	}
	p.broker.Publish(p.t, e)
}

func (p *player) request(deadline time.Time) {
	p.t.Helper()
	sealed, err := p.broker.Sealer(p.t).Seal("identityverifier", p.login.Subject(events.StepRequested, 0), "identity", events.Identity{User: "alice"})
	if err != nil {
		p.t.Fatal(err)
	}
	p.deadline = deadline
	p.say("gateway", 0, &events.Requested{App: "demo", Method: events.Password, Deadline: deadline, Identity: sealed})
}

func (p *player) begin(verdict events.Verdict, lasting time.Duration, enrolled ...events.Factor) {
	p.t.Helper()
	deadline := time.Now().Add(lasting)
	p.request(deadline)
	p.say("identityverifier", 0, &events.Identified{App: "demo", User: p.user, Primary: events.Password, Factors: enrolled, Deadline: deadline})
	p.say("riskassessor", 0, &events.Assessed{Verdict: verdict})
}

func (p *player) closed() *events.Closed {
	p.t.Helper()
	return p.broker.Await(p.t, p.login, events.StepClosed, 0).Data.(*events.Closed)
}

// hasSession tells whether there is a session's row.
func (p *player) hasSession() bool {
	p.t.Helper()
	_, err := p.place.sessions.Get(p.t.Context(), p.login)
	if err != nil && !errors.Is(err, sessions.ErrNotFound) {
		p.t.Fatal(err)
	}
	return err == nil
}

// insert puts the row there that an instance leaves behind when it dies before it has published closed.
func (p *player) insert() {
	p.t.Helper()
	ok, err := p.place.sessions.Insert(p.t.Context(), sessions.Session{Login: p.login, User: p.user, App: "demo", AMR: []string{"pwd"}, ACR: "1fa",
		AuthTime: time.Now(), Idle: time.Hour, Expires: time.Now().Add(time.Hour)})
	if err != nil || !ok {
		p.t.Fatalf("insert: %v %v", ok, err)
	}
}

func TestPasswordIsEnoughWhenTheRiskIsLow(t *testing.T) {
	place := newPlace(t)
	place.issuer(t)
	p := place.login(t)
	p.begin(events.OK, time.Minute, events.SMS)
	c := p.closed()
	if c.Outcome != events.Granted || c.User != place.user || !slices.Equal(c.AMR, []string{"pwd"}) || c.ACR != "1fa" {
		t.Errorf("closed: %+v", c)
	}
	s, err := place.sessions.Get(t.Context(), p.login)
	if err != nil {
		t.Fatal(err)
	}
	if !s.Expires.Equal(c.Expires.Truncate(time.Microsecond)) || c.Expires.Sub(c.AuthTime) != 12*time.Hour || s.Idle != time.Hour || s.App != "demo" || !s.Live(time.Now()) {
		t.Errorf("session %+v, closed %+v", s, c)
	}
}

func TestTextMessageWhenTheRiskIsHigher(t *testing.T) {
	place := newPlace(t)
	place.issuer(t)
	p := place.login(t)
	p.begin(events.Review, time.Minute, events.SMS)
	w := place.broker.Await(t, p.login, events.StepWanted, 1)
	if data := w.Data.(*events.Wanted); data.Factor != events.SMS || data.User != place.user || data.Decoy || !w.Expires.Equal(data.Deadline) {
		t.Errorf("wanted %+v expires %v", data, w.Expires)
	}
	if p.hasSession() {
		t.Error("there is a session before the code was right")
	}
	p.say("smsdispatcher", 1, &events.Challenged{Factor: events.SMS, Expires: time.Now().Add(time.Minute)})
	p.say("gateway", 1, &events.Chosen{Factor: events.SMS})
	place.broker.Await(t, p.login, events.StepWanted, 2)
	p.say("otpvalidator", 1, &events.Verified{Factor: events.SMS, Authenticator: "a"})
	if c := p.closed(); c.Outcome != events.Granted || !slices.Equal(c.AMR, []string{"pwd", "sms"}) || c.ACR != "2fa" {
		t.Errorf("closed: %+v", c)
	}
	if !p.hasSession() {
		t.Error("there is no session")
	}
}

func TestLockedOnTheWay(t *testing.T) {
	place := newPlace(t)
	place.issuer(t)
	p := place.login(t)
	p.begin(events.Review, time.Minute, events.SMS)
	place.broker.Await(t, p.login, events.StepWanted, 1)
	if _, err := place.users.Change(t.Context(), place.user, directory.Change{Locked: new(true)}); err != nil {
		t.Fatal(err)
	}
	p.say("otpvalidator", 1, &events.Verified{Factor: events.SMS, Authenticator: "a"})
	if c := p.closed(); c.Outcome != events.Denied || c.Decision.Facts.Enabled {
		t.Errorf("closed: %+v", c)
	}
	if p.hasSession() {
		t.Error("there is a session")
	}
}

// A login is granted only to the account that it found: whoever has the old password, or phone, may have begun it.
func TestChangedOnTheWay(t *testing.T) {
	place := newPlace(t)
	place.issuer(t)
	begin := func() *player {
		p := place.login(t)
		p.request(time.Now().Add(time.Minute))
		p.say("identityverifier", 0, &events.Identified{App: "demo", User: p.user, Primary: events.Password, Generation: 1, Deadline: p.deadline})
		p.say("riskassessor", 0, &events.Assessed{Verdict: events.OK})
		return p
	}
	if c := begin().closed(); c.Outcome != events.Granted {
		t.Fatalf("closed: %+v", c)
	}
	if _, err := place.users.Change(t.Context(), place.user, directory.Change{PasswordHash: new("another")}); err != nil {
		t.Fatal(err)
	}
	p := begin()
	if c := p.closed(); c.Outcome != events.Denied || c.Decision.Facts.Enabled || p.hasSession() {
		t.Errorf("closed: %+v", c)
	}
}

// A session has the verdict of its login, and none where nobody could be asked for one.
func TestVerdictOfASession(t *testing.T) {
	place := newPlace(t)
	place.issuer(t)
	for _, assessed := range []events.Assessed{{Verdict: events.Review}, {Verdict: events.Review, Degraded: true}} {
		p := place.login(t)
		p.request(time.Now().Add(time.Minute))
		p.say("identityverifier", 0, &events.Identified{App: "demo", User: p.user, Primary: events.Password, Factors: []events.Factor{events.SMS}, Deadline: p.deadline})
		p.say("riskassessor", 0, &assessed)
		place.broker.Await(t, p.login, events.StepWanted, 1)
		p.say("otpvalidator", 1, &events.Verified{Factor: events.SMS, Authenticator: "a"})
		if c := p.closed(); c.Outcome != events.Granted {
			t.Fatalf("closed: %+v", c)
		}
		s, err := place.sessions.Get(t.Context(), p.login)
		if err != nil {
			t.Fatal(err)
		}
		if (s.Verdict == "") != assessed.Degraded {
			t.Errorf("verdict %q, assessed %+v", s.Verdict, assessed)
		}
	}
}

// A locked user is challenged no more, once identityverifier's word for the account has got old.
func TestLockedBeforeTheChallenge(t *testing.T) {
	place := newPlace(t)
	place.issuer(t, func(env *runtime.Env) { env.Now = func() time.Time { return time.Now().Add(lately) } })
	if _, err := place.users.Change(t.Context(), place.user, directory.Change{Locked: new(true)}); err != nil {
		t.Fatal(err)
	}
	p := place.login(t)
	p.begin(events.Review, time.Minute, events.SMS)
	if c := p.closed(); c.Outcome != events.Denied || c.Decision.Facts.Enabled {
		t.Errorf("closed: %+v", c)
	}
	if p.hasSession() {
		t.Error("there is a session")
	}
}

// stepUp begins a login that steps up from a session.
func (p *player) stepUp(from events.Login) {
	p.t.Helper()
	p.request(time.Now().Add(time.Minute))
	p.say("identityverifier", 0, &events.Identified{App: "demo", User: p.user, Primary: events.None, Factors: []events.Factor{events.SMS}, Deadline: p.deadline,
		Session: &events.SteppedFrom{ID: from.ID, AMR: []string{"pwd"}, AuthTime: time.Now().Add(-time.Hour)}})
	p.say("riskassessor", 0, &events.Assessed{Verdict: events.OK})
	p.broker.Await(p.t, p.login, events.StepWanted, 1)
}

func (p *place) lives(t *testing.T, login events.Login) bool {
	t.Helper()
	s, err := p.sessions.Get(t.Context(), login)
	if err != nil {
		t.Fatal(err)
	}
	return s.Live(time.Now())
}

// TestStepUp: the session that a login stepped up from ends when the new one is granted, and only then.
func TestStepUp(t *testing.T) {
	place := newPlace(t)
	place.issuer(t)
	revoked := make(chan string, 8)
	web := place.broker.Dial(t, "web")
	if _, err := web.Subscribe("deliver.web.revoked.>", func(m *nats.Msg) { revoked <- m.Subject }); err != nil {
		t.Fatal(err)
	}
	if err := web.Flush(); err != nil {
		t.Fatal(err)
	}
	first := place.login(t)
	first.begin(events.OK, time.Minute)
	if c := first.closed(); c.Outcome != events.Granted {
		t.Fatalf("closed: %+v", c)
	}

	abandoned := place.login(t)
	abandoned.stepUp(first.login)
	abandoned.say("gateway", 0, &events.Cancelled{})
	if c := abandoned.closed(); c.Outcome != events.CancelledBy || !place.lives(t, first.login) {
		t.Fatalf("a step-up that was given up, %+v, has ended the session", c)
	}

	two, three := place.login(t), place.login(t)
	two.stepUp(first.login)
	three.stepUp(first.login)
	two.say("otpvalidator", 1, &events.Verified{Factor: events.SMS, Authenticator: "a"})
	c := two.closed()
	if c.Outcome != events.Granted || !slices.Equal(c.AMR, []string{"pwd", "sms"}) || c.ACR != "2fa" || time.Since(c.AuthTime) < time.Hour {
		t.Errorf("closed: %+v", c)
	}
	select {
	case subject := <-revoked:
		if subject != "deliver.web.revoked."+first.login.ID {
			t.Errorf("heard %s", subject)
		}
	case <-time.After(20 * time.Second):
		t.Error("nobody was told that the old session has ended")
	}
	if place.lives(t, first.login) || !place.lives(t, two.login) {
		t.Error("the old session lives, or the new one does not")
	}
	if s, err := place.sessions.Get(t.Context(), two.login); err != nil || s.Verdict != events.OK || s.Expires.Sub(s.AuthTime) != 12*time.Hour {
		t.Errorf("session %+v, %v", s, err)
	}

	three.say("otpvalidator", 1, &events.Verified{Factor: events.SMS, Authenticator: "a"}) // too late: the session has ended
	if c := three.closed(); c.Outcome != events.Denied || three.hasSession() {
		t.Errorf("stepped up from a session that had ended: %+v", c)
	}
}

// TestStepUpIsFinishedByAnother: the grant was stored, and the instance died before it ended the old session.
func TestStepUpIsFinishedByAnother(t *testing.T) {
	place := newPlace(t)
	first, p := place.login(t), place.login(t)
	first.insert()
	p.request(time.Now().Add(time.Minute))
	p.say("identityverifier", 0, &events.Identified{App: "demo", User: p.user, Primary: events.None, Deadline: p.deadline,
		Session: &events.SteppedFrom{ID: first.login.ID, AMR: []string{"pwd"}, AuthTime: time.Now()}})
	p.say("riskassessor", 0, &events.Assessed{Verdict: events.OK})
	now := time.Now()
	p.say("sessionissuer", 0, &events.Closed{Outcome: events.Granted, App: "demo", User: p.user, AMR: []string{"pwd", "sms"}, ACR: "2fa",
		AuthTime: now, Expires: now.Add(time.Hour), Decision: events.Decision{Policy: "p", After: "x", Facts: events.Facts{Now: now, Enabled: true}}})
	place.issuer(t)
	testenv.Eventually(t, "the old session has ended", func() bool { return !place.lives(t, first.login) })
}

// TestRevokedOnTheBus: a gateway without the database ends a session by the signal alone.
func TestRevokedOnTheBus(t *testing.T) {
	place := newPlace(t)
	p := place.login(t)
	p.insert()
	ctx, stop := context.WithCancel(t.Context())
	var following sync.WaitGroup
	defer following.Wait()
	defer stop()
	following.Go(func() {
		if err := place.issuer(t).Run[0](ctx); err != nil {
			t.Error(err)
		}
	})
	web := place.broker.Dial(t, "web")
	for _, id := range []string{"nobody", testenv.NewLogin(t, "web").ID, p.login.ID} { // what is no session holds up nothing
		if reply, err := web.Request("session.revoked.web."+id, nil, 10*time.Second); err != nil || !strings.Contains(string(reply.Data), `"seq"`) {
			t.Fatalf("%s: %v", id, err)
		}
	}
	testenv.Eventually(t, "the record says that the session has ended", func() bool { return !place.lives(t, p.login) })
}

// TestAnotherEndingWins: what an instance has inserted before it died is taken back when the login ends otherwise.
func TestAnotherEndingWins(t *testing.T) {
	place := newPlace(t)
	t.Run("before closed", func(t *testing.T) {
		p := place.login(t)
		p.begin(events.Review, time.Minute, events.SMS)
		p.insert()
		p.say("gateway", 0, &events.Cancelled{})
		place.issuer(t)
		if c := p.closed(); c.Outcome != events.CancelledBy {
			t.Errorf("closed: %+v", c)
		}
		testenv.Eventually(t, "the session is gone", func() bool { return !p.hasSession() })
	})
	t.Run("lapsed", func(t *testing.T) {
		p := place.login(t)
		p.begin(events.OK, time.Minute, events.SMS)
		p.insert() // and then closed(granted) is not stored: the login has ended
		p.say("gateway", 0, &events.Lapsed{})
		p.say("gateway", 0, &events.Cancelled{})
		place.issuer(t)
		if c := p.closed(); c.Outcome != events.Expired {
			t.Errorf("closed: %+v", c)
		}
		testenv.Eventually(t, "the session is gone", func() bool { return !p.hasSession() })
	})
	t.Run("after closed", func(t *testing.T) {
		p := place.login(t)
		p.insert()
		p.say("sessionissuer", 0, &events.Closed{Outcome: events.CancelledBy,
			Decision: events.Decision{Policy: "p", After: "x", Facts: events.Facts{Now: time.Now()}}})
		place.issuer(t)
		p.begin(events.OK, time.Minute, events.SMS) // the event that the instance died over is delivered again
		testenv.Eventually(t, "the session is gone", func() bool { return !p.hasSession() })
	})
}

// A login that the broker has lost with its store may have been granted. When recorder ends it, its session ends too.
func TestLostLoginLosesItsSession(t *testing.T) {
	place := newPlace(t)
	place.issuer(t)
	p := place.login(t)
	p.insert()
	told, err := place.broker.Dial(t, "web").SubscribeSync("deliver.web.revoked." + p.login.ID)
	if err != nil {
		t.Fatal(err)
	}
	p.say("recorder", 0, &events.Lapsed{Reason: "abandoned"})
	if c := p.closed(); c.Outcome != events.Expired {
		t.Errorf("closed: %+v", c)
	}
	if _, err := told.NextMsg(30 * time.Second); err != nil {
		t.Fatalf("no gateway was told: %v", err)
	}
	if s, err := place.sessions.Get(t.Context(), p.login); err != nil || s.Live(time.Now()) {
		t.Errorf("session %+v, %v", s, err)
	}
}

func TestDeniedIsNoSoonerThanItsFloor(t *testing.T) {
	const floor = 400 * time.Millisecond
	place := newPlace(t)
	place.issuer(t, func(env *runtime.Env) { env.Config.Login.DeniedFloor = floor })
	for name, play := range map[string]func(p *player){
		"NG": func(p *player) { p.begin(events.NG, time.Minute, events.SMS) },
		"wrong password": func(p *player) {
			p.request(time.Now().Add(time.Minute))
			p.say("identityverifier", 0, &events.Refused{Reason: "wrong_password"})
		},
	} {
		t.Run(name, func(t *testing.T) {
			p := place.login(t)
			play(p)
			if c := p.closed(); c.Outcome != events.Denied {
				t.Fatalf("closed: %+v", c)
			}
			opened := place.broker.Await(t, p.login, events.StepRequested, 0)
			ended := place.broker.Await(t, p.login, events.StepClosed, 0)
			if took := ended.Stored.Sub(opened.Stored); took < floor {
				t.Errorf("denied after %v", took)
			}
		})
	}
}

// TestTimerEndsWhatNobodyAnswers: no gateway, no recorder, nobody but the timer.
func TestTimerEndsWhatNobodyAnswers(t *testing.T) {
	place := newPlace(t)
	place.issuer(t)
	p := place.login(t)
	p.begin(events.Review, 2*time.Second, events.SMS)
	if c := p.closed(); c.Outcome != events.Expired {
		t.Errorf("closed: %+v", c)
	}
}

// TestEventsPastTheDeadline: whoever has no work left leaves it to this worker to close the login.
func TestEventsPastTheDeadline(t *testing.T) {
	place := newPlace(t)
	p := place.login(t)
	p.begin(events.OK, -time.Second)
	place.issuer(t)
	if c := p.closed(); c.Outcome != events.Expired {
		t.Errorf("closed: %+v", c)
	}
}

// TestEndsWithoutDatabase: nobody is granted a login while the database is away, but each ends.
func TestEndsWithoutDatabase(t *testing.T) {
	place := newPlace(t)
	away, err := pgxpool.New(t.Context(), "postgres://nobody@127.0.0.1:1/none?connect_timeout=1")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(away.Close)
	place.issuer(t, func(env *runtime.Env) { env.DB = away })
	p := place.login(t)
	p.begin(events.OK, time.Minute)
	p.say("gateway", 0, &events.Lapsed{})
	if c := p.closed(); c.Outcome != events.Expired {
		t.Errorf("closed: %+v", c)
	}
}

// TestManyInstances lets three of them race over logins that end in two ways at once, or in three.
func TestManyInstances(t *testing.T) {
	place := newPlace(t)
	for range 3 {
		place.issuer(t)
	}
	recorder, viewer := place.broker.Bus(t, "recorder"), place.broker.Bus(t, bus.UserViewer)
	players := make([]*player, 30)
	for i := range players {
		p := place.login(t)
		players[i] = p
		p.begin(events.Review, time.Minute, events.SMS)
	}
	for i, p := range players {
		place.broker.Await(t, p.login, events.StepWanted, 1)
		p.say("otpvalidator", 1, &events.Verified{Factor: events.SMS, Authenticator: "a"})
		switch i % 3 {
		case 0:
			p.say("gateway", 0, &events.Cancelled{})
		case 1:
			if err := recorder.Lapse(t.Context(), p.login, ""); err != nil {
				t.Fatal(err)
			}
		}
	}
	for i, p := range players {
		c := p.closed()
		if i%3 == 2 && c.Outcome != events.Granted {
			t.Errorf("closed: %+v", c)
		}
		if _, err := viewer.Event(t.Context(), p.login, events.StepLapsed, 0); err == nil && c.Outcome != events.Expired {
			t.Errorf("lapsed, and closed: %+v", c)
		}
		testenv.Eventually(t, "a session if and only if it was granted", func() bool { return p.hasSession() == (c.Outcome == events.Granted) })
	}
}

func TestReload(t *testing.T) {
	place := newPlace(t)
	path := filepath.Join(t.TempDir(), "policy.yaml")
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("apps: {demo: {on_ok: 1}}\n")
	w := place.issuer(t, func(env *runtime.Env) { env.Config.Policy = path })
	write("apps: {demo: {on_ok: nothing}}\n")
	if err := w.Reload(); err == nil {
		t.Error("took a bad policy")
	}
	p := place.login(t)
	p.begin(events.OK, time.Minute, events.SMS)
	if c := p.closed(); c.Outcome != events.Granted {
		t.Errorf("under the old policy: %+v", c)
	}
	write("apps: {demo: {on_ok: 2}}\n")
	if err := w.Reload(); err != nil {
		t.Fatal(err)
	}
	p = place.login(t)
	p.begin(events.OK, time.Minute, events.SMS)
	place.broker.Await(t, p.login, events.StepWanted, 1)

	if _, err := Build(t.Context(), &runtime.Env{Config: &config.Config{Policy: path + ".none"}}); err == nil {
		t.Error("started without a policy")
	}
}

// TestAClockThatIsBehind: the timer comes before the deadline by the clock of the machine that handles it.
func TestAClockThatIsBehind(t *testing.T) {
	place := newPlace(t)
	place.issuer(t, func(env *runtime.Env) { env.Now = func() time.Time { return time.Now().Add(-time.Second) } })
	p := place.login(t)
	p.begin(events.Review, time.Second, events.SMS)
	c := p.closed()
	if c.Outcome != events.Expired {
		t.Errorf("closed: %+v", c)
	}
	requested := place.broker.Await(t, p.login, events.StepRequested, 0).Data.(*events.Requested)
	if c.Decision.Facts.Now.Before(requested.Deadline) {
		t.Errorf("expired at %v, before the deadline %v", c.Decision.Facts.Now, requested.Deadline)
	}
}
