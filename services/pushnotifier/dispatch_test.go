package pushnotifier

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sekisho/sekisho/events"
	"github.com/sekisho/sekisho/services/internal/config"
	"github.com/sekisho/sekisho/services/simulators"
)

// dispatch handles a wanted and returns what it came to: the reason of undelivered, or "".
func dispatch(t testing.TB, n *notifier, e *events.Event) string {
	t.Helper()
	out, err := n.dispatch(t.Context(), e, e.Data.(*events.Wanted))
	check(t, err)
	if len(out) == 0 {
		return ""
	}
	check(t, out[0].Data.Validate())
	return out[0].Data.(*events.Undelivered).Reason
}

// push lets a phone be told by a push service.
func (p *phone) push(t testing.TB, n *notifier, user, transport string) (id string) {
	t.Helper()
	target, id := p.far.subscribe(t, user, transport, n.vendors.vapid)
	status, answer := p.ask(t, "PUT", "/v1/authenticator/subscription", map[string]any{"transport": target.Transport, "target": target.Address})
	if status != 204 {
		t.Fatal(status, answer)
	}
	return id
}

func TestChallenge(t *testing.T) {
	s := newSite(t)
	n := s.serve(t)
	p := s.phone(t, "alice")
	p.push(t, n, "alice", simulators.WebPush)
	s.phone(t, "alice").push(t, n, "alice", simulators.FCM)
	l := s.login(t, "alice", func(l *login) { l.done = []string{"pwd"} })
	at := s.clock().UTC().Truncate(time.Microsecond)
	expect(t, "challenged", l.challenged(t, n, 1), &events.Challenged{
		Factor: events.Push, Number: true, Expires: at.Add(2 * time.Minute), ResendAt: at.Add(30 * time.Second),
		Choices: []events.Factor{events.Push, events.SMS},
	})
	messages, err := s.far.WaitPush(t.Context(), "alice", 2)
	check(t, err)
	for _, m := range messages {
		if m.Body != string(wakeUp) || m.Urgency != "high" || m.Topic == "" && m.Provider == simulators.WebPush || m.TTL < 60 || m.TTL > 120 {
			t.Errorf("message: %+v", m)
		}
	}
	hinted := []string{<-s.hints, <-s.hints}
	expect(t, "hinted", slices.Contains(hinted, p.id), true)

	// The same again, as after a crash: the prompt is the same, the phones are woken once more under the same topic.
	asked := p.asked(t)
	expect(t, "redelivery", dispatch(t, n, l.event(t, events.StepWanted, 1)), "")
	expect(t, "prompt", p.asked(t), asked)
	messages, err = s.far.WaitPush(t.Context(), "alice", 4)
	check(t, err)
	expect(t, "rows", s.count(t, `SELECT count(*) FROM push.prompts`), 1)
	topics := make(map[string]bool)
	for _, m := range messages {
		topics[m.Topic] = true
	}
	expect(t, "topics", len(topics), 1)
}

// Who has shown nothing but a name learns nothing of the user's phones, nor whether there are any.
func TestChallengeTellsNothingOfAName(t *testing.T) {
	s := newSite(t)
	n := s.start(t)
	s.phone(t, "alice")
	real := s.login(t, "alice").challenged(t, n, 1)
	decoy := s.login(t, "STRANGER", func(l *login) { l.decoy = true }).challenged(t, n, 1)
	real.Expires, real.ResendAt = decoy.Expires, decoy.ResendAt
	expect(t, "challenges", real, decoy)
}

// A decoy walks the same road, and no answer to it is ever right: not even one that got into the stream.
func TestDecoyIsNeverRight(t *testing.T) {
	s := newSite(t)
	n := s.serve(t)
	p := s.phone(t, "alice")
	l := s.login(t, "alice", asDecoy) // as if somebody had made a decoy of a user with a phone
	l.challenged(t, n, 1)
	expect(t, "prompts", len(p.prompts(t)), 0)
	asked := promptView{Login: l.String(), Round: 1, Nonce: encode(l.nonce(t, 1))}
	expect(t, "result", p.answer(t, p.assertion(t, asked, approve, number)), "422")
	expect(t, "answered", l.has(t, events.StepAnswered, 1), false)

	history, err := n.bus.Login(t.Context(), l.Login)
	check(t, err)
	e, release, err := n.take(t.Context(), history, l.event(t, events.StepChallenged, 1), 1, events.Response{Assertion: p.assertion(t, asked, approve, number)})
	check(t, err)
	release(false)
	out, err := n.decide(t.Context(), l.event(t, e.Step, e.N), e.Data.(*events.Answered))
	check(t, err)
	expect(t, "verdict", out[0].Data.(*events.Rejected).Reason, events.RejectedWrong)
}

