package events

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	cloudevents "github.com/cloudevents/sdk-go/v2/event"
	"github.com/cloudevents/sdk-go/v2/types"
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

// New makes an event of a login for [Event.Message]. What the step's data leaves open (number, cause, expiry) is set on the result.
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
	if err := e.check(); err != nil {
		return cloudevents.Event{}, err
	}
	data, err := json.Marshal(e.Data)
	if err != nil {
		return cloudevents.Event{}, fmt.Errorf("events: encode %s: %w", e.ID(), err)
	}
	if len(data) > MaxData {
		return cloudevents.Event{}, fmt.Errorf("events: encode %s: %w: %d bytes of data, at most %d", e.ID(), ErrInvalid, len(data), MaxData)
	}
	subject, contentType := e.Login.String(), cloudevents.ApplicationJSON
	ctx := &cloudevents.EventContextV1{
		ID: e.ID(), Source: types.URIRef{URL: url.URL{Path: e.By}}, Type: EventType(e.Step), Subject: &subject,
		DataContentType: &contentType, Time: &types.Timestamp{Time: e.Time},
	}
	extensions := make(map[string]any, 4)
	for name, value := range map[string]string{"causationid": e.Cause, "traceparent": e.Trace, "nonce": e.Nonce} {
		if value != "" {
			extensions[name] = value
		}
	}
	if !e.Expires.IsZero() {
		extensions["expirytime"] = e.Expires.UTC().Format(time.RFC3339Nano)
	}
	ctx.Extensions = extensions
	return cloudevents.Event{Context: ctx, DataEncoded: data}, nil
}

// Message is the event as a NATS message in binary mode.
func (e *Event) Message() (*nats.Msg, error) {
	ce, err := e.CloudEvent()
	if err != nil {
		return nil, err
	}
	return WriteMessage(e.Subject(), ce), nil
}

// Read takes an event from a message of the LOGIN stream. Errors wrap [ErrInvalid] and say what is wrong and where.
func Read(subject string, header nats.Header, data []byte) (*Event, error) {
	login, step, n, err := ParseSubject(subject)
	if err != nil {
		return nil, invalid(err)
	}
	e, err := ReadArchived(header, data)
	if err != nil {
		return nil, err
	}
	if e.Login != login || e.Step != step || e.N != n {
		return nil, invalid(fmt.Errorf("id %q disagrees with subject %q", e.ID(), subject))
	}
	return e, nil
}

// ReadArchived takes an event from a message whose subject does not tell the login, as in the ARCHIVE stream.
func ReadArchived(header nats.Header, data []byte) (*Event, error) {
	ce, err := ReadMessage(header, data)
	if err != nil {
		return nil, err
	}
	return FromCloudEvent(ce)
}

