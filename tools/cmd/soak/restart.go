package main

import (
	"context"
	"errors"
	"time"

	"github.com/sekisho/sekisho/tools/internal/system"
)

// workers run in a process of their own each, beside the one that runs them all, so that events always pass through both.
var workers = []string{"identityverifier", "riskassessor", "sessionissuer", "smsdispatcher", "otpvalidator", "pushnotifier", "recorder"}

// restartWorkers runs them until ctx ends, and restarts one now and then: by turns it may drain or is killed.
func restartWorkers(ctx context.Context, s *system.System, every time.Duration, w *watch) (err error) {
	running := make([]*system.Worker, len(workers))
	defer func() {
		for _, worker := range running {
			if worker != nil {
				err = errors.Join(err, worker.Stop())
			}
		}
	}()
	for i, name := range workers {
		if running[i], err = s.Run(ctx, name); err != nil {
			return unless(ctx, err)
		}
	}
	tick := time.NewTicker(every)
	defer tick.Stop()
	for n := 0; ; n++ {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		i := n % len(workers)
		end := running[i].Stop
		if (n+n/len(workers))%2 == 1 { // so that each worker meets both ends
			end = running[i].Kill
		}
		running[i] = nil
		if err := end(); err != nil {
			return err
		}
		w.restarted()
		if running[i], err = s.Run(ctx, workers[i]); err != nil {
			return unless(ctx, err)
		}
	}
}

// unless drops the error of something that was cut short.
func unless(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return nil
	}
	return err
}
