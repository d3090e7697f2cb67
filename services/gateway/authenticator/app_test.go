package authenticator

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/cdproto/browser"
	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/chromedp"
)

// words are the texts of a language, by key.
func words(t *testing.T, language string) func(key string, values ...string) string {
	t.Helper()
	data, err := files.ReadFile("app/" + language + ".json")
	if err != nil {
		t.Fatal(err)
	}
	var texts map[string]string
	if err := json.Unmarshal(data, &texts); err != nil {
		t.Fatal(err)
	}
	return func(key string, values ...string) string {
		if texts[key] == "" {
			t.Fatalf("%s has no %s", language, key)
		}
		return strings.NewReplacer(values...).Replace(texts[key])
	}
}

// A phone is activated by its link, approves with the number, and is told what came of it; in both languages.
func TestActivateAndApprove(t *testing.T) {
	for _, language := range []string{"en", "ja"} {
		t.Run(language, func(t *testing.T) {
			f, w := newFar(t), words(t, language)
			s := open(t, f, language, "/authenticator")
			s.shows(w("welcome.title"))
			s.picture("1-welcome")
			s.do(chromedp.SendKeys("#link", "https://elsewhere.example/"), chromedp.Click("form .primary"))
			s.shows(w("welcome.bad_link"))
			s.wrong("link", w("welcome.bad_link"))
			if kept := s.evaluate(`document.activeElement.value + getSelection()`); kept != strings.Repeat("https://elsewhere.example/", 2) {
				t.Errorf("what was typed, and what of it the next paste replaces: %q", kept)
			}
			s.picture("1-wrong-link")
			s.do(chromedp.Navigate(f.URL+"/authenticator#"+goodCode), chromedp.WaitVisible("#name"))
			if at := s.evaluate("location.href"); strings.Contains(at, goodCode) {
				t.Errorf("the code stays in the address: %s", at)
			}
			s.evaluate(`document.getElementById("name").value = " "`)
			s.do(chromedp.Click("form .primary"))
			s.shows(w("activate.bad_name"))
			s.wrong("name", w("activate.bad_name"))
			s.evaluate(`document.getElementById("name").value = "Pixel 9"`)
			s.picture("2-activate")
			s.do(chromedp.Click("form .primary"))
			s.shows(w("connection.live"), w("home.owner", "{user}", "alice", "{name}", "Pixel 9"), w("devices.this"), w("notifications.unsupported"))
			s.picture("3-home")

			f.ask(nil)
			s.shows(w("prompt.title"), "Sekisho demo", "Firefox, Windows", map[string]string{"en": "Japan (192.0.2.7)", "ja": "日本 (192.0.2.7)"}[language], "1:5")
			if s.evaluate(`document.querySelector("form .primary").disabled`) != "true" {
				t.Error("approve is enabled without a number")
			}
			s.picture("4-prompt")
			s.do(chromedp.SendKeys("#number", "11111"))
			if s.evaluate(`document.querySelector("form .primary").disabled`) != "true" {
				t.Error("approve is enabled with five digits")
			}
			s.do(chromedp.SendKeys("#number", "1"))
			s.picture("5-number")
			s.press(w("prompt.approve"))
			s.shows(w("prompt.wrong", "{left}", "2"))
			s.focused("number")
			s.picture("6-wrong")
			s.do(chromedp.SendKeys("#number", number))
			s.press(w("prompt.approve"))
			s.shows(w("result.approved"))
			s.picture("7-approved")
			s.done(w("result.done"))
			s.shows(w("prompts.none"))
			if got := f.decided(); !slices.Equal(got, []string{"approve 111111", "approve " + number}) {
				t.Errorf("decisions %v", got)
			}
		})
	}
}

// done leaves a result by its button, unless the app has left it by itself.
func (s *screen) done(text string) {
	s.t.Helper()
	s.evaluate(`[...document.querySelectorAll("main button")].find((button) => button.textContent === "` + text + `")?.click()`)
}

