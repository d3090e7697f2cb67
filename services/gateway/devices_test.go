package gateway

import (
	"bufio"
	"encoding/json"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/sekisho/sekisho/events"
	"github.com/sekisho/sekisho/services/internal/runtime"
)

// A desk is pushnotifier's end of the device API. It answers what the test says, and keeps what it was asked.
type desk struct {
	t     *testing.T
	hints *nats.Conn

	mu     sync.Mutex
	answer func(events.DeviceRequest) events.DeviceResponse
	asked  []events.DeviceRequest
}

func (w *world) desk(answer func(events.DeviceRequest) events.DeviceResponse) *desk {
	w.t.Helper()
	opener := w.Opener(w.t, "pushnotifier")
	d := &desk{t: w.t, hints: w.Dial(w.t, "pushnotifier"), answer: answer}
	sub, err := d.hints.Subscribe(events.DeviceSubject("*"), func(msg *nats.Msg) {
		reply, err := events.ServeDevice(opener, msg.Subject, msg.Data, func(gateway string, r events.DeviceRequest) events.DeviceResponse {
			d.mu.Lock()
			defer d.mu.Unlock()
			d.asked = append(d.asked, r)
			return d.answer(r)
		})
		if err == nil {
			err = msg.Respond(reply)
		}
		if err != nil {
			w.t.Errorf("device request: %v", err)
		}
	})
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { _ = sub.Unsubscribe() })
	if err := d.hints.Flush(); err != nil {
		w.t.Fatal(err)
	}
	return d
}

func (d *desk) last() events.DeviceRequest {
	d.t.Helper()
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.asked) == 0 {
		d.t.Fatal("nothing was handed on")
	}
	return d.asked[len(d.asked)-1]
}

func (d *desk) count() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return len(d.asked)
}

func (d *desk) hint(device string) {
	d.t.Helper()
	if err := d.hints.Publish(events.HintSubject("web", device), nil); err != nil {
		d.t.Fatal(err)
	}
	if err := d.hints.Flush(); err != nil {
		d.t.Fatal(err)
	}
}

func answered(status int, body string) events.DeviceResponse {
	return events.DeviceResponse{Status: status, Type: "application/json", Body: []byte(body)}
}

func TestPhonesAreHandedOn(t *testing.T) {
	w := newWorld(t)
	d := w.desk(func(events.DeviceRequest) events.DeviceResponse { return answered(http.StatusOK, `{"prompts":[]}`) })
	base := w.gateway()
	phone := w.app(base)
	phone.header.Set("Authorization", "Device a.b.c")
	r := phone.get("/v1/authenticator/prompts").status(t, http.StatusOK)
	if string(r.body) != `{"prompts":[]}` || r.Header.Get("Content-Type") != "application/json" || r.Header.Get("WWW-Authenticate") != "" {
		t.Errorf("answer %s %v", r.body, r.Header)
	}
	if q := d.last(); q.Method != "GET" || q.Path != "/v1/authenticator/prompts" || q.Proof != "Device a.b.c" || q.Session != "" || q.Base != base || len(q.Body) != 0 {
		t.Errorf("handed on %+v", q)
	}
	phone.post("/v1/authenticator/notices/n1", map[string]string{"decision": "seen"}).status(t, http.StatusOK)
	if q := d.last(); q.Method != "POST" || q.Path != "/v1/authenticator/notices/n1" || string(q.Body) != `{"decision":"seen"}` {
		t.Errorf("handed on %+v", q)
	}

	// What proves an answer is in it.
	for _, header := range []string{"", "Device a.b.c", "Bearer x"} {
		phone.header.Set("Authorization", header)
		phone.post("/v1/authenticator/prompts", map[string]string{"assertion": "d.e.f"}).status(t, http.StatusOK)
		if q := d.last(); q.Method != "POST" || q.Path != "/v1/authenticator/prompts" || string(q.Body) != `{"assertion":"d.e.f"}` || q.Proof != "" {
			t.Errorf("handed on %+v", q)
		}
	}
	phone.header.Set("Authorization", "Device a.b.c")

	d.answer = func(events.DeviceRequest) events.DeviceResponse {
		return events.DeviceResponse{Status: http.StatusTooManyRequests, Type: "application/problem+json", Body: []byte(`{}`), RetryAfter: 7}
	}
	if r := phone.get("/v1/authenticator/devices").status(t, http.StatusTooManyRequests); r.Header.Get("Retry-After") != "7" {
		t.Errorf("headers %v", r.Header)
	}
	d.answer = func(events.DeviceRequest) events.DeviceResponse { return answered(http.StatusUnauthorized, `{}`) }
	for _, path := range []string{"/v1/authenticator/devices", "/v1/authenticator/stream"} {
		if r := phone.get(path).status(t, http.StatusUnauthorized); r.Header.Get("WWW-Authenticate") != "Device" {
			t.Errorf("%s: headers %v", path, r.Header)
		}
	}
	phone.header.Del("Authorization")
	r = phone.post("/v1/authenticator/prompts", map[string]string{"assertion": "d.e.f"}).status(t, http.StatusUnauthorized)
	if r.Header.Get("WWW-Authenticate") != "Device" {
		t.Errorf("an answer: headers %v", r.Header)
	}
}

