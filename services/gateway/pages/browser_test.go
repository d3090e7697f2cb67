package pages

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/chromedp/cdproto/emulation"
	cdpage "github.com/chromedp/cdproto/page"
	"github.com/chromedp/chromedp"

	"github.com/sekisho/sekisho/services/internal/testenv"
)

const policy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; font-src 'self'; " +
	"connect-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'"

// gateway is the far end of one login page: the page, the login API, and a place to go on to.
type gateway struct {
	*httptest.Server
	pages   *Pages
	answers chan string // codes that arrived
	polled  chan struct{}
	events  bool        // whether the stream of events works
	says    chan string // if set, all that comes out of the stream
	failing atomic.Bool // the next page is a 503

	mu      sync.Mutex
	login   Login
	changed chan struct{} // closed when the login changes
}

func newGateway(t *testing.T, login Login, events bool) *gateway {
	t.Helper()
	g := &gateway{
		pages: newPages(t), login: login, events: events,
		answers: make(chan string, 10), polled: make(chan struct{}, 10), changed: make(chan struct{}),
	}
	mux := http.NewServeMux()
	mux.Handle("GET /assets/", g.pages.Assets())
	mux.HandleFunc("GET /login/{id}", func(w http.ResponseWriter, r *http.Request) {
		if g.failing.Swap(false) {
			http.Error(w, "restarting", http.StatusServiceUnavailable)
			return
		}
		login, _ := g.now()
		w.Header().Set("Content-Security-Policy", policy)
		if err := g.pages.Render(w, http.StatusOK, "en", login); err != nil {
			t.Error(err)
		}
	})
	mux.HandleFunc("POST /login/{id}/answers", func(w http.ResponseWriter, r *http.Request) {
		code := r.PostFormValue("code")
		if code == "123456" {
			g.grant()
		}
		g.answers <- code
		http.Redirect(w, r, "/login/0199", http.StatusSeeOther)
	})
	mux.HandleFunc("GET /v1/logins/{id}", func(w http.ResponseWriter, r *http.Request) {
		after, err := strconv.Atoi(r.URL.Query().Get("after"))
		if err != nil {
			t.Error(err)
		}
		g.polled <- struct{}{}
		login, changed := g.now()
		for login.Version <= after {
			select {
			case <-changed:
			case <-r.Context().Done():
				return
			}
			login, changed = g.now()
		}
		json.NewEncoder(w).Encode(map[string]any{"version": login.Version, "status": login.Status})
	})
	mux.HandleFunc("GET /v1/logins/{id}/events", func(w http.ResponseWriter, r *http.Request) {
		if !g.events {
			http.Error(w, "no events", http.StatusServiceUnavailable)
			return
		}
		w.Header().Set("Content-Type", "text/event-stream")
		for g.says != nil {
			w.(http.Flusher).Flush()
			select {
			case message := <-g.says:
				fmt.Fprint(w, message)
			case <-r.Context().Done():
				return
			}
		}
		for {
			login, changed := g.now()
			fmt.Fprintf(w, "data: {\"version\": %d, \"status\": %q}\n\n", login.Version, login.Status)
			w.(http.Flusher).Flush()
			select {
			case <-changed:
			case <-r.Context().Done():
				return
			}
		}
	})
	mux.HandleFunc("GET /onward", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/html")
		fmt.Fprint(w, `<title>onward</title><p id="arrived">arrived</p>`)
	})
	g.Server = httptest.NewServer(mux)
	t.Cleanup(g.Close)
	return g
}

func (g *gateway) now() (Login, <-chan struct{}) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.login, g.changed
}

// change is one event of the login: a new version.
func (g *gateway) change(f func(*Login)) {
	g.mu.Lock()
	defer g.mu.Unlock()
	f(&g.login)
	g.login.Version++
	close(g.changed)
	g.changed = make(chan struct{})
}

func (g *gateway) challenge() {
	g.change(func(l *Login) {
		l.Status, l.Challenge = "challenge", &Challenge{
			Round: 1, Factor: "sms", Hint: "•••-1234", Expires: time.Now().Add(time.Hour), AttemptsLeft: 5,
		}
	})
}

