package otpvalidator

import (
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sekisho/sekisho/events"
	"github.com/sekisho/sekisho/services/internal/bus"
	"github.com/sekisho/sekisho/services/internal/config"
	"github.com/sekisho/sekisho/services/internal/directory"
	"github.com/sekisho/sekisho/services/internal/oath"
	"github.com/sekisho/sekisho/services/internal/testenv"
)

// Suites of tokens that answer a question.
const (
	asked        = "OCRA-1:HOTP-SHA1-6:QN08"
	askedCounter = "OCRA-1:HOTP-SHA256-8:C-QN08-PSHA1"
)

// An office hands tokens out, as an admin does.
type office struct {
	*site
	users  *directory.Users
	tokens *directory.Tokens
}

func (s *site) office(t *testing.T) *office {
	t.Helper()
	key, err := s.env.Credentials.Key("token")
	if err != nil {
		t.Fatal(err)
	}
	outbox := directory.NewOutbox(s.admin, s.clock)
	tokens, err := directory.NewTokens(outbox, key)
	if err != nil {
		t.Fatal(err)
	}
	return &office{site: s, users: directory.NewUsers(outbox), tokens: tokens}
}

func (o *office) user(t *testing.T, name string) string {
	t.Helper()
	u, err := o.users.Create(t.Context(), directory.User{Name: name, Locale: "ja", Primary: directory.Token}, "")
	if err != nil {
		t.Fatal(err)
	}
	return u.ID
}

// give gives a token to a user. One that says nothing counts events.
func (o *office) give(t *testing.T, user, serial string, adjust ...func(*directory.OTPToken)) directory.OTPToken {
	t.Helper()
	token := directory.OTPToken{Serial: serial}
	token.Token = oath.Token{Algorithm: oath.HOTP, Hash: oath.SHA1, Digits: 6, Secret: fmt.Appendf(nil, "%020s", serial)}
	for _, f := range adjust {
		f(&token)
	}
	if _, err := o.tokens.Import(t.Context(), []directory.OTPToken{token}); err != nil {
		t.Fatal(err)
	}
	return changed(t)(o.tokens.Assign(t.Context(), serial, user, 5))
}

func changed(t *testing.T) func(directory.OTPToken, error) directory.OTPToken {
	return func(token directory.OTPToken, err error) directory.OTPToken {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return token
	}
}

func byTime(token *directory.OTPToken) {
	token.Token = oath.Token{Algorithm: oath.TOTP, Hash: oath.SHA1, Digits: 8, Period: 30 * time.Second, Secret: token.Token.Secret}
}

func answering(suite string) func(*directory.OTPToken) {
	return func(token *directory.OTPToken) {
		token.Token = oath.Token{Algorithm: oath.OCRA, Suite: suite, Secret: token.Token.Secret}
	}
}

// code is what a token shows.
func code(t *testing.T, token directory.OTPToken, moment int64, question, pin string) string {
	t.Helper()
	code, err := token.Token.Code(moment, question, pin)
	if err != nil {
		t.Fatal(err)
	}
	return code
}

// asks begins a login of a user who is asked for a token's code.
func (o *office) asks(t *testing.T, v *verifier, user string, adjust ...func(*login)) *login {
	t.Helper()
	l := o.login(t, user, append([]func(*login){func(l *login) { l.factor = events.Token }}, adjust...)...)
	l.asked(t, v, 1)
	return l
}

// asked has a round challenged, and returns the question.
func (l *login) asked(t *testing.T, v *verifier, round int) string {
	t.Helper()
	wanted, err := l.viewer.Event(t.Context(), l.Login, events.StepWanted, round)
	if err != nil {
		t.Fatal(err)
	}
	out, err := v.challenge(t.Context(), wanted, wanted.Data.(*events.Wanted))
	if err != nil || len(out) != 1 || out[0].N != round {
		t.Fatalf("challenge of round %d = %v, %v", round, out, err)
	}
	challenged := out[0].Data.(*events.Challenged)
	l.publish(t, Name, l.Login, round, challenged)
	return challenged.Question
}

