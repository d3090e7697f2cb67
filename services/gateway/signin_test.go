package gateway

import (
	"encoding/base64"
	"fmt"
	"html"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sekisho/sekisho/events"
	"github.com/sekisho/sekisho/services/internal/runtime"
	"github.com/sekisho/sekisho/services/internal/testenv"
)

// goesTo makes sure of a redirect.
func (r reply) goesTo(t *testing.T, want string) {
	t.Helper()
	r.status(t, http.StatusSeeOther)
	if got := r.Header.Get("Location"); got != want {
		t.Errorf("%s %s leads to %s, want %s", r.Request.Method, r.Request.URL.Path, got, want)
	}
}

func (r reply) contains(t *testing.T, texts ...string) {
	t.Helper()
	for _, text := range texts {
		if !strings.Contains(string(r.body), text) {
			t.Errorf("%s %s: no %q in %s", r.Request.Method, r.Request.URL.Path, text, r.body)
		}
	}
}

func (r reply) lacks(t *testing.T, texts ...string) {
	t.Helper()
	for _, text := range texts {
		if strings.Contains(string(r.body), text) {
			t.Errorf("%s %s: %q in %s", r.Request.Method, r.Request.URL.Path, text, r.body)
		}
	}
}

func signInFields(more ...string) []string {
	return append([]string{"app", "demo", "user", "alice", "password", "secret password", "method", "password"}, more...)
}

func TestLoginByPages(t *testing.T) {
	w := newWorld(t)
	w.onRequested(func(login events.Login) { challenge(t, w.Broker, login, 1) })
	browser := w.browser(w.gateway())
	other := w.gateway()

	browser.get("/").goesTo(t, "/login?app=demo")
	page := browser.get("/login?app=demo&return_to=/page").status(t, http.StatusOK)
	page.contains(t, "Sekisho demo", `value="/page"`)
	r := browser.form("/login", page, signInFields("return_to", "/page")...)
	r.status(t, http.StatusSeeOther)
	path := r.Header.Get("Location")
	id, ok := strings.CutPrefix(path, "/login/")
	if !ok {
		t.Fatalf("leads to %s", path)
	}
	login := events.Login{Gateway: "web", ID: id}

	browser.base = other // the other instance goes on
	browser.client.Jar.SetCookies(mustParse(t, other), nil)
	page = browser.get(path).status(t, http.StatusOK)
	page.contains(t, "•••-••••-1234", `data-status="challenge"`)

	bad := browser.form(path+"/answers", page, "code", "12345").status(t, http.StatusUnprocessableEntity)
	bad.contains(t, "Enter all digits", `<dd>5</dd>`)

	// Full-width digits and a space are what people type.
	answer := later(func() reply { return browser.form(path+"/answers", page, "code", "１２３ 456") })
	e := w.Await(t, login, events.StepAnswered, 1)
	var code string
	if err := w.Opener(t, "otpvalidator").Open(e.Data.(*events.Answered).Code, e.Subject(), "code", &code); err != nil || code != "123456" {
		t.Errorf("code %q, %v", code, err)
	}
	tell(t, w.Broker, "otpvalidator", login, 1, &events.Rejected{Round: 1, Factor: events.SMS, Reason: events.RejectedWrong, AttemptsLeft: 4})
	(<-answer).goesTo(t, path)
	browser.get(path).status(t, http.StatusOK).contains(t, "That code is not right", `<dd>4</dd>`)

	resent := later(func() reply { return browser.form(path+"/factor", page, "factor", "sms") })
	w.Await(t, login, events.StepChosen, 1)
	challenge(t, w.Broker, login, 2)
	(<-resent).goesTo(t, path)
	browser.get(path).status(t, http.StatusOK).contains(t, "A new message is on its way", `data-round="2"`)

	answer = later(func() reply { return browser.form(path+"/answers", page, "code", "654321") })
	w.Await(t, login, events.StepAnswered, 2)
	w.grant(login)
	(<-answer).goesTo(t, path)
	browser.get(path).goesTo(t, "/page")
	home := browser.get("/").status(t, http.StatusOK)
	home.contains(t, "alice", "Text message code", "2fa")
	browser.get(path).status(t, http.StatusOK).contains(t, `data-onward="" href="/page"`) // the session is given once

	out := browser.form("/logout", home).status(t, http.StatusOK)
	browser.get("/").goesTo(t, "/login?app=demo")
	browser.get(path).goesTo(t, "/page") // where nobody is signed in any more
	if lang := browser.get(otherLanguage(t, out)).status(t, http.StatusOK).Header.Get("Content-Language"); lang != "ja" {
		t.Errorf("the link to Japanese leads to a page in %s", lang)
	}
}

