package pushnotifier

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/sekisho/sekisho/events"
	"github.com/sekisho/sekisho/services/internal/directory"
)

// token signs claims with any method and key.
func token(t testing.TB, method jwt.SigningMethod, key any, header map[string]any, claims jwt.MapClaims) string {
	t.Helper()
	tok := jwt.NewWithClaims(method, claims)
	for name, value := range header {
		if value == nil {
			delete(tok.Header, name)
			continue
		}
		tok.Header[name] = value
	}
	text, err := tok.SignedString(key)
	check(t, err)
	return text
}

func TestVerify(t *testing.T) {
	key := newKey(t)
	larger, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	check(t, err)
	public := point(t, key)
	claims := jwt.MapClaims{"login": "web/x", "round": 1}
	usual := map[string]any{"typ": assertionType, "kid": "phone"}
	with := func(name string, value any) map[string]any {
		header := map[string]any{"typ": assertionType, "kid": "phone"}
		header[name] = value
		return header
	}
	jwk := map[string]any{"kty": "EC", "crv": "P-256", "x": encode(public[1:33]), "y": encode(public[33:])}
	good := token(t, jwt.SigningMethodES256, key, usual, claims)
	signed := good[:strings.LastIndexByte(good, '.')+1]
	signature, err := base64.RawURLEncoding.DecodeString(good[len(signed):])
	check(t, err)
	digest := sha256.Sum256([]byte(signed[:len(signed)-1]))
	der, err := ecdsa.SignASN1(rand.Reader, key, digest[:])
	check(t, err)
	for name, tt := range map[string]struct {
		token string
		good  bool
	}{
		"good":                    {good, true},
		"none":                    {token(t, jwt.SigningMethodNone, jwt.UnsafeAllowNoneSignatureType, usual, claims), false},
		"none in other letters":   {token(t, jwt.SigningMethodNone, jwt.UnsafeAllowNoneSignatureType, with("alg", "nOnE"), claims), false},
		"HS256, the public key":   {token(t, jwt.SigningMethodHS256, public, usual, claims), false},
		"HS256, said to be ES256": {token(t, jwt.SigningMethodHS256, public, with("alg", "ES256"), claims), false},
		"ES384":                   {token(t, jwt.SigningMethodES384, larger, usual, claims), false},
		"ES384, said to be ES256": {token(t, jwt.SigningMethodES384, larger, with("alg", "ES256"), claims), false},
		"another key":             {token(t, jwt.SigningMethodES256, newKey(t), usual, claims), false},
		"no signature":            {signed, false},
		"half a signature":        {signed + encode(signature[:32]), false},
		"a byte less":             {signed + encode(signature[:63]), false},
		"a byte more":             {signed + encode(append(signature[:64:64], 0)), false},
		"zeros":                   {signed + encode(make([]byte, 64)), false},
		"ASN.1":                   {signed + encode(der), false},
		"padded":                  {signed + base64.URLEncoding.EncodeToString(signature), false},
		"another type":            {token(t, jwt.SigningMethodES256, key, with("typ", proofType), claims), false},
		"no type":                 {token(t, jwt.SigningMethodES256, key, with("typ", nil), claims), false},
		"no kid":                  {token(t, jwt.SigningMethodES256, key, with("kid", nil), claims), false},
		"a number as kid":         {token(t, jwt.SigningMethodES256, key, with("kid", 1), claims), false},
		"kid and jwk":             {token(t, jwt.SigningMethodES256, key, with("jwk", jwk), claims), false},
		"a critical extension":    {token(t, jwt.SigningMethodES256, key, with("crit", []string{"x"}), claims), false},
		"somebody's key set":      {token(t, jwt.SigningMethodES256, key, with("jku", "https://example.com"), claims), false},
		"a large one":             {token(t, jwt.SigningMethodES256, key, usual, jwt.MapClaims{"number": strings.Repeat("1", maxJWS)}), false},
		"two parts":               {good[:strings.LastIndexByte(good, '.')], false},
		"four parts":              {good + "." + good, false},
		"empty":                   {"", false},
	} {
		t.Run(name, func(t *testing.T) {
			var got assertion
			err := verify(tt.token, assertionType, &got, func(h header) (*ecdsa.PublicKey, error) {
				if h.device != "phone" {
					return nil, errToken
				}
				return &key.PublicKey, nil
			})
			if tt.good != (err == nil) || err != nil && !errors.Is(err, errToken) {
				t.Fatalf("verify: %v", err)
			}
			if tt.good && (got.Login != "web/x" || got.Round != 1) {
				t.Errorf("claims: %+v", got)
			}
		})
	}
}