// says is what becomes of a login whose first answer is a code.
func (o *office) says(t *testing.T, v *verifier, user, code string, adjust ...func(*login)) string {
	t.Helper()
	return verify(t, v, o.asks(t, v, user, adjust...).answered(t, 1, 1, code))
}

func verified(token directory.OTPToken, counter int64) string {
	return fmt.Sprintf("verified token:%s %d", token.ID, counter)
}

func TestChallenge(t *testing.T) {
	deadline := time.Now().Add(3 * time.Minute)
	l := events.Login{Gateway: "web", ID: "0199a4c1-7d3e-7bbb-8a52-1f0e5d3c2b1a"}
	for _, digits := range []int{0, 8, 9, 10} {
		v := &verifier{settings: config.Token{Question: digits}}
		questions := make(map[string]bool)
		for i := range 30 {
			// Whose it is makes no difference: there is no database here that could be asked.
			wanted := &events.Wanted{Factor: events.Token, User: "u", Decoy: i%2 == 1, Deadline: deadline, Left: []events.Factor{events.SMS, events.Push}}
			out, err := v.challenge(t.Context(), events.New(l, 2, wanted), wanted)
			if err != nil || len(out) != 1 {
				t.Fatal(out, err)
			}
			got := out[0].Data.(*events.Challenged)
			if len(got.Question) != digits || strings.Trim(got.Question, "0123456789") != "" {
				t.Errorf("question %q of %d digits", got.Question, digits)
			}
			questions[got.Question] = true
			got.Question = ""
			want := &events.Challenged{Factor: events.Token, Expires: deadline, Choices: []events.Factor{events.Token, events.SMS, events.Push}}
			if !reflect.DeepEqual(got, want) || out[0].N != 2 || out[0].Login != l || got.Validate() != nil {
				t.Errorf("challenged.%d %+v, want %+v", out[0].N, got, want)
			}
		}
		if digits > 0 && len(questions) < 20 {
			t.Errorf("%d questions of %d digits in 30 challenges", len(questions), digits)
		}
		for _, factor := range []events.Factor{events.SMS, events.Push} {
			wanted := &events.Wanted{Factor: factor, User: "u", Deadline: deadline, Left: []events.Factor{events.Token}}
			if out, err := v.challenge(t.Context(), events.New(l, 1, wanted), wanted); out != nil || err != nil {
				t.Errorf("challenged %v, %v for %s", out, err, factor)
			}
		}
	}
}

func TestToken(t *testing.T) {
	s := newSite(t)
	o, v := s.office(t), s.start(t)
	u := o.user(t, "alice")
	token := o.give(t, u, "1")
	l := o.asks(t, v, u)
	for attempt, answer := range []string{other(code(t, token, 0, "", "")), "", code(t, token, 11, "", ""), "0" + code(t, token, 0, "", "")} {
		expect(t, "wrong", verify(t, v, l.answered(t, attempt+1, 1, answer)), fmt.Sprintf("wrong %d", 4-attempt))
	}
	expect(t, "failures", s.failures(t, "token:"+u), 4)
	right := l.answered(t, 5, 1, code(t, token, 3, "", ""))
	expect(t, "right", verify(t, v, right), verified(token, 3))
	expect(t, "failures", s.failures(t, "token:"+u), 0)
	expect(t, "the same code in another login", o.says(t, v, u, code(t, token, 3, "", "")), "wrong 4")
	expect(t, "one before it", o.says(t, v, u, code(t, token, 2, "", "")), "wrong 4")
	expect(t, "the next", o.says(t, v, u, code(t, token, 4, "", "")), verified(token, 4))

	another := o.give(t, o.user(t, "bob"), "2")
	expect(t, "another user's token", o.says(t, v, u, code(t, another, 0, "", "")), "wrong 4")
	expect(t, "nobody's", o.says(t, v, "carol", code(t, another, 0, "", "")), "wrong 4")
}

