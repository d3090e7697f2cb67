package gateway

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/sekisho/sekisho/events"
	"github.com/sekisho/sekisho/services/internal/bus"
	"github.com/sekisho/sekisho/services/internal/runtime"
	"github.com/sekisho/sekisho/services/internal/testenv"
)

func TestLoginByAPI(t *testing.T) {
	w := newWorld(t)
	w.onRequested(func(login events.Login) { challenge(t, w.Broker, login, 1) })
	one, two := w.app(w.gateway()), w.app(w.gateway())

	body := startBodyFor("30s")
	body["tokens"] = true
	started := one.post("/v1/logins", body).status(t, http.StatusCreated)
	v := started.view(t)
	if v.Status != events.StatusChallenge || v.Version != 2 || v.App != "demo" || v.LoginToken == "" || len(started.Cookies()) != 0 ||
		started.Header.Get("Location") != "/v1/logins/"+v.ID {
		t.Errorf("started: %s, cookies %v", started.body, started.Cookies())
	}
	if c := v.Challenge; c == nil || c.Round != 1 || c.Factor != events.SMS || c.Hint != "•••-••••-1234" || c.AttemptsLeft != 5 || len(v.Choices) != 2 {
		t.Errorf("challenge: %s", started.body)
	}

	// A wrong code, by another instance.
	two.header.Set("Authorization", "Bearer "+v.LoginToken)
	path := "/v1/logins/" + v.ID
	answer := later(func() reply { return two.post(path+"/answers", map[string]string{"code": "000000", "wait": "30s"}) })
	w.Await(t, v.login(), events.StepAnswered, 1)
	tell(t, w.Broker, "otpvalidator", v.login(), 1, &events.Rejected{Round: 1, Factor: events.SMS, Reason: events.RejectedWrong, AttemptsLeft: 4})
	wrong := (<-answer).status(t, http.StatusOK).view(t)
	if wrong.Status != events.StatusChallenge || wrong.Version != 3 || wrong.Challenge.AttemptsLeft != 4 {
		t.Errorf("after a wrong code: %+v", wrong)
	}

	// The right one, while somebody waits at the first instance.
	one.header.Set("Authorization", "Bearer "+v.LoginToken)
	waiting := later(func() reply { return one.get(path + "?after=3&wait=60s") })
	answer = later(func() reply { return two.post(path+"/answers", map[string]string{"code": "123456", "wait": "30s"}) })
	w.Await(t, v.login(), events.StepAnswered, 2)
	w.grant(v.login())
	granted := (<-answer).status(t, http.StatusOK).view(t)
	if granted.Status != events.StatusGranted || granted.Challenge != nil || granted.SessionToken == "" || granted.Session == nil ||
		granted.Session.User != "alice" || granted.Session.ACR != "2fa" || len(granted.Session.AMR) != 2 {
		t.Errorf("granted: %+v, session %+v", granted, granted.Session)
	}
	if seen := (<-waiting).status(t, http.StatusOK).view(t); seen.Version != granted.Version || seen.Status != events.StatusGranted {
		t.Errorf("who waited saw %+v", seen)
	}

	one.header.Set("Authorization", "Bearer "+granted.SessionToken)
	var me struct {
		User, App, ACR string
		AMR            []string
	}
	if err := json.Unmarshal(one.get("/v1/session").status(t, http.StatusOK).body, &me); err != nil || me.User != "alice" || me.App != "demo" || me.ACR != "2fa" {
		t.Errorf("who am I: %+v, %v", me, err)
	}
	// The token has been used, so the secret of the login is worth no other.
	one.header.Set("Authorization", "Bearer "+v.LoginToken)
	if again := one.get(path).status(t, http.StatusOK).view(t); again.SessionToken != "" || again.Session == nil {
		t.Errorf("after the first use: %+v", again)
	}
	one.get("/v1/session").status(t, http.StatusUnauthorized)
	one.post(path+"/answers", map[string]string{"code": "123456"}).status(t, http.StatusConflict)
	one.do("DELETE", path, "", "").status(t, http.StatusConflict)
}

