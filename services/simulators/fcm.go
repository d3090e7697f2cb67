package simulators

import (
	"crypto/rand"
	"crypto/rsa"
	"encoding/json"
	"errors"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

// fcm is Firebase Cloud Messaging, HTTP v1, and the token server of its service accounts.
type fcm struct {
	project, email string
	key            *rsa.PublicKey
	now            func() time.Time
	apps           *apps

	mu     sync.Mutex
	issued map[string]time.Time // access tokens and their ends
}

const (
	fcmTokenPath    = "/fcm/token"
	fcmTokenLife    = time.Hour
	fcmScope        = "https://www.googleapis.com/auth/firebase.messaging"
	fcmPriorityHigh = "HIGH"
)

func newFCM(cfg Config, a *apps) *fcm {
	return &fcm{project: cfg.FCMProject, email: cfg.FCMEmail, key: cfg.FCMKey, now: cfg.Now, apps: a, issued: make(map[string]time.Time)}
}

func (f *fcm) routes() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST "+fcmTokenPath, f.token)
	mux.HandleFunc("POST /fcm/v1/projects/{project}/messages:send", f.send)
	return mux
}

func fcmFailure(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path == fcmTokenPath {
		writeJSON(w, http.StatusInternalServerError, map[string]string{"error": "internal_failure"})
		return
	}
	fcmError(w, http.StatusInternalServerError, "INTERNAL", "INTERNAL")
}

// fcmError writes an error of Google's APIs; code is FCM's own, if it has one for the case.
func fcmError(w http.ResponseWriter, status int, name, code string) {
	details := []map[string]string{}
	if code != "" {
		details = append(details, map[string]string{"@type": "type.googleapis.com/google.firebase.fcm.v1.FcmError", "errorCode": code})
	}
	writeJSON(w, status, map[string]any{"error": map[string]any{"code": status, "message": name, "status": name, "details": details}})
}

// token trades a signed assertion for an access token (RFC 7523 section 2.1).
func (f *fcm) token(w http.ResponseWriter, r *http.Request) {
	var claims struct {
		jwt.RegisteredClaims
		Scope string `json:"scope"`
	}
	_, err := jwt.ParseWithClaims(r.FormValue("assertion"), &claims, f.keyOf,
		jwt.WithValidMethods([]string{"RS256"}), jwt.WithIssuer(f.email), jwt.WithAudience("http://"+r.Host+fcmTokenPath),
		jwt.WithIssuedAt(), jwt.WithExpirationRequired(), jwt.WithTimeFunc(f.now))
	if r.FormValue("grant_type") != "urn:ietf:params:oauth:grant-type:jwt-bearer" || err != nil ||
		claims.Scope != fcmScope || claims.ExpiresAt.Sub(f.now()) > time.Hour {
		writeJSON(w, http.StatusBadRequest, map[string]string{"error": "invalid_grant", "error_description": "Invalid JWT Signature."})
		return
	}
	token, now := "ya29."+rand.Text(), f.now()
	f.mu.Lock()
	for issued, end := range f.issued {
		if now.After(end) || len(f.issued) == kept {
			delete(f.issued, issued)
		}
	}
	f.issued[token] = now.Add(fcmTokenLife)
	f.mu.Unlock()
	writeJSON(w, http.StatusOK, map[string]any{"access_token": token, "expires_in": int(fcmTokenLife / time.Second), "token_type": "Bearer"})
}

func (f *fcm) keyOf(*jwt.Token) (any, error) {
	if f.key == nil {
		return nil, errors.New("there is no service account")
	}
	return f.key, nil
}

func (f *fcm) authorized(r *http.Request) bool {
	token, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	f.mu.Lock()
	defer f.mu.Unlock()
	end, issued := f.issued[token]
	return ok && issued && f.now().Before(end)
}

func (f *fcm) send(w http.ResponseWriter, r *http.Request) {
	if !f.authorized(r) {
		fcmError(w, http.StatusUnauthorized, "UNAUTHENTICATED", "")
		return
	}
	if r.PathValue("project") != f.project {
		fcmError(w, http.StatusNotFound, "NOT_FOUND", "")
		return
	}
	var body struct {
		Message struct {
			Token   string            `json:"token"`
			Data    map[string]string `json:"data"`
			Android struct {
				Priority    string `json:"priority"`
				TTL         string `json:"ttl"`
				CollapseKey string `json:"collapse_key"`
			} `json:"android"`
		} `json:"message"`
	}
	err := json.NewDecoder(r.Body).Decode(&body)
	m := body.Message
	ttl, ttlErr := time.ParseDuration(m.Android.TTL)
	if err != nil || ttlErr != nil || ttl < 0 || !strings.HasSuffix(m.Android.TTL, "s") {
		fcmError(w, http.StatusBadRequest, "INVALID_ARGUMENT", "INVALID_ARGUMENT")
		return
	}
	s, ok := f.apps.find(m.Token, FCM)
	if !ok {
		fcmError(w, http.StatusBadRequest, "INVALID_ARGUMENT", "INVALID_ARGUMENT")
		return
	}
	if s.ended {
		fcmError(w, http.StatusNotFound, "NOT_FOUND", "UNREGISTERED")
		return
	}
	urgency := "normal"
	if m.Android.Priority == fcmPriorityHigh {
		urgency = "high"
	}
	f.apps.messages.note(PushMessage{
		User: s.user, Body: m.Data["body"], At: f.now(), Provider: FCM, Topic: m.Android.CollapseKey, Urgency: urgency, TTL: int(ttl / time.Second),
	})
	writeJSON(w, http.StatusOK, map[string]string{"name": "projects/" + f.project + "/messages/" + rand.Text()})
}
