package postgres

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

// stranger is a user that nobody's folders belong to.
var stranger = &syscall.Credential{Uid: 4_000_000_000, Gid: 4_000_000_000}

// As root the cluster of a data dir that the server's user cannot enter lives elsewhere; any other
// user runs the server itself and needs no such thing.
func TestClosedFolder(t *testing.T) {
	t.Parallel()
	closed := folder(t)
	if err := os.Chmod(closed, 0o700); err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(closed, "postgres")
	s := start(t, Config{Dir: dir, Fast: true})
	home := realPath(t, dir)
	t.Cleanup(func() { os.RemoveAll(home) })
	if sheltered := home != filepath.Join(realPath(t, closed), "postgres"); sheltered != (os.Geteuid() == 0) {
		t.Errorf("as user %d the cluster lives in %s", os.Geteuid(), home)
	}
	remember(t, s)
	stop(t, s)
	s = start(t, Config{Dir: dir, Fast: true})
	checkRemembered(t, s)
	stop(t, s)

	moved := filepath.Join(folder(t), "moved")
	if err := os.Rename(closed, moved); err != nil {
		t.Fatal(err)
	}
	s = start(t, Config{Dir: filepath.Join(moved, "postgres"), Fast: true})
	checkRemembered(t, s)
	stop(t, s)

	if err := os.RemoveAll(moved); err != nil {
		t.Fatal(err)
	}
	start(t, Config{Dir: filepath.Join(folder(t), "postgres"), Fast: true})
	if _, err := os.Stat(home); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the cluster of a deleted data dir is still there: %v", err)
	}
}