// The last wrong code ends the login, a moment after it was rejected: the answer tells the end.
func TestLastWrongCode(t *testing.T) {
	w := newWorld(t)
	w.onRequested(func(login events.Login) { challenge(t, w.Broker, login, 1) })
	app := w.app(w.gateway())
	body := startBodyFor("30s")
	body["tokens"] = true
	v := app.post("/v1/logins", body).status(t, http.StatusCreated).view(t)
	app.header.Set("Authorization", "Bearer "+v.LoginToken)
	path := "/v1/logins/" + v.ID
	answer := later(func() reply { return app.post(path+"/answers", map[string]string{"code": "000000", "wait": "30s"}) })
	w.Await(t, v.login(), events.StepAnswered, 1)
	tell(t, w.Broker, "otpvalidator", v.login(), 1, &events.Rejected{Round: 1, Factor: events.SMS, Reason: events.RejectedWrong, AttemptsLeft: 0})
	app.get(path+"?after=2&wait=30s").status(t, http.StatusOK) // it has been heard
	closeLogin(t, w.Broker, v.login(), events.Closed{Outcome: events.Failed, Reason: events.FailedAttempts})
	if end := (<-answer).status(t, http.StatusOK).view(t); end.Status != events.StatusFailed || end.Reason != events.FailedAttempts {
		t.Errorf("after the last wrong code: %+v", end)
	}
}

func TestSessionTokenIsGivenOutForAMinute(t *testing.T) {
	w := newWorld(t)
	app := w.app(w.gateway())
	body := startBodyFor("0s")
	body["tokens"] = true
	v := app.post("/v1/logins", body).status(t, http.StatusCreated).view(t)
	if v.Status != events.StatusPending || v.Challenge != nil {
		t.Fatalf("started: %+v", v)
	}
	w.grant(v.login())
	app.header.Set("Authorization", "Bearer "+v.LoginToken)
	first := app.get("/v1/logins/"+v.ID+"?after=1&wait=30s").status(t, http.StatusOK).view(t)
	if first.SessionToken == "" {
		t.Fatalf("granted: %+v", first)
	}
	w.later(time.Minute)
	if late := app.get("/v1/logins/"+v.ID).status(t, http.StatusOK).view(t); late.SessionToken != "" || late.Status != events.StatusGranted {
		t.Errorf("after a minute: %+v", late)
	}
	app.header.Set("Authorization", "Bearer "+first.SessionToken)
	app.get("/v1/session").status(t, http.StatusOK)
}

func TestLoginByBrowserScript(t *testing.T) {
	w := newWorld(t)
	browser := w.browser(w.gateway())
	started := browser.post("/v1/logins", startBodyFor("0s")).status(t, http.StatusCreated)
	v := started.view(t)
	if v.LoginToken != "" {
		t.Error("a script can read the secret")
	}
	cookies := started.Cookies()
	if len(cookies) != 1 || cookies[0].Name != "__Host-sekisho_login" || !cookies[0].HttpOnly || !cookies[0].Secure || cookies[0].Path != "/" ||
		cookies[0].Domain != "" || cookies[0].SameSite != http.SameSiteLaxMode {
		t.Errorf("cookies %v", cookies)
	}
	w.grant(v.login())
	granted := browser.get("/v1/logins/"+v.ID+"?after=1&wait=30s").status(t, http.StatusOK)
	if v := granted.view(t); v.SessionToken != "" || v.Session == nil {
		t.Errorf("granted: %s", granted.body)
	}
	if browser.cookie("__Host-sekisho") == "" || browser.cookie("__Host-sekisho_device") == "" {
		t.Error("no session, or no device in the browser")
	}
	browser.get("/v1/session").status(t, http.StatusOK)

	// Without the word of the browser that a page of ours asks, cookies do not count.
	browser.header.Del("Sec-Fetch-Site")
	browser.get("/v1/session").status(t, http.StatusUnauthorized)
	browser.get("/v1/logins/"+v.ID).status(t, http.StatusNotFound)
	browser.header.Set("Origin", "https://evil.example")
	browser.do("DELETE", "/v1/session", "", "").status(t, http.StatusUnauthorized)
	browser.header.Set("Origin", browser.base)
	browser.do("DELETE", "/v1/session", "", "").status(t, http.StatusNoContent)
	browser.get("/v1/session").status(t, http.StatusUnauthorized)
}