// FromCloudEvent takes an event from the SDK's form and checks it against its schema.
func FromCloudEvent(ce cloudevents.Event) (*Event, error) {
	parts := strings.Split(ce.ID(), "/")
	if len(parts) < 3 || len(parts) > 4 {
		return nil, invalid(fmt.Errorf("id %q is not <gateway>/<login>/<step>[/<n>]", ce.ID()))
	}
	login, step, n, err := ParseSubject("login." + parts[2] + "." + parts[0] + "." + strings.Join(append(parts[1:2:2], parts[3:]...), "."))
	if err != nil {
		return nil, invalid(fmt.Errorf("id %q: %w", ce.ID(), err))
	}
	switch {
	case ce.Type() != EventType(step):
		return nil, invalid(fmt.Errorf("type %q, want %q", ce.Type(), EventType(step)))
	case ce.Subject() != login.String():
		return nil, invalid(fmt.Errorf("subject attribute %q, want %q", ce.Subject(), login))
	case ce.DataContentType() != "" && mediaType(ce.DataContentType()) != cloudevents.ApplicationJSON:
		return nil, invalid(fmt.Errorf("datacontenttype %q, want %q", ce.DataContentType(), cloudevents.ApplicationJSON))
	case len(ce.Data()) > MaxData:
		return nil, invalid(fmt.Errorf("%d bytes of data, at most %d", len(ce.Data()), MaxData))
	case !utf8.Valid(ce.Data()):
		return nil, invalid(errors.New("data is not UTF-8"))
	}
	e := &Event{Login: login, Step: step, N: n, Data: Steps[step].Data(), By: ce.Source(), Time: ce.Time()}
	if err := json.Unmarshal(ce.Data(), e.Data); err != nil {
		return nil, invalid(fmt.Errorf("data: %w", unquoted(err)))
	}
	for name, value := range ce.Extensions() {
		text, _ := value.(string)
		switch name {
		case "causationid":
			e.Cause = text
		case "traceparent":
			e.Trace = text
		case "nonce":
			e.Nonce = text
		case "expirytime":
			if e.Expires, err = extensionTime(value); err != nil {
				return nil, invalid(fmt.Errorf("expirytime: %w", err))
			}
		}
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
	if (e.Step == StepAnswered || e.Step == StepChosen) && (len(e.Nonce) < 16 || len(e.Nonce) > 64) {
		return invalid(errors.New("extension nonce: want 16 to 64 characters"))
	}
	if err := e.Data.Validate(); err != nil {
		return invalid(fmt.Errorf("data: %s", strings.ReplaceAll(err.Error(), "\n", "; ")))
	}
	return nil
}

func invalid(err error) error { return fmt.Errorf("%w: %w", ErrInvalid, err) }

// unquoted keeps the place of a JSON error and drops what stood there, since that may be a secret in the wrong field.
func unquoted(err error) error {
	if wrong, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
		return fmt.Errorf("field %q has the wrong type at byte %d", wrong.Field, wrong.Offset)
	}
	if syntax, ok := errors.AsType[*json.SyntaxError](err); ok {
		return fmt.Errorf("not JSON at byte %d", syntax.Offset)
	}
	return errors.New("a field has the wrong form")
}

func extensionTime(value any) (time.Time, error) {
	switch v := value.(type) {
	case types.Timestamp:
		return v.Time, nil
	case string:
		return types.ParseTime(v)
	default:
		return time.Time{}, fmt.Errorf("%T is not a timestamp", value)
	}
}

// The NATS protocol binding for CloudEvents: in binary mode an attribute is the header ce-<attribute> and the payload
// is the data; structured mode has a Content-Type that starts with application/cloudevents.
const (
	prefix     = "ce-"
	structured = "application/cloudevents"
)

// WriteMessage puts any CloudEvent into a NATS message in binary mode.
func WriteMessage(subject string, ce cloudevents.Event) *nats.Msg {
	msg := &nats.Msg{Subject: subject, Header: make(nats.Header, 12), Data: ce.Data()}
	set := func(name, value string) {
		if value != "" {
			msg.Header[prefix+name] = []string{escape(value)}
		}
	}
	set("specversion", ce.SpecVersion())
	set("id", ce.ID())
	set("source", ce.Source())
	set("type", ce.Type())
	set("subject", ce.Subject())
	set("datacontenttype", ce.DataContentType())
	set("dataschema", ce.DataSchema())
	if t := ce.Time(); !t.IsZero() {
		set("time", t.UTC().Format(time.RFC3339Nano))
	}
	for name, value := range ce.Extensions() {
		if text, err := types.Format(value); err == nil {
			set(name, text)
		}
	}
	return msg
}

