package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/sekisho/sekisho/tools/internal/bare"
	"github.com/sekisho/sekisho/tools/internal/load"
	"github.com/sekisho/sekisho/tools/internal/roads"
	"github.com/sekisho/sekisho/tools/internal/system"
)

// A kind is a kind of site: a system with certain providers.
type kind struct {
	name     string
	settings string
	simulate bool
	drives   []string     // ways in
	roads    []roads.Road // that are measured
}

var kinds = []kind{
	{name: "in process", settings: roads.Settings + "risk: {static: OK}\nsms: {providers: [{kind: discard}]}\n", drives: []string{"bus", "http"},
		roads: roads.All},
	{name: "simulated", settings: roads.Settings, simulate: true, drives: []string{"bus"}, roads: []roads.Road{roads.Password, roads.Code}},
}

// lead is how long a system is saturated before its measurement begins, so that connections, statements and users' counters are there.
const lead = 700 * time.Millisecond

// quietWait bounds how long the workers may take for what a measurement has left behind.
const quietWait = 2 * time.Minute

// A site is a system that is measured.
type site struct {
	options
	kind
	*system.System
	operator *nats.Conn
	bus      *roads.Bus
	web      *roads.HTTP
	users    []system.User
	done     int // logins so far
}

// A way is what a [Line] of the report is of.
type way struct {
	road  roads.Road
	drive string // bus or http
}

func (k kind) title(road roads.Road, drive string) string {
	return strings.Join([]string{road.Name, drive, k.name}, " ")
}

// with starts a system, hands it over, and stops it.
func (k kind) with(ctx context.Context, o options, do func(*site) error) (err error) {
	s := &site{options: o, kind: k}
	if s.System, err = system.Start(ctx, o.binary, k.settings, roads.Policy); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.Stop()) }()
	if s.users, err = s.AddUsers(ctx, o.users); err != nil {
		return err
	}
	if s.operator, err = s.Dial("operator"); err != nil {
		return err
	}
	defer s.operator.Close()
	if s.bus, err = roads.DialBus(ctx, s.System); err != nil {
		return err
	}
	defer s.bus.Close()
	if s.web, err = roads.NewHTTP(s.System, max(o.inFlight, o.parked)); err != nil {
		return err
	}
	defer s.web.Close()
	return do(s)
}

// measure starts a system and measures every road on it that is asked for.
func (k kind) measure(ctx context.Context, o options, limits pipelines) (lines []*Line, err error) {
	var wanted []way
	for _, drive := range k.drives {
		for _, road := range k.roads {
			if o.only.MatchString(k.title(road, drive)) {
				wanted = append(wanted, way{road, drive})
			}
		}
	}
	if len(wanted) == 0 {
		return nil, nil
	}
	err = k.with(ctx, o, func(s *site) error {
		if slices.ContainsFunc(wanted, func(w way) bool { return w.road == roads.Push }) {
			if err := s.Enroll(ctx, s.users); err != nil {
				return err
			}
		}
		if err := s.greet(ctx); err != nil {
			return err
		}
		for _, w := range wanted {
			if limits[w.road.Name] == nil {
				plan, err := s.plan(ctx, w.road)
				if err != nil {
					return err
				}
				if err := limits.start(ctx, w.road.Name, plan); err != nil {
					return err
				}
			}
		}
		if lines, err = s.measureAll(ctx, wanted, limits); err != nil || o.after == 0 || k.simulate {
			return err
		}
		if err := s.fill(ctx, o.after); err != nil {
			return err
		}
		again, err := s.measureAll(ctx, wanted, limits)
		lines = append(lines, again...)
		return err
	})
	return lines, err
}

// greet lets each user log in once by each way in. A first login comes from a new browser and network, of which the user is told, and
// that rare case is not to be measured.
func (s *site) greet(ctx context.Context) error {
	for _, drive := range s.drives {
		r, err := load.Flood(ctx, s.inFlight, len(s.users), s.call(way{roads.Password, drive}))
		if err != nil {
			return err
		}
		s.done += r.Calls
	}
	return nil
}

