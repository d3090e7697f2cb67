package simulators

import (
	"context"
	"iter"
	"slices"
	"strings"
	"sync"
	"time"
)

// kept is how many messages and calls are remembered.
const kept = 10_000

// recent holds the last entries, up to kept.
type recent[T any] struct {
	entries []*T
	oldest  int // index of the oldest entry once the slice is full
}

func (r *recent[T]) add(entry *T) {
	if len(r.entries) < kept {
		r.entries = append(r.entries, entry)
		return
	}
	r.entries[r.oldest] = entry
	r.oldest = (r.oldest + 1) % kept
}

// newestFirst yields the entries backwards in time.
func (r *recent[T]) newestFirst() iter.Seq[*T] {
	return func(yield func(*T) bool) {
		n := len(r.entries)
		for i := range n {
			if !yield(r.entries[(r.oldest+n-1-i)%n]) {
				return
			}
		}
	}
}

// signal wakes everybody who waits for a change. The owner's mutex guards it.
type signal struct{ changed chan struct{} }

func (s *signal) next() <-chan struct{} {
	if s.changed == nil {
		s.changed = make(chan struct{})
	}
	return s.changed
}

func (s *signal) raise() {
	if s.changed != nil {
		close(s.changed)
		s.changed = nil
	}
}

// Message is a text message as it reached a phone.
type Message struct {
	To       string    `json:"to"` // E.164
	Body     string    `json:"body"`
	At       time.Time `json:"at"`
	Provider string    `json:"provider"` // SMS or SMS2
}

// phones is what all phones received.
type phones struct {
	mu       sync.Mutex
	messages recent[Message]
	arrived  signal
}

func (p *phones) receive(m Message) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.messages.add(&m)
	p.arrived.raise()
}

// inbox returns what arrived at number since then, newest first, and a channel that is closed when
// something more arrives anywhere. No number means all of them.
func (p *phones) inbox(number string, since time.Time) ([]Message, <-chan struct{}) {
	p.mu.Lock()
	defer p.mu.Unlock()
	found := []Message{}
	for m := range p.messages.newestFirst() {
		if (number == "" || m.To == number) && !m.At.Before(since) {
			found = append(found, *m)
		}
	}
	return found, p.arrived.next()
}

// Messages returns what the phone with this number received, newest first; every phone's if to is empty.
// The number may be in E.164 or in Japanese national form.
func (s *Simulators) Messages(to string) []Message {
	found, _ := s.phones.inbox(e164(to), time.Time{})
	return found
}

// WaitMessage waits until the phone has received n messages and returns them, newest first. The error is
// ctx's.
func (s *Simulators) WaitMessage(ctx context.Context, to string, n int) ([]Message, error) {
	for {
		found, more := s.phones.inbox(e164(to), time.Time{})
		if len(found) >= n {
			return found, nil
		}
		select {
		case <-more:
		case <-ctx.Done():
			return found, ctx.Err()
		}
	}
}

// e164 turns a Japanese national number into E.164; anything else stays as it is.
func e164(number string) string {
	if national, ok := strings.CutPrefix(number, "0"); ok {
		return "+81" + national
	}
	return number
}

// Outcomes of a call. A call that a fault struck has the fault's mode as its outcome.
const (
	OutcomePending  = "pending"  // not answered yet
	OutcomeAnswered = "answered" // 2xx
	OutcomeRefused  = "refused"  // 4xx
	OutcomeBroken   = "broken"   // the request did not arrive whole
)

// Call is one request to a far end.
type Call struct {
	Provider string    `json:"provider"`
	Method   string    `json:"method"`
	Path     string    `json:"path"` // without the query
	At       time.Time `json:"at"`   // of its arrival
	Outcome  string    `json:"outcome"`
}

// calls is the log of all far ends.
type calls struct {
	mu      sync.Mutex
	log     recent[Call]
	changed signal
}

// begin notes a call as pending and returns how to note its outcome.
func (c *calls) begin(call Call) (done func(outcome string)) {
	call.Outcome = OutcomePending
	c.mu.Lock()
	defer c.mu.Unlock()
	c.log.add(&call)
	c.changed.raise()
	return func(outcome string) {
		c.mu.Lock()
		defer c.mu.Unlock()
		call.Outcome = outcome
		c.changed.raise()
	}
}

func (c *calls) of(provider string) ([]Call, <-chan struct{}) {
	c.mu.Lock()
	defer c.mu.Unlock()
	found := []Call{}
	for call := range c.log.newestFirst() {
		if provider == "" || call.Provider == provider {
			found = append(found, *call)
		}
	}
	return found, c.changed.next()
}

// Calls returns the calls that a provider got, newest first; those of all providers if it is empty.
func (s *Simulators) Calls(provider string) []Call {
	found, _ := s.calls.of(provider)
	return found
}

// WaitCall waits until a call of the provider has this outcome, such as OutcomePending for one that has
// just arrived. The error is ctx's.
func (s *Simulators) WaitCall(ctx context.Context, provider, outcome string) error {
	for {
		found, more := s.calls.of(provider)
		if slices.ContainsFunc(found, func(c Call) bool { return c.Outcome == outcome }) {
			return nil
		}
		select {
		case <-more:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
