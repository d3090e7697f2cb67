package events

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/nats-io/nats.go"
)

// A DeviceRequest is an HTTP request of a phone, or of a signed-in user about that user's phones, which a gateway hands to
// pushnotifier as it came. It does not go through a stream: nothing of it is kept.
type DeviceRequest struct {
	Method  string `json:"method"`
	Path    string `json:"path"`
	Body    []byte `json:"body,omitempty"`
	Proof   string `json:"proof,omitempty"`   // the header Authorization of a phone; an answer to a prompt has none
	Session string `json:"session,omitempty"` // id of the login of the user's session at this gateway; empty for a phone
	Base    string `json:"base,omitempty"`    // origin of the gateway as the client reaches it, for the URLs of the answer
}

// A DeviceResponse is pushnotifier's answer.
type DeviceResponse struct {
	Status     int    `json:"status"`
	Type       string `json:"type,omitempty"` // content type
	Body       []byte `json:"body,omitempty"`
	RetryAfter int    `json:"retry_after,omitempty"` // seconds; 0: none
	// Authenticate, with 401, is the header WWW-Authenticate: what the session lacks. Empty: whoever asks is not known.
	Authenticate string `json:"authenticate,omitempty"`
}

// DeviceSubject is where a gateway asks. Only the gateway of that name may publish there, so the subject says who asks.
func DeviceSubject(gateway string) string { return devicePrefix + gateway }

const (
	devicePrefix = "device."
	deviceField  = "request" // what a request is sealed as
	replyKeySize = 32        // bytes: AES-256
)

// A deviceCall is a DeviceRequest as it is sealed to pushnotifier, with the key that the answer is encrypted with. The key
// is for one answer, so gateways need no key of their own.
type deviceCall struct {
	DeviceRequest
	ReplyKey []byte `json:"reply_key"`
}

// ErrNoAnswer says that no pushnotifier runs, or that none answered in time. The request may have been carried out.
var ErrNoAnswer = errors.New("events: no answer from pushnotifier")

// Device hands a request to pushnotifier and waits for its answer, for Options.Patience. Errors: [ErrNoAnswer], [ErrDenied],
// [ErrSealed] for an answer that is not pushnotifier's.
func (c *Client) Device(ctx context.Context, r DeviceRequest) (DeviceResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, c.options.Patience)
	defer cancel()
	call := deviceCall{DeviceRequest: r, ReplyKey: make([]byte, replyKeySize)}
	rand.Read(call.ReplyKey) // never fails (crypto/rand)
	subject := DeviceSubject(c.options.Gateway)
	box, err := c.seal(ctx, pushnotifier, subject, deviceField, call)
	if err != nil {
		return DeviceResponse{}, err
	}
	data, err := json.Marshal(box)
	if err != nil {
		return DeviceResponse{}, fmt.Errorf("events: ask %s: %w", subject, err)
	}
	msg, err := c.nc.RequestWithContext(ctx, subject, data)
	switch {
	case err != nil && denied(c.nc, subject):
		return DeviceResponse{}, fmt.Errorf("events: ask %s: %w", subject, ErrDenied)
	case errors.Is(err, nats.ErrNoResponders), errors.Is(err, context.DeadlineExceeded):
		return DeviceResponse{}, fmt.Errorf("%w: %w", ErrNoAnswer, err)
	case err != nil:
		return DeviceResponse{}, fmt.Errorf("events: ask %s: %w", subject, err)
	}
	aead, err := valueAEAD(call.ReplyKey)
	if err != nil {
		return DeviceResponse{}, err
	}
	plain, err := aead.Open(nil, nil, msg.Data, replyBound(subject))
	if err != nil {
		return DeviceResponse{}, fmt.Errorf("events: answer of %s: %w", subject, ErrSealed)
	}
	var response DeviceResponse
	if err := decode(plain, &response); err != nil {
		return DeviceResponse{}, fmt.Errorf("events: answer of %s: %w", subject, err)
	}
	return response, nil
}

// ServeDevice is pushnotifier's side of [Client.Device]: it opens the data of a message, has it handled, and returns the
// data of the reply. On an error nothing was handled, and there is nobody to whom a reply would mean anything.
func ServeDevice(opener *Opener, subject string, data []byte, handle func(gateway string, r DeviceRequest) DeviceResponse) ([]byte, error) {
	gateway, ok := strings.CutPrefix(subject, devicePrefix)
	if !ok || !validGateway(gateway) {
		return nil, fmt.Errorf("%w: subject %q", ErrInvalid, subject)
	}
	var box Sealed
	if err := decode(data, &box); err != nil {
		return nil, invalid(err)
	}
	if err := box.validate(deviceField); err != nil {
		return nil, invalid(err)
	}
	var call deviceCall
	if err := opener.Open(&box, subject, deviceField, &call); err != nil {
		return nil, err
	}
	if len(call.ReplyKey) != replyKeySize {
		return nil, invalid(fmt.Errorf("reply_key: %d bytes, want %d", len(call.ReplyKey), replyKeySize))
	}
	aead, err := valueAEAD(call.ReplyKey)
	if err != nil {
		return nil, err
	}
	plain, err := json.Marshal(handle(gateway, call.DeviceRequest))
	if err != nil {
		return nil, fmt.Errorf("events: answer of %s: %w", subject, err)
	}
	return aead.Seal(nil, nil, plain, replyBound(subject)), nil
}

// replyBound is the additional data of an encrypted answer.
func replyBound(subject string) []byte { return []byte(subject + " reply") }

// HintSubject is where pushnotifier says that a device has something new to fetch: no data, and no more than a hint to the
// gateways that hold a channel to it open.
func HintSubject(gateway, device string) string {
	return "deliver." + gateway + "." + prompts + "." + device
}
