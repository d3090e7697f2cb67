// Package testenv gives tests the real systems that the workers run on. A package that uses it says
//
//	func TestMain(m *testing.M) { testenv.Main(m) }
//
// Servers start with the first test that wants one and serve all tests of the package.
package testenv

import (
	"context"
	"fmt"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
)

// patience bounds what is awaited outside of a test. A right program never needs it.
const patience = time.Minute

// ending is what is to be done after the last test.
var ending struct {
	sync.Mutex
	begun bool // Main runs, so there will be an end
	steps []func(context.Context) error
}

// atEnd has Main call step after the last test; the last one registered goes first.
func atEnd(step func(context.Context) error) {
	ending.Lock()
	defer ending.Unlock()
	ending.steps = append(ending.steps, step)
}

// Main runs the tests of a package, stops the servers that they started and fails if a goroutine
// is left. It does not return.
func Main(m *testing.M) {
	ending.Lock()
	ending.begun = true
	ending.Unlock()
	code := m.Run()
	if err := end(); err != nil {
		fmt.Fprintln(os.Stderr, "testenv:", err)
		code = max(code, 1)
	}
	os.Exit(code)
}

func end() error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	ending.Lock()
	defer ending.Unlock()
	for _, step := range slices.Backward(ending.steps) {
		if err := step(ctx); err != nil {
			return err
		}
	}
	// The embedded broker forgets one goroutine of a sourced stream when it shuts down at once.
	return goleak.Find(goleak.IgnoreTopFunction("github.com/nats-io/nats-server/v2/server.(*stream).trySetupSourceConsumer.func3"))
}

// requireMain fails a test whose package would leave servers behind.
func requireMain(t testing.TB) {
	t.Helper()
	ending.Lock()
	defer ending.Unlock()
	if !ending.begun {
		t.Fatal("testenv: call testenv.Main from TestMain")
	}
}

// Eventually waits for a condition that nothing signals.
func Eventually(t testing.TB, what string, holds func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !holds() {
		select {
		case <-ctx.Done():
			t.Fatalf("never: %s", what)
		case <-tick.C:
		}
	}
}
