package credentials

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"reflect"
	"slices"
	"time"

	"github.com/sekisho/sekisho/events"
)

const (
	// followEvery is how often a worker looks whether keys of its own have come or gone.
	followEvery = time.Minute
	// settle is how long a new key waits in the folder before senders hear of it: until every worker has surely read it.
	settle = 2 * followEvery
	// overlap is how long a key stays good after senders can know its successor: they learn of it within minutes, and what they
	// sealed before is read within the ten minutes of a login.
	overlap = time.Hour
)

// A sealingKey is a private key as sealing/<worker>.json holds it.
type sealingKey struct {
	events.PrivateKey
	Public    []byte    `json:"public"`
	Created   time.Time `json:"created"`
	Published time.Time `json:"published,omitzero"` // when keys.json first named it
}

// RotateSealing is called now and then, by any number of processes. A worker gets a sealing key if it has none or if the newest is
// older than rotate; a new key goes into keys.json, for senders, a little later than into the folder; and the private half of the
// one before is destroyed an hour after that, so that what was sealed to it and is archived can never be opened again.
func (f *Folder) RotateSealing(workers []string, now time.Time, rotate time.Duration) error {
	unlock, err := f.lock()
	if err != nil {
		return err
	}
	defer unlock()
	var public []events.PublicKey
	for _, worker := range workers {
		keys, err := f.rotate(worker, now.UTC(), rotate)
		if err != nil {
			return err
		}
		for _, k := range slices.Backward(keys) {
			if !k.Published.IsZero() {
				public = append(public, events.PublicKey{Recipient: worker, ID: k.ID, Key: k.Public})
				break
			}
		}
	}
	have, err := f.PublicKeys()
	if err == nil && reflect.DeepEqual(have, public) {
		return nil
	}
	return f.writeJSON("keys.json", public)
}

func (f *Folder) rotate(worker string, now time.Time, rotate time.Duration) ([]sealingKey, error) {
	keys, err := f.sealingKeys(worker)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	var changes []keyChange
	if n := len(keys); n == 0 || now.Sub(keys[n-1].Created) >= rotate {
		public, private, err := events.GenerateKey(worker, now.Format("20060102T150405Z-")+rand.Text()[:8])
		if err != nil {
			return nil, err
		}
		keys = append(keys, sealingKey{PrivateKey: private, Public: public.Key, Created: now})
		changes = append(changes, keyChange{private.ID, "made"})
	}
	for i := range keys {
		if keys[i].Published.IsZero() && (len(keys) == 1 || now.Sub(keys[i].Created) >= settle) {
			keys[i].Published = now
			changes = append(changes, keyChange{keys[i].ID, "published"})
		}
	}
	for len(keys) > 1 && !keys[1].Published.IsZero() && now.Sub(keys[1].Published) >= overlap {
		changes = append(changes, keyChange{keys[0].ID, "destroyed"})
		keys = keys[1:]
	}
	if len(changes) == 0 {
		return keys, nil
	}
	if err := f.writeJSON(filepath.Join("sealing", worker+".json"), keys); err != nil {
		return nil, err
	}
	for _, c := range changes {
		f.log.Info().Str("worker", worker).Str("key", c.key).Msg("sealing key " + c.what)
	}
	return keys, nil
}

// A keyChange is what becomes of one sealing key.
type keyChange struct{ key, what string }

func (f *Folder) sealingKeys(worker string) ([]sealingKey, error) {
	var keys []sealingKey
	err := f.readJSON(filepath.Join("sealing", worker+".json"), &keys)
	return keys, err
}

// SealingKeys are a worker's private sealing keys, newest last.
func (f *Folder) SealingKeys(worker string) ([]events.PrivateKey, error) {
	keys, err := f.sealingKeys(worker)
	if err != nil {
		return nil, err
	}
	if len(keys) == 0 {
		return nil, fmt.Errorf("credentials: no sealing key of %s", worker)
	}
	private := make([]events.PrivateKey, len(keys))
	for i, k := range keys {
		private[i] = k.PrivateKey
	}
	return private, nil
}

// PublicKeys are the public sealing keys that senders are to use, one of each worker.
func (f *Folder) PublicKeys() ([]events.PublicKey, error) {
	var keys []events.PublicKey
	err := f.readJSON("keys.json", &keys)
	return keys, err
}

// Opener opens what is sealed to a worker. Let [Folder.Follow] run beside it.
func (f *Folder) Opener(worker string) (*events.Opener, error) {
	keys, err := f.SealingKeys(worker)
	if err != nil {
		return nil, err
	}
	opener, err := events.NewOpener(worker, keys...)
	if err != nil {
		return nil, err
	}
	opener.LoadUnknown(func() ([]events.PrivateKey, error) { return f.SealingKeys(worker) })
	return opener, nil
}

// Follow keeps an opener's keys as they are in the folder until ctx ends: a background loop of the worker.
func (f *Folder) Follow(ctx context.Context, worker string, opener *events.Opener) error {
	tick := time.NewTicker(followEvery)
	defer tick.Stop()
	var have []events.PrivateKey
	for {
		keys, err := f.SealingKeys(worker)
		if err != nil {
			return err
		}
		if !slices.EqualFunc(keys, have, sameKey) { // an opener forgets the senders that it knows when its keys change
			if err := opener.SetKeys(keys...); err != nil {
				return err
			}
			have = keys
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

func sameKey(a, b events.PrivateKey) bool { return a.ID == b.ID }

// Sealer seals to the workers. Let [Folder.Supply] run beside it.
func (f *Folder) Sealer() (*events.Sealer, error) {
	keys, err := f.PublicKeys()
	if err != nil {
		return nil, err
	}
	return events.NewSealer(keys...)
}

// supplyEvery is how often a sealer's keys are read again. A key that was replaced stays good for much longer.
const supplyEvery = time.Minute

// Supply has a sealer use the newest keys of the workers until ctx ends: a background loop of the worker.
func (f *Folder) Supply(ctx context.Context, sealer *events.Sealer) error {
	tick := time.NewTicker(supplyEvery)
	defer tick.Stop()
	for {
		keys, err := f.PublicKeys()
		if err != nil {
			return err
		}
		for _, key := range keys {
			if err := sealer.Use(key); err != nil {
				return err
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}
