package sessionissuer

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/sekisho/sekisho/events"
	"github.com/sekisho/sekisho/services/internal/policy"
)

// TestRandomWalks runs logins in a small world: factor workers, a user and a gateway act as they please; several instances of
// sessionissuer handle each event late, twice and with views that are behind each other; the policy changes on the way.
func TestRandomWalks(t *testing.T) {
	policies := make(map[string]*policy.Policy)
	for _, app := range []string{standard, strict, "{methods: [password, none], on_review: 3}", "{methods: [password, none], on_ok: 2, on_unavailable: allow}"} {
		p := load(t, app)
		policies[p.Hash()] = p
	}
	outcomes := make(map[string]int)
	for seed := range uint64(3000) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			w := newWorld(seed, policies)
			for range 120 {
				w.act(t)
			}
			w.drain(t)
			w.quiet(t)
			before := w.stream.outcome()
			outcomes[before]++
			w.now = end
			w.stream.settle(t, events.Facts{Now: w.now, Enabled: true})
			if w.stream.closed() == nil {
				t.Fatalf("open past the deadline\n%s", w.stream)
			}
			again(t, w.stream.history, policies)
		})
	}
	for _, outcome := range []string{"granted", "denied", "failed", "cancelled", "expired", "open"} {
		if outcomes[outcome] < 10 {
			t.Errorf("only %d walks end %s: they do not show much", outcomes[outcome], outcome)
		}
	}
}

// A world is one login with everybody around it.
type world struct {
	*rand.Rand
	stream   *stream
	policies []*policy.Policy
	now      time.Time
	handling []handling // of all instances
	unseen   []string   // ids of events that no instance has begun to handle
}

// A handling is one instance at work on one event: it has read a view and not yet published what follows.
type handling struct {
	trigger string
	next    *events.Event
}

func newWorld(seed uint64, policies map[string]*policy.Policy) *world {
	w := &world{Rand: rand.New(rand.NewPCG(seed, 7)), now: start.Add(time.Second)}
	for _, hash := range slices.Sorted(maps.Keys(policies)) {
		w.policies = append(w.policies, policies[hash])
	}
	w.stream = &stream{policy: w.policies[w.IntN(len(w.policies))]}
	method := []events.Method{events.Password, events.None}[w.IntN(2)]
	w.publish(requested(method))
	switch w.IntN(10) {
	case 0:
		w.publish(refused())
	case 1:
		w.publish(decoy())
	case 2, 3:
		w.publish(steppedUp([][]string{{"pwd"}, {"pwd", "sms"}, {"swk"}}[w.IntN(3)], events.Factors...))
	default:
		var enrolled []events.Factor
		for _, f := range events.Factors {
			if w.IntN(3) > 0 {
				enrolled = append(enrolled, f)
			}
		}
		w.publish(identified(method, enrolled...))
	}
	w.publish([]*events.Event{assessed(events.OK), assessed(events.Review), assessed(events.Review), assessed(events.NG), degraded()}[w.IntN(5)])
	return w
}

// publish stores an event of another party.
func (w *world) publish(e *events.Event) {
	if w.stream.store(e) {
		switch e.Step {
		case events.StepRequested, events.StepIdentified, events.StepChallenged: // sessionissuer does not consume these
		default:
			w.unseen = append(w.unseen, e.ID())
		}
	}
}

// act lets somebody do something.
func (w *world) act(t *testing.T) {
	round := w.IntN(events.Rounds) + 1
	var asked *events.Wanted
	for _, e := range w.stream.history {
		if data, ok := e.Data.(*events.Wanted); ok && e.N == round {
			asked = data
		}
	}
	switch n := w.IntN(100); {
	case n < 35:
		w.begin()
	case n < 70:
		w.finish(t)
	case n < 71:
		w.stream.policy = w.policies[w.IntN(len(w.policies))]
	case n < 72:
		w.publish(cancelled())
	case n < 73 && w.IntN(2) == 0:
		w.publish(lapsed())
	case n < 80:
		w.publish(chosen(round, events.Factors[w.IntN(3)]))
	case asked == nil:
	case n < 87:
		w.publish(challenged(round, asked.Factor))
	case n < 91:
		w.publish(undelivered(round, asked.Factor))
	case n < 97 || asked.Decoy:
		reason := events.RejectedWrong
		switch w.IntN(12) {
		case 0:
			reason = events.RejectedDenied
		case 1, 2:
			reason = events.RejectedExhausted
		}
		w.publish(rejected(w.IntN(events.Attempts)+1, round, asked.Factor, reason))
	default:
		w.publish(verified(round, asked.Factor))
	}
}

