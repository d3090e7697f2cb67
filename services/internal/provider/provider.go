// Package provider makes the outgoing HTTP calls of every adapter. One Client stands for one outside
// system and keeps it from taking the worker down with it: a limit on concurrent calls, a bound on time
// and size of each answer, a circuit breaker, and respect for Retry-After.
//
// A call fails with exactly one class (ErrOpen, ErrBusy, ErrTimeout, ErrRefused, ErrLimited,
// ErrUnavailable, or context.Canceled when the caller gave up), to be told apart by errors.Is. Unsent
// says that the request can not have reached the provider.
//
// Requests and answers may hold phone numbers and secrets, so no error text of this package quotes a
// URL, a header or a body.
package provider

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"
	"github.com/sony/gobreaker/v2"
)

// maxHeader bounds an answer's header, in bytes: far more than any API sends.
const maxHeader = 64 << 10

// Settings describe one provider. A zero field takes the default.
type Settings struct {
	Name          string        // label in metrics and errors, such as "karaden"
	Timeout       time.Duration // of a whole call, waiting for a slot included; default 5s
	MaxConcurrent int           // calls at a time; default 200: 1,000 a second at 200 ms each
	Failures      int           // consecutive failures that open the breaker; default 5
	Open          time.Duration // how long the breaker stays open before one call may probe; default 10s
	MaxBody       int64         // bytes of an answer's body; default 1 MiB
	MaxRetryAfter time.Duration // bound on what a provider's Retry-After may ask for; default 1m

	// Proxy is the HTTP proxy to go through. Default is that of the environment, if there is one.
	Proxy *url.URL

	// Dial connects to host:port. It may turn an address down by an error that wraps ErrRefused, whose text ends up in logs. Default
	// is a net.Dialer. No proxy is used with a Dial, which has to see where each connection goes.
	Dial func(ctx context.Context, network, addr string) (net.Conn, error)
}

func (s Settings) withDefaults() Settings {
	s.Timeout = cmp.Or(s.Timeout, 5*time.Second)
	s.MaxConcurrent = cmp.Or(s.MaxConcurrent, 200)
	s.Failures = cmp.Or(s.Failures, 5)
	s.Open = cmp.Or(s.Open, 10*time.Second)
	s.MaxBody = cmp.Or(s.MaxBody, 1<<20)
	s.MaxRetryAfter = cmp.Or(s.MaxRetryAfter, time.Minute)
	return s
}

// Client calls one provider. It is safe for concurrent use.
type Client struct {
	settings     Settings
	transport    *http.Transport
	slots        chan struct{}
	breaker      *gobreaker.CircuitBreaker[struct{}]
	limitedUntil atomic.Int64 // Unix nanoseconds; set by a 429
	metrics      metrics
}

// New returns a client that registers its metrics with reg, where clients share the collectors, and
// tells log of each change of its breaker.
func New(s Settings, reg prometheus.Registerer, log zerolog.Logger) *Client {
	s = s.withDefaults()
	proxy, dial := http.ProxyFromEnvironment, (&net.Dialer{}).DialContext
	if s.Proxy != nil {
		proxy = http.ProxyURL(s.Proxy)
	}
	if s.Dial != nil {
		proxy, dial = nil, s.Dial
	}
	c := &Client{
		settings: s,
		transport: &http.Transport{
			Proxy: proxy,
			// A dial goes on when the request that began it has ended, so it has a bound of its own.
			DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
				ctx, cancel := context.WithTimeout(ctx, s.Timeout)
				defer cancel()
				return dial(ctx, network, addr)
			},
			TLSHandshakeTimeout:    s.Timeout,
			ForceAttemptHTTP2:      true,
			MaxIdleConnsPerHost:    s.MaxConcurrent,
			IdleConnTimeout:        90 * time.Second,
			MaxResponseHeaderBytes: maxHeader,
			DisableCompression:     true, // answers are small, and what is bounded is what was sent
		},
		slots:   make(chan struct{}, s.MaxConcurrent),
		metrics: newMetrics(s.Name, reg),
	}
	c.breaker = gobreaker.NewCircuitBreaker[struct{}](gobreaker.Settings{
		Name:        s.Name,
		Timeout:     s.Open,
		ReadyToTrip: func(n gobreaker.Counts) bool { return n.ConsecutiveFailures >= uint32(s.Failures) },
		// A provider that refuses or limits a request is alive.
		IsSuccessful: func(err error) bool {
			return err == nil || errors.Is(err, ErrRefused) || errors.Is(err, ErrLimited)
		},
		IsExcluded: func(err error) bool {
			e, ok := errors.AsType[*Error](err)
			return ok && e.early
		},
		OnStateChange: func(name string, from, to gobreaker.State) {
			c.metrics.state.Set(float64(to)) // gobreaker numbers them 0 closed, 1 half-open, 2 open
			log.Warn().Str("provider", name).Stringer("from", from).Stringer("to", to).Msg("circuit breaker changed")
		},
	})
	return c
}

// CloseIdle closes the pooled connections that no call is using.
func (c *Client) CloseIdle() { c.transport.CloseIdleConnections() }

