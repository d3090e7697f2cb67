package testenv

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/rs/zerolog"

	"github.com/sekisho/sekisho/services/internal/postgres"
)

// Postgres returns the superuser's URL of an empty database that belongs to the test and is dropped
// after it. Its server is private to the test binary, or the one of SEKISHO_TEST_POSTGRES_URL,
// whose user must be a superuser.
//
// Databases are apart, roles are not: those belong to the whole server. What makes roles must
// accept that they exist, also when another test makes the same at that moment.
func Postgres(t testing.TB) string {
	t.Helper()
	return newDatabase(t, "template1")
}

// Template returns a URL like Postgres, of a copy of the database that migrate filled. migrate runs
// once in the test binary for each name, and must close its connections. A copy takes some 80 ms.
//
// Rights on the database itself (GRANT … ON DATABASE) are not copied, those on what is in it are.
func Template(t testing.TB, name string, migrate func(ctx context.Context, url string) error) string {
	t.Helper()
	requireMain(t)
	templates.Lock()
	migrated, ok := templates.made[name]
	if !ok {
		migrated = sync.OnceValues(func() (string, error) { return makeTemplate(name, migrate) })
		templates.made[name] = migrated
	}
	templates.Unlock()
	template, err := migrated()
	if err != nil {
		t.Fatalf("testenv: template %s: %v", name, err)
	}
	return newDatabase(t, template)
}

// templates has the database that each name was migrated into, or why it could not be.
var templates = struct {
	sync.Mutex
	made map[string]func() (string, error)
}{made: make(map[string]func() (string, error))}

func makeTemplate(name string, migrate func(ctx context.Context, url string) error) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience) // the test that comes first may end before others need it
	defer cancel()
	server, err := postgresServer()
	if err != nil {
		return "", err
	}
	template := "template_" + name + "_" + random()
	if err := execute(ctx, server, "CREATE DATABASE "+quote(template)); err != nil {
		return "", err
	}
	atEnd(func(ctx context.Context) error { return dropDatabase(ctx, server, template) })
	if err := migrate(ctx, databaseURL(server, template)); err != nil {
		return "", err
	}
	return template, nil
}

func newDatabase(t testing.TB, template string) string {
	t.Helper()
	requireMain(t)
	server, err := postgresServer()
	if err != nil {
		t.Fatalf("testenv: %v", err)
	}
	name := "test_" + random()
	if err := execute(t.Context(), server, "CREATE DATABASE "+quote(name)+" TEMPLATE "+quote(template)); err != nil {
		t.Fatalf("testenv: %v", err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), patience)
		defer cancel()
		if err := dropDatabase(ctx, server, name); err != nil {
			t.Errorf("testenv: %v", err)
		}
	})
	return databaseURL(server, name)
}

// postgresServer returns the URL of the server, started on the first call.
var postgresServer = sync.OnceValues(func() (*url.URL, error) {
	if given := os.Getenv("SEKISHO_TEST_POSTGRES_URL"); given != "" {
		return parseURL(given)
	}
	dir, err := serverFolder()
	if err != nil {
		return nil, err
	}
	atEnd(func(context.Context) error { return os.RemoveAll(dir) })
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	private, err := postgres.Start(ctx, postgres.Config{
		Dir:  filepath.Join(dir, "postgres"),
		Fast: true,
		Log:  zerolog.Nop(),
	})
	if err != nil {
		return nil, err
	}
	atEnd(private.Stop)
	return parseURL(private.URL())
})

// serverFolder makes a folder for a server, in memory if there is room: the 300 files of a database
// take 15 ms to copy there, and 200 ms on some disks. It removes those of test binaries that were
// killed, which the names tell by the process.
func serverFolder() (string, error) {
	const prefix = "sekisho-testenv-"
	parent := os.TempDir()
	if memory := "/dev/shm"; free(memory) >= 1<<30 { // a server of tests takes 100 MB; containers often have 64 MB in all
		parent = memory
	}
	folders, err := filepath.Glob(filepath.Join(parent, prefix+"*"))
	if err != nil {
		return "", err
	}
	for _, folder := range folders {
		number, _, _ := strings.Cut(strings.TrimPrefix(filepath.Base(folder), prefix), "-")
		if pid, err := strconv.Atoi(number); err == nil && errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) {
			_ = os.RemoveAll(folder) // another user's stays
		}
	}
	dir, err := os.MkdirTemp(parent, fmt.Sprintf("%s%d-", prefix, os.Getpid()))
	if err != nil {
		return "", err
	}
	// As root the server runs as another user, who must be able to pass.
	return dir, os.Chmod(dir, 0o711)
}

// free returns the bytes that may be written to a file system, none if there is no such.
func free(dir string) uint64 {
	var stat syscall.Statfs_t
	if err := syscall.Statfs(dir, &stat); err != nil {
		return 0
	}
	return stat.Bavail * uint64(stat.Bsize)
}

func parseURL(text string) (*url.URL, error) {
	parsed, err := url.Parse(text)
	if err != nil || parsed.Host == "" {
		return nil, errors.New("the PostgreSQL server is not given as postgres://user:password@host:port/database") // nothing of it: it has a password
	}
	return parsed, nil
}

func databaseURL(server *url.URL, database string) string {
	u := *server
	u.Path = "/" + database
	return u.String()
}

// dropDatabase drops a database with whatever connections a failed test left open.
func dropDatabase(ctx context.Context, server *url.URL, name string) error {
	return execute(ctx, server, "DROP DATABASE "+quote(name)+" WITH (FORCE)")
}

func execute(ctx context.Context, server *url.URL, statement string) error {
	conn, err := pgx.Connect(ctx, server.String())
	if err != nil {
		return fmt.Errorf("connect to the PostgreSQL server: %w", err)
	}
	defer conn.Close(ctx)
	if _, err := conn.Exec(ctx, statement); err != nil {
		return fmt.Errorf("%s: %w", statement, err)
	}
	return nil
}

func quote(name string) string { return pgx.Identifier{name}.Sanitize() }

func random() string { return strings.ToLower(rand.Text()) }
