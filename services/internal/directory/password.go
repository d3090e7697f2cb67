package directory

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"

	"golang.org/x/crypto/argon2"
	"golang.org/x/text/unicode/norm"
)

// MaxPassword bounds a password, in bytes of its normalized form. It is hashed whole.
const MaxPassword = 1024

const (
	saltSize = 16 // bytes (RFC 9106 section 3.1)
	hashSize = 32 // bytes
)

// A Cost is what one hash takes.
type Cost struct {
	Memory  uint32 // KiB
	Time    uint32 // passes
	Threads uint8
}

// A Hasher makes and checks argon2id hashes of passwords (RFC 9106), as many at a time as the process can bear: each
// takes its memory, and together they take all processors. Passwords are compared in Unicode's form NFC, so that it does
// not matter how a keyboard composes a letter.
type Hasher struct {
	cost  Cost
	slots chan struct{}
	dummy string
}

// NewHasher makes a Hasher that makes `concurrent` hashes at a time.
func NewHasher(cost Cost, concurrent int) *Hasher {
	h := &Hasher{cost: cost, slots: make(chan struct{}, concurrent)}
	h.dummy = h.encode(rand.Text(), salt())
	return h
}

// NormalizePassword is the form of a password that is hashed, for those who count its characters.
func NormalizePassword(password string) string { return norm.NFC.String(password) }

// Hash is the PHC string of a new password: $argon2id$v=19$m=<KiB>,t=<passes>,p=<lanes>$<salt>$<hash>.
func (h *Hasher) Hash(ctx context.Context, password string) (string, error) {
	if err := h.acquire(ctx); err != nil {
		return "", err
	}
	defer h.release()
	return h.encode(password, salt()), nil
}

// Verify compares a password with a PHC string. outdated says that the hash was made at another cost than today's. An
// empty or too long password, or an empty hash (of a user who has no password, or does not exist), takes the time of any
// other and is never right.
func (h *Hasher) Verify(ctx context.Context, password, phc string) (right, outdated bool, err error) {
	possible := password != "" && len(password) <= MaxPassword && phc != ""
	if !possible {
		password, phc = "", h.dummy
	}
	cost, salt, want, err := decode(phc)
	if err != nil {
		return false, false, err
	}
	if err := h.acquire(ctx); err != nil {
		return false, false, err
	}
	defer h.release()
	equal := subtle.ConstantTimeCompare(cost.key(password, salt), want) == 1
	return equal && possible, cost != h.cost, nil
}

func (h *Hasher) acquire(ctx context.Context) error {
	select {
	case h.slots <- struct{}{}:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("directory: wait to hash: %w", context.Cause(ctx))
	}
}

func (h *Hasher) release() { <-h.slots }

func salt() []byte {
	s := make([]byte, saltSize)
	rand.Read(s) // never fails (crypto/rand)
	return s
}

func (h *Hasher) encode(password string, salt []byte) string {
	b64 := base64.RawStdEncoding.EncodeToString
	return fmt.Sprintf("$argon2id$v=%d$m=%d,t=%d,p=%d$%s$%s", argon2.Version,
		h.cost.Memory, h.cost.Time, h.cost.Threads, b64(salt), b64(h.cost.key(password, salt)))
}

func (c Cost) key(password string, salt []byte) []byte {
	return argon2.IDKey([]byte(NormalizePassword(password)), salt, c.Time, c.Memory, c.Threads, hashSize)
}

var errHash = errors.New("directory: stored password hash is not an argon2id PHC string")

// decode takes a PHC string apart. The error does not repeat it.
func decode(phc string) (c Cost, salt, hash []byte, err error) {
	parts := strings.Split(phc, "$")
	if len(parts) != 6 || parts[0] != "" || parts[1] != "argon2id" || parts[2] != fmt.Sprintf("v=%d", argon2.Version) {
		return Cost{}, nil, nil, errHash
	}
	if _, err := fmt.Sscanf(parts[3], "m=%d,t=%d,p=%d", &c.Memory, &c.Time, &c.Threads); err != nil ||
		c.Time < 1 || c.Threads < 1 || parts[3] != fmt.Sprintf("m=%d,t=%d,p=%d", c.Memory, c.Time, c.Threads) {
		return Cost{}, nil, nil, errHash
	}
	if salt, err = base64.RawStdEncoding.Strict().DecodeString(parts[4]); err != nil {
		return Cost{}, nil, nil, errHash
	}
	if hash, err = base64.RawStdEncoding.Strict().DecodeString(parts[5]); err != nil || len(hash) != hashSize {
		return Cost{}, nil, nil, errHash
	}
	return c, salt, hash, nil
}