// What is plainly wrong does not get any further.
func TestPhonesAreBounded(t *testing.T) {
	w := newWorld(t)
	d := w.desk(func(events.DeviceRequest) events.DeviceResponse { return answered(http.StatusOK, `{}`) })
	phone := w.app(w.gateway(func(env *runtime.Env) { env.Config.Limits.DevicePerSource = 6 }))
	for _, proof := range []string{"", "Bearer a.b.c", "Device"} {
		if phone.header.Set("Authorization", proof); proof == "Device" {
			break
		}
		if r := phone.get("/v1/authenticator/prompts").status(t, http.StatusUnauthorized); r.Header.Get("WWW-Authenticate") != "Device" {
			t.Errorf("headers %v", r.Header)
		}
	}
	phone.header.Set("Authorization", "Device a.b.c")
	phone.do("POST", "/v1/authenticator/prompts", "text/plain", `{}`).status(t, http.StatusUnsupportedMediaType)
	phone.do("POST", "/v1/authenticator/prompts", "application/json", strings.Repeat("a", 17<<10)).status(t, http.StatusRequestEntityTooLarge)
	phone.get("/v1/authenticator/nothing").status(t, http.StatusNotFound)
	phone.do("PUT", "/v1/authenticator/prompts", "", "").status(t, http.StatusMethodNotAllowed)
	if d.count() != 0 {
		t.Errorf("handed on %+v", d.asked)
	}
	for range 6 {
		phone.get("/v1/authenticator/prompts").status(t, http.StatusOK)
	}
	if r := phone.get("/v1/authenticator/prompts").status(t, http.StatusTooManyRequests); r.Header.Get("Retry-After") == "" {
		t.Errorf("headers %v", r.Header)
	}
}

func TestNobodyAnswersPhones(t *testing.T) {
	w := newWorld(t)
	phone := w.app(w.gateway())
	phone.header.Set("Authorization", "Device a.b.c")
	if r := phone.get("/v1/authenticator/prompts").status(t, http.StatusServiceUnavailable); r.Header.Get("Retry-After") == "" {
		t.Errorf("headers %v", r.Header)
	}
}

// A follower reads the stream of a phone.
type follower struct {
	t *testing.T
	*http.Response
	lines *bufio.Scanner
}

func (c *caller) follow(t *testing.T) *follower {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), "GET", c.base+"/v1/authenticator/stream", nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Header = c.header.Clone()
	resp, err := c.client.Do(r)
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("stream: %v %v", resp, err)
	}
	t.Cleanup(func() { resp.Body.Close() })
	f := &follower{t, resp, bufio.NewScanner(resp.Body)}
	f.line(":") // it is open
	f.line("")
	return f
}

