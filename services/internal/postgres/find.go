package postgres

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// installFolders are where distributions keep initdb and postgres, which they leave out of $PATH.
var installFolders = []string{
	"/usr/lib/postgresql/*/bin",                       // Debian, Ubuntu
	"/usr/pgsql-*/bin",                                // the PostgreSQL project's RPMs
	"/usr/local/pgsql/bin",                            // built from source
	"/opt/homebrew/opt/postgresql@*/bin",              // Homebrew on Apple silicon
	"/usr/local/opt/postgresql@*/bin",                 // Homebrew on Intel
	"/home/linuxbrew/.linuxbrew/opt/postgresql@*/bin", // Homebrew on Linux
}

// find returns the folders that hold both binaries: those of path in its order, then those of the
// patterns, each from the highest version down.
func find(path string, patterns []string) ([]string, error) {
	candidates := filepath.SplitList(path)
	for _, pattern := range patterns {
		folders, err := filepath.Glob(pattern)
		if err != nil {
			return nil, fmt.Errorf("postgres: search %s: %w", pattern, err)
		}
		slices.SortFunc(folders, func(a, b string) int { return cmp.Compare(folderVersion(b), folderVersion(a)) })
		candidates = append(candidates, folders...)
	}
	var found []string
	for _, folder := range candidates {
		if executable(filepath.Join(folder, "initdb")) && executable(filepath.Join(folder, "postgres")) {
			found = append(found, folder)
		}
	}
	if len(found) == 0 {
		return nil, errors.New("postgres: no PostgreSQL server found on this machine: " +
			"install one (apt-get install postgresql, brew install postgresql), " +
			"or name a running one in SEKISHO_POSTGRES_URL")
	}
	return found, nil
}

func executable(file string) bool {
	info, err := os.Stat(file)
	return err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0
}

var number = regexp.MustCompile(`[0-9]+(\.[0-9]+)?`)

// folderVersion reads the version from the last number of a path, so that 10 comes after 9.6.
// None is 0.
func folderVersion(folder string) float64 {
	numbers := number.FindAllString(folder, -1)
	if len(numbers) == 0 {
		return 0
	}
	version, _ := strconv.ParseFloat(numbers[len(numbers)-1], 64)
	return version
}

// pick chooses the binaries for a cluster. A new one gets the first; an existing one can be opened
// only by the major version that made it, which is no longer the highest after an upgrade of the
// machine.
func pick(ctx context.Context, bins []string, data string) (string, error) {
	made, err := os.ReadFile(filepath.Join(data, "PG_VERSION"))
	if errors.Is(err, fs.ErrNotExist) {
		return bins[0], nil
	} else if err != nil {
		return "", fmt.Errorf("postgres: version of the cluster: %w", err)
	}
	want := strings.TrimSpace(string(made))
	for _, bin := range bins {
		out, err := exec.CommandContext(ctx, filepath.Join(bin, "postgres"), "--version").Output()
		if err != nil {
			return "", fmt.Errorf("postgres: version of %s: %w", bin, err)
		}
		// postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)
		if version := number.Find(out); string(version) == want || bytes.HasPrefix(version, []byte(want+".")) {
			return bin, nil
		}
	}
	return "", fmt.Errorf("postgres: the cluster in %s was made by PostgreSQL %s, which is not on this machine: "+
		"install it, or name a running server in SEKISHO_POSTGRES_URL", data, want)
}
