package authenticator

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
	"github.com/golang-jwt/jwt/v5"

	"github.com/sekisho/sekisho/services/gateway/pages"
	"github.com/sekisho/sekisho/services/internal/testenv"
)

func TestMain(m *testing.M) { testenv.Main(m) }

// A prompt is one of the device API's.
type prompt struct {
	Login   string    `json:"login"`
	Round   int       `json:"round"`
	Nonce   string    `json:"nonce"`
	App     string    `json:"app"`
	Place   string    `json:"place"`
	Browser string    `json:"browser"`
	Asked   time.Time `json:"asked"`
	Expires time.Time `json:"expires"`
	Number  bool      `json:"number"`

	AppNames map[string]string `json:"app_names,omitempty"`
}

type notice struct {
	ID      string    `json:"id"`
	Kind    string    `json:"kind"`
	App     string    `json:"app,omitempty"`
	Place   string    `json:"place,omitempty"`
	Browser string    `json:"browser,omitempty"`
	Device  string    `json:"device,omitempty"`
	At      time.Time `json:"at"`

	AppNames map[string]string `json:"app_names,omitempty"`
}

type phone struct {
	ID       string    `json:"id"`
	Name     string    `json:"name"`
	User     string    `json:"user,omitempty"`
	Enrolled time.Time `json:"enrolled"`
	Seen     time.Time `json:"seen"`
	This     bool      `json:"this,omitempty"`
}

const (
	goodCode = "AAAABBBBCCCCDDDDEEEEFFFF"
	number   = "482913"
	vapidKey = "BNcRdreALRFXTkOOUHK1EtK2wtaz5Ry4YfYCA_0QTpQtUbVlUls0VJXg7A8u-Ts1XbjhazAkj7I99e8QcYP7DkM"
)

// A far is the far end of the app: its files, and a device API for the user alice that checks what proves a request as the real one does.
type far struct {
	asked int // prompts so far
	*httptest.Server
	t *testing.T

	mu        sync.Mutex
	down      bool // connections break
	deployed  bool // files are of another version
	noStream  bool
	locked    bool                        // the account is: answers do not count, and what is asked stays
	full      bool                        // the user has as many phones as a user may have
	mute      bool                        // streams say nothing
	dying     bool                        // answers are used up, and then connections break
	older     bool                        // answers want a proof beside them
	used      map[string]bool             // assertions, by id
	keys      map[string]*ecdsa.PublicKey // by device
	phones    []phone
	prompts   []prompt
	notices   []notice
	decisions []string // "approve 482913"
	attempts  int
	vapid     string
	changed   chan struct{}
}

func newFar(t *testing.T) *far {
	t.Helper()
	p, err := pages.New()
	if err != nil {
		t.Fatal(err)
	}
	app, err := New([]string{"/assets/style.css", "/assets/icon.svg"}, "1")
	if err != nil {
		t.Fatal(err)
	}
	f := &far{t: t, keys: make(map[string]*ecdsa.PublicKey), used: make(map[string]bool), attempts: 3, changed: make(chan struct{})}
	mux := http.NewServeMux()
	app.Register(mux, http.NotFoundHandler())
	mux.Handle("GET /assets/", p.Assets())
	mux.HandleFunc("/v1/authenticator/", f.api)
	f.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		f.mu.Lock()
		down, deployed := f.down, f.deployed
		f.mu.Unlock()
		if down {
			panic(http.ErrAbortHandler)
		}
		if deployed && r.URL.Path == "/authenticator/views.js" {
			w.Header().Set("Content-Type", "text/javascript")
			io.WriteString(w, "export const elsewhere = true;")
			return
		}
		mux.ServeHTTP(w, r)
	}))
	t.Cleanup(f.Close)
	return f
}

// change changes what is there, and tells all streams.
func (f *far) change(what func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	what()
	close(f.changed)
	f.changed = make(chan struct{})
}

// breakOff makes the network go away, or come back.
func (f *far) breakOff(down bool) {
	f.change(func() { f.down = down })
	if down {
		f.CloseClientConnections()
	}
}