func asDecoy(l *login) { l.decoy = true }

// nonce is that of the prompt of a round, whoever may see it.
func (l *login) nonce(t testing.TB, round int) (nonce []byte) {
	t.Helper()
	check(t, l.admin.QueryRow(t.Context(), `SELECT nonce FROM push.prompts WHERE login = $1 AND round = $2`, l.ID, round).Scan(&nonce))
	return nonce
}

// Whoever begins a login with the name of a user without a phone makes a decoy. A phone that the user adds meanwhile neither shows it
// nor rings for it, and it counts all the same.
func TestDecoyAndAPhoneThatIsAddedMeanwhile(t *testing.T) {
	s := newSite(t, func(c *config.Config) { c.Limits.PushPerUser, c.Limits.PushPerSource = 3, 4 })
	n := s.serve(t)
	from := func(l *login) { l.source = "s" }
	s.login(t, "alice", asDecoy, from).challenged(t, n, 1)
	later := s.login(t, "alice", asDecoy, from) // identified before there is a phone, challenged after
	p, bob := s.phone(t, "alice"), s.phone(t, "bob")
	p.push(t, n, "alice", simulators.WebPush)
	bob.push(t, n, "bob", simulators.WebPush)
	expect(t, "prompts", len(p.prompts(t)), 0)
	later.challenged(t, n, 1)
	expect(t, "prompts after the second", len(p.prompts(t)), 0)
	s.login(t, "bob", from).challenged(t, n, 1)
	expect(t, "who is hinted first", <-s.hints, bob.id)

	l := s.login(t, "alice", from)
	l.challenged(t, n, 1)
	expect(t, "of a login of their own", p.asked(t).Login, l.String())
	messages, err := s.far.WaitPush(t.Context(), "alice", 1)
	check(t, err)
	expect(t, "messages", len(messages), 1)
	expect(t, "the fourth of the user", dispatch(t, n, s.login(t, "alice").wanted(t, 1)), events.UndeliveredLimited)
	expect(t, "the fifth of the source", dispatch(t, n, s.login(t, "bob", from).wanted(t, 1)), events.UndeliveredLimited)
}

func TestNotForUs(t *testing.T) {
	s := newSite(t)
	n := s.start(t)
	l := s.login(t, "alice")
	out, err := n.dispatch(t.Context(), l.wanted(t, 1), &events.Wanted{Factor: events.SMS})
	check(t, err)
	expect(t, "events", len(out), 0)
	out, err = n.decide(t.Context(), nil, &events.Answered{Factor: events.SMS})
	check(t, err)
	expect(t, "events", len(out), 0)
}

func TestUndelivered(t *testing.T) {
	s := newSite(t)
	n := s.start(t)
	expect(t, "without a phone", dispatch(t, n, s.login(t, "alice").wanted(t, 1)), events.UndeliveredRefused)
	s.phone(t, "alice")
	withoutNumber := s.login(t, "alice", func(l *login) { l.prompt = nil })
	expect(t, "without a number to ask for", dispatch(t, n, withoutNumber.wanted(t, 1)), events.UndeliveredRefused)
	for _, odd := range []string{"12", "１２３４５６"} {
		l := s.login(t, "alice", func(l *login) { l.prompt.Number = odd })
		expect(t, "with the number "+odd, dispatch(t, n, l.wanted(t, 1)), events.UndeliveredRefused)
	}
	for _, odd := range []string{"Tokyo\x00", strings.Repeat("x", 10_000)} { // is not shown, and fails nobody
		l := s.login(t, "alice", func(l *login) { l.prompt.Place, l.prompt.Names = odd, events.Names{EN: odd, JA: odd} })
		expect(t, "with an odd place", l.challenged(t, n, 1).Number, true)
		history, err := n.bus.Login(t.Context(), l.Login)
		check(t, err)
		expect(t, "shown", n.asked(history), events.Prompt{Number: l.prompt.Number, Browser: l.prompt.Browser})
	}
	expect(t, "of a login that has ended", func() string {
		l := s.login(t, "alice")
		l.say(t, "gateway/web", 0, &events.Cancelled{})
		return dispatch(t, n, l.wanted(t, 1))
	}(), "")
	expect(t, "rows", s.count(t, `SELECT count(*) FROM push.prompts`), 6)
}

