package events_test

import (
	"bytes"
	"crypto/ecdh"
	"encoding/json"
	"errors"
	"os"
	"testing"

	"github.com/sekisho/sekisho/events"
)

// The test vectors for gateways in other languages: what another implementation sealed opens here, in its own place only.
func TestSealingVectors(t *testing.T) {
	data, err := os.ReadFile("../schemas/examples/sealing.json")
	if err != nil {
		t.Fatal(err)
	}
	var vectors []struct {
		Recipient, Key string
		PrivateKey     []byte `json:"private_key"`
		PublicKey      []byte `json:"public_key"`
		Subject, Field string
		AssociatedData []byte `json:"associated_data"`
		Plaintext      string
		Nonce          []byte
		Sealed         events.Sealed
	}
	if err := json.Unmarshal(data, &vectors); err != nil || len(vectors) == 0 {
		t.Fatalf("%d vectors, %v", len(vectors), err)
	}
	for _, v := range vectors {
		t.Run(v.Recipient, func(t *testing.T) {
			private, err := ecdh.X25519().NewPrivateKey(v.PrivateKey)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(private.PublicKey().Bytes(), v.PublicKey) {
				t.Error("the keys are no pair")
			}
			if string(v.AssociatedData) != v.Subject+"\x00"+v.Field+"\x00"+v.Recipient || !bytes.HasPrefix(v.Sealed.Box, v.Nonce) || v.Sealed.Key != v.Key {
				t.Error("associated data, nonce or key id are not those of the sealed value")
			}
			opener, err := events.NewOpener(v.Recipient, events.PrivateKey{Recipient: v.Recipient, ID: v.Key, Key: v.PrivateKey})
			if err != nil {
				t.Fatal(err)
			}
			var got json.RawMessage
			if err := opener.Open(&v.Sealed, v.Subject, v.Field, &got); err != nil || string(got) != v.Plaintext {
				t.Errorf("opened %s, %v; want %s", got, err, v.Plaintext)
			}
			if err := opener.Open(&v.Sealed, v.Subject+".2", v.Field, &got); !errors.Is(err, events.ErrSealed) {
				t.Errorf("error %v in another place, want ErrSealed", err)
			}
		})
	}
}
