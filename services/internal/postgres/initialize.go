package postgres

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"syscall"

	"github.com/rs/zerolog"
)

// cluster is a folder with the databases of one server, and what runs it.
type cluster struct {
	home  string // real path, ours
	bin   string // folder of initdb and postgres
	runAs *syscall.Credential
	fast  bool
	log   zerolog.Logger
}

func (c *cluster) data() string { return filepath.Join(c.home, "data") }

// open makes the cluster if there is none, and returns the superuser's password. The password is
// on disk before the cluster, and the cluster gets its name only when it is complete, so a crash
// at any point leaves either nothing or something that can be opened.
func (c *cluster) open(ctx context.Context, passwordFile string) (string, error) {
	_, err := os.Stat(c.data())
	exists := err == nil
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("postgres: %w", err)
	}
	password, err := os.ReadFile(passwordFile)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("postgres: %w", err)
	}
	switch {
	case len(password) == 0 && exists:
		return "", fmt.Errorf("postgres: %s is missing, and the cluster in %s cannot be opened without it", passwordFile, c.data())
	case len(password) == 0:
		password = []byte(rand.Text())
		if err := writePassword(passwordFile, password); err != nil {
			return "", err
		}
	}
	c.clear()
	if !exists {
		if err := c.initialize(ctx, password); err != nil {
			return "", err
		}
	}
	return string(password), nil
}

func writePassword(file string, password []byte) error {
	f, err := os.OpenFile(file, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return fmt.Errorf("postgres: %w", err)
	}
	defer f.Close()
	if _, err := f.Write(password); err != nil {
		return fmt.Errorf("postgres: %w", err)
	}
	if err := f.Sync(); err != nil {
		return fmt.Errorf("postgres: %w", err)
	}
	return nil
}

// unfinished is the name of a cluster in the making, to which each attempt adds one of its own: what an attempt that was killed has
// left to itself may still be writing.
const unfinished = "data.new"

// clear removes what attempts that were killed have left. What can not be removed yet is in nobody's way, and a later start finds it.
func (c *cluster) clear() {
	left, _ := filepath.Glob(filepath.Join(c.home, unfinished+".*"))                                              // fails for a bad pattern only
	for _, path := range append(left, filepath.Join(c.home, unfinished), filepath.Join(c.home, "password.new")) { // the last two as they once were
		if err := os.RemoveAll(path); err != nil {
			c.log.Debug().Err(err).Msg("an unfinished cluster can not be removed yet")
		}
	}
}

// initialize makes a cluster whose only way in is the superuser's password.
func (c *cluster) initialize(ctx context.Context, password []byte) error {
	defer c.clear()
	making, err := os.MkdirTemp(c.home, unfinished+".*")
	if err != nil {
		return fmt.Errorf("postgres: %w", err)
	}
	// initdb reads the password as the server's user, who cannot open our copy of it.
	handover := making + ".password"
	if err := writePassword(handover, password); err != nil {
		return err
	}
	if c.runAs != nil {
		for _, path := range []string{making, handover} {
			if err := os.Chown(path, int(c.runAs.Uid), int(c.runAs.Gid)); err != nil {
				return fmt.Errorf("postgres: %w", err)
			}
		}
	}
	if err := c.initdb(ctx, making, handover); err != nil {
		return err
	}
	if err := os.Rename(making, c.data()); err != nil {
		return fmt.Errorf("postgres: %w", err)
	}
	return syncFolder(c.home)
}

// initdb runs the program of this name to its end. Unlike a server it has nothing to finish when we die or give up: it is killed.
func (c *cluster) initdb(ctx context.Context, folder, passwordFile string) error {
	args := []string{
		"--pgdata=" + folder, "--username=" + superuser, "--pwfile=" + passwordFile,
		"--auth=scram-sha-256", "--encoding=UTF8", "--locale=C", "--data-checksums",
	}
	if c.fast {
		args = append(args, "--no-sync")
	}
	cmd := exec.CommandContext(ctx, filepath.Join(c.bin, "initdb"), args...)
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &said, &said
	cmd.Dir, cmd.Env = "/", []string{"LC_ALL=C", "PATH=" + c.bin + ":/usr/bin:/bin"} // as for the server
	cmd.SysProcAttr = killedWithUs(c.runAs)
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) } // with the servers that it runs
	// The signal at the parent's death is sent when the thread that forked ends.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("postgres: initdb: %w: %s", cmp.Or(ctx.Err(), err), bytes.TrimSpace(said.Bytes()))
	}
	return nil
}

// syncFolder makes the new names in a folder survive a crash of the machine.
func syncFolder(dir string) error {
	folder, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("postgres: %w", err)
	}
	defer folder.Close()
	if err := folder.Sync(); err != nil {
		return fmt.Errorf("postgres: sync %s: %w", dir, err)
	}
	return nil
}
