package gateway

import (
	"context"
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/chromedp/chromedp"

	"github.com/sekisho/sekisho/events"
	"github.com/sekisho/sekisho/services/internal/testenv"
)

// A window shows the gateway's pages in a Chromium as small as a phone's.
type window struct {
	t   *testing.T
	ctx context.Context
}

func openWindow(t *testing.T, language string) *window {
	t.Helper()
	w := &window{t, testenv.Chromium(t, language)}
	w.do(chromedp.EmulateViewport(390, 844))
	return w
}

func (w *window) do(steps ...chromedp.Action[chromedp.Void]) {
	w.t.Helper()
	if err := chromedp.Do(w.ctx, steps...); err != nil {
		w.picture("failed")
		w.t.Fatal(err)
	}
}

// shows waits until the page shows a text.
func (w *window) shows(text string) {
	w.t.Helper()
	quoted, err := json.Marshal(text)
	if err != nil {
		w.t.Fatal(err)
	}
	if _, err := chromedp.Run(w.ctx, chromedp.Poll[bool](`document.querySelector("main")?.innerText.includes(`+string(quoted)+`)`, chromedp.WithPollingTimeout(0))); err != nil {
		w.picture("failed")
		w.t.Fatalf("waiting for %q: %v", text, err)
	}
}

// picture keeps what the page looks like, where SEKISHO_TEST_PICTURES names a folder.
func (w *window) picture(name string) {
	w.t.Helper()
	dir := os.Getenv("SEKISHO_TEST_PICTURES")
	if dir == "" {
		return
	}
	png, err := chromedp.Run(w.ctx, chromedp.FullScreenshot(100))
	if err != nil {
		w.t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, strings.ReplaceAll(w.t.Name(), "/", "-")+"-"+name+".png"), png, 0o600); err != nil {
		w.t.Fatal(err)
	}
}

// A login by ID only, followed by the page without being touched: a wrong number, a push that runs out, another, and in. Then
// a phone is added.
func TestPushWithABrowser(t *testing.T) {
	for language, texts := range map[string]struct{ phone, wrong, over, exhausted, copied string }{
		"en": {"Continue with your phone", "was not right", "ran out without an answer", "Too many wrong numbers", "Copied"},
		"ja": {"スマートフォンで続ける", "番号が正しくありません", "時間切れになりました", "番号の誤りが続きました", "コピーしました"},
	} {
		t.Run(language, func(t *testing.T) {
			w := newWorld(t)
			const link = "https://login.example/authenticator#code"
			var (
				added atomic.Bool
				lasts atomic.Int64 // how long an invitation is good
				looks = make(chan struct{}, 1000)
			)
			w.desk(func(r events.DeviceRequest) events.DeviceResponse {
				if r.Method == http.MethodGet {
					if added.Load() {
						return answered(http.StatusOK, strings.Replace(twoPhones, `[`, `[{"id":"d3","name":"Xperia","enrolled":"2026-01-03T00:00:00Z"},`, 1))
					}
					looks <- struct{}{}
					return answered(http.StatusOK, twoPhones)
				}
				expires := time.Now().Add(time.Duration(lasts.Load()))
				return answered(http.StatusCreated, `{"activation_url":"`+link+`","qr_svg":"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 9 9'><path d='M1 1h3v3H1z'/></svg>","expires":"`+expires.Format(time.RFC3339)+`"}`)
			})
			base := w.gateway()
			p := openWindow(t, language)
			logins := make(chan events.Login, 1)
			w.onRequested(func(login events.Login) {
				w.pushed(login, 1, nil)
				logins <- login
			})
			p.do(chromedp.Navigate(base+"/login"), chromedp.WaitVisible("#user"))
			p.picture("1-signin")
			p.do(chromedp.SendKeys("#user", "alice"), chromedp.Click(`//button[normalize-space()="`+texts.phone+`"]`), chromedp.WaitVisible(".number"))
			login := <-logins
			p.picture("2-number")
			w.notOnPhone(login, 1, 1, events.RejectedWrong)
			p.shows(texts.wrong)
			p.picture("3-wrong-number")

			w.pushed(login, 2, func(c *events.Challenged) { c.Expires = time.Now().Add(3 * time.Second) })
			p.shows(texts.over)
			p.picture("4-ran-out")
			p.do(chromedp.Click("#resend"))
			w.Await(t, login, events.StepChosen, 2)
			w.pushed(login, 3, nil)
			p.do(chromedp.WaitVisible(".number"))
			w.notOnPhone(login, 2, 3, events.RejectedExhausted)
			p.shows(texts.exhausted)
			p.picture("5-exhausted")
			w.grant(login)
			p.do(chromedp.WaitVisible(`form[action="/logout"]`))
			p.picture("6-home")
			p.do(chromedp.Click(`a[href="/devices"]`), chromedp.WaitVisible("#add"), chromedp.Click("summary"))
			p.picture("7-devices")

			// An invitation that nobody uses says so, and is left by the link.
			lasts.Store(int64(3 * time.Second))
			p.do(chromedp.Click("#add"), chromedp.WaitVisible("#invitation-over"), chromedp.WaitNotVisible("#invitation-link"))
			p.picture("8-invitation-over")
			p.do(chromedp.Click(`a.button[href="/devices"]`), chromedp.WaitVisible("#add"))

			// One that is used leads to the list by itself.
			lasts.Store(int64(time.Hour))
			for len(looks) > 0 {
				<-looks
			}
			p.do(chromedp.Click("#add"), chromedp.WaitVisible(".qr"), chromedp.WaitVisible("#copy"), chromedp.WaitVisible("#invitation-waiting"),
				chromedp.Evaluate[struct{}](`void (navigator.clipboard.writeText = async (text) => { document.body.dataset.copied = text; })`))
			p.picture("9-invitation")
			p.do(chromedp.Click("#copy"), chromedp.WaitVisible(`body[data-copied="`+link+`"]`))
			p.shows(texts.copied)
			<-looks // before the phone was there
			added.Store(true)
			p.do(chromedp.WaitVisible(`//strong[normalize-space()="Xperia"]`))
			p.picture("10-devices")
		})
	}
}
