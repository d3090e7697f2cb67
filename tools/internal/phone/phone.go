// Package phone is a simulated phone: it holds a key, and speaks the device API as the app at /authenticator does.
package phone

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/sekisho/sekisho/events"
)

// A Phone is enrolled for one user.
type Phone struct {
	key *ecdsa.PrivateKey
	id  string // "" until it is enrolled
}

// Enroll makes a phone with a new P-256 key, and uses an activation for it.
func Enroll(ctx context.Context, line Line, activation, name string) (*Phone, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	point, err := key.PublicKey.Bytes()
	if err != nil {
		return nil, err
	}
	p := &Phone{key: key}
	var enrolled struct {
		Device struct {
			ID string `json:"id"`
		} `json:"device"`
	}
	err = p.call(ctx, line, http.MethodPost, "/v1/authenticator/devices",
		map[string]string{"activation": activation, "name": name, "public_key": encode(point)}, &enrolled)
	if err != nil {
		return nil, err
	}
	p.id = enrolled.Device.ID
	return p, nil
}

// A Decision is what the user says to a prompt.
type Decision string

// The decisions of the device API.
const (
	Approve Decision = "approve"
	Deny    Decision = "deny"
)

// A prompt is what the phone is asked in one round of a login.
type prompt struct {
	Login string `json:"login"` // "<gateway>/<id>"
	Round int    `json:"round"`
	Nonce string `json:"nonce"`
}

const prompts = "/v1/authenticator/prompts"

// patience is how long the phone waits before it asks again.
const patience = 100 * time.Millisecond

// Decide fetches what the phone is asked in a round of a login, and answers it. It tries again, with an answer signed anew, until one is
// taken. What becomes of the answer is seen in the login. number is what the login page shows, empty with any decision but Approve.
func (p *Phone) Decide(ctx context.Context, line Line, login events.Login, round int, decision Decision, number string) error {
	for tried := false; ; tried = true {
		err := p.decide(ctx, line, login, round, decision, number)
		switch {
		case errors.Is(err, errOver) && tried: // the answer whose fate was not known has been taken
			return nil
		case !errors.Is(err, errBusy):
			return err
		}
		select {
		case <-time.After(patience):
		case <-ctx.Done():
			return err
		}
	}
}

func (p *Phone) decide(ctx context.Context, line Line, login events.Login, round int, decision Decision, number string) error {
	var open struct {
		Prompts []prompt `json:"prompts"`
	}
	if err := p.call(ctx, line, http.MethodGet, prompts, nil, &open); err != nil {
		return err
	}
	for _, asked := range open.Prompts {
		if asked.Login == login.String() && asked.Round == round {
			assertion, err := p.assertion(asked, decision, number)
			if err != nil {
				return err
			}
			body, err := json.Marshal(map[string]string{"assertion": assertion})
			if err != nil {
				return err
			}
			return send(ctx, line, events.DeviceRequest{Method: http.MethodPost, Path: prompts, Body: body}, nil)
		}
	}
	return fmt.Errorf("round %d of login %s: %w", round, login, errOver)
}

var (
	// errOver says that the phone is not asked, or not any more.
	errOver = errors.New("nothing is asked of the phone")
	// errBusy says that nobody took a request, or that its fate is not known.
	errBusy = errors.New("the phone got no answer")
)

// call makes a request with a proof.
func (p *Phone) call(ctx context.Context, line Line, method, path string, in, out any) error {
	var body []byte
	if in != nil {
		var err error
		if body, err = json.Marshal(in); err != nil {
			return err
		}
	}
	proof, err := p.proof(method, path, body)
	if err != nil {
		return err
	}
	return send(ctx, line, events.DeviceRequest{Method: method, Path: path, Body: body, Proof: "Device " + proof}, out)
}

// send makes a request and reads the answer.
func send(ctx context.Context, line Line, r events.DeviceRequest, out any) error {
	answer, err := line(ctx, r)
	switch {
	case errors.Is(err, events.ErrNoAnswer), err == nil && answer.Status == http.StatusServiceUnavailable:
		err = errBusy
	case err != nil:
	case answer.Status == http.StatusConflict:
		err = errOver
	case answer.Status/100 != 2:
		err = fmt.Errorf("%d: %.200s", answer.Status, answer.Body)
	case out != nil:
		err = json.Unmarshal(answer.Body, out)
	}
	if err != nil {
		return fmt.Errorf("%s %s: %w", r.Method, r.Path, err)
	}
	return nil
}
