// Command soak lets people log in for a while, well and badly, while single workers are stopped and killed, and fails when a login
// does not end as it must or when something grows that must not: goroutines, memory, descriptors, tables, latency. It plots
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

// settings are the product's defaults, but for the hash, whose honest cost would be all that one sees, and the limits on how often
// the same few people come. This program says where they come from, as a proxy does.
const settings = `password: {memory: 8, time: 1}
login: {denied_floor: 100ms}
limits: {logins_per_source: 1000000, device_per_source: 1000000, sms_per_user: 1000000, sms_per_number: 1000000,
         push_per_user: 1000000, push_per_source: 1000000}
gateway: {proxies: [127.0.0.1/32]}
policy: %s
debug: {profiles: true}
`

// honest and careless are how many accounts there are. The careless type wrong passwords only.
const honest, careless = 1000, 200

// soak is the run, up to what was seen of it. It fails when a login did not end as it must.
func soak(ctx context.Context, o options) (_ *watch, err error) {
	policy, err := roads.WritePolicy()
	if err != nil {
		return nil, err
	}
	defer os.Remove(policy)
	s, err := system.Start(ctx, o.binary, fmt.Sprintf(settings, policy))
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
