package httpapi

import (
	"bytes"
	"encoding/json"
	"math"
	"net/http"
	"strconv"
	"time"
)

// A Problem is an error that the client may know of, as RFC 9457 writes it down. It has no type, which means that its title is the
// status.
type Problem struct {
	Title  string `json:"title"` // empty means the text of the status
	Status int    `json:"status"`
	Detail string `json:"detail,omitempty"`
	Field  string `json:"field,omitempty"` // the field or parameter to blame

	// The login that would help, in the words of the login API: with a 401 for a session that is good, but not enough.
	App    string `json:"app,omitempty"`
	ACR    string `json:"acr,omitempty"`
	Method string `json:"method,omitempty"` // session: by stepping up

	RetryAfter time.Duration `json:"-"` // see [SetRetryAfter]
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
	SetRetryAfter(w, p.RetryAfter)
	write(w, "application/problem+json", p.Status, document)
}

// SetRetryAfter sets the header Retry-After, in seconds rounded up, unless there is nothing to wait for.
func SetRetryAfter(w http.ResponseWriter, wait time.Duration) {
	if wait > 0 {
		w.Header().Set("Retry-After", strconv.Itoa(int(math.Ceil(wait.Seconds()))))
	}
}

// Write answers with v as JSON.
func Write(w http.ResponseWriter, status int, v any) { write(w, "application/json", status, v) }

func write(w http.ResponseWriter, contentType string, status int, v any) {
	var body bytes.Buffer
	encoder := json.NewEncoder(&body)
	encoder.SetEscapeHTML(false)              // people read it, and nobody takes it for HTML: see nosniff
	if err := encoder.Encode(v); err != nil { // a value that can not be JSON is a programmer's mistake
		status, contentType = http.StatusInternalServerError, "application/problem+json"
		body.Reset()
		body.WriteString(`{"title":"Internal Server Error","status":500}` + "\n")
	}
	h := w.Header()
	h.Set("Content-Type", contentType)
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(status)
	w.Write(body.Bytes()) // an error means that the client has gone
}

// Routes serves mux, and turns mux's own answers (404, and 405 with Allow) into problem documents.
func Routes(mux *http.ServeMux) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fallback, pattern := mux.Handler(r)
		if pattern != "" {
			mux.ServeHTTP(w, r)
			return
		}
		answer := refusal{header: make(http.Header)}
		fallback.ServeHTTP(&answer, r)
		if answer.status != http.StatusMethodNotAllowed { // a path such as /a/../b, which the mux would lead elsewhere, is none either
			(&Problem{Status: http.StatusNotFound}).Write(w)
			return
		}
		w.Header().Set("Allow", answer.header.Get("Allow"))
		(&Problem{Status: http.StatusMethodNotAllowed}).Write(w)
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
