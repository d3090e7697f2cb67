package textcode

import (
	"bytes"
	"encoding/binary"
	"strings"
	"testing"

	"github.com/google/uuid"
	"github.com/sekisho/sekisho/events"
)

var (
	key   = bytes.Repeat([]byte{7}, 32)
	login = events.Login{Gateway: "web", ID: "01890a5d-ac96-774b-bcce-b302099a8057"}
)

func codes(t testing.TB, key []byte) *Codes {
	t.Helper()
	c, err := New(key)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// Both workers must derive the same code whatever version each of them has: these values, from an implementation in
// another language, never change.
func TestCodesStayTheSame(t *testing.T) {
	c := codes(t, key)
	for round, want := range map[int]string{1: "736381", 2: "457329", 6: "887931"} {
		if got := c.Code(login, round); got != want {
			t.Errorf("round %d: %s, want %s", round, got, want)
		}
	}
}

func TestEveryPartCounts(t *testing.T) {
	want := codes(t, key).Code(login, 1)
	for what, got := range map[string]string{
		"key":     codes(t, bytes.Repeat([]byte{8}, 32)).Code(login, 1),
		"gateway": codes(t, key).Code(events.Login{Gateway: "app", ID: login.ID}, 1),
		"login":   codes(t, key).Code(events.Login{Gateway: "web", ID: strings.Replace(login.ID, "8057", "8058", 1)}, 1),
		"round":   codes(t, key).Code(login, 2),
		// The border between the parts counts too.
		"border": codes(t, key).Code(events.Login{Gateway: "web" + login.ID[:1], ID: login.ID[1:]}, 1),
	} {
		if got == want {
			t.Errorf("another %s gives the same code", what)
		}
	}
}

func TestEqual(t *testing.T) {
	c := codes(t, key)
	code := c.Code(login, 1)
	if !c.Equal(login, 1, code) {
		t.Error("the code itself is not equal")
	}
	for _, answer := range []string{"", code[:5], code + "0", " " + code, c.Code(login, 2), strings.Repeat("0", 1<<16)} {
		if c.Equal(login, 1, answer) {
			t.Errorf("%.20q is taken for the code", answer)
		}
	}
}

// Digits are uniform: a chi-squared test per position over 100,000 codes of fixed logins. 9 degrees of freedom stay
// below 33.7 with probability 0.9999.
func TestDistribution(t *testing.T) {
	c := codes(t, key)
	const n = 100_000
	var seen [digits][10]float64
	var id uuid.UUID
	for i := range uint32(n) {
		binary.BigEndian.PutUint32(id[12:], i)
		code := c.Code(events.Login{Gateway: "web", ID: id.String()}, 1)
		if len(code) != digits {
			t.Fatalf("code %q is not %d digits", code, digits)
		}
		for position, digit := range []byte(code) {
			seen[position][digit-'0']++
		}
	}
	for position, counts := range seen {
		chi := 0.0
		for _, count := range counts {
			chi += (count - n/10) * (count - n/10) / (n / 10)
		}
		if chi > 33.7 {
			t.Errorf("position %d: chi-squared %.1f: %v", position, chi, counts)
		}
	}
}

func TestShortKey(t *testing.T) {
	if _, err := New(key[:31]); err == nil {
		t.Error("a key of 31 bytes is taken")
	}
}
