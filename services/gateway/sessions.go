package gateway

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"sync"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"golang.org/x/sync/singleflight"

	"github.com/sekisho/sekisho/events"
	"github.com/sekisho/sekisho/services/internal/httpapi"
	"github.com/sekisho/sekisho/services/internal/sessions"
)

const (
	// sessionAge is how old what is known of a session may be. A revocation is heard at once; this bounds it for a
	// gateway that has lost the bus.
	sessionAge = 5 * time.Second
	// readWait bounds one reading, which several requests may share.
	readWait = 5 * time.Second
	// signalWait bounds the signal of a revocation, which needs the bus.
	signalWait = 2 * time.Second
	// maxSessions bounds the memory of the cache, at about 500 bytes each.
	maxSessions = 50_000
)

// errNobody says that the request comes with no good session.
var errNobody = &httpapi.Problem{Status: http.StatusUnauthorized}

// liveSessions answers whose a session is, mostly from memory.
type liveSessions struct {
	store *sessions.Store
	now   func() time.Time
	reads singleflight.Group

	mu    sync.Mutex
	known *lru.Cache[events.Login, knownSession]
}

type knownSession struct {
	session *sessions.Session // nil: there is none
	at      time.Time         // when it was read
	revoked bool              // heard; what is read later may still be from before
}

func newLiveSessions(store *sessions.Store, now func() time.Time) (*liveSessions, error) {
	known, err := lru.New[events.Login, knownSession](maxSessions)
	if err != nil {
		return nil, err
	}
	return &liveSessions{store: store, now: now, known: known}, nil
}

// revoked ends a session here at once.
func (l *liveSessions) revoked(login events.Login) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.known.Add(login, knownSession{revoked: true})
}

// get is the session of a login, used or not; errNobody if it is not good.
func (l *liveSessions) get(ctx context.Context, login events.Login) (*sessions.Session, error) {
	l.mu.Lock()
	k, ok := l.known.Get(login)
	l.mu.Unlock()
	if !ok || !k.revoked && l.now().Sub(k.at) >= sessionAge {
		var err error
		if k, err = l.read(ctx, login); err != nil {
			return nil, err
		}
	}
	if k.revoked || k.session == nil || !k.session.Live(l.now()) {
		return nil, errNobody
	}
	return k.session, nil
}

func (l *liveSessions) read(ctx context.Context, login events.Login) (knownSession, error) {
	// The first of those who ask must not take the others' answer away when it leaves.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), readWait)
	defer cancel()
	k, err, _ := l.reads.Do(login.String(), func() (any, error) {
		k := knownSession{at: l.now()}
		session, err := l.store.Get(ctx, login)
		if err != nil && !errors.Is(err, sessions.ErrNotFound) {
			return k, err
		}
		k.session = session
		l.mu.Lock()
		defer l.mu.Unlock()
		if before, ok := l.known.Peek(login); ok && before.revoked {
			return before, nil
		}
		l.known.Add(login, k)
		return k, nil
	})
	return k.(knownSession), err
}

// use is get for a request that comes with the session's token, and keeps the session from idling out.
func (l *liveSessions) use(ctx context.Context, login events.Login) (*sessions.Session, error) {
	session, err := l.get(ctx, login)
	if err != nil {
		return nil, err
	}
	if session.Used() && l.now().Sub(session.LastSeen) < min(time.Minute, session.Idle/4) { // Touch would write nothing
		return session, nil
	}
	if err := l.store.Touch(ctx, login); err != nil {
		return nil, err
	}
	if _, err := l.read(ctx, login); err != nil {
		return nil, err
	}
	return l.get(ctx, login)
}

// end revokes a session: in the record first, then here, then everywhere.
func (g *gateway) endSession(ctx context.Context, login events.Login) error {
	if _, err := g.sessions.store.Revoke(ctx, login, "user"); err != nil {
		return err
	}
	g.sessions.revoked(login)
	ctx, cancel := context.WithTimeout(ctx, signalWait)
	defer cancel()
	if err := g.bus.Revoke(ctx, login); err != nil {
		// The session has ended, and gateways that did not hear so read it again within seconds.
		g.log.Warn().Err(err).Str("login", login.String()).Msg("revocation was not signaled")
	}
	return nil
}

// session is the session whose token the request carries: as bearer token, or as cookie where cookies count.
func (g *gateway) session(r *http.Request, cookies bool) (*sessions.Session, error) {
	token, bearer := bearerToken(r)
	if !bearer && cookies {
		token = cookieValue(r, g.sessionCookie("", 0).Name)
	}
	login, ok := g.keys.login(sessionToken, token)
	if !ok {
		return nil, errNobody
	}
	return g.sessions.use(r.Context(), login)
}

func bearerToken(r *http.Request) (token string, ok bool) {
	scheme, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	if !strings.EqualFold(scheme, "Bearer") {
		return "", false
	}
	return token, true
}

// whoAmI answers GET /v1/session.
func (g *gateway) whoAmI(w http.ResponseWriter, r *http.Request) error {
	s, err := g.session(r, g.border.cookiesCount(r))
	if err != nil {
		return err
	}
	httpapi.Write(w, http.StatusOK, struct {
		User     string    `json:"user"`
		App      string    `json:"app"`
		AMR      []string  `json:"amr"`
		ACR      string    `json:"acr"`
		AuthTime time.Time `json:"auth_time"`
		Expires  time.Time `json:"expires"`
	}{s.Name, s.App, s.AMR, s.ACR, s.AuthTime.UTC(), s.Expires.UTC()})
	return nil
}

// logOut answers DELETE /v1/session.
func (g *gateway) logOut(w http.ResponseWriter, r *http.Request) error {
	s, err := g.session(r, g.border.cookiesCount(r))
	if err != nil {
		return err
	}
	if err := g.endSession(r.Context(), s.Login); err != nil {
		return err
	}
	http.SetCookie(w, expired(g.sessionCookie("", 0)))
	w.WriteHeader(http.StatusNoContent)
	return nil
}
