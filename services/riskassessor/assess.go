package riskassessor

import (
	"context"
	"errors"
	"fmt"

	"github.com/rs/zerolog"
	"golang.org/x/sync/errgroup"

	"github.com/sekisho/sekisho/events"
	"github.com/sekisho/sekisho/services/internal/bus"
	"github.com/sekisho/sekisho/services/internal/provider"
)

// reasonNoAssessment stands in assessed when the provider has no assessment of this login.
const reasonNoAssessment = "NO_ASSESSMENT"

// alertUnknown is the kind of the alert that a user logs in from somewhere new.
const alertUnknown = "unknown-environment"

// An assessor asks the provider about users who were identified, and notices what is new about a login.
type assessor struct {
	bus      *bus.Bus
	opener   *events.Opener
	networks *networks
	provider *OMotion       // nil: none is configured
	static   events.Verdict // said of every login, unless empty
	log      zerolog.Logger
}

// assess says how risky a login is, and raises an alert if it comes from somewhere new. Whether it does is read from the event that is
// stored, so that a repeated delivery raises the same alert. The alert comes after that event: no login waits for it, and so the time
// that a login takes does not tell users, for whom there are alerts, from decoys, for whom there are none.
func (a *assessor) assess(ctx context.Context, e *events.Event, identified *events.Identified) ([]*events.Event, error) {
	assessed, err := a.judge(ctx, e, identified)
	if err != nil {
		return nil, err
	}
	stored, _, err := a.bus.Publish(ctx, e, events.New(e.Login, 0, assessed))
	if err != nil {
		return nil, err
	}
	if said, ok := stored.Data.(*events.Assessed); !ok || !said.Unknown {
		return nil, nil
	}
	return nil, a.bus.AlertOf(ctx, e.Login, alertUnknown, identified.User, map[string]string{"login": e.Login.String(), "app": identified.App})
}

func (a *assessor) judge(ctx context.Context, e *events.Event, identified *events.Identified) (assessed *events.Assessed, err error) {
	var subject events.Subject
	if err := a.opener.Open(identified.Subject, e.Subject(), "subject", &subject); err != nil {
		return nil, bus.Permanent(err)
	}
	environment, err := openEnvironment(a.opener, e.Login, identified.Environment)
	if err != nil {
		return nil, err
	}
	var known bool
	both, ctx := errgroup.WithContext(ctx) // the database is looked at while the provider thinks
	both.Go(func() (err error) {
		assessed, err = a.ask(ctx, environment.Assessment, subject.UserHash)
		return err
	})
	both.Go(func() (err error) { // for a decoy too, only so that it takes the same time
		known, err = a.networks.known(ctx, e.Login, identified.User, environment.IP)
		return err
	})
	if err := both.Wait(); err != nil {
		return nil, err
	}
	assessed.Unknown = !identified.Decoy && !(known && identified.Device != "")
	return assessed, nil
}

// openEnvironment is what the gateway says of the browser that started a login; it need not say anything. identified carries it as it
// was sealed for requested.
func openEnvironment(opener *events.Opener, login events.Login, sealed *events.Sealed) (environment events.Environment, err error) {
	if sealed == nil {
		return environment, nil
	}
	if err := opener.Open(sealed, login.Subject(events.StepRequested, 0), "environment", &environment); err != nil {
		return environment, bus.Permanent(err)
	}
	return environment, nil
}

// ask turns the provider's answer, or its failure, into a verdict. It fails only when this worker is at its end.
func (a *assessor) ask(ctx context.Context, assessment, userHash string) (*events.Assessed, error) {
	if a.static != "" {
		return &events.Assessed{Verdict: a.static, Provider: "static"}, nil
	}
	if a.provider == nil {
		return &events.Assessed{Verdict: events.Review, Degraded: true}, nil
	}
	found, err := a.provider.Assess(ctx, assessment, userHash)
	assessed := &events.Assessed{Verdict: events.Review, Provider: a.provider.Name()}
	switch {
	case err == nil:
		assessed.Verdict, assessed.Assessment = events.Verdict(found.Result), found.ID
		if found.Reason != "" {
			assessed.Reasons = []string{found.Reason}
		}
	case ctx.Err() != nil:
		return nil, fmt.Errorf("riskassessor: cut short: %w", ctx.Err())
	case errors.Is(err, provider.ErrRefused):
		// The provider works, and the id is the browser's. This must not count as an outage: a policy may let outages
		// pass, and anybody can send a wrong id.
		assessed.Reasons = []string{reasonNoAssessment}
	default:
		assessed.Degraded = true
		if !errors.Is(err, provider.ErrOpen) { // the breaker's change has been logged
			a.log.Warn().Err(err).Str("provider", a.provider.Name()).Msg("login not assessed")
		}
	}
	return assessed, nil
}