func TestTwoTokens(t *testing.T) {
	s := newSite(t)
	o, v := s.office(t), s.start(t)
	u := o.user(t, "alice")
	first, second := o.give(t, u, "1"), o.give(t, u, "2", byTime)
	step := s.now.Unix() / 30
	expect(t, "by time", o.says(t, v, u, code(t, second, step, "", "")), verified(second, step))
	expect(t, "by event", o.says(t, v, u, code(t, first, 5, "", "")), verified(first, 5))
	expect(t, "by time again", o.says(t, v, u, code(t, second, step, "", "")), "wrong 4")
	expect(t, "by event again", o.says(t, v, u, code(t, first, 5, "", "")), "wrong 4")
}

func TestTokenByTime(t *testing.T) {
	s := newSite(t)
	s.now = time.Unix(1111111109, 0) // the last second of a step
	o, v := s.office(t), s.start(t)
	u := o.user(t, "alice")
	token, step := o.give(t, u, "1", byTime), s.now.Unix()/30
	for name, moment := range map[string]int64{"next": step + 1, "two before": step - 2} {
		expect(t, name, o.says(t, v, u, code(t, token, moment, "", "")), "wrong 4")
	}
	expect(t, "step before", o.says(t, v, u, code(t, token, step-1, "", "")), verified(token, step-1))
	expect(t, "this step", o.says(t, v, u, code(t, token, step, "", "")), verified(token, step))
	s.pass(time.Second)
	expect(t, "this step, a second later", o.says(t, v, u, code(t, token, step, "", "")), "wrong 4")
	s.pass(time.Hour)
	fast := s.now.Unix()/30 + 50
	expect(t, "a clock that is ahead", o.says(t, v, u, code(t, token, fast, "", "")), "wrong 4")
	changed(t)(o.tokens.Resync(t.Context(), "1", code(t, token, fast-1, "", ""), code(t, token, fast, "", ""), 100))
	expect(t, "a code that told where it stands", o.says(t, v, u, code(t, token, fast, "", "")), "wrong 4")
	s.pass(30 * time.Second)
	expect(t, "a clock that was measured", o.says(t, v, u, code(t, token, fast+1, "", "")), verified(token, fast+1))
}

func TestTokenPIN(t *testing.T) {
	s := newSite(t)
	o, v := s.office(t), s.start(t)
	u := o.user(t, "alice")
	token := o.give(t, u, "1")
	changed(t)(o.tokens.SetPIN(t.Context(), "1", "4711"))
	due := code(t, token, 0, "", "")
	l := o.asks(t, v, u)
	for attempt, answer := range []string{due, due + "4711", "4712" + due} {
		expect(t, "wrong", verify(t, v, l.answered(t, attempt+1, 1, answer)), fmt.Sprintf("wrong %d", 4-attempt))
	}
	expect(t, "PIN and code", verify(t, v, l.answered(t, 4, 1, "4711"+due)), verified(token, 0))
	changed(t)(o.tokens.SetPIN(t.Context(), "1", ""))
	expect(t, "a PIN that was taken away", o.says(t, v, u, "4711"+code(t, token, 1, "", "")), "wrong 4")
	expect(t, "without PIN", o.says(t, v, u, code(t, token, 1, "", "")), verified(token, 1))
}

func TestTokenThatIsNotGood(t *testing.T) {
	s := newSite(t)
	o, v := s.office(t), s.start(t)
	u := o.user(t, "alice")
	token := o.give(t, u, "1", func(token *directory.OTPToken) {
		token.Starts, token.Expires = s.now.Add(time.Minute), s.now.Add(time.Hour)
	})
	expect(t, "not yet valid", o.says(t, v, u, code(t, token, 0, "", "")), "wrong 4")
	s.pass(time.Minute)
	changed(t)(o.tokens.Disable(t.Context(), "1"))
	expect(t, "disabled", o.says(t, v, u, code(t, token, 0, "", "")), "wrong 4")
	changed(t)(o.tokens.Unlock(t.Context(), "1"))
	expect(t, "valid", o.says(t, v, u, code(t, token, 0, "", "")), verified(token, 0))
	changed(t)(o.tokens.Unassign(t.Context(), "1"))
	expect(t, "taken away", o.says(t, v, u, code(t, token, 1, "", "")), "wrong 4")
	changed(t)(o.tokens.Assign(t.Context(), "1", u, 5))
	s.pass(time.Hour - time.Minute)
	expect(t, "expired", o.says(t, v, u, code(t, token, 1, "", "")), "wrong 4")
}