// That a key can not be looked up is no fault of the token.
func TestVerifyWithoutKeys(t *testing.T) {
	away := errors.New("away")
	tok := token(t, jwt.SigningMethodES256, newKey(t), map[string]any{"typ": proofType, "kid": "phone"}, jwt.MapClaims{})
	if err := verify(tok, proofType, &proof{}, func(header) (*ecdsa.PublicKey, error) { return nil, away }); !errors.Is(err, away) {
		t.Errorf("verify: %v", err)
	}
}

func TestReadJWK(t *testing.T) {
	key := newKey(t)
	b := point(t, key)
	x, y := encode(b[1:33]), encode(b[33:])
	for name, tt := range map[string]struct {
		jwk  any
		good bool
	}{
		"good":             {map[string]any{"kty": "EC", "crv": "P-256", "x": x, "y": y, "ext": true}, true},
		"another curve":    {map[string]any{"kty": "EC", "crv": "P-384", "x": x, "y": y}, false},
		"another kind":     {map[string]any{"kty": "RSA", "crv": "P-256", "x": x, "y": y}, false},
		"not on the curve": {map[string]any{"kty": "EC", "crv": "P-256", "x": y, "y": x}, false},
		"short":            {map[string]any{"kty": "EC", "crv": "P-256", "x": encode(b[1:32]), "y": y}, false},
		"long":             {map[string]any{"kty": "EC", "crv": "P-256", "x": encode(append([]byte{0}, b[1:33]...)), "y": y}, false},
		"numbers":          {map[string]any{"kty": "EC", "crv": "P-256", "x": 1, "y": 2}, false},
		"zero":             {map[string]any{"kty": "EC", "crv": "P-256", "x": encode(make([]byte, 32)), "y": encode(make([]byte, 32))}, false},
		"text":             {"x", false},
		"nothing":          {nil, false},
	} {
		t.Run(name, func(t *testing.T) {
			got := readJWK(tt.jwk)
			if (got != nil) != tt.good || tt.good && !got.Equal(&key.PublicKey) {
				t.Errorf("readJWK = %v", got)
			}
		})
	}
}

