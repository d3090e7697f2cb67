// Package credentials is the folder that `sekisho setup` writes and every process reads:
//
//	<user>.nk             seed of a NATS user: a worker, a gateway, viewer, operator or setup
//	postgres.json         passwords of the PostgreSQL roles
//	keys/<name>.key       secret keys of 32 bytes, in hexadecimal; a gateway's may have several, see [Folder.Keys]
//	keys/<name>.pem       private keys that sign, P-256 (PKCS #8): vapid.pem
//	sealing/<worker>.json private sealing keys of a worker, newest last
//	keys.json             public sealing keys, for senders
//	nats-users.conf       the NATS users, to be included by a broker that is not embedded
//	providers.yaml        providers to use when the configuration names none; `up` writes it, and beside it the secrets
//	                      of its simulators: karaden.token, twilio.token, omotion.signature, mamoru.token, fcm.json
//
// A worker needs its own files only: its seed, its role's password, the keys that it asks for. Files are readable by their owner
// alone and appear whole or not at all. What exists is never changed, but for the sealing keys, which rotate.
package credentials

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/nats-io/nkeys"
	"github.com/rs/zerolog"
)

// KeySize is the length of the keys that [Folder.Key] gives, in bytes.
const KeySize = 32

// A Folder is a folder of credentials.
type Folder struct {
	dir string
	log zerolog.Logger // without [Folder.Logged] it says nothing
}

// Open names a folder. It need not exist before [Folder.Ensure].
func Open(dir string) *Folder { return &Folder{dir: dir} }

// Logged is the same folder, which says what becomes of its sealing keys.
func (f *Folder) Logged(log zerolog.Logger) *Folder { return &Folder{f.dir, log} }

// Contents says for whom a folder is made. Sealing keys are added by [Folder.RotateSealing].
type Contents struct {
	Users   []string // NATS users
	Roles   []string // PostgreSQL roles
	Keys    []string // names of secret keys
	Signing []string // names of private keys that sign
}

// Ensure makes what is missing and leaves alone what is there. Several may do so at once.
func (f *Folder) Ensure(c Contents) error {
	unlock, err := f.lock()
	if err != nil {
		return err
	}
	defer unlock()
	for _, user := range c.Users {
		if err := f.ensure(user+".nk", newSeed); err != nil {
			return err
		}
	}
	for _, name := range c.Keys {
		if err := f.ensure(filepath.Join("keys", name+".key"), newKey); err != nil {
			return err
		}
	}
	for _, name := range c.Signing {
		if err := f.ensure(filepath.Join("keys", name+".pem"), newSigningKey); err != nil {
			return err
		}
	}
	return f.ensurePasswords(c.Roles)
}

// lock keeps other processes from changing the folder, which it makes if need be.
func (f *Folder) lock() (unlock func(), err error) {
	if err := os.MkdirAll(f.dir, 0o700); err != nil {
		return nil, fmt.Errorf("credentials: %w", err)
	}
	dir, err := os.Open(f.dir)
	if err != nil {
		return nil, fmt.Errorf("credentials: %w", err)
	}
	if err := syscall.Flock(int(dir.Fd()), syscall.LOCK_EX); err != nil {
		dir.Close()
		return nil, fmt.Errorf("credentials: lock %s: %w", f.dir, err)
	}
	return func() { dir.Close() }, nil
}

func (f *Folder) ensure(name string, create func() ([]byte, error)) error {
	_, err := os.Stat(filepath.Join(f.dir, name))
	if err == nil || !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	data, err := create()
	if err != nil {
		return fmt.Errorf("credentials: make %s: %w", name, err)
	}
	return f.Write(name, data)
}

func newSeed() ([]byte, error) {
	pair, err := nkeys.CreateUser()
	if err != nil {
		return nil, err
	}
	seed, err := pair.Seed()
	return append(seed, '\n'), err
}

func newKey() ([]byte, error) {
	key := make([]byte, KeySize)
	rand.Read(key) // never fails (crypto/rand)
	return []byte(hex.EncodeToString(key) + "\n"), nil
}

func newSigningKey() ([]byte, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
}

func (f *Folder) ensurePasswords(roles []string) error {
	passwords := make(map[string]string)
	if err := f.readJSON("postgres.json", &passwords); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	missing := false
	for _, role := range roles {
		if passwords[role] == "" {
			passwords[role], missing = rand.Text(), true
		}
	}
	if !missing {
		return nil
	}
	return f.writeJSON("postgres.json", passwords)
}

// Dir is the folder's path.
func (f *Folder) Dir() string { return f.dir }

