package gateway

import (
	"net/http"

	"github.com/sekisho/sekisho/events"
	"github.com/sekisho/sekisho/services/gateway/pages"
	"github.com/sekisho/sekisho/services/internal/httpapi"
	"github.com/sekisho/sekisho/services/internal/policy"
	"github.com/sekisho/sekisho/services/internal/sessions"
)

// fromSession is the method of a login that steps up from the session of whoever starts it: the user shows what the app
// asks for beyond what that session rests on, and gets a new session in its place. On the bus it is a login by ID that names
// the session; identityverifier and sessionissuer look at the session again.
const fromSession events.Method = "session"

// errShort says that the session is good, but not enough for the app.
var errShort = &httpapi.Problem{Status: http.StatusUnauthorized, Detail: "the app asks for more than was shown for the session"}

// A standing is what a session is worth for an app.
type standing int

const (
	nothing standing = iota // the user logs in anew
	short                   // the user steps up
	enough
)

// standing compares a session with the policy of an app, and with the number of factors that is asked for besides, if any. In its own
// app a session is enough by itself, since that app's policy has granted it. In another app it needs as much as a login to that app
// would have needed.
func (g *gateway) standing(s *sessions.Session, app string, asked int) standing {
	a := g.policy.Policy().Apps[app]
	if a == nil {
		return nothing
	}
	if s.App == app && asked == 0 {
		return enough
	}
	shown := len(a.Counted(s.AMR))
	if shown == 0 || !a.Honors(g.now().Sub(s.AuthTime)) {
		return nothing
	}
	if shown < asked {
		return short
	}
	need := a.Need(&events.Assessed{Verdict: s.Verdict, Degraded: s.Verdict == ""})
	if s.App != app && (need == policy.Deny || shown < int(need)) {
		return short
	}
	return enough
}

// sessionFor is the request's session, if it is enough for the app. Otherwise the error is errShort or errNobody.
func (g *gateway) sessionFor(r *http.Request, app string) (*sessions.Session, error) {
	s, err := g.session(r, true)
	if err != nil {
		return nil, err
	}
	switch g.standing(s, app, 0) {
	case enough:
		return s, nil
	case short:
		return nil, errShort
	default:
		return nil, errNobody
	}
}

// stepUp is the request's session, if a login to the app may step up from it to the number of factors asked for.
func (g *gateway) stepUp(r *http.Request, app string, asked int, cookies bool) (*sessions.Session, error) {
	s, err := g.session(r, cookies)
	if err != nil {
		return nil, err
	}
	switch g.standing(s, app, asked) {
	case short:
		return s, nil
	case enough:
		return nil, &httpapi.Problem{Status: http.StatusConflict, Detail: "the session is enough for the app"}
	default:
		return nil, httpapi.Invalid("method", "the app does not honor the session")
	}
}

// stepUpPage asks the user whether to go on. It takes a form to start the login, since a link, which anybody may set, must not
// send text messages.
func (g *gateway) stepUpPage(w http.ResponseWriter, r *http.Request, s *sessions.Session, app, acr, returnTo string) error {
	lang := g.language(w, r)
	returnTo, _ = g.border.returnTo(g.border.own(r), returnTo)
	return g.pages.Render(w, http.StatusOK, lang, pages.StepUp{App: app, AppName: g.appName(app, lang), ACR: acr, ReturnTo: returnTo,
		User: s.Name, CSRF: g.formToken(w, r, aboutLogin)})
}

// stepUpElsewhere leads on when the session is not what it was when the page was drawn.
func (g *gateway) stepUpElsewhere(w http.ResponseWriter, r *http.Request, in startBody, err error) error {
	switch g.problem(err).Status {
	case http.StatusConflict: // stepped up in another window
		http.Redirect(w, r, onward(in.ReturnTo), http.StatusSeeOther)
	case http.StatusUnauthorized, http.StatusUnprocessableEntity:
		http.Redirect(w, r, pages.SignInURL(in.App, in.ACR, in.ReturnTo, false), http.StatusSeeOther)
	default:
		return err
	}
	return nil
}

// onward is where to go after a login.
func onward(returnTo string) string {
	if returnTo == "" {
		return "/"
	}
	return returnTo
}
