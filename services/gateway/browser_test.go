package gateway

import (
	"context"
	"strings"
	"testing"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/chromedp"

	"github.com/sekisho/sekisho/events"
	"github.com/sekisho/sekisho/services/internal/bus"
	"github.com/sekisho/sekisho/services/internal/testenv"
)

// TestLoginWithABrowser goes through a login with Chromium: its cookies, its script and its view of the content policy.
func TestLoginWithABrowser(t *testing.T) {
	w := newWorld(t)
	base := w.gateway()
	ctx := testenv.Chromium(t, "en") // ends before the gateway, which waits for the streams that the browser holds open

	w.onRequested(func(login events.Login) { challenge(t, w.Broker, login, 1) })
	opener := w.Opener(t, "otpvalidator")
	testenv.Start(t, w.Bus(t, "otpvalidator"), bus.On(func(_ context.Context, e *events.Event, data *events.Answered) ([]*events.Event, error) {
		var code string
		if err := opener.Open(data.Code, e.Subject(), "code", &code); err != nil {
			return nil, bus.Permanent(err)
		}
		if code == "123456" {
			w.grant(e.Login)
			return nil, nil
		}
		return []*events.Event{events.New(e.Login, e.N, &events.Rejected{Round: data.Round, Factor: data.Factor,
			Reason: events.RejectedWrong, AttemptsLeft: events.Attempts - e.N})}, nil
	}))
	do := func(steps ...chromedp.Action[chromedp.Void]) {
		t.Helper()
		if err := chromedp.Do(ctx, steps...); err != nil {
			t.Fatal(err)
		}
	}
	text := func() string {
		t.Helper()
		s, err := chromedp.Run(ctx, chromedp.Evaluate[string](`location.pathname + " " + document.querySelector("main").innerText`))
		if err != nil {
			t.Fatal(err)
		}
		return s
	}

	do(chromedp.Navigate(base+"/"), chromedp.WaitVisible("#password"), chromedp.SendKeys("#user", "alice"), chromedp.SendKeys("#password", "secret password"),
		chromedp.Click(`button[value="password"]`), chromedp.WaitVisible("#code"), chromedp.SendKeys("#code", "000000"), chromedp.WaitVisible("#notice"))
	if got := text(); !strings.Contains(got, "That code is not right") {
		t.Errorf("after a wrong code: %s", got)
	}
	do(chromedp.SendKeys("#code", "123456"), chromedp.Click("#confirm"), chromedp.WaitVisible(`form[action="/logout"]`))
	if got := text(); !strings.HasPrefix(got, "/ ") || !strings.Contains(got, "alice") {
		t.Errorf("after the right code: %s", got)
	}
	do(chromedp.Click(`form[action="/logout"] button`), chromedp.WaitVisible(`a[href^="/login"]`), chromedp.Navigate(base+"/"), chromedp.WaitVisible("#password"))
	if got := text(); !strings.HasPrefix(got, "/login ") {
		t.Errorf("after the log-out: %s", got)
	}
}

// From the page of a push to the form for a password, with the name in place and the address telling nothing; with scripts and
// without.
func TestPasswordInsteadWithABrowser(t *testing.T) {
	for language, scripts := range map[string]bool{"ja": true, "en": false} {
		t.Run(language, func(t *testing.T) {
			w := newWorld(t)
			base := w.gateway()
			p := openWindow(t, language)
			if _, err := chromedp.Call(p.ctx, emulation.SetScriptExecutionDisabled, emulation.SetScriptExecutionDisabledParams{Value: !scripts}); err != nil {
				t.Fatal(err)
			}
			w.onRequested(func(login events.Login) { w.pushed(login, 1, nil) })
			testenv.Start(t, w.Bus(t, "sessionissuer"), bus.On(func(_ context.Context, e *events.Event, _ *events.Cancelled) ([]*events.Event, error) {
				closeLogin(t, w.Broker, e.Login, events.Closed{Outcome: events.CancelledBy})
				return nil, nil
			}))
			p.do(chromedp.Navigate(base+"/login"), chromedp.WaitVisible("#user"), chromedp.SendKeys("#user", "alice"), chromedp.Click("button[value=none]"),
				chromedp.WaitVisible("#instead"))
			p.picture("1-push")
			p.do(chromedp.Click("#instead"), chromedp.WaitVisible("#password"))
			p.picture("2-password")
			at, err := chromedp.Run(p.ctx, chromedp.Evaluate[string](`location.href + " " + document.querySelector("#user").value + " " + document.activeElement.id`))
			if err != nil {
				t.Fatal(err)
			}
			if !strings.HasSuffix(at, "/cancel alice password") {
				t.Errorf("at %s", at)
			}
		})
	}
}
