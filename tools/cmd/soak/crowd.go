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

// endWait is how long a login may take in all. The events of a worker that is killed come again after the 15 s of the ack wait.
const endWait = 2 * time.Minute

// left is how long a login lasts if its user walks away.
const left = 10 * time.Second

// A crowd comes and logs in.
type crowd struct {
	users []system.User
	bus   *roads.Bus
	web   *roads.HTTP
	watch *watch
}

// come lets people begin, rate of them a second, until visiting ends. It returns when all have ended, with the first error if there was
// one.
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

// A visit is what a person comes for, and how that has to end. It goes over HTTP if it is web, else over the bus.
type visit struct {
	share  int // in percent of all visits
	road   roads.Road
	web    bool
	manner roads.Manner
	want   events.Outcome
}

// visits are those of the honest; the rest are of the careless.
var visits = []visit{
	{share: 18, road: roads.Password, want: events.Granted},
	{share: 18, road: roads.Password, web: true, want: events.Granted},
	{share: 12, road: roads.Code, want: events.Granted},
	{share: 12, road: roads.Code, web: true, want: events.Granted},
	{share: 8, road: roads.Push, want: events.Granted},
	{share: 8, road: roads.Push, web: true, want: events.Granted},
	{share: 6, road: roads.Code, manner: roads.Manner{Mistakes: 1}, want: events.Granted},
	{share: 4, road: roads.Push, manner: roads.Manner{Mistakes: 1}, want: events.Granted},
	{share: 2, road: roads.Push, manner: roads.Manner{Deny: true}, want: events.Denied},
	{share: 2, road: roads.Code, manner: roads.Manner{Cancel: true}, want: events.CancelledBy},
	{share: 2, road: roads.Push, manner: roads.Manner{Cancel: true}, want: events.CancelledBy},
	{share: 2, road: roads.Code, manner: roads.Manner{Leave: left}, want: events.Expired},
	{share: 2, road: roads.Push, manner: roads.Manner{Leave: left}, want: events.Expired},
}

// visit is one person.
func (c *crowd) visit(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, endWait)
	defer cancel()
	n := rand.IntN(100)
	for _, v := range visits {
		if n -= v.share; n < 0 {
			return c.follow(ctx, v, c.users[rand.IntN(honest)])
		}
	}
	user := c.users[honest+rand.IntN(careless)]
	user.Password = "not the password"
	return c.follow(ctx, visit{road: roads.Password, want: events.Denied}, user)
}

func (c *crowd) follow(ctx context.Context, v visit, user system.User) error {
	began := time.Now()
	if v.web {
		if err := c.web.Login(ctx, v.road, user); err != nil {
			return err
		}
	} else if login, outcome, err := c.bus.Behave(ctx, v.road, user, v.manner); err != nil {
		return err
	} else if outcome != v.want {
		return fmt.Errorf("login %s down %s is %s, want %s", login, v.road.Name, outcome, v.want)
	}
	took := time.Duration(0)
	if v.want == events.Granted && v.manner == (roads.Manner{}) { // the time of others says nothing
		took = time.Since(began)
	}
	c.watch.ended(took)
	return nil
}
