package events_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"testing"

	"github.com/sekisho/sekisho/events"
)

func sealing(t *testing.T, recipient string) (*events.Sealer, *events.Opener, events.PrivateKey) {
	t.Helper()
	public, private, err := events.GenerateKey(recipient, "k1")
	if err != nil {
		t.Fatal(err)
	}
	sealer, err := events.NewSealer(public)
	if err != nil {
		t.Fatal(err)
	}
	opener, err := events.NewOpener(recipient, private)
	if err != nil {
		t.Fatal(err)
	}
	return sealer, opener, private
}

const place = "login.requested.web.x"

func TestSealOpen(t *testing.T) {
	sealer, opener, _ := sealing(t, "identityverifier")
	want := events.Identity{User: "alice", Password: "correct horse"}
	box, err := sealer.Seal("identityverifier", place, "identity", want)
	if err != nil {
		t.Fatal(err)
	}
	wire, err := json.Marshal(box)
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(wire, []byte("alice")) || bytes.Contains(box.Box, []byte("correct")) {
		t.Error("the value is in clear")
	}
	var got events.Identity
	if err := opener.Open(box, place, "identity", &got); err != nil {
		t.Fatal(err)
	}
	if got.User != want.User || got.Password != want.Password {
		t.Error("another value came out")
	}
	again, err := sealer.Seal("identityverifier", place, "identity", want)
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Equal(again.Box, box.Box) {
		t.Error("the same value sealed twice looks the same")
	}
}

// A sealed value opens in its own place, by its own recipient, and untouched; nothing else.
func TestSealedIsBound(t *testing.T) {
	sealer, opener, _ := sealing(t, "otpvalidator")
	_, stranger, _ := sealing(t, "otpvalidator")
	seal := func() *events.Sealed {
		box, err := sealer.Seal("otpvalidator", place, "code", "123456")
		if err != nil {
			t.Fatal(err)
		}
		return box
	}
	for name, open := range map[string]func(*string) error{
		"other subject": func(v *string) error { return opener.Open(seal(), place+".1", "code", v) },
		"other field":   func(v *string) error { return opener.Open(seal(), place, "pin", v) },
		"other key":     func(v *string) error { return stranger.Open(seal(), place, "code", v) },
		"nothing":       func(v *string) error { return opener.Open(nil, place, "code", v) },
		"touched box": func(v *string) error {
			b := seal()
			b.Box = bytes.Clone(b.Box)
			b.Box[20] ^= 1
			return opener.Open(b, place, "code", v)
		},
		"short box": func(v *string) error { b := seal(); b.Box = b.Box[:5]; return opener.Open(b, place, "code", v) },
		"touched enc": func(v *string) error {
			b := seal()
			b.Enc = bytes.Clone(b.Enc)
			b.Enc[0] ^= 1
			return opener.Open(b, place, "code", v)
		},
		"zero enc":    func(v *string) error { b := seal(); b.Enc = make([]byte, 32); return opener.Open(b, place, "code", v) },
		"unknown key": func(v *string) error { b := seal(); b.Key = "k2"; return opener.Open(b, place, "code", v) },
	} {
		t.Run(name, func(t *testing.T) {
			var v string
			if err := open(&v); !errors.Is(err, events.ErrSealed) || v != "" {
				t.Errorf("opened %q, error %v; want ErrSealed", v, err)
			}
		})
	}
}

func TestDestroyedKeyOpensNothing(t *testing.T) {
	sealer, opener, _ := sealing(t, "otpvalidator")
	box, err := sealer.Seal("otpvalidator", place, "code", "123456")
	if err != nil {
		t.Fatal(err)
	}
	var v string
	if err := opener.Open(box, place, "code", &v); err != nil {
		t.Fatal(err)
	}
	if err := opener.SetKeys(); err != nil {
		t.Fatal(err)
	}
	if err := opener.Open(box, place, "code", &v); !errors.Is(err, events.ErrSealed) {
		t.Errorf("error %v after the key is gone, want ErrSealed", err)
	}
}

func TestSealerTakesNewKey(t *testing.T) {
	sealer, opener, old := sealing(t, "otpvalidator")
	public, private, err := events.GenerateKey("otpvalidator", "k2")
	if err != nil {
		t.Fatal(err)
	}
	if err := sealer.Use(public); err != nil {
		t.Fatal(err)
	}
	if err := opener.SetKeys(old, private); err != nil {
		t.Fatal(err)
	}
	box, err := sealer.Seal("otpvalidator", place, "code", "123456")
	if err != nil {
		t.Fatal(err)
	}
	var v string
	if err := opener.Open(box, place, "code", &v); err != nil || box.Key != "k2" || v != "123456" {
		t.Errorf("sealed to %s, opened %q, %v", box.Key, v, err)
	}
}

// Senders may hear of a new key before its recipient: the recipient looks again, though not at every unknown name.
func TestOpenerLooksForUnknownKey(t *testing.T) {
	public, private, err := events.GenerateKey("otpvalidator", "k2")
	if err != nil {
		t.Fatal(err)
	}
	sealer, err := events.NewSealer(public)
	if err != nil {
		t.Fatal(err)
	}
	_, opener, old := sealing(t, "otpvalidator")
	loads := 0
	opener.LoadUnknown(func() ([]events.PrivateKey, error) { loads++; return []events.PrivateKey{old, private}, nil })
	box, err := sealer.Seal("otpvalidator", place, "code", "123456")
	if err != nil {
		t.Fatal(err)
	}
	var v string
	if err := opener.Open(box, place, "code", &v); err != nil || v != "123456" {
		t.Errorf("opened %q, %v", v, err)
	}
	box.Key = "k3"
	for range 10 {
		if err := opener.Open(box, place, "code", &v); !errors.Is(err, events.ErrSealed) {
			t.Errorf("error %v, want ErrSealed", err)
		}
	}
	if loads != 1 {
		t.Errorf("%d loads in a moment", loads)
	}
}

func TestSealToUnknownRecipient(t *testing.T) {
	sealer, _, _ := sealing(t, "otpvalidator")
	if _, err := sealer.Seal("pushnotifier", place, "x", 1); err == nil {
		t.Error("sealed to somebody whose key is not known")
	}
}
