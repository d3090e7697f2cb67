package roads

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"sync"
	"time"

	"github.com/sekisho/sekisho/events"
	"github.com/sekisho/sekisho/tools/internal/phone"
	"github.com/sekisho/sekisho/tools/internal/system"
)

// webGateway is the name of the system's own gateway.
const webGateway = "web"

// HTTP is what a page of an app does with the login API. Each user has a browser that remembers who logged in with it.
type HTTP struct {
	base     string
	codes    coder
	client   *http.Client
	line     phone.Line
	browsers sync.Map // user name → value of the device cookie
}

// NewHTTP makes a client that keeps as many connections as are in use at once.
func NewHTTP(s *system.System, inFlight int) (*HTTP, error) {
	codes, err := s.Codes()
	if err != nil {
		return nil, err
	}
	// Half of the gateway's http.idle_timeout: no request meets a connection that the other side is about to close.
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: inFlight, IdleConnTimeout: time.Minute}}
	return &HTTP{base: s.HTTP, codes: codes, client: client, line: phone.HTTP(client, s.HTTP)}, nil
}

// Close closes the connections that are idle.
func (h *HTTP) Close() { h.client.CloseIdleConnections() }

// answer is what the API says of a login.
type answer struct {
	ID        string `json:"id"`
	Version   int    `json:"version"`
	Status    string `json:"status"`
	Challenge *struct {
		Round  int           `json:"round"`
		Factor events.Factor `json:"factor"`
		Number string        `json:"number"`
	} `json:"challenge"`
}

// longest is the most that the API waits for a login to move.
const longest = "30s"

// Login is [Driver].
func (h *HTTP) Login(ctx context.Context, road Road, user system.User) error {
	_, err := h.Session(ctx, road, user)
	return err
}

// Session is Login, and returns the session's token.
func (h *HTTP) Session(ctx context.Context, road Road, user system.User) (token string, err error) {
	v := &visit{HTTP: h, user: user, cookies: make(map[string]string)}
	if device, known := h.browsers.Load(user.Name); known {
		v.cookies[deviceCookie] = device.(string)
	}
	request := map[string]any{"user": user.Name, "method": road.Method, "app": road.App, "wait": longest}
	if road.Method == events.Password {
		request["password"] = user.Password
	}
	now, err := v.call(ctx, http.MethodPost, "/v1/logins", request)
	if err != nil {
		return "", err
	}
	path, answered := "/v1/logins/"+now.ID, 0
	for {
		switch {
		case now.Status == "granted" && v.cookies[sessionCookie] != "":
			h.browsers.Store(user.Name, v.cookies[deviceCookie])
			return v.cookies[sessionCookie], nil
		case now.Status == "challenge" && now.Challenge.Round > answered:
			answered = now.Challenge.Round
			login := events.Login{Gateway: webGateway, ID: now.ID}
			if now.Challenge.Factor == events.Push {
				err = user.Authenticator.Decide(ctx, h.line, login, answered, phone.Approve, now.Challenge.Number)
				break
			}
			now, err = v.call(ctx, http.MethodPost, path+"/answers", map[string]any{"code": h.codes.Code(login, answered), "wait": longest})
		case now.Status == "challenge" || now.Status == "pending":
			now, err = v.call(ctx, http.MethodGet, fmt.Sprintf("%s?after=%d&wait=%s", path, now.Version, longest), nil)
		default:
			return "", fmt.Errorf("login %s: %s", now.ID, now.Status)
		}
		if err != nil {
			return "", err
		}
	}
}

// Names of the gateway's cookies.
const (
	sessionCookie = "__Host-sekisho"
	deviceCookie  = "__Host-sekisho_device"
)

// A visit is one login of a user, with the cookies of the user's browser.
type visit struct {
	*HTTP
	user    system.User
	cookies map[string]string
}

// call makes a request as if it came by a proxy from the user's address, since the gateway limits what comes from one address.
func (v *visit) call(ctx context.Context, method, path string, body map[string]any) (answer, error) {
	var content io.Reader
	if body != nil {
		data, err := json.Marshal(body)
		if err != nil {
			return answer{}, err
		}
		content = bytes.NewReader(data)
	}
	req, err := http.NewRequestWithContext(ctx, method, v.base+path, content)
	if err != nil {
		return answer{}, err
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	req.Header.Set("Sec-Fetch-Site", "same-origin")
	req.Header.Set("X-Forwarded-For", v.user.Address)
	for name, value := range v.cookies {
		req.AddCookie(&http.Cookie{Name: name, Value: value})
	}
	res, err := v.client.Do(req)
	if err != nil {
		return answer{}, err
	}
	defer res.Body.Close()
	data, err := io.ReadAll(res.Body)
	if err != nil {
		return answer{}, err
	}
	if res.StatusCode/100 != 2 {
		return answer{}, fmt.Errorf("%s %s: %s: %.200s", method, path, res.Status, data)
	}
	for _, cookie := range res.Cookies() {
		v.cookies[cookie.Name] = cookie.Value
	}
	var a answer
	if err := json.Unmarshal(data, &a); err != nil {
		return answer{}, fmt.Errorf("%s %s: %w", method, path, err)
	}
	return a, nil
}
