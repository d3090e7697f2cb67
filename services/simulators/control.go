package simulators

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"time"

	jsonv2 "github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

// control is the API by which people and tests see and steer the simulators. What it answers to bad
// input is a problem document (RFC 9457).
func (s *Simulators) control() http.Handler {
	mux := http.NewServeMux()
	route := func(method, path string, handler func(http.ResponseWriter, *http.Request) *problem) {
		mux.HandleFunc(method+" "+path, func(w http.ResponseWriter, r *http.Request) {
			if p := handler(w, r); p != nil {
				p.write(w)
			}
		})
		allow := method
		if method == http.MethodGet {
			allow = "GET, HEAD"
		}
		mux.HandleFunc(path, func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Allow", allow)
			(&problem{http.StatusMethodNotAllowed, "use " + method}).write(w)
		})
	}
	route("GET", "/sim/sms/messages", s.getMessages)
	route("GET", "/sim/push/messages", s.getPushMessages)
	route("POST", "/sim/push/subscriptions", s.postSubscription)
	route("DELETE", "/sim/push/subscriptions/{id}", s.deleteSubscription)
	route("PUT", "/sim/faults/{provider}", s.putFault)
	route("PUT", "/sim/risk/users/{user}", s.putRisk)
	route("GET", "/sim/calls", s.getCalls)
	mux.HandleFunc("/sim/", func(w http.ResponseWriter, r *http.Request) {
		(&problem{http.StatusNotFound, "no such resource"}).write(w)
	})
	return mux
}

// problem is why a control request was turned down.
type problem struct {
	status int
	detail string
}

func (p *problem) write(w http.ResponseWriter) {
	w.Header().Set("Content-Type", "application/problem+json")
	writeJSON(w, p.status, map[string]any{
		"type": "about:blank", "title": http.StatusText(p.status), "status": p.status, "detail": p.detail,
	})
}

func wrong(field string, err error) *problem {
	return &problem{http.StatusUnprocessableEntity, fmt.Sprintf("%s: %v", field, err)}
}

func writeJSON(w http.ResponseWriter, status int, v any) {
	if w.Header().Get("Content-Type") == "" {
		w.Header().Set("Content-Type", "application/json")
	}
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(v) // fails only where the client is gone
}

var phoneNumber = regexp.MustCompile(`^(\+[1-9][0-9]{1,14}|0[0-9]{9,10})$`)

func (s *Simulators) getMessages(w http.ResponseWriter, r *http.Request) *problem {
	// A plus sign that was not escaped arrives as a space.
	to := strings.ReplaceAll(r.FormValue("to"), " ", "+")
	if to != "" && !phoneNumber.MatchString(to) {
		return wrong("to", errors.New("neither E.164 nor a Japanese national number"))
	}
	var since time.Time
	if text := strings.ReplaceAll(r.FormValue("since"), " ", "+"); text != "" {
		var err error
		if since, err = time.Parse(time.RFC3339, text); err != nil {
			return wrong("since", errors.New("not a time of RFC 3339"))
		}
	}
	found, _ := s.phones.find(arrived(e164(to), since))
	writeJSON(w, http.StatusOK, found)
	return nil
}

func (s *Simulators) getCalls(w http.ResponseWriter, r *http.Request) *problem {
	provider := r.FormValue("provider")
	if provider != "" && !slices.Contains(Providers, provider) {
		return wrong("provider", fmt.Errorf("there are %v", Providers))
	}
	writeJSON(w, http.StatusOK, s.Calls(provider))
	return nil
}

func (s *Simulators) putFault(w http.ResponseWriter, r *http.Request) *problem {
	provider := r.PathValue("provider")
	if !slices.Contains(Providers, provider) {
		return &problem{http.StatusNotFound, fmt.Sprintf("no such provider, there are %v", Providers)}
	}
	body := struct {
		Mode  Mode     `json:"mode"`
		Rate  *float64 `json:"rate"`
		Delay string   `json:"delay"`
	}{}
	if p := readJSON(w, r, &body); p != nil {
		return p
	}
	if body.Mode == "" {
		return wrong("mode", errors.New("is required"))
	}
	fault := Fault{Mode: body.Mode}
	if body.Rate != nil {
		// Fault takes 0 for its default, which nobody means who writes it.
		if fault.Rate = *body.Rate; fault.Rate == 0 {
			return wrong("rate", errors.New("must be greater than 0; mode none switches a fault off"))
		}
	}
	if body.Delay != "" {
		var err error
		if fault.Delay, err = time.ParseDuration(body.Delay); err != nil {
			return wrong("delay", errors.New(`not a duration such as "2s"`))
		}
	}
	if err := s.SetFault(provider, fault); err != nil {
		return &problem{http.StatusUnprocessableEntity, err.Error()}
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

func (s *Simulators) putRisk(w http.ResponseWriter, r *http.Request) *problem {
	var body struct {
		Result string `json:"result"`
	}
	if p := readJSON(w, r, &body); p != nil {
		return p
	}
	if err := s.SetRisk(r.PathValue("user"), body.Result); err != nil {
		return &problem{http.StatusUnprocessableEntity, err.Error()}
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

// readJSON decodes the body strictly: UTF-8, no duplicate names, nothing after the value (else 400), no
// unknown names and no wrong types (else 422).
func readJSON(w http.ResponseWriter, r *http.Request, v any) *problem {
	if media, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || media != "application/json" {
		return &problem{http.StatusUnsupportedMediaType, "the body must be application/json"}
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	if err != nil {
		return &problem{http.StatusRequestEntityTooLarge, fmt.Sprintf("the body may have %d bytes", maxBody)}
	}
	// The syntax is checked first and whole, so that a type error never hides malformed JSON.
	if !jsontext.Value(body).IsValid() {
		return &problem{http.StatusBadRequest, "the body is not valid JSON"}
	}
	err = jsonv2.Unmarshal(body, v, jsonv2.RejectUnknownMembers(true))
	if semantic, ok := errors.AsType[*jsonv2.SemanticError](err); ok {
		return wrong(string(semantic.JSONPointer), errors.New("unknown, or of the wrong type"))
	}
	if err != nil {
		return &problem{http.StatusBadRequest, "the body is not valid JSON"}
	}
	return nil
}
