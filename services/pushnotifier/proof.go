package pushnotifier

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"strings"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

// Types of what a device signs (RFC 8725 section 3.11), so that neither can stand in for the other.
const (
	proofType     = "sekisho-device+jwt"
	assertionType = "sekisho-assertion+jwt"
)

const (
	// skew is how far a device's clock may be from ours. Within twice that time a proof must not be used again.
	skew = time.Minute
	// maxJWS bounds what is parsed at all, in bytes. A phone's tokens have some 500.
	maxJWS = 4 << 10
	// minProofID and maxProofID bound the id of a proof or an assertion, in bytes.
	minProofID, maxProofID = 16, 64
)

// errToken says that a token is not what its device signed for this place and time. It never says why: whoever holds the key
// need not ask, and nobody else should learn from it.
var errToken = errors.New("pushnotifier: token refused")

// A proof shows that one HTTP request comes from the holder of a device's key (after RFC 9449, with the body).
type proof struct {
	Method               string `json:"htm"`
	Path                 string `json:"htu"`
	Body                 string `json:"body"` // base64url of the body's SHA-256
	jwt.RegisteredClaims        // iat and jti count
}

// check compares a proof with the request that it came with.
func (p *proof) check(method, path string, body []byte, now time.Time) error {
	sum := sha256.Sum256(body)
	switch {
	case p.Method != method || p.Path != path || subtle.ConstantTimeCompare([]byte(p.Body), []byte(encode(sum[:]))) != 1,
		!fresh(p.RegisteredClaims, now):
		return errToken
	}
	return nil
}

// Decisions of an assertion.
const (
	approve = "approve"
	deny    = "deny"
	notMe   = "not_me"
)

// An assertion is a device's answer to one prompt, and the proof of the one request that brings it: nothing else is in that request.
type assertion struct {
	Login                string `json:"login"` // "<gateway>/<id>"
	Round                int    `json:"round"`
	Nonce                string `json:"nonce"`  // base64url of the prompt's
	Number               string `json:"number"` // as the user typed it; empty with any decision but approve
	Decision             string `json:"decision"`
	jwt.RegisteredClaims        // iat and jti count
}

// fresh tells whether a proof or an assertion was made for this moment, and has an id by which it can be used up.
func fresh(c jwt.RegisteredClaims, now time.Time) bool {
	return c.IssuedAt != nil && now.Sub(c.IssuedAt.Time).Abs() <= skew && len(c.ID) >= minProofID && len(c.ID) <= maxProofID && storable(c.ID)
}

// storable tells whether PostgreSQL knows such a text. With one that it does not know, the statement fails for all who share it.
func storable(text string) bool { return strings.IndexByte(text, 0) < 0 }

// A header is what counts of a token's header.
type header struct {
	device string           // "kid"
	key    *ecdsa.PublicKey // "jwk" (RFC 7517), of a device that has no id yet
}

// verify reads the claims of a token, whose signature must be good for the key that its header leads to. ES256 is the only
// algorithm, whatever the header says, and the header must name nothing that we do not know.
func verify(token, typ string, claims jwt.Claims, key func(header) (*ecdsa.PublicKey, error)) error {
	if len(token) > maxJWS {
		return errToken
	}
	var failed error // what is wrong with us, not with the token
	parser := jwt.NewParser(jwt.WithValidMethods([]string{jwt.SigningMethodES256.Alg()}), jwt.WithStrictDecoding(), jwt.WithoutClaimsValidation())
	_, err := parser.ParseWithClaims(token, claims, func(t *jwt.Token) (any, error) {
		h, err := readHeader(t.Header, typ)
		if err != nil {
			return nil, err
		}
		found, err := key(h)
		if err != nil && !errors.Is(err, errToken) {
			failed = err
		}
		return found, err
	})
	switch {
	case failed != nil:
		return failed
	case err != nil:
		return errToken
	}
	return nil
}

func readHeader(fields map[string]any, typ string) (header, error) {
	var h header
	for name, value := range fields {
		switch name {
		case "alg": // the parser has checked it
		case "typ":
			if value != typ {
				return header{}, errToken
			}
		case "kid":
			if h.device, _ = value.(string); !storable(h.device) {
				return header{}, errToken
			}
		case "jwk":
			h.key = readJWK(value)
		default: // "crit" above all (RFC 7515 section 4.1.11)
			return header{}, errToken
		}
	}
	if _, typed := fields["typ"]; !typed || (h.device == "") == (h.key == nil) {
		return header{}, errToken
	}
	return h, nil
}

// readJWK is a P-256 key in the form of RFC 7518 section 6.2.1, nil for anything else.
func readJWK(value any) *ecdsa.PublicKey {
	fields, _ := value.(map[string]any)
	if fields["kty"] != "EC" || fields["crv"] != "P-256" {
		return nil
	}
	point := []byte{4} // uncompressed (SEC 1 section 2.3.3)
	for _, name := range []string{"x", "y"} {
		text, _ := fields[name].(string)
		coordinate, err := base64.RawURLEncoding.DecodeString(text)
		if err != nil || len(coordinate) != 32 {
			return nil
		}
		point = append(point, coordinate...)
	}
	key, _ := readKey(point)
	return key
}

// readKey reads a P-256 key from its uncompressed point of 65 bytes.
func readKey(point []byte) (*ecdsa.PublicKey, error) {
	key, err := ecdsa.ParseUncompressedPublicKey(elliptic.P256(), point)
	if err != nil {
		return nil, errToken
	}
	return key, nil
}

func encode(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }
