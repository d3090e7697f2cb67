package bus

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"
)

// metrics of one worker; the registerer adds the worker's label.
type metrics struct {
	events   *prometheus.CounterVec   // by step and outcome
	duration *prometheus.HistogramVec // by step
	lag      *prometheus.GaugeVec     // by step
	waiting  *prometheus.GaugeVec     // by step
}

// Outcomes of handling one event, as they stand in logs and metrics.
const (
	outcomeHandled = "handled"
	outcomeRetried = "retried"
	outcomeFailed  = "failed"
	outcomeDead    = "dead"
	outcomeLate    = "late"
	outcomeStopped = "stopped"
)

func newMetrics(reg prometheus.Registerer) *metrics {
	m := &metrics{
		events: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "sekisho_events_total",
			Help: "Deliveries of events by step and outcome: handled, retried (asked for by the handler), failed, dead, late, stopped."}, []string{"step", "outcome"}),
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "sekisho_event_duration_seconds",
			Help: "Time from the start of the handler to the ack.", Buckets: prometheus.ExponentialBuckets(0.0002, 2.5, 13)}, []string{"step"}),
		lag: prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "sekisho_consumer_lag",
			Help: "Events that the step's durable consumer has not delivered yet."}, []string{"step"}),
		waiting: prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "sekisho_consumer_ack_pending",
			Help: "Events that are delivered and not acked, delayed retries included."}, []string{"step"}),
	}
	if reg != nil {
		reg.MustRegister(m.events, m.duration, m.lag, m.waiting)
	}
	return m
}

// lagEvery is how often the lag is asked for: consumer info is costly for the broker.
const lagEvery = 15 * time.Second

// unseenEvery is how soon a consumer is looked for again that could not be seen, and how long one look may take.
const unseenEvery = time.Second

// lostLooks is how many looks in a row get no answer until the consumer counts as unseen: one answer gets lost with the connection.
const lostLooks = 3

// Unseen is why one of the worker's consumers could not be seen when it was last looked at, nil if all could: the broker may have lost
// its streams.
func (b *Bus) Unseen() (err error) {
	b.unseen.Range(func(_, reason any) bool {
		err = reason.(error)
		return false
	})
	return err
}

// watchLag keeps the lag of a consumer, and whether it is there, until the context ends. What went wrong is counted from here on.
func (b *Bus) watchLag(ctx context.Context, name string, c jetstream.Consumer) {
	for _, outcome := range []string{outcomeDead, outcomeFailed} {
		b.metrics.events.WithLabelValues(name, outcome) // a counter that starts at 0 shows the first increase
	}
	back := b.nc.StatusChanged(nats.CONNECTED) // to a broker that may have lost its streams
	defer b.nc.RemoveStatusListener(back)
	for lost := 0; ; {
		look, cancel := context.WithTimeout(ctx, unseenEvery)
		info, err := c.Info(look)
		cancel()
		again := unseenEvery
		if lost++; !errors.Is(err, context.DeadlineExceeded) || !b.nc.IsConnected() { // whoever is not connected is not ready anyway
			lost = 0
		}
		switch {
		case err == nil:
			again = lagEvery
			b.metrics.lag.WithLabelValues(name).Set(float64(info.NumPending))
			b.metrics.waiting.WithLabelValues(name).Set(float64(info.NumAckPending))
			b.unseen.Delete(name)
		case ctx.Err() == nil && (lost >= lostLooks || !errors.Is(err, context.DeadlineExceeded)):
			b.metrics.lag.DeleteLabelValues(name)
			b.metrics.waiting.DeleteLabelValues(name)
			if _, known := b.unseen.Swap(name, fmt.Errorf("consumer %s: %w", c.CachedInfo().Name, err)); !known {
				b.log.Warn().Err(err).Str("step", name).Msg("consumer can not be seen")
			}
		}
		select {
		case <-ctx.Done():
			return
		case _, open := <-back:
			if !open {
				back = nil
			}
		case <-time.After(again):
		}
	}
}