func TestCanEnter(t *testing.T) {
	dir := realPath(t, folder(t))
	inner := filepath.Join(dir, "inner")
	if err := os.Mkdir(inner, 0o700); err != nil {
		t.Fatal(err)
	}
	owner := &syscall.Credential{Uid: uint32(os.Geteuid()), Gid: uint32(os.Getegid())}
	group := &syscall.Credential{Uid: stranger.Uid, Gid: owner.Gid}
	for _, c := range []struct {
		mode                   fs.FileMode
		owner, group, stranger bool
	}{
		{0o700, true, false, false},
		{0o710, true, true, false},
		{0o701, true, false, true},
		{0o644, false, false, false},
		{0o711, true, true, true},
	} {
		if err := os.Chmod(inner, c.mode); err != nil {
			t.Fatal(err)
		}
		if canEnter(inner, owner) != c.owner || canEnter(inner, group) != c.group || canEnter(inner, stranger) != c.stranger {
			t.Errorf("mode %o: owner %t, group %t, stranger %t", c.mode,
				canEnter(inner, owner), canEnter(inner, group), canEnter(inner, stranger))
		}
	}
	if err := os.Chmod(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if canEnter(inner, stranger) {
		t.Error("a stranger passes a closed folder above")
	}
}

func TestShelter(t *testing.T) {
	bases := []string{filepath.Join("/proc", "sekisho"), filepath.Join(folder(t), "shelters")} // the first cannot be made
	closed := t.TempDir()
	dir := filepath.Join(closed, "data", "postgres")
	home, err := place(dir, stranger, bases)
	if err != nil {
		t.Fatal(err)
	}
	if filepath.Dir(home) != bases[1] || !canEnter(realPath(t, home), stranger) {
		t.Errorf("the shelter is %s", home)
	}
	if again, err := place(dir, stranger, bases); again != home || err != nil {
		t.Errorf("the second time it is %s, %v", again, err)
	}

	// A moved data dir takes its cluster along, a copied one does not.
	moved := filepath.Join(closed, "moved", "postgres")
	if err := os.Rename(filepath.Dir(dir), filepath.Dir(moved)); err != nil {
		t.Fatal(err)
	}
	if again, err := place(moved, stranger, bases); again != home || err != nil {
		t.Errorf("after the move it is %s, %v", again, err)
	}
	prune(t, bases[1])
	copied := filepath.Join(closed, "copy")
	if err := os.Symlink(home, copied); err != nil {
		t.Fatal(err)
	}
	if again, err := place(copied, stranger, bases); err == nil || !strings.Contains(err.Error(), "is a copy") {
		t.Errorf("the copy leads to %s, %v", again, err)
	}

	if err := os.RemoveAll(home); err != nil {
		t.Fatal(err)
	}
	if again, err := place(moved, stranger, bases); err == nil || !strings.Contains(err.Error(), "is gone") {
		t.Errorf("the lost cluster is %s, %v", again, err)
	}
}

// A folder made in advance, as for a volume, is replaced by the link if nothing is in it.
func TestClosedFolderExists(t *testing.T) {
	bases := []string{filepath.Join(folder(t), "shelters")}
	dir := t.TempDir()
	if home, err := place(dir, stranger, bases); err != nil || filepath.Dir(home) != bases[0] {
		t.Errorf("an empty folder: %s, %v", home, err)
	}
	full := t.TempDir()
	if err := os.Mkdir(filepath.Join(full, "data"), 0o700); err != nil {
		t.Fatal(err)
	}
	if home, err := place(full, stranger, bases); err == nil || !strings.Contains(err.Error(), "cannot enter "+realPath(t, full)) {
		t.Errorf("a folder with a cluster: %s, %v", home, err)
	}
}

func TestUnsafeShelters(t *testing.T) {
	base := folder(t)
	if err := os.Chmod(base, 0o777); err != nil {
		t.Fatal(err)
	}
	if home, err := place(filepath.Join(t.TempDir(), "postgres"), stranger, []string{base}); err == nil {
		t.Errorf("the shelter is %s, where anybody can write", home)
	}
}

func TestPruneShelters(t *testing.T) {
	base := filepath.Join(folder(t), "shelters")
	shelterOf := func(name string) (dir, home string) {
		dir = filepath.Join(t.TempDir(), name)
		home, err := place(dir, stranger, []string{base})
		if err != nil {
			t.Fatal(err)
		}
		return dir, home
	}
	_, linked := shelterOf("linked")
	deletedLink, deleted := shelterOf("deleted")
	lockedLink, locked := shelterOf("locked")
	runningLink, running := shelterOf("running")
	unmountedLink, unmounted := shelterOf("unmounted")
	unfinished := filepath.Join(base, "unfinished")
	foreign := filepath.Join(base, "foreign")

	for _, link := range []string{deletedLink, lockedLink, runningLink, unmountedLink} {
		if err := os.RemoveAll(filepath.Dir(link)); err != nil {
			t.Fatal(err)
		}
	}
	lock, err := lockFolder(locked, syscall.LOCK_EX)
	if err != nil {
		t.Fatal(err)
	}
	defer unlockFolder(lock)
	// A stand-in with the command line of a server whose own Dir was deleted.
	data := filepath.Join(running, "data")
	if err := os.Mkdir(data, 0o700); err != nil {
		t.Fatal(err)
	}
	server := command(t, nil, "/bin/sh")
	server.Args = []string{"/usr/bin/postgres", "-c", "read line", "-D", data}
	stdin, err := server.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	defer stdin.Close()
	begin(t, server)
	if err := os.WriteFile(lockPath(data), []byte(strconv.Itoa(server.Process.Pid)), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(unmounted, "owner"), []byte(unmountedLink+"\n0"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{unfinished, filepath.Join(foreign, "things")} {
		if err := os.MkdirAll(dir, 0o711); err != nil {
			t.Fatal(err)
		}
	}

	prune(t, base)
	for _, home := range []string{linked, locked, running, unmounted, foreign} {
		if _, err := os.Stat(home); err != nil {
			t.Errorf("removed: %v", err)
		}
	}
	for _, home := range []string{deleted, unfinished} {
		if _, err := os.Stat(home); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s is still there: %v", home, err)
		}
	}
}

func prune(t *testing.T, base string) {
	t.Helper()
	if err := pruneShelters(base); err != nil {
		t.Error(err)
	}
}
