package roads

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"

	"github.com/sekisho/sekisho/events"
	"github.com/sekisho/sekisho/tools/internal/system"
)

// webGateway is the name of the system's own gateway.
const webGateway = "web"

// HTTP is a client of the login API, without cookies.
type HTTP struct {
	base   string
	codes  coder
	client *http.Client
}

// NewHTTP makes a client that keeps as many connections as are in use at once.
func NewHTTP(s *system.System, inFlight int) (*HTTP, error) {
	codes, err := s.Codes()
	if err != nil {
		return nil, err
	}
	return &HTTP{s.HTTP, codes, &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: inFlight}}}, nil
}

// Close closes the connections that are idle.
func (h *HTTP) Close() { h.client.CloseIdleConnections() }

// answer is what the API says of a login.
type answer struct {
	ID        string `json:"id"`
	Version   int    `json:"version"`
	Status    string `json:"status"`
	Challenge *struct {
		Round int `json:"round"`
	} `json:"challenge"`
	LoginToken   string `json:"login_token"`
	SessionToken string `json:"session_token"`
}

// longest is the most that the API waits for a login to move.
const longest = "30s"

// Login is [Driver].
func (h *HTTP) Login(ctx context.Context, road Road, user system.User) error {
	_, err := h.Session(ctx, road, user)
	return err
}

// Session is Login, and gives the session's token.
func (h *HTTP) Session(ctx context.Context, road Road, user system.User) (token string, err error) {
	now, err := h.call(ctx, http.MethodPost, "/v1/logins", "", map[string]any{
		"user": user.Name, "method": "password", "password": user.Password, "app": road.App, "tokens": true, "wait": longest})
	if err != nil {
		return "", err
	}
	path, secret, answered := "/v1/logins/"+now.ID, now.LoginToken, 0
	for {
		switch {
		case now.Status == "granted" && now.SessionToken != "":
			return now.SessionToken, nil
		case now.Status == "challenge" && now.Challenge.Round > answered:
			answered = now.Challenge.Round
			code := h.codes.Code(events.Login{Gateway: webGateway, ID: now.ID}, answered)
			now, err = h.call(ctx, http.MethodPost, path+"/answers", secret, map[string]any{"code": code, "wait": longest})
		case now.Status == "challenge" || now.Status == "pending":
			now, err = h.call(ctx, http.MethodGet, fmt.Sprintf("%s?after=%d&wait=%s", path, now.Version, longest), secret, nil)
		default:
			return "", fmt.Errorf("login %s: %s", now.ID, now.Status)
		}
		if err != nil {
			return "", err
		}
	}
}

func (h *HTTP) call(ctx context.Context, method, path, secret string, body map[string]any) (answer, error) {
	var content io.Reader
	if body != nil {
		data, err := json.Marshal(body)
		if err != nil {
			return answer{}, err
		}
		content = bytes.NewReader(data)
	}
	req, err := http.NewRequestWithContext(ctx, method, h.base+path, content)
	if err != nil {
		return answer{}, err
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	if secret != "" {
		req.Header.Set("Authorization", "Bearer "+secret)
	}
	res, err := h.client.Do(req)
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
	var a answer
	if err := json.Unmarshal(data, &a); err != nil {
		return answer{}, fmt.Errorf("%s %s: %w", method, path, err)
	}
	return a, nil
}