func (f *follower) line(want string) {
	f.t.Helper()
	if !f.lines.Scan() || f.lines.Text() != want {
		f.t.Fatalf("stream says %q, want %q (%v)", f.lines.Text(), want, f.lines.Err())
	}
}

func (f *follower) hinted() {
	f.t.Helper()
	f.line("event: prompts")
	f.line("data:")
	f.line("")
}

func (f *follower) ended() {
	f.t.Helper()
	if f.lines.Scan() {
		f.t.Fatalf("the stream goes on: %q", f.lines.Text())
	}
}

func TestStreamOfHints(t *testing.T) {
	w := newWorld(t)
	d := w.desk(func(r events.DeviceRequest) events.DeviceResponse {
		return answered(http.StatusOK, `{"device":"`+strings.TrimPrefix(r.Proof, "Device ")+`"}`)
	})
	phone, other := w.app(w.gateway(func(env *runtime.Env) { env.Config.Gateway.StreamsPerDevice = 2 })), w.app("")
	other.base = phone.base
	phone.header.Set("Authorization", "Device d1")
	other.header.Set("Authorization", "Device d2")
	first, second, strange := phone.follow(t), phone.follow(t), other.follow(t)
	if first.Header.Get("Content-Type") != "text/event-stream" {
		t.Errorf("headers %v", first.Header)
	}
	d.hint("d1")
	first.hinted()
	second.hinted()
	third := phone.follow(t) // one too many: the oldest ends
	first.ended()
	d.hint("d1")
	second.hinted()
	third.hinted()
	d.hint("d2") // the first that this one hears
	strange.hinted()
}

// A phone proves its key again and again, since it may have been removed.
func TestStreamEnds(t *testing.T) {
	w := newWorld(t)
	w.desk(func(events.DeviceRequest) events.DeviceResponse { return answered(http.StatusOK, `{"device":"d1"}`) })
	phone := w.app(w.gateway(func(env *runtime.Env) { env.Config.Gateway.MaxStream = 10 * time.Millisecond }))
	phone.header.Set("Authorization", "Device d1")
	phone.follow(t).ended()
}

func TestDevicesOfTheSession(t *testing.T) {
	w := newWorld(t)
	d := w.desk(func(events.DeviceRequest) events.DeviceResponse { return answered(http.StatusOK, `{"devices":[]}`) })
	app := w.app(w.gateway())
	app.get("/v1/devices").status(t, http.StatusUnauthorized)
	app.post("/v1/activations", nil).status(t, http.StatusUnauthorized)
	if d.count() != 0 {
		t.Errorf("handed on %+v", d.asked)
	}
	login, token := w.signedIn(app)
	app.get("/v1/devices").status(t, http.StatusOK)
	if q := d.last(); q.Session != login.ID || q.Proof != "" || q.Path != "/v1/devices" {
		t.Errorf("handed on %+v", q)
	}
	d.answer = func(events.DeviceRequest) events.DeviceResponse {
		return answered(http.StatusCreated, `{"expires":"x"}`)
	}
	app.do("POST", "/v1/activations", "", "").status(t, http.StatusCreated)

	// A cookie counts for pages of the gateway only.
	browser := w.app(app.base)
	browser.header.Set("Cookie", sessionName+"="+token)
	browser.get("/v1/devices").status(t, http.StatusUnauthorized)
	browser.header.Set("Sec-Fetch-Site", "same-origin")
	browser.get("/v1/devices").status(t, http.StatusCreated)

	// An old session may look, and change nothing.
	w.later(10 * time.Minute)
	asked := d.count()
	for _, call := range [][2]string{{"POST", "/v1/activations"}, {"DELETE", "/v1/devices/d1"}, {"PATCH", "/v1/devices/d1"}} {
		r := app.do(call[0], call[1], "", "").status(t, http.StatusUnauthorized)
		if got := r.Header.Get("WWW-Authenticate"); got != `Bearer error="insufficient_user_authentication", max_age=600` {
			t.Errorf("%v: %s", call, got)
		}
	}
	if d.count() != asked {
		t.Errorf("an old session changed something: %+v", d.last())
	}
	app.get("/v1/devices").status(t, http.StatusCreated)
	d.answer = func(events.DeviceRequest) events.DeviceResponse { return answered(http.StatusUnauthorized, `{}`) }
	if r := app.get("/v1/devices").status(t, http.StatusUnauthorized); r.Header.Get("WWW-Authenticate") != "Bearer" {
		t.Errorf("headers %v", r.Header)
	}
}

