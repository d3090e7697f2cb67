package gateway

import (
	"context"
	"net/http"
	"slices"
	"strings"
	"time"
	"unicode"

	"golang.org/x/text/unicode/norm"

	"github.com/sekisho/sekisho/events"
	"github.com/sekisho/sekisho/services/gateway/pages"
	"github.com/sekisho/sekisho/services/internal/httpapi"
)

// loginPage answers GET /login/{id}.
func (g *gateway) loginPage(w http.ResponseWriter, r *http.Request) error {
	login, returnTo, err := g.browserStarter(r)
	if err != nil {
		return err
	}
	state, err := g.client.State(r.Context(), login)
	if err != nil {
		return err
	}
	if state.Status() == events.StatusGranted {
		session, token, err := g.grant(r.Context(), state)
		if err != nil {
			return err
		}
		if token != "" {
			if err := g.giveSession(w, r, session, token); err != nil {
				return err
			}
		}
		if token != "" || session == nil { // the session has ended: there is nothing to show here, and the way on leads to a login
			http.Redirect(w, r, onward(returnTo), http.StatusSeeOther)
			return nil
		}
	}
	said := notice(state)
	if g.underway(r.Context(), state) {
		said = "checking"
	}
	return g.showLogin(w, r, http.StatusOK, state, returnTo, said)
}

// underway reports whether a code of the challenge is still being checked. Only the answer itself tells: gateways hear of verdicts.
func (g *gateway) underway(ctx context.Context, state *events.State) bool {
	c := state.Challenge()
	if c == nil || c.Factor == events.Push {
		return false
	}
	for n := 1; n <= events.Attempts; n++ {
		if state.Rejected[n] != nil {
			continue
		}
		e, err := events.Get(ctx, g.bus.Conn(), state.Login, events.StepAnswered, n)
		if err != nil { // there are no more, or nobody knows, and the page goes without
			return false
		}
		if e.Data.(*events.Answered).Round == c.Round { // one of an earlier round was right
			return true
		}
	}
	return false
}

func toLogin(w http.ResponseWriter, r *http.Request, login events.Login) {
	http.Redirect(w, r, "/login/"+login.ID, http.StatusSeeOther)
}

// browserStarter is the login of the path, if this browser started it, and where to go after it.
func (g *gateway) browserStarter(r *http.Request) (events.Login, string, error) {
	login, returnTo, ok := g.browserLogin(r)
	if !ok || login.ID != r.PathValue("id") {
		return events.Login{}, "", &httpapi.Problem{Status: http.StatusNotFound}
	}
	noteLogin(r, login)
	return login, returnTo, nil
}

func (g *gateway) showLogin(w http.ResponseWriter, r *http.Request, status int, state *events.State, returnTo, notice string) error {
	lang := g.language(w, r)
	page := pages.Login{
		ID: state.Login.ID, CSRF: g.formToken(w, r, state.Login.ID), ReturnTo: returnTo,
		Status: string(state.Status()), Reason: state.Reason(), Version: state.Version(), Deadline: state.Deadline(),
		Notice: notice, Now: g.now(), Declined: declined(state), PasswordInstead: g.passwordName(r, state) != "",
	}
	if state.Requested != nil {
		page.App, page.ACR, page.WithToken = state.Requested.App, acrOf(state.Requested.Need), state.Requested.Prefer == events.Token
		page.AppName = g.appName(page.App, lang)
	}
	if state.Status() == events.StatusCancelled {
		_, err := g.session(r, true) // without the database there is no telling
		page.SignedIn = err == nil
	}
	if c := state.Challenge(); c != nil {
		page.Challenge = &pages.Challenge{Round: c.Round, Factor: string(c.Factor), Hint: c.Hint, Expires: c.Expires,
			ResendAt: c.ResendAt, AttemptsLeft: g.attemptsLeft(c), Number: g.numberToShow(state.Login, c), Question: c.Question,
			URL: g.approveURL(r, state.Login, c), Exhausted: c.Rejected == events.RejectedExhausted, Expired: c.Rejected == events.RejectedExpired}
		page.Again = make(map[string]time.Time)
		for _, f := range c.Choices {
			page.Choices = append(page.Choices, string(f))
			page.Again[string(f)] = state.Again(f)
		}
		page.Notice = overNotice(page)
	}
	return g.pages.Render(w, status, lang, page)
}

