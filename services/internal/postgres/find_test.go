package postgres

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestNoServerOnTheMachine(t *testing.T) {
	dir := t.TempDir()
	onlyClient := filepath.Join(dir, "client")
	install(t, onlyClient, "initdb", "15.1")
	_, err := find(onlyClient+":/nonexistent", []string{filepath.Join(dir, "*", "bin")})
	if err == nil {
		t.Fatal("found a server")
	}
	for _, help := range []string{"apt-get install postgresql", "SEKISHO_POSTGRES_URL"} {
		if !strings.Contains(err.Error(), help) {
			t.Errorf("%q does not say %s", err, help)
		}
	}
}

func TestPathBeforeHighestVersion(t *testing.T) {
	dir := t.TempDir()
	var bins []string
	for _, version := range []string{"9.6", "17", "10"} {
		bin := filepath.Join(dir, version, "bin")
		install(t, bin, "initdb", version)
		install(t, bin, "postgres", version+".4")
		bins = append(bins, bin)
	}
	onPath := filepath.Join(dir, "path")
	install(t, onPath, "initdb", "14")
	install(t, onPath, "postgres", "14.2 (Debian 14.2-1)")

	found, err := find("/nonexistent:"+onPath, []string{filepath.Join(dir, "*", "bin")})
	want := []string{onPath, bins[1], bins[2], bins[0]}
	if err != nil || !slices.Equal(found, want) {
		t.Fatalf("found %v (%v), want %v", found, err, want)
	}

	for made, want := range map[string]string{"": onPath, "9.6": bins[0], "10": bins[2], "14": onPath, "17": bins[1]} {
		data := filepath.Join(t.TempDir(), "data")
		if made != "" {
			install(t, data, "PG_VERSION", "")
			if err := os.WriteFile(filepath.Join(data, "PG_VERSION"), []byte(made+"\n"), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if bin, err := pick(t.Context(), found, data); err != nil || bin != want {
			t.Errorf("for a cluster of version %q: %s (%v), want %s", made, bin, err, want)
		}
	}

	data := filepath.Join(dir, "data")
	install(t, data, "PG_VERSION", "")
	if err := os.WriteFile(filepath.Join(data, "PG_VERSION"), []byte("1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if bin, err := pick(t.Context(), found, data); err == nil || !strings.Contains(err.Error(), "PostgreSQL 1,") {
		t.Errorf("for a cluster of version 1: %s, %v", bin, err)
	}
}

// install writes a program that tells its version.
func install(t *testing.T, dir, name, version string) {
	t.Helper()
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	script := "#!/bin/sh\necho '" + name + " (PostgreSQL) " + version + "'\n"
	if err := os.WriteFile(filepath.Join(dir, name), []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
}
