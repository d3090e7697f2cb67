package events

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	cloudevents "github.com/cloudevents/sdk-go/v2/event"
	"github.com/cloudevents/sdk-go/v2/types"
	strict "github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"github.com/nats-io/nats.go"
)

// MaxData bounds the data of an event, in bytes: what every CloudEvents consumer must be able to take (specification
// 1.0.2, size limits). LOGIN takes messages of 80 KiB, headers included.
const MaxData = 64 << 10

// ErrInvalid marks an event that no repetition can make right: it breaks the format, the schema, or disagrees with its subject.
var ErrInvalid = errors.New("invalid event")

// An Event is one event of a login.
type Event struct {
	Login Login
	Step  Step
	N     int    // round or attempt; 0 for steps that have none
	Data  Data   // what Steps[Step].Data makes
	By    string // who says so: a worker's name, or "gateway/<name>"

	Time    time.Time // the publisher's clock
	Expires time.Time // when the login's deadline is, if the publisher knew it (extension expirytime)
	Cause   string    // id of the event that led to this one (extension causationid)
	Trace   string    // W3C traceparent
	Nonce   string    // tells two publishers of one subject apart; required with answered and chosen

	// Known of events that were read from a stream only.
	Stored   time.Time // the broker's timestamp
	Sequence uint64    // the place in the stream
}

// New makes an event of a login; n is the round or the attempt, 0 for steps that have none. Who publishes it sets By, Time and, where
// there are any, Expires, Cause, Trace and Nonce.
func New(login Login, n int, data Data) *Event {
	return &Event{Login: login, Step: data.Step(), N: n, Data: data}
}

// ID is the event's id, unique for ever: "<gateway>/<login>/<step>[/<n>]".
func (e *Event) ID() string { return e.Login.EventID(e.Step, e.N) }

// Subject is the event's NATS subject.
func (e *Event) Subject() string { return e.Login.Subject(e.Step, e.N) }

// EventType is the CloudEvents type of a step: "sekisho.login.<step>.v1".
func EventType(step Step) string { return "sekisho.login." + string(step) + ".v1" }

// CloudEvent is the event in the SDK's form.
func (e *Event) CloudEvent() (cloudevents.Event, error) {
	data, err := e.encode()
	if err != nil {
		return cloudevents.Event{}, err
	}
	ce := cloudevents.Event{Context: &cloudevents.EventContextV1{}, DataEncoded: data}
	e.attributes(func(name, value string) {
		if name != "specversion" && value != "" { // the context has its own
			err = errors.Join(err, setAttribute(ce.Context.(*cloudevents.EventContextV1), name, value))
		}
	})
	return ce, err
}

// Message is the event as a NATS message in binary mode. An ending carries the condition under which the stream takes it.
func (e *Event) Message() (*nats.Msg, error) {
	data, err := e.encode()
	if err != nil {
		return nil, err
	}
	h := newHeaders()
	e.attributes(h.set)
	msg := &nats.Msg{Subject: e.Subject(), Header: h.header, Data: data}
	guard(msg, e)
	return msg, nil
}

// encode checks the event and gives its data as JSON.
func (e *Event) encode() ([]byte, error) {
	if err := e.check(); err != nil {
		return nil, err
	}
	data, err := json.Marshal(e.Data)
	if err != nil {
		return nil, fmt.Errorf("events: encode %s: %w", e.ID(), err)
	}
	if len(data) > MaxData {
		return nil, fmt.Errorf("events: encode %s: %w: %d bytes of data, at most %d", e.ID(), ErrInvalid, len(data), MaxData)
	}
	return data, nil
}

// attributes tells the event's attributes; one that is empty is not there.
func (e *Event) attributes(set func(name, value string)) {
	set("specversion", cloudevents.CloudEventsVersionV1)
	set("id", e.ID())
	set("source", e.By)
	set("type", EventType(e.Step))
	set("subject", e.Login.String())
	set("datacontenttype", cloudevents.ApplicationJSON)
	if !e.Time.IsZero() {
		set("time", e.Time.UTC().Format(time.RFC3339Nano))
	}
	if !e.Expires.IsZero() {
		set("expirytime", e.Expires.UTC().Format(time.RFC3339Nano))
	}
	set("causationid", e.Cause)
	set("traceparent", e.Trace)
	set("nonce", e.Nonce)
}

