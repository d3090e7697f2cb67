package directory

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/sekisho/sekisho/services/internal/coalesce"
)

// DeviceOf names a phone as the events name authenticators.
func DeviceOf(device string) string { return "push:" + device }

// A Kind is what approves on a phone.
type Kind string

// The kinds.
const (
	Sekisho Kind = "sekisho" // our own authenticator, which holds a key
	Mamoru  Kind = "mamoru"  // a provider's, where the browser goes to approve
)

// A Transport is how a phone is told that there is something to fetch.
type Transport string

// The transports.
const (
	Polling Transport = "" // the phone asks by itself, as every phone does beside its transport
	WebPush Transport = "webpush"
	FCM     Transport = "fcm"
)

// A Device is a phone on which a user approves.
type Device struct {
	ID        string // opaque
	User      string // opaque id
	Kind      Kind
	Name      string // as the user calls it
	PublicKey []byte // of Sekisho: P-256 point, uncompressed (SEC 1 section 2.3.3), 65 bytes
	Account   string // of Mamoru: the provider's name of the user
	Gateway   string // where the phone's page is served
	Transport Transport
	Target    json.RawMessage // where the transport sends to, as the phone gave it; nil with Polling
	Enrolled  time.Time
	Seen      time.Time // give or take a minute
}

// Errors of devices.
var (
	ErrNoDevice       = errors.New("directory: no such device")
	ErrNoActivation   = errors.New("directory: the activation is unknown, used or out of time, or its user may not log in")
	ErrTooManyDevices = errors.New("directory: the user has as many devices as a user may have")
)

// Devices keeps users' devices, and the invitations to enroll them.
type Devices struct {
	db     *pgxpool.Pool
	now    func() time.Time
	outbox *Outbox
	byID   *coalesce.Group[string, string, []Device]
	byUser *coalesce.Group[string, string, []Device]
	sights *coalesce.Group[string, string, struct{}]
}

// NewDevices makes a Devices, whose changes go through the outbox.
func NewDevices(outbox *Outbox) *Devices {
	d := &Devices{db: outbox.db, now: outbox.now, outbox: outbox}
	itself := func(id string) string { return id }
	d.byID = coalesce.New(d.lookUp(QueueDevices), itself, maxBatch)
	d.byUser = coalesce.New(d.lookUp(QueueDevicesOf), itself, maxBatch)
	d.sights = coalesce.New(d.saw, itself, maxBatch)
	return d
}

// Close waits for what is under way.
func (d *Devices) Close() {
	d.byID.Close()
	d.byUser.Close()
	d.sights.Close()
}

// Activate invites a user to enroll one device within lifetime. A user has one invitation at a time: a new one ends the one before.
// A user who has `most` devices gets [ErrTooManyDevices], since a login wakes all of them. [ErrNotFound] if there is no such user.
func (d *Devices) Activate(ctx context.Context, user string, lifetime time.Duration, most int) (code string, expires time.Time, err error) {
	code = rand.Text() // 130 bits
	now := d.now()
	expires = now.Add(lifetime)
	const statement = `
		WITH earlier AS (
			DELETE FROM directory.activations WHERE user_id = $2
		)
		INSERT INTO directory.activations (hash, user_id, expires_at, created_at)
		SELECT $1, $2, $3, $4 WHERE (SELECT count(*) FROM directory.devices WHERE user_id = $2) < $5`
	tag, err := d.db.Exec(ctx, statement, activationHash(code), user, expires, now, most)
	switch {
	case hasCode(err, foreignKeyViolation):
		return "", time.Time{}, ErrNotFound
	case err != nil:
		return "", time.Time{}, fmt.Errorf("directory: activate: %w", err)
	case tag.RowsAffected() == 0:
		return "", time.Time{}, ErrTooManyDevices
	}
	return code, expires, nil
}

func activationHash(code string) []byte {
	sum := sha256.Sum256([]byte(code))
	return sum[:]
}

