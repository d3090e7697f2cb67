// Package httpapi is what Sekisho's HTTP APIs have in common: a strict JSON decoder and problem documents (RFC 9457).
package httpapi

import (
	"errors"
	"io"
	"mime"
	"net/http"
	"strings"
	"unicode/utf8"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

// Decode reads the body, one JSON object of at most max bytes, into the struct that dst points to. It is stricter than
// encoding/json: names are case-sensitive, and unknown fields, duplicate keys, invalid UTF-8 and anything after the
// object are refused, so that no two readers of one body can disagree on what it says.
//
// Errors are a *[Problem]: 413 too large, 415 not application/json, 400 not JSON, 422 an unknown field or a wrong
// type. Where a field is to blame the problem names it. No problem repeats a value of the body.
func Decode(w http.ResponseWriter, r *http.Request, max int64, dst any) error {
	media, params, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	charset, given := params["charset"]
	if err != nil || media != "application/json" || given && !strings.EqualFold(charset, "utf-8") {
		return &Problem{Status: http.StatusUnsupportedMediaType, Detail: "want Content-Type: application/json"}
	}
	body, err := ReadBody(w, r, max)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(body, dst, json.RejectUnknownMembers(true)); err != nil {
		var whole any
		if malformed := json.Unmarshal(body, &whole); malformed != nil { // which comes before a part that is wrong
			err = malformed
		}
		return decodeProblem(err)
	}
	if jsontext.Value(body).Kind() != '{' {
		return &Problem{Status: http.StatusUnprocessableEntity, Detail: "want a JSON object"}
	}
	return nil
}

// ReadBody reads a body of at most max bytes. Errors are a *[Problem].
func ReadBody(w http.ResponseWriter, r *http.Request, max int64) ([]byte, error) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, max))
	if _, tooLarge := errors.AsType[*http.MaxBytesError](err); tooLarge {
		return nil, &Problem{Status: http.StatusRequestEntityTooLarge, Detail: "the body is too large"}
	}
	if err != nil {
		return nil, &Problem{Status: http.StatusBadRequest, Detail: "the body ended early"}
	}
	return body, nil
}

func decodeProblem(err error) *Problem {
	if syntax, ok := errors.AsType[*jsontext.SyntacticError](err); ok {
		p := &Problem{Status: http.StatusBadRequest, Detail: "not JSON in UTF-8"}
		if errors.Is(err, jsontext.ErrDuplicateName) {
			p.Field, p.Detail = field(syntax.JSONPointer), "the field stands twice"
		}
		return p
	}
	p := &Problem{Status: http.StatusUnprocessableEntity, Detail: "wrong type"}
	if wrong, ok := errors.AsType[*json.SemanticError](err); ok {
		p.Field = field(wrong.JSONPointer)
		if errors.Is(err, json.ErrUnknownName) {
			p.Detail = "unknown field"
		}
		if p.Field == "" {
			p.Detail = "want a JSON object"
		}
	}
	return p
}

// field names the place in the body: "user", "codes/0". Names come from the client, so they are bounded.
func field(pointer jsontext.Pointer) string {
	name := strings.TrimPrefix(string(pointer), "/")
	for len(name) > 64 {
		_, size := utf8.DecodeLastRuneInString(name)
		name = name[:len(name)-size]
	}
	return name
}