func TestTokenAfterReset(t *testing.T) {
	s := newSite(t, func(c *config.Config) { c.Token.LookAhead, c.Token.Resync = 2, 20 })
	o, v := s.office(t), s.start(t)
	u := o.user(t, "alice")
	token := o.give(t, u, "1")
	expect(t, "far", o.says(t, v, u, code(t, token, 20, "", "")), "wrong 4")
	changed(t)(o.tokens.Reset(t.Context(), "1", time.Hour))
	expect(t, "too far after a reset", o.says(t, v, u, code(t, token, 21, "", "")), "wrong 4")
	expect(t, "far after a reset", o.says(t, v, u, code(t, token, 20, "", "")), verified(token, 20))
	expect(t, "far again", o.says(t, v, u, code(t, token, 30, "", "")), "wrong 4")
	expect(t, "near", o.says(t, v, u, code(t, token, 23, "", "")), verified(token, 23))
}

func TestTokenQuestion(t *testing.T) {
	s := newSite(t, func(c *config.Config) { c.Token.Question = 8 })
	o, v := s.office(t), s.start(t)
	u := o.user(t, "alice")
	token, pinned := o.give(t, u, "1", answering(asked)), o.give(t, u, "2", answering(askedCounter))
	changed(t)(o.tokens.SetPIN(t.Context(), "2", "4711"))

	l := o.login(t, u, func(l *login) { l.factor = events.Token })
	question := l.asked(t, v, 1)
	expect(t, "another question", verify(t, v, l.answered(t, 1, 1, code(t, token, 0, other(question), ""))), "wrong 4")
	expect(t, "PIN before a code that holds it", verify(t, v, l.answered(t, 2, 1, "4711"+code(t, pinned, 0, question, "4711"))), "wrong 3")
	expect(t, "another PIN", verify(t, v, l.answered(t, 3, 1, code(t, pinned, 0, question, "4712"))), "wrong 2")
	expect(t, "the question", verify(t, v, l.answered(t, 4, 1, code(t, token, 0, question, ""))), verified(token, 0))

	l = o.login(t, u, func(l *login) { l.factor = events.Token })
	first := l.asked(t, v, 1)
	l.wanted(t, 2)
	second := l.asked(t, v, 2)
	expect(t, "the question of the round before", verify(t, v, l.answered(t, 1, 2, code(t, token, 0, first, ""))), "wrong 4")
	expect(t, "with the PIN", verify(t, v, l.answered(t, 2, 2, code(t, pinned, 6, second, "4711"))), verified(pinned, 6))
	l = o.login(t, u, func(l *login) { l.factor = events.Token })
	third := l.asked(t, v, 1)
	expect(t, "an event gone by", verify(t, v, l.answered(t, 1, 1, code(t, pinned, 6, third, "4711"))), "wrong 4")
}

// A user's tokens are counted together, over all logins, and apart from text messages; a known browser is not locked out by others.
func TestTokenLocked(t *testing.T) {
	s := newSite(t)
	o, v := s.office(t), s.start(t)
	u := o.user(t, "alice")
	first, second := o.give(t, u, "1"), o.give(t, u, "2")
	for range 5 {
		expect(t, "wrong", o.says(t, v, u, "000000"), "wrong 4")
	}
	l := o.asks(t, v, u)
	expect(t, "right while locked", verify(t, v, l.answered(t, 1, 1, code(t, first, 0, "", ""))), "locked 4")
	expect(t, "the other while locked", verify(t, v, l.answered(t, 2, 1, code(t, second, 0, "", ""))), "locked 3")
	known := func(l *login) { l.device = "d1" }
	expect(t, "known browser", o.says(t, v, u, code(t, second, 0, "", ""), known), verified(second, 0))
	text := s.login(t, u).challenged(t, 1)
	expect(t, "text message", verify(t, v, text.answered(t, 1, 1, v.codes.Code(text.Login, 1))), "verified sms:"+u)
	s.pass(2 * time.Minute)
	expect(t, "right after the lock", verify(t, v, l.answered(t, 3, 1, code(t, first, 0, "", ""))), verified(first, 0))

	for range 5 {
		text := s.login(t, u).challenged(t, 1)
		expect(t, "wrong text code", verify(t, v, text.answered(t, 1, 1, "no")), "wrong 4")
	}
	expect(t, "right while text messages are locked", o.says(t, v, u, code(t, first, 1, "", "")), verified(first, 1))

	for range 5 {
		o.says(t, v, u, "000000")
	}
	changed(t)(o.tokens.Unlock(t.Context(), "1"))
	expect(t, "right after an admin unlocked", o.says(t, v, u, code(t, first, 2, "", "")), verified(first, 2))
}

