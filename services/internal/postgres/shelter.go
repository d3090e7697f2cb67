package postgres

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// A shelter is a folder for a cluster whose own place cannot be entered by the server's user. Its
// file "owner" names that place, where a symbolic link leads back here.

// shelterBases are the folders of shelters, in order of preference.
func shelterBases() []string {
	return []string{"/var/lib/sekisho", filepath.Join(os.TempDir(), "sekisho")}
}

// shelter makes a shelter in the first base that can be written, and the link to it at dir.
func shelter(dir string, bases []string) (string, error) {
	var errs []error
	for _, base := range bases {
		home, err := shelterIn(base, dir)
		if err == nil {
			return home, nil
		}
		errs = append(errs, err)
	}
	return "", fmt.Errorf("postgres: no place for the cluster of %s that the server's user can enter: %w", dir, errors.Join(errs...))
}

func shelterIn(base, dir string) (string, error) {
	if err := makeFolder(base); err != nil && !errors.Is(err, fs.ErrExist) {
		return "", err
	}
	lock, err := lockBase(base)
	if err != nil {
		return "", err
	}
	defer unlockFolder(lock)
	home := filepath.Join(base, strings.ToLower(rand.Text()))
	if err := makeFolder(home); err != nil {
		return "", err
	}
	if err := errors.Join(writeOwner(home, dir), os.Symlink(home, dir)); err != nil {
		return "", errors.Join(err, os.RemoveAll(home))
	}
	return home, nil
}

// lockBase keeps a shelter in the making from those who look for abandoned ones. It refuses a
// folder that another user could have prepared for us.
func lockBase(base string) (*os.File, error) {
	info, err := os.Lstat(base)
	if err != nil {
		return nil, fmt.Errorf("postgres: %w", err)
	}
	if owner := info.Sys().(*syscall.Stat_t); !info.IsDir() || int(owner.Uid) != os.Geteuid() || info.Mode()&0o022 != 0 {
		return nil, fmt.Errorf("postgres: %s is not a folder that only we can write", base)
	}
	return lockFolder(base, syscall.LOCK_EX) // never held for long
}

// adoptShelter notes that dir leads to home, after its data dir was moved. A folder without an
// owner is no shelter but somebody's own link, and is left alone.
func adoptShelter(home, dir string) error {
	owner, _, err := readOwner(home)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	} else if err != nil {
		return err
	}
	if owner != dir && leadsTo(owner, home) {
		return fmt.Errorf("postgres: %s is a copy of the link %s, and two data dirs cannot share a cluster: remove the copy", dir, owner)
	}
	return writeOwner(home, dir)
}

// pruneShelters removes the shelters whose data dir was deleted.
func pruneShelters(base string) error {
	entries, err := os.ReadDir(base)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	} else if err != nil {
		return fmt.Errorf("postgres: %w", err)
	}
	lock, err := lockBase(base)
	if err != nil {
		return err
	}
	defer unlockFolder(lock)
	var errs []error
	for _, entry := range entries {
		errs = append(errs, pruneShelter(filepath.Join(base, entry.Name())))
	}
	return errors.Join(errs...)
}

// pruneShelter removes home if it is abandoned and nobody uses it.
func pruneShelter(home string) error {
	owner, device, err := readOwner(home)
	if errors.Is(err, fs.ErrNotExist) {
		_ = os.Remove(home) // a maker died before it wrote the owner; whatever is not empty is not ours
		return nil
	} else if err != nil {
		return err
	}
	// A disk that is not mounted looks like a deleted folder, except that what lies above the
	// folder is then on another device.
	if leadsTo(owner, home) || deviceAbove(owner) != device {
		return nil
	}
	lock, err := lockFolder(home, syscall.LOCK_EX|syscall.LOCK_NB)
	if errors.Is(err, syscall.EWOULDBLOCK) {
		return nil
	} else if err != nil {
		return err
	}
	defer unlockFolder(lock)
	if _, running := postmaster(filepath.Join(home, "data")); running {
		return nil
	}
	if err := os.RemoveAll(home); err != nil {
		return fmt.Errorf("postgres: remove the cluster of the deleted %s: %w", owner, err)
	}
	return nil
}

// leadsTo tells whether link is a symbolic link to home. What cannot be read counts as one:
// only a link that is certainly gone makes a shelter abandoned.
func leadsTo(link, home string) bool {
	target, err := os.Readlink(link)
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ENOTDIR), errors.Is(err, syscall.EINVAL):
		return false
	case err != nil:
		return true
	}
	return target == home
}

// writeOwner writes the path of the link and the device that it is on, a line each.
func writeOwner(home, dir string) error {
	text := dir + "\n" + strconv.FormatUint(deviceAbove(dir), 10)
	if err := os.WriteFile(filepath.Join(home, "owner"), []byte(text), 0o600); err != nil {
		return fmt.Errorf("postgres: %w", err)
	}
	return nil
}

func readOwner(home string) (dir string, device uint64, err error) {
	text, err := os.ReadFile(filepath.Join(home, "owner"))
	if err != nil {
		return "", 0, fmt.Errorf("postgres: %w", err)
	}
	dir, number, _ := strings.Cut(string(text), "\n")
	if device, err = strconv.ParseUint(number, 10, 64); err != nil {
		return "", 0, fmt.Errorf("postgres: owner of %s: %w", home, err)
	}
	return dir, device, nil
}

// deviceAbove returns the device of the nearest folder above path that exists.
func deviceAbove(path string) uint64 {
	for {
		path = filepath.Dir(path)
		if info, err := os.Stat(path); err == nil {
			return uint64(info.Sys().(*syscall.Stat_t).Dev)
		} else if path == filepath.Dir(path) {
			return 0
		}
	}
}
