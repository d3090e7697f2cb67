package provider

import (
	"context"
	"errors"

	"github.com/prometheus/client_golang/prometheus"
)

// outcomes are the values of the outcome label for the classes of failure; success is "ok".
var outcomes = map[error]string{
	ErrOpen:          "open",
	ErrBusy:          "busy",
	ErrTimeout:       "timeout",
	ErrRefused:       "refused",
	ErrLimited:       "limited",
	ErrUnavailable:   "unavailable",
	context.Canceled: "canceled",
}

type metrics struct {
	calls    *prometheus.CounterVec
	duration prometheus.Observer
	state    prometheus.Gauge
}

func newMetrics(name string, reg prometheus.Registerer) metrics {
	calls := share(reg, prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "sekisho_provider_calls_total",
		Help: "Calls to outside systems by outcome, those that were not sent included.",
	}, []string{"provider", "outcome"}))
	duration := share(reg, prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name:    "sekisho_provider_duration_seconds",
		Help:    "Time from sending a request to the end of its answer.",
		Buckets: prometheus.ExponentialBuckets(0.005, 2, 12), // 5 ms to 10 s
	}, []string{"provider"}))
	state := share(reg, prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: "sekisho_breaker_state",
		Help: "Circuit breaker of an outside system: 0 closed, 1 half-open, 2 open.",
	}, []string{"provider"}))

	m := metrics{
		calls:    calls.MustCurryWith(prometheus.Labels{"provider": name}),
		duration: duration.WithLabelValues(name),
		state:    state.WithLabelValues(name),
	}
	m.calls.WithLabelValues("ok") // a counter that starts at 0 shows the first increase
	return m
}

func (m metrics) count(err error) {
	outcome := "ok"
	if e, ok := errors.AsType[*Error](err); ok {
		outcome = outcomes[e.Class]
	}
	m.calls.WithLabelValues(outcome).Inc()
}

// share registers c, or returns the collector that another client registered before.
func share[C prometheus.Collector](reg prometheus.Registerer, c C) C {
	err := reg.Register(c)
	if already, ok := errors.AsType[prometheus.AlreadyRegisteredError](err); ok {
		return already.ExistingCollector.(C)
	}
	if err != nil {
		panic(err) // another metric of this name: a mistake in the program
	}
	return c
}