// Read takes an event from a message of the LOGIN stream. Errors wrap [ErrInvalid] and say what is wrong and where.
func Read(subject string, header nats.Header, data []byte) (*Event, error) {
	login, step, n, err := ParseSubject(subject)
	if err != nil {
		return nil, invalid(err)
	}
	if err := original(subject, header); err != nil {
		return nil, err
	}
	a, data, err := attributesOf(header, data)
	if err != nil {
		return nil, err
	}
	if a.id != login.EventID(step, n) {
		return nil, invalid(fmt.Errorf("id %q disagrees with subject %q", a.id, subject))
	}
	return a.event(login, step, n, data)
}

// original refuses a message that is the broker's answer to somebody who asked for one of a stream, and had the answer sent to this
// subject: who publishes it is not checked then. The broker tells in a header where it found the message.
func original(subject string, header nats.Header) error {
	for _, found := range header["Nats-Subject"] {
		if found != subject {
			return invalid(fmt.Errorf("a copy of %q on subject %q", found, subject))
		}
	}
	return nil
}

// ReadArchived takes an event from a message whose subject does not tell the login, as in the ARCHIVE stream.
func ReadArchived(header nats.Header, data []byte) (*Event, error) {
	a, data, err := attributesOf(header, data)
	if err != nil {
		return nil, err
	}
	return a.identified(data)
}

// FromCloudEvent takes an event from the SDK's form and checks it against its schema.
func FromCloudEvent(ce cloudevents.Event) (*Event, error) {
	a, err := fromSDK(ce)
	if err != nil {
		return nil, err
	}
	return a.identified(ce.Data())
}

// attributes are the CloudEvents attributes that events of logins have. They are not read by way of the SDK's form, which would
// cost as much as reading the data: an event is read some five times on its way.
type attributes struct {
	specVersion, id, source, kind, subject, contentType string
	time, expires                                       time.Time
	cause, trace, nonce                                 string
}

// attributesOf reads the attributes of a message in either mode, and returns the data beside them.
func attributesOf(header nats.Header, data []byte) (*attributes, []byte, error) {
	if !binaryMode(header) {
		ce, err := ReadMessage(header, data)
		if err != nil {
			return nil, nil, err
		}
		a, err := fromSDK(ce)
		return a, ce.Data(), err
	}
	a := &attributes{}
	if err := eachAttribute(header, a.set); err != nil {
		return nil, nil, err
	}
	if err := required(a.specVersion, a.id, a.source, a.kind); err != nil {
		return nil, nil, err
	}
	return a, data, nil
}

func (a *attributes) set(name, value string) (err error) {
	switch name {
	case "specversion":
		a.specVersion = value
	case "id":
		a.id = value
	case "source":
		a.source = value
	case "type":
		a.kind = value
	case "subject":
		a.subject = value
	case "datacontenttype":
		a.contentType = value
	case "time":
		a.time, err = types.ParseTime(value)
	case "expirytime":
		a.expires, err = types.ParseTime(value)
	case "causationid":
		a.cause = value
	case "traceparent":
		a.trace = value
	case "nonce":
		a.nonce = value
	}
	if err != nil {
		return errors.New("not an RFC 3339 time")
	}
	return nil
}

func fromSDK(ce cloudevents.Event) (*attributes, error) {
	a := &attributes{id: ce.ID(), source: ce.Source(), kind: ce.Type(), subject: ce.Subject(), contentType: ce.DataContentType(), time: ce.Time()}
	for name, value := range ce.Extensions() {
		text, err := types.Format(value) // the SDK has made a time of what looked like one
		if err == nil && (name == "causationid" || name == "traceparent" || name == "nonce" || name == "expirytime") {
			err = a.set(name, text)
		}
		if err != nil {
			return nil, invalid(fmt.Errorf("attribute %q: %w", name, err))
		}
	}
	return a, nil
}

// identified is the event that the id names.
func (a *attributes) identified(data []byte) (*Event, error) {
	parts := strings.Split(a.id, "/")
	if len(parts) < 3 || len(parts) > 4 {
		return nil, invalid(fmt.Errorf("id %q is not <gateway>/<login>/<step>[/<n>]", a.id))
	}
	login, step, n, err := ParseSubject("login." + parts[2] + "." + parts[0] + "." + strings.Join(append(parts[1:2:2], parts[3:]...), "."))
	if err != nil {
		return nil, invalid(fmt.Errorf("id %q: %w", a.id, err))
	}
	return a.event(login, step, n, data)
}

