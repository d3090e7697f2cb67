package pushnotifier

import (
	"cmp"
	"context"
	"crypto/ecdh"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"code.dny.dev/ssrf"
	"github.com/SherClockHolmes/webpush-go"

	"github.com/sekisho/sekisho/services/internal/provider"
)

// browserServices are the push services of the browsers that have one: Chrome, Firefox, Safari, Edge.
var browserServices = []string{"fcm.googleapis.com", "push.services.mozilla.com", "push.apple.com", "notify.windows.com"}

const (
	// maxEndpoint bounds an endpoint, in bytes; the services' own have a few hundred.
	maxEndpoint = 2048
	// authSecretSize is that of a subscription's authentication secret, in bytes (RFC 8291 section 3.2).
	authSecretSize = 16
)

// WebPushConfig is what Web Push needs of the settings.
type WebPushConfig struct {
	Key     *ecdh.PrivateKey // P-256, by which push services know us (VAPID, RFC 8292)
	Subject string           // whom a service's operator may ask about us: a mailto: or https: URI
	// Hosts are the push services that subscriptions may point to. A name stands for its subdomains too. A host:port is a service of
	// one's own, which may be at a private address and speak plain HTTP. Without any name, every public host is allowed.
	Hosts []string
	// Proxy is the HTTP proxy by which known services are called. Others are not called then: the proxy looks up names itself, so nobody
	// here sees what address it calls. Nil: all are called directly, whatever the environment says.
	Proxy *url.URL
}

// WebPush sends by Web Push (RFC 8030, encrypted by RFC 8291, signed by RFC 8292).
//
// The endpoint of a subscription is a URL that a phone named, so whoever has a phone chooses whom we call. So that nobody reaches
// into our network through us, we call public addresses only, on port 443, and look at the address after the name is resolved; by a
// proxy we call known services only. And since a host that fails on purpose must not open the breaker in front of everybody's phones,
// each known service has a client of its own, and all other hosts share one. So phones can not make breakers, and strangers can only
// spoil it for strangers.
type WebPush struct {
	config   WebPushConfig
	own      map[string]*provider.Client // by host:port: services of one's own
	services map[string]*provider.Client // by name
	others   *provider.Client            // nil where only known services are allowed
}

// NewWebPush returns an adapter. open makes its clients, with the caller's settings over those given.
func NewWebPush(cfg WebPushConfig, open func(provider.Settings) *provider.Client) *WebPush {
	w := &WebPush{config: cfg, own: make(map[string]*provider.Client), services: make(map[string]*provider.Client)}
	var named []string
	for _, host := range cfg.Hosts {
		if _, _, err := net.SplitHostPort(host); err == nil {
			w.own[host] = open(provider.Settings{Name: "webpush-" + host, MaxRetryAfter: pushRetryAfter})
		} else {
			named = append(named, host)
		}
	}
	known := named
	if len(named) == 0 {
		known = browserServices
	}
	for _, host := range known {
		settings := provider.Settings{Name: "webpush-" + host, MaxRetryAfter: pushRetryAfter, Proxy: cfg.Proxy}
		if cfg.Proxy == nil {
			settings.Dial = dialPublic
		}
		w.services[host] = open(settings)
	}
	if len(named) == 0 && cfg.Proxy == nil {
		w.others = open(provider.Settings{Name: "webpush", MaxRetryAfter: pushRetryAfter, Dial: dialPublic})
	}
	return w
}

// PublicKey is the application server key that phones subscribe with: 65 bytes in base64url (RFC 8292 section 4.1).
func (w *WebPush) PublicKey() string {
	return encode(w.config.Key.PublicKey().Bytes())
}

// Close closes the idle connections.
func (w *WebPush) Close() {
	for _, clients := range []map[string]*provider.Client{w.own, w.services} {
		for _, client := range clients {
			client.CloseIdle()
		}
	}
	if w.others != nil {
		w.others.CloseIdle()
	}
}

// Check says whether address is a subscription, {"endpoint","keys":{"p256dh","auth"}}, that points to where it may.
func (w *WebPush) Check(address json.RawMessage) error {
	_, _, err := w.subscription(address)
	return err
}

