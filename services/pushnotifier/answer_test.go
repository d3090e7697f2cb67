package pushnotifier

import (
	"context"
	"crypto/rand"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/sekisho/sekisho/events"
	"github.com/sekisho/sekisho/services/internal/directory"
)

func TestApprove(t *testing.T) {
	s := newSite(t)
	s.run(t)
	p := s.phone(t, "alice")
	names := events.Names{EN: "Demo", JA: "デモ"}
	l := s.login(t, "alice", func(l *login) { l.prompt.Names = names })
	l.wanted(t, 1)
	l.event(t, events.StepChallenged, 1)
	asked := p.asked(t)
	expect(t, "prompt", []any{asked.Login, asked.Round, asked.App, asked.AppNames, asked.Place, asked.Browser, asked.Number},
		[]any{l.String(), 1, "demo", names, "place.canary", "browser.canary", true})
	expect(t, "result", p.answer(t, p.assertion(t, asked, approve, number)), "approved 3")
	verified := l.event(t, events.StepVerified, 1)
	expect(t, "verified", verified.Data.(*events.Verified), &events.Verified{Factor: events.Push, Authenticator: directory.DeviceOf(p.id)})
	expect(t, "cause", verified.Cause, l.EventID(events.StepAnswered, 1))
	expect(t, "prompts", len(p.prompts(t)), 0)
	expect(t, "again", p.answer(t, p.assertion(t, asked, approve, number)), "409")
}

func TestDeny(t *testing.T) {
	s := newSite(t)
	s.run(t)
	p := s.phone(t, "alice")
	l := s.login(t, "alice")
	l.wanted(t, 1)
	l.event(t, events.StepChallenged, 1)
	asked := p.asked(t)
	expect(t, "result", p.answer(t, p.assertion(t, asked, deny, "")), "denied 3")
	expect(t, "verdict", l.verdict(t, 1), "denied 4")
	expect(t, "a change of mind", p.answer(t, p.assertion(t, asked, approve, number)), "409")
	expect(t, "cooldowns", s.count(t, `SELECT count(*) FROM push.cooldowns`), 0)
}

func TestThreeWrongNumbers(t *testing.T) {
	s := newSite(t)
	s.run(t)
	p := s.phone(t, "alice")
	l := s.login(t, "alice")
	l.wanted(t, 1)
	l.event(t, events.StepChallenged, 1)
	asked := p.asked(t)
	for attempt, want := range []string{"wrong 2", "wrong 1", "over 0"} {
		// Not even digits: whatever is not the number is wrong.
		expect(t, "result", p.answer(t, p.assertion(t, asked, approve, []string{"000000", "", "482913 "}[attempt])), want)
	}
	for attempt, want := range []string{"wrong 4", "wrong 3", "exhausted 2"} {
		expect(t, "verdict", l.verdict(t, attempt+1), want)
	}
	expect(t, "prompts", len(p.prompts(t)), 0)
	expect(t, "the right one", p.answer(t, p.assertion(t, asked, approve, number)), "409")
	expect(t, "verified", l.has(t, events.StepVerified, 1), false)
}

// The count is of the login: another round does not give other guesses.
func TestWrongNumbersOverRounds(t *testing.T) {
	_, n, p, l := prompted(t)
	expect(t, "first", p.answer(t, p.assertion(t, p.asked(t), approve, "000000")), "wrong 2")
	l.challenged(t, n, 2)
	asked := p.asked(t)
	expect(t, "round", asked.Round, 2)
	expect(t, "second", p.answer(t, p.assertion(t, asked, approve, "000000")), "wrong 1")
	expect(t, "third", p.answer(t, p.assertion(t, asked, approve, "000000")), "over 0")
	l.challenged(t, n, 3)
	expect(t, "prompts", len(p.prompts(t)), 0)
	asked.Round, asked.Nonce = 3, encode(l.nonce(t, 3))
	expect(t, "after that", p.answer(t, p.assertion(t, asked, approve, number)), "409")
	expect(t, "an attempt that other factors need", l.has(t, events.StepAnswered, 4), false)
}