func (g *gateway) grant() {
	g.change(func(l *Login) { l.Status, l.Challenge = "granted", nil })
}

func (g *gateway) answer(t *testing.T, ctx context.Context) string {
	t.Helper()
	select {
	case code := <-g.answers:
		return code
	case <-ctx.Done():
		t.Fatal("no code arrived")
		return ""
	}
}

func pendingLogin() Login {
	return Login{ID: "0199", CSRF: "csrf", Status: "pending", Version: 1, ReturnTo: "/onward", Now: time.Now()}
}

// tab opens a tab of a headless Chromium (Debian: apt-get install chromium). Every wait ends with its context.
// The browser ends before the gateway does, whose Close waits for the streams that a browser holds open.
func (g *gateway) tab(t *testing.T) context.Context {
	t.Helper()
	return testenv.Chromium(t, "en")
}

func do(t *testing.T, ctx context.Context, steps ...chromedp.Action[chromedp.Void]) {
	t.Helper()
	if err := chromedp.Do(ctx, steps...); err != nil {
		t.Fatal(err)
	}
}

func evaluate[T any](t *testing.T, ctx context.Context, expression string) T {
	t.Helper()
	value, err := chromedp.Run(ctx, chromedp.Evaluate[T](expression))
	if err != nil {
		t.Fatal(err)
	}
	return value
}

// await waits until an expression of the page is true.
func await(t *testing.T, ctx context.Context, expression string) {
	t.Helper()
	if _, err := chromedp.Run(ctx, chromedp.Poll[bool](expression)); err != nil {
		t.Fatalf("waiting for %s: %v", expression, err)
	}
}

func TestPageFollowsTheLogin(t *testing.T) {
	g := newGateway(t, pendingLogin(), true)
	ctx := g.tab(t)
	do(t, ctx, chromedp.Navigate(g.URL+"/login/0199"))
	evaluate[bool](t, ctx, `window.sameDocument = true`)

	g.challenge()
	await(t, ctx, `document.activeElement?.id === "code"`)
	if !evaluate[bool](t, ctx, `window.sameDocument === true`) {
		t.Error("the page was loaded again instead of following")
	}
	if live := evaluate[string](t, ctx, `document.getElementById("live").textContent`); live != "Enter the code" {
		t.Errorf("announced %q", live)
	}

	// Something else happens in the same round: what is typed stays, and so does the focus.
	do(t, ctx, chromedp.SendKeys("#code", "12"))
	g.change(func(l *Login) { l.Choices = []string{"sms", "push"} })
	await(t, ctx, `document.querySelector("main").dataset.version === "3"`)
	if kept := evaluate[string](t, ctx, `document.activeElement.value`); kept != "12" {
		t.Errorf("kept %q of the code", kept)
	}
	do(t, ctx, chromedp.Focus("#cancel"))
	g.change(func(l *Login) { l.Choices = []string{"sms"} })
	await(t, ctx, `document.querySelector("main").dataset.version === "4"`)
	if focused := evaluate[string](t, ctx, `document.activeElement.id`); focused != "cancel" {
		t.Errorf("the focus went to %q", focused)
	}

	// The sixth digit sends the code, whatever way it was typed.
	evaluate[bool](t, ctx, `document.getElementById("code").value = "12３４５", true`)
	do(t, ctx, chromedp.SendKeys("#code", "6"))
	if code := g.answer(t, ctx); code != "123456" {
		t.Errorf("sent %q", code)
	}
	do(t, ctx, chromedp.WaitVisible("#arrived"))
}

func TestPageFollowsWithoutEventStream(t *testing.T) {
	g := newGateway(t, pendingLogin(), false)
	ctx := g.tab(t)
	do(t, ctx, chromedp.Navigate(g.URL+"/login/0199"))
	g.isPolled(t, ctx)
	g.challenge()
	await(t, ctx, `document.activeElement?.id === "code"`)
	g.grant()
	do(t, ctx, chromedp.WaitVisible("#arrived"))
}

