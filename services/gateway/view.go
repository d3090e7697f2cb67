package gateway

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"time"

	"github.com/sekisho/sekisho/events"
	"github.com/sekisho/sekisho/services/internal/httpapi"
	"github.com/sekisho/sekisho/services/internal/sessions"
)

// loginView is a login in the API. What does not apply is absent.
type loginView struct {
	ID           string          `json:"id"`
	Version      int             `json:"version"`
	Status       events.Status   `json:"status"`
	Reason       string          `json:"reason,omitempty"`
	App          string          `json:"app,omitempty"`
	Deadline     time.Time       `json:"deadline,omitzero"`
	Challenge    *challengeView  `json:"challenge,omitempty"`
	Choices      []events.Factor `json:"choices,omitempty"`
	Session      *sessionView    `json:"session,omitempty"`
	LoginToken   string          `json:"login_token,omitempty"`
	SessionToken string          `json:"session_token,omitempty"`
	DeviceToken  string          `json:"device_token,omitempty"`

	granted *sessions.Session // what SessionToken is of
}

type challengeView struct {
	Round        int           `json:"round"`
	Factor       events.Factor `json:"factor"`
	Hint         string        `json:"hint,omitempty"`
	Expires      time.Time     `json:"expires"`
	ResendAt     time.Time     `json:"resend_at,omitzero"`
	AttemptsLeft int           `json:"attempts_left"`
	Number       string        `json:"number,omitempty"`
	Question     string        `json:"question,omitempty"`
	URL          string        `json:"url,omitempty"`
}

type sessionView struct {
	User    string    `json:"user"`
	AMR     []string  `json:"amr"`
	ACR     string    `json:"acr"`
	Expires time.Time `json:"expires"`
}

// show answers with a login.
func (g *gateway) show(w http.ResponseWriter, r *http.Request, status int, state *events.State, bearer bool) error {
	view, err := g.view(r, state, bearer)
	if err != nil {
		return err
	}
	return g.write(w, r, status, view, bearer)
}

// write answers with a login. The token of its session goes along to a bearer; a browser gets it as a cookie, out of
// reach of scripts.
func (g *gateway) write(w http.ResponseWriter, r *http.Request, status int, view *loginView, bearer bool) error {
	if !bearer && view.SessionToken != "" {
		if err := g.giveSession(w, r, view.granted, view.SessionToken); err != nil {
			return err
		}
		view.SessionToken = ""
	}
	httpapi.Write(w, status, view)
	return nil
}

// view is a login in the API, with the token of its session if it was granted just now, and for a bearer that of its device.
func (g *gateway) view(r *http.Request, state *events.State, bearer bool) (*loginView, error) {
	v := &loginView{ID: state.Login.ID, Version: state.Version(), Status: state.Status(), Reason: state.Reason(), Deadline: state.Deadline().UTC()}
	if state.Requested != nil {
		v.App = state.Requested.App
	}
	if c := state.Challenge(); c != nil {
		v.Challenge = &challengeView{Round: c.Round, Factor: c.Factor, Hint: c.Hint, Expires: c.Expires.UTC(),
			ResendAt: c.ResendAt.UTC(), AttemptsLeft: g.attemptsLeft(c), Number: g.numberToShow(state.Login, c), Question: c.Question,
			URL: g.approveURL(r, state.Login, c)}
		v.Choices = c.Choices
	}
	if v.Status != events.StatusGranted {
		return v, nil
	}
	var err error
	if v.granted, v.SessionToken, err = g.grant(r.Context(), state); err != nil {
		return nil, err
	}
	if s := v.granted; s != nil {
		v.Session = &sessionView{User: s.Name, AMR: s.AMR, ACR: s.ACR, Expires: s.Expires.UTC()}
	}
	if bearer && v.SessionToken != "" {
		v.DeviceToken, err = g.deviceToken(r, false, state.Login, v.granted.User)
	}
	return v, err
}

// attemptsLeft applies the setting, of which the events say nothing before the first answer.
func (g *gateway) attemptsLeft(c *events.Challenge) int { return min(c.AttemptsLeft, g.cfg.Attempts) }

// numberToShow is what to type on the phone; empty if the phone does not ask for a number, or takes no more answers.
func (g *gateway) numberToShow(login events.Login, c *events.Challenge) string {
	if c.Factor != events.Push || !c.Number || c.Rejected == events.RejectedExhausted {
		return ""
	}
	return g.keys.number(login)
}

// approveURL is the page of a provider that hosts the approval, with the way back to this gateway: only the gateway knows how
// the browser reaches it. It is empty if the phone is asked.
func (g *gateway) approveURL(r *http.Request, login events.Login, c *events.Challenge) string {
	target, err := url.Parse(c.URL)
	if c.URL == "" || err != nil || target.Scheme != "https" && target.Scheme != "http" {
		return ""
	}
	query := target.Query()
	query.Set("return", g.border.own(r)+"/login/"+login.ID+"/return")
	target.RawQuery = query.Encode()
	return target.String()
}

// grantWindow is how long after the grant the session's token is given out, unless the session has been used. After that the
// secret of the login is worth nothing.
const grantWindow = time.Minute

// grant is the session of a granted login, nil if the session has ended, and its token for as long as that may be given out.
func (g *gateway) grant(ctx context.Context, state *events.State) (session *sessions.Session, token string, err error) {
	session, err = g.sessions.granted(ctx, state)
	if errors.Is(err, errNobody) {
		return nil, "", nil
	}
	if err != nil {
		return nil, "", err
	}
	if session.Used() || g.now().Sub(state.ClosedAt) >= grantWindow {
		return session, "", nil
	}
	token, err = g.keys.token(sessionToken, state.Login)
	return session, token, err
}

// giveSession puts a session into the browser, which remembers whose it was for the next login.
func (g *gateway) giveSession(w http.ResponseWriter, r *http.Request, session *sessions.Session, token string) error {
	device, err := g.deviceToken(r, true, session.Login, session.User)
	if err != nil {
		return err
	}
	http.SetCookie(w, g.sessionCookie(token, session.Expires.Sub(g.now())))
	http.SetCookie(w, hostCookie(deviceName, device, deviceAge))
	return nil
}