// otherLanguage is where a page's link to the other language leads.
func otherLanguage(t *testing.T, page reply) string {
	t.Helper()
	_, after, ok := strings.Cut(string(page.body), `hreflang="`)
	_, after, there := strings.Cut(after, `href="`)
	link, _, closed := strings.Cut(after, `"`)
	target, err := page.Request.URL.Parse(html.UnescapeString(link))
	if !ok || !there || !closed || err != nil {
		t.Fatalf("no link to the other language: %v in %s", err, page.body)
	}
	return target.RequestURI()
}

// The page that answers a form has no address of its own: its link to the other language leads to the start page, and is kept.
func TestLanguageOfAFormThatFailed(t *testing.T) {
	w := newWorld(t)
	browser := w.browser(w.gateway())
	failed := browser.do("POST", "/logout", "application/x-www-form-urlencoded", "").status(t, http.StatusForbidden)
	browser.get(otherLanguage(t, failed)).goesTo(t, "/login?app=demo")
	browser.get("/login?app=demo").contains(t, `<html lang="ja">`)
	missing := browser.get("/login/0199").status(t, http.StatusNotFound)
	if link := otherLanguage(t, missing); link != "/login/0199?lang=en" {
		t.Errorf("the link of a page that was asked for leads to %s", link)
	}
}

// typing is a browser at a page that asks for a code.
func (w *world) typing(adjust ...func(*runtime.Env)) (browser *caller, login events.Login, path string) {
	w.t.Helper()
	browser = w.browser(w.gateway(adjust...))
	page := browser.get("/login").status(w.t, http.StatusOK)
	done := later(func() reply { return browser.form("/login", page, signInFields()...) })
	login = w.nextRequest(w.t)
	challenge(w.t, w.Broker, login, 1)
	path = (<-done).status(w.t, http.StatusSeeOther).Header.Get("Location")
	return browser, login, path
}

func TestCodeThatRanOut(t *testing.T) {
	const over = "This code has run out. Ask for a new one."
	w := newWorld(t)
	browser, login, path := w.typing()
	browser.get(path).status(t, http.StatusOK).lacks(t, over)
	tell(t, w.Broker, "otpvalidator", login, 1, &events.Rejected{Round: 1, Factor: events.SMS, Reason: events.RejectedExpired, AttemptsLeft: 4})
	browser.getsTo(path, over).lacks(t, "not right")

	challenge(t, w.Broker, login, 2)
	page := browser.getsTo(path, `data-round="2"`)
	page.lacks(t, over)
	w.later(5 * time.Minute)
	browser.get(path).contains(t, over, `class="primary" id="resend"`)
	browser.form(path+"/answers", page, "code", "12").status(t, http.StatusUnprocessableEntity).contains(t, over)
	tell(t, w.Broker, "smsdispatcher", login, 3, &events.Undelivered{Factor: events.SMS, Reason: events.UndeliveredDown})
	browser.getsTo(path, "could not be delivered").lacks(t, over)
	tell(t, w.Broker, "smsdispatcher", login, 4, &events.Challenged{Factor: events.SMS, Expires: time.Now().Add(5 * time.Minute)})
	browser.getsTo(path, "This code has run out. Please start again.")
}

