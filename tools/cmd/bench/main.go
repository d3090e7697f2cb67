// Command bench measures the saga from outside: how many logins a second, how long one takes, what one costs. Beside that it
// measures, in the same run, what the broker alone can do with as many events of the same size (package bare). It prints one line
// per road, which ends in the ratio of the two.
//
// It measures two systems. The first one's risk verdict is a setting and its text messages are thrown away, so that no simulator is
// measured; the second one has simulated providers. Passwords are hashed at argon2id's lowest cost in both: an honest hash costs more
// than all the rest.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"regexp"
	"runtime"
	"syscall"
	"time"
)

type options struct {
	binary   string
	inFlight int
	light    float64
	phase    time.Duration
	users    int
	parked   int
	after    int
	backlog  int
	only     *regexp.Regexp
	profiles string
}

func main() {
	var o options
	var asJSON, long, extra, bareOnly, emptyOnly bool
	var only string
	flag.StringVar(&o.binary, "sekisho", ".bin/sekisho", "the `program` to measure")
	flag.IntVar(&o.inFlight, "inflight", 200, "logins in flight at saturation")
	flag.Float64Var(&o.light, "light", 0.3, "share of the saturated rate at which latency is measured")
	flag.DurationVar(&o.phase, "phase", time.Second, "length of each measurement; 5s gives steadier figures")
	flag.IntVar(&o.users, "users", 500, "accounts that log in, one after the other")
	flag.IntVar(&o.parked, "parked", 300, "logins that are held in flight to measure their memory; 0: none")
	flag.IntVar(&o.after, "after", 0, "measure again after so many `logins`; 0: do not")
	flag.BoolVar(&long, "long", false, "as -after 100000")
	flag.StringVar(&only, "only", "", "only the lines that match, such as 'OK bus' (regular `expression`)")
	flag.StringVar(&o.profiles, "profiles", "", "write CPU and allocation profiles of the saturated system into a `folder`")
	flag.BoolVar(&asJSON, "json", false, "for machines")
	flag.BoolVar(&extra, "extra", false, "measure /auth/check and smsdispatcher too")
	flag.IntVar(&o.backlog, "backlog", 2000, "with -extra: logins that wait for smsdispatcher")
	flag.BoolVar(&emptyOnly, "empty", false, "be an HTTP server that does nothing; the bench starts itself so")
	flag.BoolVar(&bareOnly, "pipeline", false, "be the bare pipeline of the plan on stdin; the bench starts itself so")
	flag.Parse()
	if long && o.after == 0 {
		o.after = 100_000
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	err := func() (err error) {
		if bareOnly {
			return servePipeline()
		}
		if emptyOnly {
			return serveEmpty()
		}
		if o.only, err = regexp.Compile(only); err != nil {
			return err
		}
		report, err := measure(ctx, o)
		if err != nil {
			return err
		}
		if extra {
			if report.Extra, err = measureExtra(ctx, o); err != nil {
				return err
			}
		}
		if asJSON {
			out := json.NewEncoder(os.Stdout)
			out.SetIndent("", "  ")
			return out.Encode(report)
		}
		return report.print(os.Stdout)
	}()
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// measure is the whole run.
func measure(ctx context.Context, o options) (report *Report, err error) {
	report = &Report{Processors: runtime.GOMAXPROCS(0), InFlight: o.inFlight, Light: o.light}
	limits := make(pipelines)
	defer func() { err = errors.Join(err, limits.stop()) }()
	for _, k := range kinds {
		lines, err := k.measure(ctx, o, limits)
		if err != nil {
			return nil, err
		}
		report.Lines = append(report.Lines, lines...)
	}
	return report, nil
}
