package simulators

import (
	"crypto/ecdh"
	"encoding/base64"
	"testing"
)

func fromBase64(t testing.TB, text string) []byte {
	t.Helper()
	data, err := base64.RawURLEncoding.DecodeString(text)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// exampleSubscription and exampleMessage are those of RFC 8291 section 5.
func exampleSubscription(t testing.TB) *subscription {
	private, err := ecdh.P256().NewPrivateKey(fromBase64(t, "q1dXpw3UpT5VOmu_cf_v6ih07Aems3njxI-JWgLcM94"))
	if err != nil {
		t.Fatal(err)
	}
	return &subscription{private: private, auth: fromBase64(t, "BTBZMqHH6r4Tts7J_aSIgg")}
}

const exampleMessage = "DGv6ra1nlYgDCS1FRnbzlwAAEABBBP4z9KsN6nGRTbVYI_c7VJSPQTBtkgcy27mlmlMoZIIgDll6e3vCYLocInmYWAmS6TlzAC8wEqKK6PBru3jl7A_yl95bQpu6cVPTpK4Mqgkf1CXztLVBSt2Ks3oZwbuwXPXLWyouBWLVWGNWQexSgSxsj_Qulcy4a-fN"

func TestDecryptsTheExample(t *testing.T) {
	got, err := exampleSubscription(t).decrypt(fromBase64(t, exampleMessage))
	if err != nil || string(got) != "When I grow up, I want to be a watermelon" {
		t.Fatalf("%q, %v", got, err)
	}
}

func TestDecryptTakesOneRecord(t *testing.T) {
	body := fromBase64(t, exampleMessage)
	body[18], body[19] = 0, 57 // the size of its record is 58
	if got, err := exampleSubscription(t).decrypt(body); err == nil {
		t.Fatalf("%q of two records", got)
	}
}

func FuzzDecrypt(f *testing.F) {
	s := exampleSubscription(f)
	body := fromBase64(f, exampleMessage)
	f.Add(body)
	f.Add(body[:86])
	f.Add(body[:10])
	f.Fuzz(func(t *testing.T, changed []byte) {
		if plain, err := s.decrypt(changed); err == nil && string(plain) != "When I grow up, I want to be a watermelon" {
			t.Fatalf("a message that nobody sent says %q", plain)
		}
	})
}
