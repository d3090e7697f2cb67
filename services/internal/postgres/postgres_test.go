package postgres

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/rs/zerolog"
	"go.uber.org/goleak"
)

// childDir makes the test binary a process that runs a server in that folder until it is killed.
const childDir = "SEKISHO_TEST_CHILD_DIR"

func TestMain(m *testing.M) {
	if dir := os.Getenv(childDir); dir != "" {
		runChild(dir)
	}
	goleak.VerifyTestMain(m)
}

func runChild(dir string) {
	_, err := Start(context.Background(), Config{Dir: dir, Fast: true})
	fmt.Println("started:", err)
	_, _ = io.Copy(io.Discard, os.Stdin) // the parent kills us, or is gone
	os.Exit(0)
}

func TestFreshServer(t *testing.T) {
	t.Parallel()
	ctx := deadline(t)
	dir := filepath.Join(folder(t), "postgres")
	s := start(t, Config{Dir: dir})

	conn := connect(t, s.URL())
	for setting, want := range map[string]string{
		"fsync": "on", "synchronous_commit": "on", "full_page_writes": "on", "data_checksums": "on",
		"jit": "off", "server_encoding": "UTF8", "lc_collate": "C",
		"listen_addresses": "127.0.0.1", "password_encryption": "scram-sha-256",
	} {
		var got string
		if err := conn.QueryRow(ctx, "SELECT current_setting($1)", setting).Scan(&got); err != nil || got != want {
			t.Errorf("%s = %q (%v), want %q", setting, got, err, want)
		}
	}
	var name string
	if err := conn.QueryRow(ctx, "SELECT current_database()").Scan(&name); err != nil || name != "sekisho" {
		t.Errorf("database %q (%v)", name, err)
	}

	config := conn.Config().Copy()
	config.Password = "guess"
	if _, err := pgx.ConnectConfig(ctx, config); err == nil {
		t.Error("connected with a wrong password")
	}
	info, err := os.Stat(dir + ".password")
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("password file: %v, %v", info, err)
	}
}

// By the socket, a server is there for its own user and for root, with the password.
func TestSocket(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(folder(t), "postgres")
	s := start(t, Config{Dir: dir, Fast: true})
	conn := connect(t, s.LocalURL())
	var byTCP bool
	var name string
	if err := conn.QueryRow(t.Context(), "SELECT inet_client_addr() IS NOT NULL, current_database()").Scan(&byTCP, &name); err != nil || byTCP || name != "sekisho" {
		t.Errorf("database %q, by TCP %v, %v", name, byTCP, err)
	}
	config := conn.Config().Copy()
	config.Password = "guess"
	if _, err := pgx.ConnectConfig(t.Context(), config); err == nil {
		t.Error("connected with a wrong password")
	}
	if info, err := os.Stat(filepath.Join(dir, "data")); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("the folder of the socket: %v, %v", info, err)
	}
	stop(t, s)

	killed := filepath.Join(dir, "data", ".s.PGSQL.1")
	if err := os.WriteFile(killed, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	start(t, Config{Dir: dir, Fast: true})
	if _, err := os.Lstat(killed); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a killed server's socket is still there: %v", err)
	}
}

func TestFolderTooDeepForASocket(t *testing.T) {
	t.Parallel()
	s := start(t, Config{Dir: filepath.Join(folder(t), strings.Repeat("deep", 25), "postgres"), Fast: true})
	if s.LocalURL() != s.URL() {
		t.Errorf("%s beside %s", s.LocalURL(), s.URL())
	}
	connect(t, s.LocalURL())
}

func TestLogHoldsNoValues(t *testing.T) {
	t.Parallel()
	ctx := deadline(t)
	dir := filepath.Join(folder(t), "postgres")
	conn := connect(t, start(t, Config{Dir: dir, Fast: true}).URL())
	run(t, conn, "CREATE TABLE people (name text PRIMARY KEY, age int)")
	run(t, conn, "INSERT INTO people VALUES ('canary', 1)")
	for _, statement := range []string{
		"INSERT INTO people VALUES ('canary', 2)",
		"SELECT 'canary'::int",
		"SELECT canary FROM people",
	} {
		if _, err := conn.Exec(ctx, statement); err == nil {
			t.Fatal("no error from", statement)
		}
	}
	log, err := os.ReadFile(filepath.Join(dir, "server.log"))
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(log), "ready to accept connections") {
		t.Errorf("the log says nothing of the start: %s", log)
	}
	if strings.Contains(string(log), "canary") {
		t.Errorf("the log holds a value: %s", log)
	}
}

func TestRestartContinues(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(folder(t), "postgres")
	s := start(t, Config{Dir: dir, Fast: true})
	remember(t, s)
	stop(t, s)
	stop(t, s) // harmless
	select {
	case <-s.Done():
	default:
		t.Error("Done is not closed after Stop")
	}
	checkRemembered(t, start(t, Config{Dir: dir, Fast: true}))
}

func TestStopOutOfTime(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(folder(t), "postgres")
	s := start(t, Config{Dir: dir})
	remember(t, s)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.Stop(ctx); err != nil && !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	checkRemembered(t, start(t, Config{Dir: dir}))
}

func TestTwoSideBySide(t *testing.T) {
	t.Parallel()
	dir := folder(t)
	one := start(t, Config{Dir: filepath.Join(dir, "one"), Fast: true})
	two := start(t, Config{Dir: filepath.Join(dir, "two"), Fast: true})
	remember(t, one)
	remember(t, two) // would fail if the table existed
}

