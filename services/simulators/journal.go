package simulators

import (
	"context"
	"iter"
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

// A journal is what happened lately, and wakes those who wait for more.
type journal[T any] struct {
	mu      sync.Mutex
	recent  recent[T]
	changed chan struct{} // closed by the next change; nil while nobody waits
}

// note adds an entry and returns how to change it.
func (j *journal[T]) note(entry T) (change func(func(*T))) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.recent.add(&entry)
	j.wake()
	return func(how func(*T)) {
		j.mu.Lock()
		defer j.mu.Unlock()
		how(&entry)
		j.wake()
	}
}

func (j *journal[T]) wake() {
	if j.changed != nil {
		close(j.changed)
		j.changed = nil
	}
}

// find returns the entries that match, newest first, and a channel that is closed when anything changes.
func (j *journal[T]) find(match func(T) bool) ([]T, <-chan struct{}) {
	j.mu.Lock()
	defer j.mu.Unlock()
	found := []T{}
	for entry := range j.recent.newestFirst() {
		if match(*entry) {
			found = append(found, *entry)
		}
	}
	if j.changed == nil {
		j.changed = make(chan struct{})
	}
	return found, j.changed
}

// wait waits until n entries match and returns them, newest first. The error is ctx's.
func (j *journal[T]) wait(ctx context.Context, n int, match func(T) bool) ([]T, error) {
	for {
		found, more := j.find(match)
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

// Message is a text message as it reached a phone.
type Message struct {
	To       string    `json:"to"` // E.164
	Body     string    `json:"body"`
	At       time.Time `json:"at"`
	Provider string    `json:"provider"` // SMS or SMS2
}

// arrived matches what arrived at number since then. No number means all of them.
func arrived(number string, since time.Time) func(Message) bool {
	return func(m Message) bool { return (number == "" || m.To == number) && !m.At.Before(since) }
}

// Messages returns what the phone with this number received, newest first; every phone's if to is empty.
// The number may be in E.164 or in Japanese national form.
func (s *Simulators) Messages(to string) []Message {
	found, _ := s.phones.find(arrived(e164(to), time.Time{}))
	return found
}

// WaitMessage waits until the phone has received n messages and returns them, newest first. The error is
// ctx's.
func (s *Simulators) WaitMessage(ctx context.Context, to string, n int) ([]Message, error) {
	return s.phones.wait(ctx, n, arrived(e164(to), time.Time{}))
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

func callTo(provider string) func(Call) bool {
	return func(c Call) bool { return provider == "" || c.Provider == provider }
}

// Calls returns the calls that a provider got, newest first; those of all providers if it is empty.
func (s *Simulators) Calls(provider string) []Call {
	found, _ := s.calls.find(callTo(provider))
	return found
}

// WaitCall waits until a call of the provider has this outcome, such as OutcomePending for one that has
// just arrived. The error is ctx's.
func (s *Simulators) WaitCall(ctx context.Context, provider, outcome string) error {
	_, err := s.calls.wait(ctx, 1, func(c Call) bool { return callTo(provider)(c) && c.Outcome == outcome })
	return err
}
