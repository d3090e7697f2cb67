package runtime

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/signal"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"golang.org/x/sync/errgroup"

	"github.com/sekisho/sekisho/events"
)

// The phases of a process.
const (
	starting = int32(iota)
	serving
	draining
)

type process struct {
	Options
	registry *prometheus.Registry
	phase    atomic.Int32
	mu       sync.Mutex
	workers  []*instance
}

// An instance is a worker that runs in this process.
type instance struct {
	env    *Env
	worker *Worker
	loops  []*loop
}

// Run runs the services until ctx ends, then drains: requests finish first, since they need the workers, then handlers, then loops;
// connections close last. It takes over the listeners. An error says why the start failed, or what did not end within the grace.
func Run(ctx context.Context, o Options) error {
	if o.Now == nil {
		o.Now = time.Now
	}
	p := &process{Options: o, registry: prometheus.NewRegistry()}
	p.registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
		collectors.NewBuildInfoCollector())
	ops := newServer(o.Config.HTTP, o.Log, p.opsHandler())
	failed := make(chan error, 2)
	serve := func(s *server, l net.Listener) {
		go func() {
			if err := s.Serve(l); !errors.Is(err, http.ErrServerClosed) {
				failed <- fmt.Errorf("serve %s: %w", l.Addr(), err)
			}
		}()
	}
	hangup := make(chan os.Signal, 1)
	signal.Notify(hangup, syscall.SIGHUP) // from here on, since unheard it would end a process that still waits for the bus
	defer signal.Stop(hangup)
	serve(ops, o.Ops)
	defer ops.Close()
	if o.Public != nil {
		defer o.Public.Close()
	}

	if err := p.build(ctx); err != nil {
		p.close()
		if ctx.Err() != nil {
			return nil // stopped while it waited
		}
		return err
	}
	public, err := p.public()
	if err != nil {
		p.close()
		return err
	}

	// Workers outlive ctx: the requests that are being drained need them.
	work, stopWork := context.WithCancel(context.WithoutCancel(ctx))
	defer stopWork()
	var running sync.WaitGroup
	for _, i := range p.workers {
		for _, l := range i.loops {
			running.Go(func() { l.supervise(work, i.env.Log) })
		}
	}
	running.Go(func() { p.reload(work, hangup) })
	running.Go(func() { p.announce(work) })
	p.phase.Store(serving)
	if public != nil {
		serve(public, o.Public)
	}

	select {
	case <-ctx.Done():
	case err = <-failed:
	}
	p.phase.Store(draining)
	o.Log.Info().Msg("shutting down")
	grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), o.Config.Shutdown.Grace)
	defer cancel()
	if public != nil {
		err = errors.Join(err, public.drain(grace))
	}
	stopWork()
	if !ended(grace, &running) {
		// Not waited for. The broker gives their events to others.
		go func() { running.Wait(); p.close() }()
		return errors.Join(err, fmt.Errorf("handlers or loops were still running after %s", o.Config.Shutdown.Grace))
	}
	err = errors.Join(err, ops.drain(grace))
	p.close()
	return err
}

// build makes all workers at once, since any of them may have to wait.
func (p *process) build(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	for _, s := range p.Services {
		group.Go(func() error {
			if err := p.buildOne(ctx, s); err != nil {
				return fmt.Errorf("worker %s: %w", s.Name, err)
			}
			return nil
		})
	}
	return group.Wait()
}

func (p *process) buildOne(ctx context.Context, s Service) (err error) {
	env := &Env{
		Name:        s.Name,
		Config:      p.Config,
		Log:         p.Log.With().Str("worker", s.Name).Logger(),
		Credentials: p.Credentials,
		Metrics:     prometheus.WrapRegistererWith(prometheus.Labels{"worker": s.Name}, p.registry),
		Now:         p.Now,
	}
	if env.DB, err = p.connectDB(ctx, s.Name, env.Log); err != nil {
		return err
	}
	if env.Bus, err = p.connectBus(ctx, s.Name, env.Log, env.Metrics); err != nil {
		env.DB.Close()
		return err
	}
	worker, err := s.Build(ctx, env)
	if err != nil {
		env.Bus.Close()
		env.DB.Close()
		return err
	}
	i := &instance{env: env, worker: worker}
	if len(worker.Handlers) > 0 {
		err := retry(ctx, env.Log, "waiting for the bus to be provisioned", func(ctx context.Context) error {
			return env.Bus.Provisioned(ctx, worker.Handlers...)
		})
		if err != nil {
			i.close()
			return err
		}
		i.loops = append(i.loops, &loop{name: "consume", run: func(ctx context.Context) error { return env.Bus.Run(ctx, worker.Handlers...) }})
	}
	for n, run := range worker.Run {
		i.loops = append(i.loops, &loop{name: fmt.Sprintf("loop %d", n+1), run: run})
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.workers = append(p.workers, i)
	return nil
}

// built lists the workers that are built.
func (p *process) built() []*instance {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.workers
}

// public is the server of the worker that has a public handler, nil if there is none.
func (p *process) public() (*server, error) {
	for _, i := range p.workers {
		if i.worker.Public == nil {
			continue
		}
		if p.Public == nil {
			return nil, fmt.Errorf("worker %s: there is no public listener, which only %s gets", i.env.Name, events.GatewayWorker)
		}
		return newServer(p.Config.HTTP, i.env.Log, i.worker.Public), nil
	}
	return nil, nil
}

// announce calls Ready as soon as nothing is lacking.
func (p *process) announce(ctx context.Context) {
	tick := time.NewTicker(retryEvery / 5)
	defer tick.Stop()
	for len(p.lacks(ctx)) > 0 {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
	if p.Ready != nil && ctx.Err() == nil {
		p.Ready()
	}
}

// reload lets the workers read their files again at each SIGHUP.
func (p *process) reload(ctx context.Context, hangup <-chan os.Signal) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-hangup:
		}
		reloads := false
		for _, i := range p.workers {
			if i.worker.Reload == nil {
				continue
			}
			reloads = true
			if err := i.worker.Reload(); err != nil {
				i.env.Log.Error().Err(err).Msg("not reloaded, everything stays as it was")
				continue
			}
			i.env.Log.Info().Msg("reloaded")
		}
		if !reloads {
			p.Log.Info().Msg("nothing to reload")
		}
	}
}

func (p *process) close() {
	for _, i := range p.workers {
		i.close()
	}
}

func (i *instance) close() {
	if i.worker.Close != nil {
		i.worker.Close()
	}
	i.env.Bus.Close()
	i.env.DB.Close()
}

// ended waits for wg until ctx ends.
func ended(ctx context.Context, wg *sync.WaitGroup) bool {
	done := make(chan struct{})
	go func() { wg.Wait(); close(done) }()
	select {
	case <-done:
		return true
	case <-ctx.Done():
		return false
	}
}
