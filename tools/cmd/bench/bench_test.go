package main

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sekisho/sekisho/tools/internal/system/systemtest"
)

// TestMain lets the bench start itself as its other processes.
func TestMain(m *testing.M) {
	serve := map[string]func() error{"-pipeline": servePipeline, "-empty": serveEmpty}[os.Args[len(os.Args)-1]]
	if serve == nil {
		os.Exit(m.Run())
	}
	if err := serve(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func TestReport(t *testing.T) {
	profiles := t.TempDir()
	report, err := measure(t.Context(), options{binary: systemtest.Build(t), inFlight: 10, light: 0.3, phase: 500 * time.Millisecond,
		users: 40, parked: 20, after: 200, profiles: profiles, only: regexp.MustCompile("OK bus|SMS http|push")})
	if err != nil {
		t.Fatal(err)
	}
	var lines []string
	for _, l := range report.Lines {
		lines = append(lines, strings.Join([]string{l.Road, l.Drive, l.Providers}, " "))
		for what, f := range map[string]Figures{"saturated": l.Saturated, "light": l.Light, "bare": l.Bare} {
			if f.Calls == 0 || f.Rate <= 0 || f.P50 <= 0 || f.P99 < f.P50 || f.CPU <= 0 || f.DriverCPU <= 0 {
				t.Errorf("%s %s: %+v", l.Road, what, f)
			}
		}
		if l.Ratio != l.Saturated.Rate/l.Bare.Rate {
			t.Errorf("%s: ratio %v", l.Road, l.Ratio)
		}
	}
	once := []string{"password/OK bus in process", "ID/push bus in process", "password/REVIEW/SMS http in process", "ID/push http in process"}
	want := slices.Concat(once, once, []string{"password/OK bus simulated"})
	if strings.Join(lines, "\n") != strings.Join(want, "\n") || report.Lines[len(once)].Before < 200 {
		t.Errorf("lines %q, again after %d", lines, report.Lines[len(once)].Before)
	}
	var text strings.Builder
	if err := report.print(&text); err != nil {
		t.Fatal(err)
	}
	if n := len(regexp.MustCompile(`(?m)ratio \d+\.\d\d$`).FindAllString(text.String(), -1)); n != len(want) {
		t.Errorf("%d lines end in a ratio:\n%s", n, text.String())
	}
	if written, err := filepath.Glob(filepath.Join(profiles, "*.pb.gz")); err != nil || len(written) != 20 {
		t.Errorf("profiles %q, %v", written, err)
	}
}

func TestExtra(t *testing.T) {
	x, err := measureExtra(t.Context(), options{binary: systemtest.Build(t), inFlight: 10, phase: 300 * time.Millisecond, users: 40, backlog: 40})
	if err != nil {
		t.Fatal(err)
	}
	if x.Check.Rate <= 0 || x.Empty.Rate <= 0 || x.CheckRatio != x.Check.Rate/x.Empty.Rate || x.Messages <= 0 || x.Lapsed <= 0 || x.LapsedCost <= 0 {
		t.Errorf("%+v", x)
	}
	if x.Messages > 200 { // on whatever machine: each of the 40 takes 200 ms
		t.Errorf("%.0f messages a second", x.Messages)
	}
}
