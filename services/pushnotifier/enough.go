package pushnotifier

import (
	"context"
	"maps"
	"net/http"
	"slices"

	"github.com/sekisho/sekisho/events"
	"github.com/sekisho/sekisho/services/internal/httpapi"
	"github.com/sekisho/sekisho/services/internal/policy"
	"github.com/sekisho/sekisho/services/internal/sessions"
)

// enough is how many factors a session must rest on to change the phones of a user who has as many (SP 800-63B-4 section 4.1.2.1):
// whoever has learned a password must not be able to add a phone, and own two factors from then on.
const enough = 2

// withEnough calls a handler only for sessions that rest on enough factors. The policy counted each kind of proof once when it granted
// the session.
func (n *notifier) withEnough(h handler) handler {
	return func(w http.ResponseWriter, r *http.Request, c caller) error {
		if len(c.session.AMR) < enough {
			more, err := n.more(r.Context(), c.session)
			if err != nil {
				return err
			}
			if more != nil {
				w.Header().Set("WWW-Authenticate", `Bearer error="insufficient_user_authentication", acr_values="`+more.ACR+`"`) // RFC 9470 section 3
				return more
			}
		}
		return h(w, r, c)
	}
}

// more is the problem of a session whose user could have shown enough, and says which login to do it by; nil if no app can ask
// the user for so much. A locked factor counts too: wrong codes, which anybody can send, must not make it easier.
func (n *notifier) more(ctx context.Context, s *sessions.Session) (*httpapi.Problem, error) {
	password, factors, err := n.accounts.Enrolled(ctx, s.User, n.now())
	if err != nil {
		return nil, err
	}
	apps := n.policy.Policy().Apps
	for _, name := range append([]string{s.App}, slices.Sorted(maps.Keys(apps))...) { // the session's own first
		app := apps[name]
		if app == nil || app.Reach(password, factors) < enough { // nil: the session's own has left the policy
			continue
		}
		p := &httpapi.Problem{Status: http.StatusUnauthorized, Detail: "phones are changed by who has shown two factors: step up, or log in with both",
			App: name, ACR: "2fa"}
		if app.Honors(n.now().Sub(s.AuthTime)) && extends(app, s.AMR, factors) {
			p.Method = "session"
		}
		return p, nil
	}
	return nil, nil
}

// extends tells whether one of the factors can be shown to the app after what has been shown. A password can not.
func extends(app *policy.App, shown []string, factors []events.Factor) bool {
	counted := app.Counted(shown)
	return len(counted) > 0 && slices.ContainsFunc(app.Factors, func(f events.Factor) bool {
		return slices.Contains(factors, f) && !slices.Contains(counted, f.AMR())
	})
}