// A code whose verdict takes its time is not asked for once more.
func TestCodeThatIsBeingChecked(t *testing.T) {
	const checking = "Your code is being checked."
	w := newWorld(t)
	browser, login, path := w.typing(func(env *runtime.Env) { env.Config.Gateway.Wait = time.Millisecond })
	page := browser.getsTo(path, `data-round="1"`)
	page.lacks(t, checking)
	browser.form(path+"/answers", page, "code", "123456").goesTo(t, path)
	browser.get(path).contains(t, checking)
	browser.form(path+"/answers", page, "code", "12").status(t, http.StatusUnprocessableEntity).contains(t, "Enter all digits")
	tell(t, w.Broker, "otpvalidator", login, 1, &events.Rejected{Round: 1, Factor: events.SMS, Reason: events.RejectedWrong, AttemptsLeft: 4})
	browser.getsTo(path, "That code is not right").lacks(t, checking)
	browser.form(path+"/answers", page, "code", "654321").goesTo(t, path)
	browser.get(path).contains(t, checking)
	challenge(t, w.Broker, login, 2) // the code was right, and of this one nothing has been answered
	browser.getsTo(path, `data-round="2"`).lacks(t, checking)
	browser.form(path+"/answers", page, "code", "111111").goesTo(t, path)
	browser.get(path).contains(t, checking)
}

func TestCodesAsPeopleTypeThem(t *testing.T) {
	w := newWorld(t)
	browser, login, path := w.typing(func(env *runtime.Env) { env.Config.Gateway.Wait = time.Millisecond })
	page := browser.getsTo(path, `data-round="1"`)
	page.lacks(t, "pattern=", `maxlength="6"`) // with which browsers refuse what is repaired here
	opener := w.Opener(t, "otpvalidator")
	for i, typed := range []string{" 123\u3000456 ", "123-456", "１２３－４５６", "１２３ー４５６", "123–456"} {
		browser.form(path+"/answers", page, "code", typed).goesTo(t, path)
		e := w.Await(t, login, events.StepAnswered, i+1)
		var code string
		if err := opener.Open(e.Data.(*events.Answered).Code, e.Subject(), "code", &code); err != nil || code != "123456" {
			t.Errorf("typed %q, answered %q, %v", typed, code, err)
		}
	}
	browser.form(path+"/answers", page, "code", "12345a").status(t, http.StatusUnprocessableEntity)
}

func TestSignInWithToken(t *testing.T) {
	w := newWorld(t)
	defer w.tokenAsked("")()
	browser := w.browser(w.gateway())
	browser.get("/login?return_to=/page").contains(t, "with=token")
	page := browser.get("/login?with=token&acr=1fa&return_to=/page").status(t, http.StatusOK)
	page.contains(t, `name="code"`, `name="return_to" value="/page"`)
	page.lacks(t, `type="password"`)
	asking := w.gateway(func(env *runtime.Env) { env.Config.Token.Question = 8 })
	w.browser(asking).get("/login?with=token").contains(t, "leave this empty")
	page.lacks(t, "leave this empty")
	signIn := func(more ...string) reply {
		return browser.form("/login", page, append([]string{"with", "token", "app", "demo", "return_to", "/page", "user", "carol"}, more...)...)
	}

	for _, typed := range []string{"12345", "12345a", rightCode + "9"} {
		bad := signIn("code", typed).status(t, http.StatusUnprocessableEntity)
		bad.contains(t, "Enter all digits of your one-time password", `value="carol"`, `aria-invalid="true" aria-describedby="problem detail" autofocus=""`, `value="/page"`)
		bad.lacks(t, typed, `type="password"`)
	}
	signIn("code", rightCode, "user", "").status(t, http.StatusUnprocessableEntity).contains(t, "Enter your user name", `name="with"`)

	// As people type them; and what the form leads to is the result.
	path := signIn("code", "１２３４－５６７８ 9012345678").status(t, http.StatusSeeOther).Header.Get("Location")
	browser.get(path).goesTo(t, "/page")

	path = signIn("code", "87654321").status(t, http.StatusSeeOther).Header.Get("Location")
	wrong := browser.get(path).status(t, http.StatusOK)
	wrong.contains(t, "That one-time password was not accepted", "<dd>4</dd>", `id="instead"`)
	wrong.lacks(t, "That code is not right", "87654321")
	browser.form(path+"/answers", wrong, "code", "12345").status(t, http.StatusUnprocessableEntity).contains(t, "Enter all digits of your one-time password")
	closeLogin(t, w.Broker, events.Login{Gateway: "web", ID: strings.TrimPrefix(path, "/login/")}, events.Closed{Outcome: events.Denied})
	browser.getsTo(path, `data-status="denied"`).contains(t, "return_to=%2Fpage&amp;with=token") // starting again takes the same way

	// Who has no code yet, as of a token that takes a question first, is asked for it.
	path = signIn("code", "").status(t, http.StatusSeeOther).Header.Get("Location")
	browser.get(path).contains(t, "Enter the code from your token", "<dd>5</dd>")
	login := events.Login{Gateway: "web", ID: strings.TrimPrefix(path, "/login/")}
	if requested := w.Await(t, login, events.StepRequested, 0).Data.(*events.Requested); requested.Prefer != events.Token || requested.Method != events.None {
		t.Errorf("requested %+v", requested)
	}
}

