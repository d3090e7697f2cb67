package bus

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	cloudevents "github.com/cloudevents/sdk-go/v2/event"
	"github.com/google/uuid"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/sekisho/sekisho/events"
)

// answerWait is how long an ack of a publish, or the answer to a read, may take before the request counts as lost and is repeated. An
// election in a cluster takes up to 6.5 s; asking again earlier does no harm.
const answerWait = 3 * time.Second

// ErrNotFound says that an event is not in the stream.
var ErrNotFound = events.ErrNotFound

// complete sets what the runtime owns of an event that a handler made.
func (b *Bus) complete(cause, e *events.Event) {
	e.By, e.Time = b.worker, b.now()
	if cause != nil {
		e.Cause, e.Trace = cause.ID(), cause.Trace
		if e.Expires.IsZero() {
			e.Expires = cause.Expires
		}
	}
}

// Publish stores an event that follows from cause (nil for none). When the subject is taken already, the event that is
// stored is read back, and mine is false: also if it is one's own, whose ack was lost. Who must know compares a nonce. When the login's
// `lapsed` keeps a `closed` out, the error is a [RetryAfter] that wraps [ErrStale]: the history has changed, and with it what follows.
func (b *Bus) Publish(ctx context.Context, cause, e *events.Event) (stored *events.Event, mine bool, err error) {
	b.complete(cause, e)
	mine, err = b.store(ctx, e)
	if err != nil || mine {
		return e, mine, err
	}
	stored, err = b.Event(ctx, e.Login, e.Step, e.N)
	if errors.Is(err, ErrNotFound) { // the other ending is there, or a replica is behind the refusal
		err = RetryAfter(staleWait, fmt.Errorf("%w: %w", ErrStale, err))
	}
	return stored, false, err
}

// Store stores an event that follows from cause, for a handler that has something to do after it that nobody waits for. As with
// events that handlers return, a subject that is taken is fine.
func (b *Bus) Store(ctx context.Context, cause, e *events.Event) error {
	return b.publishAll(ctx, cause, []*events.Event{e})
}

// publishAll stores events. A subject that is taken counts as stored: the same step was done before.
func (b *Bus) publishAll(ctx context.Context, cause *events.Event, out []*events.Event) error {
	if len(out) == 1 {
		b.complete(cause, out[0])
		_, err := b.store(ctx, out[0])
		return err
	}
	results := make(chan error, len(out))
	for _, e := range out {
		b.complete(cause, e)
		go func() {
			_, err := b.store(ctx, e)
			results <- err
		}()
	}
	var errs []error
	for range out {
		errs = append(errs, <-results)
	}
	return errors.Join(errs...)
}

// store publishes an event. mine is false when its subject was taken. Of the two endings of a login, `lapsed` and `closed`, it takes the one that comes first.
func (b *Bus) store(ctx context.Context, e *events.Event) (mine bool, err error) {
	msg, err := e.Message()
	if err != nil {
		return false, Permanent(err)
	}
	err = b.publish(ctx, msg)
	if events.Taken(err) || events.EndedOtherwise(err) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("bus: publish %s: %w", e.ID(), err)
	}
	return true, nil
}

// publish returns nil when the message is stored, the broker's refusal, or the context's error. A publish whose ack did not arrive is
// unknown: it is repeated, and the stream takes it once.
func (b *Bus) publish(ctx context.Context, msg *nats.Msg, opts ...jetstream.PublishOpt) error {
	for {
		future, err := b.js.PublishMsgAsync(msg, opts...)
		if err != nil {
			return err // the connection is closed, or the buffer for a lost one is full
		}
		select {
		case <-future.Ok():
			return nil
		case err = <-future.Err():
		case <-ctx.Done():
			return fmt.Errorf("no ack: %w", ctx.Err())
		}
		if _, refused := errors.AsType[*jetstream.APIError](err); refused {
			return err
		}
		if ctx.Err() != nil {
			return fmt.Errorf("%w: %w", err, ctx.Err())
		}
		select { // no responders: the broker is electing or starting
		case <-time.After(100 * time.Millisecond):
		case <-ctx.Done():
			return fmt.Errorf("%w: %w", err, ctx.Err())
		}
	}
}

