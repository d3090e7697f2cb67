package gateway

import (
	"maps"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/sekisho/sekisho/events"
)

// adjust changes the record of a session, and lets every gateway read it again.
func (w *world) adjust(login events.Login, set string) {
	w.t.Helper()
	if _, err := w.db.Exec(w.t.Context(), `UPDATE sessions.sessions SET `+set+` WHERE gateway = $1 AND login = $2`, login.Gateway, login.ID); err != nil {
		w.t.Fatal(err)
	}
	w.later(sessionAge)
}

// What a session of one app is worth in another follows that app's policy.
func TestSessionsInOtherApps(t *testing.T) {
	w := newWorld(t)
	policy := policyFile + `  wiki: {factors: [sms]}
  tokens: {methods: [none], factors: [token], on_review: 1}
  fresh: {session_max_age: 1h}
  own: {session_max_age: 0s}
  closed: {on_unavailable: deny}
  open: {on_unavailable: allow}
`
	if err := os.WriteFile(w.policy, []byte(policy), 0o600); err != nil {
		t.Fatal(err)
	}
	app := w.app(w.gateway())
	login, _ := w.signedIn(app)
	for _, test := range []struct{ session, app, want string }{
		{`amr = '{pwd}', verdict = 'OK'`, "demo", "enough"},
		{`amr = '{pwd}', verdict = 'OK'`, "wiki", "enough"},
		{`amr = '{pwd}', verdict = 'OK'`, "payroll", "short"},
		{`amr = '{pwd}', verdict = 'OK'`, "tokens", "nothing"}, // a password does not count there
		{`amr = '{pwd}', verdict = 'OK'`, "fresh", "enough"},
		{`amr = '{pwd}', verdict = 'OK'`, "own", "nothing"},
		{`amr = '{pwd}', verdict = 'REVIEW'`, "wiki", "short"}, // demo let it in when its policy was another
		{`amr = '{pwd}', verdict = 'NG'`, "wiki", "short"},     // risk is assessed again
		{`amr = '{pwd}', verdict = ''`, "wiki", "short"},       // not known: on_unavailable, step_up by default
		{`amr = '{pwd}', verdict = ''`, "open", "enough"},
		{`amr = '{pwd,sms}', verdict = ''`, "closed", "short"},
		{`amr = '{pwd,sms}', verdict = 'REVIEW'`, "wiki", "enough"},
		{`amr = '{pwd,otp}', verdict = 'REVIEW'`, "wiki", "short"}, // which takes no tokens
		{`amr = '{pwd,sms}', verdict = 'OK'`, "payroll", "enough"},
		{`amr = '{otp}', verdict = 'OK'`, "tokens", "enough"},
		{`amr = '{pwd}', verdict = 'OK', auth_time = auth_time - interval '1 hour'`, "fresh", "nothing"},
	} {
		w.adjust(login, test.session)
		r := app.get("/auth/check?app=" + test.app)
		got := "enough"
		switch {
		case r.StatusCode == http.StatusUnauthorized && strings.Contains(r.Header.Get("WWW-Authenticate"), "insufficient_user_authentication"):
			got = "short"
		case r.StatusCode == http.StatusUnauthorized:
			got = "nothing"
		case r.StatusCode != http.StatusOK:
			t.Fatalf("%d %s", r.StatusCode, r.body)
		}
		if got != test.want {
			t.Errorf("session %s in %s: %s, want %s", test.session, test.app, got, test.want)
		}
		if want := map[string]int{"enough": 409, "nothing": 422}[test.want]; want > 0 {
			app.post("/v1/logins", map[string]any{"method": "session", "app": test.app, "wait": "0s"}).status(t, want)
		}
	}
}

