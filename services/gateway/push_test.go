package gateway

import (
	"net/http"
	"net/url"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/sekisho/sekisho/events"
	"github.com/sekisho/sekisho/services/internal/runtime"
	"github.com/sekisho/sekisho/services/internal/testenv"
)

// pushed challenges a login on a phone.
func (w *world) pushed(login events.Login, round int, change func(*events.Challenged)) {
	w.t.Helper()
	data := &events.Challenged{Factor: events.Push, Hint: "Pixel", Number: true, Expires: w.now().Add(2 * time.Minute), ResendAt: w.now().Add(-time.Second),
		Choices: []events.Factor{events.Push, events.SMS}}
	if change != nil {
		change(data)
	}
	tell(w.t, w.Broker, "pushnotifier", login, round, data)
}

func (w *world) notOnPhone(login events.Login, attempt, round int, reason string) {
	w.t.Helper()
	tell(w.t, w.Broker, "pushnotifier", login, attempt, &events.Rejected{Round: round, Factor: events.Push, Reason: reason, AttemptsLeft: events.Attempts - attempt})
}

// begun starts a login by ID only at the pages, and leads it to a push.
func (w *world) begun(browser *caller, change func(*events.Challenged)) (login events.Login, path string) {
	w.t.Helper()
	return w.begunAs(browser, change, "app", "demo", "user", "alice")
}

// begunAs does the same with other fields of the form.
func (w *world) begunAs(browser *caller, change func(*events.Challenged), fields ...string) (login events.Login, path string) {
	w.t.Helper()
	page := browser.get("/login").status(w.t, http.StatusOK)
	done := later(func() reply { return browser.form("/login", page, append(fields, "method", "none")...) })
	login = w.nextRequest(w.t)
	w.pushed(login, 1, change)
	path = (<-done).status(w.t, http.StatusSeeOther).Header.Get("Location")
	if path != "/login/"+login.ID {
		w.t.Fatalf("leads to %s", path)
	}
	return login, path
}

// shownNumber is the number on a login page.
func shownNumber(t *testing.T, page reply) string {
	t.Helper()
	_, after, ok := strings.Cut(string(page.body), `<p class="number">`)
	_, after, in := strings.Cut(after, "<strong>")
	number, _, closed := strings.Cut(after, "</strong>")
	if !ok || !in || !closed {
		t.Fatalf("no number on %s", page.body)
	}
	return number
}

// getsTo is the page as soon as it shows a text: what happens to a login is heard a moment later.
func (c *caller) getsTo(path, text string) (page reply) {
	c.t.Helper()
	testenv.Eventually(c.t, text, func() bool {
		page = c.get(path).status(c.t, http.StatusOK)
		return strings.Contains(string(page.body), text)
	})
	return page
}

