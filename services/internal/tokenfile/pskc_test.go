package tokenfile

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hmac"
	"crypto/pbkdf2"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"os"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/sekisho/sekisho/services/internal/oath"
)

const (
	seed       = "12345678901234567890"             // of the RFCs
	preShared  = "12345678901234567890123456789012" // of RFC 6030 figure 6, in hex
	passPhrase = "qwerty"                           // of RFC 6030 figure 7
)

// figure is a figure of RFC 6030.
func figure(t testing.TB, number int) []byte {
	t.Helper()
	data, err := os.ReadFile(fmt.Sprintf("testdata/figure%d.xml", number))
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func day(year int, month time.Month, day int) time.Time {
	return time.Date(year, month, day, 0, 0, 0, 0, time.UTC)
}

func hotp(line int, serial, maker string, digits int) Token {
	return Token{Token: oath.Token{Algorithm: oath.HOTP, Hash: oath.SHA1, Digits: digits, Secret: []byte(seed)}, Line: line, Serial: serial, Manufacturer: maker}
}

func TestFiguresOfRFC6030(t *testing.T) {
	bulk := func(line int, serial string, month time.Month, last int) Token {
		token := hotp(line, serial, "TokenVendorAcme", 8)
		token.Starts, token.Expires = day(2006, month, 1), day(2006, month, last)
		return token
	}
	for _, tt := range []struct {
		figure   int
		key      string
		tokens   []Token
		problems []Problem
	}{
		{2, "", nil, []Problem{{5, "12345678", "<ResponseFormat> has no Length, which is the number of digits"}}},
		{3, "", []Token{hotp(5, "987654321", "Manufacturer", 8)}, nil},
		{4, "", nil, []Problem{{5, "987654321", "there is no <Secret>"}}},
		{5, "", []Token{hotp(5, "987654321", "Manufacturer", 8)},
			[]Problem{{36, "987654321", `algorithm "urn:ietf:params:xml:ns:keyprov:pskc:pin" is not supported`}}},
		{6, preShared, []Token{hotp(20, "987654321", "Manufacturer", 8)}, nil},
		{7, passPhrase, []Token{hotp(40, "987654321", "TokenVendorAcme", 8)}, nil},
		{9, "", []Token{hotp(7, "0755225266", "TokenVendorAcme", 6)}, nil},
		{10, "", []Token{bulk(4, "654321", time.May, 31), bulk(31, "123456", time.May, 31), bulk(58, "9999999", time.March, 31)},
			[]Problem{{85, "9999999", "line 58 has this serial number already"}}},
	} {
		t.Run(fmt.Sprint(tt.figure), func(t *testing.T) {
			tokens, problems, err := PSKC(figure(t, tt.figure), tt.key)
			if err != nil {
				t.Fatal(err)
			}
			if !reflect.DeepEqual(tokens, tt.tokens) {
				t.Errorf("tokens %+v\nwant   %+v", tokens, tt.tokens)
			}
			if !reflect.DeepEqual(problems, tt.problems) {
				t.Errorf("problems %+v\nwant     %+v", problems, tt.problems)
			}
		})
	}
}

func TestFilesThatCanNotBeRead(t *testing.T) {
	six, seven := string(figure(t, 6)), string(figure(t, 7))
	three := string(figure(t, 3))
	for name, tt := range map[string]struct{ data, key, want string }{
		"empty":               {"", "", "line 1: the file ends without a KeyContainer"},
		"CSV":                 {"1,2,HOTP\n3,4,HOTP\n", "", "line 3: the file ends without a KeyContainer"},
		"ends early":          {three[:len(three)-20], "", "line 31: not XML"},
		"not XML":             {strings.Replace(three, "</DeviceInfo>", "</Device>", 1), "", "line 10: not XML"},
		"document type":       {"<!DOCTYPE x [<!ENTITY a 'b'>]>\n" + three[39:], "", "line 1: a document type"},
		"inside":              {strings.Replace(three, "<Issuer>", "<!DOCTYPE x><Issuer>", 1), "", "line 16: a document type"},
		"entity":              {strings.Replace(three, ">Issuer<", ">&a;<", 1), "", "line 16: not XML"},
		"character set":       {strings.Replace(three, "UTF-8", "Shift_JIS", 1), "", "line 1: not XML in UTF-8"},
		"namespace":           {strings.Replace(three, "keyprov:pskc\"", "keyprov:pskc:1.0\"", 1), "", "line 2: want <KeyContainer> of the namespace urn"},
		"no namespace":        {"<KeyContainer Version='1.0'/>", "", "line 1: want <KeyContainer>"},
		"version":             {strings.Replace(three, `Version="1.0"`, `Version="2.0"`, 1), "", `line 2: it is of version "2.0"`},
		"other part":          {strings.ReplaceAll(three, "KeyPackage>", "Device>"), "", "line 5: <Device> of the namespace"},
		"other namespace":     {strings.Replace(three, "<KeyPackage>", "<KeyPackage xmlns=''>", 1), "", `line 5: <KeyPackage> of the namespace "" is not known`},
		"second container":    {three + three[39:], "", "line 33: the file goes on"},
		"no tokens":           {"<KeyContainer Version='1.0' xmlns='" + pskc + "'/>", "", "holds no tokens"},
		"deep":                {strings.Replace(three, ">Issuer<", ">"+strings.Repeat("<a>", 40)+strings.Repeat("</a>", 40)+"<", 1), "", "line 16: more than 1000"},
		"wide":                {strings.Replace(three, ">Issuer<", ">"+strings.Repeat("<a/>", 1000)+"<", 1), "", "line 16: more than 1000"},
		"no key":              {six, "", "line 6: the file is encrypted"},
		"no phrase":           {seven, "", "line 8: the file is encrypted"},
		"another key":         {six, strings.Repeat("0", 32), "line 10: the MAC key can not be decrypted"},
		"another phrase":      {seven, "Qwerty", "line 30: the MAC key can not be decrypted"},
		"another key's size":  {six, strings.Repeat("0", 64), "so the key given may be wrong: the key has 32 bytes, want 16"},
		"phrase for a key":    {six, passPhrase, "line 6: the file has a pre-shared key"},
		"short key":           {six, "1234", "line 6: the file has a pre-shared key, and the one given is not of 16, 24 or 32 bytes"},
		"X.509":               {string(figure(t, 8)), preShared, "line 8: encryption under <X509Data> is not supported"},
		"MAC":                 {strings.Replace(six, "hmac-sha1", "hmac-md5", 1), preShared, `line 9: MAC "http://www.w3.org/2000/09/xmldsig#hmac-md5" is not supported`},
		"MAC without key":     {strings.NewReplacer("<MACKey>", "<Other>", "</MACKey>", "</Other>").Replace(six), preShared, "line 9: a <MACMethod> without <MACKey>"},
		"wrong MACs":          {strings.Replace(six, "Su+N", "Su+M", 1), preShared, "no ValueMAC of the file is right"},
		"changed secret":      {strings.Replace(six, "AAEC", "ABEC", 1), preShared, "no ValueMAC of the file is right"},
		"two keys":            {strings.Replace(six, "<MACMethod", "<EncryptionKey/><MACMethod", 1), preShared, "line 9: <EncryptionKey> stands twice"},
		"key behind":          {strings.Replace(six, "</KeyContainer>", "<EncryptionKey/></KeyContainer>", 1), preShared, "line 54: <EncryptionKey> stands twice, or"},
		"first key behind":    {packages(otherPackage, "<EncryptionKey/>"), "", "line 5: <EncryptionKey> stands twice, or behind a token"},
		"two MAC keys":        {strings.Replace(six, "<MACKey>", "<MACKey/><MACKey>", 1), preShared, "line 9: <MACKey> stands twice"},
		"derivation":          {strings.Replace(seven, "#pbkdf2", "#pbkdf1", 1), passPhrase, "line 8: key derivation"},
		"no salt":             {strings.Replace(seven, "Ej7/PEpyEpw=", "", 1), passPhrase, "line 8: PBKDF2 has no <Salt>"},
		"two salts":           {strings.Replace(seven, "<Salt>", "<Salt/><Salt>", 1), passPhrase, "line 8: <Salt> stands twice"},
		"no iterations":       {strings.Replace(seven, ">1000<", ">0<", 1), passPhrase, "line 8: <IterationCount> of PBKDF2 is not 1 to 1000000"},
		"too many iterations": {strings.Replace(seven, ">1000<", ">1000001<", 1), passPhrase, "line 8: <IterationCount> of PBKDF2 is not 1 to 1000000"},
		"key length":          {strings.Replace(seven, ">16<", ">8<", 1), passPhrase, "line 8: <KeyLength> of PBKDF2"},
		"PRF":                 {strings.Replace(seven, "<PRF/>", "<PRF Algorithm='md5'/>", 1), passPhrase, `line 8: <PRF> "md5" of PBKDF2 is not supported`},
	} {
		t.Run(name, func(t *testing.T) {
			tokens, problems, err := PSKC([]byte(tt.data), tt.key)
			if err == nil || !strings.HasPrefix(err.Error(), "tokenfile: ") || !strings.Contains(err.Error(), tt.want) {
				t.Fatalf("%v, want %q", err, tt.want)
			}
			if tokens != nil || problems != nil {
				t.Fatalf("beside the error there are %d tokens and %d problems", len(tokens), len(problems))
			}
		})
	}
}

// Of a file with one token that can not be used the other is read all the same.
func TestTokensThatAreLeftOut(t *testing.T) {
	for name, tt := range map[string]struct{ old, new, want string }{
		"no serial number": {`<SerialNo>1</SerialNo><Model>T 1</Model></DeviceInfo>
<Key Id="k"`, "<SerialNo/></DeviceInfo><Key", "there is no serial number"},
		"slash":                {"<SerialNo>1<", "<SerialNo>1/2<", "printable characters without '/'"},
		"dots":                 {"<SerialNo>1<", "<SerialNo>..<", "printable characters without '/'"},
		"long serial number":   {"<SerialNo>1<", "<SerialNo>" + strings.Repeat("1", 65) + "<", "1 to 64 printable characters"},
		"line break":           {"<SerialNo>1<", "<SerialNo>1\n2<", "printable characters"},
		"long maker":           {"<Manufacturer>A", "<Manufacturer>" + strings.Repeat("A", 65), "manufacturer or model"},
		"two serial numbers":   {"<SerialNo>", "<SerialNo>2</SerialNo><SerialNo>", "<SerialNo> stands twice"},
		"two secrets":          {"<Secret>", "<Secret><PlainValue>AAAA</PlainValue></Secret><Secret>", "<Secret> stands twice"},
		"two keys":             {"<Data>", "<Data/></Key><Key><Data>", "<Key> stands twice"},
		"two values":           {"</PlainValue></Secret>", "</PlainValue><EncryptedValue/></Secret>", "both in clear and encrypted"},
		"other namespace":      {"<Policy>", "<Policy xmlns=''>", "<Policy> is not of the namespace urn:ietf:params:xml:ns:keyprov:pskc"},
		"mixed":                {"<PlainValue>MTIz", "<PlainValue>MTIz<a/>", "<PlainValue> mixes text and elements"},
		"no secret":            {"<Secret><PlainValue>MTIzNDU2Nzg5MDEyMzQ1Njc4OTA=</PlainValue></Secret>", "", "there is no <Secret>"},
		"not Base64":           {"MTIzNDU2", "MTIz*DU2", "<PlainValue> is not Base64"},
		"short":                {"MTIzNDU2Nzg5MDEyMzQ1Njc4OTA=", "MTIzNDU2Nzg5MDEyMzQ1", "a secret of 15 bytes, want 16 to 128"},
		"encrypted":            {"<PlainValue>MTIzNDU2Nzg5MDEyMzQ1Njc4OTA=</PlainValue></Secret>", "<EncryptedValue/></Secret>", "encrypted, and no key is given"},
		"algorithm":            {":totp", ":totp2", `algorithm "urn:ietf:params:xml:ns:keyprov:pskc:totp2" is not supported`},
		"no algorithm":         {pskc + ":totp", "", `algorithm "" is not supported`},
		"bare namespace":       {pskc + ":totp", pskc, "is not supported"},
		"other algorithm":      {pskc + ":totp", "http://www.yubico.com/#yubikey-aes", `algorithm "http://www.yubico.com/#yubikey-aes" is not supported`},
		"hash":                 {"HMAC-SHA256", "HMAC-MD5", "the hash function is none of"},
		"no length":            {`Length="8" `, "", "<ResponseFormat> has no Length"},
		"no format":            {`<ResponseFormat Length="8" Encoding="DECIMAL"/>`, "", "<ResponseFormat> has no Length"},
		"few digits":           {`Length="8"`, `Length="5"`, "codes of 5 digits, want 6 to 10"},
		"many digits":          {`Length="8"`, `Length="11"`, "codes of 11 digits, want 6 to 10"},
		"encoding":             {`"DECIMAL"`, `"HEXADECIMAL"`, `codes are "HEXADECIMAL", want DECIMAL`},
		"check digits":         {`"DECIMAL"`, `"DECIMAL" CheckDigits="true"`, "check digits"},
		"question's digits":    {"<ResponseFormat", `<ChallengeFormat CheckDigits="1"/><ResponseFormat`, "check digits"},
		"short step":           {"<PlainValue>60<", "<PlainValue>9<", "want whole seconds from 10s to 2m0s"},
		"long step":            {"<PlainValue>60<", "<PlainValue>121<", "want whole seconds from 10s to 2m0s"},
		"step without end":     {"<PlainValue>60<", "<PlainValue>9223372036854775807<", "want whole seconds from 10s to 2m0s"},
		"step round the end":   {"<PlainValue>60<", "<PlainValue>36028797018964028<", "want whole seconds from 10s to 2m0s"}, // 2⁵⁵ + 60
		"step backwards":       {"<PlainValue>60<", "<PlainValue>-9223372036854775808<", "without its period"},
		"step":                 {"<PlainValue>60<", "<PlainValue>1m<", "<TimeInterval> is not a whole number"},
		"other epoch":          {"<PlainValue>0<", "<PlainValue>1136073600<", "<Time> is not 0"},
		"drift":                {"<PlainValue>-4<", "<PlainValue>-1001<", "the clock is off by more than 1000 steps"},
		"drift without end":    {"<PlainValue>-4<", "<PlainValue>9223372036854775807<", "the clock is off by more than 1000 steps"},
		"encrypted drift":      {"<PlainValue>-4</PlainValue>", "<EncryptedValue/>", "<TimeDrift> is not in clear"},
		"usage":                {">OTP<", ">CR<", "the policy does not permit the use OTP"},
		"unknown policy":       {"<Policy>", "<Policy><OnWeekDays/>", "<OnWeekDays> of the policy is not known, so the key must not be used"},
		"foreign policy":       {"<Policy>", "<Policy><StartDate xmlns='urn:x'/>", "<StartDate> is not of the namespace"},
		"extended policy":      {"<Policy>", "<Policy><Extensions/>", "<Extensions> of the policy is not known"},
		"transactions":         {"<Policy>", "<Policy><NumberOfTransactions>9</NumberOfTransactions>", "bounds how often"},
		"PIN":                  {"<Policy>", `<Policy><PINPolicy PINUsageMode="Prepend"/>`, "the policy asks for a PIN, which is not supported"},
		"PIN of no mode":       {"<Policy>", `<Policy><PINPolicy MinLength="4"/>`, "the policy asks for a PIN, which is not supported"},
		"PIN's attribute":      {"<Policy>", `<Policy><PINPolicy PINUsageMode="Local" OnWeekDays="1"/>`, "a part of <PINPolicy> is not known"},
		"PIN's element":        {"<Policy>", `<Policy><PINPolicy PINUsageMode="Local"><a/></PINPolicy>`, "a part of <PINPolicy> is not known"},
		"no date":              {"2020-01-01T00:00:00Z", "soon", "<StartDate> is not a time"},
		"date before the time": {"2020-01-01T00:00:00Z", "0001-01-01T00:00:00Z", "<StartDate> is not a time"},
		"expires first":        {"2030-01-01T00:00:00Z", "2020-01-01T00:00:00Z", "it expires before it starts"},
		"device's date":        {"<Model>", "<ExpiryDate>x</ExpiryDate><Model>", "<ExpiryDate> is not a time"},
	} {
		t.Run(name, func(t *testing.T) {
			changed := strings.Replace(totpPackage, tt.old, tt.new, 1)
			if changed == totpPackage {
				t.Fatal("the test changes nothing")
			}
			tokens, problems, err := PSKC([]byte(packages(changed, otherPackage)), "")
			if err != nil || len(tokens) != 1 || tokens[0].Serial != "other" {
				t.Fatalf("%+v, %v, want the other token", tokens, err)
			}
			if len(problems) != 1 || problems[0].Line != 2 || !strings.Contains(problems[0].Error, tt.want) || strings.Contains(problems[0].Error, "oath") {
				t.Fatalf("%+v, want %q in line 2", problems, tt.want)
			}
			if serial := problems[0].Serial; serial != "" && checkSerial(serial) != nil {
				t.Fatalf("a problem of the serial number %q", serial)
			}
		})
	}
}

const (
	totpPackage = `
<KeyPackage>
<DeviceInfo><Manufacturer>Acme</Manufacturer><SerialNo>1</SerialNo><Model>T 1</Model></DeviceInfo>
<Key Id="k" Algorithm="urn:ietf:params:xml:ns:keyprov:pskc:totp">
<AlgorithmParameters><Suite>HMAC-SHA256</Suite><ResponseFormat Length="8" Encoding="DECIMAL"/></AlgorithmParameters>
<Data><Secret><PlainValue>MTIzNDU2Nzg5MDEyMzQ1Njc4OTA=</PlainValue></Secret><Time><PlainValue>0</PlainValue></Time>
<TimeInterval><PlainValue>60</PlainValue></TimeInterval><TimeDrift><PlainValue>-4</PlainValue></TimeDrift></Data>
<Policy><StartDate>2020-01-01T00:00:00Z</StartDate><ExpiryDate>2030-01-01T00:00:00Z</ExpiryDate><KeyUsage>OTP</KeyUsage></Policy>
<Extensions><Secret xmlns="urn:x">nobody's</Secret><Secret/></Extensions>
</Key>
</KeyPackage>`
	otherPackage = `
<KeyPackage><Key Id="other" Algorithm="urn:ietf:params:xml:ns:keyprov:pskc:hotp">
<AlgorithmParameters><ResponseFormat Length="6" Encoding="DECIMAL"/></AlgorithmParameters>
<Data><Secret><PlainValue>MTIzNDU2Nzg5MDEyMzQ1Njc4OTA=</PlainValue></Secret><Counter><PlainValue>42</PlainValue></Counter></Data>
</Key></KeyPackage>`
)

// packages is a container of some parts. The first begins in line 2 if a line break comes first.
func packages(parts ...string) string {
	return `<KeyContainer Version="1.0" xmlns="` + pskc + `">` + strings.Join(parts, "") + "</KeyContainer>"
}

func TestWhatFilesSay(t *testing.T) {
	ocra := strings.NewReplacer("pskc:totp", "pskc:ocra", "HMAC-SHA256", "OCRA-1:HOTP-SHA1-6:C-QN08-PSHA1", ">OTP<", ">CR<",
		"<Time><PlainValue>0</PlainValue></Time>", "<Counter><PlainValue>7</PlainValue></Counter>").Replace(totpPackage)
	dates := Token{Serial: "1", Manufacturer: "Acme", Model: "T 1", Line: 2, Drift: -4, Starts: day(2020, 1, 1), Expires: day(2030, 1, 1)}
	token := func(of oath.Token, change func(*Token)) Token {
		all := dates
		all.Token = of
		all.Secret = []byte(seed)
		change(&all)
		return all
	}
	totp := oath.Token{Algorithm: oath.TOTP, Hash: oath.SHA256, Digits: 8, Period: time.Minute}
	suite := oath.Token{Algorithm: oath.OCRA, Suite: "OCRA-1:HOTP-SHA1-6:C-QN08-PSHA1"}
	same := func(*Token) {}
	for name, tt := range map[string]struct {
		of, old, new string
		want         Token
	}{
		"TOTP":            {totpPackage, "", "", token(totp, same)},
		"draft's name":    {totpPackage, "pskc:totp", "pskc#totp", token(totp, same)},
		"byte order mark": {totpPackage, "", "\ufeff<?xml version='1.0' encoding='utf-8'?>", token(totp, same)},
		"SHA-1":           {totpPackage, "<Suite>HMAC-SHA256</Suite>", "", token(totp, func(t *Token) { t.Hash = oath.SHA1 })},
		"sha-512":         {totpPackage, "HMAC-SHA256", "sha-512", token(totp, func(t *Token) { t.Hash = oath.SHA512 })},
		"no check digits": {totpPackage, "\"DECIMAL\"", "\"DECIMAL\" CheckDigits=\"false\"", token(totp, same)},
		"half a minute":   {totpPackage, "<TimeInterval><PlainValue>60</PlainValue></TimeInterval>", "", token(totp, func(t *Token) { t.Period = 30 * time.Second })},
		"device's dates": {totpPackage, "<Model>", "<StartDate>2021-01-01T09:00:00+09:00</StartDate><ExpiryDate>2029-01-01T00:00:00</ExpiryDate><Model>",
			token(totp, func(t *Token) { t.Starts, t.Expires = day(2021, 1, 1), day(2029, 1, 1) })},
		"wider dates":      {totpPackage, "<Model>", "<StartDate>2019-01-01T00:00:00Z</StartDate><ExpiryDate>2039-01-01T00:00:00Z</ExpiryDate><Model>", token(totp, same)},
		"key's id":         {totpPackage, "<SerialNo>1</SerialNo>", "", token(totp, func(t *Token) { t.Serial = "k" })},
		"spaces":           {totpPackage, ">T 1<", "> T\n 1 <", token(totp, same)},
		"comment":          {totpPackage, ">T 1<", "><!-- a -->T 1<?a b?><", token(totp, same)},
		"two uses":         {totpPackage, "<KeyUsage>", "<KeyUsage>CR</KeyUsage><KeyUsage>", token(totp, same)},
		"two uses in turn": {totpPackage, "</KeyUsage>", "</KeyUsage><KeyUsage>CR</KeyUsage>", token(totp, same)},
		"device's PIN": {totpPackage, "<Policy>", `<Policy><PINPolicy xmlns:a="urn:x" PINUsageMode="Local" MaxFailedAttempts="3"/>`,
			token(totp, same)},
		"OCRA":           {ocra, "", "", token(suite, func(t *Token) { t.Counter = 7 })},
		"suite's name":   {ocra, "pskc:ocra", "pskc#OCRA-1:HOTP-SHA1-6:C-QN08-PSHA1", token(suite, func(t *Token) { t.Counter = 7 })},
		"family's name":  {ocra, "pskc:ocra", "pskc#OCRA-1", token(suite, func(t *Token) { t.Counter = 7 })},
		"no number left": {ocra, "<Counter><PlainValue>7</PlainValue></Counter>", "", token(suite, same)},
	} {
		t.Run(name, func(t *testing.T) {
			data := packages(tt.of)
			if tt.old == "" {
				data = tt.new + data
			} else if data = strings.Replace(data, tt.old, tt.new, 1); data == packages(tt.of) {
				t.Fatal("the test changes nothing")
			}
			tokens, problems, err := PSKC([]byte(data), "")
			if err != nil || len(problems) != 0 || len(tokens) != 1 {
				t.Fatalf("%+v, %+v, %v", tokens, problems, err)
			}
			if !reflect.DeepEqual(tokens[0], tt.want) {
				t.Fatalf("%+v\nwant %+v", tokens[0], tt.want)
			}
		})
	}
	for name, changed := range map[string]string{
		"another suite": strings.Replace(ocra, "pskc:ocra", "pskc#OCRA-1:HOTP-SHA1-8:C-QN08-PSHA1", 1),
		"no suite":      strings.Replace(ocra, "OCRA-1:HOTP-SHA1-6:C-QN08-PSHA1", "", 1),
		"no OCRA suite": strings.Replace(ocra, "OCRA-1:HOTP-SHA1-6:C-QN08-PSHA1", "OCRA-2", 1),
		"usage":         strings.Replace(ocra, ">CR<", ">OTP<", 1),
		"counter":       strings.Replace(ocra, ">7<", ">-1<", 1),
		"large counter": strings.Replace(ocra, ">7<", ">9007199254740992<", 1),
	} {
		if tokens, problems, err := PSKC([]byte(packages(changed)), ""); err != nil || len(tokens) != 0 || len(problems) != 1 {
			t.Errorf("%s: %+v, %+v, %v", name, tokens, problems, err)
		}
	}
}

// The bounds are of each token, not of the file.
func TestManyTokens(t *testing.T) {
	var parts []string
	for i := range 1000 {
		parts = append(parts, strings.Replace(otherPackage, "other", fmt.Sprint(i), 1))
	}
	tokens, problems, err := PSKC([]byte(packages(parts...)), "")
	if err != nil || len(tokens) != 1000 || len(problems) != 0 || tokens[999].Line != 2+999*4 {
		t.Fatalf("%d tokens, %d problems, %v", len(tokens), len(problems), err)
	}
}

// seal encrypts as XML Encryption says: IV, AES in CBC mode, and padding of which only the last byte counts.
func seal(t testing.TB, key, plain []byte) []byte {
	t.Helper()
	padding := aes.BlockSize - len(plain)%aes.BlockSize
	padded := append(bytes.Clone(plain), bytes.Repeat([]byte{0xaa}, padding)...)
	padded[len(padded)-1] = byte(padding)
	return sealRaw(t, key, padded)
}

func sealRaw(t testing.TB, key, padded []byte) []byte {
	t.Helper()
	block, err := aes.NewCipher(key)
	if err != nil {
		t.Fatal(err)
	}
	iv := bytes.Repeat([]byte{0x1f}, aes.BlockSize)
	sealed := make([]byte, len(padded))
	cipher.NewCBCEncrypter(block, iv).CryptBlocks(sealed, padded)
	return append(iv, sealed...)
}

func base(raw []byte) string { return base64.StdEncoding.EncodeToString(raw) }

// A sealing is how a file of the tests is encrypted.
type sealing struct {
	cipher, mac string // names of XML Encryption and XML Signature
	key, macKey []byte
}

func (s sealing) value(t testing.TB, plain []byte) string {
	return `<EncryptionMethod xmlns="` + xenc + `" Algorithm="` + s.cipher + `"/><CipherData xmlns="` + xenc + `"><CipherValue>` + base(seal(t, s.key, plain)) +
		`</CipherValue></CipherData>`
}

func (s sealing) encryptedPackage(t testing.TB, serial, secret string) string {
	h := hmac.New(macs[s.mac], s.macKey)
	h.Write(seal(t, s.key, []byte(secret)))
	return strings.NewReplacer(`Id="other"`, `Id="`+serial+`"`, "<PlainValue>MTIzNDU2Nzg5MDEyMzQ1Njc4OTA=</PlainValue>",
		"<EncryptedValue>"+s.value(t, []byte(secret))+"</EncryptedValue><ValueMAC>"+base(h.Sum(nil))+"</ValueMAC>").Replace(otherPackage)
}

func (s sealing) container(t testing.TB, keyInfo string, parts ...string) string {
	mac := `<MACMethod Algorithm="` + s.mac + `"><MACKey>` + s.value(t, s.macKey) + "</MACKey></MACMethod>"
	return packages("\n<EncryptionKey>"+keyInfo+"</EncryptionKey>", mac, strings.Join(parts, ""))
}

func TestEncryption(t *testing.T) {
	for _, keySize := range []int{16, 24, 32} {
		for mac := range macs {
			for _, derived := range []string{"", dsig + "hmac-sha1", "http://www.w3.org/2001/04/xmldsig-more#hmac-sha256"} {
				s := sealing{cipher: fmt.Sprintf("%saes%d-cbc", xenc, 8*keySize), mac: mac, key: bytes.Repeat([]byte{7}, keySize), macKey: []byte("a key of the MACs")}
				keyInfo, key := "", hex.EncodeToString(s.key)
				if derived != "" {
					var err error
					if s.key, err = pbkdf2.Key(macs[derived], "パス phrase", []byte("salt"), 10, keySize); err != nil {
						t.Fatal(err)
					}
					key = "パス phrase"
					keyInfo = fmt.Sprintf(`<DerivedKey xmlns="%s"><KeyDerivationMethod Algorithm="%spbkdf2"><PBKDF2-params><Salt><Specified>%s</Specified></Salt>
						<IterationCount>10</IterationCount><KeyLength>%d</KeyLength><PRF Algorithm="%s"/></PBKDF2-params></KeyDerivationMethod></DerivedKey>`,
						xenc11, xenc11, base([]byte("salt")), keySize, derived)
				}
				long := strings.Repeat("s", 32)
				tokens, problems, err := PSKC([]byte(s.container(t, keyInfo, s.encryptedPackage(t, "1", seed), s.encryptedPackage(t, "2", long))), key)
				if err != nil || len(problems) != 0 || len(tokens) != 2 || string(tokens[0].Secret) != seed || string(tokens[1].Secret) != long {
					t.Errorf("%s, %s, %q: %d tokens, %+v, %v", s.cipher, mac, derived, len(tokens), problems, err)
				}
			}
		}
	}
}

// Of two tokens of an encrypted file one is changed.
func TestEncryptedTokensThatAreLeftOut(t *testing.T) {
	s := sealing{cipher: xenc + "aes128-cbc", mac: dsig + "hmac-sha1", key: bytes.Repeat([]byte{7}, 16), macKey: []byte("a key of the MACs")}
	good, bad := s.encryptedPackage(t, "1", seed), s.encryptedPackage(t, "2", seed)
	unpadded := func(sealed []byte) string { // with a right MAC over it
		h := hmac.New(macs[s.mac], s.macKey)
		h.Write(sealed)
		head, rest, _ := strings.Cut(bad, "<CipherValue>")
		_, tail, _ := strings.Cut(rest, "</CipherValue>")
		tail, _, _ = strings.Cut(tail, "<ValueMAC>")
		_, end, _ := strings.Cut(bad, "</ValueMAC>")
		return head + "<CipherValue>" + base(sealed) + "</CipherValue>" + tail + "<ValueMAC>" + base(h.Sum(nil)) + "</ValueMAC>" + end
	}
	sealed := seal(t, s.key, []byte(seed))
	for name, tt := range map[string]struct{ bad, want string }{
		"MAC":        {strings.Replace(bad, "<ValueMAC>", "<ValueMAC>AAAA", 1), "<ValueMAC> is wrong"},
		"no MAC":     {bad[:strings.Index(bad, "<ValueMAC>")] + bad[strings.Index(bad, "</ValueMAC>")+11:], "without a <ValueMAC>"},
		"not Base64": {strings.Replace(bad, "<ValueMAC>", "<ValueMAC>*", 1), "<ValueMAC> is not Base64"},
		"value":      {strings.Replace(bad, "<CipherValue>", "<CipherValue>*", 1), "<CipherValue> is not Base64"},
		"no value":   {strings.NewReplacer("<CipherValue>", "<CipherReference>", "</CipherValue>", "</CipherReference>").Replace(bad), "there is no value"},
		"cut short":  {unpadded(sealed[:16]), "<CipherValue> is not an IV and whole blocks"},
		"half block": {unpadded(sealed[:40]), "<CipherValue> is not an IV and whole blocks"},
		"padding":    {unpadded(bytes.Repeat([]byte{1}, 48)), "the padding is wrong"},
		"no padding": {unpadded(sealRaw(t, s.key, make([]byte, 32))), "the padding is wrong"},
		"key wrap":   {strings.Replace(bad, "aes128-cbc", "kw-aes128", 1), `encryption "http://www.w3.org/2001/04/xmlenc#kw-aes128" is not supported`},
		"key size":   {strings.Replace(bad, "aes128-cbc", "aes256-cbc", 1), "the key has 16 bytes, want 32"},
		"in clear":   {otherPackage, "<Secret> is in clear, though a key is given"},
	} {
		t.Run(name, func(t *testing.T) {
			tokens, problems, err := PSKC([]byte(s.container(t, "", good, tt.bad)), hex.EncodeToString(s.key))
			if err != nil || len(tokens) != 1 || tokens[0].Serial != "1" || len(problems) != 1 || !strings.Contains(problems[0].Error, tt.want) {
				t.Fatalf("%+v, %+v, %v, want %q", tokens, problems, err, tt.want)
			}
		})
	}
	t.Run("no MACs", func(t *testing.T) {
		tokens, problems, err := PSKC([]byte(packages("<EncryptionKey/>", good)), hex.EncodeToString(s.key))
		if err != nil || len(tokens) != 0 || len(problems) != 1 || !strings.Contains(problems[0].Error, "could have been changed") {
			t.Fatalf("%+v, %+v, %v", tokens, problems, err)
		}
	})
	t.Run("unnamed key", func(t *testing.T) {
		unnamed := strings.Replace(s.container(t, "", good), "<EncryptionKey></EncryptionKey>", "", 1)
		if tokens, problems, err := PSKC([]byte(unnamed), hex.EncodeToString(s.key)); err != nil || len(tokens) != 1 {
			t.Fatalf("%+v, %+v, %v", tokens, problems, err)
		}
		if _, _, err := PSKC([]byte(unnamed), passPhrase); err == nil || !strings.Contains(err.Error(), "pre-shared key") {
			t.Fatalf("a pass phrase: %v", err)
		}
		tokens, problems, err := PSKC([]byte(unnamed), "")
		if err != nil || len(tokens) != 0 || len(problems) != 1 || !strings.Contains(problems[0].Error, "no key is given") {
			t.Fatalf("no key: %+v, %+v, %v", tokens, problems, err)
		}
	})
}

// Errors and problems go into answers and logs. Wherever a file is broken, they do not say its secret.
func TestNoSecretIsTold(t *testing.T) {
	data := packages(totpPackage)
	for i := range len(data) {
		_, problems, err := PSKC([]byte(data[:i]+data[i+1:]), "")
		if said := fmt.Sprint(problems, err); strings.Contains(said, "Nzg5MDEyMzQ1") {
			t.Fatalf("without byte %d: %s", i, said)
		}
	}
}

func FuzzPSKC(f *testing.F) {
	for n := 2; n <= 10; n++ {
		for _, key := range []string{"", preShared, passPhrase} {
			f.Add(figure(f, n), key)
		}
	}
	f.Add([]byte(packages(totpPackage, otherPackage)), "")
	f.Fuzz(func(t *testing.T, data []byte, key string) {
		tokens, problems, err := PSKC(data, key)
		checkAll(t, tokens, problems, err)
	})
}

// checkAll holds what has been read against what the package promises of any file.
func checkAll(t *testing.T, tokens []Token, problems []Problem, err error) {
	t.Helper()
	if err == nil == (len(tokens)+len(problems) == 0) {
		t.Fatalf("%d tokens, %d problems and the error %v", len(tokens), len(problems), err)
	}
	serials := map[string]bool{}
	for _, token := range tokens {
		if err := check(token); err != nil || token.Line < 1 || serials[token.Serial] {
			t.Fatalf("a token of line %d, serial number %q: %v", token.Line, token.Serial, err)
		}
		serials[token.Serial] = true
	}
	for _, p := range problems {
		if p.Line < 1 || p.Error == "" || len(p.Error) > 600 || p.Serial != "" && checkSerial(p.Serial) != nil {
			t.Fatalf("problem %+v", p)
		}
	}
}

func TestShortMACKey(t *testing.T) {
	s := sealing{cipher: xenc + "aes128-cbc", mac: dsig + "hmac-sha1", key: bytes.Repeat([]byte{7}, 16), macKey: []byte("fifteen bytes..")}
	tokens, _, err := PSKC([]byte(s.container(t, "", s.encryptedPackage(t, "1", seed))), hex.EncodeToString(s.key))
	if want := "the MAC key has 15 bytes, want 16 or more"; tokens != nil || err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("%d tokens, %v, want %q", len(tokens), err, want)
	}
}