// fill brings the system to a number of logins, by the shortest road.
func (s *site) fill(ctx context.Context, after int) error {
	rest := after - s.done
	if rest <= 0 {
		return nil
	}
	fmt.Fprintf(os.Stderr, "%d more logins\n", rest)
	r, err := load.Flood(ctx, s.inFlight, rest, s.call(way{roads.Password, "bus"}))
	s.done += r.Calls
	return err
}

func (s *site) measureAll(ctx context.Context, wanted []way, limits pipelines) ([]*Line, error) {
	var lines []*Line
	for _, w := range wanted {
		measured, err := s.measure(ctx, w, limits[w.road.Name])
		if err != nil {
			return nil, fmt.Errorf("%s: %w", s.title(w.road, w.drive), err)
		}
		lines = append(lines, measured)
	}
	return lines, nil
}

// plan lets one login pass and takes it as the template of the bare pipeline.
func (s *site) plan(ctx context.Context, road roads.Road) (*bare.Plan, error) {
	login, err := s.bus.Walk(ctx, road, s.users[0])
	if err != nil {
		return nil, err
	}
	return bare.ReadPlan(ctx, s.operator, login)
}

// call is one login of the next user.
func (s *site) call(w way) load.Call {
	var driver roads.Driver = s.bus
	if w.drive == "http" {
		driver = s.web
	}
	return func(ctx context.Context, n int) error { return driver.Login(ctx, w.road, s.users[n%len(s.users)]) }
}

// measure measures one way.
func (s *site) measure(ctx context.Context, w way, limit *pipeline) (*Line, error) {
	fmt.Fprintf(os.Stderr, "measuring %s after %d logins\n", s.title(w.road, w.drive), s.done)
	result := &Line{Road: w.road.Name, Drive: w.drive, Providers: s.name, Before: s.done}
	call := s.call(w)
	var err error
	if result.Bare, err = limit.measure(ctx, s.options); err != nil { // right before: a machine's speed changes
		return nil, err
	}
	if result.Saturated, err = s.figures(ctx, func() (load.Result, error) {
		stop := s.profile(ctx, w, "", lead+s.phase)
		r, err := load.Saturate(ctx, s.inFlight, lead, s.phase, call)
		return r, errors.Join(err, stop())
	}); err != nil {
		return nil, err
	}
	result.Ratio = result.Saturated.Rate / result.Bare.Rate
	if result.Light, err = s.figures(ctx, func() (load.Result, error) {
		stop := s.profile(ctx, w, "-light", s.phase)
		r, err := load.Pace(ctx, s.light*result.Saturated.Rate, s.phase, call)
		return r, errors.Join(err, stop())
	}); err != nil {
		return nil, err
	}
	if s.parked > 0 && !s.simulate {
		memory, err := s.memory(ctx, w)
		if err != nil {
			return nil, err
		}
		result.Memory = &memory
	}
	return result, nil
}

// figures runs a measurement on a quiet system, and counts its cost until the system is quiet again.
func (s *site) figures(ctx context.Context, run func() (load.Result, error)) (Figures, error) {
	if err := s.quiet(ctx); err != nil {
		return Figures{}, err
	}
	meter, err := startMeter(s.PID())
	if err != nil {
		return Figures{}, err
	}
	r, err := run()
	if err != nil {
		return Figures{}, err
	}
	s.done += r.Calls
	driver := meter.own()
	if err := s.quiet(ctx); err != nil {
		return Figures{}, err
	}
	return meter.figures(r, driver)
}

func (s *site) quiet(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, quietWait)
	defer cancel()
	return system.AwaitQuiet(ctx, s.operator)
}

// A meter counts processor time of a process with its descendants, and of this one.
type meter struct {
	pid     int
	cpu     time.Duration
	ownTime time.Duration
}

func startMeter(pid int) (*meter, error) {
	cpu, err := system.CPU(pid)
	return &meter{pid, cpu, ownCPU()}, err
}

func (m *meter) own() time.Duration { return ownCPU() - m.ownTime }

