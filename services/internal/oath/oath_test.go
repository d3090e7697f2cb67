package oath

import (
	"strconv"
	"strings"
	"testing"
	"time"
)

const digits64 = "1234567890123456789012345678901234567890123456789012345678901234"

// The secrets of the vectors of RFC 6238 appendix B and RFC 6287 appendix C, as long as the hash.
var secrets = map[Hash][]byte{SHA1: []byte(digits64[:20]), SHA256: []byte(digits64[:32]), SHA512: []byte(digits64)}

// RFC 4226 appendix D.
func TestHOTP(t *testing.T) {
	token := Token{Algorithm: HOTP, Hash: SHA1, Digits: 6, Secret: secrets[SHA1]}
	for i, want := range strings.Fields("755224 287082 359152 969429 338314 254676 287922 162583 399871 520489") {
		if got, err := token.Code(int64(i), "", ""); got != want || err != nil {
			t.Errorf("event %d: %s %v, want %s", i, got, err, want)
		}
	}
}

// RFC 6238 appendix B.
func TestTOTP(t *testing.T) {
	for at, codes := range map[int64]string{
		59: "94287082 46119246 90693936", 1111111109: "07081804 68084774 25091201", 1111111111: "14050471 67062674 99943326",
		1234567890: "89005924 91819424 93441116", 2000000000: "69279037 90698825 38618901", 20000000000: "65353130 77737706 47863826",
	} {
		for i, hash := range []Hash{SHA1, SHA256, SHA512} {
			token, want := Token{Algorithm: TOTP, Hash: hash, Digits: 8, Period: 30 * time.Second, Secret: secrets[hash]}, strings.Fields(codes)[i]
			if got, err := token.Code(at/30, "", ""); got != want || err != nil {
				t.Errorf("%s at %d: %s %v, want %s", hash, at, got, err, want)
			}
			if _, ok := token.Check(Typed{Code: want}, State{}, time.Unix(at, 0), 10); !ok {
				t.Errorf("%s at %d: %s is refused", hash, at, want)
			}
		}
	}
}

// RFC 6287 appendix C. The PIN is 1234, and the time 12:06 UTC on 25 March 2008.
func TestOCRA(t *testing.T) {
	same := func(i int) string { return strings.Repeat(strconv.Itoa(i), 8) }
	counted := func(int) string { return "12345678" }
	letters := func(text string) func(int) string { // a number in the text goes up
		return func(i int) string { return strings.ReplaceAll(text, "#", strconv.Itoa(i)) }
	}
	for _, c := range []struct {
		suite    string
		first    int
		question func(int) string
		codes    string
	}{
		{"OCRA-1:HOTP-SHA1-6:QN08", 0, same, "237653 243178 653583 740991 608993 388898 816933 224598 750600 294470"},
		{"OCRA-1:HOTP-SHA256-8:C-QN08-PSHA1", 0, counted, "65347737 86775851 78192410 71565254 10104329 65983500 70069104 91771096 75011558 08522129"},
		{"OCRA-1:HOTP-SHA256-8:QN08-PSHA1", 0, same, "83238735 01501458 17957585 86776967 86807031"},
		{"OCRA-1:HOTP-SHA512-8:C-QN08", 0, same, "07016083 63947962 70123924 25341727 33203315 34205738 44343969 51946085 20403879 31409299"},
		{"OCRA-1:HOTP-SHA512-8:QN08-T1M", 0, same, "95209754 55907591 22048402 24218844 36209546"},
		{"OCRA-1:HOTP-SHA256-8:QA08", 0, letters("CLI2222#SRV1111#"), "28247970 01984843 65387857 03351211 83412541"},
		{"OCRA-1:HOTP-SHA256-8:QA08", 0, letters("SRV1111#CLI2222#"), "15510767 90175646 33777207 95285278 28934924"},
		{"OCRA-1:HOTP-SHA512-8:QA08-PSHA1", 0, letters("SRV1111#CLI2222#"), "18806276 70020315 01600026 18951020 32528969"},
		{"OCRA-1:HOTP-SHA256-8:QA08", 0, letters("SIG1#000"), "53095496 04110475 31331128 76028668 46554205"},
	} {
		suite, err := ParseSuite(c.suite)
		if err != nil {
			t.Error(err)
			continue
		}
		token := Token{Algorithm: OCRA, Suite: c.suite, Secret: secrets[suite.hash]}
		for i, want := range strings.Fields(c.codes) {
			moment := int64(i)
			if suite.step != 0 {
				moment = 0x132d0b6
			}
			if got, err := token.Code(moment, c.question(i), "1234"); got != want || err != nil {
				t.Errorf("%s, %s: %s %v, want %s", c.suite, c.question(i), got, err, want)
			}
		}
	}
}