func TestTap(t *testing.T) {
	s := newSite(t)
	n := s.serve(t)
	p := s.phone(t, "alice")
	l := s.login(t, "alice", func(l *login) { l.tap, l.prompt = true, nil })
	expect(t, "number", l.challenged(t, n, 1).Number, false)
	asked := p.asked(t)
	expect(t, "number", asked.Number, false)
	expect(t, "result", p.answer(t, p.assertion(t, asked, approve, "")), "approved 3")
	expect(t, "verified", l.has(t, events.StepVerified, 1), true)
}

// A prompt of each kind of refusal: what the phone is told, and that the round is not verified.
func TestRefused(t *testing.T) {
	set := func(name string, value any) func(jwt.MapClaims) { return func(c jwt.MapClaims) { c[name] = value } }
	sign := func(change ...func(jwt.MapClaims)) func(*testing.T, *phone, promptView, *login) string {
		return func(t *testing.T, p *phone, asked promptView, _ *login) string {
			return p.answer(t, p.assertion(t, asked, approve, number, change...))
		}
	}
	for name, tt := range map[string]struct {
		answer func(t *testing.T, p *phone, asked promptView, l *login) string
		want   string
	}{
		"another login": {func(t *testing.T, p *phone, asked promptView, l *login) string {
			other := l.login(t, "alice")
			other.challenged(t, l.notifier(t), 1)
			return p.answer(t, p.assertion(t, asked, approve, number, set("login", other.String())))
		}, "422"},
		"another round": {func(t *testing.T, p *phone, asked promptView, l *login) string {
			return p.answer(t, p.assertion(t, asked, approve, number, set("round", 2)))
		}, "422"},
		"no round":          {sign(set("round", 0)), "422"},
		"no login":          {sign(set("login", "web/x")), "422"},
		"another nonce":     {sign(set("nonce", encode(make([]byte, nonceSize)))), "422"},
		"no nonce":          {sign(set("nonce", "")), "422"},
		"another decision":  {sign(set("decision", "granted")), "422"},
		"signed long ago":   {sign(set("iat", time.Now().Add(-2*time.Minute).Unix())), "422"},
		"signed in advance": {sign(set("iat", time.Now().Add(2*time.Minute).Unix())), "422"},
		"without time":      {sign(func(c jwt.MapClaims) { delete(c, "iat") }), "422"},
		"without id":        {sign(func(c jwt.MapClaims) { delete(c, "jti") }), "422"},
		"a short id":        {sign(set("jti", strings.Repeat("x", minProofID-1))), "422"},
		"a long id":         {sign(set("jti", strings.Repeat("x", maxProofID+1))), "422"},
		"no text as id":     {sign(set("jti", strings.Repeat("\x00", minProofID))), "422"},
		"another user's device": {func(t *testing.T, _ *phone, asked promptView, l *login) string {
			bob := l.phone(t, "bob")
			return bob.answer(t, bob.assertion(t, asked, approve, number))
		}, "422"},
		"in another device's name": {func(t *testing.T, p *phone, asked promptView, l *login) string {
			second := l.phone(t, "alice")
			second.id, p.id = p.id, second.id
			expect(t, "the other way round", p.answer(t, p.assertion(t, asked, approve, number)), "401")
			return second.answer(t, second.assertion(t, asked, approve, number))
		}, "401"},
		"a proof in its place": {func(t *testing.T, p *phone, asked promptView, l *login) string {
			return p.answer(t, p.proof(t, "POST", "/v1/authenticator/prompts", nil))
		}, "401"},
		"a proof that says the same": {func(t *testing.T, p *phone, asked promptView, l *login) string {
			p.header = map[string]any{"typ": proofType}
			return p.answer(t, p.assertion(t, asked, approve, number))
		}, "401"},
		"another proof beside a bad one": {func(t *testing.T, p *phone, asked promptView, l *login) string {
			forged := *p
			forged.key = newKey(t)
			r := answering(forged.assertion(t, asked, approve, number))
			r.Proof = "Device " + p.proof(t, r.Method, r.Path, r.Body)
			status, _ := l.send(t, r)
			return fmt.Sprint(status)
		}, "401"},
		"truncated signature": {func(t *testing.T, p *phone, asked promptView, l *login) string {
			token := p.assertion(t, asked, approve, number)
			return p.answer(t, token[:len(token)-8])
		}, "401"},
		"no signature": {func(t *testing.T, p *phone, asked promptView, l *login) string {
			token := p.assertion(t, asked, approve, number)
			return p.answer(t, token[:strings.LastIndexByte(token, '.')+1])
		}, "401"},
		"another's claims": {func(t *testing.T, p *phone, asked promptView, l *login) string {
			wrong := strings.Split(p.assertion(t, asked, approve, "000000"), ".")
			right := strings.Split(p.assertion(t, asked, approve, number), ".")
			return p.answer(t, strings.Join([]string{right[0], right[1], wrong[2]}, "."))
		}, "401"},
		"another key": {func(t *testing.T, p *phone, asked promptView, l *login) string {
			forged := *p
			forged.key = newKey(t)
			return p.answer(t, forged.assertion(t, asked, approve, number))
		}, "401"},
		"an invitation's": {func(t *testing.T, p *phone, asked promptView, l *login) string {
			b := point(t, p.key)
			p.id, p.header = "", map[string]any{"jwk": map[string]any{"kty": "EC", "crv": "P-256", "x": encode(b[1:33]), "y": encode(b[33:])}}
			return p.answer(t, p.assertion(t, asked, approve, number))
		}, "401"},
		"too long": {sign(set("more", strings.Repeat("x", maxJWS))), "401"},
		"nothing":  {func(t *testing.T, p *phone, _ promptView, _ *login) string { return p.answer(t, "") }, "401"},
		"with more in the body": {func(t *testing.T, p *phone, asked promptView, l *login) string {
			r := answering(p.assertion(t, asked, approve, number))
			r.Body = append(r.Body[:len(r.Body)-1], `,"decision":"approve"}`...)
			status, _ := l.send(t, r)
			return fmt.Sprint(status)
		}, "422"},
		"twice in the body": {func(t *testing.T, p *phone, asked promptView, l *login) string {
			r := answering(p.assertion(t, asked, deny, ""))
			r.Body = append(r.Body[:len(r.Body)-1], `,"assertion":"`+p.assertion(t, asked, approve, number)+`"}`...)
			status, _ := l.send(t, r)
			return fmt.Sprint(status)
		}, "400"},
		"removed device": {func(t *testing.T, p *phone, asked promptView, l *login) string {
			l.sql(t, `DELETE FROM directory.devices WHERE id = $1`, p.id)
			return p.answer(t, p.assertion(t, asked, approve, number))
		}, "401"},
		"removed device, by who has never heard of it": {func(t *testing.T, p *phone, asked promptView, l *login) string {
			l.sql(t, `DELETE FROM directory.devices WHERE id = $1`, p.id)
			return fmt.Sprint(handle(t.Context(), l.notifier(t).routes(), caller{gateway: "web"}, answering(p.assertion(t, asked, approve, number))).Status)
		}, "401"},
		"a key that is not the device's any more": {func(t *testing.T, p *phone, asked promptView, l *login) string {
			l.sql(t, `UPDATE directory.devices SET public_key = $2 WHERE id = $1`, p.id, point(t, newKey(t)))
			return p.answer(t, p.assertion(t, asked, approve, number))
		}, "401"},
		"after the prompt's time": {func(t *testing.T, p *phone, asked promptView, l *login) string {
			l.pass(l.env.Config.Push.TTL)
			return p.answer(t, p.assertion(t, asked, approve, number))
		}, "409"},
		"after another round": {func(t *testing.T, p *phone, asked promptView, l *login) string {
			l.challenged(t, l.notifier(t), 2)
			return p.answer(t, p.assertion(t, asked, approve, number))
		}, "409"},
		"after cancel": {func(t *testing.T, p *phone, asked promptView, l *login) string {
			l.say(t, "gateway/web", 0, &events.Cancelled{})
			return p.answer(t, p.assertion(t, asked, approve, number))
		}, "409"},
		"after the deadline": {func(t *testing.T, p *phone, asked promptView, l *login) string {
			l.say(t, "gateway/web", 0, &events.Lapsed{})
			return p.answer(t, p.assertion(t, asked, approve, number))
		}, "409"},
		"after the account was locked": {func(t *testing.T, p *phone, asked promptView, l *login) string {
			l.sql(t, `UPDATE directory.users SET locked = true WHERE id = 'alice'`)
			got := p.answer(t, p.assertion(t, asked, approve, number))
			expect(t, "verdict", l.verdict(t, 1), "locked 4")
			return got
		}, "409"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSite(t)
			l, p := s.login(t, "alice"), s.phone(t, "alice")
			l.challenged(t, s.serve(t), 1)
			asked := p.asked(t)
			expect(t, "answer", tt.answer(t, p, asked, l), tt.want)
			expect(t, "verified", l.has(t, events.StepVerified, 1), false)
			if name != "after the account was locked" { // none of the others is an attempt
				expect(t, "answered", l.has(t, events.StepAnswered, 1), false)
			}
		})
	}
}

