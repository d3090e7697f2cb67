package simulators

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"io"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

// webPush is a push service (RFC 8030) together with the browsers that subscribed to it, which decrypt what arrives.
type webPush struct {
	apps *apps
	now  func() time.Time
}

const (
	webPushBodyMax = 4096           // bytes that a service has to take (RFC 8030 section 7.2); this one takes no more
	vapidLifeMax   = 24 * time.Hour // RFC 8292 section 2
)

var (
	webPushTopic = regexp.MustCompile(`^[A-Za-z0-9_-]{1,32}$`)
	vapidHeader  = regexp.MustCompile(`^vapid t=([A-Za-z0-9_.-]+), ?k=([A-Za-z0-9_-]+)$`)
	urgencies    = []string{"", "very-low", "low", "normal", "high"}
)

func (p *webPush) routes() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /webpush/{id}", p.push)
	return mux
}

func webPushFailure(w http.ResponseWriter, _ *http.Request) {
	webPushError(w, http.StatusInternalServerError, "internal error")
}

func webPushError(w http.ResponseWriter, status int, message string) {
	writeJSON(w, status, map[string]any{"code": status, "error": http.StatusText(status), "message": message})
}

func (p *webPush) push(w http.ResponseWriter, r *http.Request) {
	s, ok := p.apps.find(r.PathValue("id"), WebPush)
	if !ok {
		webPushError(w, http.StatusNotFound, "no such subscription")
		return
	}
	if s.ended {
		webPushError(w, http.StatusGone, "subscription has ended")
		return
	}
	if r.Header.Get("Authorization") == "" {
		webPushError(w, http.StatusUnauthorized, "this service wants VAPID")
		return
	}
	if err := p.authorize(r, s.vapid); err != nil {
		webPushError(w, http.StatusForbidden, err.Error())
		return
	}
	ttl, err := strconv.ParseUint(r.Header.Get("TTL"), 10, 31)
	topic, urgency := r.Header.Get("Topic"), r.Header.Get("Urgency")
	switch {
	case err != nil:
		webPushError(w, http.StatusBadRequest, "TTL is required")
		return
	case topic != "" && !webPushTopic.MatchString(topic):
		webPushError(w, http.StatusBadRequest, "Topic has to be 32 characters of base64url at most")
		return
	case !slices.Contains(urgencies, urgency):
		webPushError(w, http.StatusBadRequest, "unknown Urgency")
		return
	case r.Header.Get("Content-Encoding") != "aes128gcm":
		webPushError(w, http.StatusBadRequest, "Content-Encoding has to be aes128gcm")
		return
	}
	body, err := io.ReadAll(r.Body)
	if err != nil || len(body) > webPushBodyMax {
		webPushError(w, http.StatusRequestEntityTooLarge, "message is too large")
		return
	}
	plain, err := s.decrypt(body)
	if err != nil {
		webPushError(w, http.StatusBadRequest, err.Error()) // in the field the browser alone would notice
		return
	}
	p.apps.messages.note(PushMessage{
		User: s.user, Body: string(plain), At: p.now(), Provider: WebPush, Topic: topic, Urgency: urgency, TTL: int(ttl),
	})
	w.Header().Set("Location", "http://"+r.Host+"/webpush-message/"+s.id)
	w.WriteHeader(http.StatusCreated)
}

// authorize checks VAPID (RFC 8292): a token for this origin, for a day at most, signed by the key that is sent along,
// which is the one that the subscription is bound to.
func (p *webPush) authorize(r *http.Request, bound string) error {
	parts := vapidHeader.FindStringSubmatch(r.Header.Get("Authorization"))
	if parts == nil {
		return errors.New("want the scheme vapid in Authorization")
	}
	point, err := base64.RawURLEncoding.DecodeString(parts[2])
	if err != nil {
		return errors.New("k is not base64url")
	}
	key, err := ecdsa.ParseUncompressedPublicKey(elliptic.P256(), point)
	if err != nil {
		return errors.New("k is no point of P-256")
	}
	if bound != "" && parts[2] != bound {
		return errors.New("signed by another key than the subscription's")
	}
	token, err := jwt.Parse(parts[1], func(*jwt.Token) (any, error) { return key, nil },
		jwt.WithValidMethods([]string{"ES256"}), jwt.WithAudience("http://"+r.Host), jwt.WithExpirationRequired(), jwt.WithTimeFunc(p.now))
	if err != nil {
		return errors.New("t is not a token for this service")
	}
	if expires, err := token.Claims.GetExpirationTime(); err != nil || expires.Sub(p.now()) > vapidLifeMax {
		return errors.New("t is good for more than a day")
	}
	subject, err := token.Claims.GetSubject()
	if err != nil || !strings.HasPrefix(subject, "mailto:") && !strings.HasPrefix(subject, "https:") || strings.HasPrefix(subject, "mailto:mailto:") {
		return errors.New("sub names nobody")
	}
	return nil
}

// decrypt opens a message of one record (RFC 8291 section 3.4, in the coding of RFC 8188 section 2).
func (s *subscription) decrypt(body []byte) ([]byte, error) {
	const saltSize, keyAt, keySize = 16, 21, 65
	if len(body) < keyAt+keySize || body[keyAt-1] != keySize {
		return nil, errors.New("message has not the header of aes128gcm")
	}
	salt, recordSize := body[:saltSize], binary.BigEndian.Uint32(body[saltSize:])
	point, record := body[keyAt:keyAt+keySize], body[keyAt+keySize:]
	if uint64(len(record)) > uint64(recordSize) {
		return nil, errors.New("message is of more than one record")
	}
	sender, err := ecdh.P256().NewPublicKey(point)
	if err != nil {
		return nil, errors.New("sender's key is no point of P-256")
	}
	secret, err := s.private.ECDH(sender)
	if err != nil {
		return nil, err
	}
	info := slices.Concat([]byte("WebPush: info\x00"), s.private.PublicKey().Bytes(), point)
	input, err := hkdf.Key(sha256.New, secret, s.auth, string(info), 32)
	if err != nil {
		return nil, err
	}
	key, err := hkdf.Key(sha256.New, input, salt, "Content-Encoding: aes128gcm\x00", 16)
	if err != nil {
		return nil, err
	}
	nonce, err := hkdf.Key(sha256.New, input, salt, "Content-Encoding: nonce\x00", 12)
	if err != nil {
		return nil, err
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	gcm, err := cipher.NewGCM(block)
	if err != nil {
		return nil, err
	}
	padded, err := gcm.Open(nil, nonce, record, nil)
	if err != nil {
		return nil, errors.New("message is not for this subscription")
	}
	plain, last := bytes.CutSuffix(bytes.TrimRight(padded, "\x00"), []byte{2}) // 2 marks the last record
	if !last {
		return nil, errors.New("message has no end")
	}
	return plain, nil
}
