package up

import (
	"crypto/rand"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

func TestDataDirIsForOneAtATime(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "new", "data")
	unlock, err := lock(dir)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := lock(dir); err == nil || !strings.Contains(err.Error(), "process "+strconv.Itoa(os.Getpid())) ||
		!strings.Contains(err.Error(), "SEKISHO_DATA_DIR") {
		t.Errorf("locked twice: %v", err)
	}
	unlock()
	unlock, err = lock(dir)
	if err != nil {
		t.Fatalf("the lock was not given back: %v", err)
	}
	unlock()
}

// The pid of a process that was killed may be longer than the next one's.
func TestLockFileTellsTheHolderOnly(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "lock")
	if err := os.WriteFile(path, []byte("999999999999\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	unlock, err := lock(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer unlock()
	data, err := os.ReadFile(path)
	if err != nil || string(data) != strconv.Itoa(os.Getpid())+"\n" {
		t.Errorf("it holds %q, %v", data, err)
	}
}

func TestSecretsAreKept(t *testing.T) {
	path := filepath.Join(t.TempDir(), "secret")
	first, err := keptSecret(path, rand.Text)
	if err != nil || len(first) < 20 {
		t.Fatalf("got %q, %v", first, err)
	}
	second, err := keptSecret(path, rand.Text)
	if err != nil || second != first {
		t.Errorf("got %q, then %q, %v", first, second, err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	other, err := keptSecret(path+"2", rand.Text)
	if err != nil || other == first {
		t.Errorf("two secrets are alike, %v", err)
	}
}