// notifier is one that handles events by hand.
func (l *login) notifier(t *testing.T) *notifier { return l.start(t) }

// A request that was heard is worth nothing the second time, as a whole and in parts.
func TestReplayedApproval(t *testing.T) {
	s, _, p, l := prompted(t)
	asked := p.asked(t)
	request := answering(p.assertion(t, asked, approve, number))
	status, _ := s.send(t, request)
	expect(t, "first", status, http.StatusOK)
	status, _ = s.send(t, request)
	expect(t, "the same again", status, http.StatusUnauthorized)
	request.Proof = "Device " + p.proof(t, request.Method, request.Path, request.Body)
	status, _ = s.send(t, request)
	expect(t, "the same with a proof", status, http.StatusUnauthorized)
	expect(t, "another that says the same", p.answer(t, p.assertion(t, asked, approve, number)), "409")
	expect(t, "attempts", l.has(t, events.StepAnswered, 2), false)
}

// Nor is a wrong number that was heard another attempt, whichever process gets it.
func TestReplayedWrongNumber(t *testing.T) {
	s, n, p, l := prompted(t)
	asked := p.asked(t)
	used := p.assertion(t, asked, approve, "000000")
	expect(t, "first", p.answer(t, used), "wrong 2")
	for range 2 {
		expect(t, "the same again", p.answer(t, used), "401")
	}
	other := s.start(t).routes() // that has never heard of the device
	response := handle(t.Context(), other, caller{gateway: "web", after: new([]task)}, answering(used))
	expect(t, "the same to another process", response.Status, http.StatusUnauthorized)
	id := rand.Text()
	_, err := n.store.useProof(t.Context(), p.id, id)
	check(t, err)
	expect(t, "with the id of a proof that was used", p.answer(t, p.assertion(t, asked, approve, number, func(c jwt.MapClaims) { c["jti"] = id })), "401")
	expect(t, "attempts", l.has(t, events.StepAnswered, 2), false)
	expect(t, "the right one", p.answer(t, p.assertion(t, asked, approve, number)), "approved 2")
}

// One assertion that two processes get many times at one instant is one attempt.
func TestOneAssertionAtOnce(t *testing.T) {
	s := newSite(t)
	processes := []http.Handler{s.start(t).routes(), s.start(t).routes()}
	p := s.phone(t, "alice")
	l := s.login(t, "alice")
	l.challenged(t, s.serve(t), 1)
	request := answering(p.assertion(t, p.asked(t), approve, "000000"))
	statuses := make(chan int, 20)
	for i := range cap(statuses) {
		go func() {
			statuses <- handle(t.Context(), processes[i%2], caller{gateway: "web", after: new([]task)}, request).Status
		}()
	}
	got := make(map[int]int)
	for range cap(statuses) {
		got[<-statuses]++
	}
	expect(t, "statuses", got, map[int]int{200: 1, 401: 19})
	expect(t, "verdict", l.verdict(t, 1), "wrong 4")
	expect(t, "attempts", l.has(t, events.StepAnswered, 2), false)
}

// An approval that the stream has is judged again by whoever comes to it: also by who knows that its device is gone, or that its
// round was challenged until a moment before.
func TestJudgedAfterwards(t *testing.T) {
	s := newSite(t)
	n := s.serve(t)
	p := s.phone(t, "alice")
	stored := func(t *testing.T, l *login, token string) *events.Event {
		t.Helper()
		response, err := s.sealer.Seal(Name, l.Subject(events.StepAnswered, 1), "response", events.Response{Assertion: token})
		check(t, err)
		return l.say(t, "gateway/web", 1, &events.Answered{Round: 1, Factor: events.Push, Response: response})
	}
	for name, tt := range map[string]struct {
		between func(l *login)
		token   func(asked promptView) string
		want    events.Data
	}{
		"right": {func(*login) {}, func(asked promptView) string { return p.assertion(t, asked, approve, number) },
			&events.Verified{Factor: events.Push, Authenticator: directory.DeviceOf(p.id)}},
		"another user's": {func(*login) {}, func(asked promptView) string {
			bob := s.phone(t, "bob")
			return bob.assertion(t, asked, approve, number)
		}, rejected(events.RejectedWrong)},
		"not signed": {func(*login) {}, func(promptView) string { return "x.y.z" }, rejected(events.RejectedWrong)},
		"another prompt's": {func(*login) {}, func(asked promptView) string {
			return p.assertion(t, asked, approve, number, func(c jwt.MapClaims) { c["nonce"] = encode(make([]byte, nonceSize)) })
		}, rejected(events.RejectedWrong)},
		"replaced": {func(l *login) { l.challenged(t, n, 2) }, func(asked promptView) string { return p.assertion(t, asked, approve, number) },
			rejected(events.RejectedSuperseded)},
		"ended": {func(l *login) { l.say(t, "gateway/web", 0, &events.Cancelled{}) },
			func(asked promptView) string { return p.assertion(t, asked, approve, number) }, nil},
	} {
		t.Run(name, func(t *testing.T) {
			l := s.login(t, "alice")
			l.challenged(t, n, 1)
			asked := p.prompts(t)[0]
			tt.between(l)
			e := stored(t, l, tt.token(asked))
			out, err := n.decide(t.Context(), e, e.Data.(*events.Answered))
			check(t, err)
			if tt.want == nil {
				expect(t, "events", len(out), 0)
				return
			}
			expect(t, "verdict", out[0].Data, tt.want)
			check(t, out[0].Data.Validate())
		})
	}
	t.Run("expired", func(t *testing.T) {
		l := s.login(t, "alice")
		l.wanted(t, 1)
		l.say(t, Name, 1, &events.Challenged{Factor: events.Push, Expires: time.Now()})
		e := stored(t, l, "x")
		out, err := n.decide(t.Context(), e, e.Data.(*events.Answered))
		check(t, err)
		expect(t, "verdict", out[0].Data, rejected(events.RejectedExpired))
	})
	t.Run("before the question", func(t *testing.T) {
		l := s.login(t, "alice")
		e := stored(t, l, "x")
		out, err := n.decide(t.Context(), e, e.Data.(*events.Answered))
		check(t, err)
		expect(t, "verdict", out[0].Data, rejected(events.RejectedWrong))
	})
	t.Run("no number, where the gateway gave none", func(t *testing.T) {
		l := s.login(t, "alice", func(l *login) { l.prompt = nil })
		expect(t, "dispatch", dispatch(t, n, l.wanted(t, 1)), events.UndeliveredRefused) // but the prompt's row is there
		l.say(t, Name, 1, &events.Challenged{Factor: events.Push, Number: true, Expires: time.Now().Add(time.Minute)})
		e := stored(t, l, p.assertion(t, p.prompts(t)[0], approve, ""))
		out, err := n.decide(t.Context(), e, e.Data.(*events.Answered))
		check(t, err)
		expect(t, "verdict", out[0].Data, rejected(events.RejectedWrong))
	})
	t.Run("sealed for another place", func(t *testing.T) {
		l := s.login(t, "alice")
		l.challenged(t, n, 1)
		response, err := s.sealer.Seal(Name, l.Subject(events.StepAnswered, 2), "response",
			events.Response{Assertion: p.assertion(t, p.prompts(t)[0], approve, number)})
		check(t, err)
		e := l.say(t, "gateway/web", 1, &events.Answered{Round: 1, Factor: events.Push, Response: response})
		out, err := n.decide(t.Context(), e, e.Data.(*events.Answered))
		check(t, err)
		expect(t, "verdict", out[0].Data, rejected(events.RejectedWrong))
	})
	t.Run("of a device that was removed meanwhile", func(t *testing.T) {
		l := s.login(t, "bob")
		bob := s.phone(t, "bob")
		l.challenged(t, n, 1)
		e := stored(t, l, bob.assertion(t, bob.asked(t), approve, number))
		s.sql(t, `DELETE FROM directory.devices WHERE id = $1`, bob.id)
		out, err := n.decide(t.Context(), e, e.Data.(*events.Answered))
		check(t, err)
		expect(t, "verdict", out[0].Data, rejected(events.RejectedWrong))
	})
}

