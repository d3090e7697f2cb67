package events

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// What a [Client] may answer beside errors of the bus and errors that wrap [ErrInvalid] or [ErrNotFound].
var (
	ErrEnded      = errors.New("events: the login has ended")
	ErrNotAsked   = errors.New("events: the login does not ask for this")
	ErrNoAttempts = errors.New("events: all attempts of the login are used")
	ErrNoRounds   = errors.New("events: all rounds of the login are used")
	ErrDenied     = errors.New("events: the broker does not permit it")
)

// A TooSoonError says that a challenge was sent, or asked for, a moment ago.
type TooSoonError struct {
	At time.Time // when the next may be asked for
}

func (e *TooSoonError) Error() string { return "events: the last challenge is too recent" }

// Options set up a [Client]. Only Gateway is required.
type Options struct {
	Gateway     string        // the gateway's name
	Deadline    time.Duration // of logins that ask for none; default 5 minutes
	ResendAfter time.Duration // between two choices of one login; default 30 s
	Patience    time.Duration // for one operation while the bus does not answer; default 5 s
	Reread      time.Duration // age at which what is known of a login is read again; default 2 s, growing while nothing happens

	// Revoked is called for each revoked session of this gateway. It must not block.
	Revoked func(session Login)
	// Prompted is called when there is something new for a device to fetch: see [Client.Device]. It must not block.
	Prompted func(device string)
}

// A Client takes part in logins for one gateway. Any number of clients may share the gateway's name, and each of them
// can serve all of its logins. A Client is safe for concurrent use.
type Client struct {
	nc      *nats.Conn
	js      jetstream.JetStream
	sealer  *Sealer
	options Options
	heard   []*nats.Subscription
	ctx     context.Context // ends with Close
	close   func()

	mu      sync.Mutex
	follows map[Login]*follow
}

// Connect connects to NATS as a gateway whose nkey seed is in a file, and makes a Client of the connection.
func Connect(ctx context.Context, url, seedFile string, o Options) (*Client, error) {
	key, err := nats.NkeyOptionFromSeed(seedFile)
	if err != nil {
		return nil, fmt.Errorf("events: seed of gateway %s: %w", o.Gateway, err)
	}
	nc, err := nats.Connect(url, key, nats.Name(GatewayWorker+"/"+o.Gateway), NothingLater(),
		nats.MaxReconnects(-1), nats.IgnoreAuthErrorAbort(), // also when the broker has the wrong users for a moment
		// A broker that hangs, or whose packets vanish, is left after some 15 s; by default it would be after more than four minutes.
		nats.PingInterval(5*time.Second), nats.MaxPingsOutstanding(2),
		nats.CustomInboxPrefix("_INBOX_"+o.Gateway)) // the only inboxes that the gateway may listen to
	if err != nil {
		return nil, fmt.Errorf("events: connect gateway %s: %w", o.Gateway, err)
	}
	c, err := NewClient(ctx, nc, o)
	if err != nil {
		nc.Close()
		return nil, err
	}
	stop := c.close
	c.close = func() { stop(); nc.Close() }
	return c, nil
}

// NothingLater is for the connection of a gateway: what is published while it is lost fails, rather than being sent when it is back,
// since by then nobody waits any more for a login that could not begin.
func NothingLater() nats.Option { return nats.ReconnectBufSize(-1) }

// NewClient makes a Client of a connection, which stays the caller's. The connection must have the inbox prefix
// _INBOX_<gateway>, and should have [NothingLater]. The Client listens until [Client.Close].
func NewClient(ctx context.Context, nc *nats.Conn, o Options) (*Client, error) {
	if !validGateway(o.Gateway) {
		return nil, fmt.Errorf("events: gateway name %q: want 1 to 32 of a-z, 0-9, '-'", o.Gateway)
	}
	o.Deadline = min(cmp.Or(o.Deadline, 5*time.Minute), MaxDeadline)
	o.ResendAfter = cmp.Or(o.ResendAfter, 30*time.Second)
	o.Patience = cmp.Or(o.Patience, 5*time.Second)
	o.Reread = cmp.Or(o.Reread, 2*time.Second)
	js, err := jetstream.New(nc)
	if err != nil {
		return nil, fmt.Errorf("events: %w", err)
	}
	sealer, err := NewSealer()
	if err != nil {
		return nil, err
	}
	c := &Client{nc: nc, js: js, sealer: sealer, options: o, follows: make(map[Login]*follow)}
	if err := c.fetchKeys(ctx); err != nil {
		return nil, err
	}
	if err := c.listen(ctx); err != nil {
		c.unlisten()
		return nil, err
	}
	var stop context.CancelFunc
	c.ctx, stop = context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { c.keepKeys(c.ctx) })
	c.close = func() {
		stop()
		c.unlisten()
		c.disownAll()
		running.Wait()
	}
	return c, nil
}

