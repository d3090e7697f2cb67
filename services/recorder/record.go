package recorder

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/sekisho/sekisho/events"
	"github.com/sekisho/sekisho/services/internal/bus"
)

// A line is one line of the audit log. Pointers and data are nil where there is nothing.
type line struct {
	id       string
	stream   string
	sequence uint64
	stored   time.Time
	time     *time.Time
	source   *string
	kind     *string
	about    *string
	gateway  *string
	login    *uuid.UUID
	step     *string
	n        *int
	cause    *string
	trace    *string
	data     []byte // JSON
	problem  *string
}

// record writes a batch. What was written before is passed over, so that a batch may come again.
func (r *recorder) record(ctx context.Context, log *auditLog, batch []bus.Stored) error {
	lines := make([]line, len(batch))
	logins := make(map[events.Login]*login)
	bad := 0
	for i, m := range batch {
		l, err := lineOf(m, logins)
		if err != nil {
			// Kept as far as it is known: one odd event must not stop the rest, and none may be missing.
			l = line{problem: clean(err.Error(), 512), id: fmt.Sprintf("%s/%d/%d", m.Stream, m.Time.UnixNano(), m.Sequence)}
			bad++
		}
		l.stream, l.sequence, l.stored = m.Stream, m.Sequence, m.Time
		lines[i] = l
	}
	if err := log.write(ctx, lines, logins); err != nil {
		return err
	}
	stream := batch[0].Stream
	if stream == bus.StreamArchive {
		r.behind.Store(batch[len(batch)-1].Pending > 0)
	}
	r.rows.WithLabelValues(stream).Add(float64(len(batch)))
	r.batches.WithLabelValues(stream).Observe(float64(len(batch)))
	r.bad.Add(float64(bad))
	return nil
}

func lineOf(m bus.Stored, logins map[events.Login]*login) (line, error) {
	if m.Stream == bus.StreamAccount {
		return accountLine(m)
	}
	subject, err := origin(m)
	if err != nil {
		return line{}, err
	}
	e, err := events.Read(subject, m.Header, m.Data)
	if err != nil {
		return line{}, err
	}
	e.Stored = m.Time
	project(logins, e)
	return loginLine(e)
}

// origin is the subject under which LOGIN took an event. The broker writes it into a header that no publisher can set; the
// attributes alone would be a gateway's word for which login it is.
func origin(m bus.Stored) (string, error) {
	const subject = 4 // of: stream, sequence, filters, transforms, subject
	if fields := strings.Split(m.Header.Get("Nats-Stream-Source"), " "); len(fields) > subject {
		return fields[subject], nil
	}
	return "", errors.New("it did not come from LOGIN")
}

func loginLine(e *events.Event) (line, error) {
	id, err := uuid.Parse(e.Login.ID)
	if err != nil {
		return line{}, err
	}
	data, err := withoutSealed(e.Data)
	if err != nil {
		return line{}, err
	}
	return line{
		id: e.ID(), time: &e.Time, source: clean(e.By, 64), kind: new(events.EventType(e.Step)), about: new(e.Login.String()),
		gateway: &e.Login.Gateway, login: &id, step: new(string(e.Step)), n: &e.N,
		cause: clean(e.Cause, 128), trace: clean(e.Trace, 128), data: data,
	}, nil
}

// accountLine is of events that are not of a login: changes of accounts, alerts.
func accountLine(m bus.Stored) (line, error) {
	ce, err := events.ReadMessage(m.Header, m.Data)
	if err != nil {
		return line{}, err
	}
	l := line{id: *clean(ce.ID(), 128), time: new(ce.Time()), source: clean(ce.Source(), 64), kind: clean(ce.Type(), 128), about: clean(ce.Subject(), 128)}
	if len(ce.Data()) == 0 {
		return l, nil
	}
	var data any
	if err := json.Unmarshal(ce.Data(), &data); err != nil {
		return line{}, errors.New("data is not JSON")
	}
	text, err := json.Marshal(data) // Go's JSON has no broken UTF-8 or UTF-16, which PostgreSQL refuses
	l.data = storable(text)
	return l, err
}

var sealed = reflect.TypeFor[*events.Sealed]()

// withoutSealed is the data as JSON, without what is sealed and without what the schema does not know: neither is for the record.
func withoutSealed(data events.Data) ([]byte, error) {
	from := reflect.ValueOf(data).Elem()
	to := reflect.New(from.Type()).Elem()
	for i := range from.NumField() {
		if from.Field(i).Type() != sealed {
			to.Field(i).Set(from.Field(i))
		}
	}
	text, err := json.Marshal(to.Interface())
	return storable(text), err
}

// storable replaces the one character that JSON may hold and PostgreSQL may not.
func storable(text []byte) []byte {
	return bytes.ReplaceAll(text, []byte(`\u0000`), []byte(`\ufffd`))
}

// clean makes text of a header fit for a column, nil if there is none.
func clean(text string, most int) *string {
	if text == "" {
		return nil
	}
	text = strings.ReplaceAll(strings.ToValidUTF8(text[:min(len(text), most)], "\ufffd"), "\x00", "\ufffd")
	return &text
}