func rejected(reason string) events.Data {
	return &events.Rejected{Round: 1, Factor: events.Push, Reason: reason, AttemptsLeft: 4}
}

// Who took the answer died before it said what became of it.
func TestCrashBetweenAnswerAndVerdict(t *testing.T) {
	s, n, p, l := prompted(t)
	token := p.assertion(t, p.asked(t), approve, number)
	history, err := n.bus.Login(t.Context(), l.Login)
	check(t, err)
	_, _, err = n.take(t.Context(), history, l.event(t, events.StepChallenged, 1), 1, events.Response{Assertion: token})
	check(t, err)
	expect(t, "verified", l.has(t, events.StepVerified, 1), false)
	s.run(t)
	expect(t, "verified", l.event(t, events.StepVerified, 1).Data.(*events.Verified).Authenticator, directory.DeviceOf(p.id))
}

// Another process was faster with the verdict, and the login has ended by it: the phone is told the verdict all the same.
func TestVerdictByAnotherProcess(t *testing.T) {
	granted := events.Closed{Outcome: events.Granted, App: "demo", User: "u", AMR: []string{"swk"}, ACR: "1fa",
		AuthTime: time.Now(), Expires: time.Now().Add(time.Hour)}
	for name, tc := range map[string]struct {
		decision, typed string
		end             events.Closed
		want            string
	}{
		"approved": {approve, number, granted, ""},
		"denied":   {deny, "", events.Closed{Outcome: events.Denied}, events.RejectedDenied},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSite(t)
			n := s.serve(t)
			p := s.phone(t, "alice")
			l := s.login(t, "alice")
			l.challenged(t, n, 1)
			token := p.assertion(t, p.asked(t), tc.decision, tc.typed)
			history, err := n.bus.Login(t.Context(), l.Login)
			check(t, err)
			e, release, err := n.take(t.Context(), history, l.event(t, events.StepChallenged, 1), 1, events.Response{Assertion: token})
			check(t, err)
			release(false)
			out, err := s.start(t).decide(t.Context(), e, e.Data.(*events.Answered))
			check(t, err)
			l.say(t, Name, out[0].N, out[0].Data)
			tc.end.Decision = events.Decision{Policy: "p", Facts: events.Facts{Now: s.clock(), Enabled: true}, After: out[0].ID()}
			l.say(t, "sessionissuer", 0, &tc.end)
			v, err := n.conclude(t.Context(), e, nil)
			check(t, err)
			expect(t, "verdict", v.reason, tc.want)
		})
	}
}