func (m *meter) figures(r load.Result, driver time.Duration) (Figures, error) {
	cpu, err := system.CPU(m.pid)
	if err != nil {
		return Figures{}, err
	}
	if r.Calls == 0 {
		return Figures{}, errors.New("nothing came to its end within the measurement")
	}
	each := func(d time.Duration) float64 { return milliseconds(d) / float64(r.Calls) }
	return Figures{Calls: r.Calls, Rate: r.Rate, P50: milliseconds(r.Quantile(0.5)), P99: milliseconds(r.Quantile(0.99)),
		CPU: each(cpu - m.cpu), DriverCPU: each(driver)}, nil
}

func ownCPU() time.Duration {
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		panic(err) // only for a bad first argument
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}

// memory holds logins in flight, before the last worker of their road, and tells what each adds to the heap.
func (s *site) memory(ctx context.Context, w way) (Memory, error) {
	ctx, cancel := context.WithTimeout(ctx, quietWait)
	defer cancel()
	js, err := jetstream.New(s.operator)
	if err != nil {
		return Memory{}, err
	}
	if err := s.quiet(ctx); err != nil {
		return Memory{}, err
	}
	before, err := s.Heap(ctx)
	if err != nil {
		return Memory{}, err
	}
	if _, err := js.PauseConsumer(ctx, "LOGIN", w.road.Last, time.Now().Add(quietWait)); err != nil {
		return Memory{}, err
	}
	var flying sync.WaitGroup
	var failed error
	flying.Go(func() { _, failed = load.Flood(ctx, s.parked, s.parked, s.call(w)) })
	err = await(ctx, js, w.road.Last, waiting(s.parked))
	held, heapErr := s.Heap(ctx)
	_, resumeErr := js.ResumeConsumer(ctx, "LOGIN", w.road.Last)
	wakeErr := s.call(w)(ctx, 0) // a resumed consumer goes on only with the next event
	flying.Wait()
	if err := errors.Join(err, heapErr, resumeErr, wakeErr, failed); err != nil {
		return Memory{}, err
	}
	s.done += s.parked
	each := func(before, held int64) float64 { return float64(held-before) / 1024 / float64(s.parked) }
	return Memory{Broker: each(before.Broker, held.Broker), Process: each(before.Process, held.Process)}, nil
}

// await waits for a state of one of LOGIN's consumers.
func await(ctx context.Context, js jetstream.JetStream, name string, ok func(*jetstream.ConsumerInfo) bool) error {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		consumer, err := js.Consumer(ctx, "LOGIN", name)
		if err != nil {
			return err
		}
		if ok(consumer.CachedInfo()) {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
}

// waiting says that a consumer has n events or more to deliver.
func waiting(n int) func(*jetstream.ConsumerInfo) bool {
	return func(info *jetstream.ConsumerInfo) bool { return info.NumPending >= uint64(n) }
}

// idle says that a consumer has nothing left.
func idle(info *jetstream.ConsumerInfo) bool { return info.NumPending == 0 && info.NumAckPending == 0 }

// profile profiles the system for the length of a measurement, if that is asked for. stop waits for the profiles.
func (s *site) profile(ctx context.Context, w way, variant string, length time.Duration) (stop func() error) {
	if s.profiles == "" {
		return func() error { return nil }
	}
	name := strings.NewReplacer("/", "-", " ", "-").Replace(strings.ToLower(s.title(w.road, w.drive))) + variant
	seconds := max(1, int(length.Seconds()))
	var running sync.WaitGroup
	var errs [2]error
	for i, p := range []struct{ path, suffix string }{{"profile", "cpu"}, {"allocs", "allocs"}} {
		running.Go(func() {
			data, err := s.GetOps(ctx, fmt.Sprintf("/debug/pprof/%s?seconds=%d", p.path, seconds))
			if err == nil {
				err = os.WriteFile(filepath.Join(s.profiles, name+"."+p.suffix+".pb.gz"), data, 0o644)
			}
			errs[i] = err
		})
	}
	return func() error { running.Wait(); return errors.Join(errs[:]...) }
}
