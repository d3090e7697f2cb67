package console

import (
	"context"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/sekisho/sekisho/services/internal/directory"
	"github.com/sekisho/sekisho/services/internal/httpapi"
)

// Kinds of authenticators. Of the first two a user has one at most, and the kind is its id too; ids of the others are
// [directory.DeviceOf], and "token:" before the id of the token.
const (
	authPassword = "password"
	authSMS      = "sms"
	authPush     = "push"
	authToken    = "token"
)

type authenticator struct {
	ID       string    `json:"id"`
	Kind     string    `json:"kind"`
	Name     string    `json:"name,omitempty"` // of a phone, as the user calls it; of a token, its serial number
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
	found, err := c.users.Authenticators(r.Context(), u.ID)
	if err != nil {
		return 0, nil, err
	}
	at := slices.IndexFunc(found, func(a directory.Authenticator) bool { return a.ID == id })
	if at < 0 {
		return 0, nil, errNoAuthenticator
	}
	err = c.take(r.Context(), u.ID, func(ctx context.Context) error {
		if device, ok := strings.CutPrefix(id, directory.DeviceOf("")); ok {
			return c.devices.Remove(ctx, u.ID, device, "")
		}
		if found[at].Kind == authToken {
			_, err := c.tokens.Unassign(ctx, found[at].Name)
			return err
		}
		change := directory.Change{PasswordHash: new("")}
		if id == authSMS {
			change = directory.Change{Phone: new("")}
		}
		_, err := c.users.Change(ctx, u.ID, change)
		return err
	})
	if err != nil {
		return 0, nil, err
	}
	return http.StatusNoContent, nil, nil
}

var errNoAuthenticator = &httpapi.Problem{Status: http.StatusNotFound, Detail: "the user has no such authenticator"}

// take takes an authenticator away and ends the user's sessions, which whoever has it may hold. They end first, so that after a failure
// there is still something to take away and to try again with; and once more at the end, since one may have begun in between.
func (c *console) take(ctx context.Context, user string, remove func(context.Context) error) error {
	if err := c.endSessions(ctx, user); err != nil {
		return err
	}
	if err := remove(ctx); err != nil {
		return err
	}
	return c.endSessions(ctx, user)
}
