package e2e

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/sekisho/sekisho/events"
)

// A phone holds a key and speaks as the page /authenticator does.
type phone struct {
	t    *testing.T
	key  *ecdsa.PrivateKey
	id   string // once it is enrolled
	send func(r events.DeviceRequest) (status int, answer []byte)
}

func newPhone(t *testing.T, send func(events.DeviceRequest) (int, []byte)) *phone {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	return &phone{t: t, key: key, send: send}
}

// phone is one that reaches the system's own gateway.
func (s *system) phone() *phone {
	s.t.Helper()
	return newPhone(s.t, func(r events.DeviceRequest) (int, []byte) {
		req, err := http.NewRequestWithContext(s.t.Context(), r.Method, s.HTTP+r.Path, bytes.NewReader(r.Body))
		must(s.t, err)
		if r.Proof != "" {
			req.Header.Set("Authorization", r.Proof)
		}
		if len(r.Body) > 0 {
			req.Header.Set("Content-Type", "application/json")
		}
		return s.do(req)
	})
}

// invite has an admin invite a user, and returns the code.
func (s *system) invite(user string) string {
	s.t.Helper()
	var invited struct {
		URL string `json:"activation_url"`
	}
	if status := s.admin(http.MethodPost, "/users/"+user+"/activations", nil, &invited); status != http.StatusCreated {
		s.t.Fatalf("activation of %s: %d", user, status)
	}
	_, code, _ := strings.Cut(invited.URL, "#")
	return code
}

func base64url(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }

// sign makes a token. A phone that has no id yet says its key instead.
func (p *phone) sign(typ string, claims jwt.MapClaims) string {
	p.t.Helper()
	point, err := p.key.PublicKey.Bytes()
	must(p.t, err)
	token := jwt.NewWithClaims(jwt.SigningMethodES256, claims)
	token.Header["typ"] = typ
	if p.id != "" {
		token.Header["kid"] = p.id
	} else {
		token.Header["jwk"] = map[string]string{"kty": "EC", "crv": "P-256", "x": base64url(point[1:33]), "y": base64url(point[33:])}
	}
	signed, err := token.SignedString(p.key)
	must(p.t, err)
	return signed
}

// call makes a request with a proof.
func (p *phone) call(method, path string, body, dst any) int {
	p.t.Helper()
	var data []byte
	if body != nil {
		var err error
		data, err = json.Marshal(body)
		must(p.t, err)
	}
	return p.request(events.DeviceRequest{Method: method, Path: path, Body: data, Proof: p.proof(method, path, data)}, dst)
}

func (p *phone) request(r events.DeviceRequest, dst any) int {
	p.t.Helper()
	status, answer := p.send(r)
	if dst != nil {
		if err := json.Unmarshal(answer, dst); err != nil && err != io.EOF {
			p.t.Fatalf("%s %s: %d %s: %v", r.Method, r.Path, status, answer, err)
		}
	}
	return status
}

// proof is the header Authorization of a request.
func (p *phone) proof(method, path string, body []byte) string {
	p.t.Helper()
	sum := sha256.Sum256(body)
	return "Device " + p.sign("sekisho-device+jwt", jwt.MapClaims{
		"htm": method, "htu": path, "iat": time.Now().Unix(), "jti": rand.Text(), "body": base64url(sum[:]),
	})
}

// enroll uses an invitation.
func (p *phone) enroll(code, name string) {
	p.t.Helper()
	var enrolled struct {
		Device struct {
			ID string `json:"id"`
		} `json:"device"`
	}
	status := p.tryEnroll(code, name, &enrolled)
	if status != http.StatusCreated || enrolled.Device.ID == "" {
		p.t.Fatalf("enroll %s: %d", name, status)
	}
	p.id = enrolled.Device.ID
}

func (p *phone) tryEnroll(code, name string, answer any) (status int) {
	p.t.Helper()
	point, err := p.key.PublicKey.Bytes()
	must(p.t, err)
	return p.call(http.MethodPost, "/v1/authenticator/devices", map[string]string{"activation": code, "name": name, "public_key": base64url(point)}, answer)
}