func TestTwoPhones(t *testing.T) {
	s := newSite(t)
	n := s.serve(t)
	first, second := s.phone(t, "alice"), s.phone(t, "alice")
	l := s.login(t, "alice")
	l.challenged(t, n, 1)
	late := second.asked(t)
	for range 2 {
		<-s.hints // of the prompt
	}
	expect(t, "first", first.answer(t, first.assertion(t, first.asked(t), approve, number)), "approved 3")
	expect(t, "the hint that comes first", <-s.hints, second.id) // who answered knows
	expect(t, "prompts of the second", len(second.prompts(t)), 0)
	expect(t, "second", second.answer(t, second.assertion(t, late, deny, "")), "409")
}

// The phone has its answer while what nobody waits for is still to be recorded.
func TestAnswerDoesNotWaitForBookkeeping(t *testing.T) {
	s, _, p, _ := prompted(t)
	asked := p.asked(t)
	held, err := s.admin.Begin(t.Context())
	check(t, err)
	defer held.Rollback(context.WithoutCancel(t.Context()))
	_, err = held.Exec(t.Context(), `SELECT FROM push.prompts FOR UPDATE`)
	check(t, err)
	expect(t, "result", p.answer(t, p.assertion(t, asked, approve, number)), "approved 3")
	eventually(t, "the end of the prompt waits", func() bool {
		return s.count(t, `SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%ended_at = $4%'`) == 1
	})
	check(t, held.Rollback(t.Context()))
	eventually(t, "the prompt has ended", func() bool { return s.count(t, `SELECT count(*) FROM push.prompts WHERE ended_at IS NOT NULL`) == 1 })
}