func TestResendAndCancelByAPI(t *testing.T) {
	w := newWorld(t)
	app := w.app(w.gateway())
	body := startBodyFor("0s")
	body["tokens"] = true
	v := app.post("/v1/logins", body).view(t)
	app.header.Set("Authorization", "Bearer "+v.LoginToken)
	path := "/v1/logins/" + v.ID
	app.post(path+"/answers", map[string]string{"code": "123456"}).status(t, http.StatusConflict)
	app.post(path+"/factor", map[string]string{"factor": "sms"}).status(t, http.StatusConflict)
	challenge(t, w.Broker, v.login(), 1)
	app.get(path+"?after=1&wait=30s").status(t, http.StatusOK)

	resent := later(func() reply { return app.post(path+"/factor", map[string]string{"factor": "sms", "wait": "30s"}) })
	w.Await(t, v.login(), events.StepChosen, 1)
	challenge(t, w.Broker, v.login(), 2)
	if v := (<-resent).status(t, http.StatusOK).view(t); v.Challenge == nil || v.Challenge.Round != 2 {
		t.Errorf("resent: %+v", v)
	}
	app.post(path+"/factor", map[string]string{"factor": "token", "wait": "0s"}).status(t, http.StatusAccepted)
	early := app.post(path+"/factor", map[string]string{"factor": "token", "wait": "0s"}).status(t, http.StatusTooManyRequests)
	if early.Header.Get("Retry-After") == "" {
		t.Error("429 without Retry-After")
	}
	app.post(path+"/answers", map[string]string{"code": "123456", "wait": "0s"}).status(t, http.StatusAccepted)

	cancelled := later(func() reply { return app.do("DELETE", path, "", "") })
	w.Await(t, v.login(), events.StepCancelled, 0)
	closeLogin(t, w.Broker, v.login(), events.Closed{Outcome: events.CancelledBy})
	if v := (<-cancelled).status(t, http.StatusOK).view(t); v.Status != events.StatusCancelled {
		t.Errorf("cancelled: %+v", v)
	}
}

// tokenAsked challenges each login with a token. An answer of rightCode is granted, any other rejected.
// stop waits for what is under way, which the end of the test would cut off.
func (w *world) tokenAsked(question string) (stop func()) {
	w.t.Helper()
	stopAsking := w.onRequested(func(login events.Login) {
		tell(w.t, w.Broker, "otpvalidator", login, 1, &events.Challenged{Factor: events.Token, Question: question, Expires: time.Now().Add(time.Minute),
			Choices: []events.Factor{events.Token, events.Push}})
	})
	opener := w.Opener(w.t, "otpvalidator")
	stopJudging := testenv.Start(w.t, w.Bus(w.t, "otpvalidator"), bus.On(func(_ context.Context, e *events.Event, data *events.Answered) ([]*events.Event, error) {
		var code string
		if err := opener.Open(data.Code, e.Subject(), "code", &code); err != nil {
			return nil, bus.Permanent(err)
		}
		if code == rightCode {
			w.grant(e.Login)
			return nil, nil
		}
		return []*events.Event{events.New(e.Login, e.N, &events.Rejected{Round: data.Round, Factor: data.Factor,
			Reason: events.RejectedWrong, AttemptsLeft: events.Attempts - e.N})}, nil
	}))
	return func() { stopAsking(); stopJudging() }
}

// rightCode has all the digits that there may be: a PIN, and a token's one-time password.
const rightCode = "123456789012345678"

