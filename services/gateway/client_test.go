package gateway

import (
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/rs/zerolog"

	"github.com/sekisho/sekisho/events"
	"github.com/sekisho/sekisho/services/internal/bus"
	"github.com/sekisho/sekisho/services/internal/testenv"
)

// The client of package events is tested here, where there is a broker.

func TestMain(m *testing.M) { testenv.Main(m) }

func newClient(t *testing.T, broker *testenv.Broker, o events.Options) *events.Client {
	t.Helper()
	if o.Gateway == "" {
		o.Gateway = "web"
	}
	c, err := events.NewClient(t.Context(), broker.Dial(t, o.Gateway), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

func request(t *testing.T, c *events.Client) events.Login {
	t.Helper()
	login, err := c.Request(t.Context(), events.Request{
		App: "demo", Method: events.Password, User: "alice", Password: "secret", SourceTag: "tag",
		Environment: &events.Environment{IP: "192.0.2.1"},
	})
	if err != nil {
		t.Fatal(err)
	}
	return login
}

// tell publishes what a worker says of a login.
func tell(t *testing.T, broker *testenv.Broker, by string, login events.Login, n int, data events.Data) {
	t.Helper()
	e := events.New(login, n, data)
	e.By, e.Time = by, time.Now()
	broker.Publish(t, e)
}

func challenge(t *testing.T, broker *testenv.Broker, login events.Login, round int) {
	t.Helper()
	tell(t, broker, "smsdispatcher", login, round, &events.Challenged{Factor: events.SMS, Hint: "•••-••••-1234",
		Expires: time.Now().Add(5 * time.Minute), ResendAt: time.Now().Add(-time.Second), Choices: []events.Factor{events.SMS, events.Token}})
}

func closeLogin(t *testing.T, broker *testenv.Broker, login events.Login, closed events.Closed) {
	t.Helper()
	closed.App = "demo"
	closed.Decision = events.Decision{Policy: "p", Facts: events.Facts{Now: time.Now()}, After: login.EventID(events.StepRequested, 0)}
	tell(t, broker, "sessionissuer", login, 0, &closed)
}

// until follows a login until done.
func until(t *testing.T, c *events.Client, login events.Login, done func(*events.State) bool) *events.State {
	t.Helper()
	for state, err := range c.Watch(t.Context(), login) {
		if err != nil {
			t.Fatal(err)
		}
		if done(state) {
			return state
		}
	}
	t.Fatalf("login %s ended", login)
	return nil
}

func TestRequestSealsWhatIsSecret(t *testing.T) {
	broker := testenv.NATS(t)
	login := request(t, newClient(t, broker, events.Options{}))
	e := broker.Await(t, login, events.StepRequested, 0)
	data := e.Data.(*events.Requested)
	var identity events.Identity
	if err := broker.Opener(t, "identityverifier").Open(data.Identity, e.Subject(), "identity", &identity); err != nil {
		t.Fatal(err)
	}
	var environment events.Environment
	if err := broker.Opener(t, "riskassessor").Open(data.Environment, e.Subject(), "environment", &environment); err != nil {
		t.Fatal(err)
	}
	if identity.User != "alice" || identity.Password != "secret" || environment.IP != "192.0.2.1" || data.SourceTag != "tag" {
		t.Errorf("identity %+v, environment %+v", identity, environment)
	}
	if left := time.Until(data.Deadline); left <= 4*time.Minute || left > 5*time.Minute || len(e.Trace) != 55 {
		t.Errorf("deadline in %v, trace %q", left, e.Trace)
	}
}

func TestEveryInstanceSeesTheSame(t *testing.T) {
	broker := testenv.NATS(t)
	one, two := newClient(t, broker, events.Options{}), newClient(t, broker, events.Options{})
	login := request(t, one)
	challenge(t, broker, login, 1)
	for _, c := range []*events.Client{one, two} {
		until(t, c, login, func(s *events.State) bool { return s.Challenge() != nil })
	}
	if n, err := two.Answer(t.Context(), login, "123456"); n != 1 || err != nil {
		t.Fatalf("attempt %d, %v", n, err)
	}
	e := broker.Await(t, login, events.StepAnswered, 1)
	answered := e.Data.(*events.Answered)
	var code string
	if err := broker.Opener(t, "otpvalidator").Open(answered.Code, e.Subject(), "code", &code); err != nil || code != "123456" || answered.Round != 1 {
		t.Errorf("answered %+v with %q, %v", answered, code, err)
	}
	tell(t, broker, "otpvalidator", login, 1, &events.Rejected{Round: 1, Factor: events.SMS, Reason: events.RejectedWrong, AttemptsLeft: 4})
	closeLogin(t, broker, login, events.Closed{Outcome: events.Failed, Reason: events.FailedAttempts})
	for i, c := range []*events.Client{one, two, newClient(t, broker, events.Options{})} {
		s := until(t, c, login, func(s *events.State) bool { return s.Ended() && s.Rejected[1] != nil })
		if s.Version() != 4 || s.Status() != events.StatusFailed || s.Reason() != events.FailedAttempts {
			t.Errorf("client %d: version %d, %s (%s)", i, s.Version(), s.Status(), s.Reason())
		}
	}
	for _, try := range []func() error{
		func() error { _, err := one.Answer(t.Context(), login, "123456"); return err },
		func() error { _, err := one.Choose(t.Context(), login, events.SMS); return err },
		func() error { return one.Cancel(t.Context(), login) },
	} {
		if err := try(); !errors.Is(err, events.ErrEnded) {
			t.Errorf("after the end: %v", err)
		}
	}
}

func TestWatchYieldsEachVersionUntilTheEnd(t *testing.T) {
	broker := testenv.NATS(t)
	c := newClient(t, broker, events.Options{Reread: time.Hour}) // only what is pushed
	login := request(t, c)
	var versions []int
	for state, err := range c.Watch(t.Context(), login) {
		if err != nil {
			t.Fatal(err)
		}
		versions = append(versions, state.Version())
		switch state.Version() {
		case 1:
			challenge(t, broker, login, 1)
		case 2:
			closeLogin(t, broker, login, events.Closed{Outcome: events.Denied})
		}
	}
	if len(versions) != 3 || versions[2] != 3 {
		t.Errorf("versions %v, want 1 2 3", versions)
	}
}

func TestWatchEndsWithItsContext(t *testing.T) {
	broker := testenv.NATS(t)
	c := newClient(t, broker, events.Options{})
	login := request(t, c)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	n := 0
	for range c.Watch(ctx, login) {
		n++
		cancel()
	}
	if n != 1 {
		t.Errorf("%d states, want 1", n)
	}
}

// silence keeps the broker from telling gateways anything.
func silence(t *testing.T, broker *testenv.Broker) {
	t.Helper()
	js, err := jetstream.New(broker.Dial(t, bus.UserSetup))
	if err != nil {
		t.Fatal(err)
	}
	stream, err := js.Stream(t.Context(), "LOGIN")
	if err != nil {
		t.Fatal(err)
	}
	silent := stream.CachedInfo().Config
	silent.RePublish = nil
	if _, err := js.UpdateStream(t.Context(), silent); err != nil {
		t.Fatal(err)
	}
}

func TestLostHintIsMadeUpFor(t *testing.T) {
	broker := testenv.NATS(t)
	silence(t, broker)
	c := newClient(t, broker, events.Options{Reread: 10 * time.Millisecond})
	login := request(t, c)
	challenge(t, broker, login, 1)
	until(t, c, login, func(s *events.State) bool { return s.Challenge() != nil })
	closeLogin(t, broker, login, events.Closed{Outcome: events.Denied})
	until(t, c, login, (*events.State).Ended)
}

func TestFiftyAnswersGetFiveAttempts(t *testing.T) {
	broker := testenv.NATS(t)
	clients := []*events.Client{newClient(t, broker, events.Options{}), newClient(t, broker, events.Options{})}
	login := request(t, clients[0])
	challenge(t, broker, login, 1)
	for _, c := range clients {
		until(t, c, login, func(s *events.State) bool { return s.Challenge() != nil })
	}
	var mu sync.Mutex
	taken, refused := make(map[int]int), 0
	var wg sync.WaitGroup
	for i := range 50 {
		wg.Go(func() {
			n, err := clients[i%2].Answer(t.Context(), login, "000000")
			mu.Lock()
			defer mu.Unlock()
			switch {
			case err == nil:
				taken[n]++
			case errors.Is(err, events.ErrNoAttempts):
				refused++
			default:
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if refused != 45 || len(taken) != 5 {
		t.Errorf("attempts %v, %d refused", taken, refused)
	}
	for n, count := range taken {
		if count != 1 || n < 1 || n > 5 {
			t.Errorf("attempt %d was given %d times", n, count)
		}
	}
}

func TestChoose(t *testing.T) {
	broker := testenv.NATS(t)
	patient := newClient(t, broker, events.Options{})                           // 30 s between two choices
	hasty := newClient(t, broker, events.Options{ResendAfter: time.Nanosecond}) // any time
	login := request(t, patient)
	if _, err := patient.Choose(t.Context(), login, events.SMS); !errors.Is(err, events.ErrNotAsked) {
		t.Errorf("before any challenge: %v", err)
	}
	challenge(t, broker, login, 1)
	until(t, patient, login, func(s *events.State) bool { return s.Challenge() != nil })
	if _, err := patient.Choose(t.Context(), login, events.Push); !errors.Is(err, events.ErrNotAsked) {
		t.Errorf("a factor that is not offered: %v", err)
	}
	if left, err := patient.Choose(t.Context(), login, events.SMS); left != 1 || err != nil {
		t.Fatalf("left %d, %v", left, err)
	}
	_, err := patient.Choose(t.Context(), login, events.SMS)
	if early, ok := errors.AsType[*events.TooSoonError](err); !ok || time.Until(early.At) < 20*time.Second {
		t.Errorf("again at once: %v", err)
	}
	for want := 2; want < events.Rounds; want++ { // nothing has come of any of them
		if left, err := hasty.Choose(t.Context(), login, events.Token); left != want || err != nil {
			t.Fatalf("left %d, %v; want %d", left, err, want)
		}
	}
	if _, err := hasty.Choose(t.Context(), login, events.SMS); !errors.Is(err, events.ErrNoRounds) {
		t.Errorf("after all rounds: %v", err)
	}
}

func TestResendWaitsForItsTime(t *testing.T) {
	broker := testenv.NATS(t)
	c := newClient(t, broker, events.Options{})
	login := request(t, c)
	at := time.Now().Add(time.Hour)
	tell(t, broker, "smsdispatcher", login, 1, &events.Challenged{Factor: events.SMS, Expires: at, ResendAt: at, Choices: []events.Factor{events.SMS, events.Token}})
	until(t, c, login, func(s *events.State) bool { return s.Challenge() != nil })
	_, err := c.Choose(t.Context(), login, events.SMS)
	if early, ok := errors.AsType[*events.TooSoonError](err); !ok || !early.At.Equal(at) {
		t.Errorf("the same again: %v", err)
	}
	if left, err := c.Choose(t.Context(), login, events.Token); left != 1 || err != nil {
		t.Errorf("another factor: left %d, %v", left, err)
	}
	tell(t, broker, "otpvalidator", login, 2, &events.Challenged{Factor: events.Token, Expires: at, Choices: []events.Factor{events.SMS, events.Token}})
	until(t, c, login, func(s *events.State) bool { return s.Round() == 2 })
	_, err = c.Choose(t.Context(), login, events.SMS)
	if early, ok := errors.AsType[*events.TooSoonError](err); !ok || !early.At.Equal(at) {
		t.Errorf("the first again, by way of the other: %v", err)
	}
}

func TestClientLapsesItsOwn(t *testing.T) {
	broker := testenv.NATS(t)
	c := newClient(t, broker, events.Options{})
	start := func(after time.Duration) events.Login {
		login, err := c.Request(t.Context(), events.Request{App: "demo", Method: events.None, User: "alice", Deadline: time.Now().Add(after)})
		if err != nil {
			t.Fatal(err)
		}
		return login
	}
	ended, open := start(time.Second), start(1500*time.Millisecond)
	closeLogin(t, broker, ended, events.Closed{Outcome: events.Denied})
	until(t, c, ended, (*events.State).Ended)
	broker.Await(t, open, events.StepLapsed, 0)
	_, err := broker.Bus(t, bus.UserViewer).Event(t.Context(), ended, events.StepLapsed, 0)
	if !errors.Is(err, bus.ErrNotFound) {
		t.Errorf("the login that had ended lapsed too: %v", err)
	}
}

// Nobody closes the login, and the client that started it is gone: any other ends it, for all of them and for good.
func TestLapsedIsAnEnding(t *testing.T) {
	broker := testenv.NATS(t)
	gone, other := newClient(t, broker, events.Options{}), newClient(t, broker, events.Options{})
	login, err := gone.Request(t.Context(), events.Request{App: "demo", Method: events.None, User: "alice", Deadline: time.Now().Add(time.Second)})
	if err != nil {
		t.Fatal(err)
	}
	gone.Close()
	challenge(t, broker, login, 1)
	s := until(t, other, login, (*events.State).Ended)
	if s.Status() != events.StatusExpired || s.Challenge() != nil || s.Closed != nil {
		t.Errorf("%s, %+v", s.Status(), s.Closed)
	}
	broker.Await(t, login, events.StepLapsed, 0)
	closeLogin(t, broker, login, events.Closed{Outcome: events.Expired}) // sessionissuer is back
	for _, c := range []*events.Client{other, newClient(t, broker, events.Options{})} {
		later := until(t, c, login, (*events.State).Ended)
		if later.Status() != s.Status() || later.Version() != s.Version() {
			t.Errorf("%s in version %d, and then %s in %d", s.Status(), s.Version(), later.Status(), later.Version())
		}
		if _, err := c.Answer(t.Context(), login, "123456"); !errors.Is(err, events.ErrEnded) {
			t.Errorf("answered: %v", err)
		}
	}
}

// A login whose grant is stored does not lapse, also for a client that has not heard of it.
func TestAGrantedLoginDoesNotLapse(t *testing.T) {
	broker := testenv.NATS(t)
	c := newClient(t, broker, events.Options{Reread: time.Hour})
	silence(t, broker)
	login := request(t, c)
	now := time.Now()
	closeLogin(t, broker, login, events.Closed{Outcome: events.Granted, User: "u1", AMR: []string{"pwd"}, ACR: "1fa", AuthTime: now, Expires: now.Add(time.Hour)})
	if err := c.Lapse(t.Context(), login); !errors.Is(err, events.ErrEnded) {
		t.Errorf("lapsed: %v", err)
	}
	s, err := newClient(t, broker, events.Options{}).State(t.Context(), login)
	if err != nil || s.Status() != events.StatusGranted || s.Lapsed != nil {
		t.Errorf("%+v, %v", s, err)
	}
}

func TestUnknownLogins(t *testing.T) {
	broker := testenv.NATS(t)
	c := newClient(t, broker, events.Options{})
	for name, login := range map[string]events.Login{
		"old":             {Gateway: "web", ID: "01890a5d-ac96-774b-bcce-b302099a8057"},
		"other gateway's": request(t, newClient(t, broker, events.Options{Gateway: "example"})),
		"no id":           {Gateway: "web", ID: "*"},
	} {
		if _, err := c.State(t.Context(), login); !errors.Is(err, events.ErrNotFound) {
			t.Errorf("%s: %v", name, err)
		}
	}
	fresh := testenv.NewLogin(t, "web")
	if s, err := c.State(t.Context(), fresh); err != nil || s.Status() != events.StatusPending { // a replica may be behind
		t.Errorf("a login of this moment: %v, %v", s, err)
	}
}

func TestAnotherGatewaysNameIsDenied(t *testing.T) {
	broker := testenv.NATS(t)
	_, err := events.NewClient(t.Context(), broker.Dial(t, "web"), events.Options{Gateway: "example"})
	if !errors.Is(err, events.ErrDenied) {
		t.Errorf("got %v, want ErrDenied", err)
	}
}

func TestRevocationsAreHeard(t *testing.T) {
	broker := testenv.NATS(t)
	heard := make(chan events.Login, 2)
	newClient(t, broker, events.Options{Revoked: func(l events.Login) { heard <- l }})
	newClient(t, broker, events.Options{Gateway: "example", Revoked: func(l events.Login) { t.Errorf("example heard of %s", l) }})
	session := testenv.NewLogin(t, "web")
	if err := broker.Bus(t, "console").Revoke(t.Context(), session); err != nil {
		t.Fatal(err)
	}
	if got := <-heard; got != session {
		t.Errorf("heard %s, want %s", got, session)
	}
}

// A link is a TCP proxy in front of the broker that can lose the broker's answers.
type link struct {
	listener net.Listener
	mu       sync.Mutex
	deaf     bool
	conns    []net.Conn
}

func newLink(t *testing.T, broker string) *link {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l := &link{listener: listener}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			near, err := listener.Accept()
			if err != nil {
				return
			}
			far, err := net.Dial("tcp", broker)
			if err != nil {
				near.Close()
				continue
			}
			l.mu.Lock()
			l.deaf = false // a new connection works
			l.conns = append(l.conns, near, far)
			l.mu.Unlock()
			wg.Go(func() { _, _ = io.Copy(far, near) })
			wg.Go(func() { _, _ = io.Copy(answers{l, near}, far) })
		}
	})
	t.Cleanup(func() { listener.Close(); l.cut(); wg.Wait() })
	return l
}

type answers struct {
	*link
	to net.Conn
}

func (a answers) Write(b []byte) (int, error) {
	a.mu.Lock()
	deaf := a.deaf
	a.mu.Unlock()
	if deaf {
		return len(b), nil
	}
	return a.to.Write(b)
}

func (l *link) loseAnswers() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.deaf = true
}

func (l *link) cut() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, c := range l.conns {
		c.Close()
	}
	l.conns = nil
}

func TestAnswerWhoseAckIsLostIsCountedOnce(t *testing.T) {
	broker := testenv.NATS(t)
	l := newLink(t, strings.TrimPrefix(broker.URL, "nats://"))
	nc, err := bus.Dial("nats://"+l.listener.Addr().String(), "web", broker.Seeds["web"], zerolog.Nop(),
		nats.ReconnectWait(time.Millisecond), nats.ReconnectJitter(0, 0))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	c, err := events.NewClient(t.Context(), nc, events.Options{Gateway: "web", Patience: time.Minute, Reread: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	login := request(t, c)
	challenge(t, broker, login, 1)
	until(t, c, login, func(s *events.State) bool { return s.Challenge() != nil })

	l.loseAnswers()
	var attempt int
	answered := make(chan error, 1)
	go func() {
		var err error
		attempt, err = c.Answer(t.Context(), login, "123456")
		answered <- err
	}()
	broker.Await(t, login, events.StepAnswered, 1) // stored, but the client can not know
	l.cut()
	if err := <-answered; err != nil || attempt != 1 {
		t.Errorf("attempt %d, %v; want 1", attempt, err)
	}
	if _, err := broker.Bus(t, bus.UserViewer).Event(t.Context(), login, events.StepAnswered, 2); !errors.Is(err, bus.ErrNotFound) {
		t.Errorf("a second attempt was taken: %v", err)
	}
}