// A request with a proof that is not for it, each refused by its status alone.
func TestProof(t *testing.T) {
	s := newSite(t)
	s.serve(t)
	p, other := s.phone(t, "alice"), s.phone(t, "bob")
	const path = "/v1/authenticator/prompts"
	sum := sha256.Sum256(nil)
	claims := func(change func(jwt.MapClaims)) string {
		c := jwt.MapClaims{"htm": "GET", "htu": path, "iat": s.clock().Unix(), "jti": rand.Text(), "body": encode(sum[:])}
		change(c)
		return "Device " + p.sign(t, proofType, c)
	}
	set := func(name string, value any) string { return claims(func(c jwt.MapClaims) { c[name] = value }) }
	good := claims(func(jwt.MapClaims) {})
	for _, tt := range []struct {
		name, proof string
		want        int
	}{
		{"good", good, 200},
		{"used before", good, 401},
		{"in other letters", "dEVICE" + strings.TrimPrefix(claims(func(jwt.MapClaims) {}), "Device"), 200},
		{"59 s ago", set("iat", s.clock().Add(-59*time.Second).Unix()), 200},
		{"in 59 s", set("iat", s.clock().Add(59*time.Second).Unix()), 200},
		{"none", "", 401},
		{"another scheme", strings.Replace(claims(func(jwt.MapClaims) {}), "Device", "Bearer", 1), 401},
		{"another method", set("htm", "POST"), 401},
		{"another path", set("htu", "/v1/authenticator/devices"), 401},
		{"another body", set("body", encode(make([]byte, 32))), 401},
		{"no body", set("body", ""), 401},
		{"62 s ago", set("iat", s.clock().Add(-62*time.Second).Unix()), 401},
		{"in 62 s", set("iat", s.clock().Add(62*time.Second).Unix()), 401},
		{"without time", set("iat", nil), 401},
		{"a text as time", set("iat", "now"), 401},
		{"without id", set("jti", nil), 401},
		{"a short id", set("jti", "x"), 401},
		{"a long id", set("jti", strings.Repeat("x", 65)), 401},
		{"no text as id", set("jti", strings.Repeat("\x00", 20)), 401},
		{"an assertion", "Device " + p.assertion(t, promptView{}, approve, ""), 401},
		{"no text as name", func() string {
			forged := *p
			forged.id = "\x00"
			return "Device " + forged.proof(t, "GET", path, nil)
		}(), 401},
		{"another device's name", func() string {
			forged := *p
			forged.id = other.id
			return "Device " + forged.proof(t, "GET", path, nil)
		}(), 401},
		{"an unknown device", func() string {
			forged := *p
			forged.id = "unknown"
			return "Device " + forged.proof(t, "GET", path, nil)
		}(), 401},
		{"an invitation's", func() string {
			b := point(t, p.key)
			forged := *p
			forged.id = ""
			forged.header = map[string]any{"jwk": map[string]any{"kty": "EC", "crv": "P-256", "x": encode(b[1:33]), "y": encode(b[33:])}}
			return "Device " + forged.proof(t, "GET", path, nil)
		}(), 401},
	} {
		status, answer := s.send(t, events.DeviceRequest{Method: "GET", Path: path, Proof: tt.proof})
		expect(t, tt.name, status, tt.want)
		if tt.want == 401 {
			expect(t, tt.name, answer["detail"], any(errStranger.Detail))
		}
	}
	// The same id is another device's business.
	c := jwt.MapClaims{"htm": "GET", "htu": path, "iat": s.clock().Unix(), "jti": strings.Repeat("x", 20), "body": encode(sum[:])}
	for _, phone := range []*phone{p, other} {
		status, _ := s.send(t, events.DeviceRequest{Method: "GET", Path: path, Proof: "Device " + phone.sign(t, proofType, c)})
		expect(t, "the same id", status, 200)
	}
	// Nor does a provider's device have a key.
	s.sql(t, `INSERT INTO directory.devices (id, user_id, kind, name, account, gateway, transport, enrolled_at, last_seen)
		VALUES ('m', 'bob', 'mamoru', 'Mamoru', 'bob', 'web', '', now(), now())`)
	forged := *p
	forged.id = "m"
	status, _ := forged.ask(t, "GET", path, nil)
	expect(t, "a provider's device", status, 401)
	// What is known here of a key counts for as long as the device has it.
	status, _ = other.ask(t, "GET", path, nil)
	expect(t, "with its key", status, 200)
	s.sql(t, `UPDATE directory.devices SET public_key = $2 WHERE id = $1`, other.id, point(t, newKey(t)))
	status, _ = other.ask(t, "GET", path, nil)
	expect(t, "with a key that is not its any more", status, 401)
}

// A proof at one instant by many: it is good once.
func TestProofAtOnce(t *testing.T) {
	s := newSite(t)
	s.serve(t)
	p := s.phone(t, "alice")
	const path = "/v1/authenticator/prompts"
	r := events.DeviceRequest{Method: "GET", Path: path, Proof: "Device " + p.proof(t, "GET", path, nil)}
	statuses := make(chan int, 20)
	for range cap(statuses) {
		go func() {
			response, err := s.gateway.Device(t.Context(), r)
			if err != nil {
				statuses <- 0
				return
			}
			statuses <- response.Status
		}()
	}
	got := make(map[int]int)
	for range cap(statuses) {
		got[<-statuses]++
	}
	expect(t, "statuses", got, map[int]int{200: 1, 401: 19})
}