// Close stops listening. Logins that are open go on without this client; others of the gateway can serve them.
func (c *Client) Close() { c.close() }

// A Request asks for a login.
type Request struct {
	Login    Login // made by [NewLogin], for who must know it before; zero: a new one
	App      string
	Method   Method
	User     string // as the user typed it
	Password string // with [Password] only
	Session  string // with [None] only: the session to step up from; see [Identity]
	Prefer   Factor // the factor to challenge first; may be empty
	Need     int    // how many factors to ask for at least; 0: as many as the policy asks for
	Locale   string // "ja", "en" or empty
	Deadline time.Time
	Trace    string // W3C traceparent; a new one if empty

	SourceTag   string // keyed hash of the client's network
	Device      string // see [Identity]
	DeviceUsers []string
	Environment *Environment // nil if nothing is known
	Prompt      *Prompt      // nil if the user's phones are not to be asked
}

// Request starts a login. On an error the login may still have been stored, but nobody can take part in it then.
func (c *Client) Request(ctx context.Context, r Request) (Login, error) {
	ctx, cancel := context.WithTimeout(ctx, c.options.Patience)
	defer cancel()
	login, err := c.nameLogin(r)
	if err != nil {
		return Login{}, err
	}
	now := time.Now()
	deadline := cmp.Or(r.Deadline, now.Add(c.options.Deadline))
	if latest := now.Add(MaxDeadline); deadline.After(latest) {
		deadline = latest
	}
	data := &Requested{App: r.App, Method: r.Method, Prefer: r.Prefer, Need: r.Need, Deadline: deadline, Locale: r.Locale, SourceTag: r.SourceTag}
	subject := login.Subject(StepRequested, 0)
	identity := Identity{User: r.User, Password: r.Password, Device: r.Device, DeviceUsers: r.DeviceUsers, Session: r.Session}
	if data.Identity, err = c.seal(ctx, identityverifier, subject, "identity", identity); err != nil {
		return Login{}, err
	}
	if r.Environment != nil {
		if data.Environment, err = c.seal(ctx, riskassessor, subject, "environment", r.Environment); err != nil {
			return Login{}, err
		}
	}
	if r.Prompt != nil {
		if data.Prompt, err = c.seal(ctx, pushnotifier, subject, "prompt", r.Prompt); err != nil {
			return Login{}, err
		}
	}
	e := c.newEvent(login, 0, data)
	e.Trace = cmp.Or(r.Trace, newTrace())
	c.own(e) // before the publish, so that no answer to it is missed
	if _, err := c.publish(ctx, e); err != nil {
		c.disown(login)
		return Login{}, err
	}
	return login, nil
}

// nameLogin is the login that a request asks for, or a new one.
func (c *Client) nameLogin(r Request) (Login, error) {
	switch {
	case r.Login == Login{}:
		return NewLogin(c.options.Gateway)
	case r.Login.Gateway != c.options.Gateway:
		return Login{}, fmt.Errorf("%w: login of gateway %s", ErrInvalid, c.options.Gateway)
	default:
		return r.Login, r.Login.Validate()
	}
}

// Answer answers the login's challenge with the code that the user typed. It takes the next free of the five attempts and
// returns its number: the attempt has a verdict as soon as [State.Rejected] has one, the login has ended, or a higher round
// is challenged.
// Errors: [ErrEnded], [ErrNotAsked], [ErrNoAttempts].
func (c *Client) Answer(ctx context.Context, login Login, code string) (attempt int, err error) {
	asked := func(challenge *Challenge) bool { return challenge.Factor != Push }
	return c.answer(ctx, login, asked, func(subject string, data *Answered) (err error) {
		data.Code, err = c.seal(ctx, otpvalidator, subject, "code", code)
		return err
	})
}

