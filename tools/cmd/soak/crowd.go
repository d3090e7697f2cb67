package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/sekisho/sekisho/events"
	"github.com/sekisho/sekisho/tools/internal/roads"
	"github.com/sekisho/sekisho/tools/internal/system"
)

// endWait is how long a login may need in all. A worker that is killed keeps its events for the 15 s of the ack wait.
const endWait = 2 * time.Minute

// left is how long a login lasts whose user has walked away.
const left = 10 * time.Second

// A crowd comes and logs in.
type crowd struct {
	users []system.User
	bus   *roads.Bus
	web   *roads.HTTP
	watch *watch
}

// come lets so many people a second begin until visiting ends, and returns when all have ended: with the first error, if there
// was one.
func (c *crowd) come(ctx, visiting context.Context, rate float64) error {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	failed := make(chan error, 1)
	var inside sync.WaitGroup
	tick := time.NewTicker(time.Duration(float64(time.Second) / rate))
	defer tick.Stop()
	for visiting.Err() == nil && ctx.Err() == nil {
		select {
		case <-visiting.Done():
			continue
		case <-ctx.Done():
			continue
		case <-tick.C:
		}
		inside.Go(func() {
			if err := c.visit(ctx); err != nil {
				select {
				case failed <- err:
				default: // one is enough
				}
				stop()
			}
		})
	}
	inside.Wait()
	select {
	case err := <-failed:
		return err
	default:
		return nil
	}
}

// visit is one person: half have just a password, over the bus or over HTTP; a third need a code; the others err.
func (c *crowd) visit(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, endWait)
	defer cancel()
	user, began := c.users[rand.IntN(honest)], time.Now()
	want, manner, road := events.Granted, roads.Manner{}, roads.Code
	switch n := rand.IntN(100); {
	case n < 25:
		return c.timed(began, c.bus.Login(ctx, roads.Password, user))
	case n < 50:
		return c.timed(began, c.web.Login(ctx, roads.Password, user))
	case n < 65:
		return c.timed(began, c.bus.Login(ctx, roads.Code, user))
	case n < 80:
		return c.timed(began, c.web.Login(ctx, roads.Code, user))
	case n < 88:
		manner.Mistakes = 1
	case n < 92:
		manner.Cancel, want = true, events.CancelledBy
	case n < 96:
		manner.Leave, want = left, events.Expired
	default:
		user = c.users[honest+rand.IntN(careless)]
		user.Password, road, want = "not the password", roads.Password, events.Denied
	}
	login, outcome, err := c.bus.Behave(ctx, road, user, manner)
	if err == nil && outcome != want {
		err = fmt.Errorf("login %s is %s, want %s", login, outcome, want)
	}
	if err == nil {
		c.watch.ended(0)
	}
	return err
}

// timed counts a login that is to be granted. Only of these the time says something.
func (c *crowd) timed(began time.Time, err error) error {
	if err == nil {
		c.watch.ended(time.Since(began))
	}
	return err
}
