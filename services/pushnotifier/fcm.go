package pushnotifier

import (
	"bytes"
	"context"
	"crypto/rsa"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"golang.org/x/sync/singleflight"

	"github.com/sekisho/sekisho/services/internal/provider"
)

const (
	fcmScope = "https://www.googleapis.com/auth/firebase.messaging"
	// assertionLife is how long a signed request for an access token is good: the most that Google takes is an hour.
	assertionLife = 5 * time.Minute
	// renewAhead is how long before its end an access token is replaced, so that it does not end under way.
	renewAhead = time.Minute
	// maxToken bounds registration and access tokens, in bytes: Google names no bound, and sends a few hundred.
	maxToken = 4096
)

// A ServiceAccount is the account that may send for a Firebase project.
type ServiceAccount struct {
	Email    string
	KeyID    string
	Key      *rsa.PrivateKey
	TokenURL string // where access tokens are given out
}

// ParseServiceAccount reads the JSON file that Google's console makes for a service account. Its errors do not quote it.
func ParseServiceAccount(data []byte) (ServiceAccount, error) {
	var file struct {
		Email    string `json:"client_email"`
		KeyID    string `json:"private_key_id"`
		Key      string `json:"private_key"`
		TokenURL string `json:"token_uri"`
	}
	if json.Unmarshal(data, &file) != nil || file.Email == "" {
		return ServiceAccount{}, errors.New("fcm: not the JSON of a service account")
	}
	u, err := url.Parse(file.TokenURL)
	if err != nil || u.Scheme != "https" && u.Scheme != "http" || u.Host == "" {
		return ServiceAccount{}, errors.New("fcm: service account has no token_uri")
	}
	key, err := jwt.ParseRSAPrivateKeyFromPEM([]byte(file.Key))
	if err != nil {
		return ServiceAccount{}, errors.New("fcm: private_key of the service account is no RSA key in PEM")
	}
	return ServiceAccount{Email: file.Email, KeyID: file.KeyID, Key: key, TokenURL: file.TokenURL}, nil
}

// FCMConfig is a Firebase project.
type FCMConfig struct {
	URL     string // https://fcm.googleapis.com
	Project string // its id
	Account ServiceAccount
}

// FCM sends by Firebase Cloud Messaging, HTTP v1, to apps that show the message themselves.
type FCM struct {
	messages *provider.Client
	tokens   *provider.Client // another system, with a breaker of its own
	config   FCMConfig
	now      func() time.Time

	access  atomic.Pointer[accessToken]
	renewal singleflight.Group
}

type accessToken struct {
	secret  string
	renewAt time.Time
}

// NewFCM returns an adapter that sends by one client and gets its access tokens by the other.
func NewFCM(messages, tokens *provider.Client, cfg FCMConfig) *FCM {
	return &FCM{messages: messages, tokens: tokens, config: cfg, now: time.Now}
}

// Close closes the idle connections.
func (f *FCM) Close() {
	f.messages.CloseIdle()
	f.tokens.CloseIdle()
}

var registrationToken = regexp.MustCompile(`^[A-Za-z0-9_:.%-]+$`)

// Check says whether address is {"token": …}, a registration token.
func (f *FCM) Check(address json.RawMessage) error {
	_, err := tokenOf(address)
	return err
}

func tokenOf(address json.RawMessage) (string, error) {
	var a struct {
		Token string `json:"token"`
	}
	if json.Unmarshal(address, &a) != nil || len(a.Token) > maxToken || !registrationToken.MatchString(a.Token) {
		return "", provider.Refuse("fcm", "not a registration token")
	}
	return a.Token, nil
}

// Send hands the message over. A registration that has ended is errGone.
func (f *FCM) Send(ctx context.Context, t Target, m Message) error {
	token, err := tokenOf(t.Address)
	if err != nil {
		return err
	}
	access, err := f.token(ctx)
	if err != nil {
		return err
	}
	body, err := json.Marshal(fcmMessage(token, m))
	if err != nil {
		return fmt.Errorf("fcm: %w", err)
	}
	path := "/v1/projects/" + url.PathEscape(f.config.Project) + "/messages:send"
	req, err := http.NewRequest(http.MethodPost, f.config.URL+path, bytes.NewReader(body))
	if err != nil {
		return fmt.Errorf("fcm: %w", err)
	}
	req.Header.Set("Authorization", "Bearer "+access.secret)
	req.Header.Set("Content-Type", "application/json")
	return f.messages.Do(ctx, req, func(r *provider.Response) error {
		err := fcmAnswer(r)
		if r.Status == http.StatusUnauthorized && !errors.Is(err, provider.ErrRefused) {
			f.access.CompareAndSwap(access, nil) // it was revoked: the next message gets another
		}
		return err
	})
}