// Seed is the nkey seed of a NATS user.
func (f *Folder) Seed(user string) ([]byte, error) {
	seed, err := f.read(user + ".nk")
	return bytes.TrimSpace(seed), err
}

// PublicNKey is the public half of a NATS user's seed.
func (f *Folder) PublicNKey(user string) (string, error) {
	seed, err := f.Seed(user)
	if err != nil {
		return "", err
	}
	pair, err := nkeys.FromSeed(seed)
	if err != nil {
		return "", fmt.Errorf("credentials: seed of %s: %w", user, err)
	}
	defer pair.Wipe()
	return pair.PublicKey()
}

// SigningKey is a P-256 private key by its name: "vapid", with which we identify ourselves to push services (RFC 8292).
func (f *Folder) SigningKey(name string) (*ecdsa.PrivateKey, error) {
	data, err := f.read(filepath.Join("keys", name+".pem"))
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(data)
	if block == nil {
		return nil, fmt.Errorf("credentials: key %s is not in PEM", name)
	}
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("credentials: key %s is not in PKCS #8", name) // the parser's error may quote what it read
	}
	key, ok := parsed.(*ecdsa.PrivateKey)
	if !ok || key.Curve != elliptic.P256() {
		return nil, fmt.Errorf("credentials: key %s is not of P-256", name)
	}
	return key, nil
}

// Password is the password of a PostgreSQL role.
func (f *Folder) Password(role string) (string, error) {
	passwords := make(map[string]string)
	if err := f.readJSON("postgres.json", &passwords); err != nil {
		return "", err
	}
	if passwords[role] == "" {
		return "", fmt.Errorf("credentials: %s has no password of role %s", filepath.Join(f.dir, "postgres.json"), role)
	}
	return passwords[role], nil
}

// Key is a secret key of [KeySize] bytes: "code" of the codes in text messages, "token" of the secrets of tokens, "directory" of the stand-ins for users who do not exist,
// "risk" of the networks that users log in from.
func (f *Folder) Key(name string) ([]byte, error) {
	keys, err := f.Keys(name)
	if err != nil {
		return nil, err
	}
	if len(keys) > 1 {
		return nil, fmt.Errorf("credentials: key %s: %d lines, and it has no successors: want one", name, len(keys))
	}
	return keys[0], nil
}

// Keys are the keys of a file, one a line, of which the first is in use and the others are still, or already, believed: "gateway-<name>" of
// a gateway's cookies and tokens.
func (f *Folder) Keys(name string) ([][]byte, error) {
	text, err := f.read(filepath.Join("keys", name+".key"))
	if err != nil {
		return nil, err
	}
	var keys [][]byte
	for i, line := range strings.Split(strings.TrimSpace(string(text)), "\n") {
		key, err := hex.DecodeString(strings.TrimSpace(line))
		if err != nil || len(key) != KeySize {
			return nil, fmt.Errorf("credentials: key %s: line %d: want %d bytes in hexadecimal", name, i+1, KeySize)
		}
		keys = append(keys, key)
	}
	return keys, nil
}

// Providers is the path of the file that [config.Config.FillProviders] reads.
func (f *Folder) Providers() string { return filepath.Join(f.dir, "providers.yaml") }

func (f *Folder) read(name string) ([]byte, error) {
	data, err := os.ReadFile(filepath.Join(f.dir, name))
	if err != nil {
		return nil, fmt.Errorf("credentials: %w", err)
	}
	return data, nil
}

func (f *Folder) readJSON(name string, dst any) error {
	data, err := f.read(name)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(data, dst); err != nil {
		// Not the decoder's text: it may quote what stands there.
		return fmt.Errorf("credentials: %s is not the JSON that setup writes", filepath.Join(f.dir, name))
	}
	return nil
}

func (f *Folder) writeJSON(name string, value any) error {
	data, err := json.MarshalIndent(value, "", "  ")
	if err != nil {
		return fmt.Errorf("credentials: %s: %w", name, err)
	}
	return f.Write(name, append(data, '\n'))
}

// Write puts a file into the folder, whole or not at all, for its owner's eyes only.
func (f *Folder) Write(name string, data []byte) error {
	path := filepath.Join(f.dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return fmt.Errorf("credentials: %w", err)
	}
	temp, err := os.CreateTemp(filepath.Dir(path), ".new-*") // mode 0600
	if err != nil {
		return fmt.Errorf("credentials: %w", err)
	}
	_, err = temp.Write(data)
	err = errors.Join(err, temp.Sync(), temp.Close())
	if err == nil {
		err = os.Rename(temp.Name(), path)
	}
	if err != nil {
		os.Remove(temp.Name())
		return fmt.Errorf("credentials: write %s: %w", path, err)
	}
	return nil
}