func TestFolderInUse(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(folder(t), "postgres")
	s := start(t, Config{Dir: dir, Fast: true})
	remember(t, s)
	_, err := Start(deadline(t), Config{Dir: dir, Fast: true})
	if err == nil || !strings.Contains(err.Error(), "in use by another process") {
		t.Fatal(err)
	}
	checkRemembered(t, s)
}

func TestUnfinishedCluster(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(folder(t), "postgres")
	left := filepath.Join(dir, "data.new", "base")
	if err := os.MkdirAll(left, 0o711); err != nil {
		t.Fatal(err)
	}
	start(t, Config{Dir: dir, Fast: true})
	if _, err := os.Stat(left); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%s: %v", left, err)
	}
}

// What an attempt that was killed has left to itself may still be writing: that keeps no start, and a later one removes it.
func TestUnfinishedClusterThatIsStillWritten(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(folder(t), "postgres")
	left := []string{filepath.Join(dir, unfinished), filepath.Join(dir, unfinished+".1")}
	ctx, cancel := context.WithCancel(t.Context())
	var writing sync.WaitGroup
	written := make(chan struct{}, len(left))
	for _, folder := range left {
		writing.Go(func() {
			for n := 0; ctx.Err() == nil; n++ {
				_ = os.MkdirAll(filepath.Join(folder, "base", strconv.Itoa(n%100)), 0o711) // it is removed at any moment
				if n == 100 {
					written <- struct{}{}
				}
			}
		})
	}
	for range left {
		<-written
	}
	s, err := Start(deadline(t), Config{Dir: dir, Fast: true})
	cancel()
	writing.Wait()
	if err != nil {
		t.Fatal(err)
	}
	stop(t, s)
	start(t, Config{Dir: dir, Fast: true})
	if left, err := filepath.Glob(filepath.Join(dir, "*.new*")); len(left) > 0 || err != nil {
		t.Errorf("left: %q, %v", left, err)
	}
}

func TestPasswordFileLost(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(folder(t), "postgres")
	file := filepath.Join(folder(t), "secret")
	s := start(t, Config{Dir: dir, PasswordFile: file, Fast: true})
	stop(t, s)
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	_, err := Start(deadline(t), Config{Dir: dir, PasswordFile: file, Fast: true})
	if err == nil || !strings.Contains(err.Error(), file+" is missing") {
		t.Error(err)
	}
}

func TestAddr(t *testing.T) {
	for _, addr := range []string{"0.0.0.0:5432", "192.0.2.1:5432", "db.example:5432", "127.0.0.1", "127.0.0.1:99999", ":0"} {
		if host, port, err := parseAddr(addr); err == nil {
			t.Errorf("%s is accepted as %s, %d", addr, host, port)
		}
	}
	for _, addr := range []string{"", "127.0.0.1:0", "localhost:5432", "[::1]:5432"} {
		if _, _, err := parseAddr(addr); err != nil {
			t.Errorf("%q: %v", addr, err)
		}
	}
}

func TestPortTaken(t *testing.T) {
	t.Parallel()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	dir := filepath.Join(folder(t), "postgres")
	_, err = Start(deadline(t), Config{Dir: dir, Addr: listener.Addr().String(), Fast: true})
	if !errors.Is(err, errPortTaken) || !strings.Contains(err.Error(), listener.Addr().String()) {
		t.Error(err)
	}
	listener.Close()
	s := start(t, Config{Dir: dir, Addr: listener.Addr().String(), Fast: true})
	if !strings.Contains(s.URL(), listener.Addr().String()) {
		t.Errorf("listens on %s", connect(t, s.URL()).Config().Host)
	}
}

func TestStartOutOfTime(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	dir := filepath.Join(folder(t), "postgres")
	if _, err := Start(ctx, Config{Dir: dir, Fast: true}); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	start(t, Config{Dir: dir, Fast: true})
}

// deadline bounds what a test may wait for; it is never reached by a right program.
func deadline(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

// folder is one that any user can enter, unlike t.TempDir.
func folder(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "sekisho-postgres-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	if err := os.Chmod(dir, 0o711); err != nil {
		t.Fatal(err)
	}
	return dir
}

func start(t *testing.T, cfg Config) *Server {
	t.Helper()
	cfg.Log = zerolog.New(zerolog.NewTestWriter(t))
	s, err := Start(deadline(t), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), time.Minute)
		defer cancel()
		_ = s.Stop(ctx) // the test itself looks at how it ends
	})
	return s
}

func stop(t *testing.T, s *Server) {
	t.Helper()
	if err := s.Stop(deadline(t)); err != nil {
		t.Fatal(err)
	}
}

func connect(t *testing.T, url string) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(deadline(t), url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close(context.WithoutCancel(t.Context())) })
	return conn
}

func run(t *testing.T, conn *pgx.Conn, statement string) {
	t.Helper()
	if _, err := conn.Exec(deadline(t), statement); err != nil {
		t.Fatal(err)
	}
}

func remember(t *testing.T, s *Server) {
	t.Helper()
	run(t, connect(t, s.URL()), "CREATE TABLE kept AS SELECT 42 AS answer")
}

func checkRemembered(t *testing.T, s *Server) {
	t.Helper()
	var answer int
	err := connect(t, s.URL()).QueryRow(deadline(t), "SELECT answer FROM kept").Scan(&answer)
	if err != nil || answer != 42 {
		t.Fatalf("the data is gone: %d, %v", answer, err)
	}
}
