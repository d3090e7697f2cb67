// Command soak lets people log in for a while, rightly and wrongly, while single workers are stopped and killed. It fails when a login
// does not end as it must, or when something grows that must not: goroutines, memory, descriptors, tables, latency. It plots
// throughput, latency and memory.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"

	"github.com/sekisho/sekisho/tools/internal/roads"
	"github.com/sekisho/sekisho/tools/internal/system"
)

type options struct {
	binary  string
	lasting time.Duration
	rate    float64
	restart time.Duration
	plot    string
}

func main() {
	var o options
	flag.StringVar(&o.binary, "sekisho", ".bin/sekisho", "the `program` to soak")
	flag.DurationVar(&o.lasting, "for", 10*time.Minute, "how long people log in")
	flag.Float64Var(&o.rate, "rate", 40, "logins a second")
	flag.DurationVar(&o.restart, "restart", 10*time.Second, "time between two restarts of a worker")
	flag.StringVar(&o.plot, "plot", ".bin/soak.png", "where the plot goes (PNG `file`)")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	err := func() error {
		w, err := soak(ctx, o)
		if err != nil {
			return err
		}
		if err := w.plot(o.plot); err != nil {
			return err
		}
		fmt.Printf("the plot is in %s\n", o.plot)
		return w.judge(os.Stdout)
	}()
	if err != nil {
		fmt.Fprintln(os.Stderr, "soak:", err)
		os.Exit(1)
	}
}

const settings = roads.Settings + "login: {denied_floor: 100ms}\n"

// honest and careless are how many accounts of each kind there are. The careless type nothing but wrong passwords.
const honest, careless = 1000, 200

// soak is the whole run, without the judgement on it. It fails when a login does not end as it must.
func soak(ctx context.Context, o options) (_ *watch, err error) {
	s, err := system.Start(ctx, o.binary, settings, roads.Policy)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, s.Stop()) }()
	users, err := s.AddUsers(ctx, honest+careless)
	if err != nil {
		return nil, err
	}
	if err := s.Enroll(ctx, users[:honest]); err != nil {
		return nil, err
	}
	bus, err := roads.DialBus(ctx, s)
	if err != nil {
		return nil, err
	}
	defer bus.Close()
	web, err := roads.NewHTTP(s, 256)
	if err != nil {
		return nil, err
	}
	defer web.Close()
	watch, err := startWatch(ctx, s, max(o.lasting/samples, shortest))
	if err != nil {
		return nil, err
	}
	defer watch.close()

	visiting, stopVisits := context.WithTimeout(ctx, o.lasting)
	defer stopVisits()
	var busy sync.WaitGroup
	var restartErr, watchErr error
	restarting, stopRestarts := context.WithCancel(visiting)
	busy.Go(func() {
		restartErr = restartWorkers(restarting, s, o.restart, watch)
		stopVisits()
	})
	watching, stopWatching := context.WithCancel(ctx)
	busy.Go(func() { watchErr = watch.follow(watching) })
	crowd := &crowd{users: users, bus: bus, web: web, watch: watch}
	visitErr := crowd.come(ctx, visiting, o.rate)
	stopRestarts()
	if visitErr == nil {
		visitErr = watch.settle(ctx)
	}
	stopWatching()
	busy.Wait()
	return watch, errors.Join(visitErr, restartErr, watchErr)
}
