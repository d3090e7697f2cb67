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

func (a *assessor) assess(ctx context.Context, e *events.Event, identified *events.Identified) ([]*events.Event, error) {
	var subject events.Subject
	if err := a.opener.Open(identified.Subject, e.Subject(), "subject", &subject); err != nil {
		return nil, bus.Permanent(err)
	}
	environment, err := environmentOf(ctx, a.bus, a.opener, e.Login)
	if err != nil {
		return nil, err
	}
	var assessed *events.Assessed
	var unknown bool
	both, ctx := errgroup.WithContext(ctx) // the database is looked at while the provider thinks
	both.Go(func() (err error) {
		assessed, err = a.ask(ctx, environment.Assessment, subject.UserHash)
		return err
	})
	both.Go(func() (err error) {
		unknown, err = a.unknown(ctx, e.Login, identified, environment.IP)
		return err
	})
	if err := both.Wait(); err != nil {
		return nil, err
	}
	assessed.Unknown = unknown
	return []*events.Event{events.New(e.Login, 0, assessed)}, nil
}

// environmentOf is what the gateway says of the browser that started a login; it need not say anything.
func environmentOf(ctx context.Context, b *bus.Bus, opener *events.Opener, login events.Login) (environment events.Environment, err error) {
	requested, err := b.Event(ctx, login, events.StepRequested, 0)
	if err != nil {
		return environment, err
	}
	sealed := requested.Data.(*events.Requested).Environment
	if sealed == nil {
		return environment, nil
	}
	if err := opener.Open(sealed, requested.Subject(), "environment", &environment); err != nil {
		return environment, bus.Permanent(err)
	}
	return environment, nil
}

// unknown tells whether the user has not used this browser or this network before, and gives an alert of it. What it looks
// up of a decoy, which is nobody, it looks up for the time that this takes alone.
func (a *assessor) unknown(ctx context.Context, login events.Login, identified *events.Identified, ip string) (bool, error) {
	known, err := a.networks.known(ctx, login, identified.User, ip)
	if err != nil || identified.Decoy || known && identified.Device != "" {
		return false, err
	}
	return true, a.bus.AlertOf(ctx, login, alertUnknown, identified.User, map[string]string{"login": login.String(), "app": identified.App})
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
