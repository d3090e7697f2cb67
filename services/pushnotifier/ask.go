package pushnotifier

import (
	"cmp"
	"errors"
	"net/http"
	"time"

	"github.com/sekisho/sekisho/events"
	"github.com/sekisho/sekisho/services/internal/bus"
	"github.com/sekisho/sekisho/services/internal/httpapi"
)

// A promptView is what a device is asked.
type promptView struct {
	Login   string    `json:"login"`
	Round   int       `json:"round"`
	Nonce   string    `json:"nonce"`
	App     string    `json:"app"`
	Place   string    `json:"place,omitempty"`
	Browser string    `json:"browser,omitempty"`
	Asked   time.Time `json:"asked"`
	Expires time.Time `json:"expires"`
	Number  bool      `json:"number"` // approve with the number that the login page shows

	AppNames events.Names `json:"app_names,omitzero"`
}

// A noticeView is what a device is told.
type noticeView struct {
	ID      string    `json:"id"`
	Kind    string    `json:"kind"`
	App     string    `json:"app,omitempty"`
	Place   string    `json:"place,omitempty"`
	Browser string    `json:"browser,omitempty"`
	Device  string    `json:"device,omitempty"` // name of the device that was changed
	At      time.Time `json:"at"`

	AppNames events.Names `json:"app_names,omitzero"`
}

// listPrompts lists what a device is asked and told. Which prompts are open follows from their logins' events: rows may be behind.
func (n *notifier) listPrompts(w http.ResponseWriter, r *http.Request, c caller) error {
	waiting, err := n.store.waiting(r.Context(), c.user, c.device.ID)
	if err != nil {
		return err
	}
	prompts := []promptView{}
	for _, p := range waiting.prompts {
		history, err := n.history(r.Context(), p.Login)
		if err != nil {
			return err
		}
		wanted, _ := bus.Get[*events.Wanted](history, p.Round)
		if wanted == nil || n.open(history, p.Round) == nil {
			continue // not yet challenged, or over
		}
		asked := n.asked(history)
		prompts = append(prompts, promptView{
			Login: p.Login.String(), Round: p.Round, Nonce: encode(p.Nonce), App: cmp.Or(asked.App, wanted.App), Place: asked.Place, Browser: asked.Browser,
			Asked: p.Created.UTC(), Expires: p.Expires.UTC(), Number: !wanted.Tap, AppNames: asked.Names,
		})
	}
	notices := make([]noticeView, len(waiting.notices))
	for i, t := range waiting.notices {
		notices[i] = noticeView{ID: t.ID, Kind: t.Kind, App: t.App, Place: t.Place, Browser: t.Browser, Device: t.Name, At: t.Created.UTC(), AppNames: t.Names}
	}
	httpapi.Write(w, http.StatusOK, map[string]any{"prompts": prompts, "notices": notices})
	return nil
}

// answerPrompt takes a device's answer and says what it came to. The assertion is the request's proof too, so that a device signs
// once; a proof that comes along in the header is not looked at.
func (n *notifier) answerPrompt(w http.ResponseWriter, r *http.Request, c caller) error {
	var asked struct {
		Assertion string `json:"assertion"`
	}
	if err := httpapi.Decode(w, r, maxBody, &asked); err != nil {
		return err
	}
	var claims assertion
	by, err := n.signer(r.Context(), asked.Assertion, assertionType, &claims)
	if err != nil {
		return err
	}
	if !fresh(claims.RegisteredClaims, n.now()) {
		return errAssertion
	}
	if err := n.admit(r.Context(), &c, by, claims.ID); err != nil {
		return err
	}
	v, err := n.answer(r.Context(), c, asked.Assertion, &claims)
	switch {
	case errors.Is(err, errOver):
		return errPromptOver
	case err != nil:
		return err
	}
	result := ""
	switch v.reason {
	case "":
		result = "approved"
	case events.RejectedDenied, events.RejectedNotMe:
		result = "denied"
	case events.RejectedWrong:
		result = "wrong"
	case events.RejectedExhausted:
		result = "over"
	default: // superseded, expired, locked
		return errPromptOver
	}
	httpapi.Write(w, http.StatusOK, struct {
		Result       string `json:"result"`
		AttemptsLeft int    `json:"attempts_left"`
	}{result, max(0, n.settings.Wrong-v.wrong)})
	return nil
}

// errAssertion says that what a known device has signed is no answer at this moment.
var errAssertion = httpapi.Invalid("assertion", "not an answer of this device to a prompt of its user")

var errPromptOver = &httpapi.Problem{Status: http.StatusConflict, Detail: "the prompt is over"}

// answerNotice records that a notice was seen, or that the login which it tells of was not the user's.
func (n *notifier) answerNotice(w http.ResponseWriter, r *http.Request, c caller) error {
	var asked struct {
		Decision string `json:"decision"`
	}
	if err := httpapi.Decode(w, r, maxBody, &asked); err != nil {
		return err
	}
	if asked.Decision != "seen" && asked.Decision != notMe {
		return httpapi.Invalid("decision", "want seen or not_me")
	}
	told, err := n.store.see(r.Context(), r.PathValue("id"), c.device.ID, asked.Decision == notMe)
	switch {
	case err != nil:
		return err
	case told == nil:
		return &httpapi.Problem{Status: http.StatusNotFound}
	case asked.Decision == notMe && told.Login == (events.Login{}):
		return httpapi.Invalid("decision", "this notice is not about a login")
	case asked.Decision == notMe:
		if err := n.protest(r.Context(), told); err != nil {
			return err
		}
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}
