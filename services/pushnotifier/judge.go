package pushnotifier

import (
	"context"
	"crypto/subtle"
	"errors"
	"fmt"

	"github.com/sekisho/sekisho/events"
	"github.com/sekisho/sekisho/services/internal/bus"
	"github.com/sekisho/sekisho/services/internal/directory"
)

// A verdict is what becomes of an answer.
type verdict struct {
	reason        string // of rejected; "" verifies the round
	authenticator string // of verified
	wrong         int    // wrong numbers in this login so far
}

// settled reports whether the answer has decided its round, so that nothing more is asked.
func (v *verdict) settled() bool {
	switch v.reason {
	case "", events.RejectedDenied, events.RejectedNotMe, events.RejectedExhausted:
		return true
	default:
		return false
	}
}

// event is the event that says the verdict on an answer.
func (n *notifier) event(e *events.Event, v *verdict) *events.Event {
	round := e.Data.(*events.Answered).Round
	if v.reason == "" {
		return events.New(e.Login, round, &events.Verified{Factor: events.Push, Authenticator: v.authenticator})
	}
	return events.New(e.Login, e.N, &events.Rejected{
		Round: round, Factor: events.Push, Reason: v.reason, AttemptsLeft: max(0, n.attempts-e.N),
	})
}

// judge decides on an answer, which the history must hold, by what stands before it in the stream. So whoever judges it, and
// whenever, comes to the same verdict: of two answers to one round the first that decides it wins, for ever. There are two
// exceptions, and both only refuse: a device that has been removed since, and an account that may no longer log in.
//
// known is what the answer says, if the caller has just read it; nil: it is read here.
func (n *notifier) judge(ctx context.Context, history bus.History, e *events.Event, known *signed) (*verdict, error) {
	var (
		v       verdict
		decided [events.Rounds + 1]bool
	)
	for _, each := range history {
		answer, ok := each.Data.(*events.Answered)
		if !ok || answer.Factor != events.Push {
			continue
		}
		judged := each.N == e.N
		// The verdict on an earlier answer stands. There is none only if that one is being judged at this moment too.
		if rejected, _ := bus.Get[*events.Rejected](history, each.N); rejected != nil && !judged {
			v.reason, v.authenticator = rejected.Reason, ""
		} else if err := n.weigh(ctx, history, each, judged, known, &v); err != nil {
			return nil, err
		}
		switch {
		case v.reason == events.RejectedNotMe: // always counts: if not against this login, then against what comes of it
			decided[answer.Round] = true
		case v.wrong >= n.settings.Wrong:
			v.reason = events.RejectedExhausted
		case v.reason == events.RejectedExhausted:
			v.wrong = n.settings.Wrong
		case v.reason == events.RejectedWrong:
			if v.wrong++; v.wrong == n.settings.Wrong {
				v.reason = events.RejectedExhausted
			}
		case v.settled() && decided[answer.Round]:
			v.reason = events.RejectedSuperseded
		case v.settled():
			decided[answer.Round] = true
		}
		if judged {
			return &v, nil
		}
	}
	return nil, fmt.Errorf("pushnotifier: judge %s: it is not in the login's history", e.ID())
}

// weigh looks at one answer by itself, the one that is judged or one before it, and puts what it finds into v.
func (n *notifier) weigh(ctx context.Context, history bus.History, e *events.Event, judged bool, known *signed, v *verdict) error {
	answer := e.Data.(*events.Answered)
	v.reason, v.authenticator = events.RejectedWrong, ""
	var response events.Response
	mine := judged && known != nil // sealed by this process a moment ago: an assertion
	if !mine && n.opener.Open(answer.Response, e.Subject(), "response", &response) != nil {
		return nil // from somebody who can not even seal
	}
	if id := response.Parameters[noticeParameter]; id != "" {
		return n.weighNotice(ctx, e, id, v)
	}
	wanted, _ := bus.Get[*events.Wanted](history, answer.Round)
	if wanted == nil || wanted.Decoy {
		return nil
	}
	if reason := history.Untimely(e, n.attempts); reason != "" {
		v.reason = reason
		return nil
	}
	var err error
	switch {
	case mine:
		n.weighAssertion(history, wanted, known, v)
	case response.Parameters == nil:
		if known, err = n.readAssertion(ctx, e, response.Assertion); known != nil {
			n.weighAssertion(history, wanted, known, v)
		}
	case judged:
		err = n.weighHosted(ctx, history, e, wanted, response.Parameters, v)
	default: // the provider takes it once only, and that is for whoever judges that answer
		v.reason = events.RejectedSuperseded
	}
	if err != nil || v.reason != "" {
		return err
	}
	may, err := n.accounts.MayLogIn(ctx, wanted.User)
	if err == nil && !may {
		v.reason = events.RejectedLocked
	}
	return err
}

// A signed is an assertion with a good signature, about a prompt of its device's user.
type signed struct {
	device directory.Device
	claims assertion
	prompt *prompt
}

// readAssertion reads the assertion of an answer; nil if it is none, or is about anything but the answer's round.
func (n *notifier) readAssertion(ctx context.Context, e *events.Event, token string) (*signed, error) {
	var s signed
	err := verify(token, assertionType, &s.claims, n.keyOf(ctx, &s.device))
	if errors.Is(err, errToken) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	s.prompt, err = n.store.prompt(ctx, place{e.Login, e.Data.(*events.Answered).Round})
	if err != nil || s.prompt == nil || !s.prompt.answeredBy(s.device, &s.claims) {
		return nil, err
	}
	return &s, nil
}

// weighAssertion looks at what a device signed.
func (n *notifier) weighAssertion(history bus.History, wanted *events.Wanted, s *signed, v *verdict) {
	if s.prompt.User != wanted.User {
		return
	}
	switch s.claims.Decision {
	case deny:
		v.reason = events.RejectedDenied
	case notMe:
		v.reason = events.RejectedNotMe
	case approve:
		number := n.asked(history).Number
		if wanted.Tap || number != "" && subtle.ConstantTimeCompare([]byte(s.claims.Number), []byte(number)) == 1 {
			v.reason, v.authenticator = "", directory.DeviceOf(s.device.ID)
		}
	}
}

// weighHosted asks the provider that hosts the approval. The provider takes what the browser brought back once only. So after a
// crash the user has to approve again, unless the verdict had been stored.
func (n *notifier) weighHosted(ctx context.Context, history bus.History, e *events.Event, wanted *events.Wanted, parameters map[string]string, v *verdict) error {
	if verified, _ := bus.Get[*events.Verified](history, e.Data.(*events.Answered).Round); verified != nil {
		v.reason, v.authenticator = "", verified.Authenticator
		return nil
	}
	devices, err := n.devices.List(ctx, wanted.User)
	if err != nil {
		return err
	}
	at := hosted(devices)
	if at == nil || n.vendors.mamoru == nil {
		return nil
	}
	decision, err := n.vendors.mamoru.Verify(ctx, at.Account, e.Login.String(), parameters)
	if err != nil {
		return err
	}
	switch decision {
	case Approved:
		v.reason, v.authenticator = "", directory.DeviceOf(at.ID)
	case Denied:
		v.reason = events.RejectedDenied
	}
	return nil
}

// answeredBy tells whether an assertion is about this very prompt, by a device that was asked.
func (p *prompt) answeredBy(device directory.Device, a *assertion) bool {
	return device.User == p.User && a.Login == p.Login.String() && a.Round == p.Round &&
		subtle.ConstantTimeCompare([]byte(a.Nonce), []byte(encode(p.Nonce))) == 1
}