func TestPushByAPI(t *testing.T) {
	w := newWorld(t)
	if err := os.WriteFile(w.policy, []byte(strings.Replace(policyFile, "{en: Sekisho demo}", "{en: Sekisho demo, ja: 関所デモ}", 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	placed := func(env *runtime.Env) {
		env.Config.Gateway.PlaceHeader, env.Config.Gateway.Proxies = "X-Place", []string{"127.0.0.1/32"}
	}
	app := w.app(w.gateway(placed))
	app.header.Set("User-Agent", "Mozilla/5.0 (Windows NT 10.0; Win64; x64; rv:140.0) Gecko/20100101 Firefox/140.0")
	app.header.Set("X-Forwarded-For", "203.0.113.9")
	app.header.Set("X-Place", "JP")
	started := later(func() reply {
		return app.post("/v1/logins", map[string]any{"user": "alice", "method": "none", "app": "demo", "tokens": true, "locale": "ja"})
	})
	login := w.nextRequest(t)
	var prompt events.Prompt
	e := w.Await(t, login, events.StepRequested, 0)
	if err := w.Opener(t, "pushnotifier").Open(e.Data.(*events.Requested).Prompt, e.Subject(), "prompt", &prompt); err != nil {
		t.Fatal(err)
	}
	if prompt.Place != "JP (203.0.113.9)" || prompt.Browser != "Firefox, Windows" || prompt.App != "関所デモ" || prompt.Names != (events.Names{EN: "Sekisho demo", JA: "関所デモ"}) {
		t.Errorf("prompt %+v", prompt)
	}
	w.pushed(login, 1, nil)
	view := (<-started).status(t, http.StatusCreated).view(t)
	if view.Challenge == nil || view.Challenge.Number != prompt.Number || len(prompt.Number) != 6 {
		t.Fatalf("challenge %+v, prompt %+v", view.Challenge, prompt)
	}
	app.header.Set("Authorization", "Bearer "+view.LoginToken)
	other := w.app(w.gateway()) // another instance shows the same
	other.header.Set("Authorization", "Bearer "+view.LoginToken)
	if again := other.get("/v1/logins/"+login.ID).status(t, http.StatusOK).view(t); again.Challenge.Number != prompt.Number {
		t.Errorf("another instance shows %q", again.Challenge.Number)
	}
	app.post("/v1/logins/"+login.ID+"/answers", map[string]any{"code": prompt.Number}).status(t, http.StatusConflict) // it is typed on the phone

	w.notOnPhone(login, 1, 1, events.RejectedExhausted)
	view = app.get("/v1/logins/"+login.ID+"?after=2&wait=5s").status(t, http.StatusOK).view(t)
	if view.Challenge.Number != "" {
		t.Error("the number is shown after the last attempt")
	}
}

// Each login has a number of its own, and one without pushes has nothing to tell a phone.
func TestPromptNumbers(t *testing.T) {
	k, err := newKeys("web", []byte("0123456789abcdef0123456789abcdef"))
	if err != nil {
		t.Fatal(err)
	}
	seen := make(map[string]bool)
	for range 100 {
		login := testenv.NewLogin(t, "web")
		number := k.number(login)
		if len(number) != 6 || strings.Trim(number, "0123456789") != "" || number != k.number(login) {
			t.Fatalf("number %q", number)
		}
		seen[number] = true
	}
	if len(seen) < 95 {
		t.Errorf("only %d numbers in 100 logins", len(seen))
	}
}

func TestBrowserInWords(t *testing.T) {
	for header, want := range map[string]string{
		"Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/148.0.0.0 Safari/537.36":                            "Chrome, Windows",
		"Mozilla/5.0 (iPhone; CPU iPhone OS 18_5 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/18.5 Mobile/15E148 Safari/604.1":    "Safari, iOS",
		"Mozilla/5.0 (Linux; Android 15; SM-S938B) AppleWebKit/537.36 (KHTML, like Gecko) SamsungBrowser/28.0 Chrome/130.0.0.0 Mobile Safari/537.36": "Samsung Internet, Android",
		"Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/148.0.0.0 Safari/537.36 Edg/148.0.0.0":        "Edge, macOS",
		"Mozilla/5.0 (X11; CrOS x86_64 14541.0.0) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/148.0.0.0 Safari/537.36":                             "Chrome, ChromeOS",
		"":                                     "",
		"curl/8.5.0":                           "",
		"YourBank/1.0 (please approve)":        "",
		"\x00\xff" + strings.Repeat("a", 5000): "",
	} {
		if got := browserInWords(header); got != want {
			t.Errorf("%s: %q, want %q", header, got, want)
		}
	}
}

// What proxies say of a place is shown only if it comes from a proxy, and is words.
func TestPlace(t *testing.T) {
	w := newWorld(t)
	for name, c := range map[string]struct{ proxies, header, want string }{
		"words":        {"127.0.0.1/32", "Tokyo, JP", "Tokyo, JP (203.0.113.9)"},
		"none":         {"127.0.0.1/32", "", "203.0.113.9"},
		"long":         {"127.0.0.1/32", strings.Repeat("a", 65), "203.0.113.9"},
		"not UTF-8":    {"127.0.0.1/32", "\xff", "203.0.113.9"},
		"no proxy":     {"192.0.2.1/32", "Tokyo, JP", "127.0.0.1"},
		"wrong script": {"127.0.0.1/32", "Tokyo\u202e", "203.0.113.9"},
	} {
		t.Run(name, func(t *testing.T) {
			app := w.app(w.gateway(func(env *runtime.Env) {
				env.Config.Gateway.PlaceHeader, env.Config.Gateway.Proxies = "X-Place", []string{c.proxies}
			}))
			app.header.Set("X-Forwarded-For", "203.0.113.9")
			if c.header != "" {
				app.header.Set("X-Place", c.header)
			}
			done := later(func() reply {
				return app.post("/v1/logins", map[string]any{"user": "alice", "method": "none", "app": "demo", "tokens": true, "wait": "0s"})
			})
			e := w.Await(t, w.nextRequest(t), events.StepRequested, 0)
			(<-done).status(t, http.StatusCreated)
			var prompt events.Prompt
			if err := w.Opener(t, "pushnotifier").Open(e.Data.(*events.Requested).Prompt, e.Subject(), "prompt", &prompt); err != nil || prompt.Place != c.want {
				t.Errorf("place %q, want %q (%v)", prompt.Place, c.want, err)
			}
		})
	}
}

func TestPushByPages(t *testing.T) {
	w := newWorld(t)
	browser := w.browser(w.gateway())
	browser.get("/login").status(t, http.StatusOK).contains(t, "Continue with your phone", "Password")
	login, path := w.begun(browser, nil)
	page := browser.get(path).status(t, http.StatusOK)
	page.contains(t, "Approve on your phone", "Pixel", `value="sms"`)
	number := shownNumber(t, page)

	w.notOnPhone(login, 1, 1, events.RejectedWrong)
	page = browser.getsTo(path, "The number typed on the phone was not right")
	if shownNumber(t, page) != number {
		t.Error("another number after a wrong one")
	}
	w.notOnPhone(login, 2, 1, events.RejectedExhausted)
	page = browser.getsTo(path, "Too many wrong numbers")
	page.contains(t, `value="sms"`)
	if body := string(page.body); strings.Contains(body, number) || strings.Contains(body, `id="resend"`) {
		t.Error("the page still offers the push")
	}
	chosen := later(func() reply { return browser.form(path+"/factor", page, "factor", "sms") })
	if e := w.Await(t, login, events.StepChosen, 1); e.Data.(*events.Chosen).Factor != events.SMS {
		t.Errorf("chose %+v", e.Data)
	}
	challenge(t, w.Broker, login, 2)
	(<-chosen).goesTo(t, path)
	browser.get(path).contains(t, "Enter the code")
}

// A push that nobody answered can be sent again with one click.
func TestPushThatRanOut(t *testing.T) {
	w := newWorld(t)
	browser := w.browser(w.gateway())
	login, path := w.begun(browser, nil)
	w.later(2 * time.Minute)
	page := browser.get(path).status(t, http.StatusOK)
	page.contains(t, "ran out without an answer", `class="primary" id="resend"`, `value="sms"`)
	if strings.Contains(string(page.body), `class="number"`) {
		t.Error("the page shows a number that is of no use")
	}
	again := later(func() reply { return browser.form(path+"/factor", page, "factor", "push") })
	w.Await(t, login, events.StepChosen, 1)
	w.pushed(login, 2, nil)
	(<-again).goesTo(t, path)
	page = browser.get(path)
	shownNumber(t, page)
	page.contains(t, "A new request is on its way to your phone.")
	page.lacks(t, "code counts") // there is none, and the number is what it was
	browser.get(path+"?lang=ja").contains(t, "スマートフォンに通知をもう一度送りました。")
}

// A push that was left a moment ago is there again when it may be sent again, and until then the page says so.
func TestBackToAPushTooSoon(t *testing.T) {
	w := newWorld(t)
	browser := w.browser(w.gateway())
	soon := w.now().Add(time.Minute)
	login, path := w.begun(browser, func(c *events.Challenged) { c.ResendAt = soon })
	page := browser.get(path).status(t, http.StatusOK)
	page.contains(t, `value="sms">`) // which was not asked for yet
	browser.form(path+"/factor", page, "factor", "push").status(t, http.StatusTooManyRequests).contains(t, "The last request may still be on its way to your phone.")
	chosen := later(func() reply { return browser.form(path+"/factor", page, "factor", "sms") })
	w.Await(t, login, events.StepChosen, 1)
	tell(t, w.Broker, "smsdispatcher", login, 2, &events.Challenged{Factor: events.SMS, Expires: w.now().Add(5 * time.Minute), ResendAt: soon,
		Choices: []events.Factor{events.SMS, events.Push}})
	(<-chosen).goesTo(t, path)
	page = browser.get(path).status(t, http.StatusOK)
	page.contains(t, `value="push" data-resend-at="`+soon.UTC().Format("2006-01-02T15:04:05.000Z")+`">`)
	browser.form(path+"/factor", page, "factor", "push").status(t, http.StatusTooManyRequests).contains(t, "The last request may still be on its way to your phone.")
	browser.form(path+"/factor", page, "factor", "sms").status(t, http.StatusTooManyRequests).contains(t, "The last message may still be on its way.")
}

func TestPushWithoutNumber(t *testing.T) {
	w := newWorld(t)
	browser := w.browser(w.gateway())
	_, path := w.begun(browser, func(c *events.Challenged) { c.Number = false })
	page := browser.get(path).status(t, http.StatusOK)
	page.contains(t, "and approve")
	if strings.Contains(string(page.body), `class="number"`) {
		t.Error("a number that nobody asks for")
	}
}

// An approval that a provider hosts: the browser goes there, and what it brings back goes to pushnotifier.
func TestHostedApproval(t *testing.T) {
	w := newWorld(t)
	base := w.gateway()
	browser := w.browser(base)
	login, path := w.begun(browser, func(c *events.Challenged) { c.Number, c.URL = false, "https://provider.example/approve?approval=a" })
	page := browser.get(path).status(t, http.StatusOK)
	_, after, ok := strings.Cut(string(page.body), `id="approve" href="`)
	link, _, _ := strings.Cut(after, `"`)
	target, err := url.Parse(strings.ReplaceAll(link, "&amp;", "&"))
	if !ok || err != nil || target.Host != "provider.example" || target.Query().Get("approval") != "a" || target.Query().Get("return") != base+path+"/return" {
		t.Fatalf("the page leads to %s", link)
	}

	w.browser(base).get(path+"/return?mamoru_session=s").status(t, http.StatusNotFound) // another browser's
	browser.get(path+"/return?mamoru_session="+strings.Repeat("s", 600)).status(t, http.StatusBadRequest)
	browser.get(path+"/return").goesTo(t, path) // without a decision
	back := later(func() reply { return browser.get(path + "/return?mamoru_session=s&mamoru_approved=t") })
	e := w.Await(t, login, events.StepAnswered, 1)
	var response events.Response
	if err := w.Opener(t, "pushnotifier").Open(e.Data.(*events.Answered).Response, e.Subject(), "response", &response); err != nil {
		t.Fatal(err)
	}
	if len(response.Parameters) != 2 || response.Parameters["mamoru_session"] != "s" || response.Parameters["mamoru_approved"] != "t" {
		t.Errorf("brought back %v", response.Parameters)
	}
	w.grant(login)
	(<-back).goesTo(t, path)
	browser.get(path).goesTo(t, "/")
	browser.get(path+"/return?mamoru_session=s&mamoru_approved=t").goesTo(t, path) // once more: the page says what came of it
}

// A page that a provider could have set is no place to send anybody.
func TestHostedApprovalElsewhere(t *testing.T) {
	w := newWorld(t)
	browser := w.browser(w.gateway())
	login, path := w.begun(browser, func(c *events.Challenged) { c.Number, c.URL = false, "javascript:alert(1)" })
	if view := browser.get("/v1/logins/"+login.ID).status(t, http.StatusOK).view(t); view.Challenge.URL != "" {
		t.Errorf("the API leads to %s", view.Challenge.URL)
	}
	if page := browser.get(path).status(t, http.StatusOK); strings.Contains(string(page.body), "javascript:") {
		t.Errorf("a script on the page")
	}
}

// What could not be delivered is named, since the page may show a challenge that was.
func TestUndeliveredIsNamed(t *testing.T) {
	w := newWorld(t)
	browser := w.browser(w.gateway())
	login, path := w.begun(browser, nil)
	page := browser.get(path)
	choose := func(round int, factor events.Factor, outcome func()) reply {
		t.Helper()
		chosen := later(func() reply { return browser.form(path+"/factor", page, "factor", string(factor)) })
		w.Await(t, login, events.StepChosen, round)
		outcome()
		(<-chosen).goesTo(t, path)
		return browser.get(path).status(t, http.StatusOK)
	}
	failed := choose(1, events.SMS, func() {
		tell(t, w.Broker, "smsdispatcher", login, 2, &events.Undelivered{Factor: events.SMS, Reason: events.UndeliveredDown})
	})
	failed.contains(t, "Approve on your phone", "The text message could not be delivered.")
	choose(2, events.SMS, func() {
		tell(t, w.Broker, "smsdispatcher", login, 3, &events.Challenged{Factor: events.SMS, Expires: w.now().Add(5 * time.Minute),
			ResendAt: w.now().Add(-time.Second), Choices: []events.Factor{events.SMS, events.Push}})
	}).lacks(t, "could not be delivered")
	failed = choose(3, events.Push, func() {
		tell(t, w.Broker, "pushnotifier", login, 4, &events.Undelivered{Factor: events.Push, Reason: events.UndeliveredLimited})
	})
	failed.contains(t, "We sent a six-digit code", "The request could not be delivered to your phone.")
	browser.get(path+"?lang=ja").contains(t, "スマートフォンに通知を届けられませんでした。")
}

// Only who declined on a phone is told so.
func TestDeclinedOnThePhone(t *testing.T) {
	w := newWorld(t)
	browser := w.browser(w.gateway())
	said := map[string]bool{events.RejectedDenied: true, events.RejectedNotMe: true, events.RejectedWrong: false}
	for reason, declined := range said {
		login, path := w.begun(browser, nil)
		w.notOnPhone(login, 1, 1, reason)
		closeLogin(t, w.Broker, login, events.Closed{Outcome: events.Denied, Reason: "user"})
		for lang, texts := range map[string][2]string{
			"ja": {"スマートフォンで拒否されました", "入力内容を確かめて"}, "en": {"declined on the phone", "Check what you entered"},
		} {
			page := browser.getsTo(path+"?lang="+lang, `data-status="denied"`)
			want, never := texts[1], texts[0]
			if declined {
				want, never = never, want
			}
			page.contains(t, want)
			page.lacks(t, never)
		}
	}
}

// Who has no phone at hand goes on with a password: the name need not be typed again, and nothing tells it on the way. The
// offer is the same for names that nobody has.
func TestPasswordInsteadOfPush(t *testing.T) {
	w := newWorld(t)
	policy := policyFile + "  phones: {methods: [none]}\n"
	if err := os.WriteFile(w.policy, []byte(policy), 0o600); err != nil {
		t.Fatal(err)
	}
	base := w.gateway()
	browser := w.browser(base)
	const offer = `name="then" value="password"`
	for _, name := range []string{"alice", "nobody"} {
		login, path := w.begunAs(browser, nil, "app", "demo", "user", name, "return_to", "/page")
		page := browser.get(path).status(t, http.StatusOK)
		page.contains(t, offer, "No phone added yet?")
		page.lacks(t, name)
		if strings.Contains(browser.cookie(typedCookie), name) || strings.Contains(browser.cookie(loginName), name) {
			t.Error("a cookie tells the name")
		}
		instead := later(func() reply { return browser.form(path+"/cancel", page, "then", "password") })
		w.Await(t, login, events.StepCancelled, 0)
		closeLogin(t, w.Broker, login, events.Closed{Outcome: events.CancelledBy})
		form := (<-instead).status(t, http.StatusOK)
		form.contains(t, `id="user" name="user" value="`+name+`"`, `id="password"`, `name="app" value="demo"`, `name="return_to" value="/page"`)
		browser.form(path+"/cancel", page, "then", "password").status(t, http.StatusOK).contains(t, `value="`+name+`"`) // loaded again
		browser.form("/login", form, "app", "demo", "user", name, "method", "password").status(t, http.StatusUnprocessableEntity)
		browser.get(path).status(t, http.StatusOK).lacks(t, offer)
	}

	// A text message is no phone that is still to be added.
	login, path := w.begunAs(browser, func(c *events.Challenged) { c.Factor, c.Number = events.SMS, false }, "app", "demo", "user", "alice")
	page := browser.get(path).status(t, http.StatusOK)
	page.contains(t, "Enter the code", offer)
	page.lacks(t, "No phone added yet?")
	instead := later(func() reply { return browser.form(path+"/cancel", page, "then", "password") })
	w.Await(t, login, events.StepCancelled, 0)
	closeLogin(t, w.Broker, login, events.Closed{Outcome: events.CancelledBy})
	(<-instead).status(t, http.StatusOK).contains(t, `value="alice"`, `id="password"`)

	for end, outcome := range map[string]events.Closed{
		"Time ran out": {Outcome: events.Expired}, "We could not reach you": {Outcome: events.Failed, Reason: events.FailedUndelivered},
	} {
		login, path := w.begun(browser, nil)
		closeLogin(t, w.Broker, login, outcome)
		page := browser.getsTo(path, end)
		page.contains(t, offer)
		browser.form(path+"/cancel", page, "then", "password").status(t, http.StatusOK).contains(t, `value="alice"`)
	}

	// A name is of the login that it was typed for.
	first, _ := w.begun(browser, nil)
	old := browser.cookie(typedCookie)
	second, path := w.begunAs(browser, nil, "app", "demo", "user", "bob")
	browser.client.Jar.SetCookies(mustParse(t, base), []*http.Cookie{{Name: typedCookie, Value: old, Path: "/", Secure: true}})
	browser.get(path).status(t, http.StatusOK).lacks(t, offer)
	closeLogin(t, w.Broker, first, events.Closed{Outcome: events.CancelledBy})
	closeLogin(t, w.Broker, second, events.Closed{Outcome: events.CancelledBy})

	// Approved at the last moment: the session is more than a form.
	login, path = w.begun(browser, nil)
	page = browser.get(path).status(t, http.StatusOK)
	w.grant(login)
	browser.form(path+"/cancel", page, "then", "password").goesTo(t, path)
	browser.get(path).goesTo(t, "/")

	_, path = w.begunAs(browser, nil, "app", "phones", "user", "alice")
	page = browser.get(path).status(t, http.StatusOK)
	page.contains(t, "Approve on your phone")
	page.lacks(t, offer) // the app takes no password
}
