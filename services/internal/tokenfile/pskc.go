package tokenfile

import (
	"bytes"
	"cmp"
	"encoding/xml"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/sekisho/sekisho/services/internal/oath"
)

// PSKC reads a key container (RFC 6030) of HOTP, TOTP and OCRA tokens. key is what it is encrypted with: the pre-shared key in hex, or the pass phrase from
// which the file says how to derive it; "" is for a file in clear. With a key no secret in clear is taken, so that nobody can slip one in.
//
// A file's signature is not checked: who sends it here vouches for it. The MACs of an encrypted one are over its secrets alone.
// The error is of a file that can not be read as a whole: it is not such a container, or the key is wrong. It names the line.
func PSKC(data []byte, key string) ([]Token, []Problem, error) {
	r := &reader{Decoder: xml.NewDecoder(bytes.NewReader(data))}
	if err := r.open(); err != nil {
		return nil, nil, err
	}
	var (
		d               delivery
		secrets         *opener
		encryption, mac *element
	)
	for {
		part, err := r.child()
		if err != nil {
			return nil, nil, err
		}
		if part == nil {
			break
		}
		switch part.Name {
		case xml.Name{Space: pskc, Local: "EncryptionKey"}:
			err = once(&encryption, part, secrets)
		case xml.Name{Space: pskc, Local: "MACMethod"}:
			err = once(&mac, part, secrets)
		case xml.Name{Space: pskc, Local: "KeyPackage"}:
			if d.full() {
				return nil, nil, errTooMany
			}
			if secrets == nil {
				if secrets, err = unlock(key, encryption, mac); err != nil {
					return nil, nil, err
				}
			}
			d.add(packageToken(part, secrets))
		case xml.Name{Space: pskc, Local: "Signature"}, xml.Name{Space: dsig, Local: "Signature"}, xml.Name{Space: pskc, Local: "Extensions"}:
		default: // it may be a token of another version, which must not be lost in silence
			err = fmt.Errorf("<%.40s> of the namespace %.80q is not known", part.Name.Local, part.Name.Space)
		}
		if err != nil {
			return nil, nil, located(part.line, err)
		}
	}
	if err := r.close(); err != nil {
		return nil, nil, err
	}
	if secrets != nil && secrets.wrong > 0 && secrets.right == 0 {
		return nil, nil, errors.New("tokenfile: no ValueMAC of the file is right: the key is wrong, or the file was changed")
	}
	return d.all()
}

// once keeps a part that a container has at most once, before its tokens.
func once(kept **element, part *element, secrets *opener) error {
	if *kept != nil || secrets != nil {
		return fmt.Errorf("<%s> stands twice, or behind a token", part.Name.Local)
	}
	*kept = part
	return part.flaw()
}

// packageToken reads a KeyPackage: a device and its key (RFC 6030 section 4).
func packageToken(part *element, secrets *opener) (Token, error) {
	device, key := part.at("DeviceInfo"), part.at("Key")
	t := Token{
		Line:         part.line,
		Serial:       cmp.Or(device.at("SerialNo").value(), key.attr("Id")),
		Manufacturer: strings.Join(strings.Fields(device.at("Manufacturer").value()), " "),
		Model:        strings.Join(strings.Fields(device.at("Model").value()), " "),
	}
	if err := part.flaw(); err != nil {
		return t, err
	}
	if err := algorithm(&t, key); err != nil {
		return t, err
	}
	if err := moving(&t, key.at("Data")); err != nil {
		return t, err
	}
	if err := policy(&t, key.at("Policy")); err != nil {
		return t, err
	}
	if err := dates(&t, device, key.at("Policy")); err != nil {
		return t, err
	}
	var err error
	t.Secret, err = secrets.secret(key.at("Data", "Secret"))
	return t, err
}

// algorithm reads how a token makes its codes. The URN of HOTP is of RFC 6030 section 10.1; those of TOTP and OCRA are of
// draft-hoyer-keyprov-pskc-algorithm-profiles, which writes '#' where makers write ':', and has the suite in the URN where makers have it in <Suite>.
func algorithm(t *Token, key *element) (err error) {
	parameters := key.at("AlgorithmParameters")
	suite := parameters.at("Suite").value()
	response := parameters.at("ResponseFormat")
	urn := key.attr("Algorithm")
	name, ours := strings.CutPrefix(urn, pskc)
	switch name = strings.TrimLeft(name, ":#"); {
	case !ours:
		name = ""
	case name == "hotp", name == "totp":
		t.Algorithm = oath.Algorithm(name)
		if t.Hash, err = hashOf(suite); err != nil {
			return err
		}
		if t.Digits, err = strconv.Atoi(response.attr("Length")); err != nil {
			return errors.New("<ResponseFormat> has no Length, which is the number of digits")
		}
	case name == "ocra", name == "OCRA-1":
		t.Algorithm, t.Suite = oath.OCRA, suite
	case strings.HasPrefix(name, "OCRA-1:"):
		if t.Algorithm, t.Suite = oath.OCRA, name; suite != "" && suite != name {
			return errors.New("<Suite> is another than that of the Algorithm")
		}
	default:
		name = ""
	}
	if name == "" {
		return fmt.Errorf("algorithm %.100q is not supported", urn)
	}
	if encoding := response.attr("Encoding"); response != nil && encoding != "DECIMAL" {
		return fmt.Errorf("codes are %.20q, want DECIMAL", encoding)
	}
	for _, format := range []*element{response, parameters.at("ChallengeFormat")} {
		if digit := format.attr("CheckDigits"); digit != "" && digit != "false" && digit != "0" {
			return errors.New("check digits are not supported")
		}
	}
	return nil
}