func (f *far) ask(change func(*prompt)) {
	f.change(func() {
		f.asked++ // each is of a login of its own, as it is in life
		p := prompt{Login: fmt.Sprintf("web/0199a4c1-7d3e-7bbb-8a52-%012x", f.asked), Round: 1, Nonce: "bm9uY2Vub25jZW5vbmNlIQ", App: "Sekisho demo", Place: "JP (192.0.2.7)",
			Browser: "Firefox, Windows", Asked: time.Now(), Expires: time.Now().Add(2 * time.Minute), Number: true}
		if change != nil {
			change(&p)
		}
		f.prompts = append(f.prompts, p)
	})
}

func (f *far) decided() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return append([]string(nil), f.decisions...)
}

// signer checks what proves a request, and gives the id of its device, empty for one that has none yet.
func (f *far) signer(r *http.Request, body []byte) (string, error) {
	scheme, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	if r.Method+" "+r.URL.Path == "POST /v1/authenticator/prompts" && !f.older {
		if scheme != "" {
			f.t.Errorf("an answer is signed twice: %s", r.Header)
		}
		return f.answerer(body)
	}
	if scheme != "Device" {
		return "", errors.New("no proof")
	}
	var claims struct {
		HTM, HTU, Body string
		jwt.RegisteredClaims
	}
	parsed, err := f.verify(token, "sekisho-device+jwt", &claims)
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(body)
	if claims.HTM != r.Method || claims.HTU != r.URL.Path || len(claims.ID) < 16 || claims.Body != base64.RawURLEncoding.EncodeToString(sum[:]) ||
		time.Since(claims.IssuedAt.Time).Abs() > time.Minute {
		return "", errors.New("the proof is of another request")
	}
	id, _ := parsed.Header["kid"].(string)
	return id, nil
}

// answerer checks an assertion and uses it up.
func (f *far) answerer(body []byte) (string, error) {
	var in struct{ Assertion string }
	if err := json.Unmarshal(body, &in); err != nil {
		return "", err
	}
	var claims jwt.RegisteredClaims
	parsed, err := f.verify(in.Assertion, "sekisho-assertion+jwt", &claims)
	if err != nil {
		return "", err
	}
	if len(claims.ID) < 16 || f.used[claims.ID] || time.Since(claims.IssuedAt.Time).Abs() > time.Minute {
		return "", errors.New("the assertion is of another request")
	}
	f.used[claims.ID] = true
	if f.dying {
		panic(http.ErrAbortHandler)
	}
	return parsed.Header["kid"].(string), nil
}

func (f *far) verify(token, typ string, claims jwt.Claims) (*jwt.Token, error) {
	return jwt.ParseWithClaims(token, claims, func(t *jwt.Token) (any, error) {
		if t.Header["typ"] != typ {
			return nil, errors.New("another type")
		}
		if kid, ok := t.Header["kid"].(string); ok {
			if key := f.keys[kid]; key != nil {
				return key, nil
			}
			return nil, errors.New("unknown device")
		}
		jwk, _ := t.Header["jwk"].(map[string]any)
		point := []byte{4}
		for _, name := range []string{"x", "y"} {
			coordinate, err := base64.RawURLEncoding.DecodeString(jwk[name].(string))
			if err != nil {
				return nil, err
			}
			point = append(point, coordinate...)
		}
		return ecdsa.ParseUncompressedPublicKey(elliptic.P256(), point)
	}, jwt.WithValidMethods([]string{"ES256"}), jwt.WithoutClaimsValidation())
}

