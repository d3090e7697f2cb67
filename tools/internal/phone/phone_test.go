package phone

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/golang-jwt/jwt/v5"

	"github.com/sekisho/sekisho/events"
)

// A server is as much of the device API as one phone needs: it enrolls the phone, asks it once, and takes its answer.
type server struct {
	t     *testing.T
	key   *ecdsa.PublicKey
	used  map[string]bool // proofs and assertions, by id
	asked string          // "<login> <round>"; "" for nothing
	lose  int             // answers that are taken, of which the phone does not hear
	drop  int             // answers that are used up and not taken, of which it does not hear either
	busy  int             // requests that are not taken
	heard []string
}

func (s *server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		s.t.Error(err)
	}
	if s.busy > 0 {
		s.busy--
		w.WriteHeader(http.StatusServiceUnavailable)
		return
	}
	if r.Method+r.URL.Path == "POST/v1/authenticator/devices" {
		s.enroll(body)
	}
	var answer jwt.MapClaims
	if r.Method+r.URL.Path == "POST"+prompts {
		answer = s.answer(r, body)
	} else {
		s.prove(r, body)
	}
	switch {
	case s.drop > 0 && answer != nil:
		s.drop--
		w.WriteHeader(http.StatusServiceUnavailable)
	case r.URL.Path == "/v1/authenticator/devices":
		w.WriteHeader(http.StatusCreated)
		fmt.Fprint(w, `{"device":{"id":"D1"}}`)
	case r.Method == http.MethodGet && s.asked == "":
		fmt.Fprint(w, `{"prompts":[]}`)
	case r.Method == http.MethodGet:
		login, round, _ := strings.Cut(s.asked, " ")
		fmt.Fprintf(w, `{"prompts":[{"login":"web/another","round":1,"nonce":"b"},{"login":%q,"round":%s,"nonce":"n"}]}`, login, round)
	case s.asked == "":
		w.WriteHeader(http.StatusConflict)
	default:
		s.heard = append(s.heard, fmt.Sprint(answer["login"], " ", answer["round"], " ", answer["nonce"], " ", answer["decision"], " ", answer["number"]))
		s.asked = ""
		if s.lose > 0 {
			s.lose--
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	}
}

func (s *server) prove(r *http.Request, body []byte) {
	scheme, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	proof := s.read(token, "sekisho-device+jwt")
	sum := sha256.Sum256(body)
	if scheme != "Device" || proof["htm"] != r.Method || proof["htu"] != r.URL.Path || proof["body"] != base64.RawURLEncoding.EncodeToString(sum[:]) {
		s.t.Errorf("%s %s: proof %v", r.Method, r.URL, proof)
	}
}

// answer reads an assertion, which is all that proves its request.
func (s *server) answer(r *http.Request, body []byte) jwt.MapClaims {
	if header, there := r.Header["Authorization"]; there {
		s.t.Errorf("an answer with a proof: %q", header)
	}
	var in struct{ Assertion string }
	if err := json.Unmarshal(body, &in); err != nil {
		s.t.Error(err)
	}
	return s.read(in.Assertion, "sekisho-assertion+jwt")
}

func (s *server) enroll(body []byte) {
	var in struct {
		Activation, Name string
		Key              string `json:"public_key"`
	}
	if err := json.Unmarshal(body, &in); err != nil || in.Activation != "code" || in.Name != "my phone" {
		s.t.Errorf("enrollment %s: %v", body, err)
	}
	point, err := base64.RawURLEncoding.DecodeString(in.Key)
	if err == nil {
		s.key, err = ecdsa.ParseUncompressedPublicKey(elliptic.P256(), point)
	}
	if err != nil {
		s.t.Error(err)
	}
}

// read gives what a token of the phone claims, and uses it up.
func (s *server) read(token, typ string) jwt.MapClaims {
	claims := jwt.MapClaims{}
	parsed, err := jwt.NewParser(jwt.WithValidMethods([]string{"ES256"}), jwt.WithIssuedAt()).ParseWithClaims(token, claims, func(*jwt.Token) (any, error) { return s.key, nil })
	if err != nil {
		s.t.Error(err)
		return claims
	}
	if kid, jwk := parsed.Header["kid"], parsed.Header["jwk"]; parsed.Header["typ"] != typ || (kid == "D1") == (jwk != nil) {
		s.t.Errorf("header %v", parsed.Header)
	}
	if id, _ := claims["jti"].(string); len(id) < 16 || s.used[id] || claims["iat"] == nil {
		s.t.Errorf("claims %v", claims)
	} else {
		s.used[id] = true
	}
	return claims
}

func TestPhone(t *testing.T) {
	s := &server{t: t, used: make(map[string]bool)}
	far := httptest.NewServer(s)
	defer far.Close()
	line := HTTP(far.Client(), far.URL)
	p, err := Enroll(t.Context(), line, "code", "my phone")
	if err != nil {
		t.Fatal(err)
	}
	login := events.Login{Gateway: "web", ID: "1"}
	for _, c := range []struct {
		name             string
		asked            string
		busy, drop, lose int
		decision         Decision
		number           string
		want             string // what is heard; "" for an error
	}{
		{"approves", "web/1 1", 0, 0, 0, Approve, "482913", "web/1 1 n approve 482913"},
		{"denies", "web/1 1", 0, 0, 0, Deny, "", "web/1 1 n deny "},
		{"tries again", "web/1 1", 2, 0, 0, Approve, "1", "web/1 1 n approve 1"},
		{"its answer was used up and not taken", "web/1 1", 0, 2, 0, Approve, "5", "web/1 1 n approve 5"},
		{"its answer was taken unheard", "web/1 1", 0, 0, 1, Approve, "2", "web/1 1 n approve 2"},
		{"nothing is asked", "", 0, 0, 0, Approve, "3", ""},
		{"asked in another round", "web/1 2", 0, 0, 0, Approve, "4", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			s.asked, s.busy, s.drop, s.lose, s.heard = c.asked, c.busy, c.drop, c.lose, nil
			err := p.Decide(t.Context(), line, login, 1, c.decision, c.number)
			if (err == nil) != (c.want != "") || strings.Join(s.heard, ",") != c.want {
				t.Errorf("heard %q, want %q; %v", s.heard, c.want, err)
			}
		})
	}
}
