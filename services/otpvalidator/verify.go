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
	bus       *bus.Bus
	opener    *events.Opener
	codes     *textcode.Codes
	directory *directory.Directory
	attempts  int // answers that one login may take
}

func (v *verifier) verify(ctx context.Context, e *events.Event, answer *events.Answered) ([]*events.Event, error) {
	decision, finish, err := v.decide(ctx, e, answer)
	switch {
	case err != nil || decision == nil:
		return nil, err
	case finish == nil:
		return []*events.Event{decision}, nil
	}
	return nil, finish(ctx, func() error { return v.bus.Store(ctx, e, decision) })
}

// A finish records the result of an attempt, and calls tell before or after that; see [directory.Directory.Finish].
type finish func(ctx context.Context, tell func() error) error

// decide says whether an answer is right. decision is nil for an answer that is another worker's, or that does not matter any more;
// finish is nil where no attempt was counted.
func (v *verifier) decide(ctx context.Context, e *events.Event, answer *events.Answered) (decision *events.Event, finish finish, err error) {
	if answer.Factor == events.Push {
		return nil, nil, nil // another worker's
	}
	history, err := v.bus.History(ctx, e, judgedBy...)
	if err != nil {
		return nil, nil, err
	}
	if _, judged := bus.Get[*events.Rejected](history, e.N); judged != nil || over(history, answer.Round) {
		return nil, nil, nil
	}
	reject := func(reason string) *events.Event {
		return events.New(e.Login, e.N, &events.Rejected{
			Round: answer.Round, Factor: answer.Factor, Reason: reason, AttemptsLeft: max(0, v.attempts-e.N),
		})
	}
	wanted, _ := bus.Get[*events.Wanted](history, answer.Round)
	challenged, put := bus.Get[*events.Challenged](history, answer.Round)
	switch {
	case wanted == nil || challenged == nil || put.Sequence > e.Sequence, // an answer before the question
		challenged.Factor != answer.Factor, answer.Factor != events.SMS, // to something that was not asked
		e.N > v.attempts: // or one too many
		return reject(events.RejectedWrong), nil, nil
	case superseded(history, e, answer.Round):
		return reject(events.RejectedSuperseded), nil, nil
	case !e.Stored.Before(challenged.Expires):
		return reject(events.RejectedExpired), nil, nil
	}

	var code string
	if err := v.opener.Open(answer.Code, e.Subject(), "code", &code); err != nil {
		return nil, nil, bus.Permanent(err)
	}
	attempt, err := attemptOf(e, answer, wanted)
	if err != nil {
		return nil, nil, err
	}
	standing, err := v.directory.Begin(ctx, attempt)
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
	return decision, func(ctx context.Context, tell func() error) error {
		return v.directory.Finish(ctx, attempt, verdict, verdict == right, tell)
	}, nil
}

// judgedBy lists the steps that the decision on an answer follows from.
var judgedBy = []events.Step{events.StepWanted, events.StepChallenged, events.StepRejected, events.StepVerified,
	events.StepCancelled, events.StepLapsed, events.StepClosed}

// over tells whether no answer to a round matters any more: the round was answered rightly, or the login is at its end.
func over(history bus.History, round int) bool {
	for _, e := range history {
		switch e.Step {
		case events.StepClosed, events.StepCancelled, events.StepLapsed:
			return true
		case events.StepVerified:
			if e.N == round {
				return true
			}
		}
	}
	return false
}

// superseded tells whether a later round had been challenged when the answer came.
func superseded(history bus.History, answer *events.Event, round int) bool {
	for _, e := range history {
		if e.Step == events.StepChallenged && e.N > round && e.Sequence < answer.Sequence {
			return true
		}
	}
	return false
}

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