func TestCodeThatComesWithTheName(t *testing.T) {
	start := map[string]any{"user": "carol", "method": "none", "app": "demo", "code": rightCode, "tokens": true, "wait": "30s"}
	for name, question := range map[string]string{"": "", "with a question, which not every token needs": "1827"} {
		t.Run("right "+name, func(t *testing.T) {
			w := newWorld(t)
			defer w.tokenAsked(question)()
			v := w.app(w.gateway()).post("/v1/logins", start).status(t, http.StatusCreated).view(t)
			if v.Status != events.StatusGranted || v.SessionToken == "" {
				t.Errorf("started: %+v", v)
			}
			requested := w.Await(t, v.login(), events.StepRequested, 0).Data.(*events.Requested)
			if requested.Prefer != events.Token || requested.Method != events.None {
				t.Errorf("requested %+v", requested)
			}
		})
	}
	t.Run("wrong", func(t *testing.T) {
		w := newWorld(t)
		defer w.tokenAsked("")()
		app := w.app(w.gateway())
		wrong := maps.Clone(start)
		wrong["code"] = "87654321"
		v := app.post("/v1/logins", wrong).status(t, http.StatusCreated).view(t)
		if v.Status != events.StatusChallenge || v.Challenge.Factor != events.Token || v.Challenge.AttemptsLeft != 4 {
			t.Errorf("after a wrong code: %+v, %+v", v, v.Challenge)
		}
		app.header.Set("Authorization", "Bearer "+v.LoginToken)
		path := "/v1/logins/" + v.ID + "/answers"
		app.post(path, map[string]string{"code": rightCode + "9"}).status(t, http.StatusUnprocessableEntity)
		if v := app.post(path, map[string]string{"code": rightCode, "wait": "30s"}).status(t, http.StatusOK).view(t); v.Status != events.StatusGranted {
			t.Errorf("after the right one: %+v", v)
		}
	})
	t.Run("of a user without a token", func(t *testing.T) {
		w := newWorld(t)
		defer w.onRequested(func(login events.Login) { w.pushed(login, 1, nil) })()
		app := w.app(w.gateway())
		v := app.post("/v1/logins", start).status(t, http.StatusCreated).view(t)
		if v.Status != events.StatusChallenge || v.Challenge.Factor != events.Push {
			t.Fatalf("started: %+v", v)
		}
		// The user takes another factor, which is answered by the user alone.
		app.header.Set("Authorization", "Bearer "+v.LoginToken)
		chosen := later(func() reply {
			return app.post("/v1/logins/"+v.ID+"/factor", map[string]string{"factor": "sms", "wait": "30s"})
		})
		w.Await(t, v.login(), events.StepChosen, 1)
		challenge(t, w.Broker, v.login(), 2)
		(<-chosen).status(t, http.StatusOK)
		app.post("/v1/logins/"+v.ID+"/answers", map[string]string{"code": "123456", "wait": "0s"}).status(t, http.StatusAccepted)
		first := w.Await(t, v.login(), events.StepAnswered, 1)
		var code string
		if err := w.Opener(t, "otpvalidator").Open(first.Data.(*events.Answered).Code, first.Subject(), "code", &code); err != nil || code != "123456" {
			t.Errorf("the first answer is %q, %v", code, err)
		}
	})
}

func TestCookiesSpeakForNobodyWithoutTheirOrigin(t *testing.T) {
	w := newWorld(t)
	base := w.gateway()
	app := w.app(base)
	app.header.Set("Cookie", collectorCookie+"=assessed-1")
	for origin, want := range map[string]string{"": "", base: "assessed-1", "https://evil.example": ""} {
		app.header.Set("Origin", origin)
		login := app.post("/v1/logins", startBodyFor("0s")).status(t, http.StatusCreated).view(t).login()
		requested := w.Await(t, login, events.StepRequested, 0).Data.(*events.Requested)
		var environment events.Environment
		if err := w.Opener(t, "riskassessor").Open(requested.Environment, login.Subject(events.StepRequested, 0), "environment", &environment); err != nil {
			t.Fatal(err)
		}
		if environment.Assessment != want {
			t.Errorf("origin %q: assessment %q, want %q", origin, environment.Assessment, want)
		}
	}
}

