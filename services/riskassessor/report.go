package riskassessor

import (
	"context"
	"errors"

	"github.com/sekisho/sekisho/events"
	"github.com/sekisho/sekisho/services/internal/bus"
	"github.com/sekisho/sekisho/services/internal/provider"
)

// A reporter remembers how logins ended, and tells the provider of those that it assessed, which learns from it which
// devices are whose. Nobody waits for either: what fails is tried again until the login is gone from the stream.
type reporter struct {
	bus      *bus.Bus
	opener   *events.Opener
	networks *networks
	provider *OMotion // nil: none is configured
}

func (r *reporter) learn(ctx context.Context, e *events.Event, closed *events.Closed) ([]*events.Event, error) {
	if closed.Outcome == events.Granted && !r.networks.current.Remove(e.Login) {
		if err := r.remember(ctx, e.Login, closed.User); err != nil {
			return nil, err
		}
	}
	return r.report(ctx, e, closed)
}

// remember records the network of a granted login as one that the user is known in.
func (r *reporter) remember(ctx context.Context, login events.Login, user string) error {
	identified, err := r.bus.Event(ctx, login, events.StepIdentified, 0)
	if err != nil {
		return err
	}
	environment, err := openEnvironment(r.opener, login, identified.Data.(*events.Identified).Environment)
	if err != nil {
		return err
	}
	return r.networks.remember(ctx, user, environment.IP)
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
