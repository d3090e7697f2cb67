package pushnotifier

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"errors"
	"fmt"
	"io"
	"net/http"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode"

	"github.com/golang-jwt/jwt/v5"
	"github.com/nats-io/nats.go"

	"github.com/sekisho/sekisho/events"
	"github.com/sekisho/sekisho/services/internal/directory"
	"github.com/sekisho/sekisho/services/internal/httpapi"
	"github.com/sekisho/sekisho/services/internal/sessions"
)

const (
	// concurrency is how many requests of devices are served at once in one process. They wait for the database and the broker.
	concurrency = 128
	// patience bounds one request: gateways wait for its answer no longer than that.
	patience = 5 * time.Second
	// maxBody bounds a request's body, in bytes; gateways bound it too.
	maxBody = 16 << 10
)

// routes is the device API, as docs/ and schemas/openapi.yaml describe it.
func (n *notifier) routes() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /v1/authenticator/devices", n.guarded(n.enroll))
	mux.HandleFunc("GET /v1/authenticator/devices", n.byDevice(n.listDevices))
	mux.HandleFunc("PATCH /v1/authenticator/devices/{id}", n.byDevice(n.renameDevice))
	mux.HandleFunc("DELETE /v1/authenticator/devices/{id}", n.byDevice(n.removeDevice))
	mux.HandleFunc("PUT /v1/authenticator/subscription", n.byDevice(n.subscribe))
	mux.HandleFunc("GET /v1/authenticator/prompts", n.byDevice(n.listPrompts))
	mux.HandleFunc("POST /v1/authenticator/prompts", n.guarded(n.answerPrompt))
	mux.HandleFunc("POST /v1/authenticator/notices/{id}", n.byDevice(n.answerNotice))
	mux.HandleFunc("GET /v1/authenticator/stream", n.byDevice(n.openStream))
	mux.HandleFunc("POST /v1/activations", n.bySession(n.withEnough(n.activate)))
	mux.HandleFunc("GET /v1/devices", n.bySession(n.listDevices))
	mux.HandleFunc("PATCH /v1/devices/{id}", n.bySession(n.withEnough(n.renameDevice)))
	mux.HandleFunc("DELETE /v1/devices/{id}", n.bySession(n.withEnough(n.removeDevice)))
	return httpapi.Routes(mux)
}

// A caller is whoever a request comes from.
type caller struct {
	gateway string // that handed the request on
	base    string // origin of that gateway
	login   string // id of the login of a signed-in user's session; "" for a device
	proof   string // of a device, from the header; "" for a signed-in user

	// Known once the caller is:
	user    string            // opaque id
	device  directory.Device  // zero for a signed-in user
	session *sessions.Session // nil for a device

	after *[]task // what is left to do once the answer is on its way
}

// A task is something that nobody waits for. It is done before the request's slot is given back, so that tasks never pile up. A process
// that dies first leaves it undone, so others must be able to do without it, or do it again.
type task struct {
	what string
	do   func(context.Context) error
}

// later has a task done once the answer is on its way.
func (c caller) later(what string, do func(context.Context) error) {
	*c.after = append(*c.after, task{what, do})
}

// errStranger says that a caller may not ask. It never says why: an unknown device looks like a bad signature.
var errStranger = &httpapi.Problem{Status: http.StatusUnauthorized, Detail: "the device or the session is not known, or its proof is not good"}

// A handler answers a request of a caller, or returns why it can not.
type handler func(w http.ResponseWriter, r *http.Request, c caller) error

// guarded turns the error of a handler into an answer: a problem is for the client, whose token was refused is a stranger, any other error
// is a 503.
func (n *notifier) guarded(h handler) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		err := h(w, r, r.Context().Value(callerKey{}).(caller))
		if err == nil {
			return
		}
		problem, known := errors.AsType[*httpapi.Problem](err)
		switch {
		case errors.Is(err, errToken):
			problem = errStranger
		case !known:
			n.log.Error().Err(err).Str("route", r.Pattern).Msg("request of a device failed")
			problem = &httpapi.Problem{Status: http.StatusServiceUnavailable, RetryAfter: time.Second}
		}
		problem.Write(w)
	}
}

