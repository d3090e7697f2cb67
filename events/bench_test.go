package events_test

import (
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/sekisho/sekisho/events"
)

// A measured is one operation of the hot path, and how many allocations it may make.
type measured struct {
	name   string
	allocs float64
	once   func(tb testing.TB)
}

// hot are the operations that every event of every login goes through. The limits are what they need today with the race detector,
// under which pools forget: who needs more than that should know why.
func hot(tb testing.TB) []measured {
	login, err := events.NewLogin("web")
	if err != nil {
		tb.Fatal(err)
	}
	now := time.Date(2026, 1, 5, 9, 0, 0, 0, time.UTC)
	assessed := events.New(login, 0, &events.Assessed{Verdict: events.Review, Score: 0.5, Reasons: []string{"FIRST_USER_DEVICE"}, Provider: "omotion", Assessment: "a-1"})
	assessed.By, assessed.Time, assessed.Expires = "riskassessor", now, now.Add(time.Minute)
	assessed.Cause, assessed.Trace = login.EventID(events.StepIdentified, 0), "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	binary := written(tb, assessed)

	public, private, err := events.GenerateKey("identityverifier", "k1")
	if err != nil {
		tb.Fatal(err)
	}
	sealer, err := events.NewSealer(public)
	if err != nil {
		tb.Fatal(err)
	}
	opener, err := events.NewOpener("identityverifier", private)
	if err != nil {
		tb.Fatal(err)
	}
	subject, identity := login.Subject(events.StepRequested, 0), events.Identity{User: "alice", Password: "a long enough password"}
	seal := func(tb testing.TB) *events.Sealed {
		sealed, err := sealer.Seal("identityverifier", subject, "identity", identity)
		if err != nil {
			tb.Fatal(err)
		}
		return sealed
	}
	sealed := seal(tb)
	return []measured{
		{"write", 27, func(tb testing.TB) { written(tb, assessed) }},
		{"read", 12, func(tb testing.TB) {
			if _, err := events.Read(binary.Subject, binary.Header, binary.Data); err != nil {
				tb.Fatal(err)
			}
		}},
		{"seal", 5, func(tb testing.TB) { seal(tb) }},
		{"open", 5, func(tb testing.TB) {
			var got events.Identity
			if err := opener.Open(sealed, subject, "identity", &got); err != nil || got.User != identity.User {
				tb.Fatal(err)
			}
		}},
	}
}

func written(tb testing.TB, e *events.Event) *nats.Msg {
	msg, err := e.Message()
	if err != nil {
		tb.Fatal(err)
	}
	return msg
}

func BenchmarkHotPath(b *testing.B) {
	for _, m := range hot(b) {
		b.Run(m.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				m.once(b)
			}
		})
	}
}

func TestAllocations(t *testing.T) {
	for _, m := range hot(t) {
		if got := testing.AllocsPerRun(1000, func() { m.once(t) }); got > m.allocs {
			t.Errorf("%s: %.1f allocations, at most %.0f", m.name, got, m.allocs)
		}
	}
}
