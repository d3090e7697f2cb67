package bus_test

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/sekisho/sekisho/events"
	"github.com/sekisho/sekisho/services/internal/bus"
)

// The table of services/README.md says what the table in code says.
func TestReadme(t *testing.T) {
	page, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	rows := make(map[string][]string) // by worker: its cells
	for line := range strings.Lines(string(page)) {
		cells := strings.Split(line, "|")
		if name := regexp.MustCompile(`^ \[(\w+)\]\((\w+)\) $`).FindStringSubmatch(cells[min(1, len(cells)-1)]); name != nil && name[1] == name[2] {
			rows[name[1]] = cells[2:]
		}
	}
	steps := func(cell string) (list []events.Step) {
		for _, word := range regexp.MustCompile(`[a-z]+`).FindAllString(cell, -1) {
			if _, ok := events.Steps[events.Step(word)]; ok {
				list = append(list, events.Step(word))
			}
		}
		slices.Sort(list)
		return list
	}
	same := func(worker, what string, cell string, want []events.Step) {
		t.Helper()
		slices.Sort(want)
		if got := steps(cell); !slices.Equal(got, want) {
			t.Errorf("%s %s %v in the page, %v in code", worker, what, got, want)
		}
	}
	publishes := func(worker string) (list []events.Step) {
		for step, row := range events.Steps {
			if slices.Contains(row.By, worker) {
				list = append(list, step)
			}
		}
		return list
	}
	if len(rows) != len(bus.Workers)+1 {
		t.Errorf("%d workers in the page, %d and the gateway in code", len(rows), len(bus.Workers))
	}
	for _, w := range bus.Workers {
		row := rows[w.Worker]
		if row == nil {
			t.Errorf("%s is not in the page", w.Worker)
			continue
		}
		same(w.Worker, "consumes", row[0], slices.Clone(w.Consumes))
		same(w.Worker, "publishes", row[1], publishes(w.Worker))
		if w.Timer != strings.Contains(row[0], "timer") {
			t.Errorf("%s: timer in the page and in code differ", w.Worker)
		}
	}
	gateway := rows[events.GatewayWorker]
	same("gateway", "publishes", gateway[1], publishes(events.GatewayWorker))
	var hears []events.Step
	for step := range events.Steps {
		denied := false
		for _, u := range bus.Users([]string{"web"}) {
			denied = denied || u.Name == "web" && slices.Contains(u.Unheard, "deliver.web."+string(step)+".>")
		}
		if !denied {
			hears = append(hears, step)
		}
	}
	same("gateway", "hears", gateway[0], hears)
}
