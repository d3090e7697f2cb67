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