func TestActivationThatIsUsed(t *testing.T) {
	f, w := newFar(t), words(t, "en")
	s := open(t, f, "en", "/authenticator#USEDUSEDUSEDUSEDUSEDUSED")
	s.do(chromedp.WaitVisible("#name"))
	s.evaluate(`document.getElementById("name").value = "Pixel"`)
	s.do(chromedp.Click("form .primary"))
	s.shows(w("welcome.used"))
	s.picture("used")

	// A pasted link does it too; full-width digits and the like are for the number, not here.
	s.do(chromedp.SendKeys("#link", f.URL+"/authenticator#"+goodCode), chromedp.Click("form .primary"), chromedp.WaitVisible("#name"))
	f.breakOff(true)
	s.do(chromedp.Click("form .primary"))
	s.shows(w("activate.unreachable"))
	f.breakOff(false)
	s.do(chromedp.Click("form .primary"))
	s.shows(w("connection.live"))
}

// Who has too many phones is told so, and goes on when one is removed.
func TestOnePhoneTooMany(t *testing.T) {
	for _, language := range []string{"ja", "en"} {
		f, w := newFar(t), words(t, language)
		s := open(t, f, language, "/authenticator#"+goodCode)
		s.do(chromedp.WaitVisible("#name"))
		s.evaluate(`document.getElementById("name").value = "Pixel"`)
		f.change(func() { f.full = true })
		s.do(chromedp.Click("form .primary"))
		s.shows(w("activate.too_many"))
		s.picture("too-many-" + language)
		f.change(func() { f.full = false })
		s.do(chromedp.Click("form .primary"))
		s.shows(w("connection.live"))
	}
}

// A second activation takes the place of the first, if the user wants that.
func TestActivationOfAnActivePhone(t *testing.T) {
	f, w := newFar(t), words(t, "ja")
	s := activated(t, f, "ja")
	again := func(code string) {
		t.Helper()
		s.do(chromedp.Navigate(f.URL+"/authenticator#"+code), chromedp.WaitVisible("#name"))
		s.shows(w("activate.previous", "{user}", "alice"))
		s.evaluate(`document.getElementById("name").value = "Pixel 10"`)
	}
	again(goodCode)
	s.picture("previous")
	s.press(w("activate.cancel"))
	s.shows(w("connection.live"), w("home.owner", "{user}", "alice", "{name}", "Pixel"))
	again("USEDUSEDUSEDUSEDUSEDUSED")
	s.do(chromedp.Click("form .primary"))
	s.shows(w("connection.live"), w("welcome.used"))
	again(goodCode)
	s.do(chromedp.Click("form .primary"))
	s.shows(w("connection.live"), w("home.owner", "{user}", "alice", "{name}", "Pixel 10"))
	s.do(chromedp.WaitNotPresent(`//strong[normalize-space()="Pixel"]`))
}

// The private key can be used, and never read.
func TestKeyCanNotBeExported(t *testing.T) {
	s := activated(t, newFar(t), "en")
	value, err := chromedp.Run(s.ctx, chromedp.Evaluate[string](`import("/authenticator/device.js").then(async ({ recall }) => {
		const { key } = await recall("device");
		const taken = await Promise.allSettled(["jwk", "pkcs8", "raw"].map((format) => crypto.subtle.exportKey(format, key)));
		return [key.type, key.extractable, key.usages, ...taken.map(({ status }) => status)].join(" ");
	})`, chromedp.EvalAwaitPromise))
	if err != nil || value != "private false sign rejected rejected rejected" {
		t.Errorf("key: %s, %v", value, err)
	}
}

func TestDecline(t *testing.T) {
	for _, language := range []string{"en", "ja"} {
		t.Run(language, func(t *testing.T) {
			f, w := newFar(t), words(t, language)
			s := activated(t, f, language)
			f.ask(nil)
			s.shows(w("prompt.title"))
			s.press(w("prompt.deny"))
			s.shows(w("result.denied"))
			s.picture("denied")
			s.done(w("result.done"))

			f.ask(nil)
			s.shows(w("prompt.title"))
			s.press(w("prompt.not_me"))
			s.shows(w("result.not_me"))
			s.picture("not-me")
			if got := f.decided(); !slices.Equal(got, []string{"deny", "not_me"}) {
				t.Errorf("decisions %v", got)
			}
		})
	}
}

