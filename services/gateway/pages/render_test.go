package pages

import (
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"net/http/httptest"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

var now = time.Date(2026, 3, 1, 9, 30, 0, 0, time.UTC)

// everyPage returns each page in each of its states, by name. Every text from outside is made by say.
func everyPage(say func(string) string) map[string]Page {
	all := make(map[string]Page)
	for _, problem := range []string{"", "limited", "bad_user", "bad_password", "bad_code", "unavailable"} {
		for _, methods := range []string{"password", "password none", "password phone", "phone", "password phone token", "password phone with token", "only with token", "only with token asking"} {
			all[fmt.Sprintf("signin %s %s", problem, methods)] = SignIn{
				App: say("demo"), AppName: say("Demo"), ACR: say("2fa"), CSRF: say("csrf"), ReturnTo: say("/back"), User: say("alice"),
				Password: strings.Contains(methods, "password"), Passwordless: methods != "password" && !strings.HasPrefix(methods, "only"),
				Phone: strings.Contains(methods, "phone"), Token: strings.Contains(methods, "token"), WithToken: strings.Contains(methods, "with token"),
				Question: strings.Contains(methods, "asking"),
				Problem:  problem, Collector: "https://risk.example/collect.js",
			}
		}
	}
	login := Login{
		ID: say("0199"), CSRF: say("csrf"), App: say("demo"), AppName: say("Demo"), ReturnTo: say("/back"),
		Version: 3, Deadline: now.Add(5 * time.Minute), Now: now,
	}
	challenges := map[string]Challenge{
		"sms":   {Factor: "sms", Hint: say("•••-1234"), ResendAt: now.Add(30 * time.Second)},
		"push":  {Factor: "push", Hint: say("Phone"), Number: say("482913"), ResendAt: now.Add(30 * time.Second)},
		"token": {Factor: "token", Hint: say("Token"), Question: say("1827"), ResendAt: now.Add(30 * time.Second)},
	}
	for factor, challenge := range challenges {
		for _, notice := range []string{"", "wrong_code", "bad_code", "checking", "undelivered", "undelivered_push", "resent", "resent_push", "too_soon",
			"too_soon_push"} {
			l := login
			challenge.Round, challenge.AttemptsLeft, challenge.Expires = 1, 4, now.Add(4*time.Minute)
			l.Status, l.Notice, l.Challenge = "challenge", notice, new(challenge)
			l.Choices = []string{"sms", "push", "token", say("later")}
			all[fmt.Sprintf("challenge %s %s", factor, notice)] = l
		}
	}
	for _, notice := range []string{"", "wrong_token", "bad_token", "checking", "expired_token", "too_soon_token"} {
		for name, question := range map[string]string{"token bare ": "", "token asking ": say("1827364554")} {
			l := login
			l.Status, l.Notice, l.WithToken = "challenge", notice, true
			l.Challenge = &Challenge{Round: 1, Factor: "token", Expires: l.Deadline, AttemptsLeft: 4, Question: question}
			if notice == "expired_token" {
				l.Challenge.Expires = now
			}
			all[name+notice] = l
		}
	}
	for _, factor := range []string{"sms", "token"} {
		for name, change := range map[string]func(*Login){
			"over":      func(l *Login) { l.Challenge.Expires, l.Notice = now, "expired_code" },
			"late":      func(l *Login) { l.Challenge.Expired, l.Notice = true, "expired_code" },
			"over last": func(l *Login) { l.Challenge.Expires, l.Challenge.ResendAt, l.Notice = now, time.Time{}, "expired_last" },
		} {
			l := login
			l.Status, l.Challenge, l.Choices = "challenge", new(challenges[factor]), []string{"sms", "push"}
			l.Challenge.Round, l.Challenge.AttemptsLeft, l.Challenge.Expires = 1, 4, now.Add(4*time.Minute)
			change(&l)
			all["code "+factor+" "+name] = l
		}
	}
	for name, change := range map[string]func(*Challenge){
		"tap":      func(c *Challenge) { c.Number = "" },
		"hosted":   func(c *Challenge) { c.Number, c.URL = "", "https://approve.example/?a=1" },
		"too late": func(c *Challenge) { c.Expires = now },
		"spent":    func(c *Challenge) { c.Number, c.Exhausted = "", true },
	} {
		for _, notice := range []string{"", "wrong_number", "declined", "not_counted", "undelivered", "undelivered_push"} {
			l, challenge := login, challenges["push"]
			challenge.Round, challenge.AttemptsLeft, challenge.Expires = 1, 4, now.Add(4*time.Minute)
			change(&challenge)
			l.Status, l.Notice, l.Challenge, l.Choices = "challenge", notice, &challenge, []string{"sms", "push"}
			all["push "+name+" "+notice] = l
			l.Choices = []string{"push"}
			all["push "+name+" alone "+notice] = l
		}
	}
	for _, status := range []string{"pending", "granted", "denied", "expired", "cancelled"} {
		l := login
		l.Status = status
		all[status] = l
	}
	for _, reason := range []string{"attempts", "undelivered", "unavailable", say("later")} {
		l := login
		l.Status, l.Reason = "failed", reason
		all["failed "+reason] = l
	}
	for name, change := range map[string]func(*Login){
		"denied declined":                   func(l *Login) { l.Status, l.Declined = "denied", true },
		"cancelled signed in":               func(l *Login) { l.Status, l.SignedIn = "cancelled", true },
		"cancelled signed in, from nowhere": func(l *Login) { l.Status, l.SignedIn, l.ReturnTo = "cancelled", true, "" },
		"expired instead":                   func(l *Login) { l.Status, l.PasswordInstead = "expired", true },
		"failed undelivered instead":        func(l *Login) { l.Status, l.Reason, l.PasswordInstead = "failed", "undelivered", true },
		"challenge push instead":            func(l *Login) { l.Status, l.PasswordInstead, l.Challenge = "challenge", true, new(challenges["push"]) },
		"challenge sms instead":             func(l *Login) { l.Status, l.PasswordInstead, l.Challenge = "challenge", true, new(challenges["sms"]) },
	} {
		l := login
		change(&l)
		all[name] = l
	}
	all["home"] = Home{
		User: say("alice"), App: say("demo"), AppName: say("Demo"), ACR: say("two-factor"), CSRF: say("csrf"),
		AMR: []string{"pwd", "sms", "otp", "push", "swk", "hwk", "mfa", say("later")}, AuthTime: now, Expires: now.Add(time.Hour),
	}
	for _, fresh := range []bool{false, true} {
		for _, problem := range []string{"", "bad_name", "too_many"} {
			all[fmt.Sprint("devices ", fresh, " ", problem)] = Devices{User: say("alice"), App: say("demo"), Fresh: fresh, CSRF: say("csrf"), Problem: problem,
				Devices: []Device{{ID: say("d1"), Name: say("Pixel"), Enrolled: now, Seen: now}, {ID: say("d2"), Name: say("Galaxy"), Enrolled: now, Seen: now}}}
		}
	}
	all["devices none"] = Devices{User: say("alice"), App: say("demo"), Fresh: true, CSRF: say("csrf")}
	all["invitation"] = Invitation{URL: say("https://login.example/authenticator#code"), QR: "data:image/svg+xml;base64,PHN2Zy8+", Expires: now.Add(10 * time.Minute), Now: now}
	all["stepup"] = StepUp{App: say("demo"), AppName: say("Demo"), CSRF: say("csrf"), ReturnTo: say("/back"), User: say("alice")}
	all["signedout"] = SignedOut{App: say("demo"), AppName: say("Demo")}
	for _, status := range []int{400, 403, 404, 409, 429, 500, 502, 503} {
		all[fmt.Sprint("problem ", status)] = Problem{Status: status}
	}
	all["problem at the start"] = Problem{Status: 503, Start: true}
	all["problem of a form"] = Problem{Status: 403, Posted: true}
	all["problem on the phone"] = Problem{Status: 404, OnPhone: true}
	return all
}

func plain(s string) string { return s }

func newPages(t *testing.T) *Pages {
	t.Helper()
	p, err := New()
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func render(t *testing.T, p *Pages, lang string, page Page) string {
	t.Helper()
	w := httptest.NewRecorder()
	if err := p.Render(w, 200, lang, page); err != nil {
		t.Fatal(err)
	}
	return w.Body.String()
}

type element struct {
	name string
	attr map[string]string
}

var voidElement = regexp.MustCompile(`<(meta|link|input|img)\b([^>]*)>`)

// elements reads a page as strictly as XML, which the templates keep to apart from HTML's void elements.
func elements(t *testing.T, page string) []element {
	t.Helper()
	d := xml.NewDecoder(strings.NewReader(voidElement.ReplaceAllString(page, "<$1$2/>")))
	var all []element
	for {
		token, err := d.Token()
		if errors.Is(err, io.EOF) {
			return all
		}
		if err != nil {
			t.Fatalf("not well-formed: %v\n%s", err, page)
		}
		start, ok := token.(xml.StartElement)
		if !ok {
			continue
		}
		e := element{start.Name.Local, make(map[string]string)}
		for _, a := range start.Attr {
			e.attr[a.Name.Local] = a.Value
		}
		all = append(all, e)
	}
}

func TestEveryPageIsSoundHTML(t *testing.T) {
	p := newPages(t)
	for name, page := range everyPage(plain) {
		for _, lang := range languages {
			t.Run(lang+" "+name, func(t *testing.T) { checkHTML(t, render(t, p, lang, page), lang) })
		}
	}
}

func checkHTML(t *testing.T, page, lang string) {
	t.Helper()
	all := elements(t, page)
	ids := make(map[string]bool)
	labels := make(map[string]bool)
	count := make(map[string]int)
	for _, e := range all {
		count[e.name]++
		if _, ok := e.attr["autofocus"]; ok {
			count["autofocus"]++
		}
		if id, ok := e.attr["id"]; ok {
			if ids[id] {
				t.Errorf("two elements with id %q", id)
			}
			ids[id] = true
		}
		if e.name == "label" {
			labels[e.attr["for"]] = true
		}
	}
	if count["h1"] != 1 || count["main"] != 1 || count["title"] != 1 || count["autofocus"] > 1 {
		t.Errorf("want one h1, main and title, have %v", count)
	}
	if count["style"] != 0 {
		t.Error("inline style sheet")
	}
	form, tokens := 0, 0
	for _, e := range all {
		for attr := range e.attr {
			if attr == "style" || strings.HasPrefix(attr, "on") {
				t.Errorf("%s has inline %s", e.name, attr)
			}
		}
		for _, reference := range []string{"aria-describedby", "aria-labelledby"} {
			for id := range strings.FieldsSeq(e.attr[reference]) {
				if !ids[id] {
					t.Errorf("%s of %s names no element: %q", reference, e.name, id)
				}
			}
		}
		switch e.name {
		case "html":
			if e.attr["lang"] != lang {
				t.Errorf("html lang %q, want %q", e.attr["lang"], lang)
			}
		case "script":
			if e.attr["src"] == "" {
				t.Error("inline script")
			}
		case "form":
			form++
			if e.attr["method"] != "post" || !strings.HasPrefix(e.attr["action"], "/") {
				t.Errorf("form to %s %s", e.attr["method"], e.attr["action"])
			}
		case "input":
			if e.attr["name"] == "csrf" && e.attr["value"] == "csrf" {
				tokens++
			}
			if e.attr["type"] != "hidden" && !labels[e.attr["id"]] {
				t.Errorf("input %q has no label", e.attr["id"])
			}
			if _, invalid := e.attr["aria-invalid"]; invalid && e.attr["aria-describedby"] == "" {
				t.Errorf("input %q is invalid and does not say why", e.attr["id"])
			}
		}
	}
	if form != tokens {
		t.Errorf("%d forms carry %d tokens", form, tokens)
	}
	if !slices.ContainsFunc(all, func(e element) bool {
		return e.name == "a" && strings.Contains(e.attr["href"], "lang="+otherLanguage(lang))
	}) {
		t.Error("no link to the other language")
	}
}

// What comes from outside may change texts and values, never the elements and attributes of a page.
func TestHostileTextsChangeNoElement(t *testing.T) {
	p := newPages(t)
	hostile := everyPage(func(s string) string { return s + `"'><script>alert(1)</script><a onclick=x style=y>&{{.}}` })
	shape := func(page Page) (s []string) {
		for _, e := range elements(t, render(t, p, "en", page)) {
			s = append(s, e.name)
			for attr := range e.attr {
				s = append(s, e.name+"@"+attr)
			}
		}
		slices.Sort(s)
		return s
	}
	for name, page := range everyPage(plain) {
		other, ok := hostile[name]
		if !ok {
			continue // named by a text from outside
		}
		if want, got := shape(page), shape(other); !slices.Equal(want, got) {
			t.Errorf("%s: elements changed\nfrom %v\nto   %v", name, want, got)
		}
	}
}

func TestOnwardNeverRunsScript(t *testing.T) {
	page := render(t, newPages(t), "en", Login{Status: "granted", ReturnTo: "javascript:alert(1)"})
	if strings.Contains(page, `href="javascript`) {
		t.Error("return_to became a script")
	}
}

func TestOnwardGoesToReturnTo(t *testing.T) {
	p := newPages(t)
	for returnTo, want := range map[string]string{"": "/", "https://app.example/x?a=1": "https://app.example/x?a=1"} {
		all := elements(t, render(t, p, "ja", Login{Status: "granted", ReturnTo: returnTo}))
		i := slices.IndexFunc(all, func(e element) bool { _, ok := e.attr["data-onward"]; return ok })
		if i < 0 || all[i].attr["href"] != want {
			t.Errorf("return_to %q does not lead to %q", returnTo, want)
		}
	}
}

// A denied login looks the same whatever led to it.
func TestDeniedSaysNoMore(t *testing.T) {
	p := newPages(t)
	bare := Login{ID: "0199", App: "demo", Status: "denied"}
	full := bare
	full.Reason, full.Notice, full.Choices = "attempts", "wrong_code", []string{"sms"}
	if render(t, p, "ja", bare) != render(t, p, "ja", full) {
		t.Error("the denied page tells causes apart")
	}
}

func TestOnlyWaitingPagesReload(t *testing.T) {
	p := newPages(t)
	for name, page := range everyPage(plain) {
		want := name == "pending" || !strings.HasPrefix(name, "push") && strings.HasSuffix(name, " checking") || strings.HasPrefix(name, "challenge push") || strings.HasPrefix(name, "push tap") || strings.HasPrefix(name, "push hosted")
		if got := strings.Contains(render(t, p, "en", page), `<noscript><meta http-equiv="refresh"`); got != want {
			t.Errorf("%s: reloads %t, want %t", name, got, want)
		}
	}
}

// A push that takes no more answers says in title, heading and text what happened, and leads on: never to a factor that is not there.
func TestPushThatIsOver(t *testing.T) {
	p := newPages(t)
	for _, lang := range languages {
		texts := mustCatalog(t, lang)
		for name, tt := range map[string]struct {
			why           string
			others, again bool
		}{
			"spent": {"exhausted", true, false}, "spent alone": {"exhausted", false, false},
			"too late": {"expired", true, true}, "too late alone": {"expired", false, true},
		} {
			page := render(t, p, lang, everyPage(plain)["push "+name+" "])
			title, way := texts["challenge.push."+tt.why+".title"], "alone"
			if tt.others {
				way = "others"
			}
			for _, want := range []string{"<title>" + title, ">" + title + "</h1>", texts["challenge.push."+tt.why+".detail"], texts["challenge.push."+tt.why+"."+way],
				`id="anew" href="/login?app=demo&amp;return_to=%2Fback"`} {
				if !strings.Contains(page, want) {
					t.Errorf("%s %s: the page lacks %q", lang, name, want)
				}
			}
			if strings.Contains(page, `class="waiting"`) || strings.Contains(page, "482913") {
				t.Errorf("%s %s: the page still asks for an approval", lang, name)
			}
			if strings.Contains(page, `id="resend"`) != tt.again || strings.Contains(page, `id="factor-sms"`) != tt.others {
				t.Errorf("%s %s: resend and other factors are not as they should be", lang, name)
			}
		}
	}
}

// Of a code that has run out the page asks for no more: what comes first is to have another one sent.
func TestCodeThatIsOver(t *testing.T) {
	p := newPages(t)
	for name, page := range everyPage(plain) {
		login, is := page.(Login)
		if !is || login.Challenge == nil || login.Challenge.Factor == "push" {
			continue
		}
		over, drawn := strings.HasPrefix(name, "code ") || strings.HasSuffix(name, " expired_token"), render(t, p, "en", page)
		for part, want := range map[string]bool{
			`class="notice warn" id="notice" role="status">This code has run out.`: strings.HasPrefix(name, "code "),
			`class="secondary" id="confirm"`:                                       over,
			`id="anew"`:                                                            over,
			`class="primary" id="resend"`:                                          over && !login.Challenge.ResendAt.IsZero(),
			`data-shown="countdown"`:                                               !over,
		} {
			if strings.Contains(drawn, part) != want && !(part == `data-shown="countdown"` && login.Until().IsZero()) {
				t.Errorf("%s: %s is there: %t", name, part, !want)
			}
		}
		if over && strings.Contains(drawn, "data-autosubmit") {
			t.Errorf("%s: the code is sent by itself", name)
		}
		if !over && strings.Contains(drawn, `data-shown="countdown"`) && !strings.Contains(drawn, `data-again=""`) {
			t.Errorf("%s: the page stays as it is at the end of its time", name)
		}
	}
}

// Who hears a page rather than sees it is told what is wrong where the page begins.
func TestProblemsOfTheFormAreTold(t *testing.T) {
	p := newPages(t)
	for name, page := range everyPage(plain) {
		signIn, is := page.(SignIn)
		if !is {
			continue
		}
		all := elements(t, render(t, p, "en", page))
		i := slices.IndexFunc(all, func(e element) bool { _, ok := e.attr["autofocus"]; return ok })
		if told := strings.HasPrefix(all[i].attr["aria-describedby"], "problem"); told != (signIn.Problem != "") {
			t.Errorf("%s: %s tells of the problem: %t", name, all[i].attr["id"], told)
		}
	}
}

// Both ways to sign in lead to each other, and to the same in the other language, without a script and without losing what the login
// is for.
func TestSignInWithToken(t *testing.T) {
	p, texts := newPages(t), mustCatalog(t, "ja")
	for methods, want := range map[string]struct{ there, back, form, asking, password bool }{
		"password phone":            {password: true},
		"password phone token":      {there: true, password: true},
		"password phone with token": {back: true, form: true},
		"only with token":           {form: true}, // there is nothing else to lead to
		"only with token asking":    {form: true, asking: true},
	} {
		drawn := render(t, p, "ja", everyPage(plain)["signin  "+methods])
		for part, want := range map[string]bool{
			`id="with-token" href="/login?acr=2fa&amp;app=demo&amp;return_to=%2Fback&amp;with=token"`:           want.there,
			`id="without-token" href="/login?acr=2fa&amp;anew=1&amp;app=demo&amp;return_to=%2Fback"`:            want.back,
			`hreflang="en" href="/login?acr=2fa&amp;app=demo&amp;return_to=%2Fback&amp;with=token&amp;lang=en"`: want.form,
			`name="with" value="token"`:  want.form,
			`data-digits="18"`:           want.form,
			`maxlength="32" required=""`: want.form && !want.asking, // who is asked a question has no code before it
			texts["signin.question"]:     want.asking,
			`type="password"`:            want.password,
		} {
			if strings.Contains(drawn, part) != want {
				t.Errorf("%s: %s is there: %t", methods, part, !want)
			}
		}
	}
}

// Nothing is sent to a token: the page says how to go on with what the user has in hand, and offers nothing to wait for.
func TestTokenChallenge(t *testing.T) {
	p := newPages(t)
	for _, lang := range languages {
		texts := mustCatalog(t, lang)
		for name, page := range everyPage(plain) {
			if !strings.HasPrefix(name, "token ") {
				continue
			}
			drawn := render(t, p, lang, page)
			for part, want := range map[string]bool{
				texts["challenge.token.detail"]:                true,
				texts["challenge.until"]:                       false, // a one-time password has a time of its own
				texts["challenge.token.until"]:                 !strings.HasSuffix(name, "expired_token"),
				texts["challenge.token.question"]:              strings.HasPrefix(name, "token asking"),
				`id="question"><strong>1827364554</strong>`:    strings.HasPrefix(name, "token asking"),
				`detail question"`:                             strings.HasPrefix(name, "token asking"),
				`id="resend"`:                                  false,
				`aria-invalid="true" aria-describedby="notice`: strings.HasSuffix(name, "wrong_token") || strings.HasSuffix(name, "bad_token"),
				`data-digits="18"`:                             true,
				"data-autosubmit":                              false, // nobody knows how many digits there are
				`id="anew" href="/login?app=demo&amp;return_to=%2Fback&amp;with=token"`: strings.HasSuffix(name, "expired_token"),
			} {
				if strings.Contains(drawn, part) != want {
					t.Errorf("%s %s: %s is there: %t", lang, name, part, !want)
				}
			}
		}
	}
}

func TestAutosubmitOnlyBeforeAnyMistake(t *testing.T) {
	p := newPages(t)
	for notice, want := range map[string]bool{"": true, "resent": true, "wrong_code": false, "bad_code": false, "checking": false} {
		page := render(t, p, "en", everyPage(plain)["challenge sms "+notice])
		if got := strings.Contains(page, "data-autosubmit"); got != want {
			t.Errorf("notice %q: autosubmit %t, want %t", notice, got, want)
		}
	}
}

func TestChallengeEndsWithTheLogin(t *testing.T) {
	early, late := now.Add(time.Minute), now.Add(2*time.Minute)
	for _, c := range []struct{ expires, deadline, want time.Time }{
		{early, late, early}, {late, early, early}, {early, time.Time{}, early}, {time.Time{}, late, late},
	} {
		l := Login{Deadline: c.deadline, Challenge: &Challenge{Expires: c.expires}}
		if got := l.Until(); !got.Equal(c.want) {
			t.Errorf("expires %v, deadline %v: until %v", c.expires, c.deadline, got)
		}
	}
}

func TestRenderSetsHeaders(t *testing.T) {
	w := httptest.NewRecorder()
	if err := newPages(t).Render(w, 404, "ja", Problem{Status: 404}); err != nil {
		t.Fatal(err)
	}
	if w.Code != 404 {
		t.Errorf("status %d", w.Code)
	}
	for header, want := range map[string]string{
		"Content-Type": "text/html; charset=utf-8", "Content-Language": "ja", "Cache-Control": "no-store",
	} {
		if got := w.Header().Get(header); got != want {
			t.Errorf("%s: %q, want %q", header, got, want)
		}
	}
}

// A page that can not be drawn leaves the answer untouched, so that the caller can still answer 500.
func TestRenderFailsClosed(t *testing.T) {
	p := newPages(t)
	for name, page := range map[string]Page{
		"unknown status":    Login{Status: "odd"},
		"missing challenge": Login{Status: "challenge"},
		"unknown factor":    Login{Status: "challenge", Challenge: &Challenge{Factor: "odd"}},
		"unknown problem":   SignIn{Problem: "odd"},
		"unknown notice":    Login{Status: "pending", Notice: "odd"},
	} {
		checkUntouched(t, p, "en", name, page)
	}
	checkUntouched(t, p, "fr", "unknown language", SignedOut{})
}

func checkUntouched(t *testing.T, p *Pages, lang, name string, page Page) {
	t.Helper()
	w := httptest.NewRecorder()
	if err := p.Render(w, 200, lang, page); err == nil {
		t.Errorf("%s: no error", name)
	}
	if w.Body.Len() > 0 || len(w.Header()) > 0 {
		t.Errorf("%s: something was written", name)
	}
}