// Enroll adds a device of the user whom the code invited, unless they have `most` by now, which is [ErrTooManyDevices]. Of the
// Device it takes name, public key and gateway. Of several who use one code at once, one enrolls; the others get [ErrNoActivation].
func (d *Devices) Enroll(ctx context.Context, code string, device Device, most int) (enrolled Device, err error) {
	now := d.now()
	err = d.outbox.commit(ctx, func(tx pgx.Tx) error {
		// The user's row is held, so that their devices are counted by one at a time.
		var user string
		err := tx.QueryRow(ctx, `
			SELECT c.user_id FROM directory.activations a JOIN directory.accounts c ON c.user_id = a.user_id
			WHERE a.hash = $1 AND a.expires_at > $2 AND c.may_log_in
			FOR NO KEY UPDATE OF c`, activationHash(code), now).Scan(&user)
		if err != nil {
			return instead(err, ErrNoActivation)
		}
		tag, err := tx.Exec(ctx, `DELETE FROM directory.activations WHERE hash = $1`, activationHash(code))
		if err != nil {
			return err
		}
		if tag.RowsAffected() == 0 {
			return ErrNoActivation
		}
		err = tx.QueryRow(ctx, `
			INSERT INTO directory.devices AS d (id, user_id, kind, name, public_key, account, gateway, transport, enrolled_at, last_seen)
			SELECT $1, $2, 'sekisho', $3, $4, '', $5, '', $6, $6 WHERE (SELECT count(*) FROM directory.devices WHERE user_id = $2) < $7
			RETURNING `+deviceColumns, rand.Text(), user, device.Name, device.PublicKey, device.Gateway, now, most,
		).Scan(enrolled.columns()...)
		if err != nil {
			return instead(err, ErrTooManyDevices)
		}
		return d.outbox.announce(ctx, tx, "device-enrolled", user, DeviceChange{Device: enrolled.ID, By: enrolled.ID})
	})
	if err != nil {
		return Device{}, fmt.Errorf("directory: enroll: %w", err)
	}
	return enrolled, nil
}

// Link records that a user approves at a provider that hosts the approval. Of the Device it takes user, name, account and gateway.
// If the user is linked to that account already, nothing changes, and id and name are those of the device that is there.
// [ErrTooManyDevices] if the user has `most` devices, [ErrNotFound] if there is no such user.
func (d *Devices) Link(ctx context.Context, device Device, most int) (id, name string, err error) {
	err = d.outbox.commit(ctx, func(tx pgx.Tx) error {
		var user string // held as in Enroll
		err := tx.QueryRow(ctx, `SELECT user_id FROM directory.accounts WHERE user_id = $1 FOR NO KEY UPDATE`, device.User).Scan(&user)
		if err != nil {
			return instead(err, ErrNotFound)
		}
		err = tx.QueryRow(ctx, `
			SELECT id, name FROM directory.devices WHERE user_id = $1 AND kind = 'mamoru' AND account = $2 ORDER BY enrolled_at, id LIMIT 1`,
			user, device.Account).Scan(&id, &name)
		if !errors.Is(err, pgx.ErrNoRows) {
			return err
		}
		err = tx.QueryRow(ctx, `
			INSERT INTO directory.devices (id, user_id, kind, name, account, gateway, transport, enrolled_at, last_seen)
			SELECT $1, $2, 'mamoru', $3, $4, $5, '', $6, $6 WHERE (SELECT count(*) FROM directory.devices WHERE user_id = $2) < $7
			RETURNING id, name`, rand.Text(), user, device.Name, device.Account, device.Gateway, d.now(), most).Scan(&id, &name)
		if err != nil {
			return instead(err, ErrTooManyDevices)
		}
		return d.outbox.announce(ctx, tx, "device-enrolled", user, DeviceChange{Device: id})
	})
	if err != nil {
		return "", "", fmt.Errorf("directory: link: %w", err)
	}
	return id, name, nil
}

// A DeviceChange is the data of the events device-enrolled, device-renamed and device-removed.
type DeviceChange struct {
	Device string `json:"device"`
	By     string `json:"by,omitempty"` // the device by which the user made it; "": by a session, or an admin
}

// instead returns none if a statement gave no row, and any other error as it is.
func instead(err, none error) error {
	if errors.Is(err, pgx.ErrNoRows) {
		return none
	}
	return err
}

const deviceColumns = `d.id, d.user_id, d.kind, d.name, d.public_key, d.account, d.gateway, d.transport, d.target, d.enrolled_at, d.last_seen`

// columns are where deviceColumns are read to.
func (v *Device) columns() []any {
	return []any{&v.ID, &v.User, &v.Kind, &v.Name, &v.PublicKey, &v.Account, &v.Gateway, &v.Transport, &v.Target, &v.Enrolled, &v.Seen}
}

// Get is a device by its id, or [ErrNoDevice].
func (d *Devices) Get(ctx context.Context, id string) (Device, error) {
	found, err := d.byID.Do(ctx, id)
	if err == nil && len(found) == 0 {
		err = ErrNoDevice
	}
	if err != nil {
		return Device{}, err
	}
	return found[0], nil
}

// List lists a user's devices, the oldest first.
func (d *Devices) List(ctx context.Context, user string) ([]Device, error) {
	return d.byUser.Do(ctx, user)
}

// QueueDevices adds a look-up of devices by their ids to a batch, for a caller that asks the database for something else too. found
// gets each device that is there, and the place of its id in ids.
func QueueDevices(batch *pgx.Batch, ids []string, found func(place int, device Device)) {
	queueDevices(batch, "id", ids, found)
}

// QueueDevicesOf is [QueueDevices] for all devices of some users, the oldest of each first.
func QueueDevicesOf(batch *pgx.Batch, users []string, found func(place int, device Device)) {
	queueDevices(batch, "user_id", users, found)
}