func TestLimits(t *testing.T) {
	s := newSite(t, func(c *config.Config) { c.Limits.PushPerUser, c.Limits.PushPerSource = 2, 3 })
	n := s.start(t)
	s.phone(t, "alice")
	s.phone(t, "bob")
	from := func(source string) func(*login) { return func(l *login) { l.source = source } }
	try := func(user, source string) string { return dispatch(t, n, s.login(t, user, from(source)).wanted(t, 1)) }
	expect(t, "first", try("alice", "s"), "")
	second := s.login(t, "alice", from("s"))
	expect(t, "second", dispatch(t, n, second.wanted(t, 1)), "")
	expect(t, "third of the user", try("alice", "other"), events.UndeliveredLimited)
	expect(t, "the second, redelivered", dispatch(t, n, second.event(t, events.StepWanted, 1)), "")
	expect(t, "third of the source", try("bob", "s"), "")
	expect(t, "fourth of the source", try("bob", "s"), events.UndeliveredLimited)
	expect(t, "of no source", try("bob", ""), "")
	s.pass(limitWindow)
	expect(t, "after a while", try("alice", "s"), "")
}

// Decoys are limited like anybody else, so that a limit does not tell who exists.
func TestDecoysAreLimited(t *testing.T) {
	s := newSite(t, func(c *config.Config) { c.Limits.PushPerUser = 1 })
	n := s.start(t)
	decoy := func(l *login) { l.decoy = true }
	expect(t, "first", dispatch(t, n, s.login(t, "STRANGER", decoy).wanted(t, 1)), "")
	expect(t, "second", dispatch(t, n, s.login(t, "STRANGER", decoy).wanted(t, 1)), events.UndeliveredLimited)
}

// Many at once never exceed a limit: of one user, and of one source, whether they share a statement or not.
func TestLimitAtOnce(t *testing.T) {
	s := newSite(t, func(c *config.Config) { c.Limits.PushPerUser, c.Limits.PushPerSource = 3, 4 })
	instances := []*notifier{s.start(t), s.start(t)}
	s.phone(t, "alice")
	for name, tt := range map[string]struct {
		user, source func(i int) string
		want         int
	}{
		"user":   {func(int) string { return "alice" }, func(int) string { return "" }, 3},
		"source": {func(i int) string { return fmt.Sprint("STRANGER", i) }, func(int) string { return "one" }, 4},
	} {
		results := make(chan string, 12)
		for i := range cap(results) {
			e := s.login(t, tt.user(i), func(l *login) { l.source, l.decoy = tt.source(i), name == "source" }).wanted(t, 1)
			go func() {
				out, err := instances[i%2].dispatch(t.Context(), e, e.Data.(*events.Wanted))
				switch {
				case err != nil:
					results <- err.Error()
				case len(out) > 0:
					results <- out[0].Data.(*events.Undelivered).Reason
				default:
					results <- ""
				}
			}()
		}
		got := make(map[string]int)
		for range cap(results) {
			got[<-results]++
		}
		expect(t, name, got, map[string]int{"": tt.want, events.UndeliveredLimited: cap(results) - tt.want})
	}
}