// ReadMessage takes a CloudEvent from a NATS message in binary or structured mode. Header names may have any case.
func ReadMessage(header nats.Header, data []byte) (cloudevents.Event, error) {
	ctx := &cloudevents.EventContextV1{}
	version := ""
	for key, values := range header {
		name := strings.ToLower(key)
		if name == "content-type" && len(values) == 1 && strings.HasPrefix(strings.ToLower(values[0]), structured) {
			return readStructured(data)
		}
		name, ok := strings.CutPrefix(name, prefix)
		if !ok {
			continue
		}
		if len(values) != 1 {
			return cloudevents.Event{}, invalid(fmt.Errorf("attribute %q stands %d times", name, len(values)))
		}
		value, err := unescape(values[0])
		if err != nil {
			return cloudevents.Event{}, invalid(fmt.Errorf("attribute %q is not percent-encoded UTF-8", name))
		}
		if name == "specversion" {
			version = value
		} else if err := setAttribute(ctx, name, value); err != nil {
			return cloudevents.Event{}, invalid(fmt.Errorf("attribute %q: %w", name, err))
		}
	}
	if version == "" && ctx.ID == "" {
		return cloudevents.Event{}, invalid(errors.New("not a CloudEvent: neither ce- headers nor Content-Type " + structured))
	}
	if version != cloudevents.CloudEventsVersionV1 {
		return cloudevents.Event{}, invalid(fmt.Errorf("specversion %q, want %q", version, cloudevents.CloudEventsVersionV1))
	}
	return cloudevents.Event{Context: ctx, DataEncoded: data}, required(ctx)
}

func readStructured(data []byte) (cloudevents.Event, error) {
	if len(data) > 2*MaxData || !utf8.Valid(data) {
		return cloudevents.Event{}, invalid(errors.New("structured event is too large or not UTF-8"))
	}
	var ce cloudevents.Event
	if err := json.Unmarshal(data, &ce); err != nil {
		return cloudevents.Event{}, invalid(errors.New("structured event: not a CloudEvent in JSON"))
	}
	ctx, ok := ce.Context.(*cloudevents.EventContextV1)
	if !ok {
		return cloudevents.Event{}, invalid(fmt.Errorf("specversion %q, want %q", ce.SpecVersion(), cloudevents.CloudEventsVersionV1))
	}
	return ce, required(ctx)
}

func setAttribute(ctx *cloudevents.EventContextV1, name, value string) (err error) {
	switch name {
	case "id":
		ctx.ID = value
	case "source":
		source := types.ParseURIRef(value)
		if source == nil {
			return errors.New("not a URI reference")
		}
		ctx.Source = *source
	case "type":
		ctx.Type = value
	case "subject":
		ctx.Subject = &value
	case "datacontenttype":
		ctx.DataContentType = &value
	case "dataschema":
		if ctx.DataSchema = types.ParseURI(value); ctx.DataSchema == nil {
			return errors.New("not a URI")
		}
	case "time":
		if ctx.Time, err = types.ParseTimestamp(value); err != nil {
			return errors.New("not an RFC 3339 time")
		}
	default:
		if ctx.Extensions == nil {
			ctx.Extensions = make(map[string]any, 4)
		}
		ctx.Extensions[name] = value
	}
	return nil
}

func required(ctx *cloudevents.EventContextV1) error {
	switch {
	case ctx.ID == "":
		return invalid(errors.New("attribute id is missing"))
	case ctx.Source.String() == "":
		return invalid(errors.New("attribute source is missing"))
	case ctx.Type == "":
		return invalid(errors.New("attribute type is missing"))
	}
	return nil
}

// escape percent-encodes as the HTTP binding does (3.1.3.2): space, quote, percent and what is not printable ASCII.
func escape(s string) string {
	plain := func(c byte) bool { return c > ' ' && c < 0x7f && c != '"' && c != '%' }
	clean := true
	for i := range len(s) {
		clean = clean && plain(s[i])
	}
	if clean {
		return s
	}
	out := make([]byte, 0, len(s)+16)
	for i := range len(s) {
		if c := s[i]; plain(c) {
			out = append(out, c)
		} else {
			out = append(out, '%')
			if c < 16 {
				out = append(out, '0')
			}
			out = append(out, strings.ToUpper(strconv.FormatUint(uint64(c), 16))...)
		}
	}
	return string(out)
}

func unescape(s string) (string, error) {
	if strings.IndexByte(s, '%') >= 0 {
		var err error
		if s, err = url.PathUnescape(s); err != nil {
			return "", err
		}
	}
	if !utf8.ValidString(s) {
		return "", errors.New("not UTF-8")
	}
	return s, nil
}
