package events

import (
	"context"
	"fmt"
	"iter"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
)

const (
	// settled is the age from which a login that is not in the stream counts as unknown. Before, a replica may be behind.
	settled = 10 * time.Second
	// maxReread bounds the growing time between two readings of a login for which somebody waits.
	maxReread = 15 * time.Second
)

// A follow is what the client knows of one login: of those that it started, until they end or their deadline passes,
// and of those for which somebody waits. Guarded by Client.mu.
type follow struct {
	state   State
	read    time.Time     // since when nothing but a lost message can be missing
	changed chan struct{} // closed when state changes
	waiting int           // how many wait
	lapse   *time.Timer   // of logins that this client started
}

// What a gateway hears beside the steps of [Heard], which do not come from LOGIN: the third tokens of the subjects.
const (
	revoked = "revoked" // sessions that have been revoked
	prompts = "prompts" // devices for which there is something new to fetch
)

// listen subscribes to what the broker tells this gateway. Every client of a gateway hears everything. A message may be
// lost, so it is no more than a hint that saves reading the stream.
func (c *Client) listen(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, c.options.Patience)
	defer cancel()
	for _, what := range append([]Step{revoked, prompts}, Heard...) {
		subject := "deliver." + c.options.Gateway + "." + string(what) + ".>"
		sub, err := c.nc.Subscribe(subject, c.hear)
		if err != nil {
			return fmt.Errorf("events: listen to %s: %w", subject, err)
		}
		c.heard = append(c.heard, sub)
	}
	if err := c.nc.FlushWithContext(ctx); err != nil {
		return fmt.Errorf("events: listen: %w", err)
	}
	for _, sub := range c.heard {
		if denied(c.nc, sub.Subject) {
			return fmt.Errorf("events: listen to %s: %w", sub.Subject, ErrDenied)
		}
	}
	return nil
}

func (c *Client) unlisten() {
	for _, sub := range c.heard {
		_ = sub.Unsubscribe() // fails only on a connection that is closed, where nothing is heard any more
	}
}

// hear takes in what the broker has stored and says again under deliver.<gateway>.<what>.<login>[.<n>].
func (c *Client) hear(msg *nats.Msg) {
	what, id, ok := strings.Cut(strings.TrimPrefix(msg.Subject, "deliver."+c.options.Gateway+"."), ".")
	if !ok {
		return
	}
	if what == revoked {
		session := Login{Gateway: c.options.Gateway, ID: id}
		if session.Validate() == nil && c.options.Revoked != nil {
			c.options.Revoked(session)
		}
		return
	}
	if what == prompts {
		if c.options.Prompted != nil {
			c.options.Prompted(id)
		}
		return
	}
	subject := "login." + what + "." + c.options.Gateway + "." + id
	login, _, _, err := ParseSubject(subject)
	if err != nil || !c.following(login) {
		return // most of what a gateway hears is for another instance of it
	}
	e, err := readStored(subject, msg.Header, msg.Data)
	if err != nil {
		return // reading the stream meets the same event, and can say so to somebody
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if f := c.follows[login]; f != nil && f.state.Add(e) {
		c.tell(f)
	}
}

func (c *Client) following(login Login) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.follows[login] != nil
}

// tell wakes who waits for f. The caller holds c.mu.
func (c *Client) tell(f *follow) {
	close(f.changed)
	f.changed = make(chan struct{})
	c.drop(f)
}

// drop forgets f if neither a waiter nor a deadline needs it any more. The caller holds c.mu.
func (c *Client) drop(f *follow) {
	if f.state.Ended() {
		f.stopTimer()
	}
	if f.lapse == nil && f.waiting == 0 {
		delete(c.follows, f.state.Login)
	}
}

// own follows a login that this client starts, until its deadline.
func (c *Client) own(e *Event) {
	f := &follow{state: State{Login: e.Login}, read: time.Now(), changed: make(chan struct{})}
	f.state.Add(e)
	c.mu.Lock()
	defer c.mu.Unlock()
	f.lapse = time.AfterFunc(time.Until(f.state.Deadline()), func() {
		// If this fails, other workers notice the deadline too.
		_ = c.Lapse(c.ctx, e.Login)
		c.disown(e.Login)
	})
	c.follows[e.Login] = f
}

