package smsdispatcher

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"time"

	"github.com/sekisho/sekisho/services/internal/provider"
)

// A sender is a vendor's API.
type sender interface {
	Send(ctx context.Context, m Message) (Receipt, error)
	// Find asks whether this very message was accepted before.
	Find(ctx context.Context, m Message) (Receipt, bool, error)
	// Status asks how far the message with the vendor's id got.
	Status(ctx context.Context, id string) (State, error)
}

// Message is one text message to one phone.
type Message struct {
	To       string    // E.164
	Body     string    // with the code, so it is never logged
	Tag      string    // names the message at the provider; free of personal data
	NotAfter time.Time // the provider must not try later than this; zero for no limit
}

// State is how far a message got. That a provider accepted it, sent it, and that the phone received it are
// different facts.
type State string

// The states in their order; a message fails from either of the first two.
const (
	StateAccepted State = "accepted"
	StateSent     State = "sent"
	StateReceived State = "received"
	StateFailed   State = "failed"
)

// Receipt is the provider's word on a message that it knows.
type Receipt struct {
	ID    string // the provider's; safe to log
	State State
}

// messageID is what the id of a message looks like at any of the providers.
var messageID = regexp.MustCompile(`^[A-Za-z0-9_-]{1,64}$`)

// refuseFailed makes an error of a message that was given up as soon as it was accepted.
func refuseFailed(r Receipt, err error) error {
	if err == nil && r.State == StateFailed {
		return fmt.Errorf("message failed at once: %w", provider.ErrRefused)
	}
	return err
}

// newRequest is a request of a vendor's API. It carries the form, unless that is nil.
func newRequest(method, address string, query, form url.Values) (*http.Request, error) {
	// The query is set apart, since errors of NewRequest quote the URL.
	req, err := http.NewRequest(method, address, strings.NewReader(form.Encode()))
	if err != nil {
		return nil, err
	}
	req.URL.RawQuery = query.Encode()
	req.Header.Set("Accept", "application/json")
	if form != nil {
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	return req, nil
}

// pick takes the message that was sent out of a vendor's list, and rather one that did not fail.
func pick[M interface{ receipt() (Receipt, error) }](list []M, sent func(M) bool) (receipt Receipt, found bool, err error) {
	for _, m := range list {
		if !sent(m) {
			continue
		}
		if receipt, err = m.receipt(); err != nil {
			return Receipt{}, false, err
		}
		found = true
		if receipt.State != StateFailed {
			break
		}
	}
	return receipt, found, nil
}