// event makes an event of a login of the attributes and the data, and checks it.
func (a *attributes) event(login Login, step Step, n int, data []byte) (*Event, error) {
	switch {
	case a.kind != EventType(step):
		return nil, invalid(fmt.Errorf("type %q, want %q", a.kind, EventType(step)))
	case a.subject != login.String():
		return nil, invalid(fmt.Errorf("subject attribute %q, want %q", a.subject, login))
	case a.contentType != "" && a.contentType != cloudevents.ApplicationJSON && mediaType(a.contentType) != cloudevents.ApplicationJSON:
		return nil, invalid(fmt.Errorf("datacontenttype %q, want %q", a.contentType, cloudevents.ApplicationJSON))
	case len(data) > MaxData:
		return nil, invalid(fmt.Errorf("%d bytes of data, at most %d", len(data), MaxData))
	}
	e := &Event{Login: login, Step: step, N: n, Data: Steps[step].Data(), By: a.source, Time: a.time,
		Expires: a.expires, Cause: a.cause, Trace: a.trace, Nonce: a.nonce}
	if err := decode(data, e.Data); err != nil {
		return nil, invalid(fmt.Errorf("data: %w", err))
	}
	return e, e.check()
}

// mediaType is a content type without its parameters: some SDKs add a charset, which JSON does not have (RFC 8259 section 11).
func mediaType(contentType string) string {
	name, _, _ := strings.Cut(contentType, ";")
	return strings.ToLower(strings.TrimSpace(name))
}

// check reports what publishers and readers must agree on.
func (e *Event) check() error {
	row, ok := Steps[e.Step]
	if !ok {
		return invalid(fmt.Errorf("unknown step %q", e.Step))
	}
	if err := e.Login.Validate(); err != nil {
		return invalid(err)
	}
	if (row.Max == 0) != (e.N == 0) || e.N < 0 || e.N > row.Max {
		return invalid(fmt.Errorf("step %s takes numbers up to %d, not %d", e.Step, row.Max, e.N))
	}
	if e.Data == nil || e.Data.Step() != e.Step {
		return invalid(fmt.Errorf("data is not of step %s", e.Step))
	}
	by := e.By
	if by == GatewayWorker+"/"+e.Login.Gateway {
		by = GatewayWorker
	}
	if !slices.Contains(row.By, by) || e.By == GatewayWorker {
		return invalid(fmt.Errorf("source %q may not publish %s of %s", e.By, e.Step, e.Login))
	}
	if answer, ok := e.Data.(*Answered); ok && answer.Code != nil && by != GatewayWorker {
		return invalid(errors.New("a code is typed at a gateway, which is its source"))
	}
	if (e.Step == StepAnswered || e.Step == StepChosen) && (len(e.Nonce) < 16 || len(e.Nonce) > 64) {
		return invalid(errors.New("extension nonce: want 16 to 64 characters"))
	}
	if err := e.Data.Validate(); err != nil {
		return invalid(fmt.Errorf("data: %s", strings.ReplaceAll(err.Error(), "\n", "; ")))
	}
	return nil
}

func invalid(err error) error { return fmt.Errorf("%w: %w", ErrInvalid, err) }

// decode reads JSON so strictly that no two readers can disagree on what it says: names are case-sensitive, and duplicate names and
// invalid UTF-8 are refused (RFC 8259 sections 4 and 8.1 leave them to the reader). Unknown fields are ignored. An error names the place
// and not what stands there, which may be a secret in the wrong field.
func decode(data []byte, dst any) error {
	err := strict.Unmarshal(data, dst)
	if err == nil {
		return nil
	}
	if wrong, ok := errors.AsType[*strict.SemanticError](err); ok {
		return fmt.Errorf("field %q has the wrong type at byte %d", strings.TrimPrefix(string(wrong.JSONPointer), "/"), wrong.ByteOffset)
	}
	if syntax, ok := errors.AsType[*jsontext.SyntacticError](err); ok {
		if errors.Is(err, jsontext.ErrDuplicateName) {
			return fmt.Errorf("a name stands twice in an object at byte %d", syntax.ByteOffset)
		}
		return fmt.Errorf("not JSON in UTF-8 at byte %d", syntax.ByteOffset)
	}
	return errors.New("not JSON in UTF-8")
}
