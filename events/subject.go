package events

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"
)

// A Step is one kind of event in a login, and the second token of its subject.
type Step string

// The steps of a login, in the order in which a login usually meets them.
const (
	StepRequested   Step = "requested"
	StepIdentified  Step = "identified"
	StepRefused     Step = "refused"
	StepAssessed    Step = "assessed"
	StepWanted      Step = "wanted"
	StepChallenged  Step = "challenged"
	StepUndelivered Step = "undelivered"
	StepAnswered    Step = "answered"
	StepRejected    Step = "rejected"
	StepVerified    Step = "verified"
	StepChosen      Step = "chosen"
	StepCancelled   Step = "cancelled"
	StepLapsed      Step = "lapsed"
	StepClosed      Step = "closed"
)

// Rounds and Attempts bound the numbered subjects of one login. They are part of the wire format: permissions
// list the subjects `.1` to `.6` and `.1` to `.5`, so that no more of them can ever exist.
const (
	Rounds   = 6 // challenges in one login
	Attempts = 5 // answers in one login, whatever the round and the factor
)

// A Login is the name of one login. It is always the pair: one gateway can never stand in another's login.
type Login struct {
	Gateway string // name of a deployment of a gateway: 1 to 32 of a-z, 0-9 and '-'
	ID      string // UUIDv7 in its canonical lower-case form, chosen by the gateway
}

// NewLogin names a new login of a gateway.
func NewLogin(gateway string) (Login, error) {
	id, err := uuid.NewV7()
	if err != nil {
		return Login{}, fmt.Errorf("events: new login id: %w", err)
	}
	l := Login{Gateway: gateway, ID: id.String()}
	return l, l.Validate()
}

// ParseLogin reads "<gateway>/<id>".
func ParseLogin(s string) (Login, error) {
	gateway, id, _ := strings.Cut(s, "/")
	l := Login{Gateway: gateway, ID: id}
	return l, l.Validate()
}

// String is "<gateway>/<id>": the `subject` attribute of the login's events.
func (l Login) String() string { return l.Gateway + "/" + l.ID }

// Validate reports a gateway name or an id that can not be in a subject.
func (l Login) Validate() error {
	if !validGateway(l.Gateway) {
		return fmt.Errorf("events: gateway name %q: want 1 to 32 of a-z, 0-9, '-'", l.Gateway)
	}
	id, err := uuid.Parse(l.ID)
	if err != nil || id.Version() != 7 || id.String() != l.ID {
		return fmt.Errorf("events: login id %q is not a UUIDv7 in canonical form (RFC 9562 section 5.7)", l.ID)
	}
	return nil
}

// Time is the instant in the login's id (RFC 9562 section 5.7, 48 bits of Unix milliseconds). The gateway's clock
// wrote it: identityverifier compares it with the broker's before anybody relies on it.
func (l Login) Time() time.Time {
	id, err := uuid.Parse(l.ID)
	if err != nil {
		return time.Time{}
	}
	ms := int64(id[0])<<40 | int64(id[1])<<32 | int64(id[2])<<24 | int64(id[3])<<16 | int64(id[4])<<8 | int64(id[5])
	return time.UnixMilli(ms)
}

// Subject is the NATS subject of a step of the login; n is the round or the attempt, 0 for steps that have none.
func (l Login) Subject(step Step, n int) string {
	s := "login." + string(step) + "." + l.Gateway + "." + l.ID
	if n > 0 {
		s += "." + strconv.Itoa(n)
	}
	return s
}

// EventID is the CloudEvents id of a step of the login: "<gateway>/<id>/<step>[/<n>]".
func (l Login) EventID(step Step, n int) string {
	s := l.Gateway + "/" + l.ID + "/" + string(step)
	if n > 0 {
		s += "/" + strconv.Itoa(n)
	}
	return s
}

