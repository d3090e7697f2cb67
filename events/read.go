package events

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
)

// ErrNotFound says that there is no such event, key or login, or that its time in the stream is over.
var ErrNotFound = errors.New("events: not found")

// directGet reads the last message of a subject by JetStream's direct get (ADR-31), the one form of it that permissions
// can bound to single subjects. Any replica may answer, so the answer may be a moment old.
func directGet(ctx context.Context, nc *nats.Conn, stream, subject string) (*nats.Msg, error) {
	get := "$JS.API.DIRECT.GET." + stream + "." + subject
	msg, err := nc.RequestWithContext(ctx, get, nil)
	if err != nil && denied(nc, get) {
		err = ErrDenied
	}
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", subject, err)
	}
	if BrokerHeader(msg.Header, "Nats-Stream") != "" { // it is a message, whatever status its publisher wrote into it
		return msg, original(subject, msg.Header)
	}
	switch status := msg.Header.Get("Status"); status {
	case "404":
		return nil, fmt.Errorf("read %s: %w", subject, ErrNotFound)
	default:
		return nil, fmt.Errorf("read %s: status %s %s", subject, status, msg.Header.Get("Description"))
	}
}

// Get reads one event of a login from the stream LOGIN, or returns [ErrNotFound].
func Get(ctx context.Context, nc *nats.Conn, login Login, step Step, n int) (*Event, error) {
	subject := login.Subject(step, n)
	msg, err := directGet(ctx, nc, "LOGIN", subject)
	if err != nil {
		return nil, err
	}
	e, err := readStored(subject, msg.Header, msg.Data)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", subject, err)
	}
	return e, nil
}

// BrokerHeader is what the broker says, in one of its headers, of where a message is stored: the last value, since it appends its own to whatever the publisher
// wrote there.
func BrokerHeader(header nats.Header, name string) string {
	values := header[name]
	if len(values) == 0 {
		return ""
	}
	return values[len(values)-1]
}

// readStored takes an event from a message to which the broker has added the event's place in the stream: the answer to
// a direct get, or what a stream says again.
func readStored(subject string, header nats.Header, data []byte) (*Event, error) {
	e, err := Read(subject, header, data)
	if err != nil {
		return nil, err
	}
	if e.Sequence, err = strconv.ParseUint(BrokerHeader(header, "Nats-Sequence"), 10, 64); err != nil {
		return nil, fmt.Errorf("header Nats-Sequence: %w", err)
	}
	if e.Stored, err = time.Parse(time.RFC3339Nano, BrokerHeader(header, "Nats-Time-Stamp")); err != nil {
		return nil, fmt.Errorf("header Nats-Time-Stamp: %w", err)
	}
	return e, nil
}

// read reads the events of a login that are not known yet: all at once if it was challenged, else in two waves, of which
// most logins need the first only.
func (c *Client) read(ctx context.Context, known State) ([]*Event, error) {
	challenged := known.Round() > 0
	found, err := c.readAll(ctx, known.Login, known.unread())
	for _, e := range found {
		known.Add(e)
	}
	if err != nil || challenged || known.Round() == 0 {
		return found, err
	}
	more, err := c.readAll(ctx, known.Login, known.unread())
	return append(found, more...), err
}

// readAll reads events side by side; those that are not there are left out.
func (c *Client) readAll(ctx context.Context, login Login, places []address) ([]*Event, error) {
	events := make([]*Event, len(places))
	failed := make([]error, len(places))
	var wg sync.WaitGroup
	for i, at := range places {
		wg.Go(func() { events[i], failed[i] = Get(ctx, c.nc, login, at.step, at.n) })
	}
	wg.Wait()
	for _, err := range failed {
		if err != nil && !errors.Is(err, ErrNotFound) {
			return nil, err
		}
	}
	return slices.DeleteFunc(events, func(e *Event) bool { return e == nil }), nil
}