// The page offers what the app's policy accepts.
func TestSignInOffers(t *testing.T) {
	const password, phone, without, link, form = `type="password"`, "Continue with your phone", "Continue without password", `id="with-token"`, `name="with"`
	offers := map[string][]string{
		`{methods: [password, none]}`:                                            {password, phone, link},
		`{methods: [password, none], passwordless_factors: [token]}`:             {password, link},
		`{methods: [password, none], passwordless_factors: [push]}`:              {password, phone},
		`{methods: [none], passwordless_factors: [sms, token]}`:                  {without, link},
		`{methods: [none], passwordless_factors: [token]}`:                       {form},
		`{methods: [password], factors: [token], passwordless_factors: [token]}`: {password},
	}
	apps, file := make(map[string]string), "apps:\n"
	for app := range offers {
		name := fmt.Sprint("app", len(apps))
		apps[app] = name
		file += "  " + name + ": " + app + "\n"
	}
	w := newWorld(t)
	if err := os.WriteFile(w.policy, []byte(file), 0o600); err != nil {
		t.Fatal(err)
	}
	browser := w.browser(w.gateway())
	for app, offers := range offers {
		page := browser.get("/login?app="+apps[app]).status(t, http.StatusOK)
		for _, offer := range []string{password, phone, without, link, form} {
			if got := strings.Contains(string(page.body), offer); got != slices.Contains(offers, offer) {
				t.Errorf("%s: %s is there: %t", app, offer, got)
			}
		}
		asked := browser.get("/login?with=token&app="+apps[app]).status(t, http.StatusOK)
		if got := strings.Contains(string(asked.body), form); got != (slices.Contains(offers, link) || slices.Contains(offers, form)) {
			t.Errorf("%s: who asks for the form for tokens gets it: %t", app, got)
		}
	}
}

// Of a token that is locked no more is told than of a wrong code, and there is never anything to send again.
func TestTokenThatIsLockedOrLate(t *testing.T) {
	w := newWorld(t)
	browser := w.browser(w.gateway())
	page := browser.get("/login?with=token")
	for reason, want := range map[string]string{
		events.RejectedWrong: "That one-time password was not accepted", events.RejectedLocked: "That one-time password was not accepted",
		events.RejectedExpired: "The time for this sign-in is over",
	} {
		done := later(func() reply { return browser.form("/login", page, "with", "token", "app", "demo", "user", "carol") })
		login := w.nextRequest(t)
		tell(t, w.Broker, "otpvalidator", login, 1, &events.Challenged{Factor: events.Token, Expires: time.Now().Add(time.Minute), Choices: []events.Factor{events.Token}})
		path := (<-done).status(t, http.StatusSeeOther).Header.Get("Location")
		tell(t, w.Broker, "otpvalidator", login, 1, &events.Rejected{Round: 1, Factor: events.Token, Reason: reason, AttemptsLeft: 4})
		browser.getsTo(path, want).lacks(t, `id="resend"`)
	}
}

// The start page has no other way on than itself.
func TestStartPageWithoutTheDatabase(t *testing.T) {
	w := newWorld(t)
	browser, login, path := w.typing()
	w.grant(login)
	testenv.Eventually(t, "the grant is heard", func() bool { return browser.get(path).StatusCode == http.StatusSeeOther })
	browser.get("/").status(t, http.StatusOK)
	if _, err := w.db.Exec(t.Context(), `DROP TABLE sessions.sessions CASCADE`); err != nil {
		t.Fatal(err)
	}
	w.later(sessionAge)
	browser.get("/").status(t, http.StatusServiceUnavailable).contains(t, ">Try again</a>")
	browser.get("/devices").status(t, http.StatusServiceUnavailable).contains(t, ">Go to the start page</a>")
}

func mustParse(t *testing.T, s string) *url.URL {
	t.Helper()
	u, err := url.Parse(s)
	if err != nil {
		t.Fatal(err)
	}
	return u
}

