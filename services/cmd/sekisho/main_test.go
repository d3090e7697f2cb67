package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"go.uber.org/goleak"

	"github.com/sekisho/sekisho/services"
)

// asCommand makes the test binary be the command, so that tests see real processes, their exit codes and their signals.
const asCommand = "SEKISHO_TEST_AS_COMMAND"

func TestMain(m *testing.M) {
	if os.Getenv(asCommand) != "" {
		main()
		os.Exit(0)
	}
	goleak.VerifyTestMain(m)
}

// patience bounds every wait of a test. A right program never needs it.
const patience = time.Minute

// A child is the command in a process of its own.
type child struct {
	t              *testing.T
	cmd            *exec.Cmd
	stdout, stderr lines
	ended          chan struct{}
}

// lines keeps what a process writes, and tells when there is more.
type lines struct {
	mu   sync.Mutex
	text bytes.Buffer
	more chan struct{}
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.more != nil {
		close(l.more)
		l.more = nil
	}
	return l.text.Write(p)
}

// read returns what there is, and a channel that is closed when there is more.
func (l *lines) read() (string, <-chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.more == nil {
		l.more = make(chan struct{})
	}
	return l.text.String(), l.more
}

func start(t *testing.T, env []string, args ...string) *child {
	t.Helper()
	c := &child{t: t, cmd: exec.Command(os.Args[0], args...), ended: make(chan struct{})}
	c.cmd.Env = append([]string{asCommand + "=1", "PATH=" + os.Getenv("PATH"), "HOME=" + os.Getenv("HOME"), "TMPDIR=" + os.TempDir()}, env...)
	c.cmd.Dir = t.TempDir()
	c.cmd.Stdout, c.cmd.Stderr = &c.stdout, &c.stderr
	if err := c.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { c.cmd.Wait(); close(c.ended) }()
	t.Cleanup(func() { c.cmd.Process.Kill(); <-c.ended })
	return c
}

// exit waits for the end and returns the exit code.
func (c *child) exit() int {
	c.t.Helper()
	select {
	case <-c.ended:
		return c.cmd.ProcessState.ExitCode()
	case <-time.After(patience):
		errs, _ := c.stderr.read()
		c.t.Fatalf("does not end:\n%s", errs)
		return 0
	}
}

func (c *child) signal(s os.Signal) {
	c.t.Helper()
	if err := c.cmd.Process.Signal(s); err != nil {
		c.t.Fatal(err)
	}
}

// says waits until the output holds a text, and returns all of it.
func (c *child) says(out *lines, text string) string {
	c.t.Helper()
	deadline := time.After(patience)
	for {
		all, more := out.read()
		if strings.Contains(all, text) {
			return all
		}
		select {
		case <-more:
		case <-c.ended:
			errs, _ := c.stderr.read()
			c.t.Fatalf("ended without saying %q:\n%s", text, errs)
		case <-deadline:
			errs, _ := c.stderr.read()
			c.t.Fatalf("never said %q:\n%s", text, errs)
		}
	}
}

func freePorts(dir string) []string {
	return []string{"SEKISHO_DATA_DIR=" + dir, "SEKISHO_HTTP_ADDR=127.0.0.1:0", "SEKISHO_OPS_ADDR=127.0.0.1:0",
		"SEKISHO_SIM_ADDR=127.0.0.1:0", "SEKISHO_NATS_ADDR=127.0.0.1:0"}
}

type addresses struct{ HTTP, Ops, Sim, NATS, Postgres string }

func startUp(t *testing.T, dir string, more ...string) (*child, addresses) {
	t.Helper()
	c := start(t, append(freePorts(dir), more...), "up")
	c.says(&c.stdout, "Sekisho is up")
	data, err := os.ReadFile(filepath.Join(dir, "addresses.json"))
	if err != nil {
		t.Fatal(err)
	}
	var a addresses
	if err := json.Unmarshal(data, &a); err != nil {
		t.Fatal(err)
	}
	if code := get(t, "http://"+a.Ops+"/readyz"); code != http.StatusOK {
		t.Errorf("readyz says %d after the start", code)
	}
	return c, a
}

func get(t *testing.T, url string) int {
	t.Helper()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: patience}
	resp, err := client.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	io.Copy(io.Discard, resp.Body)
	return resp.StatusCode
}

