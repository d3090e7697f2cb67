package gateway

import (
	"encoding/json"
	"fmt"
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
	return g.forwardProven(w, r, proof)
}

// forwardAnswer hands on a phone's answer to a prompt. What the phone has signed in the body proves the request, so a header does not count.
func (g *gateway) forwardAnswer(w http.ResponseWriter, r *http.Request) error {
	response, err := g.forwardProven(w, r, "")
	if err != nil {
		return err
	}
	writeResponse(w, response)
	return nil
}

func (g *gateway) forwardProven(w http.ResponseWriter, r *http.Request, proof string) (events.DeviceResponse, error) {
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

// fresh tells whether a session is young enough to change phones with: whoever finds an unlocked screen or the token of a session
// must not be able to add a phone of their own.
func (g *gateway) fresh(s *sessions.Session) bool {
	return g.now().Sub(s.Created) < g.cfg.Session.Fresh
}

// forward hands on a request as it came, from the caller that q names.
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

// jsonBody is the body of a request, empty or JSON by its type. What it says is for pushnotifier to read.
func (g *gateway) jsonBody(w http.ResponseWriter, r *http.Request) ([]byte, error) {
	body, err := httpapi.ReadBody(w, r, g.cfg.Gateway.MaxBody)
	if err != nil {
		return nil, err
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
	httpapi.SetRetryAfter(w, time.Duration(response.RetryAfter)*time.Second)
	w.WriteHeader(response.Status)
	_, _ = w.Write(response.Body) // fails only if the client has gone
}

// readResponse reads what pushnotifier answered, or makes an error of it.
func readResponse(response events.DeviceResponse, dst any) error {
	if response.Status/100 != 2 {
		return &httpapi.Problem{Status: response.Status, RetryAfter: time.Duration(response.RetryAfter) * time.Second}
	}
	if err := json.Unmarshal(response.Body, dst); err != nil {
		return fmt.Errorf("answer of pushnotifier: %w", err)
	}
	return nil
}
