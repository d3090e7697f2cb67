package events

import (
	"errors"
	"fmt"
	"slices"
	"time"
)

// Data is what one event says: a pointer to one of the structs of this file. The JSON Schema of each is
// schemas/<step>.schema.json; consumers ignore fields that they do not know, so that a newer publisher does no harm.
type Data interface {
	Step() Step
	// Validate names the first field that breaks the schema.
	Validate() error
}

// A Method is how a login starts.
type Method string

// The methods.
const (
	Password Method = "password"
	None     Method = "none" // by ID only: a challenge must follow
)

// AMR is what has been shown with the method, as an authentication method reference (RFC 8176); empty for [None].
func (m Method) AMR() string {
	if m == Password {
		return "pwd"
	}
	return ""
}

// A Factor is a kind of authenticator that can be challenged.
type Factor string

// The factors.
const (
	SMS   Factor = "sms"
	Push  Factor = "push"
	Token Factor = "token"
)

// Factors lists all factors.
var Factors = []Factor{SMS, Push, Token}

// AMR is the factor as an authentication method reference (RFC 8176). The key that answers a push lives in the phone's
// software: swk.
func (f Factor) AMR() string {
	switch f {
	case SMS:
		return "sms"
	case Push:
		return "swk"
	case Token:
		return "otp"
	default:
		return ""
	}
}

// A Verdict is what the risk assessment says of a login.
type Verdict string

// The verdicts.
const (
	OK     Verdict = "OK"
	Review Verdict = "REVIEW"
	NG     Verdict = "NG"
)

// An Outcome is the one ending of a login.
type Outcome string

// The outcomes.
const (
	Granted     Outcome = "granted"
	Denied      Outcome = "denied"
	Failed      Outcome = "failed"
	Expired     Outcome = "expired"
	CancelledBy Outcome = "cancelled" // by the user
)

// Reasons of [Closed] with [Failed]; with other outcomes the reason is for operators only.
const (
	FailedAttempts    = "attempts"    // five wrong answers
	FailedUndelivered = "undelivered" // no challenge reached the user, and no factor is left
	FailedUnavailable = "unavailable" // the policy asks for a factor that the user does not have, or that is locked
)

// Reasons of [Rejected].
const (
	RejectedWrong      = "wrong"
	RejectedSuperseded = "superseded" // the answer is for a round that a later challenge replaced
	RejectedExpired    = "expired"    // the challenge is no longer valid
	RejectedLocked     = "locked"     // the authenticator is locked; the answer was not looked at
	RejectedDenied     = "denied"     // the user said no
	RejectedNotMe      = "not_me"     // the user says that somebody else is logging in
)

// Requested opens a login.
type Requested struct {
	App       string    `json:"app"`
	Method    Method    `json:"method"`
	Prefer    Factor    `json:"prefer,omitempty"`     // the factor to challenge first, where the policy allows it
	Deadline  time.Time `json:"deadline"`             // at most ten minutes away; the broker's clock decides
	Locale    string    `json:"locale,omitempty"`     // "ja" or "en": the language of text messages
	SourceTag string    `json:"source_tag,omitempty"` // keyed hash of the client's network

	Identity    *Sealed `json:"identity"`              // [Identity], to identityverifier
	Environment *Sealed `json:"environment,omitempty"` // [Environment], to riskassessor
}

// Identity is what only identityverifier may know of a request.
type Identity struct {
	User     string `json:"user"`
	Password string `json:"password,omitempty"`
	// Device and DeviceUsers come from the browser's device cookie, after the gateway has verified it: the random
	// name of the browser, and the opaque ids of the users who logged in with it before.
	Device      string   `json:"device,omitempty"`
	DeviceUsers []string `json:"device_users,omitempty"`
	// Session, with [None] only, is the login's id of a live session that the user has at the same gateway. The login
	// steps up from it: what was shown for it counts, at least one factor more must follow, and the session that is
	// granted takes its place.
	Session string `json:"session,omitempty"`
}

// Environment is what only riskassessor may know of a request.
type Environment struct {
	IP         string `json:"ip,omitempty"`
	UserAgent  string `json:"user_agent,omitempty"`
	Languages  string `json:"languages,omitempty"`
	Assessment string `json:"assessment,omitempty"` // the collector's assessment id
	Device     string `json:"device,omitempty"`
}