// demoUsers are the ids and names of the users, as one text.
func demoUsers(t *testing.T, postgresURL string) string {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), postgresURL)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background())
	var users string
	if err := conn.QueryRow(t.Context(), "SELECT string_agg(name || ' ' || id || ' ' || locked, ',' ORDER BY name) FROM directory.users").Scan(&users); err != nil {
		t.Fatal(err)
	}
	return users
}

// databasePID is the process of a data dir's database, 0 when there is none.
func databasePID(t *testing.T, dir string) int {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(dir, "postgres", "data", "postmaster.pid"))
	if errors.Is(err, os.ErrNotExist) {
		return 0
	}
	if err != nil {
		t.Fatal(err)
	}
	first, _, _ := strings.Cut(string(data), "\n")
	pid, err := strconv.Atoi(first)
	if err != nil {
		t.Fatal(err)
	}
	return pid
}

func stopped(t *testing.T, dir string, a addresses) {
	t.Helper()
	if _, err := os.Stat(filepath.Join(dir, "addresses.json")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("addresses.json is left: %v", err)
	}
	if pid := databasePID(t, dir); pid != 0 {
		t.Errorf("the database left its pid file with %d", pid)
	}
	for _, addr := range []string{a.HTTP, a.Ops, a.Sim, a.NATS, regexp.MustCompile(`127\.0\.0\.1:\d+`).FindString(a.Postgres)} {
		if conn, err := net.Dial("tcp", addr); err == nil {
			conn.Close()
			t.Errorf("something still listens on %s", addr)
		}
	}
}

func TestTwoSideBySideAndAgainAfterTheEnd(t *testing.T) {
	one, two := filepath.Join(t.TempDir(), "one"), filepath.Join(t.TempDir(), "two")
	first, a := startUp(t, one)
	second, b := startUp(t, two)
	if a.HTTP == b.HTTP || a.NATS == b.NATS || a.Postgres == b.Postgres {
		t.Errorf("they share an address: %+v %+v", a, b)
	}
	users := demoUsers(t, a.Postgres)
	if !regexp.MustCompile(`^alice \w+ false,bob \w+ false,carol \w+ false,dave \w+ true$`).MatchString(users) {
		t.Errorf("demo accounts %q", users)
	}
	summary, _ := first.stdout.read()
	for _, want := range []string{"http://" + a.HTTP, "http://" + a.Ops, "http://" + a.Sim, a.NATS, "alice", "bob", "dave", "curl", "oathtool --totp -b " + strings.TrimSpace(readAll(t, one, []string{"demo-token"})), filepath.Join(one, "admin-token")} {
		if !strings.Contains(summary, want) {
			t.Errorf("the summary lacks %q:\n%s", want, summary)
		}
	}

	third := start(t, freePorts(one), "up")
	if code := third.exit(); code != 1 {
		t.Errorf("a second one on the same data dir ended with %d", code)
	}
	if errs, _ := third.stderr.read(); !strings.Contains(errs, "process "+strconv.Itoa(first.cmd.Process.Pid)) || !strings.Contains(errs, "SEKISHO_DATA_DIR") {
		t.Errorf("it says %q", errs)
	}

	first.signal(syscall.SIGTERM)
	second.signal(os.Interrupt)
	if code := first.exit(); code != 0 {
		t.Errorf("SIGTERM: exit code %d", code)
	}
	if code := second.exit(); code != 0 {
		t.Errorf("Ctrl-C: exit code %d", code)
	}
	stopped(t, one, a)
	stopped(t, two, b)

	secrets := []string{"admin-token", "demo-password", "demo-token", "credentials/web.nk", "credentials/postgres.json", "credentials/keys/code.key", "credentials/keys/token.key"}
	before := readAll(t, one, secrets)
	again, a := startUp(t, one)
	if after := readAll(t, one, secrets); after != before {
		t.Error("a second start made new secrets")
	}
	if got := demoUsers(t, a.Postgres); got != users {
		t.Errorf("a second start has the users %q, want %q", got, users)
	}
	again.signal(syscall.SIGTERM)
	if code := again.exit(); code != 0 {
		t.Errorf("exit code %d", code)
	}
}

