package gateway

import (
	"errors"
	"mime"
	"net/http"

	"github.com/sekisho/sekisho/services/internal/httpapi"
)

// errForged says that a form does not come from a page that this browser got.
var errForged = &httpapi.Problem{Status: http.StatusForbidden}

// What a form is about. Forms of a login's page have its id here.
const (
	aboutLogin  = "login"
	aboutLogout = "logout"
)

// formToken binds a form to the browser and to what the form is about (SP 800-63B-4 section 5.1 wants a session identifier
// in the content of a POST).
func (g *gateway) formToken(w http.ResponseWriter, r *http.Request, about string) string {
	return tokenEncoding.EncodeToString(g.keys.mac(formToken, g.browser(w, r)+"/"+about))
}

// readForm reads a posted form into r.PostForm and makes sure that it is ours.
func (g *gateway) readForm(w http.ResponseWriter, r *http.Request, about string) error {
	if err := g.crossOrigin.Check(r); err != nil {
		return errForged
	}
	media, _, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if err != nil || media != "application/x-www-form-urlencoded" {
		return &httpapi.Problem{Status: http.StatusUnsupportedMediaType}
	}
	r.Body = http.MaxBytesReader(w, r.Body, g.cfg.Gateway.MaxBody)
	err = r.ParseForm()
	if _, tooLarge := errors.AsType[*http.MaxBytesError](err); tooLarge {
		return &httpapi.Problem{Status: http.StatusRequestEntityTooLarge}
	}
	if err != nil {
		return &httpapi.Problem{Status: http.StatusBadRequest}
	}
	browser := cookieValue(r, browserName)
	sum, err := tokenEncoding.DecodeString(r.PostForm.Get("csrf"))
	if err != nil || browser == "" || !g.keys.valid(formToken, browser+"/"+about, sum) {
		return errForged
	}
	return nil
}