func queueDevices(batch *pgx.Batch, column string, values []string, found func(int, Device)) {
	batch.Queue(`
		SELECT `+deviceColumns+`, q.n
		FROM unnest($1::text[]) WITH ORDINALITY AS q (value, n) JOIN directory.devices d ON d.`+column+` = q.value
		ORDER BY q.n, d.enrolled_at, d.id`, values,
	).Query(func(rows pgx.Rows) error {
		for rows.Next() {
			var (
				device Device
				n      int
			)
			if err := rows.Scan(append(device.columns(), &n)...); err != nil {
				return err
			}
			found(n-1, device)
		}
		return rows.Err()
	})
}

// lookUp runs a look-up of devices in a batch of its own.
func (d *Devices) lookUp(queue func(*pgx.Batch, []string, func(int, Device))) func(context.Context, []string) ([][]Device, error) {
	return func(ctx context.Context, values []string) ([][]Device, error) {
		out := make([][]Device, len(values))
		batch := &pgx.Batch{}
		queue(batch, values, func(i int, found Device) { out[i] = append(out[i], found) })
		if err := d.db.SendBatch(ctx, batch).Close(); err != nil {
			return nil, fmt.Errorf("directory: look up devices: %w", err)
		}
		return out, nil
	}
}

// Rename gives a device of a user another name, or returns [ErrNoDevice]. by is as in [DeviceChange].
func (d *Devices) Rename(ctx context.Context, user, id, name, by string) (renamed Device, err error) {
	err = d.outbox.commit(ctx, func(tx pgx.Tx) error {
		err := tx.QueryRow(ctx, `
			UPDATE directory.devices d SET name = $3 WHERE d.user_id = $1 AND d.id = $2 RETURNING `+deviceColumns, user, id, name,
		).Scan(renamed.columns()...)
		if err != nil {
			return instead(err, ErrNoDevice)
		}
		return d.outbox.announce(ctx, tx, "device-renamed", user, DeviceChange{Device: id, By: by})
	})
	if err != nil {
		return Device{}, fmt.Errorf("directory: rename device: %w", err)
	}
	return renamed, nil
}

// Remove removes a device of a user, or returns [ErrNoDevice]. by is as in [DeviceChange].
func (d *Devices) Remove(ctx context.Context, user, id, by string) error {
	err := d.outbox.commit(ctx, func(tx pgx.Tx) error {
		// The user first, as when the user is deleted with all devices, so that the two do not wait for each other.
		if _, err := tx.Exec(ctx, `UPDATE directory.users SET generation = generation + 1 WHERE id = $1`, user); err != nil {
			return err
		}
		tag, err := tx.Exec(ctx, `DELETE FROM directory.devices WHERE user_id = $1 AND id = $2`, user, id)
		if err != nil {
			return err
		}
		if tag.RowsAffected() == 0 {
			return ErrNoDevice
		}
		return d.outbox.announce(ctx, tx, "device-removed", user, DeviceChange{Device: id, By: by})
	})
	if err != nil {
		return fmt.Errorf("directory: remove device: %w", err)
	}
	return nil
}

// SetTarget says how a device is told from now on; target is nil with [Polling].
func (d *Devices) SetTarget(ctx context.Context, id string, transport Transport, target json.RawMessage) error {
	if _, err := d.db.Exec(ctx, `UPDATE directory.devices SET transport = $2, target = $3 WHERE id = $1`, id, transport, target); err != nil {
		return fmt.Errorf("directory: set target: %w", err)
	}
	return nil
}

// DropTarget forgets a target that is gone, unless the device has given another meanwhile.
func (d *Devices) DropTarget(ctx context.Context, id string, target json.RawMessage) error {
	_, err := d.db.Exec(ctx, `UPDATE directory.devices SET transport = '', target = NULL WHERE id = $1 AND target = $2`, id, target)
	if err != nil {
		return fmt.Errorf("directory: drop target: %w", err)
	}
	return nil
}

// Saw records that a device has shown itself, at most once a minute.
func (d *Devices) Saw(ctx context.Context, id string) error {
	_, err := d.sights.Do(ctx, id)
	return err
}

func (d *Devices) saw(ctx context.Context, ids []string) ([]struct{}, error) {
	now := d.now()
	_, err := d.db.Exec(ctx, `
		WITH due AS ( -- in one order, so that no two of these wait for each other
			SELECT id FROM directory.devices WHERE id = ANY($1) AND last_seen <= $3 ORDER BY id FOR NO KEY UPDATE
		)
		UPDATE directory.devices d SET last_seen = $2 FROM due WHERE d.id = due.id`, ids, now, now.Add(-time.Minute))
	if err != nil {
		return nil, fmt.Errorf("directory: saw devices: %w", err)
	}
	return make([]struct{}, len(ids)), nil
}