func readAll(t *testing.T, dir string, names []string) (all string) {
	t.Helper()
	for _, name := range names {
		data, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		all += string(data)
	}
	return all
}

func TestStartAfterAKill(t *testing.T) {
	dir := t.TempDir()
	c, a := startUp(t, dir)
	users := demoUsers(t, a.Postgres)
	c.signal(os.Kill)
	c.exit()
	c, a = startUp(t, dir)
	if got := demoUsers(t, a.Postgres); got != users {
		t.Errorf("users %q, want %q", got, users)
	}
	c.signal(syscall.SIGTERM)
	if code := c.exit(); code != 0 {
		t.Errorf("exit code %d", code)
	}
	stopped(t, dir, a)
}

func TestStopWhileStarting(t *testing.T) {
	dir := t.TempDir()
	// The broker is not there, so it waits.
	c := start(t, append(freePorts(dir), "SEKISHO_NATS_URL=nats://127.0.0.1:1"), "up")
	c.says(&c.stderr, "waiting for the broker")
	c.signal(os.Interrupt)
	if code := c.exit(); code != 0 {
		errs, _ := c.stderr.read()
		t.Errorf("exit code %d:\n%s", code, errs)
	}
	if pid := databasePID(t, dir); pid != 0 {
		t.Errorf("the database runs on with pid %d", pid)
	}
}

func TestPortThatIsTakenNamesItsVariable(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for _, variable := range []string{"SEKISHO_HTTP_ADDR", "SEKISHO_OPS_ADDR", "SEKISHO_SIM_ADDR", "SEKISHO_NATS_ADDR"} {
		t.Run(variable, func(t *testing.T) {
			c := start(t, append(freePorts(t.TempDir()), variable+"="+l.Addr().String()), "up")
			code := c.exit()
			if errs, _ := c.stderr.read(); code != 1 || !strings.Contains(errs, variable) {
				t.Errorf("exit code %d:\n%s", code, errs)
			}
		})
	}
}

// Everything of one `up` also works from outside: setup may be repeated on it, and each worker runs beside it.
func TestSetupAndRunOnGivenURLs(t *testing.T) {
	dir := t.TempDir()
	_, a := startUp(t, dir)
	env := []string{"SEKISHO_DATA_DIR=" + dir, "SEKISHO_NATS_URL=nats://" + a.NATS, "SEKISHO_POSTGRES_URL=" + a.Postgres, "SEKISHO_HTTP_ADDR=127.0.0.1:0"}
	c := start(t, env, "setup")
	if code := c.exit(); code != 0 {
		errs, _ := c.stderr.read()
		t.Fatalf("setup: exit code %d:\n%s", code, errs)
	}
	keys := filepath.Join(dir, "credentials", "keys.json")
	if err := os.Remove(keys); err != nil {
		t.Fatal(err)
	}
	rotation := start(t, env, "rotate")
	rotation.says(&rotation.stderr, "sealing keys are watched")
	for tick := time.NewTicker(10 * time.Millisecond); ; <-tick.C { // until it has seen to the keys
		if _, err := os.Stat(keys); err == nil {
			break
		}
	}
	rotation.signal(syscall.SIGHUP) // is for workers
	rotation.signal(syscall.SIGTERM)
	if code := rotation.exit(); code != 0 {
		errs, _ := rotation.stderr.read()
		t.Errorf("rotate: exit code %d:\n%s", code, errs)
	}
	for _, s := range services.All {
		t.Run(s.Name, func(t *testing.T) {
			c := start(t, env, "run", s.Name)
			log := c.says(&c.stderr, `"message":"ready"`)
			addr := regexp.MustCompile(`"addr":"([^"]+)","[^}]*operations`).FindStringSubmatch(log)
			if addr == nil {
				t.Fatalf("no operations address in the log:\n%s", log)
			}
			if code := get(t, "http://"+addr[1]+"/readyz"); code != http.StatusOK {
				t.Errorf("readyz says %d", code)
			}
			c.signal(syscall.SIGTERM)
			if code := c.exit(); code != 0 {
				errs, _ := c.stderr.read()
				t.Errorf("exit code %d:\n%s", code, errs)
			}
		})
	}
}

