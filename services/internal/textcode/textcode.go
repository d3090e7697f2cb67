// Package textcode derives the codes that go out by text message. A code follows from the login, the round and a key
// that only smsdispatcher and otpvalidator hold, so no code is ever stored or sent over the bus, and a repeated
// message carries the same one.
package textcode

import (
	"crypto/hmac"
	"crypto/sha256"
	"crypto/subtle"
	"fmt"
	"strconv"

	"github.com/sekisho/sekisho/events"
	"github.com/sekisho/sekisho/services/internal/oath"
)

// digits is the length of a code.
const digits = 6

const (
	label  = "sekisho text code v1"
	minKey = 32 // bytes; a key shorter than the hash's output weakens HMAC (RFC 2104 section 3)
)

// Codes derives codes. It is safe for concurrent use.
type Codes struct{ key []byte }

// New makes a Codes from a secret key of at least 32 bytes.
func New(key []byte) (*Codes, error) {
	if len(key) < minKey {
		return nil, fmt.Errorf("textcode: key of %d bytes, want at least %d", len(key), minKey)
	}
	return &Codes{key: key}, nil
}

// Code is the code of a round of a login: six decimal digits.
func (c *Codes) Code(login events.Login, round int) string {
	mac := hmac.New(sha256.New, c.key)
	// No part can hold a NUL, so no two rounds share an encoding.
	mac.Write([]byte(label + "\x00" + login.Gateway + "\x00" + login.ID + "\x00" + strconv.Itoa(round)))
	return oath.Truncate(mac.Sum(nil), digits)
}

// Equal reports whether answer is the code of a round of a login. How long it takes does not tell how much of it is right.
func (c *Codes) Equal(login events.Login, round int, answer string) bool {
	return subtle.ConstantTimeCompare([]byte(c.Code(login, round)), []byte(answer)) == 1
}