// Respond answers a push whose approval a provider hosts ([Challenged.URL]) with the parameters that the browser brought
// back from there. Otherwise it is like [Client.Answer].
func (c *Client) Respond(ctx context.Context, login Login, parameters map[string]string) (attempt int, err error) {
	asked := func(challenge *Challenge) bool {
		return challenge.Factor == Push && challenge.URL != "" && !challenge.Exhausted
	}
	return c.answer(ctx, login, asked, func(subject string, data *Answered) (err error) {
		data.Response, err = c.seal(ctx, pushnotifier, subject, "response", Response{Parameters: parameters})
		return err
	})
}

func (c *Client) answer(ctx context.Context, login Login, asked func(*Challenge) bool, fill func(subject string, data *Answered) error) (attempt int, err error) {
	ctx, cancel := context.WithTimeout(ctx, c.options.Patience)
	defer cancel()
	state, err := c.current(ctx, login)
	if err != nil {
		return 0, err
	}
	challenge := state.Challenge()
	if challenge == nil || !asked(challenge) {
		return 0, ErrNotAsked
	}
	nonce := rand.Text()
	for n := 1; n <= Attempts; n++ {
		if state.Rejected[n] != nil {
			continue
		}
		data := &Answered{Round: challenge.Round, Factor: challenge.Factor}
		if err := fill(login.Subject(StepAnswered, n), data); err != nil {
			return 0, err
		}
		e := c.newEvent(login, n, data)
		e.Trace, e.Cause, e.Nonce = state.Trace, login.EventID(StepChallenged, challenge.Round), nonce
		mine, err := c.publish(ctx, e)
		if err != nil {
			return 0, err
		}
		if mine {
			return n, nil
		}
	}
	return 0, ErrNoAttempts
}

// Choose leaves the login's round for another factor, or for the same again, and returns the round that it left. What
// follows is a challenge or an undelivered of a higher round, or an ending.
// Errors: [ErrEnded], [ErrNotAsked] (the factor is not among the choices), [ErrNoRounds], [TooSoonError].
func (c *Client) Choose(ctx context.Context, login Login, factor Factor) (left int, err error) {
	ctx, cancel := context.WithTimeout(ctx, c.options.Patience)
	defer cancel()
	state, err := c.current(ctx, login)
	if err != nil {
		return 0, err
	}
	if state.Round() >= Rounds {
		return 0, ErrNoRounds
	}
	challenge := state.Challenge()
	again := challenge != nil && factor == challenge.Factor && !challenge.Exhausted
	if challenge == nil || !again && !slices.Contains(challenge.Choices, factor) {
		return 0, ErrNotAsked
	}
	if at := state.Again(factor); time.Now().Before(at) {
		return 0, &TooSoonError{At: at}
	}
	nonce := rand.Text()
	for round := state.Round(); round < Rounds; round++ {
		e := c.newEvent(login, round, &Chosen{Factor: factor})
		e.Trace, e.Cause, e.Nonce = state.Trace, login.EventID(StepChallenged, challenge.Round), nonce
		mine, err := c.publish(ctx, e)
		if err != nil {
			return 0, err
		}
		if mine {
			return round, nil
		}
		// Somebody else left this round, perhaps the same user a moment ago. If nothing has come of it in all that
		// time, the next round may be left too.
		other, err := c.stored(ctx, e)
		if err != nil {
			return 0, err
		}
		if next := other.Stored.Add(c.options.ResendAfter); time.Now().Before(next) {
			return 0, &TooSoonError{At: next}
		}
	}
	return 0, ErrNoRounds
}

// Cancel says that the user gave up. The login ends as cancelled unless another ending came first. Errors: [ErrEnded].
func (c *Client) Cancel(ctx context.Context, login Login) error {
	return c.end(ctx, login, &Cancelled{})
}

// Lapse says that the login's deadline has passed, which ends it as expired unless another ending came first. The client does
// so by itself for logins that it started, and for those that it finds past their deadline. Errors: [ErrEnded].
func (c *Client) Lapse(ctx context.Context, login Login) error {
	return c.end(ctx, login, &Lapsed{})
}

func (c *Client) end(ctx context.Context, login Login, data Data) error {
	ctx, cancel := context.WithTimeout(ctx, c.options.Patience)
	defer cancel()
	state, err := c.current(ctx, login)
	if err != nil {
		return err
	}
	_, err = c.say(ctx, state, data)
	return err
}