// declined tells whether the user ended the login on a phone. Which of the two ways it was is not for a stranger's screen.
func declined(state *events.State) bool {
	return state.Status() == events.StatusDenied && slices.ContainsFunc(state.Rejected[:], func(r *events.Rejected) bool {
		return r != nil && (r.Reason == events.RejectedDenied || r.Reason == events.RejectedNotMe)
	})
}

// passwordName is the name, known or not, that this browser began a login by ID with, if the app takes passwords too, so that its
// user may go on with one. It is empty for every other login.
func (g *gateway) passwordName(r *http.Request, state *events.State) string {
	if state.Requested == nil {
		return ""
	}
	if app := g.policy.Policy().Apps[state.Requested.App]; app == nil || !app.Accepts(events.Password) {
		return ""
	}
	return g.keptName(r, state.Login)
}

// notice is what the person should know of the last step.
func notice(state *events.State) string {
	c := state.Challenge()
	switch {
	case c == nil:
		return ""
	case state.Round() > c.Round:
		return undeliveredNotice(state.Undelivered[state.Round()])
	case c.Factor == events.Push && c.Rejected != "":
		return pushNotice(c.Rejected)
	case c.Factor == events.Token && c.Rejected != "":
		return "wrong_token"
	case c.Rejected != "":
		return "wrong_code" // for either also where a lock is the cause, which is for its owner only
	case c.Round > 1 && state.Challenged[c.Round-1] != nil && state.Challenged[c.Round-1].Factor == c.Factor:
		return resentNotice(c)
	default:
		return ""
	}
}

// overNotice is the notice of a page, where a code that has run out goes before what came of it, not before what came of asking for
// another.
func overNotice(page pages.Login) string {
	switch {
	case !page.CodeOver() || strings.HasPrefix(page.Notice, "undelivered") || strings.HasPrefix(page.Notice, "too_soon"):
		return page.Notice
	case page.Challenge.ResendAt.IsZero() && page.Challenge.Factor == string(events.Token):
		return "expired_token"
	case page.Challenge.ResendAt.IsZero():
		return "expired_last"
	default:
		return "expired_code"
	}
}

// undeliveredNotice names what did not get through, since the challenge on the page may be an earlier one, which did.
func undeliveredNotice(u *events.Undelivered) string {
	if u.Factor == events.Push {
		return "undelivered_push"
	}
	return "undelivered"
}

// pushNotice is what came of the last answer on the phone.
func pushNotice(rejected string) string {
	switch rejected {
	case events.RejectedWrong:
		return "wrong_number"
	case events.RejectedExhausted:
		return "exhausted"
	case events.RejectedDenied, events.RejectedNotMe:
		return "declined" // which of the two is not for a stranger's screen
	default:
		return "not_counted"
	}
}

// resentNotice says what was sent again. A push has a text of its own: it brings no code, and its number stays. To a token nothing is
// sent, nor to a phone whose owner approves at a provider.
func resentNotice(c *events.Challenge) string {
	switch {
	case c.Factor == events.SMS:
		return "resent"
	case c.Factor == events.Push && c.URL == "":
		return "resent_push"
	default:
		return ""
	}
}

// answerForm answers POST /login/{id}/answers.
func (g *gateway) answerForm(w http.ResponseWriter, r *http.Request) error {
	return g.step(w, r, func(login events.Login) (func(*events.State) bool, error) {
		return g.tryCode(r.Context(), login, typedCode(r))
	})
}

// typedCode is the code of a form, with ASCII digits for full-width ones, since the pages work without a script that would repair it.
func typedCode(r *http.Request) string {
	return strings.Map(digit, norm.NFKC.String(r.PostForm.Get("code")))
}

// digit leaves out what people type or paste between digits: spaces and dashes, also the minus sign and what the key of a dash gives in
// Japanese.
func digit(r rune) rune {
	if unicode.IsSpace(r) || unicode.Is(unicode.Pd, r) || r == '−' || r == 'ー' {
		return -1
	}
	return r
}

// factorForm answers POST /login/{id}/factor.
func (g *gateway) factorForm(w http.ResponseWriter, r *http.Request) error {
	return g.step(w, r, func(login events.Login) (func(*events.State) bool, error) {
		left, err := g.client.Choose(r.Context(), login, events.Factor(r.PostForm.Get("factor")))
		return func(s *events.State) bool { return s.Round() > left || s.Ended() }, err
	})
}

