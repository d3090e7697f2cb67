package gateway

import (
	"context"
	"errors"
	"sync"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"golang.org/x/sync/singleflight"

	"github.com/sekisho/sekisho/events"
	"github.com/sekisho/sekisho/services/internal/directory"
	"github.com/sekisho/sekisho/services/internal/sessions"
)

const (
	// sessionAge is how long a session that was read is believed. A revocation is heard at once; this is the bound for a
	// gateway that has lost the bus.
	sessionAge = 5 * time.Second
	// readWait bounds one reading, which several requests may share.
	readWait = 5 * time.Second
	// maxSessions bounds the memory of the cache, at about 500 bytes each.
	maxSessions = 50_000
)

// liveSessions answers whose a session is, mostly from memory.
type liveSessions struct {
	store *sessions.Store
	now   func() time.Time
	reads singleflight.Group

	begun *lru.Cache[events.Login, string] // logins that this instance started, and the names of their users

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
	begun, err := lru.New[events.Login, string](maxSessions)
	if err != nil {
		return nil, err
	}
	return &liveSessions{store: store, now: now, begun: begun, known: known}, nil
}

// begin notes who logs in. A name that can not be one is nobody's, and is never granted anything.
func (l *liveSessions) begin(login events.Login, user string) {
	if name, err := directory.CanonicalName(user); err == nil {
		l.begun.Add(login, name)
	}
}

// granted is get for a login that is granted. The grant says all that the record says of the session but its user's name,
// which the instance knows where the login began. So there the record is not read until what the grant says is too old.
func (l *liveSessions) granted(ctx context.Context, state *events.State) (*sessions.Session, error) {
	if name, ok := l.begun.Get(state.Login); ok {
		l.learn(&sessions.Session{
			Login: state.Login, User: state.Closed.User, Name: name, App: state.Closed.App, AMR: state.Closed.AMR, ACR: state.Closed.ACR,
			AuthTime: state.Closed.AuthTime, Created: state.ClosedAt, LastSeen: state.ClosedAt, // nobody has used it yet
			Idle:    2 * sessionAge,                                  // not in the grant; longer than this session is believed, so it does not end it
			Expires: state.Closed.Expires.Truncate(time.Microsecond), // as the record has it
		})
	}
	return l.get(ctx, state.Login)
}

// learn takes in what a grant says of a session, unless something is known already: it may have been revoked.
func (l *liveSessions) learn(session *sessions.Session) {
	at := session.Created
	if now := l.now(); at.After(now) { // by the broker's clock
		at = now
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.known.Contains(session.Login) {
		l.known.Add(session.Login, knownSession{session: session, at: at})
	}
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
	// Others may share this reading, so it goes on when the first of them leaves.
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