// say publishes what ends a login, or is to end it.
func (c *Client) say(ctx context.Context, state *State, data Data) (*Event, error) {
	e := c.newEvent(state.Login, 0, data)
	e.Trace, e.Cause = state.Trace, state.Login.EventID(StepRequested, 0)
	_, err := c.publish(ctx, e)
	return e, err
}

// current is the State of a login that has not ended.
func (c *Client) current(ctx context.Context, login Login) (*State, error) {
	state, err := c.State(ctx, login)
	if err != nil {
		return nil, err
	}
	if state.Ended() {
		return nil, ErrEnded
	}
	return state, nil
}

func (c *Client) newEvent(login Login, n int, data Data) *Event {
	e := New(login, n, data)
	e.By, e.Time = GatewayWorker+"/"+c.options.Gateway, time.Now()
	return e
}

// newTrace is a new traceparent (W3C Trace Context, section 3.2), sampled.
func newTrace() string {
	var id [24]byte
	rand.Read(id[:])
	return "00-" + hex.EncodeToString(id[:16]) + "-" + hex.EncodeToString(id[16:]) + "-01"
}

// codeTaken is JetStream's error when a subject has its one message already (JSStreamStoreFailedF: maximum messages per subject exceeded).
const codeTaken jetstream.ErrorCode = 10077

// Taken reports whether a publish failed because its subject has its one message already.
func Taken(err error) bool {
	refusal, refused := errors.AsType[*jetstream.APIError](err)
	return refused && refusal.ErrorCode == codeTaken
}

const (
	ackWait = 2 * time.Second       // for the ack of one publish, before it counts as unknown and is sent again
	pause   = 50 * time.Millisecond // between two tries of anything
)

// publish stores an event at its subject, which takes one message only, and reports whether the event that is there now
// is this one. Of events without a nonce only one can be meant, so whatever is there is this one.
//
// A publish whose ack did not arrive is unknown: it is sent again, and if the subject is taken then, the stored event
// tells by its nonce whose it is.
func (c *Client) publish(ctx context.Context, e *Event) (mine bool, err error) {
	msg, err := e.Message()
	if err != nil {
		return false, err
	}
	for unknown := false; ; unknown = true {
		err := c.try(ctx, msg)
		_, refused := errors.AsType[*jetstream.APIError](err)
		switch {
		case err == nil:
			return true, nil
		case EndedOtherwise(err):
			return false, ErrEnded
		case refused && !Taken(err):
			return false, fmt.Errorf("events: publish %s: %w", e.ID(), err)
		case refused && e.Nonce == "":
			return true, nil
		case refused && !unknown:
			return false, nil
		case refused:
			there, err := c.stored(ctx, e)
			if err != nil {
				return false, err
			}
			return there.Nonce == e.Nonce, nil
		}
		if denied(c.nc, e.Subject()) {
			return false, fmt.Errorf("events: publish %s: %w", e.ID(), ErrDenied)
		}
		select {
		case <-ctx.Done():
			return false, fmt.Errorf("events: publish %s: %w", e.ID(), err)
		case <-time.After(pause):
		}
	}
}

// try sends a message once and waits for its ack.
func (c *Client) try(ctx context.Context, msg *nats.Msg) error {
	ctx, cancel := context.WithTimeout(ctx, ackWait)
	defer cancel()
	_, err := c.js.PublishMsg(ctx, msg)
	return err
}

// stored reads the event that took the subject of e. Direct get may be a moment behind the refusal that told of it.
func (c *Client) stored(ctx context.Context, e *Event) (*Event, error) {
	for {
		there, err := Get(ctx, c.nc, e.Login, e.Step, e.N)
		if !errors.Is(err, ErrNotFound) {
			return there, err
		}
		select {
		case <-ctx.Done():
			return nil, err
		case <-time.After(pause):
		}
	}
}

// denied reports whether the broker refused a subject. It does not answer a message that the sender may not send: the
// one sign of it is an error of the connection.
func denied(nc *nats.Conn, subject string) bool {
	err := nc.LastError()
	return errors.Is(err, nats.ErrPermissionViolation) && strings.Contains(err.Error(), `"`+subject+`"`)
}
