package pushnotifier

import (
	"context"
	"maps"
	"net/http"
	"slices"
	"strings"

	"github.com/sekisho/sekisho/events"
	"github.com/sekisho/sekisho/services/internal/httpapi"
	"github.com/sekisho/sekisho/services/internal/policy"
	"github.com/sekisho/sekisho/services/internal/sessions"
)

// enough is how many factors a session rests on that changes phones, of a user who has so many (SP 800-63B-4 section 4.1.2.1): who
// has learned a password must not be able to add a phone, and own two factors from then on.
const enough = 2

// withEnough lets a handler be called with sessions that rest on enough. A session's kinds of proof were counted by the policy when
// it was granted, each once.
func (n *notifier) withEnough(h handler) handler {
	return func(w http.ResponseWriter, r *http.Request, c caller) error {
		if len(c.signed.AMR) < enough {
			more, err := n.more(r.Context(), c.signed)
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

// more is the problem of a session whose user could have shown enough, which says by what login that is done; nil if no app
// can ask the user for so much. What is locked counts as had: wrong codes, which anybody can send, must not make it easier.
func (n *notifier) more(ctx context.Context, s *sessions.Session) (*httpapi.Problem, error) {
	password, factors, err := n.directory.Enrolled(ctx, s.User)
	if err != nil {
		return nil, err
	}
	apps := n.policy.Policy().Apps
	for _, name := range slices.SortedFunc(maps.Keys(apps), func(a, b string) int { // the session's own first
		switch s.App {
		case a:
			return -1
		case b:
			return 1
		default:
			return strings.Compare(a, b)
		}
	}) {
		if app := apps[name]; app.Reach(password, factors) >= enough {
			p := &httpapi.Problem{Status: http.StatusUnauthorized, Detail: "phones are changed by who has shown two factors: step up, or log in with both",
				App: name, ACR: "2fa"}
			if app.Honors(n.now().Sub(s.AuthTime)) && extends(app, s.AMR, factors) {
				p.Method = "session"
			}
			return p, nil
		}
	}
	return nil, nil
}

// extends tells whether one of the factors can follow in the app what has been shown. A password can not.
func extends(app *policy.App, shown []string, factors []events.Factor) bool {
	counted := app.Counted(shown)
	return len(counted) > 0 && slices.ContainsFunc(app.Factors, func(f events.Factor) bool {
		return slices.Contains(factors, f) && !slices.Contains(counted, f.AMR())
	})
}