// fcmMessage is a message of data alone: the app fetches what waits for it and shows that, so that Google does not learn it.
func fcmMessage(token string, m Message) map[string]any {
	priority := "NORMAL"
	if m.Urgency == UrgencyHigh {
		priority = "HIGH"
	}
	return map[string]any{"message": map[string]any{
		"token": token,
		"data":  map[string]string{"body": string(m.Body)},
		"android": map[string]string{
			"priority":     priority,
			"ttl":          strconv.Itoa(int(max(0, m.TTL)/time.Second)) + "s",
			"collapse_key": m.Topic,
		},
	}}
}

// token gives the access token at hand, or a new one. All who need one at the same time wait for the call of the first, by whose
// context it runs: they all have the courier's.
func (f *FCM) token(ctx context.Context) (*accessToken, error) {
	if access := f.access.Load(); access != nil && f.now().Before(access.renewAt) {
		return access, nil
	}
	renewed, err, _ := f.renewal.Do("", func() (any, error) {
		access, err := f.renew(ctx)
		if err == nil {
			f.access.Store(access)
		}
		return access, err
	})
	return renewed.(*accessToken), err
}

// renew asks for an access token by a signed assertion (RFC 7523 section 2.1).
func (f *FCM) renew(ctx context.Context) (*accessToken, error) {
	now := f.now()
	assertion := jwt.NewWithClaims(jwt.SigningMethodRS256, jwt.MapClaims{
		"iss": f.config.Account.Email, "aud": f.config.Account.TokenURL, "scope": fcmScope,
		"iat": now.Unix(), "exp": now.Add(assertionLife).Unix(),
	})
	assertion.Header["kid"] = f.config.Account.KeyID
	signed, err := assertion.SignedString(f.config.Account.Key)
	if err != nil {
		return nil, fmt.Errorf("fcm: %w", err)
	}
	form := url.Values{"grant_type": {"urn:ietf:params:oauth:grant-type:jwt-bearer"}, "assertion": {signed}}
	req, err := http.NewRequest(http.MethodPost, f.config.Account.TokenURL, strings.NewReader(form.Encode()))
	if err != nil {
		return nil, fmt.Errorf("fcm: %w", err)
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	var access *accessToken
	err = f.tokens.Do(ctx, req, func(r *provider.Response) (err error) {
		access, err = fcmAccessToken(r, now)
		return err
	})
	return access, err
}

var bearerToken = regexp.MustCompile(`^[A-Za-z0-9._~+/-]+=*$`) // RFC 6750 section 2.1

// fcmAccessToken reads an answer of RFC 6749 section 5.1. Whatever the token server refuses is our account's fault, not
// that of a message: ErrUnavailable.
func fcmAccessToken(r *provider.Response, now time.Time) (*accessToken, error) {
	if r.Class() != nil {
		return nil, fmt.Errorf("status %d of the token server: %w", r.Status, provider.ErrUnavailable)
	}
	var a struct {
		Token     string `json:"access_token"`
		Type      string `json:"token_type"`
		ExpiresIn int64  `json:"expires_in"` // seconds
	}
	if err := r.JSON(&a); err != nil {
		return nil, err
	}
	const day = 24 * 60 * 60 // Google says an hour
	if len(a.Token) > maxToken || !bearerToken.MatchString(a.Token) || !strings.EqualFold(a.Type, "bearer") || a.ExpiresIn <= 0 || a.ExpiresIn > day {
		return nil, errors.New("answer is not an access token")
	}
	return &accessToken{secret: a.Token, renewAt: now.Add(time.Duration(a.ExpiresIn)*time.Second - renewAhead)}, nil
}

var fcmName = regexp.MustCompile(`^projects/[^/]+/messages/.+$`)

// fcmAnswer reads the name of the message, or FCM's error.
func fcmAnswer(r *provider.Response) error {
	class := r.Class()
	var a struct {
		Name  string `json:"name"`
		Error struct {
			Code    int `json:"code"`
			Details []struct {
				ErrorCode string `json:"errorCode"`
			} `json:"details"`
		} `json:"error"`
	}
	if err := r.JSON(&a); err != nil {
		return err
	}
	if class == nil {
		if !fcmName.MatchString(a.Name) {
			return errors.New("answer is not a message of this API")
		}
		return nil
	}
	if a.Error.Code != r.Status {
		return errors.New("answer is not an error of this API")
	}
	for _, detail := range a.Error.Details {
		switch detail.ErrorCode {
		case "UNREGISTERED":
			return fmt.Errorf("status %d: %w", r.Status, errGone)
		case "THIRD_PARTY_AUTH_ERROR": // a 401, but a phone's doing: its token is one for APNs or Web Push, which we do not send by FCM
			return fmt.Errorf("token of another kind of app: %w", provider.ErrRefused)
		case "SENDER_ID_MISMATCH": // a 403, but a phone's doing: its token is of another project
			return fmt.Errorf("token of another project: %w", provider.ErrRefused)
		}
	}
	if r.Status == http.StatusNotFound { // without UNREGISTERED it is our project that is not there
		class = provider.ErrUnavailable
	}
	return fmt.Errorf("status %d: %w", r.Status, class)
}
