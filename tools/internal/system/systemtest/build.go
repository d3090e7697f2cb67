// Package systemtest builds the product for tests of tools that run it.
package systemtest

import (
	"os/exec"
	"path/filepath"
	"runtime"
	"testing"
)

// Build builds the command and gives its path. The tools know the product as a program only.
func Build(t testing.TB) string {
	t.Helper()
	_, here, _, ok := runtime.Caller(0)
	if !ok {
		t.Fatal("where this file is is not known")
	}
	path := filepath.Join(t.TempDir(), "sekisho")
	build := exec.Command("go", "build", "-buildvcs=false", "-o", path, "./cmd/sekisho")
	build.Dir = filepath.Join(filepath.Dir(here), "../../../../services")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	return path
}
