package riskassessor

import (
	"context"
	"errors"
	"fmt"

	"github.com/rs/zerolog"

	"github.com/sekisho/sekisho/events"
	"github.com/sekisho/sekisho/services/internal/bus"
	"github.com/sekisho/sekisho/services/internal/provider"
)

// reasonNoAssessment stands in assessed when the provider has no assessment of this login.
const reasonNoAssessment = "NO_ASSESSMENT"

// An assessor asks the provider about users who were identified. It keeps nothing.
type assessor struct {
	bus      *bus.Bus
	opener   *events.Opener
	provider *OMotion       // nil: none is configured
	static   events.Verdict // said of every login, unless empty
	log      zerolog.Logger
}

func (a *assessor) assess(ctx context.Context, e *events.Event, identified *events.Identified) ([]*events.Event, error) {
	var subject events.Subject
	if err := a.opener.Open(identified.Subject, e.Subject(), "subject", &subject); err != nil {
		return nil, bus.Permanent(err)
	}
	requested, err := a.bus.Event(ctx, e.Login, events.StepRequested, 0)
	if err != nil {
		return nil, err
	}
	var environment events.Environment
	if sealed := requested.Data.(*events.Requested).Environment; sealed != nil {
		if err := a.opener.Open(sealed, requested.Subject(), "environment", &environment); err != nil {
			return nil, bus.Permanent(err)
		}
	}
	assessed, err := a.ask(ctx, environment.Assessment, subject.UserHash)
	if err != nil {
		return nil, err
	}
	return []*events.Event{events.New(e.Login, 0, assessed)}, nil
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