// A login may ask for more factors than its app does, of who has a session for that app too.
func TestMoreThanTheAppAsksFor(t *testing.T) {
	w := newWorld(t)
	if err := os.WriteFile(w.policy, []byte(policyFile+"  own: {session_max_age: 0s}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	app := w.app(w.gateway())
	ask := func(more map[string]any) reply {
		body := map[string]any{"app": "demo", "wait": "0s", "tokens": true}
		maps.Copy(body, more)
		return app.post("/v1/logins", body)
	}
	password := func(acr string) map[string]any {
		return map[string]any{"user": "alice", "method": "password", "password": "secret password", "acr": acr}
	}
	for acr, need := range map[string]int{"": 0, "1fa": 1, "2fa": 2, "3fa": 3} {
		if requested, _ := w.identity(ask(password(acr)).status(t, http.StatusCreated).view(t).login()); requested.Need != need {
			t.Errorf("acr %q: need %d", acr, requested.Need)
		}
	}
	for _, acr := range []string{"0fa", "4fa", "2", "urn:2fa"} {
		ask(password(acr)).status(t, http.StatusUnprocessableEntity)
	}
	first, _ := w.signedIn(app)
	for _, test := range []struct {
		amr, app, acr string
		want          int
	}{
		{"{pwd}", "demo", "", 409}, {"{pwd}", "demo", "1fa", 409}, {"{pwd}", "demo", "2fa", 201},
		{"{pwd,sms}", "demo", "2fa", 409}, {"{pwd,sms}", "demo", "3fa", 201},
		{"{pwd}", "payroll", "1fa", 201}, {"{pwd,sms}", "payroll", "2fa", 409}, // the app's own two
		{"{pwd}", "own", "2fa", 422},
	} {
		w.adjust(first, "verdict = 'OK', amr = '"+test.amr+"'")
		r := ask(map[string]any{"method": "session", "app": test.app, "acr": test.acr}).status(t, test.want)
		if test.want == http.StatusCreated {
			requested, identity := w.identity(r.view(t).login())
			if requested.Need != int(test.acr[0]-'0') || identity.Session != first.ID {
				t.Errorf("%+v: requested %+v of %+v", test, requested, identity)
			}
		}
	}
}

// identity opens what a login tells of its user.
func (w *world) identity(login events.Login) (*events.Requested, events.Identity) {
	w.t.Helper()
	e := w.Await(w.t, login, events.StepRequested, 0)
	requested := e.Data.(*events.Requested)
	var identity events.Identity
	if err := w.Opener(w.t, "identityverifier").Open(requested.Identity, e.Subject(), "identity", &identity); err != nil {
		w.t.Fatal(err)
	}
	return requested, identity
}

func TestStepUpByAPI(t *testing.T) {
	w := newWorld(t)
	app := w.app(w.gateway())
	body := map[string]any{"method": "session", "app": "payroll", "wait": "0s", "tokens": true}
	app.post("/v1/logins", body).status(t, http.StatusUnauthorized)
	first, token := w.signedIn(app)
	w.adjust(first, `amr = '{pwd}', verdict = 'OK'`)

	v := app.post("/v1/logins", body).status(t, http.StatusCreated).view(t)
	requested, identity := w.identity(v.login())
	if requested.Method != events.None || requested.App != "payroll" || identity.User != "alice" || identity.Session != first.ID || identity.Password != "" {
		t.Errorf("requested %+v, identity %+v", requested, identity)
	}
	w.grant(v.login())
	app.header.Set("Authorization", "Bearer "+v.LoginToken)
	now := app.get("/v1/logins/"+v.ID+"?after=1&wait=30s").status(t, http.StatusOK).view(t)
	if now.SessionToken == "" || now.SessionToken == token {
		t.Errorf("the session that was stepped up has no token of its own: %+v", now)
	}

	app.header.Set("Authorization", "Bearer "+token)
	for field, value := range map[string]any{"user": "bob", "password": "x"} {
		r := app.post("/v1/logins", map[string]any{"method": "session", "app": "payroll", field: value}).status(t, http.StatusUnprocessableEntity)
		if !strings.Contains(string(r.body), `"field":"`+field+`"`) {
			t.Errorf("%s: %s", field, r.body)
		}
	}
	// A page of another origin must not step up with the cookie that the browser attaches.
	app.header.Del("Authorization")
	app.header.Set("Cookie", "__Host-sekisho="+token)
	app.post("/v1/logins", body).status(t, http.StatusUnauthorized)
	app.header.Set("Sec-Fetch-Site", "same-origin")
	app.post("/v1/logins", body).status(t, http.StatusCreated)
}

func TestStepUpByPages(t *testing.T) {
	w := newWorld(t)
	browser := w.browser(w.gateway())
	v := browser.post("/v1/logins", startBodyFor("0s")).status(t, http.StatusCreated).view(t)
	w.nextRequest(t)
	w.grant(v.login())
	browser.get("/v1/logins/"+v.ID+"?after=1&wait=30s").status(t, http.StatusOK)
	browser.get("/login?app=payroll").contains(t, `id="password"`) // two factors are enough: who comes here wants to be somebody else
	w.adjust(v.login(), `amr = '{pwd}', verdict = 'OK'`)
	old := browser.cookie(sessionName)

	page := browser.get("/login?app=payroll&return_to=/page").status(t, http.StatusOK)
	page.contains(t, "One more step", "Payroll", "alice", `value="session"`)
	browser.get("/login?app=payroll&return_to=/page&anew=1").status(t, http.StatusOK).contains(t, `id="password"`)
	browser.get("/login?app=demo").status(t, http.StatusOK).contains(t, `id="password"`) // the session is enough there

	requested := make(chan events.Login, 1)
	go func() { requested <- w.nextRequest(t) }()
	answer := later(func() reply {
		return browser.form("/login", page, "app", "payroll", "return_to", "/page", "method", "session")
	})
	login := <-requested
	if _, identity := w.identity(login); identity.Session != v.ID {
		t.Errorf("identity %+v", identity)
	}
	w.grant(login)
	(<-answer).goesTo(t, "/login/"+login.ID)
	browser.get("/login/"+login.ID).goesTo(t, "/page")
	if now := browser.cookie(sessionName); now == "" || now == old {
		t.Error("the session that was stepped up has no token of its own")
	}

	// Another window that shows the page still is led on: the session is enough now.
	browser.form("/login", page, "app", "payroll", "return_to", "/page", "method", "session").goesTo(t, "/page")
	w.later(13 * time.Hour)
	browser.form("/login", page, "app", "payroll", "return_to", "/page", "method", "session").goesTo(t, "/login?app=payroll&return_to=%2Fpage")
	browser.get("/login?app=payroll&return_to=%2Fpage").status(t, http.StatusOK).contains(t, `id="password"`)
	if r := browser.do("POST", "/login", "application/x-www-form-urlencoded", "app=payroll&method=session"); r.StatusCode != http.StatusForbidden {
		t.Errorf("a form without its token: %d", r.StatusCode)
	}
}

// Giving up a step-up ends no session, and the page says so and leads back.
func TestCancelOfAStepUp(t *testing.T) {
	w := newWorld(t)
	browser := w.browser(w.gateway())
	v := browser.post("/v1/logins", startBodyFor("0s")).status(t, http.StatusCreated).view(t)
	w.nextRequest(t)
	w.grant(v.login())
	browser.get("/v1/logins/"+v.ID+"?after=1&wait=30s").status(t, http.StatusOK)
	w.adjust(v.login(), `amr = '{pwd}', verdict = 'OK'`)

	for returnTo, back := range map[string]string{"/page": `id="back" href="/page"`, "": "", "https://evil.example/": ""} {
		page := browser.get("/login?app=payroll").status(t, http.StatusOK)
		begun := later(func() reply {
			return browser.form("/login", page, "app", "payroll", "return_to", returnTo, "method", "session")
		})
		login := w.nextRequest(t)
		w.pushed(login, 1, nil)
		path := (<-begun).status(t, http.StatusSeeOther).Header.Get("Location")
		page = browser.get(path).status(t, http.StatusOK)
		page.lacks(t, `value="password"`) // who is signed in adds to that, and begins nothing anew
		cancelled := later(func() reply { return browser.form(path+"/cancel", page) })
		w.Await(t, login, events.StepCancelled, 0)
		closeLogin(t, w.Broker, login, events.Closed{Outcome: events.CancelledBy})
		(<-cancelled).goesTo(t, path)
		page = browser.get(path).status(t, http.StatusOK)
		page.contains(t, "You are still signed in as before.", back)
		page.lacks(t, "Nobody was signed in", "evil.example")
		if back == "" {
			page.lacks(t, `id="back"`)
		}
		browser.get(path+"?lang=ja").contains(t, "ログインしたままです")
		browser.get(path + "?lang=en")
	}
}