// ParseSubject takes a subject of the LOGIN stream apart.
func ParseSubject(subject string) (login Login, step Step, n int, err error) {
	tokens := strings.Split(subject, ".")
	if len(tokens) < 4 || len(tokens) > 5 || tokens[0] != "login" {
		return Login{}, "", 0, fmt.Errorf("events: %q is not login.<step>.<gateway>.<login>[.<n>]", subject)
	}
	step, login = Step(tokens[1]), Login{Gateway: tokens[2], ID: tokens[3]}
	row, ok := Steps[step]
	if !ok {
		return Login{}, "", 0, fmt.Errorf("events: unknown step %q", step)
	}
	if err := login.Validate(); err != nil {
		return Login{}, "", 0, err
	}
	if len(tokens) == 5 {
		if n, err = strconv.Atoi(tokens[4]); err != nil || strconv.Itoa(n) != tokens[4] || n == 0 {
			return Login{}, "", 0, fmt.Errorf("events: %q is not a round or an attempt", tokens[4])
		}
	}
	if (row.Max == 0) != (n == 0) || n > row.Max {
		return Login{}, "", 0, fmt.Errorf("events: step %s takes numbers up to %d, subject has %d", step, row.Max, n)
	}
	return login, step, n, nil
}

// GatewayWorker is the name under which gateways stand in [Steps]; on the bus it is followed by "/<gateway>".
const GatewayWorker = "gateway"

// A StepRow is what is fixed about a step.
type StepRow struct {
	Max  int         // highest round or attempt; 0 when the subject has no number
	By   []string    // workers that may publish it
	Data func() Data // a new, empty value of its data
}

// workers are the names that may stand in a StepRow. The workers' own packages carry the same names.
const (
	identityverifier = "identityverifier"
	riskassessor     = "riskassessor"
	sessionissuer    = "sessionissuer"
	smsdispatcher    = "smsdispatcher"
	pushnotifier     = "pushnotifier"
	otpvalidator     = "otpvalidator"
	recorder         = "recorder"
)

// Steps is the table of the steps. Subjects, NATS permissions, the check of an event's source, schemas and documents follow from it.
var Steps = map[Step]StepRow{
	StepRequested:   {0, []string{GatewayWorker}, func() Data { return new(Requested) }},
	StepIdentified:  {0, []string{identityverifier}, func() Data { return new(Identified) }},
	StepRefused:     {0, []string{identityverifier}, func() Data { return new(Refused) }},
	StepAssessed:    {0, []string{riskassessor}, func() Data { return new(Assessed) }},
	StepWanted:      {Rounds, []string{sessionissuer}, func() Data { return new(Wanted) }},
	StepChallenged:  {Rounds, []string{smsdispatcher, pushnotifier, otpvalidator}, func() Data { return new(Challenged) }},
	StepUndelivered: {Rounds, []string{smsdispatcher, pushnotifier}, func() Data { return new(Undelivered) }},
	StepAnswered:    {Attempts, []string{GatewayWorker, pushnotifier}, func() Data { return new(Answered) }},
	StepRejected:    {Attempts, []string{pushnotifier, otpvalidator}, func() Data { return new(Rejected) }},
	StepVerified:    {Rounds, []string{pushnotifier, otpvalidator}, func() Data { return new(Verified) }},
	StepChosen:      {Rounds, []string{GatewayWorker}, func() Data { return new(Chosen) }},
	StepCancelled:   {0, []string{GatewayWorker}, func() Data { return new(Cancelled) }},
	StepLapsed: {0, []string{GatewayWorker, identityverifier, riskassessor, sessionissuer, smsdispatcher, pushnotifier,
		otpvalidator, recorder}, func() Data { return new(Lapsed) }},
	StepClosed: {0, []string{sessionissuer}, func() Data { return new(Closed) }},
}

// Heard lists the steps that a gateway hears of its logins. What the broker has stored of them it says again under
// deliver.<gateway>.<step>.<login>[.<n>].
var Heard = []Step{StepChallenged, StepUndelivered, StepRejected, StepLapsed, StepClosed}

func validGateway(name string) bool {
	if name == "" || len(name) > 32 {
		return false
	}
	for _, c := range []byte(name) {
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' {
			return false
		}
	}
	return true
}
