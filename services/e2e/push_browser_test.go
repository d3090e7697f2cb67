package e2e

import (
	"encoding/json"
	"os"
	"strings"
	"testing"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/chromedp"
)

// words are the texts of pages in a language, by key.
func words(t *testing.T, folder, language string) func(key string, values ...string) string {
	t.Helper()
	data, err := os.ReadFile("../gateway/" + folder + "/" + language + ".json")
	must(t, err)
	var texts map[string]string
	must(t, json.Unmarshal(data, &texts))
	return func(key string, values ...string) string {
		t.Helper()
		if texts[key] == "" {
			t.Fatalf("%s has no text %s", folder, key)
		}
		return strings.NewReplacer(values...).Replace(texts[key])
	}
}

// home is on the page of who has logged in.
const home = "form[action='/logout']"

// A pair is a user between two browsers: the desk, where the user logs in, and the phone.
type pair struct {
	*system
	t           *testing.T
	user        string
	desk, phone *page
	says, asks  func(key string, values ...string) string // the texts of desk and phone
}

func (s *system) pair(t *testing.T, user, language string) *pair {
	t.Helper()
	p := &pair{s, t, user, openPage(t, language, true), openPage(t, language, true),
		words(t, "pages/catalogs", language), words(t, "authenticator/app", language)}
	for _, each := range []*page{p.desk, p.phone} {
		each.do("a phone's size", chromedp.EmulateViewport(390, 844))
	}
	// Chromium takes away the network of pages that it watches, and not of what passes their service worker.
	_, err := chromedp.Call(p.phone.ctx, network.Enable, network.EnableParams{})
	must(t, err)
	_, err = chromedp.Call(p.phone.ctx, network.SetBypassServiceWorker, network.SetBypassServiceWorkerParams{Bypass: true})
	must(t, err)
	return p
}

// activate opens an invitation's link on the phone.
func (p *pair) activate(link, name string) {
	p.t.Helper()
	p.phone.do("open the link", chromedp.Navigate(link), chromedp.WaitVisible("#name"))
	p.phone.do("name the phone", chromedp.SetValue("#name", name))
	p.phone.picture("0-phone-activate")
	p.phone.press(p.asks("activate.submit"))
	p.phone.shows(p.asks("connection.live"))
}

// signIn begins a login at the desk with a password.
func (p *pair) signIn(then string) {
	p.t.Helper()
	p.desk.do("sign in", chromedp.Navigate(p.HTTP+"/login?anew=1"), chromedp.WaitVisible("#user"), chromedp.SendKeys("#user", p.user),
		chromedp.SendKeys("#password", userPassword), chromedp.Click("button[value=password]"), chromedp.WaitVisible(then))
}

// byID begins a login at the desk with the phone alone.
func (p *pair) byID() {
	p.t.Helper()
	p.desk.do("sign in by ID", chromedp.Navigate(p.HTTP+"/login?anew=1"), chromedp.WaitVisible("#user"), chromedp.SendKeys("#user", p.user))
	p.desk.press(p.says("signin.phone"))
	p.desk.do("the number is shown", chromedp.WaitVisible(".number strong"))
	p.phone.shows(p.asks("prompt.title"))
}

// number is what the desk shows, read in one step: the page may be drawn anew at any time.
func (p *pair) number() string {
	p.t.Helper()
	return p.desk.read(chromedp.Evaluate[string](`document.querySelector(".number strong").textContent`))
}

// approve types a number on the phone, and approves.
func (p *pair) approve(number string) {
	p.t.Helper()
	p.phone.do("type a number", chromedp.WaitEnabled("#number"), chromedp.SendKeys("#number", number))
	p.phone.press(p.asks("prompt.approve"))
}

// done leaves a result on the phone, unless the phone has left it by itself.
func (p *pair) done() {
	p.t.Helper()
	text, err := json.Marshal(p.asks("result.done"))
	must(p.t, err)
	p.phone.read(chromedp.Evaluate[string](`String([...document.querySelectorAll("main button")].find((button) => button.textContent === ` + string(text) + `)?.click())`))
}

// byText goes on with a text message: one click, and the code.
func (p *pair) byText(number string) {
	p.t.Helper()
	p.desk.do("another way", chromedp.Click("#factor-sms"), chromedp.WaitVisible("#code"))
	p.desk.picture("desk-text-message")
	p.desk.do("type the code", chromedp.SendKeys("#code", p.newestCode(number)), chromedp.WaitVisible(home))
}

// emulateNetwork is the command that every Chromium knows; what takes its place differs between their versions.
var emulateNetwork = cdp.Command[network.OverrideNetworkStateParams, cdp.Empty]{Method: "Network.emulateNetworkConditions"}

// offline takes the phone's network away, or gives it back.
func (p *pair) offline(away bool) {
	p.t.Helper()
	_, err := chromedp.Call(p.phone.ctx, emulateNetwork, network.OverrideNetworkStateParams{Offline: away, DownloadThroughput: -1, UploadThroughput: -1})
	must(p.t, err)
}

