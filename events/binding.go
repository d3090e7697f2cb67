package events

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	cloudevents "github.com/cloudevents/sdk-go/v2/event"
	"github.com/cloudevents/sdk-go/v2/types"
	"github.com/go-json-experiment/json/jsontext"
	"github.com/nats-io/nats.go"
)

// The NATS protocol binding for CloudEvents: in binary mode an attribute is the header ce-<attribute> and the payload
// is the data; structured mode has a Content-Type that starts with application/cloudevents.
const (
	prefix     = "ce-"
	structured = "application/cloudevents"

	contentType = "Content-Type"
)

// headers are the attributes of an event as NATS headers. The values share one array.
type headers struct {
	header nats.Header
	values []string
}

// most is how many attributes an event of a login has; one with more has a longer array.
const most = 12

func newHeaders() *headers {
	return &headers{make(nats.Header, most), make([]string, 0, most)}
}

func (h *headers) set(name, value string) {
	if value == "" {
		return
	}
	h.values = append(h.values, escape(value))
	n := len(h.values)
	h.header[prefix+name] = h.values[n-1 : n : n]
}

// WriteMessage puts any CloudEvent into a NATS message in binary mode.
func WriteMessage(subject string, ce cloudevents.Event) *nats.Msg {
	h := newHeaders()
	h.set("specversion", ce.SpecVersion())
	h.set("id", ce.ID())
	h.set("source", ce.Source())
	h.set("type", ce.Type())
	h.set("subject", ce.Subject())
	h.set("datacontenttype", ce.DataContentType())
	h.set("dataschema", ce.DataSchema())
	if t := ce.Time(); !t.IsZero() {
		h.set("time", t.UTC().Format(time.RFC3339Nano))
	}
	for name, value := range ce.Extensions() {
		if text, err := types.Format(value); err == nil {
			h.set(name, text)
		}
	}
	return &nats.Msg{Subject: subject, Header: h.header, Data: ce.Data()}
}

// ReadMessage takes a CloudEvent from a NATS message in binary or structured mode. Header names may have any case.
func ReadMessage(header nats.Header, data []byte) (cloudevents.Event, error) {
	if !binaryMode(header) {
		return readStructured(data)
	}
	ctx, version := &cloudevents.EventContextV1{}, ""
	err := eachAttribute(header, func(name, value string) error {
		if name == "specversion" {
			version = value
			return nil
		}
		return setAttribute(ctx, name, value)
	})
	if err != nil {
		return cloudevents.Event{}, err
	}
	return cloudevents.Event{Context: ctx, DataEncoded: data}, required(version, ctx.ID, ctx.Source.String(), ctx.Type)
}

// binaryMode tells that a message is not in structured mode.
func binaryMode(header nats.Header) bool {
	for key, values := range header {
		if len(key) == len(contentType) && strings.EqualFold(key, contentType) && len(values) == 1 &&
			strings.HasPrefix(strings.ToLower(values[0]), structured) {
			return false
		}
	}
	return true
}

// eachAttribute calls set for each attribute in a header.
func eachAttribute(header nats.Header, set func(name, value string) error) error {
	for key, values := range header {
		if len(key) <= len(prefix) || !strings.EqualFold(key[:len(prefix)], prefix) {
			continue
		}
		name := strings.ToLower(key[len(prefix):])
		if name != key[len(prefix):] && standsTwice(header, key) {
			return invalid(fmt.Errorf("attribute %q stands twice", name))
		}
		if len(values) != 1 {
			return invalid(fmt.Errorf("attribute %q stands %d times", name, len(values)))
		}
		value, err := unescape(values[0])
		if err != nil {
			return invalid(fmt.Errorf("attribute %q is not percent-encoded UTF-8", name))
		}
		if err := set(name, value); err != nil {
			return invalid(fmt.Errorf("attribute %q: %w", name, err))
		}
	}
	return nil
}

// standsTwice tells whether a header has a key in another case too.
func standsTwice(header nats.Header, key string) bool {
	for other := range header {
		if other != key && strings.EqualFold(other, key) {
			return true
		}
	}
	return false
}

func readStructured(data []byte) (cloudevents.Event, error) {
	if len(data) > 2*MaxData {
		return cloudevents.Event{}, invalid(fmt.Errorf("structured event of %d bytes, at most %d", len(data), 2*MaxData))
	}
	if !jsontext.Value(data).IsValid() { // which the SDK is lenient about
		return cloudevents.Event{}, invalid(errors.New("structured event: not JSON in UTF-8, or a name stands twice in an object"))
	}
	var ce cloudevents.Event
	if err := json.Unmarshal(data, &ce); err != nil {
		return cloudevents.Event{}, invalid(errors.New("structured event: not a CloudEvent in JSON"))
	}
	ctx, ok := ce.Context.(*cloudevents.EventContextV1)
	if !ok {
		return cloudevents.Event{}, invalid(fmt.Errorf("specversion %q, want %q", ce.SpecVersion(), cloudevents.CloudEventsVersionV1))
	}
	return ce, required(ctx.GetSpecVersion(), ctx.ID, ctx.Source.String(), ctx.Type)
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

func required(version, id, source, kind string) error {
	switch {
	case version == "" && id == "":
		return invalid(errors.New("not a CloudEvent: neither ce- headers nor Content-Type " + structured))
	case version != cloudevents.CloudEventsVersionV1:
		return invalid(fmt.Errorf("specversion %q, want %q", version, cloudevents.CloudEventsVersionV1))
	case id == "":
		return invalid(errors.New("attribute id is missing"))
	case source == "":
		return invalid(errors.New("attribute source is missing"))
	case kind == "":
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
