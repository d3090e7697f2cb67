package simulators

import (
	"fmt"
	"math"
	"net"
	"net/http"
	"slices"
	"sync"
	"time"
)

// Mode says how a provider fails.
type Mode string

// The modes of the control API.
const (
	None    Mode = "none"
	Error   Mode = "error"   // a 500 in the vendor's own form
	Hang    Mode = "hang"    // no answer until the client goes away, or until the delay has passed if there is one
	Garbage Mode = "garbage" // a 200 that is not the API's JSON
	Reset   Mode = "reset"   // the connection is reset
	Slow    Mode = "slow"    // the right answer, after the delay
)

var modes = []Mode{None, Error, Hang, Garbage, Reset, Slow}

// defaultDelay is how late Slow is when nothing else is said.
const defaultDelay = 2 * time.Second

// maxDelay keeps a mistyped delay from holding connections for days.
const maxDelay = 10 * time.Minute

// Fault is what befalls the calls of one provider.
type Fault struct {
	Mode  Mode
	Rate  float64       // share of the calls that are hit, 0 < Rate <= 1; 0 stands for 1
	Delay time.Duration // for Slow and Hang; default of Slow 2s, at most 10m
	// Late makes the provider act first, so that the answer gets lost and not the request: then a sender
	// must ask before it sends again. For Error, Hang, Garbage and Reset.
	Late bool
}

func (f Fault) check() error {
	switch {
	case !slices.Contains(modes, f.Mode):
		return fmt.Errorf("mode must be one of %v", modes)
	case !(f.Rate > 0 && f.Rate <= 1):
		return fmt.Errorf("rate must be greater than 0 and at most 1")
	case f.Delay < 0 || f.Delay > maxDelay:
		return fmt.Errorf("delay must be between 0s and %v", maxDelay)
	case f.Late && (f.Mode == None || f.Mode == Slow):
		return fmt.Errorf("mode %s loses no answer, so it cannot be late", f.Mode)
	}
	return nil
}

// SetFault makes the provider fail from its next call on.
func (s *Simulators) SetFault(provider string, f Fault) error {
	if !slices.Contains(Providers, provider) {
		return fmt.Errorf("no provider %q, there are %v", provider, Providers)
	}
	if f.Mode == "" {
		f.Mode = None
	}
	if f.Rate == 0 {
		f.Rate = 1
	}
	if f.Mode == Slow && f.Delay == 0 {
		f.Delay = defaultDelay
	}
	if err := f.check(); err != nil {
		return err
	}
	s.faults.set(provider, f)
	return nil
}

// faults spreads the hits evenly by counting: a rate of 0.3 strikes 3 calls of every 10, and a test sees
// the same ones struck each time.
type faults struct {
	mu    sync.Mutex
	armed map[string]*armed
}

type armed struct {
	Fault
	calls int
}

func (f *faults) set(provider string, fault Fault) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.armed == nil {
		f.armed = make(map[string]*armed)
	}
	f.armed[provider] = &armed{Fault: fault}
}

// draw counts one call of the provider and returns the fault that strikes it.
func (f *faults) draw(provider string) Fault {
	f.mu.Lock()
	defer f.mu.Unlock()
	a := f.armed[provider]
	if a == nil {
		return Fault{Mode: None}
	}
	before := math.Floor(float64(a.calls) * a.Rate)
	a.calls++
	if math.Floor(float64(a.calls)*a.Rate) == before {
		return Fault{Mode: None}
	}
	return a.Fault
}

func garbage(w http.ResponseWriter) {
	w.Header().Set("Content-Type", "application/json")
	w.Write([]byte("{\"object\": \xff\xfe<html>Service temporarily"))
}

// reset closes the connection with a TCP RST. A connection that can not be taken over, as with HTTP/2,
// is merely broken off.
func reset(w http.ResponseWriter) {
	conn, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	if tcp, ok := conn.(*net.TCPConn); ok {
		tcp.SetLinger(0)
	}
	conn.Close()
}

// hang answers nothing, and breaks the connection off at the end.
func (s *Simulators) hang(r *http.Request, limit time.Duration) {
	if limit == 0 {
		limit = maxDelay
	}
	s.wait(r, limit)
	panic(http.ErrAbortHandler)
}

// wait reports whether d passed before the client went away or the simulators were closed.
func (s *Simulators) wait(r *http.Request, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-r.Context().Done():
	case <-s.closing:
	}
	return false
}
