package events

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"time"
)

func (s *SteppedFrom) validate() error {
	if s == nil {
		return nil
	}
	var none error
	if len(s.AMR) == 0 {
		none = errors.New("session.amr: empty")
	}
	return errors.Join(text("session.id", s.ID, 1, 64), none, texts("session.amr", s.AMR), instant("session.auth_time", s.AuthTime))
}

func (d *Requested) Validate() error {
	return errors.Join(
		text("app", d.App, 1, 64),
		oneOf("method", d.Method, Password, None),
		optional("prefer", d.Prefer, Factors...),
		number("need", d.Need, 0, len(Factors)+1),
		instant("deadline", d.Deadline),
		optional("locale", d.Locale, "ja", "en"),
		text("source_tag", d.SourceTag, 0, 64),
		sealed("identity", d.Identity, true),
		sealed("environment", d.Environment, false),
		sealed("prompt", d.Prompt, false),
	)
}

func (d *Identified) Validate() error {
	return errors.Join(
		text("app", d.App, 1, 64),
		text("user", d.User, 1, 64),
		oneOf("primary", d.Primary, Password, None),
		factors("factors", d.Factors),
		instant("deadline", d.Deadline),
		optional("prefer", d.Prefer, Factors...),
		number("need", d.Need, 0, len(Factors)+1),
		optional("locale", d.Locale, "ja", "en"),
		text("device", d.Device, 0, 64),
		text("source_tag", d.SourceTag, 0, 64),
		number("generation", d.Generation, 0, math.MaxInt32),
		d.Session.validate(),
		sealed("subject", d.Subject, false),
		sealed("environment", d.Environment, false),
	)
}

func (d *Refused) Validate() error { return text("reason", d.Reason, 1, 64) }

func (d *Assessed) Validate() error {
	var score, reasons error
	if !(d.Score >= 0 && d.Score <= 1) {
		score = errors.New("score: not from 0 to 1")
	}
	if len(d.Reasons) > 16 {
		reasons = errors.New("reasons: more than 16")
	}
	for _, r := range d.Reasons {
		reasons = errors.Join(reasons, text("reasons", r, 1, 64))
	}
	return errors.Join(
		oneOf("verdict", d.Verdict, OK, Review, NG), score, reasons,
		text("provider", d.Provider, 0, 64),
		text("assessment", d.Assessment, 0, 64),
	)
}

func (d *Decision) validate() error {
	return errors.Join(
		text("decision.policy", d.Policy, 1, 64),
		instant("decision.facts.now", d.Facts.Now),
		text("decision.after", d.After, 1, 128),
		number("decision.need", d.Need, 0, len(Factors)+1),
	)
}

func (d *Wanted) Validate() error {
	return errors.Join(
		oneOf("factor", d.Factor, Factors...),
		factors("left", d.Left),
		texts("done", d.Done),
		text("app", d.App, 1, 64),
		text("app_name", d.AppName, 0, 256),
		text("user", d.User, 1, 64),
		optional("locale", d.Locale, "ja", "en"),
		text("device", d.Device, 0, 64),
		instant("deadline", d.Deadline),
		d.Decision.validate(),
		text("source_tag", d.SourceTag, 0, 64),
	)
}

func (d *Challenged) Validate() error {
	return errors.Join(
		oneOf("factor", d.Factor, Factors...),
		text("hint", d.Hint, 0, 128),
		text("question", d.Question, 0, 64),
		instant("expires", d.Expires),
		factors("choices", d.Choices),
		text("url", d.URL, 0, 2048),
	)
}

func (d *Undelivered) Validate() error {
	return errors.Join(
		oneOf("factor", d.Factor, Factors...),
		oneOf("reason", d.Reason, UndeliveredDown, UndeliveredRefused, UndeliveredLimited, UndeliveredTimeout),
	)
}

