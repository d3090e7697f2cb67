package gateway

import (
	"bytes"
	"encoding/base64"
	"strings"
	"testing"

	"github.com/sekisho/sekisho/services/internal/testenv"
)

func testKeys(t *testing.T, gateway string, fill ...byte) *keys {
	t.Helper()
	secrets := make([][]byte, len(fill))
	for i, b := range fill {
		secrets[i] = bytes.Repeat([]byte{b}, 32)
	}
	k, err := newKeys(gateway, secrets...)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func TestTokenNamesItsLogin(t *testing.T) {
	k := testKeys(t, "web", 1)
	login := testenv.NewLogin(t, "web")
	token, err := k.token(loginSecret, login)
	if err != nil {
		t.Fatal(err)
	}
	if got, ok := testKeys(t, "web", 1).login(loginSecret, token); !ok || got != login {
		t.Errorf("another instance reads %v, %v", got, ok)
	}
	if _, ok := k.login(sessionToken, token); ok {
		t.Error("the secret of a login passes for a session")
	}
	if _, ok := testKeys(t, "example", 1).login(loginSecret, token); ok {
		t.Error("another gateway with the same key takes it")
	}
	if _, ok := testKeys(t, "web", 2).login(loginSecret, token); ok {
		t.Error("another key takes it")
	}
}

// A key is replaced without an end of anybody's session: first every instance believes the new one, then each signs with it.
func TestKeysAreReplaced(t *testing.T) {
	login := testenv.NewLogin(t, "web")
	for name, from := range map[string][2]*keys{
		"the new one is only believed": {testKeys(t, "web", 2, 1), testKeys(t, "web", 1, 2)},
		"the old one is only believed": {testKeys(t, "web", 1), testKeys(t, "web", 2, 1)},
	} {
		maker, reader := from[0], from[1]
		token, err := maker.token(sessionToken, login)
		if err != nil {
			t.Fatal(err)
		}
		if got, ok := reader.login(sessionToken, token); !ok || got != login {
			t.Errorf("%s: token: %v, %v", name, got, ok)
		}
		if !reader.valid(deviceCookie, "data", maker.mac(deviceCookie, "data")) {
			t.Errorf("%s: a cookie is not valid", name)
		}
		sealed, err := maker.seal(typedName, login, "alice")
		if err != nil {
			t.Fatal(err)
		}
		if got := reader.open(typedName, login, sealed); got != "alice" {
			t.Errorf("%s: opens as %q", name, got)
		}
		last := testKeys(t, "web", 3)
		if _, ok := last.login(sessionToken, token); ok || last.valid(deviceCookie, "data", maker.mac(deviceCookie, "data")) || last.open(typedName, login, sealed) != "" {
			t.Errorf("%s: a key that was taken away is believed", name)
		}
	}
	now, err := testKeys(t, "web", 2, 1).token(sessionToken, login)
	if err != nil {
		t.Fatal(err)
	}
	if _, ok := testKeys(t, "web", 2).login(sessionToken, now); !ok {
		t.Error("it is not the first key that signs")
	}
}

func TestForgedTokens(t *testing.T) {
	k := testKeys(t, "web", 1)
	login := testenv.NewLogin(t, "web")
	token, err := k.token(sessionToken, login)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := base64.RawURLEncoding.DecodeString(token)
	if err != nil {
		t.Fatal(err)
	}
	for i := range raw {
		for bit := range 8 {
			forged := bytes.Clone(raw)
			forged[i] ^= 1 << bit
			if _, ok := k.login(sessionToken, base64.RawURLEncoding.EncodeToString(forged)); ok {
				t.Fatalf("byte %d, bit %d may differ", i, bit)
			}
		}
		if _, ok := k.login(sessionToken, base64.RawURLEncoding.EncodeToString(raw[:i])); ok {
			t.Errorf("%d bytes are enough", i)
		}
	}
	for i := range len(token) {
		if _, ok := k.login(sessionToken, token[:i]); ok {
			t.Errorf("%d characters are enough", i)
		}
	}
	last := token[:len(token)-1]
	for _, c := range "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_" {
		if _, ok := k.login(sessionToken, last+string(c)); ok != strings.HasSuffix(token, string(c)) {
			t.Errorf("last character %c: %v", c, ok)
		}
	}
	for _, s := range []string{token + "A", token + "=", token + "\n", " " + token, ""} {
		if _, ok := k.login(sessionToken, s); ok {
			t.Errorf("%q is taken", s)
		}
	}
}
