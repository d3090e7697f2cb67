package pushnotifier

import (
	"bytes"
	"crypto/ecdsa"
	"sync"

	"github.com/sekisho/sekisho/services/internal/directory"
)

// maxKeys bounds the keys that are kept, of some 300 bytes each.
const maxKeys = 10_000

// keys remembers the keys of devices, so that a proof can be checked before the database is asked for anything. At each request the
// database says whether the device is still there, and still has that key.
type keys struct {
	mu      sync.Mutex
	devices map[string]deviceKey // by id
}

type deviceKey struct {
	point []byte
	key   *ecdsa.PublicKey
}

// known is the key that a device had when it was last seen here, nil if that is not known.
func (k *keys) known(device string) *ecdsa.PublicKey {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.devices[device].key
}

// of is the key of a device as it is now. A provider's device has none.
func (k *keys) of(device directory.Device) (*ecdsa.PublicKey, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if kept, ok := k.devices[device.ID]; ok && bytes.Equal(kept.point, device.PublicKey) {
		return kept.key, nil
	}
	key, err := readKey(device.PublicKey)
	if err != nil {
		return nil, err
	}
	if k.devices == nil || len(k.devices) >= maxKeys {
		k.devices = make(map[string]deviceKey) // those that are in use come back
	}
	k.devices[device.ID] = deviceKey{device.PublicKey, key}
	return key, nil
}
