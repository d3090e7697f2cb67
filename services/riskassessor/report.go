package riskassessor

import (
	"context"
	"errors"

	"github.com/sekisho/sekisho/events"
	"github.com/sekisho/sekisho/services/internal/bus"
	"github.com/sekisho/sekisho/services/internal/provider"
)

// A reporter tells the provider how the logins ended that it assessed, from which it learns which devices are whose.
// Nobody waits for that: a report that fails is tried again until the login's deadline, and then given up.
type reporter struct {
	bus      *bus.Bus
	opener   *events.Opener
	provider *OMotion // nil: none is configured
}

func (r *reporter) report(ctx context.Context, e *events.Event, closed *events.Closed) ([]*events.Event, error) {
	if r.provider == nil || closed.Outcome == events.Expired || closed.Outcome == events.CancelledBy {
		return nil, nil // nobody to tell, or neither a success nor a failure
	}
	history, err := r.bus.History(ctx, e)
	if err != nil {
		return nil, err
	}
	assessed, _ := bus.Get[*events.Assessed](history, 0)
	identified, at := bus.Get[*events.Identified](history, 0)
	if assessed == nil || assessed.Assessment == "" || identified == nil {
		return nil, nil
	}
	var subject events.Subject
	if err := r.opener.Open(identified.Subject, at.Subject(), "subject", &subject); err != nil {
		return nil, bus.Permanent(err)
	}
	err = r.provider.Report(ctx, assessed.Assessment, subject.UserHash, closed.Outcome == events.Granted)
	if errors.Is(err, provider.ErrRefused) {
		return nil, bus.Permanent(err)
	}
	return nil, err
}