func TestBadStarts(t *testing.T) {
	w := newWorld(t)
	app := w.app(w.gateway())
	const good = `"user":"alice","method":"password","password":"secret","app":"demo","wait":"0s"`
	tests := []struct {
		name, contentType, body string
		status                  int
		field                   string
	}{
		{"no content type", "", `{` + good + `}`, 415, ""},
		{"a form", "application/x-www-form-urlencoded", "user=alice", 415, ""},
		{"other charset", "application/json; charset=shift_jis", `{` + good + `}`, 415, ""},
		{"nothing", "application/json", ``, 400, ""},
		{"not JSON", "application/json", `{"user"`, 400, ""},
		{"not UTF-8", "application/json", "{\"user\":\"\xff\"}", 400, ""},
		{"a duplicate", "application/json", `{"user":"bob",` + good + `}`, 400, "user"},
		{"more behind", "application/json", `{` + good + `}{}`, 400, ""},
		{"an array", "application/json", `[]`, 422, ""},
		{"unknown field", "application/json", `{` + good + `,"admin":true}`, 422, "admin"},
		{"wrong case", "application/json", `{` + good + `,"Locale":"ja"}`, 422, "Locale"},
		{"wrong type", "application/json", `{"user":7}`, 422, "user"},
		{"too large", "application/json", `{"user":"` + strings.Repeat("a", 17<<10) + `"}`, 413, ""},
		{"no user", "application/json", `{"method":"password","password":"x","app":"demo"}`, 422, "user"},
		{"long user", "application/json", `{"user":"` + strings.Repeat("a", 257) + `","method":"password","password":"x","app":"demo"}`, 422, "user"},
		{"no app", "application/json", `{"user":"alice","method":"password","password":"x"}`, 422, "app"},
		{"unknown app", "application/json", `{"user":"alice","method":"password","password":"x","app":"other"}`, 422, "app"},
		{"no method", "application/json", `{"user":"alice","password":"x","app":"demo"}`, 422, "method"},
		{"unknown method", "application/json", `{"user":"alice","method":"magic","app":"demo"}`, 422, "method"},
		{"no password", "application/json", `{"user":"alice","method":"password","app":"demo"}`, 422, "password"},
		{"long password", "application/json", `{"user":"alice","method":"password","password":"` + strings.Repeat("a", 1025) + `","app":"demo"}`, 422, "password"},
		{"password too many", "application/json", `{"user":"alice","method":"none","password":"x","app":"demo"}`, 422, "password"},
		{"code", "application/json", `{` + good + `,"code":"12345"}`, 422, "code"},
		{"long code", "application/json", `{` + good + `,"code":"1234567890123456789"}`, 422, "code"},
		{"spaced code", "application/json", `{` + good + `,"code":"123 456"}`, 422, "code"},
		{"a field of the page", "application/json", `{` + good + `,"byToken":true}`, 422, "byToken"},
		{"locale", "application/json", `{` + good + `,"locale":"fr"}`, 422, "locale"},
		{"assessment", "application/json", `{` + good + `,"assessment":"a b"}`, 422, "assessment"},
		{"return_to", "application/json", `{` + good + `,"return_to":"https://evil.example/"}`, 422, "return_to"},
		{"wait", "application/json", `{"user":"alice","method":"password","password":"x","app":"demo","wait":"soon"}`, 422, "wait"},
		{"negative wait", "application/json", `{"user":"alice","method":"password","password":"x","app":"demo","wait":"-1s"}`, 422, "wait"},
	}
	for _, tt := range tests {
		r := app.do("POST", "/v1/logins", tt.contentType, tt.body).status(t, tt.status)
		var problem struct {
			Title, Field string
			Status       int
		}
		if err := json.Unmarshal(r.body, &problem); err != nil || r.Header.Get("Content-Type") != "application/problem+json" ||
			problem.Status != tt.status || problem.Title == "" || problem.Field != tt.field {
			t.Errorf("%s: %s, want field %q", tt.name, r.body, tt.field)
		}
	}
}