// byDevice calls a handler for devices only, each request with a proof of its own.
func (n *notifier) byDevice(h handler) http.HandlerFunc {
	return n.guarded(func(w http.ResponseWriter, r *http.Request, c caller) error {
		body, err := readBody(w, r)
		if err != nil {
			return err
		}
		var p proof
		by, err := n.signer(r.Context(), c.proof, proofType, &p)
		if err == nil {
			err = p.check(r.Method, r.URL.Path, body, n.now())
		}
		if err == nil {
			err = n.admit(r.Context(), &c, by, p.ID)
		}
		if err != nil {
			return err
		}
		return h(w, r, c)
	})
}

// readBody reads a body, whose hash is in the proof, and leaves it to be read again.
func readBody(w http.ResponseWriter, r *http.Request) ([]byte, error) {
	body, err := httpapi.ReadBody(w, r, maxBody)
	if err != nil {
		return nil, err
	}
	r.Body = io.NopCloser(bytes.NewReader(body))
	return body, nil
}

// A signer is the device that a token names, and the key that its signature is good for.
type signer struct {
	device string
	key    *ecdsa.PublicKey
}

// signer reads the claims of a token and checks its signature, if possible with a key that is known here. Nothing is written for
// whoever does not hold the key.
func (n *notifier) signer(ctx context.Context, token, typ string, claims jwt.Claims) (by signer, err error) {
	err = verify(token, typ, claims, func(h header) (_ *ecdsa.PublicKey, err error) {
		by.device = h.device
		if by.key = n.keys.known(h.device); by.key == nil {
			by.key, err = n.keyOf(ctx, new(directory.Device))(h)
		}
		return by.key, err
	})
	return by, err
}

// admit makes a device the caller and uses up its proof, by its id. The device must still be there, and have the key that was checked with.
func (n *notifier) admit(ctx context.Context, c *caller, by signer, id string) error {
	device, err := n.store.useProof(ctx, by.device, id)
	if err != nil {
		return err
	}
	if device == nil {
		return errToken
	}
	if key, err := n.keys.of(*device); err != nil || !key.Equal(by.key) {
		return errToken
	}
	c.device, c.user = *device, device.User
	if n.now().Sub(device.Seen) > time.Minute {
		c.later("a device has been seen", func(ctx context.Context) error { return n.devices.Saw(ctx, device.ID) })
	}
	return nil
}

// keyOf looks up the device that a token names, and gives its key.
func (n *notifier) keyOf(ctx context.Context, device *directory.Device) func(header) (*ecdsa.PublicKey, error) {
	return func(h header) (*ecdsa.PublicKey, error) {
		found, err := n.devices.Get(ctx, h.device)
		switch {
		case errors.Is(err, directory.ErrNoDevice):
			return nil, errToken
		case err != nil:
			return nil, err
		}
		*device = found
		return readKey(found.PublicKey) // of a provider's device there is none
	}
}

// bySession calls a handler for signed-in users only.
func (n *notifier) bySession(h handler) http.HandlerFunc {
	return n.guarded(func(w http.ResponseWriter, r *http.Request, c caller) error {
		from := events.Login{Gateway: c.gateway, ID: c.login}
		if from.Validate() != nil {
			return errStranger
		}
		session, err := n.sessions.Get(r.Context(), from)
		switch {
		case errors.Is(err, sessions.ErrNotFound):
			return errStranger
		case err != nil:
			return err
		case !session.Live(n.now()):
			return errStranger
		}
		c.user, c.session = session.User, session
		return h(w, r, c)
	})
}

