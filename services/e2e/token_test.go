package e2e

import (
	"crypto/rand"
	"encoding/base32"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/sekisho/sekisho/services"
	"github.com/sekisho/sekisho/services/console"
	"github.com/sekisho/sekisho/services/internal/credentials"
	"github.com/sekisho/sekisho/services/internal/directory"
	"github.com/sekisho/sekisho/services/internal/oath"
)

// A token is a one-time password token in its user's hand.
type token struct {
	t      *testing.T
	s      *system
	serial string
	oath.Token
	event int64 // whose code it shows next
}

// What tokens are made of, but for their secrets.
var (
	byEvent  = oath.Token{Algorithm: oath.HOTP, Hash: oath.SHA1, Digits: 6}
	byTime   = oath.Token{Algorithm: oath.TOTP, Hash: oath.SHA256, Digits: 8, Period: oath.MaxPeriod} // good for two minutes at least, however slow the test
	byAsking = oath.Token{Algorithm: oath.OCRA, Suite: "OCRA-1:HOTP-SHA256-8:C-QN08"}
)

// press shows a code; of a token by time it is the same until the next step. question is what the user keyed in.
func (d *token) press(question string) string {
	d.t.Helper()
	moment := d.event
	if d.Algorithm == oath.TOTP {
		moment = time.Now().Unix() / int64(d.Period/time.Second)
	}
	code, err := d.Code(moment, question, "")
	must(d.t, err)
	d.event++
	return code
}

// tokens is what an admin does with tokens.
func (s *system) tokens() *directory.Tokens {
	s.t.Helper()
	as, err := pgxpool.ParseConfig(s.Postgres)
	must(s.t, err)
	as.ConnConfig.RuntimeParams["role"] = console.Name
	pool, err := pgxpool.NewWithConfig(s.t.Context(), as)
	must(s.t, err)
	s.t.Cleanup(pool.Close)
	key, err := credentials.Open(filepath.Join(s.dir, "credentials")).Key("token")
	must(s.t, err)
	tokens, err := directory.NewTokens(directory.NewOutbox(pool, time.Now), key)
	must(s.t, err)
	return tokens
}

// give makes a token of a kind and gives it to a user.
func (s *system) give(tokens *directory.Tokens, user string, kind oath.Token) *token {
	s.t.Helper()
	kind.Secret = make([]byte, 32)
	rand.Read(kind.Secret)
	d := &token{t: s.t, s: s, serial: "T-" + rand.Text(), Token: kind}
	_, err := tokens.Import(s.t.Context(), []directory.OTPToken{{Serial: d.serial, Token: kind}})
	must(s.t, err)
	var account struct{ ID string }
	if status := s.admin(http.MethodGet, "/users/"+user, nil, &account); status != http.StatusOK {
		s.t.Fatalf("user: %d", status)
	}
	_, err = tokens.Assign(s.t.Context(), d.serial, account.ID, 5)
	must(s.t, err)
	return d
}

// importTokens sends a file of tokens, of which so many are good.
func (s *system) importTokens(contentType, file string, good int) {
	s.t.Helper()
	req, err := http.NewRequestWithContext(s.t.Context(), http.MethodPost, s.Ops+"/admin/v1/tokens/import", strings.NewReader(file))
	must(s.t, err)
	req.Header.Set("Authorization", "Bearer "+s.adminToken)
	req.Header.Set("Content-Type", contentType)
	status, answer := s.do(req)
	var said struct{ Imported int }
	if err := json.Unmarshal(answer, &said); status != http.StatusOK || err != nil || said.Imported != good {
		s.t.Fatalf("import: %d %s", status, answer)
	}
}

// byToken begins a login by ID and one-time password in one request.
func (s *system) byToken(user, code string) login {
	s.t.Helper()
	return s.beginWith(map[string]any{"user": user, "method": "none", "code": code})
}

// demoToken is the token that carol has from the start.
func (s *system) demoToken() *token {
	s.t.Helper()
	secret, err := base32.StdEncoding.DecodeString(s.secret("demo-token"))
	must(s.t, err)
	return &token{t: s.t, s: s, Token: oath.Token{Algorithm: oath.TOTP, Hash: oath.SHA1, Digits: 6, Period: 30 * time.Second, Secret: secret}}
}