// Send hands the message over. A subscription that has ended is errGone.
func (w *WebPush) Send(ctx context.Context, t Target, m Message) error {
	s, client, err := w.subscription(t.Address)
	if err != nil {
		return err
	}
	_, err = webpush.SendNotificationWithContext(ctx, m.Body, s, &webpush.Options{
		HTTPClient:      answerless{client},
		Subscriber:      strings.TrimPrefix(w.config.Subject, "mailto:"), // the library puts it back
		Topic:           m.Topic,
		TTL:             int(max(0, m.TTL) / time.Second),
		Urgency:         webpush.Urgency(m.Urgency),
		VAPIDPublicKey:  w.PublicKey(),
		VAPIDPrivateKey: encode(w.config.Key.Bytes()),
	})
	if _, ok := errors.AsType[*provider.Error](err); err != nil && !ok {
		return provider.Refuse("webpush", "message can not be made for this subscription")
	}
	return err
}

// subscription reads what a phone gave, and finds the client that may call its endpoint.
func (w *WebPush) subscription(address json.RawMessage) (*webpush.Subscription, *provider.Client, error) {
	var s webpush.Subscription
	if json.Unmarshal(address, &s) != nil {
		return nil, nil, provider.Refuse("webpush", "not a subscription")
	}
	point, err := base64.RawURLEncoding.DecodeString(s.Keys.P256dh)
	if err == nil {
		_, err = ecdh.P256().NewPublicKey(point)
	}
	if err != nil {
		return nil, nil, provider.Refuse("webpush", "key of a subscription is no P-256 key")
	}
	if secret, err := base64.RawURLEncoding.DecodeString(s.Keys.Auth); err != nil || len(secret) != authSecretSize {
		return nil, nil, provider.Refuse("webpush", "authentication secret of a subscription is not of 16 bytes")
	}
	client := w.clientOf(s.Endpoint)
	if client == nil {
		return nil, nil, provider.Refuse("webpush", "subscription points to where none may")
	}
	return &s, client, nil
}

// clientOf is nil for an endpoint that may not be called.
func (w *WebPush) clientOf(endpoint string) *provider.Client {
	if len(endpoint) > maxEndpoint {
		return nil
	}
	u, err := url.Parse(endpoint)
	if err != nil || u.Hostname() == "" || u.User != nil || u.Fragment != "" {
		return nil
	}
	ports := map[string]string{"http": "80", "https": "443"}
	port := cmp.Or(u.Port(), ports[u.Scheme])
	if ports[u.Scheme] == "" {
		return nil
	}
	if client, ok := w.own[net.JoinHostPort(u.Hostname(), port)]; ok {
		return client
	}
	if u.Scheme != "https" || port != "443" {
		return nil
	}
	// From the whole name up to the top: web.push.apple.com, push.apple.com, apple.com, com.
	for name, found := strings.ToLower(u.Hostname()), true; found; _, name, found = strings.Cut(name, ".") {
		if client, ok := w.services[name]; ok {
			return client
		}
	}
	return w.others
}

// public knows the addresses that are special (the registries of RFC 6890), and so not public.
var public = ssrf.New(ssrf.WithPorts(443))

// dialPublic connects to public addresses alone. The address is checked when it is dialed, since a name may resolve to
// another one each time.
func dialPublic(ctx context.Context, network, addr string) (net.Conn, error) {
	conn, err := (&net.Dialer{Control: public.Safe}).DialContext(ctx, network, addr)
	return conn, blameAddress(err)
}

// blameAddress makes ErrRefused of what is the address's own fault: a phone must not open a breaker by naming an address that is
// forbidden or leads nowhere.
func blameAddress(err error) error {
	if errors.Is(err, ssrf.ErrProhibitedIP) || errors.Is(err, ssrf.ErrProhibitedPort) {
		return fmt.Errorf("not a public address: %w", provider.ErrRefused)
	}
	if unknown, ok := errors.AsType[*net.DNSError](err); ok && unknown.IsNotFound {
		return fmt.Errorf("no such host: %w", provider.ErrRefused)
	}
	return err
}

// answerless is the client that webpush-go sends by. The library has no use for the answer, so it gets none.
type answerless struct{ client *provider.Client }

func (a answerless) Do(req *http.Request) (*http.Response, error) {
	return nil, a.client.Do(req.Context(), req, webPushAnswer)
}

// webPushAnswer judges by the status alone (RFC 8030 section 5). Services answer 401 and 403 to a subscription that was made with
// another key than ours. So here, unlike elsewhere, these blame the subscription: otherwise a phone could open the breaker.
func webPushAnswer(r *provider.Response) error {
	switch r.Status {
	case http.StatusNotFound, http.StatusGone:
		return fmt.Errorf("status %d: %w", r.Status, errGone)
	case http.StatusUnauthorized, http.StatusForbidden:
		return fmt.Errorf("status %d: %w", r.Status, provider.ErrRefused)
	}
	return nil
}
