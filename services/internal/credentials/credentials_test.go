package credentials

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sekisho/sekisho/events"
)

var contents = Contents{
	Users:   []string{"gateway", "recorder", "setup"},
	Roles:   []string{"recorder", "console"},
	Keys:    []string{"code", "gateway-web"},
	Signing: []string{"vapid"},
}

func ensured(t *testing.T) *Folder {
	t.Helper()
	f := Open(filepath.Join(t.TempDir(), "credentials"))
	if err := f.Ensure(contents); err != nil {
		t.Fatal(err)
	}
	return f
}

// files reads a whole folder and checks that nobody but its owner can.
func files(t *testing.T, f *Folder) map[string]string {
	t.Helper()
	all := make(map[string]string)
	err := filepath.WalkDir(f.Dir(), func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		if info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s has mode %v", path, info.Mode())
		}
		if !d.IsDir() {
			data, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			all[strings.TrimPrefix(path, f.Dir()+"/")] = string(data)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func TestEnsureMakesEverythingOnceAndForItsOwnerOnly(t *testing.T) {
	f := ensured(t)
	first := files(t, f)
	want := []string{"gateway.nk", "keys/code.key", "keys/gateway-web.key", "keys/vapid.pem", "postgres.json", "recorder.nk", "setup.nk"}
	if got := slices.Sorted(maps.Keys(first)); !slices.Equal(got, want) {
		t.Fatalf("got %v, want %v", got, want)
	}
	if err := f.Ensure(contents); err != nil {
		t.Fatal(err)
	}
	if second := files(t, f); !maps.Equal(first, second) {
		t.Error("a second time changed something")
	}
	more := contents
	more.Users = append(slices.Clone(more.Users), "console")
	more.Roles = append(slices.Clone(more.Roles), "gateway")
	before, err := f.Password("recorder")
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Ensure(more); err != nil {
		t.Fatal(err)
	}
	third := files(t, f)
	for name, data := range first {
		if name != "postgres.json" && third[name] != data {
			t.Errorf("%s changed", name)
		}
	}
	if third["console.nk"] == "" {
		t.Error("what was missing was not made")
	}
	if after, err := f.Password("recorder"); err != nil || after != before {
		t.Errorf("a password changed: %v", err)
	}
	if _, err := f.Password("gateway"); err != nil {
		t.Error(err)
	}
}

func TestManyEnsureAtOnce(t *testing.T) {
	f := Open(filepath.Join(t.TempDir(), "credentials"))
	var wg sync.WaitGroup
	keys := make([][]byte, 8)
	for i := range keys {
		wg.Go(func() {
			own := Open(f.Dir()) // as another process would
			if err := own.Ensure(contents); err != nil {
				t.Error(err)
				return
			}
			var err error
			if keys[i], err = own.Key("code"); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	for _, k := range keys {
		if !bytes.Equal(k, keys[0]) {
			t.Fatal("two of them have different keys")
		}
	}
}

func TestSigningKey(t *testing.T) {
	f := ensured(t)
	key, err := f.SigningKey("vapid")
	if err != nil {
		t.Fatal(err)
	}
	if again, err := Open(f.Dir()).SigningKey("vapid"); err != nil || !key.Equal(again) {
		t.Errorf("another process has another key: %v", err)
	}
	if other, err := ensured(t).SigningKey("vapid"); err != nil || key.Equal(other) {
		t.Errorf("another folder has the same key: %v", err)
	}
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(p384)
	if err != nil {
		t.Fatal(err)
	}
	for what, data := range map[string][]byte{
		"no PEM":        []byte("secret\n"),
		"no key":        pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: []byte("secret")}),
		"another curve": pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}),
	} {
		if err := f.Write("keys/vapid.pem", data); err != nil {
			t.Fatal(err)
		}
		if _, err := f.SigningKey("vapid"); err == nil || strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: %v", what, err)
		}
	}
}

func TestKeysOfAFile(t *testing.T) {
	f := ensured(t)
	first, err := f.Key("code")
	if err != nil {
		t.Fatal(err)
	}
	second := bytes.Repeat([]byte{7}, KeySize)
	if err := f.Write("keys/code.key", fmt.Appendf(nil, "%x\r\n%X\n\n", second, first)); err != nil {
		t.Fatal(err)
	}
	keys, err := f.Keys("code")
	if err != nil || len(keys) != 2 || !bytes.Equal(keys[0], second) || !bytes.Equal(keys[1], first) {
		t.Errorf("keys %x, %v", keys, err)
	}
	if _, err := f.Key("code"); err == nil || !strings.Contains(err.Error(), "2 lines") {
		t.Errorf("a second key where one is used: %v", err)
	}
	if err := f.Write("keys/code.key", fmt.Appendf(nil, "%x\nhunter2\n", first)); err != nil {
		t.Fatal(err)
	}
	if _, err := f.Keys("code"); err == nil || !strings.Contains(err.Error(), "line 2") || strings.Contains(err.Error(), "hunter2") {
		t.Errorf("a broken line: %v", err)
	}
}

func TestReadingWhatIsNotThere(t *testing.T) {
	f := ensured(t)
	if _, err := f.Key("other"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("key: %v", err)
	}
	if _, err := f.SigningKey("other"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("signing key: %v", err)
	}
	if _, err := f.Seed("other"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("seed: %v", err)
	}
	if _, err := f.Password("other"); err == nil {
		t.Error("password of an unknown role")
	}
	if _, err := f.SealingKeys("other"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("sealing: %v", err)
	}
}

