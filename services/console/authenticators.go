package console

import (
	"context"
	"net/http"
	"strings"
	"time"

	"github.com/sekisho/sekisho/services/internal/directory"
	"github.com/sekisho/sekisho/services/internal/httpapi"
)

// Kinds of authenticators. Of the first two a user has one at most, and the kind is its id too; ids of the third are
// [directory.DeviceOf].
const (
	authPassword = "password"
	authSMS      = "sms"
	authPush     = "push"
)

type authenticator struct {
	ID       string    `json:"id"`
	Kind     string    `json:"kind"`
	Name     string    `json:"name,omitempty"` // of a phone, as the user calls it
	Changed  time.Time `json:"changed"`
	Failures int       `json:"failures"` // in a row
	Locked   bool      `json:"locked"`   // by them
}

func (c *console) listAuthenticators(w http.ResponseWriter, r *http.Request) (int, any, error) {
	u, err := c.find(r)
	if err != nil {
		return 0, nil, err
	}
	found, err := c.users.Authenticators(r.Context(), u.ID)
	if err != nil {
		return 0, nil, err
	}
	list := make([]authenticator, len(found))
	for i, a := range found {
		list[i] = authenticator{a.ID, a.Kind, a.Name, a.Changed.UTC(), a.Failures, a.Locked}
	}
	return http.StatusOK, map[string]any{"authenticators": list}, nil
}

func (c *console) removeAuthenticator(w http.ResponseWriter, r *http.Request) (int, any, error) {
	u, err := c.find(r)
	if err != nil {
		return 0, nil, err
	}
	id := r.PathValue("id")
	if device, ok := strings.CutPrefix(id, directory.DeviceOf("")); ok {
		if err := c.removeDevice(r.Context(), u.ID, device); err != nil {
			return 0, nil, err
		}
		return http.StatusNoContent, nil, nil
	}
	var change directory.Change
	switch {
	case id == authPassword && u.HasPassword:
		change.PasswordHash = new("")
	case id == authSMS && u.Phone != "":
		change.Phone = new("")
	default:
		return 0, nil, errNoAuthenticator
	}
	if _, err := c.apply(r.Context(), u.ID, change); err != nil {
		return 0, nil, err
	}
	return http.StatusNoContent, nil, nil
}

var errNoAuthenticator = &httpapi.Problem{Status: http.StatusNotFound, Detail: "the user has no such authenticator"}

// removeDevice also ends the user's sessions: whoever has the phone may hold them.
func (c *console) removeDevice(ctx context.Context, user, device string) error {
	if err := c.users.RemoveDevice(ctx, user, device); err != nil {
		return err
	}
	if err := c.endSessions(ctx, user); err != nil {
		return err
	}
	return c.announce(ctx, "device-removed", user, map[string]string{"device": device})
}
