package gateway

import (
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/sekisho/sekisho/events"
	"github.com/sekisho/sekisho/services/gateway/pages"
	"github.com/sekisho/sekisho/services/internal/httpapi"
)

// signInPage answers GET /login.
func (g *gateway) signInPage(w http.ResponseWriter, r *http.Request) error {
	query := r.URL.Query()
	app, acr := query.Get("app"), query.Get("acr")
	if app == "" {
		app = demoApp
	}
	withToken := query.Get("with") == string(events.Token)
	if query.Get("anew") == "" && !withToken {
		// Without the database nobody knows who is logged in, and the form is shown, which works for everybody.
		if s, err := g.session(r, true); err == nil && g.standing(s, app, factorsOf(acr)) == short {
			return g.stepUpPage(w, r, s, app, acr, query.Get("return_to"))
		}
	}
	return g.signIn(w, r, http.StatusOK, pages.SignIn{App: app, ACR: acr, ReturnTo: query.Get("return_to"), WithToken: withToken})
}

func (g *gateway) signIn(w http.ResponseWriter, r *http.Request, status int, page pages.SignIn) error {
	app := g.policy.Policy().Apps[page.App]
	if app == nil {
		return &httpapi.Problem{Status: http.StatusNotFound}
	}
	lang := g.language(w, r)
	page.AppName = app.Name.In(lang)
	page.Password = app.Accepts(events.Password)
	if app.Accepts(events.None) {
		page.Phone, page.Token = slices.Contains(app.PasswordlessFactors, events.Push), slices.Contains(app.PasswordlessFactors, events.Token)
		page.Passwordless = slices.ContainsFunc(app.PasswordlessFactors, func(f events.Factor) bool { return f != events.Token })
	}
	page.Question = g.cfg.Token.Question > 0
	page.WithToken = page.Token && (page.WithToken || !page.Password && !page.Passwordless)
	page.ReturnTo, _ = g.border.returnTo(g.border.own(r), page.ReturnTo)
	page.CSRF = g.formToken(w, r, aboutLogin)
	if page.Collector = g.cfg.Risk.Collector; page.Collector != "" { // no other page lets a script of somebody else in
		script, err := url.Parse(page.Collector)
		if err != nil {
			return err
		}
		w.Header().Set("Content-Security-Policy", g.contentPolicy(script.Scheme+"://"+script.Host))
	}
	return g.pages.Render(w, status, lang, page)
}

// signInForm answers POST /login.
func (g *gateway) signInForm(w http.ResponseWriter, r *http.Request) error {
	if err := g.readForm(w, r, aboutLogin); err != nil {
		return err
	}
	in := startBody{
		App: r.PostForm.Get("app"), ACR: r.PostForm.Get("acr"), User: strings.TrimSpace(r.PostForm.Get("user")), Method: events.Method(r.PostForm.Get("method")),
		Locale: g.language(w, r),
	}
	switch {
	case r.PostForm.Get("with") == string(events.Token):
		in.Method, in.Code, in.byToken = events.None, typedCode(r), true
	case in.Method == "":
		in.Method = events.Password // the form was sent by the Enter key of an old browser
	}
	if in.Method == events.Password {
		in.Password = r.PostForm.Get("password")
	}
	in.ReturnTo, _ = g.border.returnTo(g.border.own(r), r.PostForm.Get("return_to"))
	login, err := g.begin(r, in, true)
	if err != nil && in.Method == fromSession {
		return g.stepUpElsewhere(w, r, in, err)
	}
	if err != nil {
		return g.signInAgain(w, r, in, err)
	}
	if _, err = g.await(w, r, login, g.cfg.Gateway.Wait, begun(in)); err != nil {
		return err
	}
	if err := g.setLogin(w, login, in.ReturnTo); err != nil {
		return err
	}
	if in.Method == events.None {
		if err := g.keepName(w, login, in.User); err != nil {
			return err
		}
	}
	toLogin(w, r, login)
	return nil
}

// signInAgain shows the form with what is wrong.
func (g *gateway) signInAgain(w http.ResponseWriter, r *http.Request, in startBody, err error) error {
	page := pages.SignIn{App: in.App, ACR: in.ACR, ReturnTo: in.ReturnTo, User: in.User, WithToken: in.byToken}
	p := g.problem(err)
	switch {
	case p.Field == "user":
		page.Problem = "bad_user"
	case p.Field == "password":
		page.Problem = "bad_password"
	case p.Field == "code":
		page.Problem = "bad_code"
	case p.Status == http.StatusTooManyRequests:
		page.Problem = "limited"
	case p.Status == http.StatusServiceUnavailable:
		page.Problem = "unavailable"
		g.report(r, err)
	default:
		return err
	}
	httpapi.SetRetryAfter(w, p.RetryAfter)
	return g.signIn(w, r, p.Status, page)
}

// appName is the app's name in people's words, empty for an app that the policy does not know any more.
func (g *gateway) appName(app, lang string) string {
	if a := g.policy.Policy().Apps[app]; a != nil {
		return a.Name.In(lang)
	}
	return ""
}

// language is the language of the pages. A choice made on any page is kept.
func (g *gateway) language(w http.ResponseWriter, r *http.Request) string {
	if chosen := r.URL.Query().Get("lang"); chosen == "ja" || chosen == "en" {
		http.SetCookie(w, hostCookie(languageName, chosen, deviceAge))
		return chosen
	}
	return pages.Negotiate(r.Header.Get("Accept-Language"), cookieValue(r, languageName))
}