// A proof by a clock that is ahead is fresh for longer, and known as used for as long.
func TestPurgeLeavesFreshProofs(t *testing.T) {
	s := newSite(t)
	n := s.serve(t)
	p := s.phone(t, "alice")
	p.at = skew
	const path = "/v1/authenticator/prompts"
	r := events.DeviceRequest{Method: "GET", Path: path, Proof: "Device " + p.proof(t, "GET", path, nil)}
	status, _ := s.send(t, r)
	expect(t, "first", status, 200)
	s.pass(skew * 3 / 2)
	check(t, n.store.purge(t.Context(), s.env.Config.Push.Keep))
	status, _ = s.send(t, r)
	expect(t, "after a purge", status, 401)
}

// The keys that are kept are bounded, and each is its device's own.
func TestKeys(t *testing.T) {
	var k keys
	device := func(id int) directory.Device {
		return directory.Device{ID: fmt.Sprint(id), PublicKey: point(t, newKey(t))}
	}
	first := device(-1)
	key, err := k.of(first)
	check(t, err)
	again, err := k.of(first)
	check(t, err)
	expect(t, "read once", again == key && k.known(first.ID) == key, true)
	second := device(-2)
	if key, err := k.of(second); err != nil || !bytes.Equal(point(t, &ecdsa.PrivateKey{PublicKey: *key}), second.PublicKey) {
		t.Errorf("key of the second: %v, %v", key, err)
	}
	first.PublicKey = second.PublicKey
	changed, err := k.of(first)
	check(t, err)
	expect(t, "after the key was changed", changed.Equal(key), false)
	for i := range maxKeys {
		first.ID = fmt.Sprint(i)
		_, err := k.of(first)
		check(t, err)
		if len(k.devices) > maxKeys {
			t.Fatalf("%d keys are kept", len(k.devices))
		}
	}
	_, err = k.of(directory.Device{ID: "m"})
	expect(t, "of a provider's device", err, errToken)
	expect(t, "of an unknown device", k.known("unknown"), (*ecdsa.PublicKey)(nil))
}

// Whatever the bytes are, what is taken was signed by the key, and says what the bytes say.
func FuzzVerify(f *testing.F) {
	key := newKey(f)
	for _, typ := range []string{proofType, assertionType} {
		f.Add(token(f, jwt.SigningMethodES256, key, map[string]any{"typ": typ, "kid": "phone"}, jwt.MapClaims{
			"login": "web/x", "round": 1, "nonce": "n", "iat": 1, "jti": "0123456789abcdef", "htm": "GET", "htu": "/"}))
	}
	f.Add("e30.e30.")
	f.Add(`eyJhbGciOiJFUzI1NiIsInR5cCI6InNla2lzaG8tZGV2aWNlK2p3dCIsImp3ayI6e319.bnVsbA.AA`)
	f.Fuzz(func(t *testing.T, text string) {
		for typ, claims := range map[string]jwt.Claims{proofType: &proof{}, assertionType: &assertion{}} {
			err := verify(text, typ, claims, func(h header) (*ecdsa.PublicKey, error) {
				if h.key != nil {
					return h.key, nil
				}
				return &key.PublicKey, nil
			})
			if err != nil {
				if !errors.Is(err, errToken) {
					t.Errorf("verify: %v", err)
				}
				continue
			}
			parts := strings.Split(text, ".")
			head, err := base64.RawURLEncoding.DecodeString(parts[0])
			check(t, err)
			var h struct{ Alg, Typ string }
			if err := json.Unmarshal(head, &h); err != nil || len(parts) != 3 || h.Alg != "ES256" || h.Typ != typ {
				t.Errorf("taken: %q", text)
			}
		}
	})
}