// Approve and deny at one instant: one of them wins, and whoever looks says the same for ever.
func TestApproveAndDenyAtOnce(t *testing.T) {
	s := newSite(t)
	s.run(t)
	n := s.start(t)
	first, second := s.phone(t, "alice"), s.phone(t, "alice")
	for range 10 {
		l := s.login(t, "alice", func(l *login) { l.user = "alice" })
		l.challenged(t, n, 1)
		s.sql(t, `UPDATE push.prompts SET created_at = created_at - interval '1 hour' WHERE login <> $1`, l.ID) // out of the limit
		asked := first.prompts(t)[0]
		results := make(chan string, 2)
		go func() { results <- first.answer(t, first.assertion(t, asked, approve, number)) }()
		go func() { results <- second.answer(t, second.assertion(t, asked, deny, "")) }()
		got := map[string]bool{<-results: true, <-results: true}
		// The loser was refused, or overtaken between its look and its answer.
		if !got["409"] || got["approved 3"] == got["denied 3"] {
			t.Fatalf("results: %v", got)
		}
		history, err := s.viewer.Login(t.Context(), l.Login)
		check(t, err)
		for range 2 {
			for _, e := range history {
				answer, ok := e.Data.(*events.Answered)
				if !ok {
					continue
				}
				out, err := n.decide(t.Context(), e, answer)
				check(t, err)
				verified := out[0].Step == events.StepVerified
				if stored := l.event(t, out[0].Step, out[0].N); verified && !got["approved 3"] || !verified && !got["denied 3"] &&
					stored.Data.(*events.Rejected).Reason == events.RejectedDenied {
					t.Fatalf("judged again: %+v, the results were %v", out[0].Data, got)
				}
			}
		}
	}
}

// Two phones press at once five hundred times in all: the attempts of a login stay five.
func TestAttemptsAreFive(t *testing.T) {
	s := newSite(t)
	n := s.serve(t)
	l := s.login(t, "alice")
	p := s.phone(t, "alice")
	l.challenged(t, n, 1)
	challenge := l.event(t, events.StepChallenged, 1)
	response := events.Response{Assertion: p.assertion(t, p.asked(t), approve, "000000")}
	taken := make(chan int, 20)
	for range cap(taken) {
		go func() {
			e, _, err := n.take(t.Context(), nil, challenge, 1, response)
			if err != nil {
				taken <- 0
				return
			}
			taken <- e.N
		}()
	}
	got := make(map[int]int)
	for range cap(taken) {
		got[<-taken]++
	}
	expect(t, "attempts", got, map[int]int{0: 15, 1: 1, 2: 1, 3: 1, 4: 1, 5: 1})
}

