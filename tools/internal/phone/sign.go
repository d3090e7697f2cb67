package phone

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

func encode(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }

// proof shows that a request comes from this phone.
func (p *Phone) proof(method, path string, body []byte) (string, error) {
	sum := sha256.Sum256(body)
	return p.sign("sekisho-device+jwt", jwt.MapClaims{
		"htm": method, "htu": path, "body": encode(sum[:]),
	})
}

// assertion is the answer to a prompt, for one request.
func (p *Phone) assertion(asked prompt, decision Decision, number string) (string, error) {
	return p.sign("sekisho-assertion+jwt", jwt.MapClaims{
		"login": asked.Login, "round": asked.Round, "nonce": asked.Nonce, "decision": decision, "number": number,
	})
}

// sign makes a JWS with ES256 (RFC 7518 section 3.4), good for a minute and once. A phone that has no id yet says its key instead.
func (p *Phone) sign(typ string, claims jwt.MapClaims) (string, error) {
	claims["iat"], claims["jti"] = time.Now().Unix(), rand.Text()
	token := jwt.NewWithClaims(jwt.SigningMethodES256, claims)
	token.Header["typ"] = typ
	if p.id != "" {
		token.Header["kid"] = p.id
		return token.SignedString(p.key)
	}
	point, err := p.key.PublicKey.Bytes() // 4, x, y (SEC 1 section 2.3.3)
	if err != nil {
		return "", err
	}
	token.Header["jwk"] = map[string]string{"kty": "EC", "crv": "P-256", "x": encode(point[1:33]), "y": encode(point[33:])}
	return token.SignedString(p.key)
}