// A decoy has no token, whatever it is called, and leaves what a user's wrong answer leaves.
func TestTokenDecoy(t *testing.T) {
	s := newSite(t)
	o, v := s.office(t), s.start(t)
	u := o.user(t, "alice")
	token := o.give(t, u, "1")
	decoy := func(l *login) { l.decoy = true }
	expect(t, "decoy that is called like a user", o.says(t, v, u, code(t, token, 0, "", ""), decoy), "wrong 4")
	rows := func() (left [3]int) {
		t.Helper()
		err := s.admin.QueryRow(t.Context(), `SELECT count(*), count(*) FILTER (WHERE verdict = 'wrong'), (SELECT coalesce(sum(failures), 0) FROM directory.counters)::int
			FROM directory.verdicts`).Scan(&left[0], &left[1], &left[2])
		if err != nil {
			t.Fatal(err)
		}
		return left
	}
	before := rows()
	expect(t, "decoy", o.says(t, v, "ghost", code(t, token, 0, "", ""), decoy), "wrong 4")
	expect(t, "user", o.says(t, v, u, "000000"), "wrong 4")
	expect(t, "verdicts, wrong ones and failures", rows(), [3]int{before[0] + 2, before[1] + 2, before[2] + 2})
	for range 4 {
		expect(t, "decoy", o.says(t, v, "ghost", "000000", decoy), "wrong 4")
	}
	locked := o.asks(t, v, "ghost", decoy).answered(t, 1, 1, "000000")
	began := time.Now()
	expect(t, "decoy that is locked", verify(t, v, locked), "locked 4")
	if took := time.Since(began); took < 10*time.Millisecond { // what a verdict waits for others to be stored with
		t.Errorf("a locked token's answer took %v: the time tells of the lock", took)
	}
	expect(t, "the user's token", o.says(t, v, u, code(t, token, 0, "", "")), verified(token, 0))
	s.pass(25 * time.Hour) // names that nobody has are as many as anybody likes to type
	if err := directory.Purge(t.Context(), s.admin, s.clock()); err != nil {
		t.Fatal(err)
	}
	if left := rows(); left != [3]int{} {
		t.Errorf("a day later %v verdicts and failures are left of decoys and a right code", left)
	}
}

// Crash windows: a repeat of an event gets the verdict of the first delivery, counts once and uses up one code.
func TestTokenRedelivery(t *testing.T) {
	s := newSite(t)
	o, v := s.office(t), s.start(t)
	u := o.user(t, "alice")
	token := o.give(t, u, "1")
	l := o.asks(t, v, u)
	wrong := l.answered(t, 1, 1, "000000")
	for range 3 { // verdict stored, not published
		expect(t, "wrong", verify(t, s.start(t), wrong), "wrong 4")
	}
	expect(t, "failures", s.failures(t, "token:"+u), 1)

	right := l.answered(t, 2, 1, code(t, token, 0, "", ""))
	begin(t, v, right) // counted, not evaluated
	expect(t, "failures", s.failures(t, "token:"+u), 2)
	for range 3 { // the token moved on, not published
		expect(t, "right", verify(t, s.start(t), right), verified(token, 0))
	}
	expect(t, "failures", s.failures(t, "token:"+u), 0)
	expect(t, "the code in another login", o.says(t, v, u, code(t, token, 0, "", "")), "wrong 4")
	for range 4 { // a lock that came later changes nothing, nor does what becomes of the token
		o.says(t, v, u, "000000")
	}
	expect(t, "right while locked", verify(t, v, right), verified(token, 0))
	changed(t)(o.tokens.Delete(t.Context(), "1"))
	expect(t, "right of a token that is gone", verify(t, v, right), verified(token, 0))
	expect(t, "wrong", verify(t, v, wrong), "wrong 4")
	expect(t, "failures", s.failures(t, "token:"+u), 5)
}

// Of two deliveries of one answer that are handled at once, the second gets the verdict of the first, however far it was.
func TestSecondDelivery(t *testing.T) {
	s := newSite(t)
	o, first, second := s.office(t), s.start(t), s.start(t)
	u := o.user(t, "alice")
	token := o.give(t, u, "1")
	answer := o.asks(t, first, u).answered(t, 1, 1, code(t, token, 0, "", ""))
	attempt := begin(t, second, answer)
	expect(t, "first", verify(t, first, answer), verified(token, 0))
	verdict, err := second.checkToken(t.Context(), &claim{attempt: attempt, at: s.clock(), wanted: &events.Wanted{User: u}, code: code(t, token, 0, "", "")})
	expect(t, "second, which finds the code used up", fmt.Sprint(verdict, err), fmt.Sprint("right ", token.ID, " 0", error(nil)))

	answer = o.asks(t, first, u).answered(t, 1, 1, code(t, token, 1, "", ""))
	attempt = begin(t, second, answer)
	changed(t)(o.tokens.Disable(t.Context(), "1"))
	expect(t, "first, while the token was disabled", verify(t, first, answer), "wrong 4")
	before := changed(t)(o.tokens.Unlock(t.Context(), "1"))
	verdict, err = second.checkToken(t.Context(), &claim{attempt: attempt, at: s.clock(), wanted: &events.Wanted{User: u}, code: code(t, token, 1, "", "")})
	expect(t, "second, which finds the code good", fmt.Sprint(verdict, err), fmt.Sprint("wrong", error(nil)))
	after, err := o.tokens.Get(t.Context(), "1")
	if err != nil || after.State != before.State {
		t.Errorf("a code that was rejected is used up: %+v, %v", after.State, err)
	}
}

// Many deliveries of one answer at once, in two processes: one verdict.
func TestTokenDeliveredAtOnce(t *testing.T) {
	s := newSite(t)
	o, processes := s.office(t), []*verifier{s.start(t), s.start(t)}
	u := o.user(t, "alice")
	for i, adjust := range []func(*directory.OTPToken){func(*directory.OTPToken) {}, byTime, answering(asked)} {
		serial := fmt.Sprint(i)
		token := o.give(t, u, serial, adjust)
		moment := map[oath.Algorithm]int64{oath.HOTP: 5, oath.TOTP: s.now.Unix() / 30}[token.Token.Algorithm]
		for range 5 {
			processes[0].settings.Question = 8
			l := o.login(t, u, func(l *login) { l.factor = events.Token })
			question := l.asked(t, processes[0], 1)
			if token.Token.Algorithm == oath.TOTP {
				s.pass(30 * time.Second)
				moment = s.clock().Unix() / 30
			}
			answer := l.answered(t, 1, 1, code(t, token, moment, question, ""))
			verdicts := atOnce(t, processes, slices.Repeat([]*events.Event{answer}, 16))
			expect(t, "verdicts on "+string(token.Token.Algorithm), verdicts, map[string]int{verified(token, max(moment, 0)): 16})
			expect(t, "failures", s.failures(t, "token:"+u), 0)
			moment++
			if token.Token.Algorithm == oath.OCRA {
				moment = 0
			}
		}
	}
}

// One code, many logins at once, in two processes: it is good for one of them.
func TestOneCodeInManyLogins(t *testing.T) {
	s := newSite(t, func(c *config.Config) { c.Lock.After = 100 })
	o, processes := s.office(t), []*verifier{s.start(t), s.start(t)}
	u := o.user(t, "alice")
	for i, adjust := range []func(*directory.OTPToken){func(*directory.OTPToken) {}, byTime} {
		token := o.give(t, u, fmt.Sprint(i), adjust)
		moment := map[oath.Algorithm]int64{oath.TOTP: s.now.Unix() / 30}[token.Token.Algorithm]
		var answers []*events.Event
		for range 30 {
			answers = append(answers, o.asks(t, processes[0], u).answered(t, 1, 1, code(t, token, moment, "", "")))
		}
		expect(t, "verdicts", atOnce(t, processes, answers), map[string]int{verified(token, moment): 1, "wrong 4": 29})
	}
}

