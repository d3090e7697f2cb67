package pushnotifier

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"net/url"
	"os"
	"sync"
	"time"

	"github.com/sekisho/sekisho/services/internal/credentials"
	"github.com/sekisho/sekisho/services/internal/directory"
	"github.com/sekisho/sekisho/services/internal/provider"
	"github.com/sekisho/sekisho/services/internal/runtime"
)

// errGone says that the push service will never take a message for this target again: the app was removed, or the
// subscription ended. The target is to be dropped.
var errGone = fmt.Errorf("target is gone: %w", provider.ErrRefused)

// A Target is where a device is told that something waits for it.
type Target struct {
	Device    string // the device's id
	Transport directory.Transport
	Address   json.RawMessage // in the transport's own form, as the device gave it
}

// Urgency tells a push service whether it may wake a phone that saves power (RFC 8030 section 5.3).
type Urgency string

// The urgencies of prompts and of notices.
const (
	UrgencyHigh   Urgency = "high"
	UrgencyNormal Urgency = "normal"
)

// A Message is what a push service gets to deliver.
type Message struct {
	Topic   string        // at most 32 of base64url's characters; a message takes the place of one with its topic that still waits (RFC 8030 section 5.4)
	TTL     time.Duration // how long the service keeps it for a phone that is off
	Urgency Urgency
	Body    []byte // at most maxMessage bytes; nothing secret or personal, since FCM can read it
}

// maxMessage is the longest body, in bytes: what a record of 4,096 bytes holds (RFC 8291 section 4), which is what every
// push service takes. FCM takes a little more.
const maxMessage = 3993

// A sender is a push service's API. Its errors are those of package provider, errGone among them.
type sender interface {
	// Check says whether a device may name this address; it asks nobody.
	Check(address json.RawMessage) error
	Send(ctx context.Context, t Target, m Message) error
	Close()
}

// A courier hands messages to the push services in the background, so that a service that hangs holds nobody up. What is under way
// is bounded by the senders' clients: by how many calls run at a time (push.concurrency), and how long one may take (push.timeout).
type courier struct {
	senders map[directory.Transport]sender // targets of a transport without one are refused

	ctx     context.Context // of all calls under way
	cancel  context.CancelFunc
	running sync.WaitGroup
}

func newCourier(senders map[directory.Transport]sender) *courier {
	c := &courier{senders: senders}
	c.ctx, c.cancel = context.WithCancel(context.Background())
	return c
}

// check says whether a device may name this target.
func (c *courier) check(t Target) error {
	s, ok := c.senders[t.Transport]
	if !ok {
		return provider.Refuse("push", "no such transport")
	}
	return s.Check(t.Address)
}

// send hands m to the service of each target and calls report, from many goroutines, with what became of it: nil means
// accepted by the service, not delivered. The channel is closed once every target has been reported.
func (c *courier) send(targets []Target, m Message, report func(Target, error)) (done <-chan struct{}) {
	ended := make(chan struct{})
	c.running.Go(func() {
		defer close(ended)
		var calls sync.WaitGroup
		for _, t := range targets {
			calls.Go(func() { report(t, c.deliver(t, m)) })
		}
		calls.Wait()
	})
	return ended
}

func (c *courier) deliver(t Target, m Message) error {
	s, ok := c.senders[t.Transport]
	switch {
	case !ok: // its setting was removed after the device had named it
		return provider.Refuse("push", "no such transport")
	case len(m.Body) > maxMessage:
		return provider.Refuse("push", "message is too long")
	}
	return s.Send(c.ctx, t, m)
}

// close gives up what is under way; it must not overlap with send.
func (c *courier) close() {
	c.cancel()
	c.running.Wait()
	for _, s := range c.senders {
		s.Close()
	}
}

// vendors are the outside systems that the settings name.
type vendors struct {
	courier *courier
	vapid   string  // the key that phones subscribe to Web Push with; empty if it is not used
	mamoru  *Mamoru // nil if it is not used
}

// pushRetryAfter bounds how long a 429 silences a push service. It may be about one phone rather than about us (RFC 8030 section 8.4, and
// FCM's quota of messages for one device), and one phone must not silence the others for long.
const pushRetryAfter = 10 * time.Second

func openVendors(env *runtime.Env) (*vendors, error) {
	cfg := env.Config.Push
	open := func(s provider.Settings) *provider.Client {
		s.Timeout, s.MaxConcurrent = cfg.Timeout, cfg.Concurrency
		return env.Provider(s)
	}
	v := &vendors{}
	senders := make(map[directory.Transport]sender)
	if cfg.WebPush.Subject != "" {
		signing, err := env.Credentials.SigningKey("vapid")
		if err != nil {
			return nil, err
		}
		key, err := signing.ECDH()
		if err != nil {
			return nil, fmt.Errorf("pushnotifier: key vapid: %w", err)
		}
		var proxy *url.URL
		if cfg.Proxy != "" {
			if proxy, err = url.Parse(cfg.Proxy); err != nil {
				return nil, fmt.Errorf("pushnotifier: push.proxy: %w", err)
			}
		}
		w := NewWebPush(WebPushConfig{Key: key, Subject: cfg.WebPush.Subject, Hosts: cfg.WebPushHosts, Proxy: proxy}, open)
		senders[directory.WebPush], v.vapid = w, w.PublicKey()
	}
	if cfg.FCM.Project != "" {
		file, err := os.ReadFile(cfg.FCM.KeyFile)
		if err != nil {
			return nil, fmt.Errorf("pushnotifier: %w", err)
		}
		account, err := ParseServiceAccount(file)
		if err != nil {
			return nil, fmt.Errorf("pushnotifier: %s: %w", cfg.FCM.KeyFile, err)
		}
		senders[directory.FCM] = NewFCM(open(provider.Settings{Name: "fcm", MaxRetryAfter: pushRetryAfter}), open(provider.Settings{Name: "fcm-token"}),
			FCMConfig{URL: cfg.FCM.URL, Project: cfg.FCM.Project, Account: account})
	}
	if cfg.Mamoru.URL != "" {
		token, err := credentials.Secret(cfg.Mamoru.TokenFile)
		if err != nil {
			return nil, fmt.Errorf("pushnotifier: mamoru: %w", err)
		}
		v.mamoru = NewMamoru(open(provider.Settings{Name: "mamoru"}), MamoruConfig{
			URL: cfg.Mamoru.URL, ApproveURL: cmp.Or(cfg.Mamoru.ApproveURL, cfg.Mamoru.URL+"/approve"), Token: token,
		})
	}
	v.courier = newCourier(senders)
	return v, nil
}

func (v *vendors) close() {
	v.courier.close()
	if v.mamoru != nil {
		v.mamoru.Close()
	}
}