func TestBadQuestions(t *testing.T) {
	for kind, questions := range map[string][]string{
		"N": {"", "-1234567", "1234a678", strings.Repeat("9", 17)},
		"H": {"", "1234567g", strings.Repeat("f", 17)},
		"A": {"", strings.Repeat("z", 17), strings.Repeat("z", 300)},
	} {
		token := Token{Algorithm: OCRA, Suite: "OCRA-1:HOTP-SHA1-6:Q" + kind + "08", Secret: secrets[SHA1]}
		for _, question := range questions {
			if code, err := token.Code(0, question, ""); err == nil {
				t.Errorf("%q of the kind %s: code %s", question, kind, code)
			}
		}
	}
}

func TestParseSuite(t *testing.T) {
	for _, bad := range []string{
		"", "OCRA-2:HOTP-SHA1-6:QN08", "OCRA-1:HOTP-MD5-6:QN08", "OCRA-1:HOTP-SHA1-6:C", "OCRA-1:HOTP-SHA1-0:QN08", "OCRA-1:HOTP-SHA1-5:QN08",
		"OCRA-1:HOTP-SHA1-6:QN03", "OCRA-1:HOTP-SHA1-6:QN65", "OCRA-1:HOTP-SHA1-6:QN08-S064", "OCRA-1:HOTP-SHA1-6:C-QN08-T1M", "OCRA-1:HOTP-SHA1-6:QN08-T0M",
		"OCRA-1:HOTP-SHA1-6:QN08\n",
	} {
		if _, err := ParseSuite(bad); err == nil {
			t.Errorf("%q is taken", bad)
		}
	}
}

func FuzzParseSuite(f *testing.F) {
	f.Add("OCRA-1:HOTP-SHA256-8:C-QN08-PSHA1")
	f.Add("OCRA-1:HOTP-SHA512-10:QH64-T48H")
	f.Fuzz(func(t *testing.T, text string) {
		suite, err := ParseSuite(text)
		if err != nil {
			return
		}
		token := Token{Algorithm: OCRA, Suite: text, Secret: secrets[SHA1]}
		code, err := token.Code(1, strings.Repeat("9", suite.Question()), "1234")
		if err != nil || len(code) != suite.digits {
			t.Errorf("%q: code %q, %v", text, code, err)
		}
	})
}

func TestValid(t *testing.T) {
	hotp := Token{Algorithm: HOTP, Hash: SHA1, Digits: 6, Secret: secrets[SHA1]}
	totp := Token{Algorithm: TOTP, Hash: SHA256, Digits: 8, Period: time.Minute, Secret: secrets[SHA256]}
	ocra := Token{Algorithm: OCRA, Suite: "OCRA-1:HOTP-SHA1-6:QN08-T1M", Secret: secrets[SHA1]}
	for name, c := range map[string]struct {
		of     Token
		change func(*Token)
		ok     bool
	}{
		"HOTP":           {hotp, func(*Token) {}, true},
		"TOTP":           {totp, func(*Token) {}, true},
		"OCRA":           {ocra, func(*Token) {}, true},
		"ten digits":     {hotp, func(t *Token) { t.Digits = 10 }, true},
		"no algorithm":   {hotp, func(t *Token) { t.Algorithm = "" }, false},
		"no hash":        {hotp, func(t *Token) { t.Hash = "MD5" }, false},
		"five digits":    {hotp, func(t *Token) { t.Digits = 5 }, false},
		"eleven digits":  {hotp, func(t *Token) { t.Digits = 11 }, false},
		"short secret":   {hotp, func(t *Token) { t.Secret = t.Secret[:15] }, false},
		"long secret":    {hotp, func(t *Token) { t.Secret = make([]byte, 129) }, false},
		"no period":      {totp, func(t *Token) { t.Period = 0 }, false},
		"short period":   {totp, func(t *Token) { t.Period = 9 * time.Second }, false},
		"long period":    {totp, func(t *Token) { t.Period = 121 * time.Second }, false},
		"odd period":     {totp, func(t *Token) { t.Period = 30*time.Second + time.Millisecond }, false},
		"no suite":       {ocra, func(t *Token) { t.Suite = "" }, false},
		"an hour's code": {ocra, func(t *Token) { t.Suite = "OCRA-1:HOTP-SHA1-6:QN08-T1H" }, false},
	} {
		c.change(&c.of)
		if err := c.of.Valid(); (err == nil) != c.ok {
			t.Errorf("%s: %v", name, err)
		}
	}
}
