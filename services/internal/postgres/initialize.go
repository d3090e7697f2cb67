package postgres

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
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

// initialize makes a cluster whose only way in is the superuser's password.
func (c *cluster) initialize(ctx context.Context, password []byte) error {
	making := filepath.Join(c.home, "data.new")
	if err := os.RemoveAll(making); err != nil {
		return fmt.Errorf("postgres: remove an unfinished cluster: %w", err)
	}
	if err := os.Mkdir(making, 0o700); err != nil {
		return fmt.Errorf("postgres: %w", err)
	}
	// initdb reads the password as the server's user, who cannot open our copy of it.
	handover := filepath.Join(c.home, "password.new")
	defer os.Remove(handover)
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
	args := []string{
		"--pgdata=" + making, "--username=" + superuser, "--pwfile=" + handover,
		"--auth=scram-sha-256", "--encoding=UTF8", "--locale=C", "--data-checksums",
	}
	if c.fast {
		args = append(args, "--no-sync")
	}
	p, err := c.start(exec.CommandContext(ctx, filepath.Join(c.bin, "initdb"), args...))
	if err != nil {
		return err
	}
	<-p.done
	if p.err != nil {
		return fmt.Errorf("postgres: initdb: %w: %s", p.err, p.said())
	}
	if err := os.Rename(making, c.data()); err != nil {
		return fmt.Errorf("postgres: %w", err)
	}
	return syncFolder(c.home)
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
