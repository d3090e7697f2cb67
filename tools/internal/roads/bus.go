package roads

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/sekisho/sekisho/events"
	"github.com/sekisho/sekisho/tools/internal/phone"
	"github.com/sekisho/sekisho/tools/internal/system"
)

// Bus is a gateway on the bus. Each user has a browser that remembers who logged in with it.
type Bus struct {
	client   *events.Client
	codes    coder
	browsers sync.Map // user name → opaque id of the user
}

// Gateway is the name of the outside gateway for which every system has a seed.
const Gateway = "example"

// DialBus connects to a system as an outside gateway.
func DialBus(ctx context.Context, s *system.System) (*Bus, error) {
	codes, err := s.Codes()
	if err != nil {
		return nil, err
	}
	client, err := events.Connect(ctx, s.NATS, s.Seed(Gateway), events.Options{Gateway: Gateway})
	if err != nil {
		return nil, err
	}
	return &Bus{client: client, codes: codes}, nil
}

// Close disconnects.
func (b *Bus) Close() { b.client.Close() }

// Login is [Driver].
func (b *Bus) Login(ctx context.Context, road Road, user system.User) error {
	_, err := b.Walk(ctx, road, user)
	return err
}

// Walk is Login, and returns the login.
func (b *Bus) Walk(ctx context.Context, road Road, user system.User) (events.Login, error) {
	login, outcome, err := b.Behave(ctx, road, user, Manner{})
	if err == nil && outcome != events.Granted {
		err = fmt.Errorf("login %s is %s", login, outcome)
	}
	return login, err
}

// A Manner is how a user behaves otherwise than simply logging in.
type Manner struct {
	Mistakes int           // wrong codes or numbers before the right one
	Deny     bool          // says no on the phone
	Cancel   bool          // gives up when challenged
	Leave    time.Duration // walks away when challenged, from a login that lasts so long; 0: stays
}

// Behave takes a user down a road in some manner, and says how the login ended.
func (b *Bus) Behave(ctx context.Context, road Road, user system.User, m Manner) (events.Login, events.Outcome, error) {
	request := events.Request{App: road.App, Method: road.Method, User: user.Name, Locale: "en",
		Environment: &events.Environment{IP: user.Address}}
	if id, known := b.browsers.Load(user.Name); known {
		request.Device, request.DeviceUsers = "browser of "+user.Name, []string{id.(string)}
	}
	number := ""
	switch road.Method {
	case events.Password:
		request.Password = user.Password
	case events.None:
		number = fmt.Sprintf("%06d", rand.IntN(1_000_000))
		request.Prefer, request.Prompt = events.Push, &events.Prompt{Number: number, Place: "Edo", Browser: "Firefox, Linux"}
	}
	if m.Leave > 0 {
		request.Deadline = time.Now().Add(m.Leave)
	}
	login, err := b.client.Request(ctx, request)
	if err != nil {
		return login, "", err
	}
	type question struct{ round, left int }
	var answered question
	for state, err := range b.client.Watch(ctx, login) {
		if err != nil {
			return login, "", err
		}
		if state.Ended() {
			if state.Status() == events.StatusGranted {
				b.browsers.Store(user.Name, state.Closed.User)
			}
			return login, events.Outcome(state.Status()), nil
		}
		c := state.Challenge()
		if c == nil || c.Rejected == events.RejectedDenied || m.Leave > 0 || answered == (question{c.Round, c.AttemptsLeft}) {
			continue
		}
		answered = question{c.Round, c.AttemptsLeft}
		given := number
		if c.Factor != events.Push {
			given = b.codes.Code(login, c.Round)
		}
		if events.Attempts-c.AttemptsLeft < m.Mistakes {
			given = mistyped(given)
		}
		switch {
		case m.Cancel:
			err = b.client.Cancel(ctx, login)
		case c.Factor != events.Push:
			_, err = b.client.Answer(ctx, login, given)
		case m.Deny:
			err = user.Authenticator.Decide(ctx, b.client.Device, login, c.Round, phone.Deny, "")
		default:
			err = user.Authenticator.Decide(ctx, b.client.Device, login, c.Round, phone.Approve, given)
		}
		if err != nil && !errors.Is(err, events.ErrEnded) {
			return login, "", err
		}
	}
	return login, "", fmt.Errorf("login %s: %w", login, ctx.Err())
}