// signedInBrowser is a browser with a session of alice's.
func (w *world) signedInBrowser(base string) *caller {
	w.t.Helper()
	_, token := w.signedIn(w.app(base))
	browser := w.browser(base)
	browser.client.Jar.SetCookies(mustParse(w.t, base), []*http.Cookie{{Name: sessionName, Value: token, Path: "/", Secure: true}})
	return browser
}

const twoPhones = `{"devices":[{"id":"d1","name":"Pixel <9>","enrolled":"2026-01-01T00:00:00Z","seen":"2026-01-02T00:00:00Z"},{"id":"d2","name":"Galaxy","enrolled":"2026-01-01T00:00:00Z"}]}`

func TestDevicesPage(t *testing.T) {
	w := newWorld(t)
	var refuse int
	d := w.desk(func(r events.DeviceRequest) events.DeviceResponse {
		switch {
		case r.Method == http.MethodGet:
			return answered(http.StatusOK, twoPhones)
		case refuse != 0:
			return answered(refuse, `{}`)
		case r.Path == "/v1/activations":
			return answered(http.StatusCreated, `{"activation_url":"https://login.example/authenticator#code","qr_svg":"<svg/>","expires":"2030-01-01T00:00:00Z"}`)
		default:
			return answered(http.StatusOK, `{}`)
		}
	})
	browser := w.browser(w.gateway())
	browser.get("/devices").goesTo(t, "/login?app=demo&return_to=%2Fdevices")
	browser = w.signedInBrowser(browser.base)
	browser.get("/").status(t, http.StatusOK).contains(t, `href="/devices"`)
	page := browser.get("/devices").status(t, http.StatusOK)
	page.contains(t, "alice", "Pixel &lt;9&gt;", "Galaxy", `action="/devices/d1"`, `action="/devices/d2/remove"`,
		`<summary aria-label="Rename: Pixel &lt;9&gt;">`, `<summary aria-label="Remove: Galaxy">`)

	browser.form("/devices/d1", page, "name", " Pixel 10 ").goesTo(t, "/devices")
	if q := d.last(); q.Method != "PATCH" || q.Path != "/v1/devices/d1" || string(q.Body) != `{"name":"Pixel 10"}` || q.Session == "" {
		t.Errorf("handed on %+v", q)
	}
	browser.form("/devices/d2/remove", page).goesTo(t, "/devices")
	if q := d.last(); q.Method != "DELETE" || q.Path != "/v1/devices/d2" {
		t.Errorf("handed on %+v", q)
	}
	invitation := browser.form("/devices", page).status(t, http.StatusOK)
	invitation.contains(t, `src="data:image/svg&#43;xml;base64,PHN2Zy8&#43;"`, `href="https://login.example/authenticator#code"`)
	if q := d.last(); q.Method != "POST" || q.Path != "/v1/activations" || !strings.HasPrefix(q.Base, "http://127.0.0.1:") {
		t.Errorf("handed on %+v", q)
	}

	for status, text := range map[int]string{http.StatusUnprocessableEntity: "Use a name", http.StatusConflict: "as many phones as are allowed"} {
		refuse = status
		browser.form("/devices/d1", page, "name", "").status(t, status).contains(t, text, "Galaxy")
	}
	refuse = http.StatusNotFound
	browser.form("/devices/d9/remove", page).goesTo(t, "/devices")
	refuse = http.StatusUnauthorized // the session has ended meanwhile
	browser.form("/devices/d1/remove", page).goesTo(t, "/login?app=demo&return_to=%2Fdevices")
	refuse = http.StatusServiceUnavailable
	browser.form("/devices/d1/remove", page).status(t, http.StatusServiceUnavailable)
	refuse = 0

	asked := d.count()
	browser.form("/devices/%2e%2e%2fx/remove", page).status(t, http.StatusNotFound)
	browser.do("POST", "/devices", "application/x-www-form-urlencoded", "csrf=forged").status(t, http.StatusForbidden)
	w.later(10 * time.Minute)
	browser.form("/devices", page).goesTo(t, "/devices")
	if d.count() != asked {
		t.Errorf("handed on %+v", d.last())
	}
	stale := browser.get("/devices").status(t, http.StatusOK)
	stale.contains(t, "sign in again", "anew=1", "Galaxy")
	if strings.Contains(string(stale.body), "<form") {
		t.Error("an old session is offered to change something")
	}
}

