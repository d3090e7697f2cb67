package oath

import (
	"testing"
	"time"
)

var (
	byEvent = Token{Algorithm: HOTP, Hash: SHA1, Digits: 6, Secret: secrets[SHA1]}
	byTime  = Token{Algorithm: TOTP, Hash: SHA1, Digits: 8, Period: 30 * time.Second, Secret: secrets[SHA1]}
	now     = time.Unix(1111111109, 0) // the last second of a step
	step    = now.Unix() / 30
)

func codeOf(t *testing.T, token Token, moment int64) string {
	t.Helper()
	code, err := token.Code(moment, "12345678", "1234")
	if err != nil {
		t.Fatal(err)
	}
	return code
}

func TestCheck(t *testing.T) {
	for name, c := range map[string]struct {
		token  Token
		from   State
		moment int64
		wide   bool
		want   State
		ok     bool
	}{
		"event that is due":         {byEvent, State{Next: 5}, 5, false, State{Next: 6}, true},
		"event further on":          {byEvent, State{Next: 5}, 15, false, State{Next: 16}, true},
		"event too far":             {byEvent, State{Next: 5}, 16, false, State{Next: 5}, false},
		"event gone by":             {byEvent, State{Next: 5}, 4, false, State{Next: 5}, false},
		"event far, looked for":     {byEvent, State{Next: 5}, 105, true, State{Next: 106}, true},
		"event gone by, looked for": {byEvent, State{Next: 5}, 4, true, State{Next: 5}, false},
		"event farther":             {byEvent, State{Next: 5}, 106, true, State{Next: 5}, false},

		"this step":           {byTime, State{}, step, false, State{Next: step + 1}, true},
		"the first good step": {byTime, State{Next: step}, step, false, State{Next: step + 1}, true},
		"step before":         {byTime, State{}, step - 1, false, State{Next: step}, true},
		"next step":           {byTime, State{}, step + 1, false, State{}, false},
		"two steps before":    {byTime, State{}, step - 2, false, State{}, false},
		"this step again":     {byTime, State{Next: step + 1}, step, false, State{Next: step + 1}, false},
		"an earlier step":     {byTime, State{Next: step + 1}, step - 1, false, State{Next: step + 1}, false},
		"fast clock":          {byTime, State{Drift: 3}, step + 3, false, State{Next: step + 4, Drift: 3}, true},
		"fast clock, late":    {byTime, State{Drift: 3}, step + 2, false, State{Next: step + 3, Drift: 3}, true},
		"fast clock, ours":    {byTime, State{Drift: 3}, step, false, State{Drift: 3}, false},
		"slow, looked for":    {byTime, State{}, step - 100, true, State{Next: step - 99, Drift: -100}, true},
		"fast, looked for":    {byTime, State{}, step + 100, true, State{Next: step + 101, Drift: 100}, true},
		"farther":             {byTime, State{}, step + 101, true, State{}, false},
		"late, looked for":    {byTime, State{}, step - 1, true, State{Next: step}, true},
		"gone by, looked for": {byTime, State{Next: step - 10}, step - 50, true, State{Next: step - 10}, false},
	} {
		check, far := c.token.Check, int64(10)
		if c.wide {
			check, far = c.token.CheckWide, 100
		}
		if got, ok := check(Typed{Code: codeOf(t, c.token, c.moment)}, c.from, now, far); ok != c.ok || got != c.want {
			t.Errorf("%s: %+v %v, want %+v %v", name, got, ok, c.want, c.ok)
		}
	}
}

func TestPIN(t *testing.T) {
	hashed := Token{Algorithm: OCRA, Suite: "OCRA-1:HOTP-SHA1-6:C-QN08-PSHA1", Secret: secrets[SHA1]}
	asked := Token{Algorithm: OCRA, Suite: "OCRA-1:HOTP-SHA1-6:QN08", Secret: secrets[SHA1]}
	for name, c := range map[string]struct {
		token Token
		typed Typed
		want  bool
	}{
		"before the code":     {byEvent, Typed{Code: "1234" + codeOf(t, byEvent, 5), PIN: "1234"}, true},
		"left out":            {byEvent, Typed{Code: codeOf(t, byEvent, 5), PIN: "1234"}, false},
		"another":             {byEvent, Typed{Code: "1235" + codeOf(t, byEvent, 5), PIN: "1234"}, false},
		"alone":               {byEvent, Typed{Code: "1234", PIN: "1234"}, false},
		"hashed":              {hashed, Typed{Code: codeOf(t, hashed, 5), PIN: "1234", Question: "12345678"}, true},
		"hashed, another":     {hashed, Typed{Code: codeOf(t, hashed, 5), PIN: "1235", Question: "12345678"}, false},
		"hashed, and before":  {hashed, Typed{Code: "1234" + codeOf(t, hashed, 5), PIN: "1234", Question: "12345678"}, false},
		"question":            {asked, Typed{Code: codeOf(t, asked, 0), Question: "12345678"}, true},
		"question, PIN first": {asked, Typed{Code: "77" + codeOf(t, asked, 0), PIN: "77", Question: "12345678"}, true},
		"another question":    {asked, Typed{Code: codeOf(t, asked, 0), Question: "12345679"}, false},
		"no question":         {asked, Typed{Code: codeOf(t, asked, 0)}, false},
	} {
		if _, ok := c.token.Check(c.typed, State{Next: 5}, now, 10); ok != c.want {
			t.Errorf("%s: %v", name, ok)
		}
	}
}

func TestResync(t *testing.T) {
	asked := Token{Algorithm: OCRA, Suite: "OCRA-1:HOTP-SHA1-6:C-QN08", Secret: secrets[SHA1]}
	alone := Token{Algorithm: OCRA, Suite: "OCRA-1:HOTP-SHA1-6:QN08", Secret: secrets[SHA1]}
	for name, c := range map[string]struct {
		token         Token
		first, second int64
		want          State
		ok            bool
	}{
		"events":             {byEvent, 60, 61, State{Next: 62}, true},
		"the last events":    {byEvent, 105, 106, State{Next: 107}, true},
		"events too far":     {byEvent, 106, 107, State{Next: 5}, false},
		"one left out":       {byEvent, 60, 62, State{Next: 5}, false},
		"the wrong way":      {byEvent, 61, 60, State{Next: 5}, false},
		"one twice":          {byEvent, 60, 60, State{Next: 5}, false},
		"steps":              {byTime, step - 41, step - 40, State{Next: step - 39, Drift: -40}, true},
		"steps to come":      {byTime, step + 40, step + 41, State{Next: step + 42, Drift: 41}, true},
		"steps in time":      {byTime, step - 1, step, State{Next: step + 1}, true},
		"asked for a number": {asked, 60, 61, State{Next: 5}, false},
		"asked for it alone": {alone, 0, 0, State{Next: 5}, false},
	} {
		got, ok := c.token.Resync(codeOf(t, c.token, c.first), codeOf(t, c.token, c.second), State{Next: 5}, now, 100)
		if ok != c.ok || got != c.want {
			t.Errorf("%s: %+v %v, want %+v %v", name, got, ok, c.want, c.ok)
		}
	}
}
