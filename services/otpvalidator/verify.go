package otpvalidator

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"time"

	"github.com/sekisho/sekisho/events"
	"github.com/sekisho/sekisho/services/internal/bus"
	"github.com/sekisho/sekisho/services/internal/config"
	"github.com/sekisho/sekisho/services/internal/directory"
	"github.com/sekisho/sekisho/services/internal/textcode"
)

// Verdicts of answers that were evaluated, as they stand in the directory. That of a token's code says more: see accepted.
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
	tokens   *directory.Tokens
	attempts *directory.Attempts
	settings config.Token
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

// A claim is an answer that is to be judged, and what it answers.
type claim struct {
	login    events.Login
	round    int
	wanted   *events.Wanted
	question string    // that was asked; "" for none
	code     string    // that was typed
	at       time.Time // it was stored, by the broker's clock: it may have waited
	attempt  directory.Attempt
}

// decide says whether an answer is right. decision is nil for an answer that is another worker's, or that does not matter any more;
// result is what is to be finished before or after it is published, nil where there is nothing to finish.
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
	if wanted == nil {
		return reject(events.RejectedWrong), nil, nil
	}
	if reason := history.Untimely(e, v.most); reason != "" {
		return reject(reason), nil, nil
	}
	challenged, _ := bus.Get[*events.Challenged](history, answer.Round)
	c := &claim{login: e.Login, round: answer.Round, wanted: wanted, question: challenged.Question, at: e.Stored}
	if err := v.opener.Open(answer.Code, e.Subject(), "code", &c.code); err != nil {
		return nil, nil, bus.Permanent(err)
	}
	if c.attempt, err = attemptOf(e, answer, wanted); err != nil {
		return nil, nil, err
	}
	standing, err := v.attempts.Begin(ctx, c.attempt)
	if err != nil {
		return nil, nil, err
	}
	judge := v.judgeText
	if answer.Factor == events.Token {
		judge = v.judgeToken
	}
	proof, result, err := judge(ctx, c, standing)
	switch {
	case err != nil:
		return nil, nil, err
	case proof != nil:
		return events.New(e.Login, answer.Round, proof), result, nil
	case standing.Allowed:
		return reject(events.RejectedWrong), result, nil
	default:
		return reject(events.RejectedLocked), result, nil
	}
}

// judgeText judges the code of a text message. There is no proof unless it is right.
func (v *verifier) judgeText(_ context.Context, c *claim, standing directory.Standing) (proof *events.Verified, result *directory.Result, err error) {
	if !standing.Allowed {
		return nil, nil, nil
	}
	verdict := standing.Verdict
	if verdict == "" {
		verdict = wrong
		if v.codes.Equal(c.login, c.round, c.code) && !c.wanted.Decoy {
			verdict = right
		}
	}
	result = &directory.Result{Attempt: c.attempt, Verdict: verdict, Right: verdict == right}
	if result.Right {
		proof = &events.Verified{Factor: events.SMS, Authenticator: c.attempt.Authenticator}
	}
	return proof, result, nil
}

// judgedBy lists the steps that the decision on an answer follows from.
var judgedBy = append([]events.Step{events.StepWanted, events.StepChallenged, events.StepRejected, events.StepVerified}, bus.Endings...)

// attemptOf is the answer as the directory counts it: on the user's phone, or all of the user's tokens, over all logins and gateways.
func attemptOf(e *events.Event, answer *events.Answered, wanted *events.Wanted) (directory.Attempt, error) {
	data, err := json.Marshal(answer)
	if err != nil {
		return directory.Attempt{}, fmt.Errorf("otpvalidator: digest of %s: %w", e.ID(), err)
	}
	user := wanted.User
	if wanted.Decoy { // counted as a user's answers are, and forgotten: see [directory.Purge]
		user = "?" + user
	}
	digest, authenticator := sha256.Sum256(data), directory.SMSOf(user)
	if answer.Factor == events.Token {
		authenticator = directory.TokenOf(user)
	}
	return directory.Attempt{Event: e.ID(), Digest: digest[:], Authenticator: authenticator, Device: wanted.Device}, nil
}