func (d *Answered) Validate() error {
	return errors.Join(
		number("round", d.Round, 1, Rounds),
		oneOf("factor", d.Factor, Factors...),
		sealedIf("code", d.Code, d.Factor != Push),
		sealedIf("response", d.Response, d.Factor == Push),
	)
}

func (d *Rejected) Validate() error {
	return errors.Join(
		number("round", d.Round, 1, Rounds),
		oneOf("factor", d.Factor, Factors...),
		oneOf("reason", d.Reason, RejectedWrong, RejectedSuperseded, RejectedExpired, RejectedLocked, RejectedDenied, RejectedNotMe, RejectedExhausted),
		number("attempts_left", d.AttemptsLeft, 0, Attempts),
	)
}

func (d *Verified) Validate() error {
	return errors.Join(
		oneOf("factor", d.Factor, Factors...),
		text("authenticator", d.Authenticator, 1, 64),
	)
}

func (d *Chosen) Validate() error    { return oneOf("factor", d.Factor, Factors...) }
func (d *Cancelled) Validate() error { return nil }
func (d *Lapsed) Validate() error    { return text("reason", d.Reason, 0, 64) }

func (d *Closed) Validate() error {
	var granted error
	if d.Outcome == Granted {
		granted = errors.Join(
			text("app", d.App, 1, 64), text("user", d.User, 1, 64), text("acr", d.ACR, 1, 64),
			instant("auth_time", d.AuthTime), instant("expires", d.Expires))
		if len(d.AMR) == 0 {
			granted = errors.Join(granted, errors.New("amr: a session rests on at least one authenticator"))
		}
	}
	return errors.Join(
		oneOf("outcome", d.Outcome, Granted, Denied, Failed, Expired, CancelledBy),
		text("reason", d.Reason, 0, 64),
		text("app", d.App, 0, 64),
		texts("amr", d.AMR),
		granted,
		d.Decision.validate(),
	)
}

func text(field, value string, least, most int) error {
	if len(value) < least || len(value) > most {
		return fmt.Errorf("%s: %d bytes, want %d to %d", field, len(value), least, most)
	}
	for i := range len(value) {
		if value[i] < ' ' || value[i] == 0x7f {
			return fmt.Errorf("%s: a control character", field) // PostgreSQL takes no zero byte, and no reader expects a line break
		}
	}
	return nil
}

func texts(field string, values []string) error {
	if len(values) > 8 {
		return fmt.Errorf("%s: more than 8", field)
	}
	for _, v := range values {
		if err := text(field, v, 1, 64); err != nil {
			return err
		}
	}
	return nil
}

func number(field string, value, least, most int) error {
	if value < least || value > most {
		return fmt.Errorf("%s: %d, want %d to %d", field, value, least, most)
	}
	return nil
}

func instant(field string, value time.Time) error {
	if value.IsZero() {
		return fmt.Errorf("%s: missing", field)
	}
	return nil
}

func oneOf[T ~string](field string, value T, known ...T) error {
	if !slices.Contains(known, value) {
		return fmt.Errorf("%s: not one of %q", field, known)
	}
	return nil
}

func optional[T ~string](field string, value T, known ...T) error {
	if value == "" {
		return nil
	}
	return oneOf(field, value, known...)
}

func factors(field string, values []Factor) error {
	if len(values) > len(Factors) {
		return fmt.Errorf("%s: more than %d", field, len(Factors))
	}
	for _, v := range values {
		if err := oneOf(field, v, Factors...); err != nil {
			return err
		}
	}
	return nil
}

func sealed(field string, value *Sealed, required bool) error {
	switch {
	case value != nil:
		return value.validate(field)
	case required:
		return fmt.Errorf("%s: missing", field)
	default:
		return nil
	}
}

// sealedIf wants a value where the condition holds, and none where it does not.
func sealedIf(field string, value *Sealed, wanted bool) error {
	if value != nil && !wanted {
		return fmt.Errorf("%s: not with this factor", field)
	}
	return sealed(field, value, wanted)
}