// Lapse says that a login has lapsed, for a caller that is not handling one of its events. If that was said before, nothing happens.
func (b *Bus) Lapse(ctx context.Context, login events.Login, reason string) error {
	return b.publishAll(ctx, nil, []*events.Event{events.New(login, 0, &events.Lapsed{Reason: reason})})
}

// timerType is the CloudEvents type of a due deadline.
const timerType = "sekisho.timer.due.v1"

// Schedule asks for the login to be looked at again at an instant. Asking twice keeps one timer.
func (b *Bus) Schedule(ctx context.Context, login events.Login, at time.Time) error {
	tail := "." + login.Gateway + "." + login.ID
	msg := plain("timer.at"+tail, timerType, login.String()+"/timer", b.worker, login.String(), b.now(), nil)
	err := b.publish(ctx, msg, jetstream.WithScheduleAt(at), jetstream.WithScheduleTarget("timer.due"+tail))
	if err != nil {
		return fmt.Errorf("bus: schedule %s: %w", login, err)
	}
	return nil
}

// Revoke signals that the session of a login has been revoked. The record in PostgreSQL comes first.
func (b *Bus) Revoke(ctx context.Context, login events.Login) error {
	msg := plain("session.revoked."+login.Gateway+"."+login.ID, "sekisho.session.revoked.v1", uuid.NewString(), b.worker, login.String(), b.now(), nil)
	if err := b.publish(ctx, msg); err != nil {
		return fmt.Errorf("bus: revoke %s: %w", login, err)
	}
	return nil
}

// An AccountEvent says that an account was changed, or that somebody should look at it.
type AccountEvent struct {
	ID     string // UUIDv7, and the same at each repetition
	Source string // the worker that made the change
	Kind   string
	User   string          // opaque id
	Data   json.RawMessage // holds nothing secret or personal; nil: none
	Time   time.Time       // of the change
}

// Account publishes a change of an account. It fails at once while the bus is away: what is handed over then would be sent when the
// bus is back, once for each time that it was tried.
func (b *Bus) Account(ctx context.Context, e AccountEvent) error {
	if !b.nc.IsConnected() {
		return fmt.Errorf("bus: account.%s: %w", e.Kind, nats.ErrDisconnected)
	}
	return b.record(ctx, "account", e)
}

// AlertOf says that somebody should look at a login. A login has one alert of a kind: an event that is handled again gives the same id
// again. user is the opaque id; data must hold nothing secret or personal.
func (b *Bus) AlertOf(ctx context.Context, login events.Login, kind, user string, data any) error {
	body, err := json.Marshal(data)
	if err != nil {
		return fmt.Errorf("bus: alert.%s: %w", kind, err)
	}
	return b.record(ctx, "alert", AccountEvent{
		ID: login.String() + "/alert/" + kind, Source: b.worker, Kind: kind, User: user, Data: body, Time: b.now(),
	})
}

// record stores an event of the stream ACCOUNT; family is "account" or "alert".
func (b *Bus) record(ctx context.Context, family string, e AccountEvent) error {
	msg := plain(family+"."+e.Kind+"."+e.User, "sekisho."+family+"."+e.Kind+".v1", e.ID, e.Source, e.User, e.Time, e.Data)
	if err := b.publish(ctx, msg); err != nil {
		return fmt.Errorf("bus: %s.%s: %w", family, e.Kind, err)
	}
	return nil
}

// plain is a CloudEvent that is not a step of a login.
func plain(subject, kind, id, source, about string, at time.Time, data []byte) *nats.Msg {
	ce := cloudevents.New(cloudevents.CloudEventsVersionV1)
	ce.SetID(id)
	ce.SetSource(source)
	ce.SetType(kind)
	ce.SetSubject(about)
	ce.SetTime(at)
	if data != nil {
		ce.SetDataContentType(cloudevents.ApplicationJSON)
		ce.DataEncoded = data
	}
	return events.WriteMessage(subject, ce)
}
