package gateway

import (
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/sekisho/sekisho/events"
	"github.com/sekisho/sekisho/services/internal/runtime"
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
	page := browser.get("/login").status(w.t, http.StatusOK)
	done := later(func() reply { return browser.form("/login", page, "app", "demo", "user", "alice", "method", "none") })
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
	eventually(c.t, func() bool {
		page = c.get(path).status(c.t, http.StatusOK)
		return strings.Contains(string(page.body), text)
	})
	return page
}

func TestPushByAPI(t *testing.T) {
	w := newWorld(t)
	placed := func(env *runtime.Env) {
		env.Config.Gateway.PlaceHeader, env.Config.Gateway.Proxies = "X-Place", []string{"127.0.0.1/32"}
	}
	app := w.app(w.gateway(placed))
	app.header.Set("User-Agent", "Mozilla/5.0 (Windows NT 10.0; Win64; x64; rv:140.0) Gecko/20100101 Firefox/140.0")
	app.header.Set("X-Forwarded-For", "203.0.113.9")
	app.header.Set("X-Place", "JP")
	started := later(func() reply {
		return app.post("/v1/logins", map[string]any{"user": "alice", "method": "none", "app": "demo", "tokens": true})
	})
	login := w.nextRequest(t)
	var prompt events.Prompt
	e := w.Await(t, login, events.StepRequested, 0)
	if err := w.Opener(t, "pushnotifier").Open(e.Data.(*events.Requested).Prompt, e.Subject(), "prompt", &prompt); err != nil {
		t.Fatal(err)
	}
	if prompt.Place != "JP (203.0.113.9)" || prompt.Browser != "Firefox, Windows" {
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
		login, err := events.NewLogin("web")
		if err != nil {
			t.Fatal(err)
		}
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
	shownNumber(t, browser.get(path))
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
