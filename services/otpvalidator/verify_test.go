package otpvalidator

import (
	"errors"
	"fmt"
	"reflect"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/rs/zerolog"

	"github.com/sekisho/sekisho/events"
	"github.com/sekisho/sekisho/services/internal/bus"
	"github.com/sekisho/sekisho/services/internal/config"
	"github.com/sekisho/sekisho/services/internal/credentials"
	"github.com/sekisho/sekisho/services/internal/directory"
	"github.com/sekisho/sekisho/services/internal/runtime"
	"github.com/sekisho/sekisho/services/internal/testenv"
)

func TestMain(m *testing.M) { testenv.Main(m) }

// A site is what a verifier runs on: a broker, a database, credentials, and a clock for the locks.
type site struct {
	broker *testenv.Broker
	viewer *bus.Bus
	admin  *pgxpool.Pool
	env    *runtime.Env
	sealer *events.Sealer

	mu  sync.Mutex
	now time.Time
}

func newSite(t *testing.T, adjust ...func(*config.Config)) *site {
	s := &site{broker: testenv.NATS(t), now: time.Now()}
	s.viewer = s.broker.Bus(t, bus.UserViewer)
	db := testenv.Migrated(t)
	s.admin = db.Pool(t, "")
	folder := credentials.Open(t.TempDir())
	if err := folder.Ensure(credentials.Contents{Keys: []string{"code", "token"}}); err != nil {
		t.Fatal(err)
	}
	if err := folder.RotateSealing([]string{Name}, time.Now(), time.Hour); err != nil {
		t.Fatal(err)
	}
	var err error
	if s.sealer, err = folder.Sealer(); err != nil {
		t.Fatal(err)
	}
	cfg := config.Default()
	for _, f := range adjust {
		f(cfg)
	}
	s.env = &runtime.Env{
		Name: Name, Config: cfg, Log: zerolog.Nop(), Credentials: folder, Now: s.clock,
		DB: db.Pool(t, Name), Bus: s.broker.Bus(t, Name),
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

// start makes a verifier, as another process would be.
func (s *site) start(t *testing.T) *verifier {
	t.Helper()
	v, err := newVerifier(s.env)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(v.attempts.Close)
	return v
}

// publish stores an event of a login, and returns it as the stream has it.
func (s *site) publish(t *testing.T, by string, login events.Login, n int, data events.Data) *events.Event {
	t.Helper()
	e := events.New(login, n, data)
	e.By, e.Time = by, time.Now()
	if by == "gateway/web" {
		e.Nonce = "0123456789abcdef"
	}
	s.broker.Publish(t, e)
	stored, err := s.viewer.Event(t.Context(), login, e.Step, n)
	if err != nil {
		t.Fatal(err)
	}
	return stored
}

// A login is one login of a user, up to its first challenge.
type login struct {
	*site
	events.Login
	user   string
	factor events.Factor
	decoy  bool
	device string
}

func (s *site) login(t *testing.T, user string, adjust ...func(*login)) *login {
	t.Helper()
	id := testenv.NewLogin(t, "web")
	l := &login{site: s, Login: id, user: user, factor: events.SMS}
	for _, f := range adjust {
		f(l)
	}
	l.wanted(t, 1)
	return l
}

func (l *login) wanted(t *testing.T, round int) {
	t.Helper()
	l.publish(t, "sessionissuer", l.Login, round, &events.Wanted{
		Factor: l.factor, App: "demo", User: l.user, Decoy: l.decoy, Device: l.device, Deadline: time.Now().Add(time.Hour),
		Decision: events.Decision{Policy: "p", Facts: events.Facts{Now: time.Now(), Enabled: true}, After: l.EventID(events.StepAssessed, 0)},
	})
}

func (l *login) challenged(t *testing.T, round int) *login {
	t.Helper()
	return l.challengedUntil(t, round, time.Now().Add(time.Hour))
}

func (l *login) challengedUntil(t *testing.T, round int, expires time.Time) *login {
	t.Helper()
	l.publish(t, "smsdispatcher", l.Login, round, &events.Challenged{Factor: events.SMS, Expires: expires, Choices: []events.Factor{events.SMS}})
	return l
}

// answered stores an attempt to answer a round.
func (l *login) answered(t *testing.T, attempt, round int, code string) *events.Event {
	t.Helper()
	sealed, err := l.sealer.Seal(Name, l.Subject(events.StepAnswered, attempt), "code", code)
	if err != nil {
		t.Fatal(err)
	}
	e := l.publish(t, "gateway/web", l.Login, attempt, &events.Answered{Round: round, Factor: l.factor, Code: sealed})
	e.Stored = l.clock() // codes are as old as the test says
	return e
}

// other is a code that is not the given one.
func other(code string) string {
	if code == "000000" {
		return "000001"
	}
	return "000000"
}

// nobody is told of a decision.
func nobody() error { return nil }

// verify handles an answer. It returns what became of it in short: "verified", "", or the reason of rejected and the attempts left.
func verify(t *testing.T, v *verifier, e *events.Event) string {
	t.Helper()
	decision, result, err := v.decide(t.Context(), e, e.Data.(*events.Answered))
	if err == nil && result != nil {
		err = v.attempts.Finish(t.Context(), *result, nobody)
	}
	if err != nil {
		t.Fatal(err)
	}
	return short(t, e, decision)
}

func short(t *testing.T, e, decision *events.Event) string {
	t.Helper()
	if decision == nil {
		return ""
	}
	if err := decision.Data.Validate(); err != nil {
		t.Error(err)
	}
	answer := e.Data.(*events.Answered)
	switch data := decision.Data.(type) {
	case *events.Verified:
		if decision.N != answer.Round || data.Factor != answer.Factor {
			t.Errorf("verified.%d of %s, answered was round %d and %s", decision.N, data.Factor, answer.Round, answer.Factor)
		}
		if data.Factor == events.Token {
			return fmt.Sprintf("verified %s %d", data.Authenticator, data.Counter)
		}
		return "verified " + data.Authenticator
	case *events.Rejected:
		if decision.N != e.N || data.Round != answer.Round || data.Factor != answer.Factor {
			t.Errorf("rejected.%d of round %d and %s, answered was attempt %d of round %d", decision.N, data.Round, data.Factor, e.N, answer.Round)
		}
		return fmt.Sprintf("%s %d", data.Reason, data.AttemptsLeft)
	default:
		t.Errorf("%T", data)
		return ""
	}
}

func expect(t *testing.T, what string, got, want any) {
	t.Helper()
	if !reflect.DeepEqual(got, want) {
		t.Errorf("%s: %v, want %v", what, got, want)
	}
}

func (s *site) failures(t *testing.T, authenticator string) (n int) {
	t.Helper()
	err := s.admin.QueryRow(t.Context(), `SELECT coalesce(sum(failures), 0) FROM directory.counters WHERE authenticator = $1`, authenticator).Scan(&n)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func TestVerify(t *testing.T) {
	s := newSite(t)
	v := s.start(t)
	l := s.login(t, "alice").challenged(t, 1)
	code := v.codes.Code(l.Login, 1)
	for attempt, answer := range []string{other(code), "", v.codes.Code(l.Login, 2)} {
		expect(t, "wrong", verify(t, v, l.answered(t, attempt+1, 1, answer)), fmt.Sprintf("wrong %d", 4-attempt))
	}
	expect(t, "failures", s.failures(t, "sms:alice"), 3)
	expect(t, "right", verify(t, v, l.answered(t, 4, 1, code)), "verified sms:alice")
	expect(t, "failures", s.failures(t, "sms:alice"), 0)
}

func TestFiveWrongCodes(t *testing.T) {
	s := newSite(t)
	v := s.start(t)
	l := s.login(t, "alice").challenged(t, 1)
	for attempt := 1; attempt <= 5; attempt++ {
		expect(t, "verdict", verify(t, v, l.answered(t, attempt, 1, "no")), fmt.Sprintf("wrong %d", 5-attempt))
	}
}

func TestFewerAttempts(t *testing.T) {
	s := newSite(t, func(c *config.Config) { c.Attempts = 2 })
	v := s.start(t)
	l := s.login(t, "alice").challenged(t, 1)
	code := v.codes.Code(l.Login, 1)
	expect(t, "first", verify(t, v, l.answered(t, 1, 1, other(code))), "wrong 1")
	third := l.answered(t, 3, 1, code)
	expect(t, "one too many", verify(t, v, third), "wrong 0")
	expect(t, "last", verify(t, v, l.answered(t, 2, 1, code)), "verified sms:alice")
}

func TestWhatWasNotAsked(t *testing.T) {
	s := newSite(t)
	v := s.start(t)
	l := s.login(t, "alice")
	code := v.codes.Code(l.Login, 1)
	early := l.answered(t, 1, 1, code)
	expect(t, "before the challenge", verify(t, v, early), "wrong 4")
	l.challenged(t, 1)
	expect(t, "before the challenge, handled after it", verify(t, v, early), "wrong 4")
	expect(t, "a round that is not there", verify(t, v, l.answered(t, 2, 3, v.codes.Code(l.Login, 3))), "wrong 3")

	answer := *early.Data.(*events.Answered)
	answer.Factor = events.Token
	expect(t, "another factor", verify(t, v, l.publish(t, "gateway/web", l.Login, 3, &answer)), "wrong 2")
	answer.Factor, answer.Code, answer.Response = events.Push, nil, answer.Code
	expect(t, "another worker's", verify(t, v, l.publish(t, "gateway/web", l.Login, 4, &answer)), "")
	expect(t, "failures", s.failures(t, "sms:alice"), 0) // nothing was guessed at
	expect(t, "right", verify(t, v, l.answered(t, 5, 1, code)), "verified sms:alice")

	l = s.login(t, "alice", func(l *login) { l.factor = events.Token })
	l.asked(t, v, 1)
	expect(t, "a text message's code for a token", verify(t, v, l.answered(t, 1, 1, v.codes.Code(l.Login, 1))), "wrong 4")
}

// A round dies when the next is challenged, in the order of the stream and whenever the answer is handled.
func TestSuperseded(t *testing.T) {
	s := newSite(t)
	v := s.start(t)
	l := s.login(t, "alice").challenged(t, 1)
	first, second := v.codes.Code(l.Login, 1), v.codes.Code(l.Login, 2)
	l.wanted(t, 2) // a resend that is not challenged yet leaves the old code valid
	before := l.answered(t, 1, 1, first)
	l.challenged(t, 2)
	after := l.answered(t, 2, 1, first)
	expect(t, "old code after the new challenge", verify(t, v, after), "superseded 3")
	expect(t, "old code for the new round", verify(t, v, l.answered(t, 3, 2, first)), "wrong 2")
	expect(t, "new code", verify(t, v, l.answered(t, 4, 2, second)), "verified sms:alice")
	expect(t, "old code before the new challenge", verify(t, v, before), "verified sms:alice")
}

func TestExpired(t *testing.T) {
	s := newSite(t)
	v := s.start(t)
	l := s.login(t, "alice").challengedUntil(t, 1, time.Now().Add(-time.Second))
	expect(t, "verdict", verify(t, v, l.answered(t, 1, 1, v.codes.Code(l.Login, 1))), "expired 4")
	expect(t, "failures", s.failures(t, "sms:alice"), 0)
}

// A code opens its own login only.
func TestCodeOfAnotherLogin(t *testing.T) {
	s := newSite(t)
	v := s.start(t)
	l, another := s.login(t, "alice").challenged(t, 1), s.login(t, "alice").challenged(t, 1)
	expect(t, "verdict", verify(t, v, l.answered(t, 1, 1, v.codes.Code(another.Login, 1))), "wrong 4")
}

func TestDecoyNeverSucceeds(t *testing.T) {
	s := newSite(t)
	v := s.start(t)
	l := s.login(t, "ghost", func(l *login) { l.decoy = true }).challenged(t, 1)
	expect(t, "verdict", verify(t, v, l.answered(t, 1, 1, v.codes.Code(l.Login, 1))), "wrong 4")
	expect(t, "failures", s.failures(t, "sms:?ghost"), 1)
}

// An answer counts over all logins of the user; a browser that the user logged in with before is not locked out by others.
func TestLocked(t *testing.T) {
	s := newSite(t)
	v := s.start(t)
	for range 5 {
		l := s.login(t, "alice").challenged(t, 1)
		expect(t, "wrong", verify(t, v, l.answered(t, 1, 1, "no")), "wrong 4")
	}
	l := s.login(t, "alice").challenged(t, 1)
	locked := l.answered(t, 1, 1, v.codes.Code(l.Login, 1))
	expect(t, "right while locked", verify(t, v, locked), "locked 4")

	known := s.login(t, "alice", func(l *login) { l.device = "d1" }).challenged(t, 1)
	expect(t, "known browser", verify(t, v, known.answered(t, 1, 1, v.codes.Code(known.Login, 1))), "verified sms:alice")

	s.pass(2 * time.Minute)
	expect(t, "right after the lock", verify(t, v, l.answered(t, 2, 1, v.codes.Code(l.Login, 1))), "verified sms:alice")
}

// Fifty guesses at once in as many logins, in two processes: five are looked at.
func TestParallelGuesses(t *testing.T) {
	s := newSite(t)
	processes := []*verifier{s.start(t), s.start(t)}
	var answers []*events.Event
	for range 50 {
		l := s.login(t, "alice").challenged(t, 1)
		answers = append(answers, l.answered(t, 1, 1, "no"))
	}
	expect(t, "verdicts", atOnce(t, processes, answers), map[string]int{"wrong 4": 5, "locked 4": 45}) // whose ends are not noted count all the same
}

// atOnce counts what becomes of answers that several processes decide on at the same time, and finish no text code's.
func atOnce(t *testing.T, processes []*verifier, answers []*events.Event) map[string]int {
	t.Helper()
	verdicts := make(chan string, len(answers))
	var group sync.WaitGroup
	for i, e := range answers {
		v := processes[i%len(processes)]
		group.Go(func() {
			decision, _, err := v.decide(t.Context(), e, e.Data.(*events.Answered))
			if err != nil {
				t.Error(err)
			}
			verdicts <- short(t, e, decision)
		})
	}
	group.Wait()
	close(verdicts)
	count := make(map[string]int)
	for verdict := range verdicts {
		count[verdict]++
	}
	return count
}

// Crash windows: a repeat of an event gets the verdict of the first delivery, and counts once.
func TestRedelivery(t *testing.T) {
	s := newSite(t)
	v := s.start(t)
	l := s.login(t, "alice").challenged(t, 1)
	code := v.codes.Code(l.Login, 1)

	wrong := l.answered(t, 1, 1, other(code))
	for range 3 { // verdict stored, not published
		expect(t, "wrong", verify(t, s.start(t), wrong), "wrong 4")
	}
	expect(t, "failures", s.failures(t, "sms:alice"), 1)

	right := l.answered(t, 2, 1, code)
	begin(t, v, right) // counted, not evaluated
	for range 3 {
		expect(t, "right", verify(t, s.start(t), right), "verified sms:alice")
	}
	expect(t, "failures", s.failures(t, "sms:alice"), 0)

	for range 5 { // a lock that came later changes nothing
		l := s.login(t, "alice").challenged(t, 1)
		verify(t, v, l.answered(t, 1, 1, "no"))
	}
	expect(t, "right", verify(t, v, right), "verified sms:alice")
	expect(t, "wrong", verify(t, v, wrong), "wrong 4")

	decided := s.login(t, "bob").challenged(t, 1).answered(t, 1, 1, "no")
	result := directory.Result{Attempt: begin(t, v, decided), Verdict: "right", Right: true}
	if err := v.attempts.Finish(t.Context(), result, nobody); err != nil {
		t.Fatal(err)
	}
	expect(t, "what was decided stands", verify(t, v, decided), "verified sms:bob")
}

// begin counts an answer and does not evaluate it.
func begin(t *testing.T, v *verifier, e *events.Event) directory.Attempt {
	t.Helper()
	history, err := v.bus.History(t.Context(), e)
	if err != nil {
		t.Fatal(err)
	}
	answer := e.Data.(*events.Answered)
	wanted, _ := bus.Get[*events.Wanted](history, answer.Round)
	attempt, err := attemptOf(e, answer, wanted)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := v.attempts.Begin(t.Context(), attempt); err != nil {
		t.Fatal(err)
	}
	return attempt
}

// Nothing is said about a round that was answered rightly, or a login that is at its end.
func TestOver(t *testing.T) {
	s := newSite(t)
	v := s.start(t)
	for name, end := range map[string]func(l *login){
		"verified": func(l *login) {
			l.publish(t, Name, l.Login, 1, &events.Verified{Factor: events.SMS, Authenticator: "sms:alice"})
		},
		"cancelled": func(l *login) { l.publish(t, "gateway/web", l.Login, 0, &events.Cancelled{}) },
		"lapsed":    func(l *login) { l.publish(t, "gateway/web", l.Login, 0, &events.Lapsed{}) },
		"closed": func(l *login) {
			l.publish(t, "sessionissuer", l.Login, 0, &events.Closed{Outcome: events.Denied,
				Decision: events.Decision{Policy: "p", Facts: events.Facts{Now: time.Now()}, After: "x"}})
		},
	} {
		l := s.login(t, "alice").challenged(t, 1)
		end(l)
		expect(t, name, verify(t, v, l.answered(t, 1, 1, v.codes.Code(l.Login, 1))), "")
	}
	expect(t, "failures", s.failures(t, "sms:alice"), 0)
}

// On the real bus: what can not be opened is a dead letter and ends nothing; the next answer is verified.
func TestOnTheBus(t *testing.T) {
	s := newSite(t)
	worker, err := Build(t.Context(), s.env)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(worker.Close)
	codes := s.start(t).codes
	testenv.Start(t, s.env.Bus, worker.Handlers...)
	l := s.login(t, "alice").challenged(t, 1)
	elsewhere, err := s.sealer.Seal(Name, l.Subject(events.StepAnswered, 5), "code", codes.Code(l.Login, 1))
	if err != nil {
		t.Fatal(err)
	}
	l.publish(t, "gateway/web", l.Login, 1, &events.Answered{Round: 1, Factor: events.SMS, Code: elsewhere})
	l.answered(t, 2, 1, "no")
	rejected := s.broker.Await(t, l.Login, events.StepRejected, 2)
	expect(t, "left", rejected.Data.(*events.Rejected).AttemptsLeft, 3)
	right := l.answered(t, 3, 1, codes.Code(l.Login, 1))
	verified := s.broker.Await(t, l.Login, events.StepVerified, 1)
	expect(t, "cause", verified.Cause, right.ID())
	s.awaitDead(t, "dead."+Name+"."+l.Subject(events.StepAnswered, 1))
	if _, err := s.viewer.Event(t.Context(), l.Login, events.StepRejected, 1); !errors.Is(err, bus.ErrNotFound) {
		t.Errorf("a sealed code was opened in another place than its own: %v", err)
	}
}

func (s *site) awaitDead(t *testing.T, subject string) {
	t.Helper()
	js, err := jetstream.New(s.viewer.Conn())
	if err != nil {
		t.Fatal(err)
	}
	dead, err := js.Stream(t.Context(), "DEAD")
	if err != nil {
		t.Fatal(err)
	}
	testenv.Eventually(t, "dead letter "+subject, func() bool {
		_, err := dead.GetLastMsgForSubject(t.Context(), subject)
		return err == nil
	})
}
