package postgres

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// settings of the server. The command line carries them all, so that an existing cluster always
// runs with those of this version.
func (c *cluster) settings(host string, port int) []string {
	settings := []string{
		"listen_addresses=" + host,
		"port=" + strconv.Itoa(port),
		// Other users of the machine can not enter that folder, and have no way in over TCP but the password.
		"unix_socket_directories=" + c.sockets(),
		"max_connections=200",  // nine workers in one process, and people
		"shared_buffers=128MB", // small beside the broker, ample for tables of this size
		"jit=off",              // no query here is long enough to gain from it
		"timezone=UTC",
		"log_timezone=UTC",
		"lc_messages=C", // what we look for in the log is in English
		// Errors of statements carry values of rows. They go to the client alone.
		"log_min_messages=log",
		"log_min_error_statement=panic",
		"log_error_verbosity=terse",
	}
	if c.fast {
		settings = append(settings, "fsync=off", "synchronous_commit=off", "full_page_writes=off")
	}
	return settings
}

// maxSocketPath is what sockaddr_un holds on Linux, with the zero byte at its end.
const maxSocketPath = 108

const socketName = ".s.PGSQL."

// sockets is the folder of the server's Unix socket, empty if its path would be too long for one.
func (c *cluster) sockets() string {
	if len(filepath.Join(c.data(), socketName+"65535")) >= maxSocketPath {
		return ""
	}
	return c.data()
}

// removeSockets removes the sockets of servers that were killed, which each had a port of its own.
func (c *cluster) removeSockets() error {
	left, err := filepath.Glob(filepath.Join(c.data(), socketName+"*"))
	if err != nil {
		return fmt.Errorf("postgres: %w", err)
	}
	for _, file := range left {
		if err := os.Remove(file); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("postgres: remove a stale socket: %w", err)
		}
	}
	return nil
}

var (
	errPortTaken = errors.New("the port is taken")
	errStillUsed = errors.New("processes of the server before are still ending")
)

// launch starts the server and returns it with its address once it accepts connections.
func (c *cluster) launch(ctx context.Context, host string, port int) (*process, string, error) {
	for {
		chosen := port
		if port == 0 {
			var err error
			if chosen, err = freePort(host); err != nil {
				return nil, "", err
			}
		}
		p, err := c.launchOn(ctx, host, chosen)
		switch {
		case errors.Is(err, errPortTaken) && port == 0, // lost the port between choosing and binding
			errors.Is(err, errStillUsed): // they notice the death of their postmaster by themselves
			c.log.Debug().Err(err).Msg("starting postgres again")
			if err := ctx.Err(); err != nil {
				return nil, "", fmt.Errorf("postgres: start: %w", err)
			}
		case err != nil:
			return nil, "", err
		default:
			return p, net.JoinHostPort(host, strconv.Itoa(chosen)), nil
		}
	}
}

func (c *cluster) launchOn(ctx context.Context, host string, port int) (*process, error) {
	args := []string{"-D", c.data()}
	for _, setting := range c.settings(host, port) {
		args = append(args, "-c", setting)
	}
	p, err := c.start(exec.Command(filepath.Join(c.bin, "postgres"), args...))
	if err != nil {
		return nil, err
	}
	tick := time.NewTicker(pollInterval)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			// Asking the port could reach somebody else's server, the lock file is our server's own.
			if lock, err := readLock(c.data()); err == nil && lock.pid == p.cmd.Process.Pid && lock.ready {
				return p, nil
			}
		case <-p.done:
			said := p.said()
			switch {
			case strings.Contains(said, "Address already in use"):
				return nil, fmt.Errorf("postgres: listen on %s:%d: %w", host, port, errPortTaken)
			case strings.Contains(said, "pre-existing shared memory block"):
				return nil, fmt.Errorf("postgres: start: %w", errStillUsed)
			}
			return nil, fmt.Errorf("postgres: server ended while starting (%v): %s", p.cmd.ProcessState, said)
		case <-ctx.Done():
			p.signal(syscall.SIGQUIT)
			<-p.done
			return nil, fmt.Errorf("postgres: start: %w: %s", ctx.Err(), p.said())
		}
	}
}

func freePort(host string) (int, error) {
	listener, err := net.Listen("tcp", net.JoinHostPort(host, "0"))
	if err != nil {
		return 0, fmt.Errorf("postgres: find a free port: %w", err)
	}
	defer listener.Close()
	return listener.Addr().(*net.TCPAddr).Port, nil
}

// process is a program of PostgreSQL that we started. err is how it ended, valid once done is closed.
type process struct {
	cmd     *exec.Cmd
	logFile string
	logFrom int64 // where its part of the log begins
	done    chan struct{}
	err     error
}

// start runs a program of PostgreSQL as the server's user, with its output in the server's log.
func (c *cluster) start(cmd *exec.Cmd) (*process, error) {
	logFile := filepath.Join(c.home, "server.log")
	log, err := os.OpenFile(logFile, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return nil, fmt.Errorf("postgres: %w", err)
	}
	defer log.Close()
	logFrom, err := log.Seek(0, io.SeekEnd)
	if err != nil {
		return nil, fmt.Errorf("postgres: %w", err)
	}
	cmd.Stdout, cmd.Stderr = log, log // a file outlives us: what an orphan says is kept too
	cmd.Dir = "/"                     // our own folder may be closed to the server's user
	// Nothing of our environment: it may hold secrets, and PG* variables change what programs do.
	cmd.Env = []string{"LC_ALL=C", "PATH=" + c.bin + ":/usr/bin:/bin"}
	cmd.SysProcAttr = childOf(c.runAs)

	p := &process{cmd: cmd, logFile: logFile, logFrom: logFrom, done: make(chan struct{})}
	started := make(chan error)
	go func() {
		defer close(p.done)
		// The signal at the parent's death is sent when the thread that forked ends.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			p.err = cmd.Wait()
		}
	}()
	if err := <-started; err != nil {
		return nil, fmt.Errorf("postgres: %w", err)
	}
	return p, nil
}

func (p *process) signal(s syscall.Signal) {
	_ = p.cmd.Process.Signal(s) // fails only when the process has ended, which done tells
}

// said returns the end of what the process wrote to the log, for error texts.
func (p *process) said() string {
	const enough = 2 << 10
	text, err := os.ReadFile(p.logFile)
	if err != nil {
		return "its log cannot be read: " + err.Error()
	}
	text = text[min(p.logFrom, int64(len(text))):]
	text = text[max(0, len(text)-enough):]
	return strings.TrimSpace(string(text))
}

// rotateLog begins a new log and keeps one old, so that a crash can be read about after a restart.
func (c *cluster) rotateLog() error {
	log := filepath.Join(c.home, "server.log")
	if err := os.Rename(log, log+".old"); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("postgres: %w", err)
	}
	return nil
}
