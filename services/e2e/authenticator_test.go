package e2e

import (
	"encoding/json"
	"testing"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/chromedp"
)

// shows waits until the page shows a text. It must not be used across a navigation, which a wait for an element is for.
func (p *page) shows(text string) {
	p.t.Helper()
	quoted, err := json.Marshal(text)
	must(p.t, err)
	if _, err := chromedp.Run(p.ctx, chromedp.Poll[bool](`document.querySelector("main")?.innerText.includes(`+string(quoted)+`)`, chromedp.WithPollingTimeout(0))); err != nil {
		p.picture("failed")
		p.t.Fatalf("waiting for %q: %v; there is %q", text, err, p.read(chromedp.Text("main")))
	}
}

// press clicks the button with a text.
func (p *page) press(text string) {
	p.t.Helper()
	p.do("press "+text, chromedp.Click(`//button[normalize-space()="`+text+`"]`))
}

// A user who has logged in with a password adds a phone. From then on the ID and the phone are enough.
func TestAuthenticator(t *testing.T) {
	s := start(t, cheap)
	for language, number := range map[string]string{"en": "09011110051", "ja": "09011110052"} {
		t.Run(language, func(t *testing.T) {
			user := "walker-" + language
			s.addUser(user, number)
			p := s.pair(t, user, language)
			p.signIn(home)
			p.desk.do("add a phone", chromedp.Click("a[href='/devices']"), chromedp.WaitVisible("#add"), chromedp.Click("#add"), chromedp.WaitVisible("#invitation"))
			p.desk.picture("1-desk-invitation")
			p.activate(p.desk.read(chromedp.Evaluate[string](`document.querySelector("#invitation").href`)), "Pixel 9")
			p.desk.do("the phone is in the list", chromedp.Navigate(s.HTTP+"/devices"), chromedp.WaitVisible(".rows li"))
			p.desk.picture("2-desk-devices")
			p.desk.do("log out", chromedp.Navigate(s.HTTP+"/"), chromedp.Click(home+" button"), chromedp.WaitVisible("main a[href^='/login']"))

			p.byID()
			p.phone.picture("3-phone-prompt")
			p.desk.picture("3-desk-number")
			p.approve(another(p.number()))
			p.phone.shows(p.asks("prompt.wrong", "{left}", "2"))
			p.approve(p.number())
			p.desk.do("the page goes on by itself", chromedp.WaitVisible(home))
			p.phone.shows(p.asks("result.approved"))
			p.phone.picture("4-phone-approved")
			p.phone.press(p.asks("result.done"))

			p.byID()
			p.phone.press(p.asks("prompt.deny"))
			p.phone.shows(p.asks("result.denied"))
			p.desk.shows(p.says("denied.title"))
			p.desk.picture("5-desk-denied")
			p.phone.press(p.asks("result.done"))

			// A browser that the user has not used before.
			_, err := chromedp.Call(p.desk.ctx, network.ClearBrowserCookies, cdp.Empty{})
			must(t, err)
			p.signIn(home)
			p.phone.press(p.asks("notices.not_me"))
			p.phone.shows(p.asks("result.reported"))
			p.phone.picture("6-phone-reported")
			p.desk.do("the session has ended", chromedp.Navigate(s.HTTP+"/"), chromedp.WaitVisible("#user"))
		})
	}
}

// Nobody answers in time: both pages say so, and the request can be sent again.
func TestPushThatExpires(t *testing.T) {
	s := start(t, cheap+"push: {ttl: 10s}\ncode: {resend_after: 1s}\n")
	s.addUser("late", "09011110053")
	p := s.pair(t, "late", "ja")
	p.activate(s.HTTP+"/authenticator#"+s.invite("late"), "Pixel 9")
	p.byID()
	p.phone.shows(p.asks("result.expired"))
	p.phone.picture("1-phone-expired")
	p.desk.do("it has expired", chromedp.WaitVisible("#resend.primary"))
	p.desk.picture("1-desk-expired")
	p.phone.press(p.asks("result.done"))
	p.desk.do("send it again", chromedp.Click("#resend"), chromedp.WaitVisible(".number strong"))
	p.phone.shows(p.asks("prompt.title"))
}
