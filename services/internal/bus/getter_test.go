package bus_test

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
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

// Since gives the steps that are asked for, of all numbers, in the stream's order, and nothing of another login nor from before the
// place.
func TestSince(t *testing.T) {
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
	since := func(place uint64, steps ...events.Step) bus.History {
		t.Helper()
		h, err := b.Since(t.Context(), in.Login, place, steps)
		if err != nil {
			t.Fatal(err)
		}
		return h
	}
	want := []string{in.Login.EventID(events.StepRejected, 5), in.Login.EventID(events.StepCancelled, 0), in.Login.EventID(events.StepRejected, 1)}
	all := since(0, events.StepCancelled, events.StepClosed, events.StepRejected)
	if got := ids(all); !slices.Equal(got, want) {
		t.Fatalf("from the start: %v, want %v", got, want)
	}
	for place, left := range map[uint64]int{all[0].Sequence - 1: 3, all[0].Sequence: 2, all[1].Sequence: 1, all[2].Sequence: 0} {
		if got := ids(since(place, events.StepCancelled, events.StepClosed, events.StepRejected)); !slices.Equal(got, want[3-left:]) {
			t.Errorf("since %d: %v, want %v", place, got, want[3-left:])
		}
	}
	if got := since(0, events.StepRequested); len(got) != 0 {
		t.Errorf("what is not there: %v", ids(got))
	}
}

func ids(h bus.History) (ids []string) {
	for _, e := range h {
		ids = append(ids, e.ID())
	}
	return ids
}

// A history of some steps has its trigger, whether that is of them or not, whatever else there is; and it is stale where a replica has
// not come as far as the trigger.
func TestHistoryOfSteps(t *testing.T) {
	broker := testenv.NATS(t)
	b := broker.Bus(t, "sessionissuer")
	in := wanted(t, soon())
	broker.Publish(t, in)
	wanted := broker.Await(t, in.Login, events.StepWanted, 1)
	cancelled := events.New(in.Login, 0, &events.Cancelled{})
	cancelled.By, cancelled.Time = "gateway/web", time.Now()
	broker.Publish(t, cancelled)
	cancelled = broker.Await(t, in.Login, events.StepCancelled, 0)
	for name, c := range map[string]struct {
		trigger *events.Event
		steps   []events.Step
		want    []*events.Event
	}{
		"trigger without number":     {cancelled, []events.Step{events.StepWanted, events.StepCancelled}, []*events.Event{wanted, cancelled}},
		"trigger with number":        {wanted, []events.Step{events.StepWanted, events.StepCancelled}, []*events.Event{wanted, cancelled}},
		"trigger of no step":         {cancelled, []events.Step{events.StepWanted}, []*events.Event{wanted, cancelled}},
		"nothing beside the trigger": {cancelled, []events.Step{events.StepCancelled, events.StepClosed}, []*events.Event{cancelled}},
	} {
		h, err := b.History(t.Context(), c.trigger, c.steps...)
		if err != nil || !slices.Equal(ids(h), ids(c.want)) || !slices.Contains(h, c.trigger) {
			t.Errorf("%s: %v, %v", name, ids(h), err)
		}
	}
	ahead, lost := *cancelled, *cancelled
	ahead.Sequence++
	lost.Login.ID = uuid.Must(uuid.NewV7()).String()
	for name, trigger := range map[string]*events.Event{"ahead of the replica": &ahead, "nowhere": &lost} {
		if _, err := b.History(t.Context(), trigger, events.StepWanted, events.StepCancelled); !errors.Is(err, bus.ErrStale) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
