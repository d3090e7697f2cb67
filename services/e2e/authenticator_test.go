package e2e

import (
	"encoding/json"
	"strconv"
	"strings"
	"testing"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/input"
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

// until waits until an expression is true. As shows, it is for one page.
func (p *page) until(expression string) {
	p.t.Helper()
	if _, err := chromedp.Run(p.ctx, chromedp.Poll[bool](expression, chromedp.WithPollingTimeout(0))); err != nil {
		p.picture("failed")
		p.t.Fatalf("waiting for %s: %v; there is %q", expression, err, p.read(chromedp.Text("main")))
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
			p.desk.do("add a phone", chromedp.Click("a[href='/devices']"), chromedp.WaitVisible("#add"), chromedp.Click("#add"), chromedp.WaitVisible("button[value=session]"))
			p.desk.picture("1-desk-step-up")
			p.desk.do("step up", chromedp.Click("button[value=session]"), chromedp.WaitVisible("#code"))
			p.desk.do("type the code", chromedp.SendKeys("#code", s.newestCode(number)), chromedp.WaitVisible("#add"))
			p.desk.do("add a phone", chromedp.Click("#add"), chromedp.WaitVisible("#invitation"))
			p.desk.picture("1-desk-invitation")
			p.activate(p.desk.read(chromedp.Evaluate[string](`document.querySelector("#invitation").href`)), "Pixel 9")
			p.desk.do("the page goes to the list by itself", chromedp.WaitVisible(".rows li"))
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
			p.done()

			p.byID()
			p.phone.press(p.asks("prompt.deny"))
			p.phone.shows(p.asks("result.denied"))
			p.desk.shows(p.says("denied.title"))
			p.desk.picture("5-desk-denied")
			p.done()

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
	p.done()
	p.desk.do("send it again", chromedp.Click("#resend"), chromedp.WaitVisible(".number strong"))
	p.phone.shows(p.asks("prompt.title"))
}

// compose types into the field that has the focus as an input method for Japanese does: full-width digits, which are a proposal
// until they are committed.
func (p *page) compose(digits string) {
	p.t.Helper()
	wide := []rune(strings.Map(func(r rune) rune { return r - '0' + '０' }, digits))
	for i := range wide {
		at := int64(i + 1)
		_, err := chromedp.Call(p.ctx, input.ImeSetComposition, input.ImeSetCompositionParams{Text: string(wide[:at]), SelectionStart: at, SelectionEnd: at})
		must(p.t, err)
	}
	_, err := chromedp.Call(p.ctx, input.InsertText, input.InsertTextParams{Text: string(wide)})
	must(p.t, err)
}

// What comes while the phone shows something else: nothing waits behind a result for a tap, and nothing takes away what is typed.
func TestWhatComesMeanwhile(t *testing.T) {
	s := start(t, cheap)
	for language, number := range map[string]string{"en": "09011110054", "ja": "09011110055"} {
		t.Run(language, func(t *testing.T) {
			user := "busy-" + language
			s.addUser(user, number)
			p := s.pair(t, user, language)
			p.signIn(home) // so that this browser is no news
			p.activate(s.HTTP+"/authenticator#"+s.invite(user), "Pixel 9")
			leaves := func(byItself bool) { // a result, or is left for what is new only
				p.phone.read(chromedp.Evaluate[string](`window.plain ??= setTimeout, window.setTimeout = (what, ms) => plain(what, ` + strconv.FormatBool(byItself) + ` || ms !== 10_000 ? ms : 1e9), ""`))
			}
			leaves(false)

			// An alert leaves a result, and the list below it has what it speaks of; also when that is there already.
			p.byID()
			p.phone.press(p.asks("prompt.deny"))
			p.phone.shows(p.asks("result.denied"))
			other := s.phoneOf(user)
			p.phone.shows(p.asks("notice.device_enrolled", "{device}", "my phone"))
			p.phone.until(`document.getElementById("devices").innerText.includes("my phone")`)
			p.phone.picture("1-phone-alert")
			p.phone.press(p.asks("notices.seen"))
			p.phone.do("the notice goes", chromedp.WaitNotPresent("#notices section"))
			s.phone().enroll(s.invite(user), "tablet")
			p.phone.until(`document.getElementById("devices").innerText.includes("tablet")`)
			p.phone.press(p.asks("notices.seen"))
			p.phone.do("the notice goes", chromedp.WaitNotPresent("#notices section"))

			// So does another request.
			p.byID()
			p.phone.press(p.asks("prompt.deny"))
			p.phone.shows(p.asks("result.denied"))
			p.byID()

			// A second one beside that does not disturb the user, who finds it in the list; then it goes again.
			p.phone.do("begin to type", chromedp.SendKeys("#number", "123"))
			second := s.beginWith(map[string]any{"user": user, "method": "none"})
			p.phone.shows(p.asks("prompt.others"))
			p.phone.picture("2-phone-another")
			p.phone.until(`document.activeElement.id === "number" && document.activeElement.value === "123"`)
			p.phone.press(p.asks("prompt.back"))
			p.phone.until(`document.querySelectorAll(".request").length === 2`)
			p.phone.until(`[...document.querySelectorAll(".request")].every((row) => /\d:\d\d:\d\d/.test(row.innerText))`)
			p.phone.picture("3-phone-list")
			p.phone.do("the desk's", chromedp.Click(`//button[contains(@class, "request")][contains(., "Chrome")]`), chromedp.WaitVisible("#number"))
			p.phone.shows(p.asks("prompt.others"))
			p.phone.do("begin to type", chromedp.SendKeys("#number", "45"))
			if status, _ := other.decide(other.asked(loginOf(second)), "deny", ""); status != 200 {
				t.Fatalf("deny the second: %d", status)
			}
			p.phone.until(`document.getElementById("others").innerText === ""`)
			p.phone.until(`document.activeElement.id === "number" && document.activeElement.value === "45"`)

			// The number is what an input method says in the end. The result leaves by itself.
			p.phone.do("begin anew", chromedp.SetValue("#number", ""))
			leaves(true)
			p.phone.compose(p.number())
			p.phone.press(p.asks("prompt.approve"))
			p.phone.shows(p.asks("result.approved"))
			p.desk.do("the page goes on", chromedp.WaitVisible(home))
			p.phone.shows(p.asks("home.title"))
		})
	}
}
