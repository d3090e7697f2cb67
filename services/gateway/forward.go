package gateway

import (
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"strings"
	"time"

	"github.com/sekisho/sekisho/events"
	"github.com/sekisho/sekisho/services/internal/httpapi"
	"github.com/sekisho/sekisho/services/internal/sessions"
)

// Requests about phones are pushnotifier's to answer. The gateway bounds them, knows whose session it is, and hands them on.

// forwardPhone hands on a request of a phone, which comes with a proof of the phone's key (scheme Device).
func (g *gateway) forwardPhone(w http.ResponseWriter, r *http.Request) error {
	response, err := g.askAsPhone(w, r)
	if err != nil {
		return err
	}
	writeResponse(w, response)
	return nil
}

func (g *gateway) askAsPhone(w http.ResponseWriter, r *http.Request) (events.DeviceResponse, error) {
	proof := r.Header.Get("Authorization")
	if scheme, _, _ := strings.Cut(proof, " "); !strings.EqualFold(scheme, "Device") {
		w.Header().Set("WWW-Authenticate", "Device")
		return events.DeviceResponse{}, errNobody
	}
	response, err := g.forward(w, r, events.DeviceRequest{Proof: proof})
	if response.Status == http.StatusUnauthorized {
		w.Header().Set("WWW-Authenticate", "Device")
	}
	return response, err
}

// forwardUser hands on a request of a signed-in user about the user's own phones.
func (g *gateway) forwardUser(w http.ResponseWriter, r *http.Request) error {
	s, err := g.session(r, g.border.cookiesCount(r))
	if err != nil {
		return err
	}
	if r.Method != http.MethodGet && !g.fresh(s) {
		// RFC 9470 section 3
		w.Header().Set("WWW-Authenticate", fmt.Sprintf(`Bearer error="insufficient_user_authentication", max_age=%d`, int(g.cfg.Session.Fresh.Seconds())))
		return &httpapi.Problem{Status: http.StatusUnauthorized, Detail: "phones are changed soon after a login only: log in again"}
	}
	response, err := g.forward(w, r, events.DeviceRequest{Session: s.Login.ID})
	if err != nil {
		return err
	}
	if response.Status == http.StatusUnauthorized && response.Authenticate == "" { // the session has ended meanwhile
		return errNobody
	}
	writeResponse(w, response)
	return nil
}

// fresh tells whether a session is young enough to change phones with: whoever finds a screen unlocked, or a session's
// token, must not be able to make a phone of their own the user's.
func (g *gateway) fresh(s *sessions.Session) bool {
	return g.now().Sub(s.Created) < g.cfg.Session.Fresh
}

// forward hands on a request as it came. q says who asks.
func (g *gateway) forward(w http.ResponseWriter, r *http.Request, q events.DeviceRequest) (events.DeviceResponse, error) {
	body, err := g.jsonBody(w, r)
	if err != nil {
		return events.DeviceResponse{}, err
	}
	q.Method, q.Path, q.Body = r.Method, r.URL.Path, body
	return g.hand(r, q)
}

// hand asks pushnotifier on behalf of the client of a request, within the limit of the client's network.
func (g *gateway) hand(r *http.Request, q events.DeviceRequest) (events.DeviceResponse, error) {
	if wait := g.deviceLimits.take(g.border.source(r), g.now()); wait > 0 {
		return events.DeviceResponse{}, &httpapi.Problem{Status: http.StatusTooManyRequests, RetryAfter: wait}
	}
	q.Base = g.border.own(r)
	return g.client.Device(r.Context(), q)
}

// jsonBody is the body of a request, unread.
func (g *gateway) jsonBody(w http.ResponseWriter, r *http.Request) ([]byte, error) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, g.cfg.Gateway.MaxBody))
	if _, tooLarge := errors.AsType[*http.MaxBytesError](err); tooLarge {
		return nil, &httpapi.Problem{Status: http.StatusRequestEntityTooLarge, Detail: "the body is too large"}
	}
	if err != nil {
		return nil, &httpapi.Problem{Status: http.StatusBadRequest, Detail: "the body ended early"}
	}
	media, _, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if len(body) > 0 && (err != nil || media != "application/json") {
		return nil, &httpapi.Problem{Status: http.StatusUnsupportedMediaType, Detail: "want Content-Type: application/json"}
	}
	return body, nil
}

func writeResponse(w http.ResponseWriter, response events.DeviceResponse) {
	if response.Type != "" {
		w.Header().Set("Content-Type", response.Type)
	}
	if response.Authenticate != "" {
		w.Header().Set("WWW-Authenticate", response.Authenticate)
	}
	retryAfter(w, &httpapi.Problem{RetryAfter: time.Duration(response.RetryAfter) * time.Second})
	w.WriteHeader(response.Status)
	_, _ = w.Write(response.Body) // fails only if the client has gone
}
