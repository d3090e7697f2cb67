package e2e

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/chromedp"

	"github.com/sekisho/sekisho/services/internal/testenv"
)

// A page is one window of a Chromium, as small as a phone's.
type page struct {
	t   *testing.T
	ctx context.Context
}

func openPage(t *testing.T, language string, scripts bool) *page {
	t.Helper()
	p := &page{t, testenv.Chromium(t, language)}
	_, err := chromedp.Call(p.ctx, emulation.SetScriptExecutionDisabled, emulation.SetScriptExecutionDisabledParams{Value: !scripts})
	must(t, err)
	return p
}

func (p *page) do(what string, steps ...chromedp.Action[chromedp.Void]) {
	p.t.Helper()
	if err := chromedp.Do(p.ctx, steps...); err != nil {
		p.t.Fatalf("%s: %v", what, err)
	}
}

func (p *page) read(action chromedp.Action[string]) string {
	p.t.Helper()
	s, err := chromedp.Run(p.ctx, action)
	must(p.t, err)
	return s
}

// picture keeps what the page looks like, where SEKISHO_TEST_PICTURES names a folder.
func (p *page) picture(name string) {
	p.t.Helper()
	dir := os.Getenv("SEKISHO_TEST_PICTURES")
	if dir == "" {
		return
	}
	png, err := chromedp.Run(p.ctx, chromedp.FullScreenshot(100))
	must(p.t, err)
	must(p.t, os.WriteFile(filepath.Join(dir, strings.ReplaceAll(p.t.Name(), "/", "-")+"-"+name+".png"), png, 0o600))
}

// Alice logs in with a browser: a wrong password, the right one, a wrong code, the right code, the demo app, and out
// again; with scripts and without, in Japanese and in English.
func TestBrowser(t *testing.T) {
	s := start(t, cheap)
	for name, c := range map[string]struct {
		language string
		scripts  bool
	}{"scripts": {"ja", true}, "plain": {"en", false}} {
		t.Run(name, func(t *testing.T) {
			p := openPage(t, c.language, c.scripts)
			fill := func(password string) []chromedp.Action[chromedp.Void] {
				return []chromedp.Action[chromedp.Void]{chromedp.WaitVisible("#user"), chromedp.SendKeys("#user", "alice"),
					chromedp.SendKeys("#password", password), chromedp.Click("button[value=password]")}
			}
			p.do("the app sends to the login page", chromedp.Navigate(s.HTTP+"/"), chromedp.WaitVisible("#user"))
			p.picture("1-signin")
			if html := p.read(chromedp.OuterHTML("html")); !strings.Contains(html, `<html lang="`+c.language+`"`) {
				t.Errorf("the page is not in %q", c.language)
			}
			p.do("a wrong password is denied", append(fill("not it"), chromedp.WaitVisible("main a[href^='/login?']"))...)
			p.picture("2-denied")
			p.do("try again", chromedp.Click("main a[href^='/login?']"))
			p.do("the right password leads to a code", append(fill(s.Password), chromedp.WaitVisible("#code"))...)
			p.picture("3-challenge")
			code := s.newestCode("09012341234")
			p.do("type a wrong code", chromedp.SendKeys("#code", wrong(code)))
			if !c.scripts { // the script sends the form after the sixth digit
				p.do("send it", chromedp.Click("#confirm"))
			}
			p.do("a wrong code is told", chromedp.WaitVisible("#notice"))
			p.picture("4-wrong-code")
			p.do("the right code logs in", chromedp.WaitVisible("#code"), chromedp.SendKeys("#code", code), chromedp.Click("#confirm"),
				chromedp.WaitVisible("form[action='/logout']"))
			p.picture("5-home")
			if home := p.read(chromedp.Text("main")); !strings.Contains(home, "alice") {
				t.Errorf("the app shows %q", home)
			}
			p.do("log out", chromedp.Click("form[action='/logout'] button"), chromedp.WaitVisible("a[href^='/login']"))
			p.picture("6-out")
			p.do("the app asks again", chromedp.Navigate(s.HTTP+"/"), chromedp.WaitVisible("#user"))
			if at := p.read(chromedp.Location()); !strings.Contains(at, "/login") {
				t.Errorf("after log-out the app is at %q", at)
			}
		})
	}
}
