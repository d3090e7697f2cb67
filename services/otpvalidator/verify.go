package otpvalidator

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"

	"github.com/sekisho/sekisho/events"
	"github.com/sekisho/sekisho/services/internal/bus"
	"github.com/sekisho/sekisho/services/internal/directory"
	"github.com/sekisho/sekisho/services/internal/textcode"
)

// Verdicts of answers that were evaluated, as they stand in the directory.
const (
	right = "right"
	wrong = "wrong"
)

// A verifier decides on answers. What it decides follows from what stands in the stream before the answer, and from
// the verdict row of the answer's event, so a repeated delivery is decided alike and counts once.
type verifier struct {
	bus      *bus.Bus
	opener   *events.Opener
	codes    *textcode.Codes
	attempts *directory.Attempts
	most     int // answers that one login may take
}

func (v *verifier) verify(ctx context.Context, e *events.Event, answer *events.Answered) ([]*events.Event, error) {
	decision, result, err := v.decide(ctx, e, answer)
	switch {
	case err != nil || decision == nil:
		return nil, err
	case result == nil:
		return []*events.Event{decision}, nil
	}
	return nil, v.attempts.Finish(ctx, *result, func() error { return v.bus.Store(ctx, e, decision) })
}

// decide says whether an answer is right. decision is nil for an answer that is another worker's, or that does not matter any more;
// result is what is to be finished, nil where no attempt was counted.
func (v *verifier) decide(ctx context.Context, e *events.Event, answer *events.Answered) (decision *events.Event, result *directory.Result, err error) {
	if answer.Factor == events.Push {
		return nil, nil, nil // another worker's
	}
	history, err := v.bus.History(ctx, e, judgedBy...)
	if err != nil {
		return nil, nil, err
	}
	rejected, _ := bus.Get[*events.Rejected](history, e.N)
	verified, _ := bus.Get[*events.Verified](history, answer.Round)
	if rejected != nil || verified != nil || history.Ended() {
		return nil, nil, nil // it has its verdict, or nobody needs one any more
	}
	reject := func(reason string) *events.Event {
		return events.New(e.Login, e.N, &events.Rejected{
			Round: answer.Round, Factor: answer.Factor, Reason: reason, AttemptsLeft: max(0, v.most-e.N),
		})
	}
	wanted, _ := bus.Get[*events.Wanted](history, answer.Round)
	if wanted == nil || answer.Factor != events.SMS {
		return reject(events.RejectedWrong), nil, nil
	}
	if reason := history.Untimely(e, v.most); reason != "" {
		return reject(reason), nil, nil
	}

	var code string
	if err := v.opener.Open(answer.Code, e.Subject(), "code", &code); err != nil {
		return nil, nil, bus.Permanent(err)
	}
	attempt, err := attemptOf(e, answer, wanted)
	if err != nil {
		return nil, nil, err
	}
	standing, err := v.attempts.Begin(ctx, attempt)
	if err != nil {
		return nil, nil, err
	}
	if !standing.Allowed {
		return reject(events.RejectedLocked), nil, nil
	}
	verdict := standing.Verdict
	if verdict == "" {
		verdict = wrong
		if v.codes.Equal(e.Login, answer.Round, code) && !wanted.Decoy {
			verdict = right
		}
	}
	decision = events.New(e.Login, answer.Round, &events.Verified{Factor: events.SMS, Authenticator: attempt.Authenticator})
	if verdict != right {
		decision = reject(events.RejectedWrong)
	}
	return decision, &directory.Result{Attempt: attempt, Verdict: verdict, Right: verdict == right}, nil
}

// judgedBy lists the steps that the decision on an answer follows from.
var judgedBy = append([]events.Step{events.StepWanted, events.StepChallenged, events.StepRejected, events.StepVerified}, bus.Endings...)

// attemptOf is the answer as the directory counts it: on the user's phone, over all logins and gateways.
func attemptOf(e *events.Event, answer *events.Answered, wanted *events.Wanted) (directory.Attempt, error) {
	data, err := json.Marshal(answer)
	if err != nil {
		return directory.Attempt{}, fmt.Errorf("otpvalidator: digest of %s: %w", e.ID(), err)
	}
	digest := sha256.Sum256(data)
	return directory.Attempt{
		Event: e.ID(), Digest: digest[:], Authenticator: directory.SMSOf(wanted.User), Device: wanted.Device,
	}, nil
}
