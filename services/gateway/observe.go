package gateway

import (
	"context"
	"net/http"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"

	"github.com/sekisho/sekisho/events"
)

type metrics struct {
	requests *prometheus.CounterVec
	duration *prometheus.HistogramVec
	waiting  prometheus.Gauge
}

func newMetrics(reg prometheus.Registerer) *metrics {
	auto := promauto.With(reg)
	return &metrics{
		requests: auto.NewCounterVec(prometheus.CounterOpts{Name: "sekisho_http_requests_total",
			Help: "Requests by route and class of status."}, []string{"route", "status"}),
		duration: auto.NewHistogramVec(prometheus.HistogramOpts{Name: "sekisho_http_duration_seconds",
			Help: "Time to answer, waiting for a login included.", Buckets: []float64{.001, .005, .02, .1, .5, 1, 2, 5, 10, 30, 60}}, []string{"route"}),
		waiting: auto.NewGauge(prometheus.GaugeOpts{Name: "sekisho_http_waiting",
			Help: "Requests and streams that wait for a login to move."}),
	}
}

type contextKey int

const loginKey contextKey = iota

// noteLogin makes the request's line in the log say which login it was about.
func noteLogin(r *http.Request, login events.Login) {
	if note, ok := r.Context().Value(loginKey).(*events.Login); ok {
		*note = login
	}
}

// observe counts each request and logs it in one line. Neither says who asked, or what they sent.
func (g *gateway) observe(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		start := time.Now()
		var login events.Login
		seen := &statusWriter{ResponseWriter: w}
		r = r.WithContext(context.WithValue(r.Context(), loginKey, &login))
		returned := false
		defer func() {
			took, status, route := time.Since(start), seen.status(), r.Pattern
			if !returned { // it panicked, and the server answers so
				status = http.StatusInternalServerError
			}
			if route == "" {
				route = "none"
			}
			g.metrics.requests.WithLabelValues(route, strconv.Itoa(status/100)+"xx").Inc()
			g.metrics.duration.WithLabelValues(route).Observe(took.Seconds())
			line := g.log.Info().Str("method", methodOf(r)).Str("route", route).Int("status", status).Dur("duration", took)
			if login.ID != "" {
				line = line.Str("login", login.String())
			}
			line.Msg("request")
		}()
		next.ServeHTTP(seen, r)
		returned = true
	})
}

// statusWriter remembers the status of the answer.
type statusWriter struct {
	http.ResponseWriter
	written int
}

func (w *statusWriter) WriteHeader(status int) {
	if w.written == 0 {
		w.written = status
	}
	w.ResponseWriter.WriteHeader(status)
}

func (w *statusWriter) status() int {
	if w.written == 0 {
		return http.StatusOK // what net/http sends for a handler that does not say
	}
	return w.written
}

// Unwrap lets http.ResponseController reach the connection.
func (w *statusWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// methodOf is the method of a request, if it is a usual one: a client may send any word as its method.
func methodOf(r *http.Request) string {
	switch r.Method {
	case http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete, http.MethodOptions:
		return r.Method
	default:
		return "other"
	}
}
