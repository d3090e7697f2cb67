package gateway

import (
	"context"
	"net/http"
	"slices"
	"sync"
)

// hints are the open streams of phones, which are told when there is something to fetch.
type hints struct {
	most    int // streams of one phone
	mu      sync.Mutex
	streams map[string][]chan struct{} // by device, the oldest first
}

func newHints(most int) *hints { return &hints{most: most, streams: make(map[string][]chan struct{})} }

// join opens a stream of a phone, and closes the oldest if there are too many: a phone that changes its network leaves some
// behind.
func (h *hints) join(device string) chan struct{} {
	h.mu.Lock()
	defer h.mu.Unlock()
	all := h.streams[device]
	if len(all) >= h.most {
		close(all[0])
		all = all[1:]
	}
	stream := make(chan struct{}, 1)
	h.streams[device] = append(slices.Clone(all), stream)
	return stream
}

func (h *hints) leave(device string, stream chan struct{}) {
	h.mu.Lock()
	defer h.mu.Unlock()
	left := slices.DeleteFunc(h.streams[device], func(c chan struct{}) bool { return c == stream })
	if h.streams[device] = left; len(left) == 0 {
		delete(h.streams, device)
	}
}

// tell hints to a phone that there is something new. Hints that come while one is being written become one.
func (h *hints) tell(device string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, stream := range h.streams[device] {
		select {
		case stream <- struct{}{}:
		default:
		}
	}
}

// The data is empty, but has to be there: without it browsers dispatch no event.
const promptsEvent = "event: prompts\ndata:\n\n"

// streamHints answers GET /v1/authenticator/stream: an event for each hint. pushnotifier says whether the phone is known;
// since a phone may be removed at any time, a stream ends after a while, and the phone proves itself again.
func (g *gateway) streamHints(w http.ResponseWriter, r *http.Request) error {
	response, err := g.askAsPhone(w, r)
	if err != nil {
		return err
	}
	if response.Status != http.StatusOK {
		writeResponse(w, response)
		return nil
	}
	var known struct {
		Device string `json:"device"`
	}
	if err := readResponse(response, &known); err != nil {
		return err
	}
	stream := g.hints.join(known.Device)
	defer g.hints.leave(known.Device, stream)
	ctx, cancel := context.WithTimeout(r.Context(), g.cfg.Gateway.MaxStream)
	defer cancel()
	return serveEvents(ctx, g, w, stream, comment, func(struct{}) (string, error) { return promptsEvent, nil })
}
