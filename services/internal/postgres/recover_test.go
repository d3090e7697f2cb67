package postgres

import (
	"bufio"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/rs/zerolog"
)

func TestPostmasterKilled(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(folder(t), "postgres")
	s := start(t, Config{Dir: dir})
	remember(t, s)
	// A backend that hangs keeps the shared memory of its postmaster, and the next one out.
	backend := int(connect(t, s.URL()).PgConn().PID())
	if err := syscall.Kill(backend, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	kill(t, serverPID(t, dir))
	<-s.Done()
	if err := s.Stop(t.Context()); err == nil || !strings.Contains(err.Error(), "killed") {
		t.Errorf("Stop after the end: %v", err)
	}
	refused := make(chan struct{})
	var once sync.Once
	log := zerolog.New(writer(func(line []byte) {
		if strings.Contains(string(line), errStillUsed.Error()) {
			once.Do(func() { close(refused) })
		}
	}))
	var freed sync.WaitGroup
	freed.Go(func() {
		select {
		case <-refused:
		case <-t.Context().Done():
		}
		_ = syscall.Kill(backend, syscall.SIGCONT)
	})
	next, err := Start(deadline(t), Config{Dir: dir, Log: log})
	if err != nil {
		t.Fatal(err)
	}
	checkRemembered(t, next)
	freed.Wait()
	stop(t, next)
}

type writer func([]byte)

func (w writer) Write(line []byte) (int, error) {
	w(line)
	return len(line), nil
}

// The parent dies by kill -9: its server ends too, and nothing keeps the next start.
func TestParentKilled(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(folder(t), "postgres")
	child := startInChild(t, dir)
	orphan := serverPID(t, dir)
	kill(t, child.Process.Pid)
	s := start(t, Config{Dir: dir, Fast: true})
	if now := serverPID(t, dir); now == orphan {
		t.Errorf("process %d is still the server", now)
	}
	connect(t, s.URL())
}

// On Linux the kernel tells the server that its parent was killed, without any next start.
func TestServerEndsWithKilledParent(t *testing.T) {
	t.Parallel()
	if _, err := os.Stat("/proc/self/cmdline"); err != nil {
		return // not Linux: TestParentKilled shows what is promised elsewhere
	}
	dir := filepath.Join(folder(t), "postgres")
	child := startInChild(t, dir)
	kill(t, child.Process.Pid)
	c := &cluster{home: realPath(t, dir)}
	if err := c.awaitEnd(deadline(t)); err != nil {
		t.Error("the server lives on: ", err)
	}
}

// The parent dies by kill -9 while it makes its first cluster: initdb dies with it, whatever it is at, and the next start begins anew.
func TestKilledWhileMakingTheCluster(t *testing.T) {
	t.Parallel()
	if _, err := os.Stat("/proc/self/cmdline"); err != nil {
		return // not Linux
	}
	dir, bin := filepath.Join(folder(t), "postgres"), folder(t)
	busy := filepath.Join(bin, "busy")
	// One that hears no other signal, as if it were busy for ever.
	script := "#!/bin/sh\nmkdir ${1#--pgdata=}/base\ntrap '' HUP INT TERM\nexec cat " + busy + "\n"
	if err := errors.Join(
		os.WriteFile(filepath.Join(bin, "initdb"), []byte(script), 0o755),
		os.Symlink(filepath.Join(binaries(t), "postgres"), filepath.Join(bin, "postgres")),
		syscall.Mkfifo(busy, 0o644), // nobody ever writes there
	); err != nil {
		t.Fatal(err)
	}
	child := command(t, nil, os.Args[0])
	child.Env = append(os.Environ(), childDir+"="+dir, "PATH="+bin)
	begin(t, child)
	var initdb int
	isBusy := func() bool { initdb = processOf("cat\x00" + busy); return initdb != 0 }
	if err := poll(deadline(t), isBusy); err != nil {
		t.Fatal("no initdb: ", err)
	}
	t.Cleanup(func() {
		if isBusy() {
			_ = syscall.Kill(initdb, syscall.SIGKILL)
		}
	})
	kill(t, child.Process.Pid)
	s := start(t, Config{Dir: dir, Fast: true})
	if err := poll(deadline(t), func() bool { return !isBusy() }); err != nil {
		t.Error("initdb lives on: ", err)
	}
	connect(t, s.URL())
	if left, err := filepath.Glob(filepath.Join(dir, unfinished+"*")); len(left) > 0 || err != nil {
		t.Errorf("left: %q, %v", left, err)
	}
}

// processOf is the number of the process with a command line, or 0.
func processOf(line string) int {
	paths, _ := filepath.Glob("/proc/[0-9]*/cmdline") // fails for a bad pattern only
	for _, path := range paths {
		if said, err := os.ReadFile(path); err == nil && strings.HasPrefix(string(said), line) {
			pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(path)))
			return pid
		}
	}
	return 0
}

