package tokenfile

import (
	"encoding/hex"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/sekisho/sekisho/services/internal/oath"
)

var hexSeed = hex.EncodeToString([]byte(seed))

func TestCSV(t *testing.T) {
	file := "\ufeff# maker's note, with a \" in it\r\n" +
		"H1," + hexSeed + ",HOTP,6,42\r\n" +
		"\r\n" +
		" H2 , " + strings.ToUpper(hexSeed) + " , hotp , 8 , , sha256 ,,\r\n" +
		"T1," + hexSeed + ",TOTP,8,60,HMAC-SHA512\r\n" +
		"  # T0," + hexSeed + ",TOTP\r\n" +
		",,,\r\n" +
		"T2," + hexSeed + ",totp\r\n" +
		"\"O,1\"," + hexSeed + ",ocra,OCRA-1:HOTP-SHA1-6:C-QN08,7"
	tokens, problems, err := CSV([]byte(file))
	if err != nil || len(problems) != 0 {
		t.Fatalf("%+v, %v", problems, err)
	}
	secret := []byte(seed)
	want := []Token{
		{Token: oath.Token{Algorithm: oath.HOTP, Hash: oath.SHA1, Digits: 6, Secret: secret}, Line: 2, Serial: "H1", Counter: 42},
		{Token: oath.Token{Algorithm: oath.HOTP, Hash: oath.SHA256, Digits: 8, Secret: secret}, Line: 4, Serial: "H2"},
		{Token: oath.Token{Algorithm: oath.TOTP, Hash: oath.SHA512, Digits: 8, Period: time.Minute, Secret: secret}, Line: 5, Serial: "T1"},
		{Token: oath.Token{Algorithm: oath.TOTP, Hash: oath.SHA1, Digits: 6, Period: 30 * time.Second, Secret: secret}, Line: 8, Serial: "T2"},
		{Token: oath.Token{Algorithm: oath.OCRA, Suite: "OCRA-1:HOTP-SHA1-6:C-QN08", Secret: secret}, Line: 9, Serial: "O,1", Counter: 7},
	}
	if !reflect.DeepEqual(tokens, want) {
		t.Fatalf("%+v\nwant %+v", tokens, want)
	}
}

func TestLinesThatAreLeftOut(t *testing.T) {
	const noSeed = "the second column is not a seed of at least 16 bytes in hex"
	for name, tt := range map[string]struct{ line, serial, want string }{
		"title":               {"serial,seed,type", "", noSeed},
		"one column":          {"1;" + hexSeed + ";HOTP", "", noSeed},
		"mixed up":            {hexSeed + ",1,HOTP,6,0", "", noSeed},
		"no hex":              {"1," + strings.Repeat("x", 40) + ",HOTP,6,0", "", noSeed},
		"odd":                 {"1," + hexSeed + "0,HOTP,6,0", "", noSeed},
		"short":               {"1," + hexSeed[:30] + ",HOTP,6,0", "", noSeed},
		"long":                {"1," + strings.Repeat("00", 129) + ",HOTP,6,0", "1", "a secret of 129 bytes, want 16 to 128"},
		"other type":          {"1," + hexSeed + ",YUBIKEY,6,0", "1", "the third column is none of HOTP, TOTP and OCRA"},
		"digits":              {"1," + hexSeed + ",HOTP,six,0", "1", "the fourth column is not a whole number"},
		"five digits":         {"1," + hexSeed + ",HOTP,5,0", "1", "codes of 5 digits, want 6 to 10"},
		"eleven digits":       {"1," + hexSeed + ",TOTP,11,30", "1", "codes of 11 digits, want 6 to 10"},
		"counter":             {"1," + hexSeed + ",HOTP,6,-1", "1", "the fifth column is not a whole number"},
		"counter without end": {"1," + hexSeed + ",HOTP,6,9007199254740992", "1", "the fifth column is not a whole number"},
		"seconds":             {"1," + hexSeed + ",TOTP,6,9", "1", "want whole seconds from 10s to 2m0s"},
		"no seconds":          {"1," + hexSeed + ",TOTP,6,0", "1", "without its period"},
		"seconds without end": {"1," + hexSeed + ",TOTP,6,9007199254740991", "1", "want whole seconds from 10s to 2m0s"},
		"hash":                {"1," + hexSeed + ",TOTP,6,30,MD5", "1", "the hash function is none of SHA1, SHA256 and SHA512"},
		"seven columns":       {"1," + hexSeed + ",TOTP,6,30,SHA1,x", "1", "there are more than 6 columns"},
		"no suite":            {"1," + hexSeed + ",OCRA", "1", "no OCRA suite"},
		"other suite":         {"1," + hexSeed + ",OCRA,6", "1", "no OCRA suite"},
		"OCRA's counter":      {"1," + hexSeed + ",OCRA,OCRA-1:HOTP-SHA1-6:C-QN08,x", "1", "the fifth column is not a whole number"},
		"OCRA's hash":         {"1," + hexSeed + ",OCRA,OCRA-1:HOTP-SHA1-6:C-QN08,0,SHA1", "1", "there are more than 5 columns"},
		"no serial number":    {"," + hexSeed + ",HOTP,6,0", "", "there is no serial number"},
		"slash":               {"1/2," + hexSeed + ",HOTP,6,0", "", "printable characters without '/'"},
		"not UTF-8":           {"\xff," + hexSeed + ",HOTP,6,0", "", "printable characters without '/'"},
		"again":               {"other," + hexSeed + ",HOTP,6,0", "other", "line 1 has this serial number already"},
	} {
		t.Run(name, func(t *testing.T) {
			tokens, problems, err := CSV([]byte("other," + hexSeed + ",HOTP,6,0\n" + tt.line + "\n" + "last," + hexSeed + ",HOTP,6,0"))
			if err != nil || len(tokens) != 2 || tokens[0].Serial != "other" || tokens[1].Serial != "last" {
				t.Fatalf("%+v, %v, want the other tokens", tokens, err)
			}
			if len(problems) != 1 || problems[0].Line != 2 || problems[0].Serial != tt.serial || !strings.Contains(problems[0].Error, tt.want) {
				t.Fatalf("%+v, want %q of line 2", problems, tt.want)
			}
			if strings.Contains(fmt.Sprint(problems), hexSeed[:20]) {
				t.Fatal("the problem says the seed")
			}
		})
	}
}