func TestBadLaterCalls(t *testing.T) {
	w := newWorld(t)
	app := w.app(w.gateway())
	body := startBodyFor("0s")
	body["tokens"] = true
	v := app.post("/v1/logins", body).view(t)
	other := app.post("/v1/logins", body).view(t)
	challenge(t, w.Broker, v.login(), 1)
	app.header.Set("Authorization", "Bearer "+v.LoginToken)
	path := "/v1/logins/" + v.ID
	app.get(path+"?after=1&wait=30s").status(t, http.StatusOK)

	for _, code := range []string{"", "12345", "1234567", "12345a", "１２３４５６", "+12345", " 123456"} {
		app.post(path+"/answers", map[string]string{"code": code}).status(t, http.StatusUnprocessableEntity)
	}
	if e := w.Await(t, v.login(), events.StepChallenged, 1); e == nil {
		t.Fatal("no challenge")
	}
	if n := app.get(path).view(t).Challenge.AttemptsLeft; n != 5 {
		t.Errorf("%d attempts left, want 5", n)
	}
	app.post(path+"/answers", map[string]int{"code": 123456}).status(t, http.StatusUnprocessableEntity)
	app.post(path+"/factor", map[string]string{"factor": "mail"}).status(t, http.StatusUnprocessableEntity)
	app.post(path+"/factor", map[string]string{"factor": "push"}).status(t, http.StatusConflict) // not among the choices
	app.get(path+"?after=x").status(t, http.StatusUnprocessableEntity)
	app.get(path+"?after=1&wait=x").status(t, http.StatusUnprocessableEntity)
	if r := app.do("PUT", path, "application/json", "{}").status(t, http.StatusMethodNotAllowed); r.Header.Get("Allow") != "DELETE, GET, HEAD" {
		t.Errorf("Allow: %s", r.Header.Get("Allow"))
	}
	app.get("/v1/nothing").status(t, http.StatusNotFound)

	for name, token := range map[string]string{
		"none": "", "another login's": other.LoginToken, "truncated": v.LoginToken[:60], "longer": v.LoginToken + "A", "of no use": "x",
	} {
		app.header.Set("Authorization", "Bearer "+token)
		for _, try := range []func() reply{
			func() reply { return app.get(path) },
			func() reply { return app.get(path + "/events") },
			func() reply { return app.post(path+"/answers", map[string]string{"code": "123456"}) },
			func() reply { return app.post(path+"/factor", map[string]string{"factor": "sms"}) },
			func() reply { return app.do("DELETE", path, "", "") },
		} {
			r := try()
			if r.StatusCode != http.StatusNotFound {
				t.Errorf("secret %s: %s %s: %d", name, r.Request.Method, r.Request.URL.Path, r.StatusCode)
			}
		}
	}
}

func TestLoginsPerSource(t *testing.T) {
	w := newWorld(t)
	app := w.app(w.gateway(func(env *runtime.Env) {
		env.Config.Limits.LoginsPerSource = 2
		env.Config.Gateway.Proxies = []string{"127.0.0.0/8", "::1/128"}
	}))
	app.header.Set("X-Forwarded-For", "2001:db8::1")
	for range 2 {
		app.post("/v1/logins", startBodyFor("0s")).status(t, http.StatusCreated)
	}
	app.header.Set("X-Forwarded-For", "2001:db8::2") // the same network
	if r := app.post("/v1/logins", startBodyFor("0s")).status(t, http.StatusTooManyRequests); r.Header.Get("Retry-After") != "30" {
		t.Errorf("Retry-After: %s", r.Header.Get("Retry-After"))
	}
	app.header.Set("X-Forwarded-For", "192.0.2.7")
	app.post("/v1/logins", startBodyFor("0s")).status(t, http.StatusCreated)
}