func (f *far) api(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	device, err := func() (string, error) {
		f.mu.Lock()
		defer f.mu.Unlock()
		return f.signer(r, body)
	}()
	if err != nil {
		w.Header().Set("WWW-Authenticate", "Device")
		http.Error(w, "{}", http.StatusUnauthorized)
		return
	}
	if r.Method+" "+r.URL.Path == "GET /v1/authenticator/stream" {
		f.stream(w, r)
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	status, answer := f.handle(device, r.Method+" "+strings.TrimPrefix(r.URL.Path, "/v1/authenticator/"), body)
	if answer == nil {
		w.WriteHeader(status)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(answer)
}

func (f *far) stream(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	off, mute, changed := f.noStream, f.mute, f.changed
	f.mu.Unlock()
	if off {
		http.Error(w, "{}", http.StatusBadGateway)
		return
	}
	w.Header().Set("Content-Type", "text/event-stream")
	if mute {
		w.(http.Flusher).Flush()
		<-r.Context().Done()
		return
	}
	io.WriteString(w, ":\n\n")
	for {
		w.(http.Flusher).Flush()
		select {
		case <-r.Context().Done():
			return
		case <-changed:
		}
		f.mu.Lock()
		changed = f.changed
		f.mu.Unlock()
		io.WriteString(w, "event: prompts\n\n")
	}
}

// handle answers a request. The caller holds f.mu.
func (f *far) handle(device, request string, body []byte) (int, any) {
	var in struct{ Activation, Name, Public_key, Assertion, Decision string }
	if len(body) > 0 {
		json.Unmarshal(body, &in)
	}
	switch verb, path, _ := strings.Cut(request, " "); {
	case request == "POST devices":
		if in.Activation != goodCode {
			return 422, map[string]any{"title": "Unprocessable Entity", "status": 422, "field": "activation"}
		}
		if in.Name == "" {
			return 422, map[string]any{"title": "Unprocessable Entity", "status": 422, "field": "name"}
		}
		if f.full {
			return 409, map[string]any{"title": "Conflict", "status": 409}
		}
		point, _ := base64.RawURLEncoding.DecodeString(in.Public_key)
		key, err := ecdsa.ParseUncompressedPublicKey(elliptic.P256(), point)
		if err != nil {
			return 422, map[string]any{"field": "public_key"}
		}
		p := phone{ID: "d" + in.Name, Name: in.Name, User: "alice", Enrolled: time.Now(), Seen: time.Now()}
		f.keys[p.ID] = key
		f.phones = append(f.phones, p)
		return 201, map[string]any{"device": p, "vapid": f.vapid, "app": "Sekisho"}
	case request == "GET devices":
		var all []phone
		for _, p := range f.phones {
			p.This = p.ID == device
			all = append(all, p)
		}
		return 200, map[string]any{"devices": all, "vapid": f.vapid}
	case verb == "PATCH":
		for i := range f.phones {
			if "devices/"+f.phones[i].ID == path {
				f.phones[i].Name = in.Name
			}
		}
		return 200, map[string]any{}
	case verb == "DELETE":
		f.remove(strings.TrimPrefix(path, "devices/"))
		return 204, nil
	case request == "PUT subscription":
		return 204, nil
	case request == "GET prompts":
		return 200, map[string]any{"prompts": append([]prompt{}, f.prompts...), "notices": append([]notice{}, f.notices...)}
	case request == "POST prompts":
		return f.answer(in.Assertion)
	case verb == "POST":
		f.decisions = append(f.decisions, path+" "+in.Decision)
		f.notices = slices.DeleteFunc(f.notices, func(n notice) bool { return "notices/"+n.ID == path })
		return 204, nil
	}
	return 404, map[string]any{}
}

func (f *far) remove(id string) {
	delete(f.keys, id)
	var left []phone
	for _, p := range f.phones {
		if p.ID != id {
			left = append(left, p)
		}
	}
	f.phones = left
}

func (f *far) answer(assertion string) (int, any) {
	var claims struct {
		Login, Nonce, Number, Decision string
		Round                          int
		jwt.RegisteredClaims
	}
	if _, err := f.verify(assertion, "sekisho-assertion+jwt", &claims); err != nil {
		return 422, map[string]any{"field": "assertion"}
	}
	if len(f.prompts) == 0 || f.locked {
		return 409, map[string]any{}
	}
	p := f.prompts[0]
	if claims.Login != p.Login || claims.Round != p.Round || claims.Nonce != p.Nonce {
		return 422, map[string]any{"field": "assertion"}
	}
	f.decisions = append(f.decisions, strings.TrimSpace(claims.Decision+" "+claims.Number))
	result := map[string]string{"approve": "approved", "deny": "denied", "not_me": "denied"}[claims.Decision]
	if claims.Decision == "approve" && p.Number && claims.Number != number {
		result, f.attempts = "wrong", f.attempts-1
	}
	if f.attempts == 0 {
		result = "over"
	}
	if result != "wrong" {
		f.prompts = f.prompts[1:]
	}
	return 200, map[string]any{"result": result, "attempts_left": f.attempts}
}

// A screen is the app in a browser as small as a phone's.
type screen struct {
	t   *testing.T
	far *far
	ctx context.Context
}

func open(t *testing.T, f *far, language, path string) *screen {
	t.Helper()
	s := &screen{t, f, testenv.Chromium(t, language)}
	s.do(chromedp.EmulateViewport(390, 844), chromedp.Navigate(f.URL+path))
	return s
}

// activated is a screen whose app holds a key.
func activated(t *testing.T, f *far, language string) *screen {
	t.Helper()
	s := open(t, f, language, "/authenticator#"+goodCode)
	s.do(chromedp.WaitVisible("#name"))
	s.evaluate(`document.getElementById("name").value = "Pixel"`)
	s.do(chromedp.Click("form .primary"), chromedp.WaitVisible("#connection .live"))
	return s
}

func (s *screen) do(steps ...chromedp.Action[chromedp.Void]) {
	s.t.Helper()
	if err := chromedp.Do(s.ctx, steps...); err != nil {
		s.picture("failed")
		s.t.Fatal(err)
	}
}

func (s *screen) evaluate(expression string) string {
	s.t.Helper()
	value, err := chromedp.Run(s.ctx, chromedp.Evaluate[string](`String(`+expression+`)`))
	if err != nil {
		s.t.Fatal(err)
	}
	return value
}

func (s *screen) text() string {
	s.t.Helper()
	return s.evaluate(`document.querySelector("main").innerText`)
}

// shows waits until the app shows a text.
func (s *screen) shows(texts ...string) {
	s.t.Helper()
	for _, text := range texts {
		quoted, err := json.Marshal(text)
		if err != nil {
			s.t.Fatal(err)
		}
		if _, err := chromedp.Run(s.ctx, chromedp.Poll[bool](`document.body.innerText.includes(`+string(quoted)+`)`, chromedp.WithPollingTimeout(0))); err != nil {
			s.t.Fatalf("waiting for %q: %v; there is %q", text, err, s.text())
		}
	}
}

// until waits until an expression is true.
func (s *screen) until(expression string) {
	s.t.Helper()
	if _, err := chromedp.Run(s.ctx, chromedp.Poll[bool](expression, chromedp.WithPollingTimeout(0))); err != nil {
		s.t.Fatalf("waiting for %s: %v; there is %q", expression, err, s.text())
	}
}

// workerReady waits until the service worker has kept the shell and taken over the page.
func (s *screen) workerReady() {
	s.t.Helper()
	s.until(`navigator.serviceWorker.controller?.state === "activated"`)
}

// focused checks where the focus is: the id of an element, or the name of one that has none.
func (s *screen) focused(want string) {
	s.t.Helper()
	if at := s.evaluate(`document.activeElement.id || document.activeElement.tagName`); at != want {
		s.t.Errorf("the focus is on %q, not on %q", at, want)
	}
}

// wrong checks that a field has the focus, and says what is wrong with it.
func (s *screen) wrong(id, problem string) {
	s.t.Helper()
	s.focused(id)
	described := `document.activeElement.getAttribute("aria-describedby")`
	if got := s.evaluate(`document.activeElement.getAttribute("aria-invalid") + " " + document.getElementById(` + described + `)?.textContent`); got != "true "+problem {
		s.t.Errorf("#%s is %q", id, got)
	}
}

// press clicks the button with a text.
func (s *screen) press(text string) {
	s.t.Helper()
	s.do(chromedp.Click(`//button[normalize-space()="` + text + `"]`))
}

// picture keeps what the page looks like, where SEKISHO_TEST_PICTURES names a folder.
func (s *screen) picture(name string) {
	s.t.Helper()
	dir := os.Getenv("SEKISHO_TEST_PICTURES")
	if dir == "" {
		return
	}
	png, err := chromedp.Run(s.ctx, chromedp.FullScreenshot(100))
	if err != nil {
		s.t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, strings.ReplaceAll(s.t.Name(), "/", "-")+"-"+name+".png"), png, 0o600); err != nil {
		s.t.Fatal(err)
	}
}
