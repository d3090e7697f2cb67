package gateway

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/chromedp"

	"github.com/sekisho/sekisho/events"
	"github.com/sekisho/sekisho/services/internal/runtime"
)

// The risk provider's script runs on the login page, talks to where it comes from, and leaves the id of its assessment, which goes to
// riskassessor with the login. No other page lets it in.
func TestCollector(t *testing.T) {
	w := newWorld(t)
	told := make(chan struct{}, 100)
	far := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/told" {
			told <- struct{}{}
			return
		}
		rw.Header().Set("Content-Type", "text/javascript")
		_, _ = rw.Write([]byte(`document.cookie = "` + collectorCookie + `=assessed-1; path=/"; fetch("http://" + new URL(document.currentScript.src).host + "/told", { mode: "no-cors" });`))
	}))
	defer far.Close()
	base := w.gateway(func(env *runtime.Env) { env.Config.Risk.Collector = far.URL + "/collect.js" })

	browser := w.browser(base)
	if csp := browser.get("/login").status(t, http.StatusOK).Header.Get("Content-Security-Policy"); strings.Count(csp, far.URL) != 2 {
		t.Errorf("policy of the login page: %s", csp)
	}
	if csp := browser.get("/nothing").Header.Get("Content-Security-Policy"); csp == "" || strings.Contains(csp, far.URL) {
		t.Errorf("policy of another page: %s", csp)
	}

	p := openWindow(t, "en")
	p.do(chromedp.Navigate(base+"/login"), chromedp.WaitVisible("#user"))
	select {
	case <-told:
	case <-time.After(30 * time.Second):
		t.Fatal("the script did not run, or could not talk to where it comes from")
	}
	p.do(chromedp.SendKeys("#user", "alice"), chromedp.SendKeys("#password", "secret password"), chromedp.Submit("#password"))
	login := w.nextRequest(t)
	e := w.Await(t, login, events.StepRequested, 0)
	var environment events.Environment
	if err := w.Opener(t, "riskassessor").Open(e.Data.(*events.Requested).Environment, e.Subject(), "environment", &environment); err != nil {
		t.Fatal(err)
	}
	if environment.Assessment != "assessed-1" {
		t.Errorf("assessment %q", environment.Assessment)
	}
}
