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
	switch status := msg.Header.Get("Status"); status {
	case "":
		return msg, nil
	case "404":
		return nil, fmt.Errorf("read %s: %w", subject, ErrNotFound)
	default:
		return nil, fmt.Errorf("read %s: status %s %s", subject, status, msg.Header.Get("Description"))
	}
}

// event reads one event of a login.
func (c *Client) event(ctx context.Context, login Login, at address) (*Event, error) {
	subject := login.Subject(at.step, at.n)
	msg, err := directGet(ctx, c.nc, c.options.Stream, subject)
	if err != nil {
		return nil, err
	}
	e, err := Read(subject, msg.Header, msg.Data)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", subject, err)
	}
	e.Sequence, err = strconv.ParseUint(msg.Header.Get("Nats-Sequence"), 10, 64)
	if err != nil {
		return nil, fmt.Errorf("read %s: header Nats-Sequence: %w", subject, err)
	}
	e.Stored, err = time.Parse(time.RFC3339Nano, msg.Header.Get("Nats-Time-Stamp"))
	if err != nil {
		return nil, fmt.Errorf("read %s: header Nats-Time-Stamp: %w", subject, err)
	}
	return e, nil
}

// read reads what the stream has of a login beyond what is known, in two waves: most logins have nothing in the second.
func (c *Client) read(ctx context.Context, known State) ([]*Event, error) {
	found, err := c.readAll(ctx, known.Login, opening)
	for _, e := range found {
		known.Add(e)
	}
	if err != nil || known.Round() == 0 {
		return found, err
	}
	more, err := c.readAll(ctx, known.Login, known.missing())
	return append(found, more...), err
}

// readAll reads events side by side; those that are not there are left out.
func (c *Client) readAll(ctx context.Context, login Login, places []address) ([]*Event, error) {
	events := make([]*Event, len(places))
	failed := make([]error, len(places))
	var wg sync.WaitGroup
	for i, at := range places {
		wg.Go(func() { events[i], failed[i] = c.event(ctx, login, at) })
	}
	wg.Wait()
	for _, err := range failed {
		if err != nil && !errors.Is(err, ErrNotFound) {
			return nil, err
		}
	}
	return slices.DeleteFunc(events, func(e *Event) bool { return e == nil }), nil
}
