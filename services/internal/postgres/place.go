package postgres

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"syscall"
	"time"
)

// serverUser says whom the server of dir runs as: nil, which is ourselves, unless we are root.
func serverUser(dir string) (*syscall.Credential, error) {
	if os.Geteuid() != 0 {
		return nil, nil
	}
	// PostgreSQL opens a cluster only for its owner, whoever that was when it was made.
	if info, err := os.Stat(filepath.Join(dir, "data")); err == nil {
		owner := info.Sys().(*syscall.Stat_t)
		return &syscall.Credential{Uid: owner.Uid, Gid: owner.Gid}, nil
	}
	for _, name := range []string{"postgres", "nobody"} {
		account, err := user.Lookup(name)
		if err != nil {
			continue
		}
		uid, errUID := strconv.ParseUint(account.Uid, 10, 32)
		gid, errGID := strconv.ParseUint(account.Gid, 10, 32)
		if err := errors.Join(errUID, errGID); err != nil {
			return nil, fmt.Errorf("postgres: ids of user %s: %w", name, err)
		}
		return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}, nil
	}
	return nil, errors.New("postgres: PostgreSQL does not run as root, and there is neither a user postgres " +
		"nor a user nobody to run it as: start as another user, or name a running server in SEKISHO_POSTGRES_URL")
}

// place returns the real folder behind dir, made if there is none. bases are where it goes when
// the server's user cannot enter dir.
func place(dir string, runAs *syscall.Credential, bases []string) (string, error) {
	parent := filepath.Dir(dir)
	if err := os.MkdirAll(parent, 0o711); err != nil {
		return "", fmt.Errorf("postgres: %w", err)
	}
	parent, err := filepath.EvalSymlinks(parent)
	if err != nil {
		return "", fmt.Errorf("postgres: %w", err)
	}
	dir = filepath.Join(parent, filepath.Base(dir))

	info, err := os.Lstat(dir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if runAs != nil && !canEnter(parent, runAs) {
			return shelter(dir, bases)
		}
		return dir, makeFolder(dir)
	case err != nil:
		return "", fmt.Errorf("postgres: %w", err)
	case info.Mode()&fs.ModeSymlink != 0:
		return followLink(dir)
	case runAs != nil && !canEnter(dir, runAs):
		// An empty folder may be replaced by a link. Anything else was reachable when it was made.
		if err := os.Remove(dir); err != nil {
			return "", fmt.Errorf("postgres: user %d, who runs the server, cannot enter %s: "+
				"give it the right to (chmod o+x on the folders above) or move the folder away", runAs.Uid, dir)
		}
		return shelter(dir, bases)
	}
	return dir, nil
}

// followLink returns the folder that dir, a symbolic link, leads to.
func followLink(dir string) (string, error) {
	home, err := filepath.EvalSymlinks(dir)
	if errors.Is(err, fs.ErrNotExist) {
		// Starting anew here would hide the loss of every account.
		return "", fmt.Errorf("postgres: the cluster that %s leads to is gone; remove the link to begin with an empty one", dir)
	} else if err != nil {
		return "", fmt.Errorf("postgres: %w", err)
	}
	return home, adoptShelter(home, dir)
}

// makeFolder makes a folder of ours that the server's user can pass through but not change.
func makeFolder(dir string) error {
	if err := os.Mkdir(dir, 0o711); err != nil {
		return fmt.Errorf("postgres: %w", err)
	}
	if err := os.Chmod(dir, 0o711); err != nil { // whatever the umask
		return fmt.Errorf("postgres: %w", err)
	}
	return nil
}

// canEnter tells whether a user has the execute bit of the real path dir and of every folder above it.
// Supplementary groups do not count, since the server gets none.
func canEnter(dir string, who *syscall.Credential) bool {
	for {
		info, err := os.Stat(dir)
		if err != nil {
			return false
		}
		owner := info.Sys().(*syscall.Stat_t)
		bit := fs.FileMode(0o001)
		switch {
		case owner.Uid == who.Uid:
			bit = 0o100
		case owner.Gid == who.Gid:
			bit = 0o010
		}
		if info.Mode()&bit == 0 {
			return false
		}
		if dir == filepath.Dir(dir) {
			return true
		}
		dir = filepath.Dir(dir)
	}
}

// lockPatience is how long a Start waits for the lock of another process, which may have been killed
// a moment ago: the system frees its memory (here a broker's) before its locks.
const lockPatience = 2 * time.Second

// lockHome locks the folder of a cluster for as long as its server runs.
func lockHome(ctx context.Context, home string) (lock *os.File, err error) {
	patience, cancel := context.WithTimeout(ctx, lockPatience)
	defer cancel()
	waited := poll(patience, func() bool {
		lock, err = lockFolder(home, syscall.LOCK_EX|syscall.LOCK_NB)
		return !errors.Is(err, syscall.EWOULDBLOCK)
	})
	if waited != nil {
		return nil, fmt.Errorf("postgres: %s is in use by another process", home)
	}
	return lock, err
}

// lockFolder takes the lock that says "one process at a time". The system drops it when we die,
// and children do not inherit it, so what still runs in a folder that could be locked is an orphan.
// how is LOCK_EX to wait for the lock, or with LOCK_NB to fail with EWOULDBLOCK if another has it.
func lockFolder(dir string, how int) (*os.File, error) {
	folder, err := os.Open(dir)
	if err != nil {
		return nil, fmt.Errorf("postgres: %w", err)
	}
	if err := syscall.Flock(int(folder.Fd()), how); err != nil {
		folder.Close()
		return nil, fmt.Errorf("postgres: lock %s: %w", dir, err)
	}
	return folder, nil
}

// unlockFolder unlocks before it closes: a child between fork and exec holds the descriptor too.
// Once closed there is nothing to unlock, so a second call is harmless.
func unlockFolder(folder *os.File) {
	_ = syscall.Flock(int(folder.Fd()), syscall.LOCK_UN)
	_ = folder.Close()
}