func TestCommandLine(t *testing.T) {
	conf := filepath.Join(t.TempDir(), "sekisho.yaml")
	if err := os.WriteFile(conf, []byte("login:\n  dedline: 5m\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name string
		env  []string
		args []string
		code int
		want []string
	}{
		{"nothing", nil, nil, 2, []string{"sekisho up", services.All[0].Name}},
		{"unknown command", nil, []string{"dance"}, 2, []string{"dance", "sekisho up"}},
		{"arguments of up", nil, []string{"up", "now"}, 2, []string{"takes no arguments"}},
		{"run without a worker", nil, []string{"run"}, 2, []string{"which workers"}},
		{"unknown worker", nil, []string{"run", services.All[0].Name, "dancer"}, 2, []string{"dancer", services.All[0].Name}},
		{"worker twice", nil, []string{"run", services.All[0].Name, services.All[0].Name}, 2, []string{"twice"}},
		{"run without URLs", nil, []string{"run", services.All[0].Name}, 1, []string{"SEKISHO_NATS_URL", "SEKISHO_POSTGRES_URL"}},
		{"setup without URLs", nil, []string{"setup"}, 1, []string{"SEKISHO_NATS_URL", "SEKISHO_POSTGRES_URL"}},
		{"run on a malformed bus", []string{"SEKISHO_NATS_URL=nats://a:4222,nats://sys:Pa%zzS3cret@b:4222", "SEKISHO_POSTGRES_URL=postgres://127.0.0.1:1"}, []string{"run", services.All[0].Name}, 1,
			[]string{"sekisho: SEKISHO_NATS_URL is malformed\n"}},
		{"run on a malformed database", []string{"SEKISHO_NATS_URL=nats://127.0.0.1:1", "SEKISHO_POSTGRES_URL=postgres://a:Pa%zzS3cret@b/c"}, []string{"run", services.All[0].Name}, 1,
			[]string{"sekisho: SEKISHO_POSTGRES_URL is malformed"}},
		{"setup of a malformed database", []string{"SEKISHO_NATS_URL=nats://127.0.0.1:1", "SEKISHO_POSTGRES_URL=postgres://a:S3cret@b:c/d"}, []string{"setup"}, 1,
			[]string{"sekisho: SEKISHO_POSTGRES_URL is malformed"}},
		{"up on a malformed database", []string{"SEKISHO_POSTGRES_URL=postgres://a:Pa%zzS3cret@b/c"}, []string{"up"}, 1, []string{"sekisho: SEKISHO_POSTGRES_URL is malformed"}},
		{"up on a malformed bus", []string{"SEKISHO_NATS_URL=nats://sys:Pa%zzS3cret@b:4222"}, []string{"up"}, 1, []string{"sekisho: SEKISHO_NATS_URL is malformed\n"}},
		{"rotate on a malformed bus", []string{"SEKISHO_NATS_URL=nats://sys:Pa%zzS3cret@b:4222"}, []string{"rotate"}, 1, []string{"sekisho: SEKISHO_NATS_URL is malformed\n"}},
		{"bad configuration", []string{"SEKISHO_CONFIG=" + conf}, []string{"up"}, 1, []string{conf + ":2", "dedline"}},
		{"configuration that is not there", []string{"SEKISHO_CONFIG=" + conf + ".not"}, []string{"up"}, 1, []string{conf + ".not"}},
		{"help", nil, []string{"help"}, 0, []string{"sekisho run"}},
		{"help on a command", nil, []string{"up", "-help"}, 0, []string{"sekisho run"}},
		{"version", nil, []string{"version"}, 0, []string{"go1."}},
	} {
		t.Run(c.name, func(t *testing.T) {
			child := start(t, append(freePorts(t.TempDir()), c.env...), c.args...)
			code := child.exit()
			out, _ := child.stdout.read()
			errs, _ := child.stderr.read()
			if code != c.code {
				t.Errorf("exit code %d, want %d", code, c.code)
			}
			for _, want := range c.want {
				if !strings.Contains(out+errs, want) {
					t.Errorf("says %q, want %q", out+errs, want)
				}
			}
			if strings.Contains(out+errs, "S3cret") {
				t.Errorf("tells a password: %q", out+errs)
			}
		})
	}
}
