package gateway

import (
	"net/netip"
	"sync"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"golang.org/x/time/rate"
)

// maxSources bounds the memory of the limits, at about 200 bytes each. The limits per user hold up whoever can use more
// networks than that at once.
const maxSources = 100_000

// limits are token buckets, one per source. A source may use its minute's share at once.
type limits struct {
	perMinute int
	mu        sync.Mutex // so that a source's first two requests do not get a bucket each
	buckets   *lru.Cache[netip.Prefix, *rate.Limiter]
}

func newLimits(perMinute int) (*limits, error) {
	buckets, err := lru.New[netip.Prefix, *rate.Limiter](maxSources)
	if err != nil {
		return nil, err
	}
	return &limits{perMinute: perMinute, buckets: buckets}, nil
}

// take takes one request from the source's share, or says how long to wait for it.
func (l *limits) take(source netip.Prefix, now time.Time) (wait time.Duration) {
	reservation := l.bucket(source).ReserveN(now, 1)
	if wait = reservation.DelayFrom(now); wait > 0 {
		reservation.CancelAt(now)
	}
	return wait
}

func (l *limits) bucket(source netip.Prefix) *rate.Limiter {
	l.mu.Lock()
	defer l.mu.Unlock()
	bucket, ok := l.buckets.Get(source)
	if !ok {
		bucket = rate.NewLimiter(rate.Limit(float64(l.perMinute)/60), l.perMinute)
		l.buckets.Add(source, bucket)
	}
	return bucket
}
