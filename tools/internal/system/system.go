// Package system starts a whole Sekisho as a process of its own. It knows that one from outside only: by its addresses, its credentials
// folder, and what the operating system and the ops address tell.
package system

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/nats-io/nats.go"
)

const (
	startWait = time.Minute      // for `sekisho up` to be ready, initdb included
	stopWait  = 40 * time.Second // for it to drain, and for the database's checkpoint
)

// A System is one `sekisho up`.
type System struct {
	HTTP, Ops, Sim string // base URLs
	NATS           string // URL
	Postgres       string // URL
	Dir            string // its data dir

	binary     string
	adminToken string
	http       *http.Client
	cmd        *exec.Cmd
	log        *os.File
	ended      chan error // gets the process's error when it ends
}

// Start starts `binary up` with the given settings and policy (YAML) in a new data dir, and returns when it is ready. Its log is in
// <data dir>/log. [System.Stop] ends it and removes the data dir.
func Start(ctx context.Context, binary, settings, policy string) (_ *System, err error) {
	dir, err := os.MkdirTemp("", "sekisho-")
	if err != nil {
		return nil, err
	}
	s := &System{Dir: dir, binary: binary, ended: make(chan error, 1), http: &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 64}}}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.Stop())
		}
	}()
	// If this process is root's, the database runs as another user, who must be able to reach its own folder.
	if err := os.Chmod(dir, 0o755); err != nil {
		return nil, err
	}
	policyFile := filepath.Join(dir, "policy.yaml")
	if err := os.WriteFile(policyFile, []byte(policy), 0o600); err != nil {
		return nil, err
	}
	if err := os.WriteFile(s.config(), []byte(settings+"policy: "+policyFile+"\n"), 0o600); err != nil {
		return nil, err
	}
	if s.log, err = os.Create(filepath.Join(dir, "log")); err != nil {
		return nil, err
	}
	s.cmd = s.command("up", "SEKISHO_HTTP_ADDR=127.0.0.1:0", "SEKISHO_OPS_ADDR=127.0.0.1:0", "SEKISHO_SIM_ADDR=127.0.0.1:0", "SEKISHO_NATS_ADDR=127.0.0.1:0")
	out, err := s.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := s.cmd.Start(); err != nil {
		s.cmd = nil
		return nil, fmt.Errorf("start %s: %w", binary, err)
	}
	ready := make(chan struct{})
	go func() {
		said := bufio.NewReader(out)
		if _, err := said.ReadString('\n'); err == nil { // the summary, which comes when all is ready
			close(ready)
		}
		_, _ = io.Copy(io.Discard, said) // its end is the process's, which Wait reports
		s.ended <- s.cmd.Wait()
	}()
	select {
	case <-ready:
	case err := <-s.ended:
		s.ended <- err
		return nil, fmt.Errorf("sekisho up ended: %w\n%s", err, s.tail())
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-time.After(startWait):
		return nil, fmt.Errorf("sekisho up is not ready after %s\n%s", startWait, s.tail())
	}
	return s, s.readAddresses()
}

func (s *System) config() string { return filepath.Join(s.Dir, "sekisho.yaml") }

// command is the binary with this system's settings.
func (s *System) command(arg string, env ...string) *exec.Cmd {
	cmd := exec.Command(s.binary, strings.Fields(arg)...)
	cmd.Env = append(os.Environ(), "SEKISHO_DATA_DIR="+s.Dir, "SEKISHO_CONFIG="+s.config(), "SEKISHO_CREDENTIALS_DIR=", "SEKISHO_ADMIN_TOKEN=",
		"SEKISHO_NATS_URL=", "SEKISHO_POSTGRES_URL=")
	cmd.Env = append(cmd.Env, env...)
	cmd.Stderr = s.log
	// Not in the terminal's process group: Ctrl-C is for the caller, who then stops it.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	return cmd
}

func (s *System) readAddresses() error {
	data, err := os.ReadFile(filepath.Join(s.Dir, "addresses.json"))
	if err != nil {
		return err
	}
	var at struct{ HTTP, Ops, Sim, NATS, Postgres string }
	if err := json.Unmarshal(data, &at); err != nil {
		return fmt.Errorf("addresses.json: %w", err)
	}
	s.HTTP, s.Ops, s.Sim, s.NATS, s.Postgres = "http://"+at.HTTP, "http://"+at.Ops, "http://"+at.Sim, "nats://"+at.NATS, at.Postgres
	token, err := os.ReadFile(filepath.Join(s.Dir, "admin-token"))
	s.adminToken = strings.TrimSpace(string(token))
	return err
}

// tail is the end of the log.
func (s *System) tail() string {
	data, err := os.ReadFile(s.log.Name())
	if err != nil {
		return err.Error()
	}
	return string(data[max(0, len(data)-4000):])
}

// Stop ends the system and removes its data.
func (s *System) Stop() error {
	var failed error
	if s.cmd != nil {
		failed = stop(s.cmd, s.ended)
	}
	if s.log != nil {
		s.log.Close()
	}
	return errors.Join(failed, os.RemoveAll(s.Dir))
}

// stop asks a process to end, and makes it if it does not.
func stop(cmd *exec.Cmd, ended <-chan error) error {
	_ = cmd.Process.Signal(syscall.SIGTERM) // fails when it has ended
	select {
	case err := <-ended:
		return err
	case <-time.After(stopWait):
		_ = cmd.Process.Kill()
		<-ended
		return fmt.Errorf("process %d did not end within %s", cmd.Process.Pid, stopWait)
	}
}

// PID is the process in which everything but the database runs.
func (s *System) PID() int { return s.cmd.Process.Pid }

// Seed is the file with the nkey seed of a NATS user.
func (s *System) Seed(user string) string {
	return filepath.Join(s.Dir, "credentials", user+".nk")
}

// Dial connects a NATS user: viewer, operator.
func (s *System) Dial(user string) (*nats.Conn, error) {
	key, err := nats.NkeyOptionFromSeed(s.Seed(user))
	if err != nil {
		return nil, err
	}
	return nats.Connect(s.NATS, key, nats.Name("sekisho tools"), nats.CustomInboxPrefix("_INBOX_"+user))
}

// SetFault switches a fault of a simulated provider on: see the simulators' API.
func (s *System) SetFault(ctx context.Context, provider string, fault map[string]any) error {
	body, err := json.Marshal(fault)
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPut, s.Sim+"/sim/faults/"+provider, bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	_, err = s.do(req, http.StatusNoContent)
	return err
}

// GetOps reads a path of the ops address.
func (s *System) GetOps(ctx context.Context, path string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.Ops+path, nil)
	if err != nil {
		return nil, err
	}
	return s.do(req, http.StatusOK)
}

func (s *System) do(req *http.Request, want int) ([]byte, error) {
	res, err := s.http.Do(req)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		return nil, err
	}
	if res.StatusCode != want {
		return nil, fmt.Errorf("%s %s: %s: %.200s", req.Method, req.URL.Path, res.Status, body)
	}
	return body, nil
}