// The login page is served while a push service hangs, and the phone finds its prompt by itself.
func TestProviderHangs(t *testing.T) {
	s := newSite(t)
	n := s.serve(t)
	p := s.phone(t, "alice")
	p.push(t, n, "alice", simulators.WebPush)
	s.far.fault(t, simulators.Hang, 30*time.Second)
	l := s.login(t, "alice")
	e := l.wanted(t, 1)
	done := make(chan error, 1)
	go func() {
		_, err := n.dispatch(t.Context(), e, e.Data.(*events.Wanted))
		done <- err
	}()
	challenged := l.event(t, events.StepChallenged, 1)
	if took := challenged.Stored.Sub(e.Stored); took > s.env.Config.Push.Wait {
		t.Errorf("challenged after %s", took)
	}
	expect(t, "result", p.answer(t, p.assertion(t, p.asked(t), approve, number)), "approved 3")
	check(t, <-done) // within push.wait: the service still hangs
}

func TestProviderFails(t *testing.T) {
	for _, mode := range []simulators.Mode{simulators.Error, simulators.Garbage, simulators.Reset} {
		s := newSite(t)
		n := s.serve(t)
		p := s.phone(t, "alice")
		p.push(t, n, "alice", simulators.FCM)
		s.far.fault(t, mode, 0)
		l := s.login(t, "alice")
		l.challenged(t, n, 1)
		expect(t, "result", p.answer(t, p.assertion(t, p.asked(t), approve, number)), "approved 3")
		eventually(t, "the failure is logged", func() bool { return strings.Contains(s.log.String(), "push message not accepted") })
	}
}

// An app that was removed is not written to any more.
func TestTargetIsGone(t *testing.T) {
	s := newSite(t)
	n := s.serve(t)
	p := s.phone(t, "alice")
	id := p.push(t, n, "alice", simulators.WebPush)
	s.far.remove(t, id)
	s.login(t, "alice").challenged(t, n, 1)
	eventually(t, "the target is dropped", func() bool {
		return s.count(t, `SELECT count(*) FROM directory.devices WHERE transport = '' AND target IS NULL`) == 1
	})
	p.asked(t)
}

func TestHostedProviderIsDown(t *testing.T) {
	s := newSite(t)
	n := s.start(t)
	s.sql(t, `INSERT INTO directory.devices (id, user_id, kind, name, account, gateway, transport, enrolled_at, last_seen)
		VALUES ('m', 'bob', 'mamoru', 'Mamoru', 'bob-at-mamoru', 'web', '', now(), now())`)
	s.far.fault(t, simulators.Error, 0)
	expect(t, "alone", dispatch(t, n, s.login(t, "bob").wanted(t, 1)), events.UndeliveredDown)
	s.phone(t, "bob")
	challenged := s.login(t, "bob").challenged(t, n, 1)
	expect(t, "beside a phone of ours", []any{challenged.URL, challenged.Number}, []any{"", true})
}

func TestPurge(t *testing.T) {
	s := newSite(t)
	n := s.serve(t)
	p := s.phone(t, "alice")
	s.login(t, "alice", func(l *login) { l.source = "s" }).challenged(t, n, 1)
	p.asked(t)
	check(t, n.store.cool(t.Context(), "alice", s.clock().Add(time.Minute)))
	_, err := n.store.tell(t.Context(), notice{User: "alice", Kind: deviceEnrolled, Cause: "x"}, []string{p.id})
	check(t, err)
	rows := func() [5]int {
		return [5]int{s.count(t, `SELECT count(*) FROM push.prompts`), s.count(t, `SELECT count(*) FROM push.notices`),
			s.count(t, `SELECT count(*) FROM push.sources`),
			s.count(t, `SELECT count(*) FROM push.proofs`), s.count(t, `SELECT count(*) FROM push.cooldowns`)}
	}
	check(t, n.store.purge(t.Context(), s.env.Config.Push.Keep))
	expect(t, "at once", rows(), [5]int{1, 1, 1, 1, 1})
	s.pass(4 * time.Minute)
	check(t, n.store.purge(t.Context(), s.env.Config.Push.Keep))
	expect(t, "soon", rows(), [5]int{1, 1, 1, 0, 0})
	s.pass(s.env.Config.Push.Keep)
	check(t, n.store.purge(t.Context(), s.env.Config.Push.Keep))
	expect(t, "later", rows(), [5]int{})
}