// Where an app's policy lets a push be approved without its number.
func TestTap(t *testing.T) {
	f, w := newFar(t), words(t, "ja")
	s := activated(t, f, "ja")
	f.ask(func(p *prompt) { p.Number = false })
	s.shows(w("prompt.tap_detail"))
	s.picture("prompt")
	s.press(w("prompt.approve"))
	s.shows(w("result.approved"))
}

func TestThreeWrongNumbers(t *testing.T) {
	f, w := newFar(t), words(t, "ja")
	s := activated(t, f, "ja")
	f.ask(nil)
	for _, left := range []string{"2", "1"} {
		s.do(chromedp.WaitVisible("#number"), chromedp.SendKeys("#number", "000000"))
		s.press(w("prompt.approve"))
		s.shows(w("prompt.wrong", "{left}", left))
	}
	s.do(chromedp.SendKeys("#number", "000000"))
	s.press(w("prompt.approve"))
	s.shows(w("result.exhausted"))
	s.picture("exhausted")
}

// A prompt goes away when it runs out, and when it was answered elsewhere. Several wait in a list.
func TestPromptsThatEnd(t *testing.T) {
	f, w := newFar(t), words(t, "en")
	s := activated(t, f, "en")
	f.ask(func(p *prompt) { p.Expires = time.Now().Add(2 * time.Second) })
	s.shows(w("prompt.title"))
	s.shows(w("result.expired"))
	s.picture("expired")
	f.change(func() { f.prompts = nil })
	s.done(w("result.done"))

	f.ask(nil)
	s.shows(w("prompt.title"))
	f.change(func() { f.prompts = nil })
	s.shows(w("result.over"))
	s.picture("over")
	f.ask(func(p *prompt) { p.Round, p.App = 2, "Payroll" })
	s.shows(w("prompt.title"), "Payroll") // nobody needs to leave the result
	f.ask(func(p *prompt) { p.Round = 3 })
	s.shows(w("prompt.others"))
	s.press(w("prompt.back"))
	s.shows(w("prompts.title"), "Payroll")
	s.picture("list")
	s.do(chromedp.Click(`//button[contains(., "Payroll")]`))
	s.shows(w("prompt.title"))
	s.press(w("prompt.back"))
	s.shows(w("prompts.title"))

	// In a list too, about which nobody says anything; and what is over does not keep a new one from the screen.
	s.evaluate(`document.querySelector(".request").focus()`)
	f.change(func() {
		for i := range f.prompts {
			f.prompts[i].Expires = time.Now().Add(2 * time.Second)
		}
	})
	s.shows(w("prompts.none"))
	s.focused("H1")
	f.ask(func(p *prompt) { p.App = "Wiki" })
	s.shows(w("prompt.title"), "Wiki")
}

// Without a stream the app asks; without anything it says so, its shell works, and it comes back by itself.
func TestOfflineAndBack(t *testing.T) {
	for _, language := range []string{"en", "ja"} {
		t.Run(language, func(t *testing.T) {
			t.Parallel()
			f, w := newFar(t), words(t, language)
			s := activated(t, f, language)
			s.workerReady()
			f.breakOff(true)
			s.shows(w("connection.offline"))
			s.do(chromedp.Navigate(f.URL + "/authenticator"))
			s.shows(w("connection.offline"), w("home.title"))
			if strings.Contains(s.text(), w("prompts.none")) {
				t.Error("offline the app says that nothing waits")
			}
			s.picture("offline")
			f.change(func() { f.noStream = true })
			f.breakOff(false)
			s.shows(w("connection.polling"))
			s.picture("polling")
			f.ask(nil)
			s.shows(w("prompt.title"))
			s.do(chromedp.SendKeys("#number", number))
			f.breakOff(true)
			s.press(w("prompt.approve"))
			s.shows(w("prompt.unreachable"))
			s.picture("unreachable")
			f.change(func() { f.noStream = false })
			f.breakOff(false)
			s.press(w("prompt.approve")) // the number is still there
			s.shows(w("result.approved"))
			s.done(w("result.done"))
			s.shows(w("connection.live"))
		})
	}
}

