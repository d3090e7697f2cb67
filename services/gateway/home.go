package gateway

import (
	"errors"
	"net/http"

	"github.com/sekisho/sekisho/services/gateway/pages"
)

// demoApp is the app of the page "/", and of a login page that is opened without naming one.
const demoApp = "demo"

// home answers GET /: the demo app, which is shown only to those who are logged in to it.
func (g *gateway) home(w http.ResponseWriter, r *http.Request) error {
	s, err := g.sessionFor(r, demoApp)
	if errors.Is(err, errNobody) || errors.Is(err, errShort) {
		g.language(w, r) // keeps a choice: pages that are the answer to a form lead here with it
		http.Redirect(w, r, pages.SignInURL(demoApp, "", "", false), http.StatusSeeOther)
		return nil
	}
	if err != nil {
		return err
	}
	lang := g.language(w, r)
	return g.pages.Render(w, http.StatusOK, lang, pages.Home{User: s.Name, App: s.App, AppName: g.appName(s.App, lang),
		AMR: s.AMR, ACR: s.ACR, AuthTime: s.AuthTime, Expires: s.Expires, CSRF: g.formToken(w, r, aboutLogout)})
}

// logOutForm answers POST /logout.
func (g *gateway) logOutForm(w http.ResponseWriter, r *http.Request) error {
	if err := g.readForm(w, r, aboutLogout); err != nil {
		return err
	}
	s, err := g.session(r, true)
	if err == nil {
		err = g.endSession(r.Context(), s.Login)
	}
	if err != nil && !errors.Is(err, errNobody) { // nobody: it has ended already
		return err
	}
	http.SetCookie(w, expired(g.sessionCookie("", 0)))
	lang := g.language(w, r)
	return g.pages.Render(w, http.StatusOK, lang, pages.SignedOut{App: demoApp, AppName: g.appName(demoApp, lang)})
}
