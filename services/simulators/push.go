package simulators

import (
	"context"
	"crypto/ecdh"
	"crypto/rand"
	"encoding/base64"
	"fmt"
	"net/http"
	"sync"
	"time"

	"github.com/sekisho/sekisho/services/internal/httpapi"
)

// PushMessage is a push as it reached the app of a phone.
type PushMessage struct {
	User     string    `json:"user"`
	Body     string    `json:"body"` // as the app reads it, decrypted
	At       time.Time `json:"at"`
	Provider string    `json:"provider"` // WebPush or FCM
	Topic    string    `json:"topic"`
	Urgency  string    `json:"urgency"`
	TTL      int       `json:"ttl"` // seconds
}

// Transports of pushes. Their calls and faults are those of Push.
const (
	WebPush = "webpush"
	FCM     = "fcm"
)

// apps is every phone's app, and what it received.
type apps struct {
	mu            sync.Mutex
	subscriptions map[string]*subscription // by id
	order         []string                 // ids, the oldest first

	messages journal[PushMessage]
}

// A subscription is what an app got from its push service, and gives to those who may push to it.
type subscription struct {
	id, user, transport string
	ended               bool // the app was removed

	// Of Web Push only: what the browser keeps to itself, and the key that the subscription is bound to, if any.
	private *ecdh.PrivateKey
	auth    []byte
	vapid   string
}

func (a *apps) subscribe(user, transport, vapid string) *subscription {
	private, err := ecdh.P256().GenerateKey(rand.Reader)
	if err != nil {
		panic(err) // rand.Reader never fails
	}
	s := &subscription{id: rand.Text(), user: user, transport: transport, vapid: vapid, private: private, auth: make([]byte, 16)}
	rand.Read(s.auth) // never fails
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.order) == kept {
		delete(a.subscriptions, a.order[0])
		a.order = a.order[1:]
	}
	a.subscriptions[s.id], a.order = s, append(a.order, s.id)
	return s
}

// find returns a subscription as it is now.
func (a *apps) find(id, transport string) (s subscription, ok bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	found := a.subscriptions[id]
	if found == nil || found.transport != transport {
		return subscription{}, false
	}
	return *found, true
}

func (a *apps) end(id string) (ok bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	s := a.subscriptions[id]
	if s != nil {
		s.ended = true
	}
	return s != nil
}

func pushedTo(user string) func(PushMessage) bool {
	return func(m PushMessage) bool { return user == "" || m.User == user }
}

// PushMessages returns what the apps of a user received, newest first; everybody's if user is empty.
func (s *Simulators) PushMessages(user string) []PushMessage {
	found, _ := s.apps.messages.find(pushedTo(user))
	return found
}

// WaitPush waits until the apps of a user have received n messages and returns them, newest first. The error is ctx's.
func (s *Simulators) WaitPush(ctx context.Context, user string, n int) ([]PushMessage, error) {
	return s.apps.messages.wait(ctx, n, pushedTo(user))
}

func (s *Simulators) getPushMessages(w http.ResponseWriter, r *http.Request) error {
	httpapi.Write(w, http.StatusOK, s.PushMessages(r.FormValue("user")))
	return nil
}

// postSubscription does what an app does to get pushes. The answer's transport and target are what the app tells Sekisho.
func (s *Simulators) postSubscription(w http.ResponseWriter, r *http.Request) error {
	body := struct {
		User      string `json:"user"`
		Transport string `json:"transport"`
		VAPID     string `json:"vapid"`
	}{Transport: WebPush}
	if err := httpapi.Decode(w, r, maxBody, &body); err != nil {
		return err
	}
	switch {
	case body.User == "":
		return httpapi.Invalid("user", "is required")
	case body.Transport != WebPush && body.Transport != FCM:
		return httpapi.Invalid("transport", fmt.Sprintf("want %s or %s", WebPush, FCM))
	}
	subscribed := s.apps.subscribe(body.User, body.Transport, body.VAPID)
	httpapi.Write(w, http.StatusCreated, map[string]any{
		"id": subscribed.id, "transport": subscribed.transport, "target": subscribed.target("http://" + r.Host),
	})
	return nil
}

// target is what the app gives away: a PushSubscription of the W3C's Push API, or a registration token.
func (s *subscription) target(base string) map[string]any {
	if s.transport == FCM {
		return map[string]any{"token": s.id}
	}
	return map[string]any{
		"endpoint": base + "/webpush/" + s.id,
		"keys": map[string]string{
			"p256dh": base64.RawURLEncoding.EncodeToString(s.private.PublicKey().Bytes()),
			"auth":   base64.RawURLEncoding.EncodeToString(s.auth),
		},
	}
}

func (s *Simulators) deleteSubscription(w http.ResponseWriter, r *http.Request) error {
	if !s.apps.end(r.PathValue("id")) {
		return &httpapi.Problem{Status: http.StatusNotFound, Detail: "no such subscription"}
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}
