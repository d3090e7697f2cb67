// Package textcode derives the codes that go out by text message. A code follows from the login, the round and a key
// that only smsdispatcher and otpvalidator hold, so no code is ever stored or sent over the bus, and a repeated
// message carries the same one.
package textcode

import (
	"crypto/hmac"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/binary"
	"fmt"
	"strconv"

	"github.com/sekisho/sekisho/events"
)

// digits is the length of a code.
const digits = 6

const (
	label   = "sekisho text code v1"
	minKey  = 32 // bytes; a key shorter than the hash's output weakens HMAC (RFC 2104 section 3)
	modulus = 1_000_000
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
	return truncate(mac.Sum(nil))
}

// Equal reports whether answer is the code of a round of a login. How long it takes does not tell how much of it is right.
func (c *Codes) Equal(login events.Login, round int, answer string) bool {
	return subtle.ConstantTimeCompare([]byte(c.Code(login, round)), []byte(answer)) == 1
}

// truncate is the dynamic truncation of RFC 4226 section 5.3; with a hash longer than SHA-1 its last byte tells the
// offset, as in RFC 6238.
func truncate(sum []byte) string {
	offset := sum[len(sum)-1] & 0x0f
	number := binary.BigEndian.Uint32(sum[offset:]) & 0x7fffffff
	return fmt.Sprintf("%0*d", digits, number%modulus)
}