// On the real bus, from wanted to verified. A process that died after the token had moved on, and before it said so, costs nothing.
func TestTokenOnTheBus(t *testing.T) {
	s := newSite(t, func(c *config.Config) { c.Token.Question = 8 })
	o := s.office(t)
	u := o.user(t, "alice")
	token := o.give(t, u, "1")
	l := o.login(t, u, func(l *login) { l.factor = events.Token })
	text := s.login(t, u)
	worker, err := Build(t.Context(), s.env)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(worker.Close)
	stop := testenv.Start(t, s.env.Bus, worker.Handlers...)
	challenged := s.broker.Await(t, l.Login, events.StepChallenged, 1)
	expect(t, "by", challenged.By, Name)
	expect(t, "digits of the question", len(challenged.Data.(*events.Challenged).Question), 8)
	l.answered(t, 1, 1, "000000")
	rejected := s.broker.Await(t, l.Login, events.StepRejected, 1).Data.(*events.Rejected)
	expect(t, "rejected", fmt.Sprint(rejected.Factor, rejected.Reason, rejected.AttemptsLeft), fmt.Sprint(events.Token, events.RejectedWrong, 4))
	stop()

	right := l.answered(t, 2, 1, code(t, token, 0, "", ""))
	dying := s.start(t)
	if decision, result, err := dying.decide(t.Context(), right, right.Data.(*events.Answered)); decision == nil || result != nil || err != nil {
		t.Fatalf("decide = %v, %v, %v", decision, result, err)
	}
	if _, err := s.viewer.Event(t.Context(), l.Login, events.StepVerified, 1); !errors.Is(err, bus.ErrNotFound) {
		t.Fatalf("it is verified already: %v", err)
	}
	testenv.Start(t, s.env.Bus, worker.Handlers...)
	event := s.broker.Await(t, l.Login, events.StepVerified, 1)
	proof := event.Data.(*events.Verified)
	expect(t, "cause", event.Cause, right.ID())
	expect(t, "verified", fmt.Sprint(proof.Factor, proof.Authenticator, proof.Counter), fmt.Sprint(events.Token, "token:"+token.ID, 0))
	expect(t, "failures", s.failures(t, "token:"+u), 0)
	if _, err := s.viewer.Event(t.Context(), l.Login, events.StepRejected, 2); !errors.Is(err, bus.ErrNotFound) {
		t.Errorf("rejected too: %v", err)
	}
	if _, err := s.viewer.Event(t.Context(), text.Login, events.StepChallenged, 1); !errors.Is(err, bus.ErrNotFound) {
		t.Errorf("it challenged for a text message: %v", err)
	}
	next := o.login(t, u, func(l *login) { l.factor = events.Token })
	s.broker.Await(t, next.Login, events.StepChallenged, 1)
	next.answered(t, 1, 1, code(t, token, 0, "", ""))
	s.broker.Await(t, next.Login, events.StepRejected, 1)
}

// A key that is not the one that the tokens were sealed under answers nothing: the event comes again when it is mended.
func TestTokensOfAnotherKey(t *testing.T) {
	s := newSite(t)
	o, v := s.office(t), s.start(t)
	u := o.user(t, "alice")
	token := o.give(t, u, "1")
	answer := o.asks(t, v, u).answered(t, 1, 1, code(t, token, 0, "", ""))
	tokens, err := directory.NewTokens(directory.NewOutbox(s.env.DB, s.clock), make([]byte, 32))
	if err != nil {
		t.Fatal(err)
	}
	good := v.tokens
	v.tokens = tokens
	if decision, _, err := v.decide(t.Context(), answer, answer.Data.(*events.Answered)); decision != nil || err == nil {
		t.Errorf("decide = %v, %v", decision, err)
	}
	v.tokens = good
	expect(t, "mended", verify(t, v, answer), verified(token, 0))
}
