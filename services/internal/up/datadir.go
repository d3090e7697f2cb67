package up

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// lock makes the data dir and keeps other processes out of it. The lock ends with the process, however that ends; the file stays.
func lock(dir string) (unlock func(), err error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("data dir: %w", err)
	}
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("data dir: %w", err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		pid := make([]byte, 20)
		n, _ := f.Read(pid)
		f.Close()
		return nil, fmt.Errorf("%s is in use by process %s: stop that one, or choose another folder with SEKISHO_DATA_DIR",
			dir, strings.TrimSpace(string(pid[:n])))
	}
	if err := f.Truncate(0); err != nil { // a killed process leaves its pid
		f.Close()
		return nil, fmt.Errorf("data dir: %w", err)
	}
	_, err = f.WriteAt([]byte(strconv.Itoa(os.Getpid())+"\n"), 0)
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("data dir: %w", err)
	}
	return func() {
		f.Truncate(0)
		f.Close()
	}, nil
}

// addresses tells other programs where everything listens.
type addresses struct {
	HTTP     string `json:"http"`
	Ops      string `json:"ops"`
	Sim      string `json:"sim"`
	NATS     string `json:"nats"`
	Postgres string `json:"postgres"` // a URL, with the password
}

func addressesFile(dir string) string { return filepath.Join(dir, "addresses.json") }

func (a addresses) write(dir string) error {
	data, err := json.MarshalIndent(a, "", "  ")
	if err != nil {
		return err
	}
	return writeFile(addressesFile(dir), append(data, '\n'))
}

func removeAddresses(dir string) error {
	if err := os.Remove(addressesFile(dir)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("data dir: %w", err)
	}
	return nil
}

// keptSecret reads a secret from a file that it makes on first use.
func keptSecret(path string, random func() string) (string, error) {
	data, err := os.ReadFile(path)
	if secret := strings.TrimSpace(string(data)); err == nil && secret != "" {
		return secret, nil
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", err
	}
	secret := random()
	return secret, writeFile(path, []byte(secret+"\n"))
}

// writeFile writes a file for its owner's eyes, whole or not at all. The data dir is locked, so the temporary name is ours.
func writeFile(path string, data []byte) error {
	if err := os.WriteFile(path+".new", data, 0o600); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}