const insufficient = `Bearer error="insufficient_user_authentication", acr_values="2fa"`

// Where pushnotifier asks for more than was shown for the session, an app is told so.
func TestDevicesTakeMoreByAPI(t *testing.T) {
	w := newWorld(t)
	w.desk(func(events.DeviceRequest) events.DeviceResponse {
		return events.DeviceResponse{Status: http.StatusUnauthorized, Type: "application/problem+json", Authenticate: insufficient,
			Body: []byte(`{"title":"Unauthorized","status":401,"app":"demo","acr":"2fa","method":"session"}`)}
	})
	app := w.app(w.gateway())
	w.signedIn(app)
	for _, call := range [][2]string{{"POST", "/v1/activations"}, {"DELETE", "/v1/devices/d1"}, {"PATCH", "/v1/devices/d1"}} {
		r := app.do(call[0], call[1], "", "").status(t, http.StatusUnauthorized)
		if r.Header.Get("WWW-Authenticate") != insufficient || !strings.Contains(string(r.body), `"acr":"2fa"`) {
			t.Errorf("%v: %v %s", call, r.Header, r.body)
		}
	}
}

// The page leads whoever has shown too little through a step-up and back, or to a login anew where a step-up can not do it.
func TestDevicesTakeMoreByPage(t *testing.T) {
	w := newWorld(t)
	var short string // the session that is not enough
	method := `,"method":"session"`
	w.desk(func(r events.DeviceRequest) events.DeviceResponse {
		switch {
		case r.Method == http.MethodGet:
			return answered(http.StatusOK, twoPhones)
		case r.Session == short:
			return events.DeviceResponse{Status: http.StatusUnauthorized, Authenticate: insufficient,
				Body: []byte(`{"title":"Unauthorized","status":401,"app":"demo","acr":"2fa"` + method + `}`)}
		default:
			return answered(http.StatusCreated, `{"activation_url":"https://login.example/authenticator#code","qr_svg":"<svg/>","expires":"2030-01-01T00:00:00Z"}`)
		}
	})
	browser := w.browser(w.gateway())
	v := browser.post("/v1/logins", startBodyFor("0s")).status(t, http.StatusCreated).view(t)
	w.nextRequest(t)
	w.grant(v.login())
	browser.get("/v1/logins/"+v.ID+"?after=1&wait=30s").status(t, http.StatusOK)
	w.adjust(v.login(), `amr = '{pwd}', verdict = 'OK'`)
	short = v.ID

	page := browser.get("/devices").status(t, http.StatusOK)
	const asked = "/login?acr=2fa&app=demo&return_to=%2Fdevices"
	browser.form("/devices/d1", page, "name", "x").goesTo(t, asked)
	browser.form("/devices/d1/remove", page).goesTo(t, asked)
	browser.form("/devices", page).goesTo(t, asked)
	step := browser.get(asked).status(t, http.StatusOK)
	step.contains(t, "One more step", `value="session"`, `acr=2fa`, "anew=1")
	begun := later(func() reply {
		return browser.form("/login", step, "app", formField(t, step, "app"), "acr", formField(t, step, "acr"), "return_to", "/devices", "method", "session")
	})
	login := w.nextRequest(t)
	if requested, identity := w.identity(login); requested.Need != 2 || identity.Session != short {
		t.Errorf("requested %+v of %+v", requested, identity)
	}
	w.grant(login)
	(<-begun).goesTo(t, "/login/"+login.ID)
	browser.get("/login/"+login.ID).goesTo(t, "/devices")
	page = browser.get("/devices").status(t, http.StatusOK)
	browser.form("/devices", page).status(t, http.StatusOK).contains(t, "authenticator#code")
	browser.form("/login", step, "app", "demo", "acr", "2fa", "return_to", "/devices", "method", "session").goesTo(t, "/devices") // another window

	short, method = login.ID, ""
	browser.form("/devices", page).goesTo(t, "/login?acr=2fa&anew=1&app=demo&return_to=%2Fdevices")
	anew := browser.get("/login?acr=2fa&anew=1&app=demo&return_to=%2Fdevices").status(t, http.StatusOK)
	anew.contains(t, `id="password"`, `name="acr" value="2fa"`)
	wrong := browser.form("/login", anew, "app", "demo", "acr", "2fa", "return_to", "/devices", "user", "alice", "password", "")
	wrong.contains(t, `name="acr" value="2fa"`)
	begun = later(func() reply {
		return browser.form("/login", anew, "app", "demo", "acr", "2fa", "return_to", "/devices", "user", "alice", "password", "secret password")
	})
	login = w.nextRequest(t)
	if requested, _ := w.identity(login); requested.Need != 2 || requested.Method != events.Password {
		t.Errorf("requested %+v", requested)
	}
	closeLogin(t, w.Broker, login, events.Closed{Outcome: events.Denied})
	(<-begun).goesTo(t, "/login/"+login.ID)
	browser.get("/login/"+login.ID).contains(t, "acr=2fa") // again, for as much
}