// Between two versions a page is made of the files of one, those of its worker.
func TestFilesOfTwoVersionsNeverMeet(t *testing.T) {
	f, w := newFar(t), words(t, "en")
	s := activated(t, f, "en")
	s.workerReady()
	f.change(func() { f.deployed = true })
	s.do(chromedp.Navigate(f.URL + "/authenticator"))
	s.shows(w("home.title"), w("connection.live"))
}

// A tab whose phone was removed leaves alone the phone that another tab has activated since, in the same browser, and becomes that.
func TestRemovalInAStaleTab(t *testing.T) {
	f, w := newFar(t), words(t, "en")
	s := activated(t, f, "en")
	f.change(func() {
		f.keys["dAnew"] = f.keys["dPixel"]
		f.phones = append(f.phones, phone{ID: "dAnew", Name: "Anew", Enrolled: time.Now(), Seen: time.Now()})
	})
	id, err := chromedp.Run(s.ctx, chromedp.Evaluate[string](`import("/authenticator/device.js").then(async ({ keep, recall }) => {
		await keep("device", { ...await recall("device"), id: "dAnew", name: "Anew" });
		return (await recall("device")).id;
	})`, chromedp.EvalAwaitPromise))
	if err != nil || id != "dAnew" {
		t.Fatalf("%s, %v", id, err)
	}
	f.change(func() { f.remove("dPixel") })
	s.shows(w("home.owner", "{user}", "alice", "{name}", "Anew"), w("connection.live"))
	s.do(chromedp.Reload())
	s.shows(w("home.owner", "{user}", "alice", "{name}", "Anew"), w("connection.live"))
}

// A proxy that holds the stream back keeps nobody waiting.
func TestStreamThatIsHeldBack(t *testing.T) {
	t.Parallel()
	f, w := newFar(t), words(t, "en")
	f.mute = true
	s := open(t, f, "en", "/authenticator#"+goodCode)
	s.do(chromedp.WaitVisible("#name"))
	s.evaluate(`document.getElementById("name").value = "Pixel"`)
	s.do(chromedp.Click("form .primary"))
	s.shows(w("connection.polling"))
	f.ask(nil)
	s.shows(w("prompt.title"))
}

// listed is how often the app has got the list of phones.
const listed = `performance.getEntriesByType("resource").filter(({ name }) => name.endsWith("/devices")).length`

func TestDevices(t *testing.T) {
	for _, language := range []string{"en", "ja"} {
		t.Run(language, func(t *testing.T) {
			f, w := newFar(t), words(t, language)
			f.phones = []phone{{ID: "dOld", Name: "Galaxy", Enrolled: time.Now(), Seen: time.Now()}}
			s := activated(t, f, language)
			s.shows("Galaxy")
			s.do(chromedp.Click(`//li[contains(., "Galaxy")]//button[1]`), chromedp.WaitVisible("#name-dOld"))
			s.picture("rename")
			s.do(chromedp.SetValue("#name-dOld", "Galaxy S30"), chromedp.SendKeys("#name-dOld", "\r"))
			s.shows(w("notice.device_renamed", "{device}", "Galaxy S30"))
			s.focused("rename-dOld")
			s.do(chromedp.SendKeys("#rename-dPixel", "\r"), chromedp.SetValue("#name-dPixel", "Pixel 9"), chromedp.SendKeys("#name-dPixel", "\r"))
			s.shows(w("notice.device_renamed", "{device}", "Pixel 9"), w("home.owner", "{user}", "alice", "{name}", "Pixel 9"))
			s.focused("rename-dPixel")

			// What is asked stays while the list changes, which is drawn when the answer is there.
			s.do(chromedp.SendKeys("#remove-dOld", "\r"))
			s.shows(w("devices.remove_other", "{name}", "Galaxy S30"))
			s.picture("remove")
			asked := s.evaluate(listed)
			f.change(func() {
				f.phones = append(f.phones, phone{ID: "dTab", Name: "Xperia", Enrolled: time.Now(), Seen: time.Now()})
				f.notices = []notice{{ID: "n1", Kind: "device_enrolled", Device: "Xperia", At: time.Now()}}
			})
			s.until(listed + " > " + asked)
			if there := s.evaluate(`document.activeElement.textContent + document.querySelectorAll("#devices li").length`); there != w("devices.keep")+"2" {
				t.Errorf("a phone was added while the user is asked: %q", there)
			}
			s.do(chromedp.KeyEvent("\r"), chromedp.WaitVisible("#rename-dTab"))
			s.focused("remove-dOld")
			s.do(chromedp.KeyEvent("\r"), chromedp.SendKeys("#devices .asking .danger", "\r"), chromedp.WaitNotPresent(`//li[contains(., "Galaxy")]`))
			s.shows(w("notice.device_removed", "{device}", "Galaxy S30"))
			s.focused("phones-title")

			// Removed elsewhere, while a prompt is open.
			f.ask(nil)
			s.shows(w("prompt.title"))
			f.change(func() { f.remove("dPixel") })
			s.shows(w("removed.title"))
			s.picture("removed")
			s.do(chromedp.Navigate(f.URL + "/authenticator"))
			s.shows(w("welcome.title"))
		})
	}
}

