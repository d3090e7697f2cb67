package main

import (
	"bytes"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rs/zerolog"
)

// TestLogWriter: lines wait for others, but not for long, and what somebody must see does not wait at all.
func TestLogWriter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		w := newLogWriter(&out)
		log := zerolog.New(w)
		expect := func(when, want string) {
			t.Helper()
			synctest.Wait()
			w.mu.Lock()
			defer w.mu.Unlock()
			if out.String() != want {
				t.Errorf("%s: %q, want %q", when, &out, want)
			}
			out.Reset()
		}
		pass := func(d time.Duration) { <-time.After(d) } // of the bubble's clock
		const info, trouble = `{"level":"info"}` + "\n", `{"level":"error"}` + "\n"
		pass(time.Hour)
		log.Info().Send()
		expect("at once", "")
		pass(logWait)
		expect("after a while", info)
		log.Info().Send()
		log.Error().Send()
		expect("with an error", info+trouble)
		log.Info().Send()
		w.Flush()
		expect("at the end", info)
	})
}