func TestBrokenFilesAreNamedAndNotQuoted(t *testing.T) {
	f := ensured(t)
	for name, read := range map[string]func() error{
		"keys/code.key": func() error { _, err := f.Key("code"); return err },
		"postgres.json": func() error { _, err := f.Password("recorder"); return err },
		"gateway.nk":    func() error { _, err := f.PublicNKey("gateway"); return err },
		"keys.json":     func() error { _, err := f.PublicKeys(); return err },
	} {
		if err := f.Write(name, []byte("hunter2")); err != nil {
			t.Fatal(err)
		}
		err := read()
		if err == nil || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestSeedsAreOfUsers(t *testing.T) {
	f := ensured(t)
	public, err := f.PublicNKey("gateway")
	if err != nil || !strings.HasPrefix(public, "U") {
		t.Errorf("got %q, %v", public, err)
	}
	other, err := f.PublicNKey("recorder")
	if err != nil || other == public {
		t.Errorf("two users share a key: %v", err)
	}
}

func rotate(t *testing.T, f *Folder, now time.Time) (public string, private []string) {
	t.Helper()
	if err := f.RotateSealing([]string{"otpvalidator"}, now, 24*time.Hour); err != nil {
		t.Fatal(err)
	}
	keys, err := f.PublicKeys()
	if err != nil || len(keys) != 1 || keys[0].Recipient != "otpvalidator" {
		t.Fatalf("public keys %v, %v", keys, err)
	}
	own, err := f.SealingKeys("otpvalidator")
	if err != nil {
		t.Fatal(err)
	}
	for _, k := range own {
		private = append(private, k.ID)
	}
	return keys[0].ID, private
}

func TestSealingKeysRotate(t *testing.T) {
	f := Open(filepath.Join(t.TempDir(), "credentials"))
	start := time.Date(2026, 4, 1, 12, 0, 0, 0, time.UTC)
	first, private := rotate(t, f, start)
	if !slices.Equal(private, []string{first}) {
		t.Fatalf("private %v, public %v", private, first)
	}
	if same, private := rotate(t, f, start.Add(24*time.Hour-time.Second)); same != first || len(private) != 1 {
		t.Fatal("rotated too soon")
	}

	made := start.Add(24 * time.Hour)
	public, private := rotate(t, f, made)
	if public != first || len(private) != 2 || private[0] != first {
		t.Fatalf("senders heard of a key before its worker can have read it: %v of %v", public, private)
	}
	second := private[1]
	told := made.Add(settle)
	if public, private = rotate(t, f, told); public != second || len(private) != 2 {
		t.Fatalf("public %v, private %v, want %v", public, private, second)
	}
	if _, private = rotate(t, f, told.Add(overlap-time.Second)); len(private) != 2 {
		t.Fatal("a key was destroyed while senders may still use it")
	}
	if public, private = rotate(t, f, told.Add(overlap)); public != second || !slices.Equal(private, []string{second}) {
		t.Fatalf("public %v, private %v: the old private half is still there", public, private)
	}
	for name, data := range files(t, f) {
		if strings.Contains(data, first) {
			t.Errorf("%s still holds the first key", name)
		}
	}
}

// Whoever rotates once a day only must not take a key away that senders still use.
func TestRareRotationKeepsTheKeyInUse(t *testing.T) {
	f := Open(filepath.Join(t.TempDir(), "credentials"))
	now := time.Date(2026, 4, 1, 12, 0, 0, 0, time.UTC)
	known, _ := rotate(t, f, now)
	for range 10 {
		now = now.Add(25 * time.Hour)
		public, private := rotate(t, f, now)
		if !slices.Contains(private, known) || !slices.Contains(private, public) {
			t.Fatalf("private keys %v lack %s or %s", private, known, public)
		}
		if len(private) > 3 {
			t.Fatalf("%d private keys are kept", len(private))
		}
		known = public
	}
}

// sealedToNewest seals a code to the key that senders are told of.
func sealedToNewest(t *testing.T, f *Folder) *events.Sealed {
	t.Helper()
	keys, err := f.PublicKeys()
	if err != nil {
		t.Fatal(err)
	}
	sealer, err := events.NewSealer(keys...)
	if err != nil {
		t.Fatal(err)
	}
	sealed, err := sealer.Seal("otpvalidator", "subject", "code", "123456")
	if err != nil {
		t.Fatal(err)
	}
	return sealed
}

func TestOpenerFollowsTheFolder(t *testing.T) {
	f := Open(filepath.Join(t.TempDir(), "credentials"))
	start := time.Date(2026, 4, 1, 12, 0, 0, 0, time.UTC) // of the keys; the bubble below has a clock of its own
	rotate(t, f, start)
	old := sealedToNewest(t, f)
	synctest.Test(t, func(t *testing.T) {
		opener, err := f.Opener("otpvalidator")
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- f.Follow(ctx, "otpvalidator", opener) }()
		synctest.Wait()

		told := start.Add(24*time.Hour + settle)
		rotate(t, f, start.Add(24*time.Hour))
		rotate(t, f, told)
		var code string
		if err := opener.Open(sealedToNewest(t, f), "subject", "code", &code); err != nil || code != "123456" {
			t.Errorf("a key that is newer than the last look at the folder: %q, %v", code, err)
		}
		if err := opener.Open(old, "subject", "code", &code); err != nil {
			t.Errorf("the key before it: %v", err)
		}

		rotate(t, f, told.Add(overlap)) // destroys the old key
		<-time.After(followEvery)
		synctest.Wait()
		if err := opener.Open(old, "subject", "code", &code); !errors.Is(err, events.ErrSealed) {
			t.Errorf("a key that is destroyed still opens: %v", err)
		}
		if err := opener.Open(sealedToNewest(t, f), "subject", "code", &code); err != nil {
			t.Errorf("the key in use: %v", err)
		}
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}
