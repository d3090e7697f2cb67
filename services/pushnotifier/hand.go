package pushnotifier

import (
	"context"
	"sync"
)

// A hand holds the answers that this process is about to judge for the devices that gave them, so that decide does not do
// the same work at the same time. An answer that is released without a verdict is left to decide.
type hand struct {
	mu   sync.Mutex
	held map[string]*held // by event id
}

type held struct {
	released chan struct{}
	said     bool // the verdict is stored
}

func (h *hand) hold(id string) (release func(said bool)) {
	it := &held{released: make(chan struct{})}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.held == nil {
		h.held = make(map[string]*held)
	}
	h.held[id] = it
	return func(said bool) {
		h.mu.Lock()
		defer h.mu.Unlock()
		it.said = said
		close(it.released)
		if h.held[id] == it { // else another answer tries for the same place
			delete(h.held, id)
		}
	}
}

// said waits for an answer to be released, if it is held, and reports whether its verdict has been stored.
func (h *hand) said(ctx context.Context, id string) bool {
	h.mu.Lock()
	it := h.held[id]
	h.mu.Unlock()
	if it == nil {
		return false
	}
	select {
	case <-it.released:
		return it.said
	case <-ctx.Done():
		return false
	}
}