func TestEventStream(t *testing.T) {
	w := newWorld(t)
	app := w.app(w.gateway())
	body := startBodyFor("0s")
	body["tokens"] = true
	v := app.post("/v1/logins", body).view(t)
	r, err := http.NewRequestWithContext(t.Context(), "GET", app.base+"/v1/logins/"+v.ID+"/events", nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer "+v.LoginToken)
	resp, err := app.client.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != 200 || resp.Header.Get("Content-Type") != "text/event-stream" {
		t.Fatalf("%d %v", resp.StatusCode, resp.Header)
	}
	lines := bufio.NewScanner(resp.Body)
	next := func(version int) (view loginView) {
		t.Helper()
		for lines.Scan() {
			if data, ok := strings.CutPrefix(lines.Text(), "data: "); ok {
				if err := json.Unmarshal([]byte(data), &view); err != nil || view.Version != version {
					t.Fatalf("version %d, %v; want %d", view.Version, err, version)
				}
				return view
			}
			if id, ok := strings.CutPrefix(lines.Text(), "id: "); ok && id != fmt.Sprint(version) {
				t.Errorf("id %s, want %d", id, version)
			}
		}
		t.Fatalf("the stream ended before version %d: %v", version, lines.Err())
		return view
	}
	next(1)
	challenge(t, w.Broker, v.login(), 1)

	// Who has seen all there is is connected at once, without an event: less than a heartbeat later.
	again := r.Clone(t.Context())
	again.Header.Set("Last-Event-ID", "2")
	hurried := *app.client
	hurried.Timeout = heartbeat * 2 / 3
	if other, err := hurried.Do(again); err != nil {
		t.Error(err)
	} else {
		other.Body.Close()
	}

	if got := next(2); got.Challenge == nil {
		t.Errorf("version 2: %+v", got)
	}
	w.grant(v.login())
	if got := next(3); got.Status != events.StatusGranted || got.SessionToken == "" {
		t.Errorf("version 3: %+v", got)
	}
	for lines.Scan() {
		if lines.Text() != "" {
			t.Errorf("after the end: %q", lines.Text())
		}
	}
	// A browser connects again, and is told not to.
	app.header.Set("Authorization", "Bearer "+v.LoginToken)
	app.header.Set("Last-Event-ID", "3")
	app.get("/v1/logins/"+v.ID+"/events").status(t, http.StatusNoContent)
}

// A stream shows at once that it lives, by a comment, or to who asks for it by an event.
func TestStreamShowsThatItLives(t *testing.T) {
	w := newWorld(t)
	base := w.gateway()
	client := w.browser(base)
	v := client.post("/v1/logins", startBodyFor("0s")).status(t, http.StatusCreated).view(t)
	for query, want := range map[string]string{"": ":", "?alive": "event: alive"} {
		r, err := http.NewRequestWithContext(t.Context(), "GET", base+"/v1/logins/"+v.ID+"/events"+query, nil)
		if err != nil {
			t.Fatal(err)
		}
		r.Header = client.header.Clone()
		resp, err := client.client.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewScanner(resp.Body)
		if lines.Scan(); lines.Text() != want {
			t.Errorf("%q: begins with %q, want %q", query, lines.Text(), want)
		}
		resp.Body.Close()
	}
}

func TestBusIsAway(t *testing.T) {
	w := newWorld(t)
	app := w.app(w.gateway())
	w.Server.Shutdown()
	w.Server.WaitForShutdown()
	r := app.post("/v1/logins", startBodyFor("0s")).status(t, http.StatusServiceUnavailable)
	if r.Header.Get("Retry-After") == "" {
		t.Error("503 without Retry-After")
	}
}

// heldOpen is an answer that tells whether the server's time-out for reading was lifted.
type heldOpen struct {
	*httptest.ResponseRecorder
	lifted bool
}

func (h *heldOpen) SetReadDeadline(at time.Time) error {
	h.lifted = at.IsZero()
	return nil
}

func TestWaitingOutlastsReadTimeout(t *testing.T) {
	w := newWorld(t)
	challenged := make(chan struct{}, 2)
	w.onRequested(func(login events.Login) {
		challenge(t, w.Broker, login, 1)
		challenged <- struct{}{}
	})
	public := w.handler()
	for wait, want := range map[string]bool{"0s": false, "30s": true} {
		body, err := json.Marshal(startBodyFor(wait))
		if err != nil {
			t.Fatal(err)
		}
		r := httptest.NewRequestWithContext(t.Context(), "POST", "/v1/logins", bytes.NewReader(body))
		r.Header.Set("Content-Type", "application/json")
		answer := &heldOpen{ResponseRecorder: httptest.NewRecorder()}
		public.ServeHTTP(answer, r)
		if answer.Code != http.StatusCreated || answer.lifted != want {
			t.Errorf("wait %s: %d, time-out lifted %v, want %v", wait, answer.Code, answer.lifted, want)
		}
		<-challenged // the connection that says so ends with the test
	}
}