// serve answers what gateways hand on, until ctx ends.
func (n *notifier) serve(ctx context.Context) error {
	var running sync.WaitGroup
	work := context.WithoutCancel(ctx) // what has begun is finished, within patience
	slots := make(chan struct{}, concurrency)
	routes := n.routes()
	sub, err := n.bus.Conn().QueueSubscribe(events.DeviceSubject("*"), Name, func(msg *nats.Msg) {
		slots <- struct{}{}
		running.Go(func() {
			defer func() { <-slots }()
			n.reply(work, routes, msg)
		})
	})
	if err != nil {
		return fmt.Errorf("pushnotifier: serve devices: %w", err)
	}
	closed := sub.StatusChanged(nats.SubscriptionClosed)
	select {
	case <-closed:
		err = errors.New("pushnotifier: the subscription to requests of devices is gone")
	case <-ctx.Done():
		// While the broker is away no request comes, and to drain would wait for them.
		if n.bus.Conn().IsConnected() && sub.Drain() == nil {
			<-closed
		}
	}
	running.Wait()
	return err
}

func (n *notifier) reply(ctx context.Context, routes http.Handler, msg *nats.Msg) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	defer func() {
		if p := recover(); p != nil { // one request must not take the others with it; its value may be personal
			n.log.Error().Str("panic", fmt.Sprintf("%T", p)).Bytes("stack", debug.Stack()).Msg("request of a device panicked")
		}
	}()
	var left []task
	answer, err := events.ServeDevice(n.opener, msg.Subject, msg.Data, func(gateway string, r events.DeviceRequest) events.DeviceResponse {
		scheme, token, _ := strings.Cut(r.Proof, " ")
		if !strings.EqualFold(scheme, "Device") {
			token = ""
		}
		return handle(ctx, routes, caller{gateway: gateway, base: r.Base, login: r.Session, proof: token, after: &left}, r)
	})
	if err == nil {
		err = msg.Respond(answer)
	}
	if err != nil {
		n.log.Warn().Err(err).Msg("request of a device not answered")
	}
	for _, task := range left {
		if err := task.do(ctx); err != nil {
			n.log.Warn().Err(err).Str("task", task.what).Msg("not recorded")
		}
	}
}

type callerKey struct{}

// maxAnswer bounds the body of an answer: with base64 and encryption around it, it has to fit into a message of the broker (1 MiB).
const maxAnswer = 512 << 10

// handle runs a request through the routes.
func handle(ctx context.Context, routes http.Handler, c caller, r events.DeviceRequest) events.DeviceResponse {
	req, err := http.NewRequestWithContext(context.WithValue(ctx, callerKey{}, c), r.Method, "/", bytes.NewReader(r.Body))
	if err != nil {
		return events.DeviceResponse{Status: http.StatusBadRequest}
	}
	if !strings.ContainsFunc(r.Path, unicode.IsControl) { // no id has any, and PostgreSQL takes no zero byte
		req.URL.Path = r.Path // as the gateway has read it: to read it again would take %25 for %
	}
	req.Header.Set("Content-Type", "application/json") // gateways have seen to it
	w := response{header: make(http.Header), status: http.StatusOK}
	if routes.ServeHTTP(&w, req); w.body.Len() > maxAnswer {
		return events.DeviceResponse{Status: http.StatusInternalServerError}
	}
	after, _ := strconv.Atoi(w.header.Get("Retry-After")) // 0 if there is none
	return events.DeviceResponse{Status: w.status, Type: w.header.Get("Content-Type"), Body: w.body.Bytes(), RetryAfter: after,
		Authenticate: w.header.Get("WWW-Authenticate")}
}

// A response keeps what a handler answers.
type response struct {
	header http.Header
	status int
	body   bytes.Buffer
}

func (w *response) Header() http.Header         { return w.header }
func (w *response) WriteHeader(status int)      { w.status = status }
func (w *response) Write(b []byte) (int, error) { return w.body.Write(b) }
