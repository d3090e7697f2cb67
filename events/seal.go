package events

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/ecdh"
	"crypto/hpke"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"
)

// Sealing: what only one worker may read travels sealed to that worker. The sender sets up one HPKE context (RFC 9180,
// base mode, DHKEM(X25519, HKDF-SHA256), HKDF-SHA256, AES-256-GCM) per recipient key, exports an AES-256 key from it and
// seals each value with AES-GCM under a random nonce. One HPKE exchange per value would cost as much as a whole login.
const (
	sealInfo  = "sekisho sealing v1"   // HPKE info
	sealLabel = "sekisho value key v1" // exporter context
	sealBound = 12 + 16                // bytes that sealing adds: nonce and tag
	maxSealed = MaxData - 4096         // bytes; a sealed value is base64 in the data of its event
	senders   = 1024                   // senders that a recipient remembers; one costs 0.1 ms to learn again
	perKey    = 1 << 30                // values under one exported key, well below 2^32 random nonces (SP 800-38D 8.3)
)

// Sealed is a value that only the holder of one key can open.
type Sealed struct {
	Key string `json:"key"` // id of the recipient's key
	Enc []byte `json:"enc"` // HPKE encapsulated key: 32 bytes, base64 in JSON
	Box []byte `json:"box"` // 12 bytes of nonce, then ciphertext and tag; base64 in JSON
}

func (s *Sealed) validate(field string) error {
	switch {
	case len(s.Key) == 0 || len(s.Key) > 64:
		return fmt.Errorf("%s.key: %d bytes, want 1 to 64", field, len(s.Key))
	case len(s.Enc) != 32:
		return fmt.Errorf("%s.enc: %d bytes, want 32", field, len(s.Enc))
	case len(s.Box) < sealBound || len(s.Box) > maxSealed:
		return fmt.Errorf("%s.box: %d bytes, want %d to %d", field, len(s.Box), sealBound, maxSealed)
	}
	return nil
}

// A PublicKey is a recipient's sealing key as it stands in keys.json and in the KEYS stream.
type PublicKey struct {
	Recipient string `json:"recipient"` // worker's name
	ID        string `json:"id"`
	Key       []byte `json:"key"` // X25519: 32 bytes, base64 in JSON
}

// A PrivateKey opens what was sealed to its public half.
type PrivateKey struct {
	Recipient string `json:"recipient"`
	ID        string `json:"id"`
	Key       []byte `json:"key"` // X25519 scalar: 32 bytes, base64 in JSON
}

// GenerateKey makes a sealing key pair for a recipient.
func GenerateKey(recipient, id string) (PublicKey, PrivateKey, error) {
	private, err := hpke.DHKEM(ecdh.X25519()).GenerateKey()
	if err != nil {
		return PublicKey{}, PrivateKey{}, fmt.Errorf("events: generate sealing key: %w", err)
	}
	scalar, err := private.Bytes()
	if err != nil {
		return PublicKey{}, PrivateKey{}, fmt.Errorf("events: generate sealing key: %w", err)
	}
	return PublicKey{Recipient: recipient, ID: id, Key: private.PublicKey().Bytes()},
		PrivateKey{Recipient: recipient, ID: id, Key: scalar}, nil
}

// A Sealer seals values to workers. It is safe for concurrent use.
type Sealer struct {
	mu sync.Mutex
	to map[string]*sealTo // by recipient
}

// A sealTo is what seals to one key of a recipient.
type sealTo struct {
	key  PublicKey
	enc  []byte
	aead cipher.AEAD
	left int // values that may still be sealed under the exported key
}

func newSealTo(k PublicKey) (*sealTo, error) {
	public, err := hpke.DHKEM(ecdh.X25519()).NewPublicKey(k.Key)
	if err != nil {
		return nil, err
	}
	enc, sender, err := hpke.NewSender(public, hpke.HKDFSHA256(), hpke.AES256GCM(), []byte(sealInfo))
	if err != nil {
		return nil, err
	}
	exported, err := sender.Export(sealLabel, 32)
	if err != nil {
		return nil, err
	}
	aead, err := valueAEAD(exported)
	if err != nil {
		return nil, err
	}
	return &sealTo{key: k, enc: enc, aead: aead, left: perKey}, nil
}

// NewSealer makes a Sealer that knows the given keys; of several keys of one recipient the last counts.
func NewSealer(keys ...PublicKey) (*Sealer, error) {
	s := &Sealer{to: make(map[string]*sealTo)}
	for _, k := range keys {
		if err := s.Use(k); err != nil {
			return nil, err
		}
	}
	return s, nil
}

// Use seals to the given key from now on, in place of the recipient's earlier one.
func (s *Sealer) Use(k PublicKey) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if have := s.to[k.Recipient]; have != nil && have.key.ID == k.ID && have.left > 0 {
		return nil
	}
	to, err := newSealTo(k)
	if err != nil {
		return fmt.Errorf("events: sealing key %s of %s: %w", k.ID, k.Recipient, err)
	}
	s.to[k.Recipient] = to
	return nil
}

// knows reports whether there is a key of the recipient.
func (s *Sealer) knows(recipient string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.to[recipient] != nil
}

