package console

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"time"

	"github.com/sekisho/sekisho/events"
	"github.com/sekisho/sekisho/services/internal/httpapi"
	"github.com/sekisho/sekisho/services/internal/sessions"
)

// byAdmin says in the record who ended a session.
const byAdmin = "admin"

func (c *console) listSessions(w http.ResponseWriter, r *http.Request) (int, any, error) {
	u, err := c.find(r)
	if err != nil {
		return 0, nil, err
	}
	found, err := c.sessions.List(r.Context(), u.ID)
	if err != nil {
		return 0, nil, err
	}
	type session struct {
		ID       string    `json:"id"` // <gateway>.<login>
		App      string    `json:"app"`
		AMR      []string  `json:"amr"`
		ACR      string    `json:"acr"`
		Created  time.Time `json:"created"`
		LastSeen time.Time `json:"last_seen"`
		Expires  time.Time `json:"expires"`
	}
	list := make([]session, len(found))
	for i, s := range found {
		list[i] = session{s.Login.Gateway + "." + s.Login.ID, s.App, s.AMR, s.ACR, s.Created.UTC(), s.LastSeen.UTC(), s.Expires.UTC()}
	}
	return http.StatusOK, map[string]any{"sessions": list}, nil
}

func (c *console) endSession(w http.ResponseWriter, r *http.Request) (int, any, error) {
	u, err := c.find(r)
	if err != nil {
		return 0, nil, err
	}
	unknown := &httpapi.Problem{Status: http.StatusNotFound, Detail: "the user has no such session"}
	login, err := events.ParseLogin(strings.Replace(r.PathValue("id"), ".", "/", 1))
	if err != nil {
		return 0, nil, unknown
	}
	session, err := c.sessions.Get(r.Context(), login)
	if errors.Is(err, sessions.ErrNotFound) || err == nil && session.User != u.ID {
		return 0, nil, unknown
	}
	if err != nil {
		return 0, nil, err
	}
	if _, err := c.sessions.Revoke(r.Context(), login, byAdmin); err != nil {
		return 0, nil, err
	}
	if err := c.told(r.Context(), u.ID, []events.Login{login}); err != nil {
		return 0, nil, err
	}
	return http.StatusNoContent, nil, nil
}

// endSessions ends all sessions of a user. They are over once that is committed; a gateway that is not told finds out
// when it reads again.
func (c *console) endSessions(ctx context.Context, id string) error {
	ended, err := c.sessions.RevokeUser(ctx, id, byAdmin)
	if err != nil || len(ended) == 0 {
		return err
	}
	return c.told(ctx, id, ended)
}

// signalWait bounds how long an admin waits until the gateways are told of sessions that have ended.
const signalWait = 2 * time.Second

// told has it recorded that sessions have ended, and tells the gateways. That is a signal only: see endSessions.
func (c *console) told(ctx context.Context, id string, ended []events.Login) error {
	if err := c.outbox.Announce(ctx, "sessions_revoked", id, map[string]int{"sessions": len(ended)}); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, signalWait)
	defer cancel()
	for _, login := range ended {
		if err := c.bus.Revoke(ctx, login); err != nil {
			c.log.Warn().Err(err).Msg("gateways are not told of sessions that have ended: they find out by themselves")
			break
		}
	}
	return nil
}
