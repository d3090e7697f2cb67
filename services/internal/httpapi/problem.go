package httpapi

import (
	"encoding/json"
	"errors"
	"math"
	"net/http"
	"strconv"
	"time"
)

// A Problem is an error that the client may know of, as RFC 9457 writes it down.
type Problem struct {
	Type   string `json:"type,omitempty"` // URI; empty means about:blank: the title is the status
	Title  string `json:"title"`          // empty means the text of the status
	Status int    `json:"status"`
	Detail string `json:"detail,omitempty"`
	Field  string `json:"field,omitempty"` // the field or parameter to blame

	// The login that would help, as it is asked for: with 401 where the session is good, but not enough.
	App    string `json:"app,omitempty"`
	ACR    string `json:"acr,omitempty"`
	Method string `json:"method,omitempty"` // session: by stepping up

	RetryAfter time.Duration `json:"-"` // header Retry-After, rounded up to seconds; 0 for none
}

// Invalid is the problem of a value that is well-formed but wrong: 422.
func Invalid(field, detail string) *Problem {
	return &Problem{Status: http.StatusUnprocessableEntity, Field: field, Detail: detail}
}

// Error tells neither detail nor field, since these may repeat what the client wrote.
func (p *Problem) Error() string {
	return "http problem " + strconv.Itoa(p.Status) + " " + http.StatusText(p.Status)
}

// Write answers with the problem.
func (p *Problem) Write(w http.ResponseWriter) {
	document := *p
	if document.Title == "" {
		document.Title = http.StatusText(p.Status)
	}
	if p.RetryAfter > 0 {
		w.Header().Set("Retry-After", strconv.Itoa(int(math.Ceil(p.RetryAfter.Seconds()))))
	}
	write(w, "application/problem+json", p.Status, document)
}

// Fail answers with err if it is a [Problem], and returns whether it was. An error of another kind is answered with a
// bare 500: it is for the log, which the caller writes.
func Fail(w http.ResponseWriter, err error) bool {
	if p, ok := errors.AsType[*Problem](err); ok {
		p.Write(w)
		return true
	}
	(&Problem{Status: http.StatusInternalServerError}).Write(w)
	return false
}

// Write answers with v as JSON.
func Write(w http.ResponseWriter, status int, v any) { write(w, "application/json", status, v) }

func write(w http.ResponseWriter, contentType string, status int, v any) {
	body, err := json.Marshal(v)
	if err != nil { // a value that can not be JSON is a programmer's mistake
		status, body = http.StatusInternalServerError, []byte(`{"title":"Internal Server Error","status":500}`)
		contentType = "application/problem+json"
	}
	h := w.Header()
	h.Set("Content-Type", contentType)
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(status)
	w.Write(append(body, '\n')) // an error means that the client has gone
}

// Routes serves mux, and turns what it answers by itself (404; 405 with Allow) into problem documents.
func Routes(mux *http.ServeMux) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fallback, pattern := mux.Handler(r)
		if pattern != "" {
			mux.ServeHTTP(w, r)
			return
		}
		answer := refusal{header: w.Header()}
		fallback.ServeHTTP(&answer, r)
		(&Problem{Status: answer.status}).Write(w)
	})
}

// refusal keeps the status and the Allow header of the mux's own answer and drops its text.
type refusal struct {
	header http.Header
	status int
}

func (a *refusal) Header() http.Header         { return a.header }
func (a *refusal) WriteHeader(status int)      { a.status = status }
func (a *refusal) Write(b []byte) (int, error) { return len(b), nil }
