package gateway

import (
	"bytes"
	"encoding/base64"
	"strings"
	"testing"

	"github.com/sekisho/sekisho/services/internal/testenv"
)

func testKeys(t *testing.T, gateway string, fill byte) *keys {
	t.Helper()
	k, err := newKeys(gateway, bytes.Repeat([]byte{fill}, 32))
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
