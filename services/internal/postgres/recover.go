package postgres

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// orphanPatience is how long an orphan may take to shut down cleanly (10 s: a checkpoint of all
// its buffers) before it is made to quit.
const orphanPatience = 10 * time.Second

// pollInterval is how often the state of another process is looked at. A start of PostgreSQL takes
// 50 ms at least.
const pollInterval = 10 * time.Millisecond

// lockFile is what the server says of itself in postmaster.pid.
// https://www.postgresql.org/docs/current/storage-file-layout.html
type lockFile struct {
	pid   int
	ready bool
}

func lockPath(data string) string { return filepath.Join(data, "postmaster.pid") }

func readLock(data string) (lockFile, error) {
	text, err := os.ReadFile(lockPath(data))
	if err != nil {
		return lockFile{}, fmt.Errorf("postgres: %w", err)
	}
	lines := strings.Split(string(text), "\n")
	pid, err := strconv.Atoi(strings.TrimSpace(lines[0]))
	if err != nil {
		return lockFile{}, fmt.Errorf("postgres: lock file: %w", err)
	}
	const status = 7 // the last line, absent in the first moments
	return lockFile{pid: pid, ready: len(lines) > status && strings.TrimSpace(lines[status]) == "ready"}, nil
}

// stopOrphan ends the server that an earlier process left on this cluster when it was killed, and
// removes a lock file that names no server. It runs under the folder's lock.
func (c *cluster) stopOrphan(ctx context.Context) error {
	pid, running := postmaster(c.data())
	if !running {
		return c.removeStaleLock()
	}
	// The handle stays with this process: should it end now, its number may go to another, but
	// the signals do not. Hence the second look, once we have the handle.
	orphan, err := os.FindProcess(pid)
	if err != nil {
		return fmt.Errorf("postgres: orphaned server: %w", err)
	}
	defer orphan.Release()
	if _, running := postmaster(c.data()); !running {
		return c.removeStaleLock()
	}
	c.log.Info().Int("pid", pid).Msg("stopping the postgres that an earlier run left behind")
	if err := orphan.Signal(syscall.SIGINT); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("postgres: stop the orphaned server: %w", err)
	}
	patience, cancel := context.WithTimeout(ctx, orphanPatience)
	defer cancel()
	if c.awaitEnd(patience) != nil {
		if err := orphan.Signal(syscall.SIGQUIT); err != nil && !errors.Is(err, os.ErrProcessDone) {
			return fmt.Errorf("postgres: stop the orphaned server: %w", err)
		}
		if err := c.awaitEnd(ctx); err != nil {
			return fmt.Errorf("postgres: the orphaned server (process %d) does not stop: %w", pid, err)
		}
	}
	return c.removeStaleLock()
}

// awaitEnd waits until no server runs on the cluster.
func (c *cluster) awaitEnd(ctx context.Context) error {
	return poll(ctx, func() bool {
		_, running := postmaster(c.data())
		return !running
	})
}

// poll waits for what nobody signals.
func poll(ctx context.Context, condition func() bool) error {
	tick := time.NewTicker(pollInterval)
	defer tick.Stop()
	for !condition() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// postmaster tells whether the process that the lock file names is provably a server on data. The
// proof is its command line, which everybody may read, unlike its working directory. Where there
// is no /proc nothing can be proven, and PostgreSQL itself refuses to start beside a live server.
func postmaster(data string) (pid int, running bool) {
	lock, err := readLock(data)
	if err != nil {
		return 0, false
	}
	served, ok := serverFolder(lock.pid)
	return lock.pid, ok && served == data
}

// serverFolder tells whether a process is a PostgreSQL server, and the folder that its command line
// names, if any. A process that has ended is none, even if nobody waited for it.
func serverFolder(pid int) (data string, ok bool) {
	line, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	if err != nil {
		return "", false
	}
	args := strings.Split(string(line), "\x00")
	if program := filepath.Base(args[0]); program != "postgres" && program != "postmaster" {
		return "", false
	}
	if at := slices.Index(args, "-D"); at >= 0 && at+1 < len(args) {
		data = args[at+1]
	}
	return data, true
}

// removeStaleLock removes a lock file that stops PostgreSQL for no reason: one whose writing was
// cut off, or whose process number has gone to some other program, to a server on another folder
// or to a zombie that nobody waits for. PostgreSQL itself copes with a number that nobody has.
// Backends that outlive their postmaster stay safe without the file: the shared memory block names
// the folder too.
func (c *cluster) removeStaleLock() error {
	lock, err := readLock(c.data())
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil {
		if _, err := os.Stat(fmt.Sprintf("/proc/%d", lock.pid)); err != nil {
			return nil
		}
		if served, ok := serverFolder(lock.pid); ok && !elsewhere(served, c.data()) {
			return nil // a server, though not provably on this folder or another: PostgreSQL decides
		}
	}
	if err := os.Remove(lockPath(c.data())); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("postgres: remove a stale lock: %w", err)
	}
	return nil
}

// elsewhere tells whether served is certainly another folder than data.
func elsewhere(served, data string) bool {
	a, errA := os.Stat(served)
	b, errB := os.Stat(data)
	return filepath.IsAbs(served) && errA == nil && errB == nil && !os.SameFile(a, b)
}
