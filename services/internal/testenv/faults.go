package testenv

import (
	"testing"
	"time"

	"github.com/sekisho/sekisho/services/internal/provider"
	"github.com/sekisho/sekisho/services/simulators"
)

// EachFault runs a test with each fault of a provider and with none. want is the class of the error that a client with this timeout gets.
func EachFault(t *testing.T, test func(t *testing.T, fault simulators.Fault, timeout time.Duration, want error)) {
	for _, tt := range []struct {
		fault   simulators.Fault
		timeout time.Duration
		want    error
	}{
		{simulators.Fault{Mode: simulators.Error}, time.Minute, provider.ErrUnavailable},
		{simulators.Fault{Mode: simulators.Garbage}, time.Minute, provider.ErrUnavailable},
		{simulators.Fault{Mode: simulators.Reset}, time.Minute, provider.ErrUnavailable},
		{simulators.Fault{Mode: simulators.Hang}, 50 * time.Millisecond, provider.ErrTimeout}, // no answer comes, however long one waits
		{simulators.Fault{Mode: simulators.Slow, Delay: time.Millisecond}, time.Minute, nil},
		{simulators.Fault{Mode: simulators.None}, time.Minute, nil},
	} {
		t.Run(string(tt.fault.Mode), func(t *testing.T) { test(t, tt.fault, tt.timeout, tt.want) })
	}
}
