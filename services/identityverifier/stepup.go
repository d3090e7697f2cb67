package identityverifier

import (
	"context"
	"errors"

	"github.com/sekisho/sekisho/events"
	"github.com/sekisho/sekisho/services/internal/directory"
	"github.com/sekisho/sekisho/services/internal/sessions"
)

// noSession is the reason to refuse a login that would step up from a session that is not good.
const noSession = "no_session"

// checkSession finds the session that a login steps up from, or the reason to refuse. from is in the login's own gateway, so
// that none can step up from another's session. The session must live and be of the account that the login names.
func (v *verifier) checkSession(ctx context.Context, from events.Login, account *directory.Account) (*events.SteppedFrom, string, error) {
	if from.Validate() != nil || account == nil {
		return nil, noSession, nil
	}
	session, err := v.sessions.Get(ctx, from)
	if errors.Is(err, sessions.ErrNotFound) {
		return nil, noSession, nil
	}
	if err != nil {
		return nil, "", err
	}
	if session.User != account.ID || !session.Live(v.now()) { // no session lives of a user who may not log in
		return nil, noSession, nil
	}
	return &events.SteppedFrom{ID: from.ID, AMR: session.AMR, AuthTime: session.AuthTime}, "", nil
}