// refused reports what is odd about a login whose one code so far was not accepted.
func (s *system) refused(l login) {
	s.t.Helper()
	if l.Status != "challenge" || l.Challenge.Factor != "token" || l.Challenge.AttemptsLeft != 4 || l.Session != nil {
		s.t.Errorf("%+v %+v", l, l.Challenge)
	}
}

func (s *system) granted(l login, amr ...string) login {
	s.t.Helper()
	l = s.untilStatus(l, "granted")
	if l.Session == nil || !slices.Equal(l.Session.AMR, amr) || l.Session.ACR != fmt.Sprintf("%dfa", len(amr)) {
		s.t.Errorf("granted %+v, want %v", l.Session, amr)
	}
	return l
}

// Logins whose proof is a token.
func TestTokenRoads(t *testing.T) {
	s := start(t, cheap)
	tokens := s.tokens()
	all := &people{system: s, first: 35550000}
	with := func(kind oath.Token, risk string) (user string, device *token) {
		user, _ = all.add(risk)
		return user, s.give(tokens, user, kind)
	}

	t.Run("ID and code in one request", func(t *testing.T) {
		device := s.demoToken()
		code := device.press("")
		l := s.byToken("carol", code)
		if l.Status != "granted" || l.Session == nil || l.Session.User != "carol" || l.SessionToken == "" {
			t.Fatalf("%+v", l)
		}
		s.granted(l, "otp")
		s.refused(s.byToken("carol", code)) // each code is good once
	})

	t.Run("ID only, then the code", func(t *testing.T) {
		user, device := with(byTime, "OK")
		l := s.byID(user)
		if l.Status != "challenge" || l.Challenge.Factor != "token" || l.Challenge.AttemptsLeft != 5 || !slices.Equal(l.Choices, []string{"token"}) ||
			l.Challenge.Hint != "" || l.Challenge.Question != "" || !l.Challenge.ResendAt.IsZero() {
			t.Fatalf("%+v %+v", l, l.Challenge)
		}
		if status, _ := s.answer(l, "12345"); status != http.StatusUnprocessableEntity {
			t.Errorf("short code: %d", status)
		}
		code := device.press("")
		if status, now := s.answer(l, wrong(code)); status != http.StatusOK || now.Challenge == nil || now.Challenge.AttemptsLeft != 4 {
			t.Errorf("wrong code: %d %+v", status, now)
		}
		s.answer(l, code)
		s.granted(l, "otp")
	})

	t.Run("a wrong code, then the right one", func(t *testing.T) {
		user, device := with(byEvent, "OK")
		code := device.press("")
		l := s.byToken(user, wrong(code))
		s.refused(l)
		s.answer(l, code)
		s.granted(l, "otp")
	})

	t.Run("password and REVIEW", func(t *testing.T) {
		user, device := with(byEvent, "REVIEW")
		l := s.challenged(s.begin(user, userPassword), "sms")
		if !slices.Equal(l.Choices, []string{"sms", "token"}) {
			t.Errorf("choices %v", l.Choices)
		}
		l = s.choose(l, "token")
		s.answer(l, device.press(""))
		s.granted(l, "pwd", "otp")
	})

	t.Run("ten ahead", func(t *testing.T) {
		user, device := with(byEvent, "OK")
		skipped := device.press("")
		device.event = 10
		s.granted(s.byToken(user, device.press("")), "otp")
		s.refused(s.byToken(user, skipped)) // it never goes back
		device.event = 22
		s.refused(s.byToken(user, device.press("")))
	})

	t.Run("PIN", func(t *testing.T) {
		user, device := with(byTime, "OK")
		_, err := tokens.SetPIN(t.Context(), device.serial, "47110815")
		must(t, err)
		code := device.press("")
		l := s.byID(user)
		for i, typed := range []string{code, "4711" + code, "47110816" + code} {
			if _, now := s.answer(l, typed); now.Challenge == nil || now.Challenge.AttemptsLeft != 4-i {
				t.Errorf("without the right PIN: %+v", now)
			}
		}
		s.answer(l, "47110815"+code)
		s.granted(l, "otp")
	})

	t.Run("any of two tokens", func(t *testing.T) {
		user, one := with(byEvent, "OK")
		two := s.give(tokens, user, byTime)
		s.granted(s.byToken(user, one.press("")), "otp")
		s.granted(s.byToken(user, two.press("")), "otp")
	})

	t.Run("one code, many logins at once", func(t *testing.T) {
		for range 10 {
			user, device := with(byEvent, "OK")
			logins := make([]login, 4) // fewer than the failures that lock
			for i := range logins {
				logins[i] = s.byID(user)
			}
			code, ended := device.press(""), make(chan login)
			for _, l := range logins {
				go func() {
					_, now := s.answer(l, code)
					ended <- now
				}()
			}
			granted := 0
			for range logins {
				if now := <-ended; now.Status == "granted" {
					granted++
				}
			}
			if granted != 1 {
				t.Errorf("one code granted %d logins", granted)
			}
		}
	})

	t.Run("failures lock the user's tokens", func(t *testing.T) {
		user, device := with(byEvent, "OK")
		l := s.byID(user)
		for range 5 {
			s.answer(l, wrong(device.press("")))
		}
		if now := s.untilStatus(l, "failed"); now.Reason != "attempts" {
			t.Errorf("%+v", now)
		}
		s.refused(s.byToken(user, device.press("")))
		_, err := tokens.Unlock(t.Context(), device.serial)
		must(t, err)
		s.granted(s.byToken(user, device.press("")), "otp")
	})

	t.Run("taken away under way", func(t *testing.T) {
		for what, take := range map[string]func(serial string) error{
			"disabled":   func(serial string) error { _, err := tokens.Disable(t.Context(), serial); return err },
			"unassigned": func(serial string) error { _, err := tokens.Unassign(t.Context(), serial); return err },
			"deleted":    func(serial string) error { _, err := tokens.Delete(t.Context(), serial); return err },
		} {
			user, device := with(byEvent, "OK")
			l := s.byID(user)
			must(t, take(device.serial))
			if _, now := s.answer(l, device.press("")); now.Status != "challenge" || now.Challenge.AttemptsLeft != 4 {
				t.Errorf("%s: %+v", what, now)
			}
		}
	})

	t.Run("names that are nobody's look alike", func(t *testing.T) {
		want := s.byToken("carol", "000000") // the step's code may be used up, and is another
		tokenless, _ := all.add("OK")
		s.phoneOf(tokenless)
		for _, name := range []string{"nobody", "dave", tokenless} {
			l := s.byToken(name, "000000")
			s.refused(l)
			if !slices.Equal(l.Choices, want.Choices) || l.Version != want.Version || l.Challenge.Hint != want.Challenge.Hint {
				t.Errorf("%s: %+v %+v, of who has a token: %+v %+v", name, l, l.Challenge, want, want.Challenge)
			}
		}
	})

	s.checkBus()
}

