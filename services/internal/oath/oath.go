// Package oath makes and checks the codes of one-time password tokens: HOTP (RFC 4226), TOTP (RFC 6238) and OCRA (RFC 6287). It knows
// neither users nor where tokens are kept.
package oath

import (
	"crypto/hmac"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"time"
)

// An Algorithm is how a token makes its codes.
type Algorithm string

// The algorithms.
const (
	HOTP Algorithm = "hotp"
	TOTP Algorithm = "totp"
	OCRA Algorithm = "ocra"
)

// A Hash is the hash function under an HMAC, as OCRA suites write it. SHA-1 is what most tokens have; its collisions do not help against
// an HMAC (RFC 4226 appendix B.2).
type Hash string

// The hash functions.
const (
	SHA1   Hash = "SHA1"
	SHA256 Hash = "SHA256"
	SHA512 Hash = "SHA512"
)

var hashes = map[Hash]func() hash.Hash{SHA1: sha1.New, SHA256: sha256.New, SHA512: sha512.New}

// Bounds of what a token may be.
const (
	MinSecret = 16  // bytes: the 128 bits that RFC 4226 section 4 (R6) asks for
	MaxSecret = 128 // bytes, twice of what tokens have
	MinDigits = 6   // RFC 4226 section 4 (R4)
	MaxDigits = 10  // as many as 31 bits have
	MinPeriod = 10 * time.Second
	MaxPeriod = 2 * time.Minute // SP 800-63B-4 section 3.1.4.1
)

// A Token is what its maker has written about a token: all but where its counter or clock stands.
type Token struct {
	Algorithm Algorithm
	Suite     string        // of OCRA, see [ParseSuite]; hash and digits are the suite's
	Hash      Hash          // of HOTP and TOTP
	Digits    int           // of HOTP and TOTP
	Period    time.Duration // of TOTP: how long it shows a code, in whole seconds
	Secret    []byte
}

// Valid says what of a token can not be, without its secret.
func (t Token) Valid() error {
	if n := len(t.Secret); n < MinSecret || n > MaxSecret {
		return fmt.Errorf("oath: a secret of %d bytes, want %d to %d", n, MinSecret, MaxSecret)
	}
	s, err := t.suite()
	switch {
	case err != nil:
		return err
	case hashes[s.hash] == nil:
		return errors.New("oath: want SHA1, SHA256 or SHA512 as hash")
	case s.digits < MinDigits || s.digits > MaxDigits:
		return fmt.Errorf("oath: codes of %d digits, want %d to %d", s.digits, MinDigits, MaxDigits)
	case s.step != 0 && (s.step < MinPeriod || s.step > MaxPeriod || s.step%time.Second != 0):
		return fmt.Errorf("oath: a code every %s, want whole seconds from %s to %s", s.step, MinPeriod, MaxPeriod)
	}
	return nil
}

// suite is how the token makes its codes. HOTP and TOTP are OCRA without its header: a counter or a time alone.
func (t Token) suite() (Suite, error) {
	switch t.Algorithm {
	case HOTP:
		return Suite{hash: t.Hash, digits: t.Digits, counter: true}, nil
	case TOTP:
		if t.Period < time.Second {
			return Suite{}, errors.New("oath: a time-based token without its period")
		}
		return Suite{hash: t.Hash, digits: t.Digits, step: t.Period}, nil
	case OCRA:
		return ParseSuite(t.Suite)
	default:
		return Suite{}, errors.New("oath: want hotp, totp or ocra as algorithm")
	}
}

// Length is how many digits the token's codes have; 0 of one that is not [Token.Valid].
func (t Token) Length() int {
	s, _ := t.suite()
	return s.digits
}

// Code is the code of a moment: the number of the event, or of the step of time. A token without either ignores it. question and pin are
// what its suite asks for; without an OCRA suite they are ignored too.
func (t Token) Code(moment int64, question, pin string) (string, error) {
	s, err := t.suite()
	if err != nil {
		return "", err
	}
	return s.code(t.Secret, moment, question, pin)
}

func (s Suite) code(secret []byte, moment int64, question, pin string) (string, error) {
	message, err := s.message(moment, question, pin)
	if err != nil {
		return "", err
	}
	mac := hmac.New(hashes[s.hash], secret)
	mac.Write(message)
	return Truncate(mac.Sum(nil), s.digits), nil
}

// Truncate makes a code of some digits, at most [MaxDigits], of an HMAC's value: the dynamic truncation of RFC 4226 section 5.3. With a hash
// longer than SHA-1 its last byte tells the offset, as in RFC 6238.
func Truncate(sum []byte, digits int) string {
	modulus := uint64(1)
	for range digits {
		modulus *= 10
	}
	offset := sum[len(sum)-1] & 0x0f
	number := binary.BigEndian.Uint32(sum[offset:]) & 0x7fffffff
	return fmt.Sprintf("%0*d", digits, uint64(number)%modulus)
}
