// Package tokenfile reads the files in which makers deliver one-time password tokens: key containers (PSKC, RFC 6030) and lines of CSV. A token that can
// not be used leaves out itself alone, so that a delivery of thousands does not wait for one. No error repeats a secret, or a value that may be one.
package tokenfile

import (
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"golang.org/x/text/unicode/norm"

	"github.com/sekisho/sekisho/services/internal/oath"
)

// Bounds of what a file may say, beside those of package oath.
const (
	maxTokens  = 50_000    // of one file: what the database takes at once, and an answer can tell of
	maxLabel   = 64        // characters of a serial number, maker or model
	maxCounter = 1<<53 - 1 // what every reader of JSON can tell from its neighbours
	maxDrift   = 1000      // steps: a clock that is hours off is broken
	maxSeconds = 1 << 20   // of a time step as it is read, so that it is a time.Duration; oath.MaxPeriod is less
)

// A Token is one token of a file.
type Token struct {
	oath.Token
	Line            int    // of the file, from 1, where it begins
	Serial          string // as it is printed on the token: 1 to 64 printable characters without '/', neither "." nor ".."
	Manufacturer    string // "" where the file does not say
	Model           string
	Counter         int64     // HOTP, and OCRA with a counter: the next event
	Drift           int       // TOTP, and OCRA with a time: steps that the token's clock is ahead
	Starts, Expires time.Time // zero: no bound
}

// A Problem is why a token of a file is left out.
type Problem struct {
	Line   int    // where the token begins
	Serial string // "" where not known
	Error  string // what is wrong, without any secret
}

// A delivery is what has been read of a file.
type delivery struct {
	tokens   []Token
	problems []Problem
	lines    map[string]int // of each serial number in tokens
}

// add takes in a token, or says why it is left out.
func (d *delivery) add(t Token, err error) {
	t.Serial = norm.NFC.String(t.Serial) // one number, however its letters are composed
	if err == nil {
		err = check(t)
	}
	if line, twice := d.lines[t.Serial]; twice && err == nil {
		err = fmt.Errorf("line %d has this serial number already", line)
	}
	if err != nil {
		if checkSerial(t.Serial) != nil {
			t.Serial = ""
		}
		d.problems = append(d.problems, Problem{Line: t.Line, Serial: t.Serial, Error: err.Error()})
		return
	}
	if d.lines == nil {
		d.lines = map[string]int{}
	}
	d.lines[t.Serial] = t.Line
	d.tokens = append(d.tokens, t)
}

// errTooMany ends the reading of a file that is not a delivery: its problems alone would take a hundred times its size.
var errTooMany = fmt.Errorf("tokenfile: more than %d tokens in one file: send it in parts", maxTokens)

// full tells that a file holds no more than it has.
func (d *delivery) full() bool { return len(d.tokens)+len(d.problems) == maxTokens }

// all is what a file holds.
func (d *delivery) all() ([]Token, []Problem, error) {
	if len(d.tokens)+len(d.problems) == 0 {
		return nil, nil, errors.New("tokenfile: the file holds no tokens")
	}
	return d.tokens, d.problems, nil
}

// check says why a token can not be used, whatever file it is of.
func check(t Token) error {
	if err := checkSerial(t.Serial); err != nil {
		return err
	}
	if err := t.Valid(); err != nil {
		return errors.New(strings.TrimPrefix(err.Error(), "oath: "))
	}
	switch {
	case t.Counter < 0 || t.Counter > maxCounter:
		return fmt.Errorf("the counter is not 0 to %d", int64(maxCounter))
	case t.Drift < -maxDrift || t.Drift > maxDrift:
		return fmt.Errorf("the clock is off by more than %d steps", maxDrift)
	case !t.Starts.IsZero() && !t.Expires.IsZero() && !t.Starts.Before(t.Expires):
		return errors.New("it expires before it starts")
	case !printable(t.Manufacturer) || !printable(t.Model):
		return fmt.Errorf("manufacturer or model has more than %d characters, or some that can not be printed", maxLabel)
	}
	return nil
}

// checkSerial sees to it that a serial number can be a part of the path of a URL.
func checkSerial(serial string) error {
	switch {
	case serial == "":
		return errors.New("there is no serial number")
	case !printable(serial) || strings.Contains(serial, "/") || serial == "." || serial == "..":
		return fmt.Errorf("the serial number is not of 1 to %d printable characters without '/'", maxLabel)
	}
	return nil
}

func printable(label string) bool {
	return utf8.ValidString(label) && utf8.RuneCountInString(label) <= maxLabel && !strings.ContainsFunc(label, func(r rune) bool { return !unicode.IsPrint(r) })
}

// hashOf finds a hash function by one of the names in use: SHA256, sha-256, HMAC-SHA256, HmacSHA256. Without a name it is SHA-1.
func hashOf(name string) (oath.Hash, error) {
	if name == "" {
		return oath.SHA1, nil
	}
	switch h := oath.Hash(strings.TrimPrefix(strings.ReplaceAll(strings.ToUpper(name), "-", ""), "HMAC")); h {
	case oath.SHA1, oath.SHA256, oath.SHA512:
		return h, nil
	}
	return "", errors.New("the hash function is none of SHA1, SHA256 and SHA512")
}
