package console

import (
	"net/http"
	"time"

	"github.com/sekisho/sekisho/services/internal/directory"
	"github.com/sekisho/sekisho/services/internal/httpapi"
)

// Ids of authenticators, of which each user has one at most.
const (
	authPassword = "password"
	authSMS      = "sms"
)

func (c *console) listAuthenticators(w http.ResponseWriter, r *http.Request) (int, any, error) {
	u, err := c.find(r)
	if err != nil {
		return 0, nil, err
	}
	found, err := c.users.Authenticators(r.Context(), u.ID)
	if err != nil {
		return 0, nil, err
	}
	type authenticator struct {
		ID       string    `json:"id"`
		Changed  time.Time `json:"changed"`
		Failures int       `json:"failures"` // in a row
		Locked   bool      `json:"locked"`   // by them
	}
	list := make([]authenticator, len(found))
	for i, a := range found {
		list[i] = authenticator{a.ID, a.Changed.UTC(), a.Failures, a.Locked}
	}
	return http.StatusOK, map[string]any{"authenticators": list}, nil
}

func (c *console) removeAuthenticator(w http.ResponseWriter, r *http.Request) (int, any, error) {
	u, err := c.find(r)
	if err != nil {
		return 0, nil, err
	}
	var change directory.Change
	switch id := r.PathValue("id"); {
	case id == authPassword && u.HasPassword:
		change.PasswordHash = new("")
	case id == authSMS && u.Phone != "":
		change.Phone = new("")
	default:
		return 0, nil, &httpapi.Problem{Status: http.StatusNotFound, Detail: "the user has no such authenticator"}
	}
	if _, err := c.apply(r.Context(), u.ID, change); err != nil {
		return 0, nil, err
	}
	return http.StatusNoContent, nil, nil
}