func TestDevicesPageWithoutPushnotifier(t *testing.T) {
	w := newWorld(t)
	browser := w.signedInBrowser(w.gateway())
	browser.get("/devices").status(t, http.StatusServiceUnavailable)
}

// The app of the phone is there, with a policy of its own.
func TestAuthenticatorIsServed(t *testing.T) {
	w := newWorld(t)
	r := w.app(w.gateway()).get("/authenticator")
	if r.StatusCode != http.StatusOK || !strings.Contains(r.Header.Get("Content-Security-Policy"), "trusted-types") || r.Header.Get("Cache-Control") != "no-cache" {
		t.Errorf("%d %v", r.StatusCode, r.Header)
	}
	manifest := w.app(w.gateway()).get("/authenticator/manifest.webmanifest")
	if !json.Valid(manifest.body) {
		t.Errorf("manifest %s", manifest.body)
	}
}

// Below the app, too, people get a page where there is nothing, in their language and with a way back to the app.
func TestNothingBelowTheAuthenticator(t *testing.T) {
	w := newWorld(t)
	browser := w.browser(w.gateway())
	browser.header.Set("Accept", "text/html")
	for _, path := range []string{"/authenticator/x", "/authenticator/index.html", "/authenticator/", "/authenticator/x/y"} {
		browser.header.Set("Accept-Language", "en")
		browser.get(path).status(t, http.StatusNotFound).contains(t, "There is nothing here", `href="/authenticator"`)
		browser.header.Set("Accept-Language", "ja")
		browser.get(path).status(t, http.StatusNotFound).contains(t, "ページが見つかりません", `href="/authenticator"`)
		browser.get(path+"?lang=en").status(t, http.StatusNotFound).contains(t, "There is nothing here")
		delete(browser.header, "Accept-Language")
		browser.client.Jar = secureJar()
	}
	page := browser.get("/x").status(t, http.StatusNotFound)
	page.contains(t, `href="/"`)
	page.lacks(t, `href="/authenticator"`)
}