// holdTimers keeps what a page would do after ten seconds or more until the test fires it.
func holdTimers(t *testing.T, ctx context.Context) {
	t.Helper()
	_, err := chromedp.Call(ctx, cdpage.AddScriptToEvaluateOnNewDocument, cdpage.AddScriptToEvaluateOnNewDocumentParams{Source: `(() => {
		const set = setTimeout, clear = clearTimeout, held = new Map();
		let last = 0;
		window.setTimeout = (act, ms) => {
			if (ms < 10_000) return set(act, ms);
			held.set(--last, {act, ms});
			return last;
		};
		window.clearTimeout = (id) => held.delete(id) || clear(id);
		window.timer = (ms) => [...held.keys()].findLast((id) => held.get(id).ms === ms) ?? 0;
		window.fire = (ms) => {
			const id = timer(ms), { act } = held.get(id);
			held.delete(id);
			act();
		};
	})()`})
	if err != nil {
		t.Fatal(err)
	}
}

func (g *gateway) isPolled(t *testing.T, ctx context.Context) {
	t.Helper()
	select {
	case <-g.polled:
	case <-ctx.Done():
		t.Fatal("the login API was not polled")
	}
}

// A stream that is open and carries nothing raises no error.
func TestPageLeavesASilentStream(t *testing.T) {
	const alive = "event: alive\ndata:\n\n"
	for name, carry := range map[string]func(t *testing.T, g *gateway, ctx context.Context){
		"from the start": func(t *testing.T, _ *gateway, ctx context.Context) {
			await(t, ctx, `timer(10_000) !== 0`)
			evaluate[struct{}](t, ctx, `fire(10_000)`)
		},
		"later": func(t *testing.T, g *gateway, ctx context.Context) {
			g.says <- alive
			await(t, ctx, `timer(40_000) !== 0 && timer(10_000) === 0`)
			before := evaluate[int](t, ctx, `timer(40_000)`)
			g.says <- alive
			await(t, ctx, fmt.Sprintf(`timer(40_000) < %d`, before))
			if len(g.polled) > 0 {
				t.Error("the login API was polled while the stream lived")
			}
			evaluate[struct{}](t, ctx, `fire(40_000)`)
		},
	} {
		t.Run(name, func(t *testing.T) {
			g := newGateway(t, pendingLogin(), true)
			g.says = make(chan string)
			ctx := g.tab(t)
			holdTimers(t, ctx)
			do(t, ctx, chromedp.Navigate(g.URL+"/login/0199"))
			carry(t, g, ctx)
			g.isPolled(t, ctx)
			g.challenge()
			await(t, ctx, `document.activeElement?.id === "code"`)
		})
	}
}

// A gateway that restarts, or a proxy that has none for a moment, costs nobody the page.
func TestPageOutlastsARestart(t *testing.T) {
	g := newGateway(t, pendingLogin(), true)
	ctx := g.tab(t)
	do(t, ctx, chromedp.Navigate(g.URL+"/login/0199"))
	evaluate[bool](t, ctx, `window.sameDocument = true`)
	g.failing.Store(true)
	g.challenge()
	await(t, ctx, `document.activeElement?.id === "code"`)
	if !evaluate[bool](t, ctx, `window.sameDocument === true`) {
		t.Error("the page was loaded again")
	}
	if g.failing.Load() {
		t.Error("nothing failed")
	}
}

func TestFormIsSentOnce(t *testing.T) {
	g := newGateway(t, pendingLogin(), true)
	ctx := g.tab(t)
	g.challenge()
	g.change(func(l *Login) { l.Notice = "wrong_code" }) // so that typing alone sends nothing
	do(t, ctx, chromedp.Navigate(g.URL+"/login/0199"), chromedp.SendKeys("#code", "123456"))
	sent := evaluate[int](t, ctx, `(() => {
		let sent = 0;
		window.addEventListener("submit", (event) => {
			if (!event.defaultPrevented) sent++;
			event.preventDefault();
		});
		const button = document.getElementById("confirm");
		button.click();
		button.click();
		return sent;
	})()`)
	if sent != 1 {
		t.Errorf("the form was sent %d times", sent)
	}
}

