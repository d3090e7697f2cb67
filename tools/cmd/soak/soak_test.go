package main

import (
	"image/png"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sekisho/sekisho/tools/internal/system/systemtest"
)

// A short soak: that every login ends as it must is checked by the soak itself.
func TestSoak(t *testing.T) {
	w, err := soak(t.Context(), options{binary: systemtest.Build(t), lasting: 8 * time.Second, rate: 20, restart: 2 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	last := w.samples[len(w.samples)-1]
	if w.logins == 0 || len(w.restarts) == 0 || last.Heap == 0 || last.Goroutines == 0 || last.Files == 0 || last.Stored == 0 {
		t.Errorf("%d logins, %d restarts, last sample %+v", w.logins, len(w.restarts), last)
	}
	for _, table := range []string{"audit.events", "directory.devices", "push.prompts", "push.proofs"} {
		if last.Tables[table] == 0 {
			t.Errorf("the size of %s is not known", table)
		}
	}
	path := filepath.Join(t.TempDir(), "soak.png")
	if err := w.plot(path); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if picture, err := png.Decode(f); err != nil || picture.Bounds().Dx() < 500 {
		t.Errorf("picture: %v", err)
	}
}

func TestJudge(t *testing.T) {
	for _, c := range []struct {
		name string
		grow func(i int, s *sample)
		want string // what the error names; "" for none
	}{
		{"flat", func(int, *sample) {}, ""},
		{"events that LOGIN keeps", func(i int, s *sample) { s.Stored += uint64(3000 * i); s.Heap += 3000 * 150 * float64(i) }, ""},
		{"a table that grows with logins", func(i int, s *sample) { s.Tables["audit.events"] = float64(i) * (1 << 20) }, ""},
		{"heap", func(i int, s *sample) { s.Heap += float64(i) * (1 << 20) }, "heap"},
		{"resident memory", func(i int, s *sample) { s.RSS += float64(i) * (8 << 20) }, "resident memory"},
		{"goroutines", func(i int, s *sample) { s.Goroutines += float64(10 * i) }, "goroutines"},
		{"descriptors", func(i int, s *sample) { s.Files += float64(2 * i) }, "descriptors"},
		{"latency", func(i int, s *sample) { s.P50 += time.Duration(i) * time.Millisecond }, "p50"},
		{"a dead letter", func(i int, s *sample) { s.Dead = uint64(i / 60) }, "dead letters"},
		{"a table that swells", func(i int, s *sample) { s.Tables["directory.counters"] = float64(i*i) * (1 << 14) }, "directory.counters"},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := &watch{}
			for i := range 120 {
				s := sample{At: time.Duration(i) * 5 * time.Second, Logins: 200 * i, Heap: 30 << 20, RSS: 90 << 20, Goroutines: 400, Files: 100,
					P50: 10 * time.Millisecond, Tables: map[string]float64{}}
				c.grow(i, &s)
				w.samples = append(w.samples, s)
			}
			err := w.judge(io.Discard)
			if (err == nil) != (c.want == "") || err != nil && !strings.HasPrefix(err.Error(), c.want) {
				t.Errorf("judged %v, want %q", err, c.want)
			}
		})
	}
	if err := (&watch{}).judge(io.Discard); err == nil {
		t.Error("judged nothing to be flat")
	}
}