// begin hands an event to an instance: mostly one that nobody has handled, sometimes one again.
func (w *world) begin() {
	var id string
	switch {
	case len(w.unseen) > 0:
		i := w.IntN(len(w.unseen))
		id = w.unseen[i]
		w.unseen = slices.Delete(w.unseen, i, i+1)
	case len(w.handling) > 0:
		id = w.handling[w.IntN(len(w.handling))].trigger
	default:
		return
	}
	w.read(id)
}

// read decides on a view that may be behind, but holds the event and all before it.
func (w *world) read(id string) {
	at := slices.IndexFunc(w.stream.history, func(e *events.Event) bool { return e.ID() == id })
	view := w.stream.history[:at+1+w.IntN(len(w.stream.history)-at)]
	w.handling = append(w.handling, handling{id, Decide(w.stream.policy, view, events.Facts{Now: w.now, Enabled: true})})
}

// finish lets one instance publish what it has decided, in no particular order, and read again after that; or crash, whereupon
// the event is delivered again.
func (w *world) finish(t *testing.T) {
	if len(w.handling) == 0 {
		return
	}
	i := w.IntN(len(w.handling))
	h := w.handling[i]
	w.handling = slices.Delete(w.handling, i, i+1)
	switch {
	case w.IntN(10) == 0:
		w.unseen = append(w.unseen, h.trigger)
	case h.next == nil:
	default:
		if w.stream.closed() == nil {
			w.checkGrant(t, h.next)
		}
		w.stream.store(h.next)
		if !w.stream.has(h.next.ID()) { // the login has lapsed meanwhile, and the event is handled again
			w.unseen = append(w.unseen, h.trigger)
			return
		}
		w.read(h.next.ID())
	}
}

// checkGrant holds a grant against what was in the stream when it was decided.
func (w *world) checkGrant(t *testing.T, e *events.Event) {
	t.Helper()
	c, ok := e.Data.(*events.Closed)
	if !ok || c.Outcome != events.Granted {
		return
	}
	after := slices.IndexFunc(w.stream.history, func(e *events.Event) bool { return e.ID() == c.Decision.After })
	seen := w.stream.history[:after+1]
	if proof := proven(seen); len(proof) == 0 || len(proof) < c.Decision.Need || c.Decision.Need < needed(w.policy(c.Decision.Policy), seen) {
		t.Fatalf("granted on %v for a need of %d\n%s", proof, c.Decision.Need, w.stream)
	}
}

func (w *world) policy(hash string) *policy.Policy {
	return w.policies[slices.IndexFunc(w.policies, func(p *policy.Policy) bool { return p.Hash() == hash })]
}

// drain lets the instances handle everything that there is.
func (w *world) drain(t *testing.T) {
	for len(w.unseen)+len(w.handling) > 0 {
		if len(w.unseen) > 0 {
			w.begin()
		}
		w.finish(t)
	}
}

// quiet checks that no event was lost on the way: whoever looks at the whole history has nothing to add under the policies that
// were in force, so that the login waits for somebody else.
func (w *world) quiet(t *testing.T) {
	t.Helper()
	asked := slices.ContainsFunc(w.stream.history, func(e *events.Event) bool { return e.Step == events.StepWanted })
	if w.stream.closed() == nil && !asked {
		t.Fatalf("nobody was asked for anything\n%s", w.stream)
	}
	hashes, spent := make(map[string]bool), make(map[events.Factor]string)
	for i, e := range w.stream.history {
		if data, ok := e.Data.(*events.Rejected); ok && data.Reason == events.RejectedExhausted {
			spent[data.Factor] = e.ID()
		}
		if data, ok := e.Data.(*events.Wanted); ok && spent[data.Factor] != "" {
			known := slices.IndexFunc(w.stream.history, func(e *events.Event) bool { return e.ID() == data.Decision.After })
			at := slices.IndexFunc(w.stream.history[:i], func(e *events.Event) bool { return e.ID() == spent[data.Factor] })
			if known >= at {
				t.Fatalf("%s asks for a factor that was known to take no more answers\n%s", e.ID(), w.stream)
			}
		}
		if data, ok := e.Data.(*events.Wanted); ok {
			hashes[data.Decision.Policy] = true
		}
	}
	if len(hashes) > 1 || !hashes[w.stream.policy.Hash()] {
		return // the last event was handled under another policy
	}
	if next := Decide(w.stream.policy, w.stream.history, events.Facts{Now: w.now, Enabled: true}); next != nil {
		t.Fatalf("%s was due and nobody published it\n%s", next.ID(), w.stream)
	}
}