func TestEndedLoginsByPages(t *testing.T) {
	w := newWorld(t)
	browser := w.browser(w.gateway())
	start := func() (events.Login, string) {
		page := browser.get("/login")
		requested := make(chan events.Login, 1)
		go func() { requested <- w.nextRequest(t) }()
		done := later(func() reply { return browser.form("/login", page, signInFields()...) })
		login := <-requested
		closeLogin(t, w.Broker, login, events.Closed{Outcome: events.Denied, Reason: "unknown_user"})
		r := <-done
		r.status(t, http.StatusSeeOther)
		return login, r.Header.Get("Location")
	}
	_, path := start()
	denied := browser.get(path).status(t, http.StatusOK)
	denied.contains(t, "We could not sign you in", "Check what you entered", `data-status="denied"`)
	if strings.Contains(string(denied.body), "unknown_user") {
		t.Error("the page tells why")
	}
	browser.get(path+"?lang=ja").status(t, http.StatusOK)
	if lang := browser.get(path).Header.Get("Content-Language"); lang != "ja" {
		t.Errorf("the choice of a language is not kept: %s", lang)
	}
	// Another browser has no business here.
	w.browser(browser.base).get(path).status(t, http.StatusNotFound).contains(t, "There is nothing here")
}

func TestCancelByPage(t *testing.T) {
	w := newWorld(t)
	w.onRequested(func(login events.Login) { challenge(t, w.Broker, login, 1) })
	browser := w.browser(w.gateway())
	r := browser.form("/login", browser.get("/login"), signInFields()...)
	path := r.Header.Get("Location")
	page := browser.get(path).status(t, http.StatusOK)
	login := events.Login{Gateway: "web", ID: strings.TrimPrefix(path, "/login/")}
	done := later(func() reply { return browser.form(path+"/cancel", page) })
	w.Await(t, login, events.StepCancelled, 0)
	closeLogin(t, w.Broker, login, events.Closed{Outcome: events.CancelledBy})
	(<-done).goesTo(t, path)
	browser.get(path).contains(t, `data-status="cancelled"`, "Nobody was signed in.")
}

func TestForgedForms(t *testing.T) {
	w := newWorld(t)
	base := w.gateway()
	browser, other := w.browser(base), w.browser(base)
	page := browser.get("/login").status(t, http.StatusOK)
	others := other.get("/login").status(t, http.StatusOK)

	browser.form("/login", others, signInFields()...).status(t, http.StatusForbidden) // bound to another browser
	w.browser(base).form("/login", page, signInFields()...).status(t, http.StatusForbidden)
	browser.do("POST", "/login", "application/x-www-form-urlencoded", "app=demo&user=alice&password=x&method=password").status(t, http.StatusForbidden)
	browser.form("/logout", page).status(t, http.StatusForbidden) // the token of another form
	browser.header.Set("Sec-Fetch-Site", "cross-site")
	browser.form("/login", page, signInFields()...).status(t, http.StatusForbidden)
	browser.header.Del("Sec-Fetch-Site")
	browser.header.Set("Origin", "https://evil.example")
	browser.form("/login", page, signInFields()...).status(t, http.StatusForbidden)
	browser.header.Set("Origin", base)
	browser.do("POST", "/login", "application/json", "{}").status(t, http.StatusUnsupportedMediaType)
	browser.form("/login", page, signInFields("user", strings.Repeat("a", 17<<10))...).status(t, http.StatusRequestEntityTooLarge)
}