func TestRemovesItself(t *testing.T) {
	f, w := newFar(t), words(t, "en")
	s := activated(t, f, "en")
	s.do(chromedp.Click(`//li[contains(., "Pixel")]//button[2]`))
	s.shows(w("devices.remove_this"))
	s.do(chromedp.Click(`//li//button[contains(@class, "danger")]`))
	s.shows(w("welcome.title"))
	if len(f.phones) != 0 {
		t.Errorf("the server still has %v", f.phones)
	}
}

func TestNotices(t *testing.T) {
	for _, language := range []string{"en", "ja"} {
		t.Run(language, func(t *testing.T) {
			f, w := newFar(t), words(t, language)
			names := map[string]string{"en": "Sekisho demo", "ja": "関所デモ"}
			s := activated(t, f, language)
			f.change(func() {
				f.notices = []notice{
					{ID: "n1", Kind: "unknown_environment", App: "demo", AppNames: names, Place: "BR (203.0.113.9)", Browser: "Chrome, Linux", At: time.Now()},
					{ID: "n2", Kind: "device_enrolled", Device: "Galaxy", At: time.Now()},
				}
			})
			s.shows(w("notice.unknown_environment", "{app}", names[language]), w("notice.device_enrolled", "{device}", "Galaxy"))
			if said := s.evaluate(`document.getElementById("live").textContent`); said != w("push.notice.detail") {
				t.Errorf("said of the news: %q", said)
			}
			s.picture("notices")

			// Who is about to answer one still is when it is gathered with another.
			s.evaluate(`document.getElementById("not-me-n1").focus()`)
			f.change(func() {
				f.notices = append(f.notices, notice{ID: "n3", Kind: "unknown_environment", App: "demo", Browser: "Chrome, Linux", At: time.Now()})
			})
			s.shows(w("gathered.unknown_environment", "{count}", "2"))
			s.focused("not-me-n1")
			s.do(chromedp.Click(`//button[normalize-space()="` + w("notices.not_me") + `"]`))
			s.shows(w("result.reported"))
			s.picture("reported")
			if got := f.decided(); !slices.Equal(got, []string{"notices/n1 not_me"}) {
				t.Errorf("decisions %v", got)
			}
		})
	}
}

