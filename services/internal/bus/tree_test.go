package bus_test

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/sekisho/sekisho/events"
	"github.com/sekisho/sekisho/services/internal/bus"
	"github.com/sekisho/sekisho/services/internal/testenv"
)

// An event may look like the end of an answer, since its headers are its publisher's. It hides nothing of what follows it.
func TestNoEventEndsAHistory(t *testing.T) {
	broker := testenv.NATS(t)
	in := wanted(t, soon())
	web := broker.Dial(t, "web")
	for n, status := range []string{"204", "404", "503"} {
		msg := nats.NewMsg(in.Login.Subject(events.StepChosen, n+1))
		msg.Header.Set("Status", status)
		if ack, err := web.RequestMsg(msg, 10*time.Second); err != nil || len(ack.Data) == 0 {
			t.Fatal(ack, err)
		}
	}
	broker.Publish(t, in)
	h, err := broker.Bus(t, "sessionissuer").History(t.Context(), in)
	if err != nil || len(h) != 1 || h[0].ID() != in.ID() {
		t.Errorf("history %v, %v", h, err)
	}
}

// Readers share a subscription, and each gets its own login.
func TestManyHistoriesAtOnce(t *testing.T) {
	broker := testenv.NATS(t)
	b := broker.Bus(t, "sessionissuer")
	var logins []*events.Event
	for range 20 {
		e := wanted(t, soon())
		broker.Publish(t, e)
		logins = append(logins, e)
	}
	var readers sync.WaitGroup
	for i := range 400 {
		readers.Go(func() {
			want := logins[i%len(logins)]
			if h, err := b.History(t.Context(), want); err != nil || len(h) != 1 || h[0].ID() != want.ID() {
				t.Errorf("history of %s: %v, %v", want.ID(), h, err)
			}
		})
	}
	readers.Wait()
}

func TestHistoryWithoutABroker(t *testing.T) {
	broker := testenv.NATS(t)
	e := wanted(t, soon())
	b := broker.Bus(t, "sessionissuer")
	gone, leave := context.WithCancel(t.Context())
	leave()
	if _, err := b.History(gone, e); !errors.Is(err, context.Canceled) {
		t.Errorf("after the caller left: %v", err)
	}
	if _, err := broker.Bus(t, "smsdispatcher").History(expiring(t), e); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("by who may not read: %v", err)
	}
	b.Close()
	if _, err := b.History(t.Context(), e); !errors.Is(err, nats.ErrConnectionClosed) {
		t.Errorf("without a connection: %v", err)
	}
}

// expiring is a context that ends very soon.
func expiring(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	t.Cleanup(cancel)
	return ctx
}

// A part of a login has the steps that are asked for, of all numbers, in the stream's order, and nothing of another login. What the
// caller has already is not decoded again.
func TestPart(t *testing.T) {
	broker := testenv.NATS(t)
	in, other := wanted(t, soon()), wanted(t, soon())
	broker.Publish(t, in)
	broker.Publish(t, other)
	say := func(by string, n int, data events.Data) {
		t.Helper()
		e := events.New(in.Login, n, data)
		e.By, e.Time = by, time.Now()
		broker.Publish(t, e)
	}
	say("otpvalidator", 5, &events.Rejected{Round: 1, Factor: events.SMS, Reason: events.RejectedWrong})
	say("gateway/web", 0, &events.Cancelled{})
	say("otpvalidator", 1, &events.Rejected{Round: 1, Factor: events.SMS, Reason: events.RejectedWrong})
	b := broker.Bus(t, "sessionissuer")
	read := func(steps []events.Step, earlier ...*events.Event) bus.History {
		t.Helper()
		h, err := b.Part(t.Context(), in.Login, steps, earlier...)
		if err != nil {
			t.Fatal(err)
		}
		return h
	}
	ids := func(h bus.History) (ids []string) {
		for _, e := range h {
			ids = append(ids, e.ID())
		}
		return ids
	}
	want := []string{in.Login.EventID(events.StepRejected, 5), in.Login.EventID(events.StepCancelled, 0), in.Login.EventID(events.StepRejected, 1)}
	before := read([]events.Step{events.StepCancelled, events.StepClosed, events.StepRejected})
	if got := ids(before); !slices.Equal(got, want) {
		t.Errorf("part %v, want %v", got, want)
	}
	if got := read([]events.Step{events.StepRejected}, before...); len(got) != 2 || got[0] != before[0] || got[1] != before[2] {
		t.Errorf("read again: %v, want the same events as before", ids(got))
	}
	if got := read([]events.Step{events.StepRequested}); len(got) != 0 {
		t.Errorf("a part that is not there: %v", ids(got))
	}
}
