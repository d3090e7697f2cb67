package smsdispatcher

import (
	"context"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/sekisho/sekisho/services/internal/config"
	"github.com/sekisho/sekisho/services/simulators"
)

func checkDeliveries(t *testing.T, d *dispatcher) int {
	t.Helper()
	n, err := d.deliveries.check(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func (d *dispatcher) counted(provider string, state State) float64 {
	return testutil.ToFloat64(d.deliveries.total.WithLabelValues(provider, string(state)))
}

// Accepted, sent and received are three facts, each recorded and counted once; the checks become rarer.
func TestDeliveriesAreFollowed(t *testing.T) {
	for _, name := range []string{"karaden", "twilio"} {
		t.Run(name, func(t *testing.T) {
			s := newSite(t, func(c *config.Config) {
				if name == "twilio" {
					c.SMS.Providers = c.SMS.Providers[1:]
				}
			})
			d := s.start(t)
			dispatch(t, d, s.wanted(t, "alice"))
			expect(t, "due at once", checkDeliveries(t, d), 0)
			s.pass(firstCheck)
			expect(t, "due after the first interval", checkDeliveries(t, d), 1)
			expect(t, "rows", s.states(t), []string{"sent " + name})
			s.pass(firstCheck)
			expect(t, "due too soon", checkDeliveries(t, d), 0)
			s.pass(firstCheck)
			expect(t, "due after twice the interval", checkDeliveries(t, d), 1)
			expect(t, "rows", s.states(t), []string{"received " + name})
			s.pass(time.Minute)
			expect(t, "due after its end", checkDeliveries(t, d), 0)
			for _, state := range []State{StateAccepted, StateSent, StateReceived} {
				expect(t, "count of "+string(state), d.counted(name, state), 1.0)
			}
		})
	}
}

// Two processes ask about each message once.
func TestDeliveriesAreShared(t *testing.T) {
	s := newSite(t)
	d, other := s.start(t), s.start(t)
	for range 5 {
		dispatch(t, d, s.wanted(t, "alice"))
	}
	s.pass(firstCheck)
	found := make(chan int, 2)
	for _, d := range []*dispatcher{d, other} {
		go func() {
			n, err := d.deliveries.check(t.Context())
			if err != nil {
				t.Error(err)
			}
			found <- n
		}()
	}
	expect(t, "rows of both", <-found+<-found, 5)
	expect(t, "counted", d.counted("karaden", StateSent)+other.counted("karaden", StateSent), 5.0)
}

// A status API that is down costs checks, and neither the message's state nor the breaker in front of the messages.
func TestStatusDown(t *testing.T) {
	s := newSite(t, func(c *config.Config) { c.Breaker = config.Breaker{Failures: 1, Open: time.Hour} })
	d := s.start(t)
	dispatch(t, d, s.wanted(t, "alice"))
	s.fault(t, simulators.SMS, simulators.Fault{Mode: simulators.Error})
	s.pass(firstCheck)
	expect(t, "due", checkDeliveries(t, d), 1)
	expect(t, "rows", s.states(t), []string{"accepted karaden"})
	s.fault(t, simulators.SMS, simulators.Fault{Mode: simulators.None})
	dispatch(t, d, s.wanted(t, "bob"))
	expect(t, "rows", s.states(t), []string{"accepted karaden", "accepted karaden"})
}

func TestNobodyAsksForEver(t *testing.T) {
	s := newSite(t)
	d := s.start(t)
	dispatch(t, d, s.wanted(t, "alice"))
	s.fault(t, simulators.SMS, simulators.Fault{Mode: simulators.Error})
	checks := 0
	for range 4 * 60 {
		s.pass(time.Minute)
		checks += checkDeliveries(t, d)
	}
	expect(t, "checks in four hours", checks, 10) // in minutes: 1, 2, 3, 4, 6, 9, 15, 26, 48 and a last one at 91
}

func TestPurge(t *testing.T) {
	s := newSite(t)
	d := s.start(t)
	dispatch(t, d, s.wanted(t, "alice"))
	s.pass(s.env.Config.SMS.Keep / 2)
	dispatch(t, d, s.wanted(t, "bob"))
	s.pass(s.env.Config.SMS.Keep/2 + time.Second)
	if err := d.deliveries.purge(t.Context()); err != nil {
		t.Fatal(err)
	}
	expect(t, "rows", len(s.states(t)), 1)
}

// The loop asks by itself, and ends with its context also while a provider hangs.
func TestFollow(t *testing.T) {
	s := newSite(t)
	d := s.start(t)
	dispatch(t, d, s.wanted(t, "alice"))
	s.fault(t, simulators.SMS, simulators.Fault{Mode: simulators.Hang})
	s.pass(firstCheck)
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- d.deliveries.follow(ctx) }()
	if err := s.WaitCall(t.Context(), simulators.SMS, simulators.OutcomePending); err != nil {
		t.Fatal(err)
	}
	stop()
	expect(t, "error", <-done, error(nil))
}