// phoneOf is a phone of a user.
func (s *system) phoneOf(user string) *phone {
	s.t.Helper()
	p := s.phone()
	p.enroll(s.invite(user), "my phone")
	return p
}

// subscribe gives the phone an app at a push service.
func (p *phone) subscribe(s *system, user, transport string) (endpoint string) {
	p.t.Helper()
	var about struct{ VAPID string }
	if status := p.call(http.MethodGet, "/v1/authenticator/devices", nil, &about); status != http.StatusOK {
		p.t.Fatalf("devices: %d", status)
	}
	var app struct {
		Transport string         `json:"transport"`
		Target    map[string]any `json:"target"`
	}
	subscription := map[string]string{"user": user, "transport": transport, "vapid": about.VAPID}
	if status := s.call(http.MethodPost, s.Sim+"/sim/push/subscriptions", "", subscription, &app); status != http.StatusCreated {
		p.t.Fatalf("app: %d", status)
	}
	if status := p.call(http.MethodPut, "/v1/authenticator/subscription", app, nil); status != http.StatusNoContent {
		p.t.Fatalf("subscription: %d", status)
	}
	endpoint, _ = app.Target["endpoint"].(string)
	return endpoint
}

// A prompt is what a phone is asked.
type prompt struct {
	Login   string `json:"login"`
	Round   int    `json:"round"`
	Nonce   string `json:"nonce"`
	App     string `json:"app"`
	Place   string `json:"place"`
	Browser string `json:"browser"`
	Number  bool   `json:"number"`
}

// A notice is what a phone is told.
type notice struct {
	ID    string `json:"id"`
	Kind  string `json:"kind"`
	Place string `json:"place"`
}

// fetch asks what waits for the phone. Where whoever answers has just died, or too much was asked, it is nothing.
func (p *phone) fetch() (waiting struct {
	Prompts []prompt `json:"prompts"`
	Notices []notice `json:"notices"`
}) {
	p.t.Helper()
	switch status := p.call(http.MethodGet, "/v1/authenticator/prompts", nil, &waiting); status {
	case http.StatusOK, http.StatusServiceUnavailable, http.StatusTooManyRequests:
	default:
		p.t.Fatalf("prompts: %d", status)
	}
	return waiting
}

// asked waits until the phone is asked about a login.
func (p *phone) asked(login string) (found prompt) {
	p.t.Helper()
	poll(p.t, "asked", func() bool {
		all := p.fetch().Prompts
		at := slices.IndexFunc(all, func(each prompt) bool { return each.Login == login })
		if at >= 0 {
			found = all[at]
		}
		return at >= 0
	})
	return found
}

// warned waits until the phone has been told of n logins from an unknown environment; the newest is the first.
func (p *phone) warned(n int) (found []notice) {
	p.t.Helper()
	poll(p.t, "warned", func() bool {
		found = slices.DeleteFunc(p.fetch().Notices, func(each notice) bool { return each.Kind != "unknown_environment" })
		return len(found) >= n
	})
	return found
}

// decide answers a prompt: "approve" with the number that the login page shows, "deny" or "not_me". It returns the result. What it signs
// is all that proves the request.
func (p *phone) decide(about prompt, decision, number string) (status int, result string) {
	p.t.Helper()
	assertion := p.sign("sekisho-assertion+jwt", jwt.MapClaims{
		"login": about.Login, "round": about.Round, "nonce": about.Nonce, "number": number, "decision": decision,
		"iat": time.Now().Unix(), "jti": rand.Text(),
	})
	body, err := json.Marshal(map[string]string{"assertion": assertion})
	must(p.t, err)
	var answer struct {
		Result string `json:"result"`
	}
	status = p.request(events.DeviceRequest{Method: http.MethodPost, Path: "/v1/authenticator/prompts", Body: body}, &answer)
	return status, answer.Result
}
