package testenv

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/jackc/pgx/v5"
)

func TestMain(m *testing.M) { Main(m) }

func TestDatabasesAreApart(t *testing.T) {
	one, two := Postgres(t), Postgres(t)
	run(t, one, "CREATE TABLE things ()")
	run(t, two, "CREATE TABLE things ()")
}

func TestDatabaseIsDropped(t *testing.T) {
	var url string
	var leftOpen *pgx.Conn
	t.Run("test", func(t *testing.T) {
		url = Postgres(t)
		var err error
		if leftOpen, err = pgx.Connect(t.Context(), url); err != nil {
			t.Fatal(err)
		}
	})
	defer leftOpen.Close(t.Context())
	if conn, err := pgx.Connect(t.Context(), url); err == nil {
		conn.Close(t.Context())
		t.Error("the database outlives its test")
	}
}

func TestTemplate(t *testing.T) {
	var migrations atomic.Int32
	migrate := func(ctx context.Context, url string) error {
		migrations.Add(1)
		conn, err := pgx.Connect(ctx, url)
		if err != nil {
			return err
		}
		defer conn.Close(ctx)
		_, err = conn.Exec(ctx, "CREATE TABLE migrated (name text)")
		return err
	}
	for range 3 {
		t.Run("copy", func(t *testing.T) {
			url := Template(t, "Some schema", migrate)
			run(t, url, "INSERT INTO migrated VALUES ('own')")
			var rows int
			if err := connect(t, url).QueryRow(t.Context(), "SELECT count(*) FROM migrated").Scan(&rows); err != nil || rows != 1 {
				t.Errorf("%d rows, %v", rows, err)
			}
		})
	}
	if n := migrations.Load(); n != 1 {
		t.Errorf("migrated %d times", n)
	}
}

func TestTemplateThatFails(t *testing.T) {
	wrong := errors.New("wrong")
	for range 2 { // the second does not take the half-made database
		if _, err := makeTemplate("failing", func(context.Context, string) error { return wrong }); !errors.Is(err, wrong) {
			t.Error(err)
		}
	}
}

// A killed test binary cannot remove its folder; the next one does.
func TestFolderOfKilledBinary(t *testing.T) {
	gone := exec.Command("true")
	if err := gone.Run(); err != nil {
		t.Fatal(err)
	}
	mine, err := serverFolder()
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(mine)
	left := strings.Replace(mine, strconv.Itoa(os.Getpid()), strconv.Itoa(gone.Process.Pid), 1)
	if err := os.MkdirAll(filepath.Join(left, "postgres"), 0o700); err != nil {
		t.Fatal(err)
	}
	second, err := serverFolder()
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(second)
	if _, err := os.Stat(left); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%s is still there: %v", left, err)
	}
	if _, err := os.Stat(mine); err != nil {
		t.Errorf("the folder of a living binary is gone: %v", err)
	}
}

func TestMalformedURL(t *testing.T) {
	if u, err := parseURL("host=localhost password=canary"); err == nil {
		t.Errorf("parsed as %v", u)
	}
}

func connect(t *testing.T, url string) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close(context.WithoutCancel(t.Context())) })
	return conn
}

func run(t *testing.T, url, statement string) {
	t.Helper()
	if _, err := connect(t, url).Exec(t.Context(), statement); err != nil {
		t.Fatal(err)
	}
}

func BenchmarkTemplate(b *testing.B) {
	migrate := func(ctx context.Context, url string) error { return nil }
	for b.Loop() {
		Template(b, "benchmark", migrate)
	}
}