func TestCSVThatCanNotBeRead(t *testing.T) {
	for name, tt := range map[string]struct{ data, want string }{
		"empty":     {"", "holds no tokens"},
		"comments":  {"# a\n\n#b\n", "holds no tokens"},
		"quote":     {"1," + hexSeed + ",HOTP\n2,\"" + hexSeed + ",HOTP\n3," + hexSeed + ",HOTP\n", "line 2: "},
		"bare mark": {"1," + hexSeed + ",HOTP\n2,a\"b,HOTP\n", "line 2: "},
	} {
		t.Run(name, func(t *testing.T) {
			tokens, problems, err := CSV([]byte(tt.data))
			if err == nil || !strings.HasPrefix(err.Error(), "tokenfile: ") || !strings.Contains(err.Error(), tt.want) || tokens != nil || problems != nil {
				t.Fatalf("%+v, %+v, %v, want %q", tokens, problems, err, tt.want)
			}
			if strings.Contains(err.Error(), hexSeed[:20]) {
				t.Fatal("the error says the seed")
			}
		})
	}
}

func FuzzCSV(f *testing.F) {
	f.Add([]byte("\ufeff# a\nH1," + hexSeed + ",HOTP,6,42\nT1," + hexSeed + ",TOTP,8,60,SHA256\nO1," + hexSeed + ",OCRA,OCRA-1:HOTP-SHA1-6:C-QN08,7"))
	f.Add([]byte("\"a\nb\"," + hexSeed + ",HOTP\n1,\""))
	f.Fuzz(func(t *testing.T, data []byte) {
		tokens, problems, err := CSV(data)
		checkAll(t, tokens, problems, err)
	})
}

// A file that is not a delivery costs no more memory than one that is.
func TestTooManyTokens(t *testing.T) {
	for name, file := range map[string]string{
		"lines":   strings.Repeat("a\n", maxTokens+1),
		"columns": strings.Repeat(",", 8*maxTokens+1) + "a",
	} {
		if _, problems, err := CSV([]byte(file)); err != errTooMany || problems != nil {
			t.Errorf("%s: %d problems, %v, want %v", name, len(problems), err, errTooMany)
		}
	}
	if _, problems, err := CSV([]byte(strings.Repeat("a\n", maxTokens))); err != nil || len(problems) != maxTokens {
		t.Errorf("as many as may be: %d problems, %v", len(problems), err)
	}
	if _, problems, err := PSKC([]byte(packages(strings.Repeat("<KeyPackage/>", maxTokens+1))), ""); err != errTooMany || problems != nil {
		t.Errorf("packages: %d problems, %v, want %v", len(problems), err, errTooMany)
	}
}
