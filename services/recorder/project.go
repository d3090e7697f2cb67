package recorder

import (
	"time"

	"github.com/sekisho/sekisho/events"
)

// A login is what a batch tells of one login. What it does not tell is nil.
type login struct {
	opened, deadline, closed *time.Time
	app, method, user        *string
	outcome, reason          *string
}

// project adds an event to what is known of its login.
func project(logins map[events.Login]*login, e *events.Event) {
	l := logins[e.Login]
	if l == nil {
		l = new(login)
	}
	switch data := e.Data.(type) {
	case *events.Requested:
		l.opened, l.deadline, l.app, l.method = &e.Stored, new(data.Ends(e.Stored)), clean(data.App, 64), clean(string(data.Method), 64)
	case *events.Identified:
		if !data.Decoy {
			l.user = clean(data.User, 64)
		}
	case *events.Lapsed:
		l.end(e, events.Expired, data.Reason)
	case *events.Closed:
		l.end(e, data.Outcome, data.Reason)
	default:
		return
	}
	logins[e.Login] = l
}

// end takes the first ending of a login: `closed` after `lapsed` is only the record of it.
func (l *login) end(e *events.Event, outcome events.Outcome, reason string) {
	if l.closed == nil {
		l.closed, l.outcome, l.reason = &e.Stored, clean(string(outcome), 64), clean(reason, 64)
	}
}