// Seal seals the JSON form of value to a recipient. The value is bound to the subject of its event and to the name of the field.
func (s *Sealer) Seal(recipient, subject, field string, value any) (*Sealed, error) {
	plain, err := json.Marshal(value)
	if err != nil {
		return nil, fmt.Errorf("events: seal %s: %w", field, err)
	}
	s.mu.Lock()
	to := s.to[recipient]
	if to == nil {
		s.mu.Unlock()
		return nil, fmt.Errorf("events: seal %s: no sealing key of %s is known", field, recipient)
	}
	to.left--
	spent := to.left <= 0
	s.mu.Unlock()
	if spent {
		if err := s.Use(to.key); err != nil {
			return nil, err
		}
	}
	return &Sealed{Key: to.key.ID, Enc: to.enc, Box: to.aead.Seal(nil, nil, plain, bound(subject, field, recipient))}, nil
}

// ErrSealed says that a sealed value can not be opened: another key, another place, or not what the sender sealed.
var ErrSealed = errors.New("sealed value can not be opened")

// An Opener opens what was sealed to one worker. It is safe for concurrent use.
type Opener struct {
	recipient string
	mu        sync.RWMutex
	keys      map[string]hpke.PrivateKey
	senders   map[string]cipher.AEAD // by key id and encapsulated key
	load      func() ([]PrivateKey, error)
	loaded    time.Time // the last call of load
}

// NewOpener makes an Opener for a recipient from its private keys.
func NewOpener(recipient string, keys ...PrivateKey) (*Opener, error) {
	o := &Opener{recipient: recipient}
	return o, o.SetKeys(keys...)
}

// SetKeys replaces the private keys; what was learned from those that are gone is forgotten.
func (o *Opener) SetKeys(keys ...PrivateKey) error {
	fresh := make(map[string]hpke.PrivateKey, len(keys))
	for _, k := range keys {
		if k.Recipient != o.recipient {
			return fmt.Errorf("events: sealing key %s is of %s, not of %s", k.ID, k.Recipient, o.recipient)
		}
		private, err := hpke.DHKEM(ecdh.X25519()).NewPrivateKey(k.Key)
		if err != nil {
			return fmt.Errorf("events: sealing key %s of %s: %w", k.ID, k.Recipient, err)
		}
		fresh[k.ID] = private
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	o.keys = fresh
	o.senders = make(map[string]cipher.AEAD)
	return nil
}

// loadEvery bounds how often an unknown key has the keys read again: anybody can name one.
const loadEvery = time.Second

// LoadUnknown makes the Opener read its keys again when a value is sealed to one that it does not know: senders may hear
// of a new key before its recipient.
func (o *Opener) LoadUnknown(load func() ([]PrivateKey, error)) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.load = load
}

// key is the private key of an id, nil if there is none.
func (o *Opener) key(id string) (hpke.PrivateKey, error) {
	o.mu.Lock()
	private, load := o.keys[id], o.load
	if private != nil || load == nil || time.Since(o.loaded) < loadEvery {
		o.mu.Unlock()
		return private, nil
	}
	o.loaded = time.Now()
	o.mu.Unlock()
	keys, err := load()
	if err != nil {
		return nil, err
	}
	if err := o.SetKeys(keys...); err != nil {
		return nil, err
	}
	o.mu.RLock()
	defer o.mu.RUnlock()
	return o.keys[id], nil
}

// Open opens a value into the struct that dst points to. Errors wrap [ErrSealed] and never tell what is inside.
func (o *Opener) Open(s *Sealed, subject, field string, dst any) error {
	if s == nil {
		return fmt.Errorf("events: open %s: %w: nothing there", field, ErrSealed)
	}
	aead, err := o.aead(s)
	if err != nil {
		return fmt.Errorf("events: open %s: %w: %w", field, ErrSealed, err)
	}
	value, err := aead.Open(nil, nil, s.Box, bound(subject, field, o.recipient))
	if err != nil {
		return fmt.Errorf("events: open %s: %w", field, ErrSealed)
	}
	if err := decode(value, dst); err != nil {
		return fmt.Errorf("events: open %s: %w: %w", field, ErrSealed, err)
	}
	return nil
}

func (o *Opener) aead(s *Sealed) (cipher.AEAD, error) {
	name := s.Key + "\x00" + string(s.Enc)
	o.mu.RLock()
	aead := o.senders[name]
	o.mu.RUnlock()
	if aead != nil {
		return aead, nil
	}
	private, err := o.key(s.Key)
	if err != nil {
		return nil, err
	}
	if private == nil {
		return nil, fmt.Errorf("no private key %q", s.Key)
	}
	recipient, err := hpke.NewRecipient(s.Enc, private, hpke.HKDFSHA256(), hpke.AES256GCM(), []byte(sealInfo))
	if err != nil {
		return nil, errors.New("bad encapsulated key")
	}
	exported, err := recipient.Export(sealLabel, 32)
	if err != nil {
		return nil, errors.New("bad encapsulated key")
	}
	if aead, err = valueAEAD(exported); err != nil {
		return nil, err
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if len(o.senders) >= senders { // only a sender that makes a context per value gets here
		clear(o.senders)
	}
	if o.keys[s.Key] == private { // else the key was destroyed meanwhile
		o.senders[name] = aead
	}
	return aead, nil
}

func valueAEAD(key []byte) (cipher.AEAD, error) {
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, fmt.Errorf("events: sealing: %w", err)
	}
	aead, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		return nil, fmt.Errorf("events: sealing: %w", err)
	}
	return aead, nil
}

// bound is the additional data of a sealed value: it opens in its own place only. None of the parts can hold a NUL.
func bound(subject, field, recipient string) []byte {
	return []byte(subject + "\x00" + field + "\x00" + recipient)
}