// Identified says that the user is known and, with [Password], that the password was right.
type Identified struct {
	App      string    `json:"app"`
	User     string    `json:"user"`              // opaque id
	Primary  Method    `json:"primary"`           // what was verified
	Factors  []Factor  `json:"factors,omitempty"` // enrolled and not locked
	Deadline time.Time `json:"deadline"`          // the earlier of the requested one and ten minutes after the broker's timestamp
	Prefer   Factor    `json:"prefer,omitempty"`
	Locale   string    `json:"locale,omitempty"`
	Device   string    `json:"device,omitempty"` // keyed hash of a browser that this user logged in with before
	// Decoy marks a login by ID only of a name that can not log in so. It walks the same road and never succeeds.
	Decoy bool `json:"decoy,omitempty"`
	// Session is what the login steps up from: a session of the same user at the same gateway, which lived at that moment.
	Session *SteppedFrom `json:"session,omitempty"`
	// Subject is [Subject] sealed to riskassessor.
	Subject *Sealed `json:"subject,omitempty"`
}

// SteppedFrom is the session that a login steps up from.
type SteppedFrom struct {
	ID       string    `json:"id"`        // of the login that it was granted for, at the same gateway
	AMR      []string  `json:"amr"`       // what was shown for it
	AuthTime time.Time `json:"auth_time"` // of that session
}

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

// Subject is what only riskassessor may know of an identified user.
type Subject struct {
	UserHash string `json:"user_hash"` // hex SHA-256 of the canonical user name, as risk providers ask for it
}

// Refused says that the login ends as denied. The reason is never shown to the user.
type Refused struct {
	Reason string `json:"reason"`
}

// Assessed is the verdict of the risk assessment.
type Assessed struct {
	Verdict    Verdict  `json:"verdict"`
	Score      float64  `json:"score,omitempty"` // 0 to 1, higher is riskier; 0 when the provider has none
	Reasons    []string `json:"reasons,omitempty"`
	Provider   string   `json:"provider,omitempty"`
	Assessment string   `json:"assessment,omitempty"` // the provider's id of it
	// Degraded: no provider could be asked; the verdict says nothing and the policy decides.
	Degraded bool `json:"degraded,omitempty"`
}

// Facts are what a decision rests on beside the history and the policy. Recorded so that it can be made again.
type Facts struct {
	Now     time.Time `json:"now"`
	Enabled bool      `json:"enabled"` // the account may log in at this moment, and the session that the login steps up from, if any, lives
}

// Decision is what `wanted` and `closed` record of how they came about.
type Decision struct {
	Policy string `json:"policy"`         // hash of the policy file
	Facts  Facts  `json:"facts"`          //
	After  string `json:"after"`          // id of the last event seen
	Need   int    `json:"need,omitempty"` // factors that the login needs; never less in later decisions
}

// Wanted asks the worker of a factor for a challenge.
type Wanted struct {
	Factor   Factor    `json:"factor"`
	Left     []Factor  `json:"left,omitempty"` // other factors that the user may choose
	Done     []string  `json:"done,omitempty"` // amr values of what is verified so far
	App      string    `json:"app"`
	User     string    `json:"user"`
	Decoy    bool      `json:"decoy,omitempty"`
	Locale   string    `json:"locale,omitempty"`
	Device   string    `json:"device,omitempty"`
	Deadline time.Time `json:"deadline"`
	Decision Decision  `json:"decision"`
}

// Challenged says that a challenge is on its way to the user.
type Challenged struct {
	Factor   Factor    `json:"factor"`
	Hint     string    `json:"hint,omitempty"`     // masked phone number or device name
	Question string    `json:"question,omitempty"` // OCRA question (RFC 6287)
	Expires  time.Time `json:"expires"`
	ResendAt time.Time `json:"resend_at,omitzero"`
	Choices  []Factor  `json:"choices,omitempty"` // factors that the user may choose, this one included
}

// Undelivered says that a challenge could not be put to the user.
type Undelivered struct {
	Factor Factor `json:"factor"`
	Reason string `json:"reason"`
}

// Reasons of [Undelivered].
const (
	UndeliveredDown    = "provider_down"
	UndeliveredRefused = "refused"
	UndeliveredLimited = "limited"
	UndeliveredTimeout = "timed_out"
)

