package runtime

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rs/zerolog"
)

func TestRepeat(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, stop := context.WithCancel(t.Context())
		begin, wake := time.Now(), make(chan struct{}, 1)
		var log strings.Builder
		var done []time.Duration
		err := Repeat(ctx, zerolog.New(&log), time.Minute, wake, "not done", func(context.Context) (more bool, err error) {
			done = append(done, time.Since(begin))
			switch len(done) {
			case 1:
				return true, nil
			case 2:
				time.AfterFunc(time.Second, func() { wake <- struct{}{} })
			case 3:
				return true, errors.New("broken") // is not tried again before its time
			case 4:
				stop()
			}
			return false, nil
		})
		if want := []time.Duration{0, 0, time.Second, time.Minute}; err != nil || !slices.Equal(done, want) {
			t.Errorf("done at %v, want %v; %v", done, want, err)
		}
		if strings.Count(log.String(), "not done") != 1 {
			t.Errorf("log: %s", &log)
		}
	})
}

// The same trouble is told once a minute, another one at once, and one that comes back too.
func TestRepeatDoesNotRepeatItself(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, stop := context.WithCancel(t.Context())
		var log strings.Builder
		n, at := 0, []int{} // seconds at which something was logged
		err := Repeat(ctx, zerolog.New(&log), time.Second, nil, "not done", func(context.Context) (more bool, err error) {
			if lines := strings.Count(log.String(), "not done"); lines > len(at) {
				at = append(at, n-1)
			}
			defer func() { n++ }()
			switch {
			case n == 100:
				stop()
				return false, nil
			case n == 90:
				return false, nil
			case n >= 70 && n < 80:
				return false, errors.New("another")
			default:
				return false, errors.New("away")
			}
		})
		if want := []int{0, 60, 70, 80, 91}; err != nil || !slices.Equal(at, want) {
			t.Errorf("logged at %v, want %v; %v", at, want, err)
		}
	})
}

// A run that gets no answer ends, and the next one comes all the same.
func TestRepeatEndsARunThatHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, stop := context.WithCancel(t.Context())
		begin := time.Now()
		var done []time.Duration
		err := Repeat(ctx, zerolog.Nop(), time.Second, nil, "not done", func(ctx context.Context) (more bool, err error) {
			if done = append(done, time.Since(begin)); len(done) == 2 {
				stop()
			}
			<-ctx.Done()
			return false, ctx.Err()
		})
		if want := []time.Duration{0, longestRun}; err != nil || !slices.Equal(done, want) {
			t.Errorf("done at %v, want %v; %v", done, want, err)
		}
	})
}
