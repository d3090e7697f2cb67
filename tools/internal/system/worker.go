package system

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"strings"
	"syscall"
	"time"
)

// A Worker is one worker of the system in a process of its own, beside the instance that `sekisho up` has.
type Worker struct {
	Name  string
	cmd   *exec.Cmd
	ended chan error
}

// Run starts a worker and returns when it is ready.
func (s *System) Run(ctx context.Context, name string) (*Worker, error) {
	w := &Worker{Name: name, ended: make(chan error, 1)}
	w.cmd = s.command("run "+name, "SEKISHO_NATS_URL="+s.NATS, "SEKISHO_POSTGRES_URL="+s.Postgres, "SEKISHO_OPS_ADDR=127.0.0.1:0")
	log, say := io.Pipe()
	w.cmd.Stderr = io.MultiWriter(say, s.log)
	if err := w.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	ready := make(chan struct{})
	go func() {
		lines := bufio.NewReader(log)
		for said := false; ; {
			line, err := lines.ReadString('\n')
			if err != nil {
				return
			}
			if !said && strings.Contains(line, `"message":"ready"`) {
				said = true
				close(ready)
			}
		}
	}()
	go func() {
		err := w.cmd.Wait()
		say.Close()
		w.ended <- err
	}()
	select {
	case <-ready:
		return w, nil
	case err := <-w.ended:
		return nil, fmt.Errorf("worker %s ended at once: %w\n%s", name, err, s.tail())
	case <-time.After(startWait):
		return nil, errors.Join(fmt.Errorf("worker %s is not ready after %s", name, startWait), w.Kill())
	case <-ctx.Done():
		return nil, errors.Join(ctx.Err(), w.Kill())
	}
}

// Stop lets the worker drain.
func (w *Worker) Stop() error {
	if err := stop(w.cmd, w.ended); err != nil {
		return fmt.Errorf("worker %s: %w", w.Name, err)
	}
	return nil
}

// Kill ends the worker in the middle of whatever it does.
func (w *Worker) Kill() error {
	if err := w.cmd.Process.Signal(syscall.SIGKILL); err != nil {
		return fmt.Errorf("worker %s: %w", w.Name, err)
	}
	<-w.ended // says that it was killed
	return nil
}