// cancelForm answers POST /login/{id}/cancel. Who would rather use a password gets the form for it at once: a redirect would
// have to carry the name.
func (g *gateway) cancelForm(w http.ResponseWriter, r *http.Request) error {
	login, returnTo, err := g.browserStarter(r)
	if err != nil {
		return err
	}
	if err := g.readForm(w, r, login.ID); err != nil {
		return err
	}
	if err := g.client.Cancel(r.Context(), login); err != nil && g.problem(err).Status != http.StatusConflict {
		return err
	}
	state, err := g.await(w, r, login, g.cfg.Gateway.Wait, (*events.State).Ended)
	if err != nil {
		return err
	}
	name := g.passwordName(r, state)
	if r.PostForm.Get("then") != string(events.Password) || name == "" || state.Status() == events.StatusGranted { // approved just before
		toLogin(w, r, login)
		return nil
	}
	return g.signIn(w, r, http.StatusOK, pages.SignIn{App: state.Requested.App, ACR: acrOf(state.Requested.Need), ReturnTo: returnTo, User: name})
}

// step does what a form of the login page asks for, waits for what comes of it, and leads back to the page.
func (g *gateway) step(w http.ResponseWriter, r *http.Request, do func(events.Login) (done func(*events.State) bool, err error)) error {
	login, returnTo, err := g.browserStarter(r)
	if err != nil {
		return err
	}
	if err := g.readForm(w, r, login.ID); err != nil {
		return err
	}
	done, err := do(login)
	if err == nil {
		_, err = g.await(w, r, login, g.cfg.Gateway.Wait, done)
	}
	if err == nil || g.problem(err).Status == http.StatusConflict { // overtaken by events: the page shows by which
		toLogin(w, r, login)
		return nil
	}
	return g.loginAgain(w, r, login, returnTo, err)
}

// tooSoonNotice says what may still be on its way: to a phone that approves no message is sent, and to a token nothing.
func tooSoonNotice(asked events.Factor) string {
	switch asked {
	case events.Push:
		return "too_soon_push"
	case events.Token:
		return "too_soon_token"
	default:
		return "too_soon"
	}
}

// loginAgain shows the page of the login with what is wrong.
func (g *gateway) loginAgain(w http.ResponseWriter, r *http.Request, login events.Login, returnTo string, err error) error {
	p, notice := g.problem(err), ""
	switch {
	case p.Field == "code":
		notice = "bad_code"
	case p.Status == http.StatusTooManyRequests:
		notice = tooSoonNotice(events.Factor(r.PostForm.Get("factor")))
	default:
		return err
	}
	state, err := g.client.State(r.Context(), login)
	if err != nil {
		return err
	}
	if c := state.Challenge(); notice == "bad_code" && c != nil && c.Factor == events.Token {
		notice = "bad_token"
	}
	httpapi.SetRetryAfter(w, p.RetryAfter)
	return g.showLogin(w, r, p.Status, state, returnTo, notice)
}

// maxReturned bounds how many parameters a provider gives the browser to bring back, and their length in bytes.
const maxReturned, maxParameter = 8, 512

// returned answers GET /login/{id}/return: the browser is back from the provider that hosts the approval. What it brings
// along proves nothing yet; pushnotifier asks the provider about it.
func (g *gateway) returned(w http.ResponseWriter, r *http.Request) error {
	login, _, err := g.browserStarter(r)
	if err != nil {
		return err
	}
	parameters := make(map[string]string)
	for name, values := range r.URL.Query() {
		if len(name)+len(values[0]) > maxParameter || len(parameters) == maxReturned {
			return &httpapi.Problem{Status: http.StatusBadRequest}
		}
		parameters[name] = values[0]
	}
	if len(parameters) == 0 { // the user has come back without having decided
		toLogin(w, r, login)
		return nil
	}
	state, err := g.client.State(r.Context(), login)
	if err != nil {
		return err
	}
	round := state.Round()
	attempt, err := g.client.Respond(r.Context(), login, parameters)
	if err == nil {
		_, err = g.await(w, r, login, g.cfg.Gateway.Wait, func(s *events.State) bool {
			return s.Rejected[attempt] != nil || s.Round() > round || s.Ended()
		})
	}
	if err != nil && g.problem(err).Status != http.StatusConflict {
		return err
	}
	toLogin(w, r, login)
	return nil
}