// Who stops the browser while a form is on its way has the form again, and the page follows the login again.
func TestFormIsThereAgain(t *testing.T) {
	g := newGateway(t, pendingLogin(), true)
	ctx := g.tab(t)
	g.challenge()
	holdTimers(t, ctx)
	do(t, ctx, chromedp.Navigate(g.URL+"/login/0199"), chromedp.WaitReady("#code"))
	await(t, ctx, `timer(40_000) !== 0`)
	evaluate[struct{}](t, ctx, `window.addEventListener("submit", (event) => event.preventDefault())`) // what stopping it comes to
	evaluate[struct{}](t, ctx, `document.getElementById("cancel").click()`)
	before := evaluate[int](t, ctx, `timer(40_000)`)
	g.change(func(l *Login) { l.Choices = []string{"sms", "push"} })
	await(t, ctx, fmt.Sprintf(`timer(40_000) < %d`, before)) // it has heard
	if busy := evaluate[bool](t, ctx, `document.querySelector("form[data-busy] [aria-disabled]") !== null && document.querySelector("main").dataset.version === "2"`); !busy {
		t.Error("the form is not busy, or the page did not wait for it")
	}
	evaluate[struct{}](t, ctx, `fire(10_000)`)
	await(t, ctx, `document.querySelector("main").dataset.version === "3"`)
	if busy := evaluate[bool](t, ctx, `document.querySelector("[data-busy], [aria-disabled]") !== null`); busy {
		t.Error("the form is still busy")
	}
}

// At the end of its time a code's page says so, without being touched.
func TestCodeRunsOut(t *testing.T) {
	g := newGateway(t, pendingLogin(), true)
	ctx := g.tab(t)
	g.change(func(l *Login) {
		l.Status, l.Challenge = "challenge", &Challenge{Round: 1, Factor: "sms", Expires: l.Now.Add(time.Second), ResendAt: l.Now, AttemptsLeft: 5}
	})
	do(t, ctx, chromedp.Navigate(g.URL+"/login/0199"), chromedp.WaitReady("#code"))
	g.mu.Lock() // no news: the page asks by itself
	g.login.Now, g.login.Notice = g.login.Challenge.Expires, "expired_code"
	g.mu.Unlock()
	do(t, ctx, chromedp.WaitVisible("#notice"))
	if live := evaluate[string](t, ctx, `document.getElementById("live").textContent`); live != "Enter the code. This code has run out. Ask for a new one." {
		t.Errorf("announced %q", live)
	}
}

func TestPasteTakesOutSpaces(t *testing.T) {
	g := newGateway(t, pendingLogin(), true)
	ctx := g.tab(t)
	g.challenge()
	do(t, ctx, chromedp.Navigate(g.URL+"/login/0199"), chromedp.WaitReady("#code"))
	evaluate[bool](t, ctx, `(() => {
		const clipboardData = new DataTransfer();
		clipboardData.setData("text", " 123 456 ");
		return document.getElementById("code").dispatchEvent(new ClipboardEvent("paste", {clipboardData, bubbles: true, cancelable: true})) || true;
	})()`)
	if code := g.answer(t, ctx); code != "123456" {
		t.Errorf("sent %q", code)
	}
}

func TestPageWorksWithoutScript(t *testing.T) {
	g := newGateway(t, pendingLogin(), true)
	ctx := g.tab(t)
	if _, err := chromedp.Call(ctx, emulation.SetScriptExecutionDisabled, emulation.SetScriptExecutionDisabledParams{Value: true}); err != nil {
		t.Fatal(err)
	}
	do(t, ctx, chromedp.Navigate(g.URL+"/login/0199"))
	g.challenge()
	do(t, ctx, chromedp.WaitVisible("#code"), chromedp.SendKeys("#code", "123456"), chromedp.Click("#confirm"))
	if code := g.answer(t, ctx); code != "123456" {
		t.Errorf("sent %q", code)
	}
	do(t, ctx, chromedp.Click("a[data-onward]"), chromedp.WaitVisible("#arrived"))
}
