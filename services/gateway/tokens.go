package gateway

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"slices"

	"github.com/google/uuid"

	"github.com/sekisho/sekisho/events"
)

// A purpose is one of the uses of the gateway's secret key. What was made for one purpose means nothing to another.
type purpose string

const (
	loginSecret  purpose = "login"   // proves who started a login
	sessionToken purpose = "session" // proves who was granted one
	formToken    purpose = "form"    // binds a form to the browser that got it
	deviceCookie purpose = "device"  // which browser this is, and who logged in with it
	newDevice    purpose = "new"     // names a browser after the login by which it was first met
	sourceTag    purpose = "source"  // a client's network, without telling it
	promptNumber purpose = "number"  // what the login page shows and the phone asks for
	typedName    purpose = "name"    // hides the name that a login by ID was begun with, in the browser that began it
)

// keys are what the gateway signs with. Every instance of the gateway has the same. The first makes what is made; the others are its
// predecessors, or its successor, and what they have made is believed.
type keys struct {
	gateway string
	all     []key
}

type key struct {
	id      byte // stands in tokens, so that one is checked with the key that made it
	derived map[purpose][]byte
}

func newKeys(gateway string, secrets ...[]byte) (*keys, error) {
	k := &keys{gateway: gateway}
	for _, secret := range secrets {
		one := key{derived: make(map[purpose][]byte)}
		for _, p := range []purpose{loginSecret, sessionToken, formToken, deviceCookie, newDevice, sourceTag, promptNumber, typedName, "id"} {
			derived, err := hkdf.Key(sha256.New, secret, nil, "sekisho gateway "+string(p)+" v1", sha256.Size)
			if err != nil {
				return nil, fmt.Errorf("derive key %s: %w", p, err)
			}
			one.derived[p] = derived
		}
		one.id = one.derived["id"][0]
		k.all = append(k.all, one)
	}
	return k, nil
}

func (k *key) mac(p purpose, data string) []byte {
	h := hmac.New(sha256.New, k.derived[p])
	h.Write([]byte(data)) // never fails (hash.Hash)
	return h.Sum(nil)
}

func (k *keys) mac(p purpose, data string) []byte { return k.all[0].mac(p, data) }

func (k *keys) valid(p purpose, data string, mac []byte) bool {
	return slices.ContainsFunc(k.all, func(one key) bool { return hmac.Equal(one.mac(p, data), mac) })
}

// tag stands for a value that must not be disclosed.
func (k *keys) tag(value string) string { return hex.EncodeToString(k.mac(sourceTag, value)[:16]) }

// A token names a login and proves that this gateway said so. Its bytes, before base64url: version, key id, the login's
// UUID (16), and the MAC of all of these and the gateway's name (32). No look-up is needed to check one, and nothing that
// is on the bus helps to forge one.
const (
	tokenVersion = 1
	tokenHeader  = 2
	tokenClaim   = tokenHeader + len(uuid.UUID{})
	tokenSize    = tokenClaim + sha256.Size
)

// tokenEncoding refuses what decodes to the same bytes but is not what was given out.
var tokenEncoding = base64.RawURLEncoding.Strict()

// token makes the token of one of this gateway's logins.
func (k *keys) token(p purpose, login events.Login) (string, error) {
	id, err := uuid.Parse(login.ID)
	if err != nil {
		return "", fmt.Errorf("token of %s: %w", login, err)
	}
	raw := append([]byte{tokenVersion, k.all[0].id}, id[:]...)
	raw = append(raw, k.mac(p, signed(raw, login))...)
	return tokenEncoding.EncodeToString(raw), nil
}

// signed is what a token's MAC covers.
func signed(raw []byte, login events.Login) string { return string(raw[:tokenHeader]) + login.String() }

// login is the login that a token names, if it is one of this gateway's tokens.
func (k *keys) login(p purpose, token string) (events.Login, bool) {
	raw, err := tokenEncoding.DecodeString(token)
	// The decoder skips line breaks, so the length of the text counts too.
	if err != nil || len(raw) != tokenSize || len(token) != tokenEncoding.EncodedLen(tokenSize) || raw[0] != tokenVersion {
		return events.Login{}, false
	}
	login := events.Login{Gateway: k.gateway, ID: uuid.UUID(raw[tokenHeader:tokenClaim]).String()}
	for _, one := range k.all {
		if raw[1] == one.id && hmac.Equal(one.mac(p, signed(raw, login)), raw[tokenClaim:]) {
			return login, true
		}
	}
	return events.Login{}, false
}

// seal hides a text from everybody but the gateway, and binds it to the login: it opens with no other.
func (k *keys) seal(p purpose, login events.Login, text string) (string, error) {
	box, err := k.all[0].box(p)
	if err != nil {
		return "", err
	}
	return tokenEncoding.EncodeToString(box.Seal(nil, nil, []byte(text), []byte(login.String()))), nil
}

// open is the text that was sealed for the login, empty if none was.
func (k *keys) open(p purpose, login events.Login, sealed string) string {
	raw, err := tokenEncoding.DecodeString(sealed)
	if err != nil {
		return ""
	}
	for _, one := range k.all {
		box, err := one.box(p)
		if err != nil {
			return ""
		}
		if text, err := box.Open(nil, nil, raw, []byte(login.String())); err == nil {
			return string(text)
		}
	}
	return ""
}

func (k *key) box(p purpose) (cipher.AEAD, error) {
	block, err := aes.NewCipher(k.derived[p])
	if err != nil {
		return nil, err
	}
	return cipher.NewGCMWithRandomNonce(block)
}
