package pushnotifier

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"regexp"

	"github.com/sekisho/sekisho/services/internal/provider"
)

// MamoruConfig is a customer's account at Mamoru PUSH.
type MamoruConfig struct {
	URL        string // base URL of the API
	ApproveURL string // the page that browsers go to; a name of its own, since they may reach it by another host
	Token      string // what authorizes the customer; a secret
}

// Mamoru asks for approvals that the provider hosts. The vendor's product works like this: the browser goes to the provider's
// page, the user taps yes on the phone, the browser comes back with two one-time secrets (one held by the browser's side of
// the approval, one by the phone's), and the customer checks them server to server before believing anything. The vendor's
// API is not public, so the paths and names are ours:
//
//	POST /approvals         {"account","login"}                        → {"approval"}
//	GET  <approve page>?approval=…&return=<where the browser goes back to>
//	POST /approvals/verify  {"account","login","session","approved"}   → {"account","login","result"}
//
// The gateway adds return to the URL, since it alone knows where the browser reaches it.
type Mamoru struct {
	client *provider.Client
	config MamoruConfig
}

// The two parameters that a browser brings back.
const (
	mamoruSession  = "mamoru_session"  // the browser's secret
	mamoruApproved = "mamoru_approved" // the phone's secret
)

// Decision is what became of an approval.
type Decision string

// The decisions. Void is a pair of parameters that is unknown, was used before, is out of time, or belongs to another
// account or login: to the user all of these are a wrong answer.
const (
	Approved Decision = "approved"
	Denied   Decision = "denied"
	Void     Decision = "void"
)

// NewMamoru returns an adapter that calls through c.
func NewMamoru(c *provider.Client, cfg MamoruConfig) *Mamoru { return &Mamoru{client: c, config: cfg} }

// Close closes the idle connections.
func (m *Mamoru) Close() { m.client.CloseIdle() }

var (
	mamoruID     = regexp.MustCompile(`^[A-Za-z0-9_-]{1,128}$`)
	mamoruSecret = regexp.MustCompile(`^[A-Za-z0-9_-]{22,128}$`) // 128 bits at least
)

// Start asks for an approval by the user's account at the provider and gives the URL for the browser. It is made of the
// configured page, so that no answer can send a browser elsewhere.
func (m *Mamoru) Start(ctx context.Context, account, login string) (string, error) {
	var answer struct {
		Approval string `json:"approval"`
	}
	err := m.call(ctx, "/approvals", map[string]string{"account": account, "login": login}, func(r *provider.Response) error {
		if r.Class() != nil {
			return nil // the status decides
		}
		if err := r.JSON(&answer); err != nil {
			return err
		}
		if !mamoruID.MatchString(answer.Approval) {
			return errors.New("answer is not an approval")
		}
		return nil
	})
	if err != nil {
		return "", err
	}
	return m.config.ApproveURL + "?" + url.Values{"approval": {answer.Approval}}.Encode(), nil
}

// Verify checks what the browser brought back. The provider takes a pair once only: a second call, such as after a crash,
// gets Void, and the user has to approve again. Other parameters are those of the gateway's own URL.
func (m *Mamoru) Verify(ctx context.Context, account, login string, parameters map[string]string) (Decision, error) {
	session, approved := parameters[mamoruSession], parameters[mamoruApproved]
	if !mamoruSecret.MatchString(session) || !mamoruSecret.MatchString(approved) {
		return Void, nil
	}
	var decision Decision
	body := map[string]string{"account": account, "login": login, "session": session, "approved": approved}
	err := m.call(ctx, "/approvals/verify", body, func(r *provider.Response) (err error) {
		decision, err = mamoruDecision(r, account, login)
		return err
	})
	if err != nil {
		return "", err
	}
	return decision, nil
}

func (m *Mamoru) call(ctx context.Context, path string, body map[string]string, decode func(*provider.Response) error) error {
	data, err := json.Marshal(body)
	if err != nil {
		return fmt.Errorf("mamoru: %w", err)
	}
	req, err := http.NewRequest(http.MethodPost, m.config.URL+path, bytes.NewReader(data))
	if err != nil {
		return fmt.Errorf("mamoru: %w", err)
	}
	req.Header.Set("Authorization", "Bearer "+m.config.Token)
	req.Header.Set("Content-Type", "application/json")
	return m.client.Do(ctx, req, decode)
}

// mamoruDecision reads the answer to a check, which has to be about the account and the login that were asked for.
func mamoruDecision(r *provider.Response, account, login string) (Decision, error) {
	if r.Class() != nil {
		return "", nil // the status decides
	}
	var a struct {
		Account string   `json:"account"`
		Login   string   `json:"login"`
		Result  Decision `json:"result"`
	}
	if err := r.JSON(&a); err != nil {
		return "", err
	}
	switch {
	case a.Account != account || a.Login != login:
		return "", errors.New("answer is about another approval")
	case a.Result != Approved && a.Result != Denied && a.Result != Void:
		return "", errors.New("unknown result of an approval")
	}
	return a.Result, nil
}