func TestHostedApproval(t *testing.T) {
	s := newSite(t)
	s.run(t)
	s.sql(t, `INSERT INTO directory.devices (id, user_id, kind, name, account, gateway, transport, enrolled_at, last_seen)
		VALUES ('m', 'bob', 'mamoru', 'Mamoru', 'bob-at-mamoru', 'web', '', now(), now())`)
	for decision, want := range map[string]string{"approved": "", "denied": "denied 4"} {
		l := s.login(t, "bob")
		l.wanted(t, 1)
		challenged := l.event(t, events.StepChallenged, 1).Data.(*events.Challenged)
		expect(t, "number", challenged.Number, false)
		parameters := mamoruPage(t, challenged.URL, decision)
		_, err := s.gateway.Respond(t.Context(), l.Login, parameters)
		check(t, err)
		if want != "" {
			expect(t, "verdict", l.verdict(t, 1), want)
			continue
		}
		expect(t, "verified", l.event(t, events.StepVerified, 1).Data.(*events.Verified).Authenticator, "push:m")
		other := s.login(t, "bob")
		other.wanted(t, 1)
		other.event(t, events.StepChallenged, 1)
		_, err = s.gateway.Respond(t.Context(), other.Login, parameters)
		check(t, err)
		expect(t, "the same parameters again", other.verdict(t, 1), "wrong 4")
	}
	l := s.login(t, "bob")
	l.wanted(t, 1)
	page := l.event(t, events.StepChallenged, 1).Data.(*events.Challenged).URL
	s.sql(t, `UPDATE directory.users SET locked = true WHERE id = 'bob'`)
	_, err := s.gateway.Respond(t.Context(), l.Login, mamoruPage(t, page, "approved"))
	check(t, err)
	expect(t, "of a locked account", l.verdict(t, 1), "locked 4")
}

// Whoever judges a later answer does not use up what an earlier one brought from the provider.
func TestHostedApprovalIsUsedOnce(t *testing.T) {
	s := newSite(t)
	n := s.serve(t)
	p := s.phone(t, "bob")
	s.sql(t, `INSERT INTO directory.devices (id, user_id, kind, name, account, gateway, transport, enrolled_at, last_seen)
		VALUES ('m', 'bob', 'mamoru', 'Mamoru', 'bob-at-mamoru', 'web', '', now(), now())`)
	l := s.login(t, "bob")
	challenged := l.challenged(t, n, 1)
	_, err := s.gateway.Respond(t.Context(), l.Login, mamoruPage(t, challenged.URL, "approved"))
	check(t, err)
	expect(t, "an answer by the phone meanwhile", p.answer(t, p.assertion(t, p.asked(t), approve, "000000")), "wrong 2")
	s.run(t)
	expect(t, "verified", l.event(t, events.StepVerified, 1).Data.(*events.Verified).Authenticator, "push:m")
}

// What a gateway makes up is no answer.
func TestMadeUpParameters(t *testing.T) {
	s := newSite(t)
	n := s.serve(t)
	p := s.phone(t, "alice")
	// A notice of another login, which the user did disown.
	other := s.login(t, "alice", unseen)
	_, err := n.store.tell(t.Context(), notice{User: "alice", Kind: unknownEnvironment, Cause: "x", Login: other.Login}, []string{p.id})
	check(t, err)
	told := fetch(t, p).Notices[0]
	expect(t, "disowned", p.heed(t, told, notMe), 204)
	for _, parameters := range []map[string]string{{}, {"x": "y"}, {noticeParameter: rand.Text()}, {noticeParameter: told.ID}} {
		l := s.login(t, "alice")
		l.challenged(t, n, 1)
		response, err := s.sealer.Seal(Name, l.Subject(events.StepAnswered, 1), "response", events.Response{Parameters: parameters})
		check(t, err)
		e := l.say(t, "gateway/web", 1, &events.Answered{Round: 1, Factor: events.Push, Response: response})
		out, err := n.decide(t.Context(), e, e.Data.(*events.Answered))
		check(t, err)
		expect(t, "verdict", out[0].Data, rejected(events.RejectedWrong))
	}
}
