package main

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
)

// What may grow, and by how much. Everything else must stay as it was early on.
const (
	perEvent = 400       // bytes of heap for an event that LOGIN still has: its subject in the broker's index, and its place
	heapGap  = 16 << 20  // bytes of heap: buffers and caches that come and go
	garbage  = 5         // times the live heap: the most that is resident before the collector runs
	rssGap   = 256 << 20 // bytes of resident memory beside that
	routines = 250       // goroutines, and
	files    = 100       // descriptors: pools of connections fill as bursts come
	slower   = 2.0       // times the latency of the early part: others may use this machine too
	instant  = 0.02      // seconds of latency that do not matter
	tableGap = 4 << 20   // bytes of a table: pages that vacuum has not given back yet
	swelling = 1.3       // times the bytes that a login added to a table in the first half
)

// A part is the median of some samples in a row.
type part struct{ heap, rss, goroutines, files, p50, stored float64 }

// judge compares the end of the run with an early part, by which all that is made only once is there: connections, caches, counters of
// accounts.
func (w *watch) judge(out io.Writer) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	n := len(w.samples)
	for n > 0 && w.samples[n-1].P50 == 0 {
		n-- // taken while the last logins whose users had walked away ran out
	}
	if n < 10 {
		return fmt.Errorf("%d samples say nothing: let it last longer", n)
	}
	early, late := summarize(w.samples[n/10:n/10+n/5]), summarize(w.samples[n-n/5:n])
	last := w.samples[len(w.samples)-1]
	fmt.Fprintf(out, "%d logins ended as they should, %d restarts of workers\n", last.Logins, len(w.restarts))
	var grown []error
	compare := func(what, unit string, from, to, most float64) {
		verdict := "ok"
		if to > most {
			verdict = fmt.Sprintf("GROWS: at most %.1f", most)
			grown = append(grown, fmt.Errorf("%s: %.1f %s, at most %.1f", what, to, unit, most))
		}
		fmt.Fprintf(out, "%-30s %9.1f → %9.1f %-8s %s\n", what, from, to, unit, verdict)
	}
	const mib = 1 << 20
	kept := (late.stored - early.stored) * perEvent
	compare("heap", "MiB", early.heap/mib, late.heap/mib, (early.heap+kept+heapGap)/mib)
	compare("resident memory", "MiB", early.rss/mib, late.rss/mib, (early.rss+garbage*kept+rssGap)/mib)
	compare("goroutines", "", early.goroutines, late.goroutines, early.goroutines+routines)
	compare("descriptors", "", early.files, late.files, early.files+files)
	compare("p50", "ms", 1000*early.p50, 1000*late.p50, 1000*(slower*early.p50+instant))
	compare("dead letters", "", 0, float64(last.Dead), 0)

	first, middle := w.samples[0], w.samples[n/2]
	for _, table := range slices.Sorted(maps.Keys(last.Tables)) {
		before, after := middle.Tables[table]-first.Tables[table], last.Tables[table]-middle.Tables[table]
		share := float64(last.Logins-middle.Logins) / float64(max(1, middle.Logins-first.Logins))
		compare(table, "MiB", before/mib, after/mib, (swelling*share*before+tableGap)/mib)
	}
	return errors.Join(grown...)
}

func summarize(samples []sample) part {
	median := func(of func(sample) float64) float64 {
		values := make([]float64, len(samples))
		for i, s := range samples {
			values[i] = of(s)
		}
		slices.Sort(values)
		return values[len(values)/2]
	}
	return part{
		heap:       median(func(s sample) float64 { return s.Heap }),
		rss:        median(func(s sample) float64 { return s.RSS }),
		goroutines: median(func(s sample) float64 { return s.Goroutines }),
		files:      median(func(s sample) float64 { return s.Files }),
		p50:        median(func(s sample) float64 { return s.P50.Seconds() }),
		stored:     median(func(s sample) float64 { return float64(s.Stored) }),
	}
}
