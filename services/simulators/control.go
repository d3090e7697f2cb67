package simulators

import (
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"time"

	"golang.org/x/text/secure/precis"

	"github.com/sekisho/sekisho/services/internal/httpapi"
)

// control is the API by which people and tests see and steer the simulators.
func (s *Simulators) control() http.Handler {
	mux := http.NewServeMux()
	route := func(method, path string, handler func(http.ResponseWriter, *http.Request) error) {
		mux.HandleFunc(method+" "+path, func(w http.ResponseWriter, r *http.Request) {
			if p, ok := errors.AsType[*httpapi.Problem](handler(w, r)); ok { // there are no other errors
				p.Write(w)
			}
		})
	}
	route("GET", "/sim/sms/messages", s.getMessages)
	route("GET", "/sim/push/messages", s.getPushMessages)
	route("POST", "/sim/push/subscriptions", s.postSubscription)
	route("DELETE", "/sim/push/subscriptions/{id}", s.deleteSubscription)
	route("PUT", "/sim/faults/{provider}", s.putFault)
	route("PUT", "/sim/risk/users/{user}", s.putRisk)
	route("GET", "/sim/calls", s.getCalls)
	return httpapi.Routes(mux)
}

var phoneNumber = regexp.MustCompile(`^(\+[1-9][0-9]{1,14}|0[0-9]{9,10})$`)

func (s *Simulators) getMessages(w http.ResponseWriter, r *http.Request) error {
	// A plus sign that was not escaped arrives as a space.
	to := strings.ReplaceAll(r.FormValue("to"), " ", "+")
	if to != "" && !phoneNumber.MatchString(to) {
		return httpapi.Invalid("to", "neither E.164 nor a Japanese national number")
	}
	var since time.Time
	if text := strings.ReplaceAll(r.FormValue("since"), " ", "+"); text != "" {
		var err error
		if since, err = time.Parse(time.RFC3339, text); err != nil {
			return httpapi.Invalid("since", "not a time of RFC 3339")
		}
	}
	found, _ := s.phones.find(arrived(e164(to), since))
	httpapi.Write(w, http.StatusOK, found)
	return nil
}

func (s *Simulators) getCalls(w http.ResponseWriter, r *http.Request) error {
	provider := r.FormValue("provider")
	if provider != "" && !slices.Contains(Providers, provider) {
		return httpapi.Invalid("provider", fmt.Sprintf("there are %v", Providers))
	}
	httpapi.Write(w, http.StatusOK, s.Calls(provider))
	return nil
}

func (s *Simulators) putFault(w http.ResponseWriter, r *http.Request) error {
	provider := r.PathValue("provider")
	if !slices.Contains(Providers, provider) {
		return &httpapi.Problem{Status: http.StatusNotFound, Detail: fmt.Sprintf("no such provider, there are %v", Providers)}
	}
	body := struct {
		Mode  Mode     `json:"mode"`
		Rate  *float64 `json:"rate"`
		Delay string   `json:"delay"`
	}{}
	if err := httpapi.Decode(w, r, maxBody, &body); err != nil {
		return err
	}
	if body.Mode == "" {
		return httpapi.Invalid("mode", "is required")
	}
	fault := Fault{Mode: body.Mode}
	if body.Rate != nil {
		// Fault takes 0 for its default, which nobody means who writes it.
		if fault.Rate = *body.Rate; fault.Rate == 0 && body.Mode != None {
			return httpapi.Invalid("rate", "must be greater than 0; mode none switches a fault off")
		}
	}
	if body.Delay != "" {
		var err error
		if fault.Delay, err = time.ParseDuration(body.Delay); err != nil {
			return httpapi.Invalid("delay", `not a duration such as "2s"`)
		}
	}
	if err := s.SetFault(provider, fault); err != nil {
		return httpapi.Invalid("", err.Error())
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

func (s *Simulators) putRisk(w http.ResponseWriter, r *http.Request) error {
	var body struct {
		Result string `json:"result"`
	}
	if err := httpapi.Decode(w, r, maxBody, &body); err != nil {
		return err
	}
	user, err := precis.UsernameCaseMapped.String(r.PathValue("user")) // as people may write it
	if err != nil {
		return httpapi.Invalid("user", "not a user name")
	}
	if err := s.SetRisk(user, body.Result); err != nil {
		return httpapi.Invalid("", err.Error())
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}
