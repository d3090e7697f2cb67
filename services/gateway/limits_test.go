package gateway

import (
	"net/netip"
	"testing"
	"time"
)

func TestLimitsPerSource(t *testing.T) {
	l, err := newLimits(3)
	if err != nil {
		t.Fatal(err)
	}
	now := time.Unix(1_800_000_000, 0)
	one, two := netip.MustParsePrefix("192.0.2.7/32"), netip.MustParsePrefix("192.0.2.8/32")
	for i := range 3 {
		if wait := l.take(one, now); wait != 0 {
			t.Errorf("login %d waits %v", i+1, wait)
		}
	}
	for range 2 { // a refusal costs nothing
		if wait := l.take(one, now); wait != 20*time.Second {
			t.Errorf("the fourth waits %v, want 20s", wait)
		}
	}
	if wait := l.take(two, now); wait != 0 {
		t.Errorf("another source waits %v", wait)
	}
	if wait := l.take(one, now.Add(20*time.Second)); wait != 0 {
		t.Errorf("after its time it waits %v", wait)
	}
}
