package oath

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"math/big"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// A Suite says what an OCRA token puts into its codes (RFC 6287 section 6).
type Suite struct {
	text     string // as it is hashed; "" for HOTP and TOTP, which hash none
	hash     Hash
	digits   int
	counter  bool          // C
	question byte          // Q: 'A' alphanumeric, 'N' decimal, 'H' hexadecimal; 0 for none, which OCRA never is
	longest  int           // characters of a question
	pin      Hash          // P: the PIN is part of what is hashed, and not typed before the code; "" for none
	step     time.Duration // T; 0 for none
}

var suiteForm = regexp.MustCompile(`^OCRA-1:HOTP-(SHA1|SHA256|SHA512)-([0-9]|10):(C-)?Q([ANH])([0-9]{2})(?:-P(SHA1|SHA256|SHA512))?(-S[0-9]{3})?(?:-T([1-9][0-9]?)([SMH]))?$`)

// ParseSuite reads a suite, such as OCRA-1:HOTP-SHA256-8:C-QN08-PSHA1. It refuses what no user could type or no server keeps: codes that
// are not truncated, session data, and a counter together with a time.
func ParseSuite(text string) (Suite, error) {
	m := suiteForm.FindStringSubmatch(text)
	if m == nil {
		return Suite{}, errors.New("oath: no OCRA suite (RFC 6287 section 6)")
	}
	s := Suite{text: text, hash: Hash(m[1]), counter: m[3] != "", question: m[4][0], pin: Hash(m[6])}
	s.digits, _ = strconv.Atoi(m[2])
	s.longest, _ = strconv.Atoi(m[5])
	if m[8] != "" {
		n, _ := strconv.Atoi(m[8])
		s.step = time.Duration(n) * map[string]time.Duration{"S": time.Second, "M": time.Minute, "H": time.Hour}[m[9]]
	}
	switch {
	case s.longest < 4 || s.longest > 64:
		return Suite{}, errors.New("oath: questions of an OCRA suite have 4 to 64 characters")
	case m[7] != "":
		return Suite{}, errors.New("oath: OCRA suites with session data are not supported")
	case s.counter && s.step != 0:
		return Suite{}, errors.New("oath: OCRA suites with a counter and a time are not supported")
	case s.digits < MinDigits:
		return Suite{}, fmt.Errorf("oath: codes of %d digits, want %d to %d", s.digits, MinDigits, MaxDigits)
	}
	return s, nil
}

// Question is how many characters a question of the suite may have.
func (s Suite) Question() int { return s.longest }

// message is what is hashed (RFC 6287 section 5.1).
func (s Suite) message(moment int64, question, pin string) ([]byte, error) {
	if s.text == "" {
		return binary.BigEndian.AppendUint64(nil, uint64(moment)), nil
	}
	message := append([]byte(s.text), 0)
	if s.counter {
		message = binary.BigEndian.AppendUint64(message, uint64(moment))
	}
	q, err := s.padded(question)
	if err != nil {
		return nil, err
	}
	message = append(message, q...)
	if s.pin != "" {
		h := hashes[s.pin]()
		h.Write([]byte(pin))
		message = h.Sum(message)
	}
	if s.step != 0 {
		message = binary.BigEndian.AppendUint64(message, uint64(moment))
	}
	return message, nil
}

// padded is a question as it is hashed: 128 bytes, filled up with zeros. Numbers become hexadecimal digits first, the last of which may
// be half of a byte.
func (s Suite) padded(question string) ([]byte, error) {
	if question == "" || len(question) > 2*s.longest { // mutual authentication asks two questions at once
		return nil, fmt.Errorf("oath: a question of %d characters, want 1 to %d", len(question), s.longest)
	}
	digits := question
	switch s.question {
	case 'A':
		digits = hex.EncodeToString([]byte(question))
	case 'N':
		number, ok := new(big.Int).SetString(question, 10)
		if !ok {
			return nil, errors.New("oath: the question is no decimal number")
		}
		digits = number.Text(16)
	}
	padded, err := hex.DecodeString(digits + strings.Repeat("0", 256-len(digits)))
	if err != nil {
		return nil, errors.New("oath: the question is no hexadecimal number")
	}
	return padded, nil
}