// Do sends req and hands the answer to decode, whatever its status, except 429 (ErrLimited). What
// decode returns decides: nil leaves the class to the status (see Response.Class), an error that wraps
// one of the classes has that class, and any other error means garbage, which is ErrUnavailable. decode's
// errors end up in logs, so they must not quote the answer. Redirects are not followed: an answer that
// asks for one is ErrUnavailable. The error is always an *Error.
//
// The breaker judges the provider by the client's own Timeout: a caller that gives up earlier, by canceling
// or by a deadline of its own, is not counted.
func (c *Client) Do(ctx context.Context, req *http.Request, decode func(*Response) error) error {
	err := c.do(ctx, req, decode)
	c.metrics.count(err)
	return err
}

func (c *Client) do(ctx context.Context, req *http.Request, decode func(*Response) error) error {
	if err := c.standstill(); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, c.settings.Timeout, errSlow)
	defer cancel()
	if err := c.acquire(ctx); err != nil {
		return err
	}
	defer func() { <-c.slots }()
	// Much may have happened while this call waited for its slot.
	if err := c.standstill(); err != nil {
		return err
	}
	_, err := c.breaker.Execute(func() (struct{}, error) {
		return struct{}{}, c.exchange(ctx, req, decode)
	})
	if errors.Is(err, gobreaker.ErrOpenState) || errors.Is(err, gobreaker.ErrTooManyRequests) {
		return c.unsent(ErrOpen)
	}
	return err
}

// standstill returns why nothing may be sent at the moment, so that nobody queues for nothing.
func (c *Client) standstill() error {
	if wait := time.Until(time.Unix(0, c.limitedUntil.Load())); wait > 0 {
		return &Error{Provider: c.settings.Name, Class: ErrLimited, RetryAfter: wait, Unsent: true}
	}
	if c.breaker.State() == gobreaker.StateOpen {
		return c.unsent(ErrOpen)
	}
	return nil
}

// acquire waits for a slot for half the timeout at most. The other half is left to the exchange, so that
// our own queue is not mistaken for a slow provider and does not open the breaker.
func (c *Client) acquire(ctx context.Context) error {
	patience := time.NewTimer(c.settings.Timeout / 2)
	defer patience.Stop()
	select {
	case c.slots <- struct{}{}:
		return nil
	case <-patience.C:
		return c.unsent(ErrBusy)
	case <-ctx.Done():
		return c.cutShort(ctx, true)
	}
}

// cutShort returns the failure of a call whose context ended.
func (c *Client) cutShort(ctx context.Context, unsent bool) error {
	e := &Error{Provider: c.settings.Name, Class: ErrTimeout, Unsent: unsent}
	if errors.Is(ctx.Err(), context.Canceled) {
		e.Class = context.Canceled
	}
	e.early = context.Cause(ctx) != errSlow
	return e
}

func (c *Client) unsent(class error) error {
	return &Error{Provider: c.settings.Name, Class: class, Unsent: true}
}

func (c *Client) exchange(ctx context.Context, req *http.Request, decode func(*Response) error) error {
	var connected atomic.Bool // without a connection nothing can have been sent
	start := time.Now()
	res, err := c.roundTrip(req.Clone(httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		GotConn: func(httptrace.GotConnInfo) { connected.Store(true) },
	})))
	c.metrics.duration.Observe(time.Since(start).Seconds())
	switch {
	case err == nil:
		return c.judge(res, decode)
	case ctx.Err() != nil:
		return c.cutShort(ctx, !connected.Load())
	}
	failure := &Error{Provider: c.settings.Name, Class: ErrUnavailable, Unsent: !connected.Load(), Cause: blunt(err)}
	if timeout, ok := errors.AsType[net.Error](err); ok && timeout.Timeout() {
		failure.Class = ErrTimeout
	}
	if errors.Is(err, ErrRefused) { // by Settings.Dial
		failure.Class, failure.Cause = ErrRefused, err
	}
	return failure
}

// roundTrip reads the whole answer within the bounds of size and of req's context. It goes to the
// transport directly: http.Client would add redirects, and quote the URL in its errors.
func (c *Client) roundTrip(req *http.Request) (*Response, error) {
	if req.Header.Get("User-Agent") == "" {
		req.Header.Set("User-Agent", "sekisho")
	}
	res, err := c.transport.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(io.LimitReader(res.Body, c.settings.MaxBody+1))
	if err != nil {
		return nil, err
	}
	if int64(len(body)) > c.settings.MaxBody {
		return nil, errTooLarge
	}
	return &Response{Status: res.StatusCode, Header: res.Header, Body: body}, nil
}

func (c *Client) judge(res *Response, decode func(*Response) error) error {
	if res.Status == http.StatusTooManyRequests {
		wait := min(res.retryAfter(time.Now()), c.settings.MaxRetryAfter)
		c.limitedUntil.Store(time.Now().Add(wait).UnixNano())
		return &Error{Provider: c.settings.Name, Class: ErrLimited, RetryAfter: wait}
	}
	err := decode(res)
	if err == nil {
		class := res.Class()
		if class == nil {
			return nil
		}
		err = fmt.Errorf("status %d: %w", res.Status, class)
	}
	return &Error{Provider: c.settings.Name, Class: cmp.Or(classOf(err), ErrUnavailable), Cause: err}
}
