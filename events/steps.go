package events

import "time"

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
	RejectedExhausted  = "exhausted"  // wrong too often for this factor, which takes no more answers in this login
)

// Requested opens a login.
type Requested struct {
	App       string    `json:"app"`
	Method    Method    `json:"method"`
	Prefer    Factor    `json:"prefer,omitempty"`     // the factor to challenge first, where the policy allows it
	Need      int       `json:"need,omitempty"`       // how many factors are asked for at least, where the policy asks for fewer
	Deadline  time.Time `json:"deadline"`             // at most ten minutes away; the broker's clock decides
	Locale    string    `json:"locale,omitempty"`     // "ja" or "en": the language of text messages
	SourceTag string    `json:"source_tag,omitempty"` // keyed hash of the client's network

	Identity    *Sealed `json:"identity"`              // [Identity], to identityverifier
	Environment *Sealed `json:"environment,omitempty"` // [Environment], to riskassessor
	Prompt      *Sealed `json:"prompt,omitempty"`      // [Prompt], to pushnotifier
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

// Prompt is what only pushnotifier may know of a request: what the user's phone is asked for, and what it shows.
type Prompt struct {
	Number  string `json:"number"`            // six digits, which the gateway shows and the phone asks for
	App     string `json:"app,omitempty"`     // what people call the app, in the language of the login
	Place   string `json:"place,omitempty"`   // where the login comes from, in words for the user
	Browser string `json:"browser,omitempty"` // what it comes from, in words for the user
	Names   Names  `json:"names,omitzero"`    // of the app, where they differ: the phone may speak another language than the login
}

// Names are what people call an app, by language.
type Names struct {
	EN string `json:"en"`
	JA string `json:"ja"`
}

// Identified says that the user is known and, with [Password], that the password was right.
type Identified struct {
	App      string    `json:"app"`
	User     string    `json:"user"`              // opaque id
	Primary  Method    `json:"primary"`           // what was verified
	Factors  []Factor  `json:"factors,omitempty"` // enrolled and not locked
	Deadline time.Time `json:"deadline"`          // the earlier of the requested one and ten minutes after the broker's timestamp
	Prefer   Factor    `json:"prefer,omitempty"`
	Need     int       `json:"need,omitempty"` // that of [Requested]
	Locale   string    `json:"locale,omitempty"`
	Device   string    `json:"device,omitempty"` // keyed hash of a browser that this user logged in with before
	// SourceTag is that of [Requested]. Whoever has this event need not read that one, the largest of a login.
	SourceTag string `json:"source_tag,omitempty"`
	// Generation counts the changes that end what a user had: the login is granted only while it is the account's. 0: not known.
	Generation int `json:"generation,omitempty"`
	// Decoy marks a login by ID only of a name that can not log in so. It walks the same road and never succeeds.
	Decoy bool `json:"decoy,omitempty"`
	// Session is what the login steps up from: a session of the same user at the same gateway, which lived at that moment.
	Session *SteppedFrom `json:"session,omitempty"`
	// Subject is [Subject] sealed to riskassessor.
	Subject *Sealed `json:"subject,omitempty"`
	// Environment is that of [Requested], still bound to that event, so that riskassessor finds all it needs in this one.
	Environment *Sealed `json:"environment,omitempty"`
}

// SteppedFrom is the session that a login steps up from.
type SteppedFrom struct {
	ID       string    `json:"id"`        // of the login that it was granted for, at the same gateway
	AMR      []string  `json:"amr"`       // what was shown for it
	AuthTime time.Time `json:"auth_time"` // of that session
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
	// Unknown: the user has not used this browser or this network before.
	Unknown bool `json:"unknown,omitempty"`
}

// Facts are what a decision rests on beside the history and the policy. Recorded so that it can be made again.
type Facts struct {
	Now     time.Time `json:"now"`
	Enabled bool      `json:"enabled"` // the account may log in, and the session that the login steps up from, if any, lives: looked up when identified at the earliest, and for a grant at this moment
}

// Decision is what `wanted` and `closed` record of how they came about.
type Decision struct {
	Policy string `json:"policy"`         // hash of the policy file
	Facts  Facts  `json:"facts"`          // what was known beside the history
	After  string `json:"after"`          // id of the last event seen
	Need   int    `json:"need,omitempty"` // factors that the login needs; never less in later decisions
}

// Wanted asks the worker of a factor for a challenge.
type Wanted struct {
	Factor   Factor    `json:"factor"`
	Left     []Factor  `json:"left,omitempty"` // other factors that the user may choose
	Done     []string  `json:"done,omitempty"` // amr values of what is verified so far
	App      string    `json:"app"`
	AppName  string    `json:"app_name,omitempty"` // what people call the app, in the language of Locale
	User     string    `json:"user"`
	Decoy    bool      `json:"decoy,omitempty"`
	Locale   string    `json:"locale,omitempty"`
	Device   string    `json:"device,omitempty"`
	Deadline time.Time `json:"deadline"`
	Decision Decision  `json:"decision"`

	// With [Push] only.
	Tap       bool   `json:"tap,omitempty"`        // the app's policy lets the phone approve without the number
	SourceTag string `json:"source_tag,omitempty"` // of the request, for the limit of pushes per source
}

// Challenged says that a challenge is on its way to the user.
type Challenged struct {
	Factor   Factor    `json:"factor"`
	Hint     string    `json:"hint,omitempty"`     // masked phone number; none of a push or a token
	Question string    `json:"question,omitempty"` // OCRA question (RFC 6287)
	Expires  time.Time `json:"expires"`
	ResendAt time.Time `json:"resend_at,omitzero"`
	Choices  []Factor  `json:"choices,omitempty"` // factors that the user may choose, this one included

	// With [Push] only.
	Number bool   `json:"number,omitempty"` // the phone asks for the number of the request's [Prompt], which the gateway shows
	URL    string `json:"url,omitempty"`    // where the browser goes to approve, when a provider hosts the approval
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
	Round    int     `json:"round"`
	Factor   Factor  `json:"factor"`
	Code     *Sealed `json:"code,omitempty"`     // what the user typed, to otpvalidator; with every factor but [Push]
	Response *Sealed `json:"response,omitempty"` // [Response], to pushnotifier; with [Push]
}

// Response is what only pushnotifier may know of the answer to a push. It has one of the two fields.
type Response struct {
	Assertion  string            `json:"assertion,omitempty"`  // JWS (RFC 7515) that the phone signed
	Parameters map[string]string `json:"parameters,omitempty"` // what the browser brought back from the provider that hosts the approval
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
	Authenticator string `json:"authenticator"`     // opaque id
	Counter       int64  `json:"counter,omitempty"` // of [Token]: the event or step of time whose code was accepted
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