// Notices of one kind, and of one browser, are one row, which opens to the single ones and stays open while they are answered.
func TestNoticesAreGathered(t *testing.T) {
	for _, language := range []string{"en", "ja"} {
		t.Run(language, func(t *testing.T) {
			f, w := newFar(t), words(t, language)
			s := activated(t, f, language)
			at := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
			f.change(func() {
				f.notices = []notice{{ID: "d1", Kind: "device_enrolled", Device: "Galaxy", At: at}, {ID: "d2", Kind: "device_enrolled", Device: "Xperia", At: at}}
				for i, browser := range []string{"Chrome, Linux", "Chrome, Linux", "Safari, iOS", "Chrome, Linux"} {
					f.notices = append(f.notices, notice{ID: fmt.Sprint("n", i), Kind: "unknown_environment", App: "Sekisho demo", Place: "BR (203.0.113.9)",
						Browser: browser, At: at.Add(time.Duration(i) * time.Hour)})
				}
			})
			three, newest := w("gathered.unknown_environment", "{count}", "3"), s.evaluate(`new Intl.DateTimeFormat("`+language+`", { dateStyle: "medium", timeStyle: "short" }).format(new Date("2026-03-01T15:00:00Z"))`)
			s.shows(w("gathered.device_enrolled", "{count}", "2"), three, "Chrome, Linux · "+w("notices.newest", "{time}", newest), "Safari, iOS")
			rows := func() string { return s.evaluate(`document.querySelectorAll("#notices > section > ul > li").length`) }
			if got := rows(); got != "3" {
				t.Errorf("%s rows", got)
			}
			if strings.Contains(s.text(), "Galaxy") {
				t.Error("the single ones are shown at once")
			}
			s.picture("gathered")
			s.do(chromedp.Click(`//summary[contains(., "`+three+`")]`), chromedp.WaitVisible(`//details//button[normalize-space()="`+w("notices.was_me")+`"]`))
			s.picture("opened")
			s.do(chromedp.Click(`//details//button[normalize-space()="` + w("notices.was_me") + `"]`))
			s.shows(w("gathered.unknown_environment", "{count}", "2"), w("notices.noted"))
			s.focused("news-title")
			s.do(chromedp.WaitVisible(`//details//button[normalize-space()="` + w("notices.was_me") + `"]`)) // still open
			s.do(chromedp.Click(`//details//button[normalize-space()="` + w("notices.was_me") + `"]`))
			s.do(chromedp.WaitNotPresent(`//summary[contains(., "Chrome")]`)) // one alone is a row as ever
			if got := rows(); got != "3" {
				t.Errorf("%s rows", got)
			}
			if got := f.decided(); !slices.Equal(got, []string{"notices/n0 seen", "notices/n1 seen"}) {
				t.Errorf("decisions %v", got)
			}
		})
	}
}

// An answer that does not count says so and what to do, and the phone asks no more.
func TestAnswerThatDoesNotCount(t *testing.T) {
	for _, language := range []string{"en", "ja"} {
		f, w := newFar(t), words(t, language)
		s := activated(t, f, language)
		f.ask(nil)
		s.do(chromedp.WaitVisible("#number"), chromedp.SendKeys("#number", number))
		f.change(func() { f.locked = true })
		s.press(w("prompt.approve"))
		s.shows(w("result.void"), w("result.void.detail"))
		s.picture(language)
		s.done(w("result.done"))
		s.shows(w("prompts.none"))
	}
}

// An answer whose fate is not known is signed anew. That it was refused does not mean that the phone was removed: the key stays.
func TestAnswerIsSentAgain(t *testing.T) {
	for name, trouble := range map[string]func(f *far, on bool){
		"used up, and lost":        func(f *far, on bool) { f.dying = on },
		"refused for no own fault": func(f *far, on bool) { f.older = on },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f, w := newFar(t), words(t, "en")
			s := activated(t, f, "en")
			f.ask(nil)
			s.do(chromedp.WaitVisible("#number"), chromedp.SendKeys("#number", number))
			f.change(func() { trouble(f, true) })
			s.press(w("prompt.approve"))
			s.shows(w("prompt.unreachable"))
			f.change(func() { trouble(f, false) })
			s.press(w("prompt.approve"))
			s.shows(w("result.approved"))
			if got := f.decided(); !slices.Equal(got, []string{"approve " + number}) {
				t.Errorf("decided: %q", got)
			}
		})
	}
}

// A server with a key for Web Push: a browser that may not notify, and one that reaches no push service.
func TestNotificationsThatDoNotWork(t *testing.T) {
	t.Parallel()
	f, w := newFar(t), words(t, "ja")
	f.vapid = vapidKey
	s := activated(t, f, "ja")
	s.shows(w("notifications.off"))
	s.picture("off")
	s.permit(browser.PermissionSettingGranted)
	s.press(w("notifications.turn_on"))
	s.shows(w("notifications.failed"))
	s.focused("notify-title")
	s.picture("failed")
	s.permit(browser.PermissionSettingDenied)
	s.do(chromedp.Reload())
	s.shows(w("notifications.denied"))
	s.picture("denied")
}