// Answered is one of the five attempts to answer a challenge. Its event carries a nonce.
type Answered struct {
	Round  int     `json:"round"`
	Factor Factor  `json:"factor"`
	Code   *Sealed `json:"code"` // to otpvalidator
}

// Rejected says that the attempt of the same number did not succeed.
type Rejected struct {
	Round        int    `json:"round"`
	Factor       Factor `json:"factor"`
	Reason       string `json:"reason"`
	AttemptsLeft int    `json:"attempts_left"`
}

// Verified says that the round's challenge was answered rightly.
type Verified struct {
	Factor        Factor `json:"factor"`
	Authenticator string `json:"authenticator"` // opaque id
	Counter       int64  `json:"counter,omitempty"`
}

// Chosen says that the user leaves the round of the same number for another factor, or for the same again. Its event carries a nonce.
type Chosen struct {
	Factor Factor `json:"factor"`
}

// Cancelled says that the user gave up.
type Cancelled struct{}

// Lapsed says that the deadline has passed, or that the login can not go on.
type Lapsed struct {
	Reason string `json:"reason,omitempty"` // for operators; empty: the deadline passed
}

// Closed is the one ending of a login.
type Closed struct {
	Outcome  Outcome   `json:"outcome"`
	Reason   string    `json:"reason,omitempty"`
	App      string    `json:"app,omitempty"`
	User     string    `json:"user,omitempty"`     // opaque id; with [Granted] only
	AMR      []string  `json:"amr,omitempty"`      // RFC 8176 values
	ACR      string    `json:"acr,omitempty"`      // "1fa", "2fa", …: how many factors were verified
	AuthTime time.Time `json:"auth_time,omitzero"` // of a login that steps up: that of the session it steps up from
	Expires  time.Time `json:"expires,omitzero"`   // absolute end of the session
	Decision Decision  `json:"decision"`
}

func (*Requested) Step() Step   { return StepRequested }
func (*Identified) Step() Step  { return StepIdentified }
func (*Refused) Step() Step     { return StepRefused }
func (*Assessed) Step() Step    { return StepAssessed }
func (*Wanted) Step() Step      { return StepWanted }
func (*Challenged) Step() Step  { return StepChallenged }
func (*Undelivered) Step() Step { return StepUndelivered }
func (*Answered) Step() Step    { return StepAnswered }
func (*Rejected) Step() Step    { return StepRejected }
func (*Verified) Step() Step    { return StepVerified }
func (*Chosen) Step() Step      { return StepChosen }
func (*Cancelled) Step() Step   { return StepCancelled }
func (*Lapsed) Step() Step      { return StepLapsed }
func (*Closed) Step() Step      { return StepClosed }

func (d *Requested) Validate() error {
	return errors.Join(
		text("app", d.App, 1, 64),
		oneOf("method", d.Method, Password, None),
		optional("prefer", d.Prefer, Factors...),
		instant("deadline", d.Deadline),
		optional("locale", d.Locale, "ja", "en"),
		text("source_tag", d.SourceTag, 0, 64),
		sealed("identity", d.Identity, true),
		sealed("environment", d.Environment, false),
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
		optional("locale", d.Locale, "ja", "en"),
		text("device", d.Device, 0, 64),
		d.Session.validate(),
		sealed("subject", d.Subject, false),
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
		text("user", d.User, 1, 64),
		optional("locale", d.Locale, "ja", "en"),
		text("device", d.Device, 0, 64),
		instant("deadline", d.Deadline),
		d.Decision.validate(),
	)
}

func (d *Challenged) Validate() error {
	return errors.Join(
		oneOf("factor", d.Factor, Factors...),
		text("hint", d.Hint, 0, 128),
		text("question", d.Question, 0, 64),
		instant("expires", d.Expires),
		factors("choices", d.Choices),
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
		sealed("code", d.Code, true),
	)
}

func (d *Rejected) Validate() error {
	return errors.Join(
		number("round", d.Round, 1, Rounds),
		oneOf("factor", d.Factor, Factors...),
		oneOf("reason", d.Reason, RejectedWrong, RejectedSuperseded, RejectedExpired, RejectedLocked, RejectedDenied, RejectedNotMe),
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