// disown ends what own began.
func (c *Client) disown(login Login) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if f := c.follows[login]; f != nil {
		f.stopTimer()
		c.drop(f)
	}
}

func (c *Client) disownAll() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, f := range c.follows {
		f.stopTimer()
		c.drop(f)
	}
}

// stopTimer ends the wait for the deadline. The caller holds Client.mu.
func (f *follow) stopTimer() {
	if f.lapse != nil {
		f.lapse.Stop()
		f.lapse = nil
	}
}

// State is where a login stands, no more than Options.Reread ago. [ErrNotFound] if the gateway has no such login, or
// had it too long ago for the stream to know.
func (c *Client) State(ctx context.Context, login Login) (*State, error) {
	f := c.join(login)
	defer c.leave(f)
	if err := c.refresh(ctx, f, c.options.Reread); err != nil {
		return nil, err
	}
	state, _ := c.look(f)
	return state, nil
}

// Watch yields where a login stands, and then every later version of it until it has ended or ctx is done. Versions
// that follow each other closely may be yielded as one. An error means that the login could not be read at the start,
// and is the last that is yielded; while somebody waits, an absent bus is waited for.
func (c *Client) Watch(ctx context.Context, login Login) iter.Seq2[*State, error] {
	return func(yield func(*State, error) bool) {
		f := c.join(login)
		defer c.leave(f)
		if err := c.refresh(ctx, f, c.options.Reread); err != nil {
			if ctx.Err() == nil {
				yield(nil, err)
			}
			return
		}
		wait := c.options.Reread
		again := time.NewTimer(wait)
		defer again.Stop()
		for shown := 0; ; {
			state, changed := c.look(f)
			// The ending also where it is no greater version: something may have been heard that came after it.
			if version := state.Version(); version > shown || state.Ended() {
				if !yield(state, nil) || state.Ended() {
					return
				}
				shown = version
				continue
			}
			select {
			case <-ctx.Done():
				return
			case <-changed:
			case <-again.C:
				_ = c.refresh(ctx, f, 0) // what is known stays true; the next reading may succeed
				wait = min(wait*3/2, maxReread)
				again.Reset(state.untilDeadline(wait))
			}
		}
	}
}

// join follows a login for somebody who waits; leave is its end.
func (c *Client) join(login Login) *follow {
	c.mu.Lock()
	defer c.mu.Unlock()
	f := c.follows[login]
	if f == nil {
		f = &follow{state: State{Login: login}, changed: make(chan struct{})}
		c.follows[login] = f
	}
	f.waiting++
	return f
}

func (c *Client) leave(f *follow) {
	c.mu.Lock()
	defer c.mu.Unlock()
	f.waiting--
	c.drop(f)
}

// look is a copy of what is known, and a channel that is closed when there is more.
func (c *Client) look(f *follow) (*State, <-chan struct{}) {
	c.mu.Lock()
	defer c.mu.Unlock()
	state := f.state
	return &state, f.changed
}

// refresh reads the stream unless the login was read less than age ago, or has ended. It ends a login that it finds past its
// deadline, since the client that started it may be gone.
func (c *Client) refresh(ctx context.Context, f *follow, age time.Duration) error {
	c.mu.Lock()
	state, began := f.state, time.Now()
	fresh := !f.read.IsZero() && (state.Ended() || began.Sub(f.read) < age && !state.overdue(began))
	c.mu.Unlock()
	if fresh {
		return nil
	}
	if err := state.Login.Validate(); err != nil || state.Login.Gateway != c.options.Gateway {
		return fmt.Errorf("%w: login of gateway %s", ErrNotFound, c.options.Gateway)
	}
	ctx, cancel := context.WithTimeout(ctx, c.options.Patience)
	defer cancel()
	found, err := c.read(ctx, state)
	if err != nil {
		return err
	}
	if len(found) == 0 && state.Requested == nil && began.Sub(state.Login.Time()) > settled {
		return fmt.Errorf("%w: login %s", ErrNotFound, state.Login)
	}
	for _, e := range found {
		state.Add(e)
	}
	if state.overdue(began) {
		if e, err := c.say(ctx, &state, &Lapsed{}); err == nil { // else others notice the deadline too
			found = append(found, e)
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	f.read = began
	news := false
	for _, e := range found {
		news = f.state.Add(e) || news
	}
	if news {
		c.tell(f)
	}
	return nil
}
