package system

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/google/pprof/profile"
)

// tick is the unit of CPU times in /proc on every Linux that Go runs on (USER_HZ, proc_pid_stat(5)).
const tick = time.Second / 100

// CPU is the time that a process and all of its descendants have used so far, in user and kernel mode. It includes those that
// have ended and were waited for.
func CPU(pid int) (time.Duration, error) {
	stats, err := tree(pid)
	if err != nil {
		return 0, err
	}
	var ticks int64
	for _, s := range stats {
		for _, field := range s.times {
			ticks += field
		}
	}
	return time.Duration(ticks) * tick, nil
}

type stat struct {
	pid, parent int
	times       [4]int64 // utime, stime, cutime, cstime in ticks
}

// tree is a process and its descendants.
func tree(root int) ([]stat, error) {
	files, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		return nil, err
	}
	children := make(map[int][]stat)
	var found []stat
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			continue // it has ended meanwhile
		}
		s, err := parseStat(string(data))
		if err != nil {
			return nil, err
		}
		if s.pid == root {
			found = append(found, s)
		}
		children[s.parent] = append(children[s.parent], s)
	}
	if found == nil {
		return nil, fmt.Errorf("no process %d", root)
	}
	for i := 0; i < len(found); i++ {
		found = append(found, children[found[i].pid]...)
	}
	return found, nil
}

// parseStat reads /proc/<pid>/stat. The second field is the program's name in parentheses, which may hold anything.
func parseStat(text string) (stat, error) {
	open, end := strings.IndexByte(text, '('), strings.LastIndexByte(text, ')')
	if open < 0 || end < 0 {
		return stat{}, fmt.Errorf("proc stat: %q", text)
	}
	fields := strings.Fields(text[end+1:]) // the first of these is the third of the file
	if len(fields) < 15 {
		return stat{}, fmt.Errorf("proc stat: %q", text)
	}
	var numbers []int64
	for _, field := range slices.Concat([]string{strings.TrimSpace(text[:open]), fields[1]}, fields[11:15]) {
		n, err := strconv.ParseInt(field, 10, 64)
		if err != nil {
			return stat{}, fmt.Errorf("proc stat: %w", err)
		}
		numbers = append(numbers, n)
	}
	return stat{int(numbers[0]), int(numbers[1]), [4]int64(numbers[2:])}, nil
}

// Heap is what lives on the heap of the process after a garbage collection, in bytes: of the broker, and of all. The buffers of
// the broker's store are left out of both: they come and go in pieces of up to 8 MiB, whatever there is to keep.
type Heap struct{ Broker, Process int64 }

// Heap measures it, and needs the setting debug.profiles. The broker's share comes from the heap profile, which samples one
// allocation per 512 KiB: a difference of less than some MiB means nothing there.
func (s *System) Heap(ctx context.Context) (Heap, error) {
	var data []byte
	for range 2 { // pools are emptied by the second collection
		var err error
		if data, err = s.GetOps(ctx, "/debug/pprof/heap?gc=1"); err != nil {
			return Heap{}, err
		}
	}
	p, err := profile.Parse(bytes.NewReader(data))
	if err != nil {
		return Heap{}, fmt.Errorf("heap profile: %w", err)
	}
	inUse := slices.IndexFunc(p.SampleType, func(t *profile.ValueType) bool { return t.Type == "inuse_space" })
	if inUse < 0 {
		return Heap{}, errors.New("heap profile without inuse_space")
	}
	metrics, err := s.Metrics(ctx)
	if err != nil {
		return Heap{}, err
	}
	h := Heap{Process: int64(metrics["go_memstats_heap_alloc_bytes"])}
	for _, sample := range p.Sample {
		switch {
		case passes(sample, "github.com/nats-io/nats-server/v2/server.getMsgBlockBuf"):
			h.Process -= sample.Value[inUse]
		case passes(sample, "github.com/nats-io/nats-server/"):
			h.Broker += sample.Value[inUse]
		}
	}
	return h, nil
}

// Metrics are the values in /metrics without labels, by name.
func (s *System) Metrics(ctx context.Context) (map[string]float64, error) {
	text, err := s.GetOps(ctx, "/metrics")
	if err != nil {
		return nil, err
	}
	metrics := make(map[string]float64)
	for line := range strings.Lines(string(text)) {
		name, value, found := strings.Cut(strings.TrimSpace(line), " ")
		if !found || strings.ContainsAny(name, "#{") {
			continue
		}
		if metrics[name], err = strconv.ParseFloat(value, 64); err != nil {
			return nil, fmt.Errorf("metric %s: %w", name, err)
		}
	}
	return metrics, nil
}

// passes tells whether a function whose name begins so is on the stack of a sample.
func passes(s *profile.Sample, prefix string) bool {
	return slices.ContainsFunc(s.Location, func(l *profile.Location) bool {
		return slices.ContainsFunc(l.Line, func(line profile.Line) bool {
			return line.Function != nil && strings.HasPrefix(line.Function.Name, prefix)
		})
	})
}