// moving reads where the counter or clock of a token stands.
func moving(t *Token, data *element) (err error) {
	if t.Algorithm != oath.TOTP {
		if t.Counter, err = number(data, "Counter", 0); err != nil || t.Algorithm == oath.HOTP {
			return err
		}
	}
	// RFC 6030 leaves open whether Time is where steps are counted from or how many have gone by.
	if begin, err := number(data, "Time", 0); err != nil || begin != 0 {
		return cmp.Or(err, errors.New("<Time> is not 0, which is not supported"))
	}
	drift, err := number(data, "TimeDrift", 0)
	if err != nil {
		return err
	}
	t.Drift = int(drift)
	if t.Algorithm == oath.TOTP {
		seconds, err := number(data, "TimeInterval", 30)
		t.Period = time.Duration(min(max(seconds, 0), maxSeconds)) * time.Second
		return err
	}
	return nil
}

// number reads a number in clear.
func number(data *element, name string, missing int64) (int64, error) {
	e := data.at(name)
	if e == nil {
		return missing, nil
	}
	plain := e.at("PlainValue")
	if plain == nil {
		return 0, fmt.Errorf("<%s> is not in clear, which is not supported", name)
	}
	n, err := strconv.ParseInt(plain.text, 10, 64)
	if err != nil {
		return 0, fmt.Errorf("<%s> is not a whole number", name)
	}
	return n, nil
}

// policy sees to it that a key may be used here. Who does not know a part of a policy must take it for a ban (RFC 6030 section 5).
func policy(t *Token, policy *element) error {
	if policy == nil {
		return nil
	}
	usage := "OTP"
	if t.Algorithm == oath.OCRA {
		usage = "CR"
	}
	restricted, permitted := false, false
	for _, child := range policy.children {
		switch child.Name {
		case xml.Name{Space: pskc, Local: "StartDate"}, xml.Name{Space: pskc, Local: "ExpiryDate"}:
		case xml.Name{Space: pskc, Local: "KeyUsage"}:
			restricted, permitted = true, permitted || child.text == usage
		case xml.Name{Space: pskc, Local: "PINPolicy"}:
			if err := pinPolicy(child); err != nil {
				return err
			}
		case xml.Name{Space: pskc, Local: "NumberOfTransactions"}:
			return errors.New("the policy bounds how often the key is used, which is not supported")
		default:
			return fmt.Errorf("<%.40s> of the policy is not known, so the key must not be used", child.Name.Local)
		}
	}
	if restricted && !permitted {
		return fmt.Errorf("the policy does not permit the use %s", usage)
	}
	return nil
}

// pinPolicy takes the policy of a PIN that the token asks for itself, and that nobody else hears of.
func pinPolicy(pin *element) error {
	if pin.attr("PINUsageMode") != "Local" {
		return errors.New("the policy asks for a PIN, which is not supported")
	}
	known := []string{"PINKeyId", "PINUsageMode", "MaxFailedAttempts", "MinLength", "MaxLength", "PINEncoding"}
	unknown := func(attr xml.Attr) bool {
		return attr.Name.Space != "xmlns" && attr.Name.Local != "xmlns" && (attr.Name.Space != "" || !slices.Contains(known, attr.Name.Local))
	}
	if len(pin.children) > 0 || slices.ContainsFunc(pin.Attr, unknown) {
		return errors.New("a part of <PINPolicy> is not known, so the key must not be used")
	}
	return nil
}

// dates reads from when to when a token may be used: as long as both the device and the key may.
func dates(t *Token, parts ...*element) error {
	for _, part := range parts {
		starts, err := date(part.at("StartDate"))
		if err != nil {
			return err
		}
		expires, err := date(part.at("ExpiryDate"))
		if err != nil {
			return err
		}
		if starts.After(t.Starts) {
			t.Starts = starts
		}
		if !expires.IsZero() && (t.Expires.IsZero() || expires.Before(t.Expires)) {
			t.Expires = expires
		}
	}
	return nil
}

// date reads an xs:dateTime. One without a zone is UTC, as all are to be.
func date(e *element) (time.Time, error) {
	if e == nil {
		return time.Time{}, nil
	}
	when, err := time.Parse(time.RFC3339, e.text)
	if err != nil {
		when, err = time.Parse("2006-01-02T15:04:05", e.text)
	}
	when = when.UTC()
	if err != nil || when.Year() < 1970 || when.Year() > 9999 {
		return time.Time{}, fmt.Errorf("<%s> is not a time such as 2006-05-31T00:00:00Z", e.Name.Local)
	}
	return when, nil
}