func TestBadSignIns(t *testing.T) {
	w := newWorld(t)
	browser := w.browser(w.gateway(func(env *runtime.Env) { env.Config.Limits.LoginsPerSource = 1 }))
	page := browser.get("/login?app=demo&return_to=https://evil.example/").status(t, http.StatusOK)
	page.contains(t, `name="return_to" value=""`)
	browser.form("/login", page, "app", "demo", "method", "password", "password", "x").status(t, http.StatusUnprocessableEntity).contains(t, "Enter your user name")
	browser.form("/login", page, "app", "demo", "user", "alice").status(t, http.StatusUnprocessableEntity).contains(t, "Enter your password", `value="alice"`)
	browser.form("/login", page, "app", "other", "user", "alice", "method", "none").status(t, http.StatusUnprocessableEntity)
	browser.get("/login?app=other").status(t, http.StatusNotFound)

	w.onRequested(func(login events.Login) { challenge(t, w.Broker, login, 1) })
	r := browser.form("/login", page, signInFields("return_to", "//evil.example/")...)
	r.status(t, http.StatusSeeOther)
	w.grant(events.Login{Gateway: "web", ID: strings.TrimPrefix(r.Header.Get("Location"), "/login/")})
	waitGranted(t, browser, r.Header.Get("Location"))
	limited := browser.form("/login", page, signInFields()...).status(t, http.StatusTooManyRequests)
	limited.contains(t, "too many attempts", `aria-describedby="problem" autofocus=""`)
	if limited.Header.Get("Retry-After") == "" {
		t.Error("429 without Retry-After")
	}
}

// waitGranted follows a granted login to where it leads, which is home: the other place was none of ours.
func waitGranted(t *testing.T, browser *caller, path string) {
	t.Helper()
	id := strings.TrimPrefix(path, "/login/")
	browser.get("/v1/logins/"+id+"?after=2&wait=30s").status(t, http.StatusOK)
	browser.get(path).goesTo(t, "/")
}

func TestDeviceIsRemembered(t *testing.T) {
	w := newWorld(t)
	browser := w.browser(w.gateway())
	identity := func(login events.Login) (id events.Identity) {
		t.Helper()
		e := w.Await(t, login, events.StepRequested, 0)
		if err := w.Opener(t, "identityverifier").Open(e.Data.(*events.Requested).Identity, e.Subject(), "identity", &id); err != nil {
			t.Fatal(err)
		}
		return id
	}
	v := browser.post("/v1/logins", startBodyFor("0s")).view(t)
	if id := identity(v.login()); id.Device != "" || len(id.DeviceUsers) != 0 {
		t.Errorf("a new browser: %+v", id)
	}
	w.grant(v.login())
	browser.get("/v1/logins/" + v.ID + "?after=1&wait=30s")
	second := browser.post("/v1/logins", startBodyFor("0s")).view(t)
	id := identity(second.login())
	if id.Device == "" || len(id.DeviceUsers) != 1 || id.DeviceUsers[0] != alice {
		t.Errorf("alice's browser: %+v", id)
	}
	// What the browser makes up itself is no device.
	_, mac, _ := strings.Cut(browser.cookie("__Host-sekisho_device"), ".")
	made := base64.RawURLEncoding.EncodeToString([]byte(`{"id":"mine","users":["` + alice + `"]}`))
	forged := []*http.Cookie{{Name: "__Host-sekisho_device", Value: made + "." + mac, Path: "/", Secure: true}}
	browser.client.Jar.SetCookies(mustParse(t, browser.base), forged)
	third := browser.post("/v1/logins", startBodyFor("0s")).view(t)
	if id := identity(third.login()); id.Device != "" || len(id.DeviceUsers) != 0 {
		t.Errorf("a forged device: %+v", id)
	}

	// A client without cookies keeps a token instead.
	app := w.app(w.gateway())
	body := startBodyFor("0s")
	body["tokens"] = true
	start := func() loginView { return app.post("/v1/logins", body).status(t, http.StatusCreated).view(t) }
	first := start()
	if id := identity(first.login()); id.Device != "" {
		t.Errorf("a new client: %+v", id)
	}
	w.grant(first.login())
	app.header.Set("Authorization", "Bearer "+first.LoginToken)
	granted := app.get("/v1/logins/"+first.ID+"?after=1&wait=30s").status(t, http.StatusOK).view(t)
	if again := app.get("/v1/logins/"+first.ID).status(t, http.StatusOK).view(t); again.DeviceToken != granted.DeviceToken {
		t.Error("one login makes two devices")
	}
	app.header.Del("Authorization")
	app.header.Set(deviceHeader, granted.DeviceToken)
	if id := identity(start().login()); id.Device == "" || !slices.Equal(id.DeviceUsers, []string{alice}) {
		t.Errorf("alice's client: %+v", id)
	}
	app.header.Set(deviceHeader, made+"."+mac)
	if id := identity(start().login()); id.Device != "" {
		t.Errorf("a client that makes its token up: %+v", id)
	}
}