// permit decides about notifications as the user would in the browser's own window.
func (s *screen) permit(setting browser.PermissionSetting) {
	s.t.Helper()
	_, err := chromedp.Call(s.ctx, browser.SetPermission, browser.SetPermissionParams{
		Permission: &browser.PermissionDescriptor{Name: "notifications"}, Setting: setting, Origin: s.far.URL,
	})
	if err != nil {
		s.t.Fatal(err)
	}
}

// Another language costs nothing that was typed, and calls the app by its name there.
func TestLanguageWhileTyping(t *testing.T) {
	f := newFar(t)
	s := activated(t, f, "en")
	f.ask(func(p *prompt) { p.AppNames = map[string]string{"en": "Sekisho demo", "ja": "関所デモ"} })
	s.shows("Sekisho demo")
	s.do(chromedp.WaitVisible("#number"), chromedp.SendKeys("#number", number), chromedp.Click("#language"))
	ja := words(t, "ja")
	s.shows(ja("prompt.title"), "関所デモ")
	if strings.Contains(s.text(), "Sekisho demo") {
		t.Error("the app is called by its other name too")
	}
	s.picture("ja")
	s.press(ja("prompt.approve"))
	s.shows(ja("result.approved"))
	if got := f.decided(); !slices.Equal(got, []string{"approve " + number}) {
		t.Errorf("decisions %v", got)
	}

	// What was typed in part is no number in either language.
	f.ask(nil)
	s.done(ja("result.done"))
	s.do(chromedp.WaitVisible("#number"), chromedp.SendKeys("#number", "123"), chromedp.Click("#language"))
	s.shows(words(t, "en")("prompt.title"))
	if got := s.evaluate(`document.getElementById("number").value + document.querySelector("form .primary").disabled`); got != "123true" {
		t.Errorf("number and button: %s", got)
	}

	// Nor is what is on its way to be sent once more.
	s.evaluate(`(({ fetch }) => { globalThis.fetch = (at, more) => more?.method === "POST" ? new Promise(() => {}) : fetch(at, more); })(globalThis)`)
	s.do(chromedp.SendKeys("#number", "456"))
	s.press(words(t, "en")("prompt.approve"))
	s.shows(words(t, "en")("prompt.busy"))
	s.do(chromedp.Click("#language"))
	s.shows(ja("prompt.busy"))
	if got := s.evaluate(`document.getElementById("number").value + document.querySelector("form .primary").disabled`); got != "123456true" {
		t.Errorf("number and button while an answer is on its way: %s", got)
	}
}

// Without scripts the page says what is missing, and offers nothing that does not work.
func TestWithoutScripts(t *testing.T) {
	f := newFar(t)
	s := open(t, f, "ja", "/assets/icon.svg")
	if _, err := chromedp.Call(s.ctx, emulation.SetScriptExecutionDisabled, emulation.SetScriptExecutionDisabledParams{Value: true}); err != nil {
		t.Fatal(err)
	}
	s.do(chromedp.Navigate(f.URL + "/authenticator"))
	s.picture("page")
	if got := s.evaluate(`document.querySelector("h1")?.innerText`); got != "This page needs JavaScript" {
		t.Errorf("h1: %s", got)
	}
	if s.evaluate(`document.getElementById("language").checkVisibility()`) != "false" {
		t.Error("a button without a name is shown")
	}
}

func TestLanguageIsKept(t *testing.T) {
	f := newFar(t)
	s := open(t, f, "en", "/authenticator")
	s.shows(words(t, "en")("welcome.title"))
	s.do(chromedp.Click("#language"))
	s.shows(words(t, "ja")("welcome.title"))
	s.do(chromedp.Reload())
	s.shows(words(t, "ja")("welcome.title"))
	if lang := s.evaluate("document.documentElement.lang"); lang != "ja" {
		t.Errorf("the page says that it is in %q", lang)
	}
}
