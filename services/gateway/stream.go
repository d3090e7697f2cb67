package gateway

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"github.com/sekisho/sekisho/events"
)

const (
	heartbeat  = 15 * time.Second // less than the idle time-outs of common proxies, which begin at 30 s
	writeLimit = 10 * time.Second // for one message to leave; a client that does not read is given up then
)

// stream answers GET /v1/logins/{id}/events: the login as server-sent events, one per version, until it has ended.
// A session that is granted meanwhile goes into the stream to a bearer only: a stream can set no cookie. Scripts of a page get no word of
// comments, so with the parameter alive the stream shows that it lives by events, which have no id and change nothing.
func (g *gateway) stream(w http.ResponseWriter, r *http.Request) error {
	login, bearer, err := g.starter(r)
	if err != nil {
		return err
	}
	// A browser that asks again after the last event is told with 204 not to.
	seen, _ := strconv.Atoi(r.Header.Get("Last-Event-ID"))
	state, err := g.client.State(r.Context(), login)
	if err != nil {
		return err
	}
	if state.Ended() && state.Version() <= seen {
		w.WriteHeader(http.StatusNoContent)
		return nil
	}
	states := make(chan *events.State)
	go func() {
		defer close(states)
		for state, err := range g.client.Watch(r.Context(), login) {
			if err != nil {
				return
			}
			if state.Version() <= seen && !state.Ended() {
				continue
			}
			select {
			case states <- state:
			case <-r.Context().Done():
				return
			}
		}
	}()
	alive := comment
	if r.URL.Query().Has("alive") {
		alive = "event: alive\ndata:\n\n" // without data browsers dispatch no event
	}
	return serveEvents(r.Context(), g, w, states, alive, func(state *events.State) (string, error) {
		data, err := g.message(r, state, bearer)
		return fmt.Sprintf("id: %d\ndata: %s\n\n", state.Version(), data), err
	})
}

func (g *gateway) message(r *http.Request, state *events.State, bearer bool) ([]byte, error) {
	view, err := g.view(r, state, bearer)
	if err != nil {
		return nil, err
	}
	if !bearer {
		view.SessionToken = ""
	}
	return json.Marshal(view)
}

// comment is what clients of a stream leave out.
const comment = ":\n\n"

// serveEvents answers with server-sent events, one for each of the news, until these or ctx end or the client is gone. An error then
// has nobody to be told to: the client asks again. alive is said at once and with each heartbeat.
func serveEvents[T any](ctx context.Context, g *gateway, w http.ResponseWriter, news <-chan T, alive string, event func(T) (string, error)) error {
	if err := holdOpen(w); err != nil {
		return err
	}
	g.metrics.waiting.Inc()
	defer g.metrics.waiting.Dec()
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("X-Accel-Buffering", "no") // nginx passes each event on at once
	beat := time.NewTicker(heartbeat)
	defer beat.Stop()
	for message := alive; ; { // at once, so that the client knows that it is connected, also while there is no news
		if push(w, message) != nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return nil
		case <-beat.C:
			message = alive
		case item, open := <-news:
			if !open {
				return nil
			}
			var err error
			if message, err = event(item); err != nil {
				return nil
			}
		}
	}
}

func push(w http.ResponseWriter, message string) error {
	control := http.NewResponseController(w)
	// The deadline stands until the next message, so that the server's own does not end the stream.
	if err := control.SetWriteDeadline(time.Now().Add(heartbeat + writeLimit)); err != nil {
		return err
	}
	if _, err := w.Write([]byte(message)); err != nil {
		return err
	}
	return control.Flush()
}
