package sessionissuer

import (
	"testing"

	"github.com/sekisho/sekisho/events"
)

// decisions are those that each login meets, and how many allocations one may make.
var decisions = []struct {
	name    string
	allocs  float64
	history []*events.Event
	next    events.Step
}{
	{"grant", 7, []*events.Event{requested(events.Password), identified(events.Password, events.SMS), assessed(events.OK)}, events.StepClosed},
	{"want", 9, []*events.Event{requested(events.Password), identified(events.Password, events.SMS), assessed(events.Review)}, events.StepWanted},
	{"grant after a code", 10, []*events.Event{
		requested(events.Password), identified(events.Password, events.SMS), assessed(events.Review),
		event(1, &events.Wanted{Factor: events.SMS, App: "demo", User: "u1", Deadline: end, Decision: events.Decision{Need: 2}}),
		challenged(1, events.SMS), verified(1, events.SMS)}, events.StepClosed},
}

func BenchmarkDecide(b *testing.B) {
	p := load(b, standard)
	for _, d := range decisions {
		b.Run(d.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				Decide(p, d.history, soon)
			}
		})
	}
}

func TestDecideAllocations(t *testing.T) {
	p := load(t, standard)
	for _, d := range decisions {
		if next := Decide(p, d.history, soon); next == nil || next.Step != d.next {
			t.Errorf("%s: decided %v", d.name, next)
		}
		if got := testing.AllocsPerRun(1000, func() { Decide(p, d.history, soon) }); got > d.allocs {
			t.Errorf("%s: %.0f allocations, at most %.0f", d.name, got, d.allocs)
		}
	}
}
