package main

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"
)

// Report is what a run found.
type Report struct {
	Processors int     `json:"processors"`
	InFlight   int     `json:"in_flight"`
	Light      float64 `json:"light"` // share of the saturated rate
	Lines      []*Line `json:"lines"`
	Extra      *Extra  `json:"extra,omitempty"`
}

// Line is one road over one way in.
type Line struct {
	Road      string  `json:"road"`
	Drive     string  `json:"drive"`     // bus or http
	Providers string  `json:"providers"` // in process or simulated
	Before    int     `json:"before"`    // logins that the system had done before
	Saturated Figures `json:"saturated"`
	Light     Figures `json:"light"`
	Memory    *Memory `json:"memory,omitempty"` // of one login in flight
	Bare      Figures `json:"bare"`             // the broker's own limit, saturated
	Ratio     float64 `json:"ratio"`            // saturated rates: the saga's over the bare pipeline's
}

// Figures are of one measurement. Times are in milliseconds.
type Figures struct {
	Calls     int     `json:"calls"`
	Rate      float64 `json:"rate"` // logins per second
	P50       float64 `json:"p50"`
	P99       float64 `json:"p99"`
	CPU       float64 `json:"cpu"`        // processor time of one login: broker, workers, gateway, database
	DriverCPU float64 `json:"driver_cpu"` // and of this program, which runs on the same machine
}

// Memory is what one login in flight adds to the heap of the process, in KiB.
type Memory struct {
	Broker  float64 `json:"broker"`  // sampled, so a rough figure
	Process float64 `json:"process"` // the broker's share included
}

func milliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// print writes one line per road.
func (r *Report) print(out io.Writer) error {
	fmt.Fprintf(out, "%d processors, shared with the driver. Passwords cost the least that argon2id can (8 KiB, one pass).\n", r.Processors)
	fmt.Fprintln(out, `Providers "in process": the risk verdict is a setting and text messages are thrown away, so the saga alone is measured. Phones are simulated by the driver.`)
	fmt.Fprintf(out, "Saturated: %d logins in flight. Light: %.0f %% of the saturated rate. CPU: broker, workers, gateway and database. Memory: heap of one login in flight.\n\n",
		r.InFlight, 100*r.Light)
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	row := func(cells ...string) { fmt.Fprintln(w, strings.Join(cells, "\t")+"\t") }
	row("road", "over", "providers", "after", "logins/s", "p50 ms", "p99 ms", "CPU ms", "light p50", "p99 ms", "CPU ms", "broker KiB", "all KiB", "bare/s", "")
	for _, l := range r.Lines {
		broker, process := "", ""
		if l.Memory != nil {
			broker, process = fmt.Sprintf("%.0f", l.Memory.Broker), fmt.Sprintf("%.0f", l.Memory.Process)
		}
		row(l.Road, l.Drive, l.Providers, fmt.Sprint(l.Before),
			fmt.Sprintf("%.0f", l.Saturated.Rate), decimal(l.Saturated.P50), decimal(l.Saturated.P99), fmt.Sprintf("%.2f", l.Saturated.CPU),
			decimal(l.Light.P50), decimal(l.Light.P99), fmt.Sprintf("%.2f", l.Light.CPU),
			broker, process, fmt.Sprintf("%.0f", l.Bare.Rate), fmt.Sprintf("ratio %.2f", l.Ratio))
	}
	if err := w.Flush(); err != nil {
		return err
	}
	if r.Extra != nil {
		r.Extra.print(out)
	}
	return nil
}

func decimal(f float64) string { return fmt.Sprintf("%.1f", f) }
