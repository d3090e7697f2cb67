// Command sekisho runs Sekisho: all of it on one machine, or some of its workers, or the set-up of what they run on.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"syscall"

	"github.com/sekisho/sekisho/services"
)

const usage = `Sekisho: event-driven multi-factor login.

  sekisho up               everything on this machine, with demo accounts
  sekisho setup            provision the NATS and PostgreSQL of SEKISHO_NATS_URL and SEKISHO_POSTGRES_URL
  sekisho run <worker>…    run workers on them: %s
  sekisho rotate           replace the sealing keys day by day, beside the workers
  sekisho version          say which version this is
  sekisho help             say this

Settings are environment variables and the YAML file that SEKISHO_CONFIG names.
`

// version is set by the build.
var version = "unknown"

// errUsage is a command line that makes no sense.
var errUsage = errors.New("usage")

// garbage is how far the heap may grow beyond what lives, in percent. A worker keeps some ten megabytes alive, so memory
// is cheap here, and collecting four times less often saves a tenth of the time of a login. GOGC overrules it.
const garbage = 400

func main() {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(garbage)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // from now on a second Ctrl-C ends the process at once
	err := command(ctx, os.Args[1:], os.Stdout)
	logs.Flush()
	switch {
	case errors.Is(err, errUsage):
		fmt.Fprintf(os.Stderr, "sekisho: %v\n\n"+usage, err, strings.Join(names(services.All), " "))
		os.Exit(2)
	case err != nil:
		fmt.Fprintf(os.Stderr, "sekisho: %v\n", err)
		os.Exit(1)
	}
}

func command(ctx context.Context, args []string, out io.Writer) error {
	if len(args) == 0 {
		return fmt.Errorf("%w: no command", errUsage)
	}
	if slices.ContainsFunc(args, asksForHelp) {
		_, err := fmt.Fprintf(out, usage, strings.Join(names(services.All), " "))
		return err
	}
	name, args := args[0], args[1:]
	if len(args) > 0 && name != "run" {
		return fmt.Errorf("%w: %s takes no arguments", errUsage, name)
	}
	switch name {
	case "up":
		return runUp(ctx, out)
	case "setup":
		return runSetup(ctx)
	case "rotate":
		return runRotate(ctx)
	case "run":
		return runWorkers(ctx, args)
	case "version":
		_, err := fmt.Fprintln(out, version, runtime.Version())
		return err
	default:
		return fmt.Errorf("%w: unknown command %q", errUsage, name)
	}
}

// asksForHelp tells whether an argument is one of those that people try, before or after a command.
func asksForHelp(arg string) bool {
	return slices.Contains([]string{"help", "-h", "-help", "--help"}, arg)
}