// A server that nobody told of its parent's death, such as one whose parent crashed on macOS.
func TestOrphanIsStopped(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(folder(t), "postgres")
	s := start(t, Config{Dir: dir, Fast: true})
	remember(t, s)
	stop(t, s)

	home := realPath(t, dir)
	port, err := freePort("127.0.0.1")
	if err != nil {
		t.Fatal(err)
	}
	c := &cluster{home: home, fast: true}
	args := []string{"-D", c.data()}
	for _, setting := range c.settings("127.0.0.1", port) {
		args = append(args, "-c", setting)
	}
	orphan := command(t, runner(t, dir), filepath.Join(binaries(t), "postgres"), args...)
	var log strings.Builder
	orphan.Stderr = &log
	begin(t, orphan)
	err = poll(deadline(t), func() bool {
		lock, err := readLock(c.data())
		return err == nil && lock.pid == orphan.Process.Pid && lock.ready
	})
	if err != nil {
		t.Fatal(err)
	}

	checkRemembered(t, start(t, Config{Dir: dir, Fast: true}))
	if err := orphan.Wait(); err != nil { // a zombie until now, as under an init that waits for nobody
		t.Error(err)
	}
	if !strings.Contains(log.String(), "received fast shutdown request") {
		t.Errorf("the orphan was not asked to shut down cleanly: %s", &log)
	}
}

// The lock file of a crashed server names a number that now belongs to somebody else.
func TestNumberOfAnotherProcess(t *testing.T) {
	t.Parallel()
	dir := folder(t)
	other := start(t, Config{Dir: filepath.Join(dir, "other"), Fast: true})
	own := filepath.Join(dir, "own")
	stop(t, start(t, Config{Dir: own, Fast: true}))

	bystander := command(t, runner(t, own), "cat")
	in, err := bystander.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	begin(t, bystander)

	lock := lockPath(filepath.Join(realPath(t, own), "data"))
	for name, content := range map[string]string{
		"a program":         strconv.Itoa(bystander.Process.Pid) + "\n",
		"another server":    strconv.Itoa(serverPID(t, filepath.Join(dir, "other"))) + "\n",
		"writing cut off":   "",
		"nobody's any more": "4194305\n", // above the highest number that Linux gives
	} {
		t.Run(name, func(t *testing.T) {
			if err := os.WriteFile(lock, []byte(content), 0o644); err != nil {
				t.Fatal(err)
			}
			stop(t, start(t, Config{Dir: own, Fast: true}))
		})
	}

	connect(t, other.URL())
	in.Close()
	if err := bystander.Wait(); err != nil {
		t.Errorf("a process that is no server was disturbed: %v", err)
	}
}

// startInChild starts a server of dir in another process.
func startInChild(t *testing.T, dir string) *exec.Cmd {
	t.Helper()
	child := command(t, nil, os.Args[0])
	child.Env = append(os.Environ(), childDir+"="+dir)
	stdin, err := child.StdinPipe() // it lives until we do not
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { stdin.Close() })
	stdout, err := child.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	begin(t, child)
	if line, err := bufio.NewReader(stdout).ReadString('\n'); err != nil || line != "started: <nil>\n" {
		t.Fatalf("child: %q, %v", line, err)
	}
	return child
}

func command(t *testing.T, runAs *syscall.Credential, name string, args ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command(name, args...)
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: runAs}
	return cmd
}

// begin starts a process that does not outlive the test.
func begin(t *testing.T, cmd *exec.Cmd) {
	t.Helper()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait() // both fail if the test has waited for it
	})
}

func kill(t *testing.T, pid int) {
	t.Helper()
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
}

func serverPID(t *testing.T, dir string) int {
	t.Helper()
	lock, err := readLock(filepath.Join(dir, "data"))
	if err != nil {
		t.Fatal(err)
	}
	return lock.pid
}

func runner(t *testing.T, dir string) *syscall.Credential {
	t.Helper()
	runAs, err := serverUser(dir)
	if err != nil {
		t.Fatal(err)
	}
	return runAs
}

func realPath(t *testing.T, dir string) string {
	t.Helper()
	path, err := filepath.EvalSymlinks(dir)
	if err != nil {
		t.Fatal(err)
	}
	return path
}

func binaries(t *testing.T) string {
	t.Helper()
	bins, err := find(os.Getenv("PATH"), installFolders)
	if err != nil {
		t.Fatal(err)
	}
	return bins[0]
}