// With a question in each challenge, whoever's it is.
func TestTokensThatAreAsked(t *testing.T) {
	s := start(t, cheap+"token: {question: 8}\n")
	tokens := s.tokens()
	all := &people{system: s, first: 36660000}
	user, _ := all.add("OK")
	asked := s.give(tokens, user, byAsking)

	l, other := s.challenged(s.byID(user), "token"), s.challenged(s.byID(user), "token")
	if len(l.Challenge.Question) != 8 || strings.Trim(l.Challenge.Question, "0123456789") != "" || l.Challenge.Question == other.Challenge.Question {
		t.Fatalf("asked %q and %q", l.Challenge.Question, other.Challenge.Question)
	}
	if _, now := s.answer(l, asked.press(other.Challenge.Question)); now.Status != "challenge" {
		t.Errorf("the answer to another question: %+v", now)
	}
	s.answer(l, asked.press(l.Challenge.Question))
	s.granted(l, "otp")

	// A token without a keypad goes on as ever.
	device := s.demoToken()
	if l := s.byID("carol"); l.Challenge == nil || len(l.Challenge.Question) != 8 {
		t.Errorf("%+v", l)
	}
	s.granted(s.byToken("carol", device.press("")), "otp")
	s.checkBus()
}

// From the maker's file to the session, and to its end.
func TestTokenIsHandedOutAndTakenAway(t *testing.T) {
	s := start(t, cheap)
	all := &people{system: s, first: 37770000}
	kind := byEvent
	kind.Secret = []byte("12345678901234567890")
	const pskc = `<KeyContainer Version="1.0" xmlns="urn:ietf:params:xml:ns:keyprov:pskc"><KeyPackage>
		<DeviceInfo><Manufacturer>oath.example</Manufacturer><SerialNo>P-1</SerialNo></DeviceInfo>
		<Key Id="1" Algorithm="urn:ietf:params:xml:ns:keyprov:pskc:hotp"><AlgorithmParameters><ResponseFormat Length="6" Encoding="DECIMAL"/></AlgorithmParameters>
		<Data><Secret><PlainValue>%s</PlainValue></Secret><Counter><PlainValue>0</PlainValue></Counter></Data></Key></KeyPackage></KeyContainer>`
	for serial, file := range map[string][2]string{
		"C-1": {"text/csv", fmt.Sprintf("C-1, %x, HOTP\n", kind.Secret)},
		"P-1": {"application/pskc+xml", fmt.Sprintf(pskc, base64.StdEncoding.EncodeToString(kind.Secret))},
	} {
		user, _ := all.add("OK")
		device := &token{t: t, s: s, serial: serial, Token: kind}
		act := func(action string, body any) {
			t.Helper()
			if status := s.admin(http.MethodPost, "/tokens/"+serial+"/"+action, body, nil); status != http.StatusOK {
				t.Fatalf("%s: %d", action, status)
			}
		}
		s.importTokens(file[0], file[1], 1)
		act("assign", map[string]any{"user": user})
		l := s.granted(s.byToken(user, device.press("")), "otp")
		act("disable", nil)
		if status, _ := s.raw(http.MethodGet, s.HTTP+"/v1/session", l.SessionToken, nil); status != http.StatusUnauthorized {
			t.Errorf("a session of a token that was disabled: %d", status)
		}
		if l := s.byToken(user, device.press("")); l.Status == "granted" {
			t.Errorf("a token that was disabled: %+v", l)
		}
		act("unlock", nil)
		s.granted(s.byToken(user, device.press("")), "otp")
		device.event = 60 // it was played with
		s.refused(s.byToken(user, device.press("")))
		act("resync", map[string]any{"codes": []string{device.press(""), device.press("")}})
		s.granted(s.byToken(user, device.press("")), "otp")
		device.event += 40
		act("reset", nil)
		s.granted(s.byToken(user, device.press("")), "otp")
		act("unassign", nil)
		if l := s.byToken(user, device.press("")); l.Status == "granted" {
			t.Errorf("a token that was taken away: %+v", l)
		}
	}
	s.checkBus()
}

// carol's token is made once, also where a data dir has its accounts from before there were tokens.
func TestDemoToken(t *testing.T) {
	s := &system{t: t, dir: t.TempDir()}
	remove := func() {
		t.Helper()
		tokens := s.tokens()
		there, _, err := tokens.List(t.Context(), "", 1)
		if err != nil || len(there) != 1 || there[0].UserName != "carol" {
			t.Fatalf("tokens %+v, %v", there, err)
		}
		_, err = tokens.Delete(t.Context(), there[0].Serial)
		must(t, err)
		s.stop()
	}
	s.run(cheap, services.All)
	remove()
	for _, file := range []string{"demo-token", "demo-token-made"} {
		must(t, os.Remove(filepath.Join(s.dir, file)))
	}
	s.run(cheap, services.All)
	s.granted(s.byToken("carol", s.demoToken().press("")), "otp")
	remove()
	s.run(cheap, services.All)
	if there, _, err := s.tokens().List(t.Context(), "", 1); err != nil || len(there) != 0 {
		t.Errorf("a token that was deleted is there again: %+v, %v", there, err)
	}
}
