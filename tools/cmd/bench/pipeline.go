package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"syscall"

	"github.com/sekisho/sekisho/tools/internal/bare"
	"github.com/sekisho/sekisho/tools/internal/load"
)

// pipelines are the bare pipelines by the names of their roads, as far as these are measured.
type pipelines map[string]*pipeline

// A pipeline runs in a process of its own. As in `sekisho up`, broker and workers share it, and the driver is elsewhere.
type pipeline struct {
	cmd    *exec.Cmd
	driver *bare.Driver
}

// servePipeline is that process: it reads the plan from stdin, prints its URL, and runs until it is told to end.
func servePipeline() error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	var plan bare.Plan
	if err := json.NewDecoder(os.Stdin).Decode(&plan); err != nil {
		return err
	}
	return bare.Serve(ctx, &plan, func(url string) { fmt.Println(url) })
}

func (p pipelines) start(ctx context.Context, road string, plan *bare.Plan) error {
	text, err := json.Marshal(plan)
	if err != nil {
		return err
	}
	cmd, url, err := startSelf("-pipeline", bytes.NewReader(text))
	if err != nil {
		return fmt.Errorf("the bare pipeline of %s: %w", road, err)
	}
	started := &pipeline{cmd: cmd}
	p[road] = started
	started.driver, err = bare.Dial(url, plan)
	return err
}

// startSelf starts this program once more, as the server that the flag says, and gives the URL that it prints.
func startSelf(flag string, in io.Reader) (cmd *exec.Cmd, url string, err error) {
	self, err := os.Executable()
	if err != nil {
		return nil, "", err
	}
	cmd = exec.Command(self, flag)
	cmd.Stdin, cmd.Stderr = in, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // so that Ctrl-C reaches this process alone, which ends the other
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, "", err
	}
	if err := cmd.Start(); err != nil {
		return nil, "", err
	}
	url, err = bufio.NewReader(out).ReadString('\n')
	if err != nil {
		return nil, "", errors.Join(fmt.Errorf("it did not start: %w", err), stopSelf(cmd))
	}
	return cmd, strings.TrimSpace(url), nil
}

// stopSelf ends such a process, and returns its error.
func stopSelf(cmd *exec.Cmd) error {
	_ = cmd.Process.Signal(syscall.SIGTERM) // fails when it has ended, which Wait reports
	return cmd.Wait()
}

func (p pipelines) stop() error {
	var errs []error
	for _, one := range p {
		if one.driver != nil {
			one.driver.Close()
		}
		errs = append(errs, stopSelf(one.cmd))
	}
	return errors.Join(errs...)
}

// measure saturates the pipeline as a road is saturated.
func (p *pipeline) measure(ctx context.Context, o options) (Figures, error) {
	meter, err := startMeter(p.cmd.Process.Pid)
	if err != nil {
		return Figures{}, err
	}
	r, err := load.Saturate(ctx, o.inFlight, lead/2, o.phase, p.driver.Pass)
	if err != nil {
		return Figures{}, fmt.Errorf("bare pipeline: %w", err)
	}
	return meter.figures(r, meter.own())
}
