package roads

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/sekisho/sekisho/events"
	"github.com/sekisho/sekisho/tools/internal/system"
)

// Bus is a gateway on the bus.
type Bus struct {
	client *events.Client
	codes  coder
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
	return &Bus{client, codes}, nil
}

// Close disconnects.
func (b *Bus) Close() { b.client.Close() }

// Login is [Driver].
func (b *Bus) Login(ctx context.Context, road Road, user system.User) error {
	_, err := b.Walk(ctx, road, user)
	return err
}

// Walk is Login, and names the login.
func (b *Bus) Walk(ctx context.Context, road Road, user system.User) (events.Login, error) {
	login, outcome, err := b.Behave(ctx, road, user, Manner{})
	if err == nil && outcome != events.Granted {
		err = fmt.Errorf("login %s is %s", login, outcome)
	}
	return login, err
}

// A Manner is how a user behaves who does not simply log in.
type Manner struct {
	Mistakes int           // wrong codes before the right one
	Cancel   bool          // gives up when asked for a code
	Leave    time.Duration // walks away when asked for a code, from a login that lasts so long; 0: stays
}

// Behave takes a user down a road in some manner, and says how the login ended.
func (b *Bus) Behave(ctx context.Context, road Road, user system.User, m Manner) (events.Login, events.Outcome, error) {
	request := events.Request{App: road.App, Method: events.Password, User: user.Name, Password: user.Password, Locale: "en"}
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
			return login, state.Closed.Outcome, nil
		}
		c := state.Challenge()
		if c == nil || m.Leave > 0 || answered == (question{c.Round, c.AttemptsLeft}) {
			continue
		}
		answered = question{c.Round, c.AttemptsLeft}
		if m.Cancel {
			err = b.client.Cancel(ctx, login)
		} else {
			code := b.codes.Code(login, c.Round)
			if events.Attempts-c.AttemptsLeft < m.Mistakes {
				code = mistyped(code)
			}
			_, err = b.client.Answer(ctx, login, code)
		}
		if err != nil && !errors.Is(err, events.ErrEnded) {
			return login, "", err
		}
	}
	return login, "", fmt.Errorf("login %s: %w", login, ctx.Err())
}

// mistyped is a code with another last digit.
func mistyped(code string) string {
	last := code[len(code)-1]
	return code[:len(code)-1] + string('0'+(last-'0'+1)%10)
}