// A user whom an admin has invited, and whose logins are doubted: everything that may go wrong between desk and phone.
func TestPhoneAsSecondFactor(t *testing.T) {
	s := start(t, cheap)
	for language, c := range map[string]struct{ number, app string }{"en": {"09011110061", "Sekisho demo"}, "ja": {"09011110062", "関所デモ"}} {
		t.Run(language, func(t *testing.T) {
			user := "doubted-" + language
			s.addUser(user, c.number)
			s.risk(user, "REVIEW")
			p := s.pair(t, user, language)
			p.activate(s.HTTP+"/authenticator#"+s.invite(user), "Pixel 9")
			p.phone.picture("1-phone-home")

			// The phone is out of reach, comes back and finds what it is asked.
			p.offline(true)
			p.phone.shows(p.asks("connection.offline"))
			p.phone.picture("2-phone-offline")
			p.signIn(".number strong")
			p.desk.picture("2-desk-number")
			p.offline(false)
			p.phone.shows(p.asks("prompt.title"))
			p.phone.shows(c.app)
			p.phone.picture("3-phone-prompt")

			// Three wrong numbers: no more pushes in this login, and one click leads to another factor.
			for _, left := range []string{"2", "1"} {
				p.approve(another(p.number()))
				p.phone.shows(p.asks("prompt.wrong", "{left}", left))
				p.desk.shows(p.says("notice.wrong_number"))
			}
			p.desk.picture("4-desk-wrong")
			p.phone.picture("4-phone-wrong")
			p.approve(another(p.number()))
			p.phone.shows(p.asks("result.exhausted"))
			p.phone.picture("5-phone-exhausted")
			p.desk.shows(p.says("challenge.push.exhausted.detail"))
			p.desk.picture("5-desk-exhausted")
			p.byText(c.number)
			p.desk.picture("6-desk-home")

			// Nobody had logged in from here before. The same browser again is no news.
			p.done()
			p.phone.shows(p.asks("notice.unknown_environment", "{app}", c.app))
			p.phone.picture("7-phone-notice")
			p.phone.press(p.asks("notices.was_me"))
			p.phone.do("the notice goes", chromedp.WaitNotPresent("#notices section"))

			// Another factor while the phone is still asked, whose prompt goes away.
			p.signIn(".number strong")
			p.phone.shows(p.asks("prompt.title"))
			p.byText(c.number)
			p.phone.shows(p.asks("result.over"))
			p.phone.picture("8-phone-over")
			p.done()
			p.phone.shows(p.asks("prompts.none"))
			p.phone.do("no news", chromedp.WaitNotPresent("#notices section"))

			// "This was not me": denied, and phones are left in peace for a while.
			p.signIn(".number strong")
			p.phone.shows(p.asks("prompt.title"))
			p.phone.press(p.asks("prompt.not_me"))
			p.phone.shows(p.asks("result.not_me"))
			p.phone.picture("9-phone-not-me")
			p.desk.shows(p.says("denied.title"))
			p.desk.picture("9-desk-denied")
			p.signIn("#code")
			p.desk.do("type the code", chromedp.SendKeys("#code", s.newestCode(c.number)), chromedp.WaitVisible(home))
			p.done()
			p.phone.shows(p.asks("prompts.none"))

			p.desk.do("remove the phone", chromedp.Navigate(s.HTTP+"/devices"), chromedp.WaitVisible(".rows li"),
				chromedp.Click(`//summary[normalize-space()="`+p.says("devices.remove")+`"]`), chromedp.WaitVisible(".danger"))
			p.desk.picture("10-desk-remove")
			p.desk.do("for sure", chromedp.Click(".danger"), chromedp.WaitVisible(".empty"))
			p.phone.shows(p.asks("removed.title"))
			p.phone.picture("10-phone-removed")
		})
	}
}

// Where a provider hosts the approval, the browser goes there and comes back.
func TestApprovalAtAProvider(t *testing.T) {
	s := start(t, cheap)
	s.addUser("hosted", "09011110063")
	linked := map[string]string{"kind": "mamoru", "account": "hosted@example.com"}
	if status := s.admin("POST", "/users/hosted/authenticators", linked, nil); status != 201 {
		t.Fatalf("link: %d", status)
	}
	for decision, then := range map[string]string{"approved": home, "denied": "main a[href^='/login?']"} {
		t.Run(decision, func(t *testing.T) {
			desk := openPage(t, "en", false)
			desk.do("sign in by ID", chromedp.Navigate(s.HTTP+"/login"), chromedp.WaitVisible("#user"), chromedp.SendKeys("#user", "hosted"),
				chromedp.Click("button[value=none]"), chromedp.WaitVisible("#approve"))
			desk.picture("1-go")
			desk.do("go there", chromedp.Click("#approve"), chromedp.WaitVisible("button[name=decision]"))
			desk.do("decide", chromedp.Click("button[value="+decision+"]"), chromedp.WaitVisible(then))
			desk.picture("2-back")
		})
	}
}
