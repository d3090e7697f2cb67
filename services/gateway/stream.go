package gateway

import (
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
// A session that is granted meanwhile goes into the stream to a bearer only: a stream can set no cookie.
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
	if err := holdOpen(w); err != nil {
		return err
	}
	g.metrics.waiting.Inc()
	defer g.metrics.waiting.Dec()
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("X-Accel-Buffering", "no")                     // nginx passes each event on at once
	if err := http.NewResponseController(w).Flush(); err != nil { // the client is to know that it is connected, also while there is no news
		return err
	}
	g.follow(w, r, login, seen, bearer)
	return nil
}

// follow writes until the login or the client ends. An error then has nobody to be told to.
func (g *gateway) follow(w http.ResponseWriter, r *http.Request, login events.Login, seen int, bearer bool) {
	states := make(chan *events.State)
	go func() {
		defer close(states)
		for state, err := range g.client.Watch(r.Context(), login) {
			if err != nil {
				return
			}
			select {
			case states <- state:
			case <-r.Context().Done():
				return
			}
		}
	}()
	beat := time.NewTicker(heartbeat)
	defer beat.Stop()
	for {
		var message string
		select {
		case <-r.Context().Done():
			return
		case <-beat.C:
			message = ":\n\n"
		case state, ok := <-states:
			if !ok {
				return
			}
			if state.Version() <= seen && !state.Ended() {
				continue
			}
			data, err := g.message(r, state, bearer)
			if err != nil {
				return // the client asks again
			}
			message = fmt.Sprintf("id: %d\ndata: %s\n\n", state.Version(), data)
		}
		if err := push(w, message); err != nil {
			return
		}
	}
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
