package bus_test

import (
	"testing"
	"time"

	"github.com/sekisho/sekisho/events"
	"github.com/sekisho/sekisho/services/internal/bus"
)

// An answer is rejected for where it stands, clause by clause, and the sterner reason comes first.
func TestUntimely(t *testing.T) {
	login := newLogin(t)
	start := time.Now()
	at := func(place uint64, n int, data events.Data) *events.Event {
		e := events.New(login, n, data)
		e.Sequence, e.Stored = place, start.Add(time.Duration(place)*time.Second)
		return e
	}
	challenged := func(place uint64, round int, f events.Factor) *events.Event {
		return at(place, round, &events.Challenged{Factor: f, Expires: start.Add(20 * time.Second)})
	}
	asked := challenged(2, 1, events.SMS)
	for _, tt := range []struct {
		name    string
		history bus.History
		attempt int
		place   uint64
		want    string
	}{
		{"in time", bus.History{asked}, 3, 19, ""},
		{"no challenge", bus.History{at(1, 1, &events.Wanted{Factor: events.SMS})}, 1, 3, events.RejectedWrong},
		{"to another round", bus.History{challenged(2, 2, events.SMS)}, 1, 3, events.RejectedWrong},
		{"before the challenge", bus.History{asked}, 1, 1, events.RejectedWrong},
		{"another factor", bus.History{challenged(2, 1, events.Push)}, 1, 3, events.RejectedWrong},
		{"an attempt too many", bus.History{asked}, 4, 3, events.RejectedWrong},
		{"replaced", bus.History{asked, challenged(4, 2, events.Push)}, 1, 5, events.RejectedSuperseded},
		{"replaced later", bus.History{asked, challenged(4, 2, events.Push)}, 1, 3, ""},
		{"after a round that was not challenged", bus.History{asked, at(4, 2, &events.Undelivered{Factor: events.SMS})}, 1, 5, ""},
		{"expired", bus.History{asked}, 1, 20, events.RejectedExpired},
		{"replaced and expired", bus.History{asked, challenged(4, 2, events.Push)}, 1, 20, events.RejectedSuperseded},
		{"an attempt too many, replaced and expired", bus.History{asked, challenged(4, 2, events.Push)}, 4, 20, events.RejectedWrong},
	} {
		e := at(tt.place, tt.attempt, &events.Answered{Round: 1, Factor: events.SMS})
		if got := tt.history.Untimely(e, 3); got != tt.want {
			t.Errorf("%s: %q, want %q", tt.name, got, tt.want)
		}
	}
}
