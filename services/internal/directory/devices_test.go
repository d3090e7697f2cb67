package directory

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/sekisho/sekisho/events"
	"github.com/sekisho/sekisho/services/internal/testenv"
)

const (
	lifetime = 10 * time.Minute
	most     = 3
)

var point = append([]byte{4}, make([]byte, 64)...)

func activate(t *testing.T, d *Devices, user string) string {
	t.Helper()
	code, expires, err := d.Activate(t.Context(), user, lifetime, most)
	if err != nil || len(code) < 24 || !expires.Equal(d.now().Add(lifetime)) {
		t.Fatalf("Activate = %q, %v, %v", code, expires, err)
	}
	return code
}

func enroll(t *testing.T, d *Devices, user, name string) Device {
	t.Helper()
	device, err := d.Enroll(t.Context(), activate(t, d, user), Device{Name: name, PublicKey: point, Gateway: "web"}, most)
	if err != nil {
		t.Fatal(err)
	}
	return device
}

func TestDevices(t *testing.T) {
	db, at := testenv.Migrated(t), newClock()
	admin, d, looks := openUsers(t, db, at.now), openDevices(t, db, "pushnotifier", at.now), openClaims(t, db, at.now)
	ctx := t.Context()
	alice, bob := create(t, admin, User{Name: "alice", Phone: "+819012345678"}, ""), create(t, admin, User{Name: "bob"}, "")

	first := enroll(t, d, alice.ID, "phone")
	want := Device{ID: first.ID, User: alice.ID, Kind: Sekisho, Name: "phone", PublicKey: point, Gateway: "web", Enrolled: at.now(), Seen: at.now()}
	same := func(got, want Device) bool {
		return got.ID == want.ID && got.User == want.User && got.Kind == want.Kind && got.Name == want.Name && slices.Equal(got.PublicKey, want.PublicKey) &&
			got.Gateway == want.Gateway && got.Transport == want.Transport && got.Enrolled.Equal(want.Enrolled) && got.Seen.Equal(want.Seen)
	}
	if !same(first, want) || len(first.ID) < 24 {
		t.Fatalf("enrolled %+v, want %+v", first, want)
	}
	if got, err := d.Get(ctx, first.ID); err != nil || !same(got, want) {
		t.Errorf("Get = %+v, %v", got, err)
	}
	if _, err := d.Get(ctx, "nothing"); !errors.Is(err, ErrNoDevice) {
		t.Errorf("Get of nothing: %v", err)
	}
	at.add(time.Second)
	second := enroll(t, d, alice.ID, "tablet")
	if list, err := d.List(ctx, alice.ID); err != nil || len(list) != 2 || list[0].ID != first.ID || list[1].ID != second.ID {
		t.Errorf("List = %+v, %v", list, err)
	}
	for user, factors := range map[string][]events.Factor{"alice": {events.SMS, events.Push}, "bob": nil} {
		if a, err := looks.Account(ctx, Who{Name: user}); err != nil || !slices.Equal(a.Factors, factors) {
			t.Errorf("factors of %s = %v, %v, want %v", user, a, err, factors)
		}
	}

	// Nobody touches another user's.
	if _, err := d.Rename(ctx, bob.ID, first.ID, "mine", ""); !errors.Is(err, ErrNoDevice) {
		t.Errorf("bob renames alice's: %v", err)
	}
	if err := d.Remove(ctx, bob.ID, first.ID, ""); !errors.Is(err, ErrNoDevice) {
		t.Errorf("bob removes alice's: %v", err)
	}
	if got, err := d.Rename(ctx, alice.ID, first.ID, "old phone", ""); err != nil || got.Name != "old phone" {
		t.Errorf("renamed to %+v, %v", got, err)
	}
	if err := openDevices(t, db, "console", at.now).Remove(ctx, alice.ID, first.ID, ""); err != nil {
		t.Fatal(err)
	}
	if err := d.Remove(ctx, alice.ID, first.ID, ""); !errors.Is(err, ErrNoDevice) {
		t.Errorf("removed twice: %v", err)
	}
	if err := admin.Delete(ctx, alice.ID); err != nil {
		t.Fatal(err)
	}
	if list, err := d.List(ctx, alice.ID); err != nil || len(list) != 0 {
		t.Errorf("devices of a deleted user = %+v, %v", list, err)
	}
}

func TestActivation(t *testing.T) {
	db, at := testenv.Migrated(t), newClock()
	admin, d := openUsers(t, db, at.now), openDevices(t, db, "pushnotifier", at.now)
	ctx := t.Context()
	u := create(t, admin, User{Name: "u"}, "").ID
	use := func(code string) error {
		_, err := d.Enroll(ctx, code, Device{Name: "phone", PublicKey: point, Gateway: "web"}, most)
		return err
	}

	if _, _, err := d.Activate(ctx, "nobody", lifetime, most); !errors.Is(err, ErrNotFound) {
		t.Errorf("activation of nobody: %v", err)
	}
	if err := use("guess"); !errors.Is(err, ErrNoActivation) {
		t.Errorf("a guess: %v", err)
	}
	late := activate(t, d, u)
	at.add(lifetime)
	if err := use(late); !errors.Is(err, ErrNoActivation) {
		t.Errorf("out of time: %v", err)
	}
	earlier := activate(t, openDevices(t, db, "console", at.now), u)
	later := activate(t, d, u)
	if err := use(earlier); !errors.Is(err, ErrNoActivation) {
		t.Errorf("replaced by a later one: %v", err)
	}
	for _, change := range []Change{{Locked: new(true)}, {Locked: new(false), Enabled: new(false)}} {
		if _, err := admin.Change(ctx, u, change); err != nil {
			t.Fatal(err)
		}
		if err := use(later); !errors.Is(err, ErrNoActivation) {
			t.Errorf("of an account that may not log in: %v", err)
		}
	}
	if _, err := admin.Change(ctx, u, Change{Enabled: new(true)}); err != nil {
		t.Fatal(err)
	}
	if err := use(later); err != nil {
		t.Errorf("back again: %v", err)
	}
	if err := use(later); !errors.Is(err, ErrNoActivation) {
		t.Errorf("used twice: %v", err)
	}
	activate(t, d, u)
	recorder := db.Pool(t, "recorder")
	left := func() (n int) {
		t.Helper()
		if err := db.Pool(t, "").QueryRow(ctx, `SELECT count(*) FROM directory.activations`).Scan(&n); err != nil {
			t.Fatal(err)
		}
		return n
	}
	if err := Purge(ctx, recorder, at.now()); err != nil || left() != 1 {
		t.Errorf("purged while it can be used: %v", err)
	}
	if err := Purge(ctx, recorder, at.now().Add(lifetime+time.Second)); err != nil || left() != 0 {
		t.Errorf("not purged when it is out of time: %v", err)
	}
	for range most - 1 {
		enroll(t, d, u, "another")
	}
	if _, _, err := d.Activate(ctx, u, lifetime, most); !errors.Is(err, ErrTooManyDevices) {
		t.Errorf("one device too many: %v", err)
	}
}

func TestActivationAtOnce(t *testing.T) {
	db, at := testenv.Migrated(t), newClock()
	admin, console := openUsers(t, db, at.now), openDevices(t, db, "console", at.now)
	phones := []*Devices{openDevices(t, db, "pushnotifier", at.now), openDevices(t, db, "pushnotifier", at.now)}
	for i := range 20 {
		u := create(t, admin, User{Name: string(rune('a' + i))}, "").ID
		code := activate(t, console, u)
		errs := make([]error, len(phones))
		var wg sync.WaitGroup
		for n, phone := range phones {
			wg.Go(func() {
				_, errs[n] = phone.Enroll(t.Context(), code, Device{Name: "phone", PublicKey: point, Gateway: "web"}, most)
			})
		}
		wg.Wait()
		list, err := phones[0].List(t.Context(), u)
		if err != nil || len(list) != 1 {
			t.Fatalf("two phones at once enrolled %d, %v (%v)", len(list), err, errs)
		}
		if (errs[0] == nil) == (errs[1] == nil) || !errors.Is(errors.Join(errs...), ErrNoActivation) {
			t.Fatalf("two phones at once: %v", errs)
		}
	}
}

func TestDeviceTarget(t *testing.T) {
	db, at := testenv.Migrated(t), newClock()
	admin, d := openUsers(t, db, at.now), openDevices(t, db, "pushnotifier", at.now)
	ctx := t.Context()
	device := enroll(t, d, create(t, admin, User{Name: "u"}, "").ID, "phone")
	look := func() Device {
		t.Helper()
		found, err := d.Get(ctx, device.ID)
		if err != nil {
			t.Fatal(err)
		}
		return found
	}
	old, fresh := json.RawMessage(`{"token": "old"}`), json.RawMessage(`{"token": "new"}`)
	for _, target := range []json.RawMessage{old, fresh} {
		if err := d.SetTarget(ctx, device.ID, FCM, target); err != nil {
			t.Fatal(err)
		}
	}
	if err := d.DropTarget(ctx, device.ID, old); err != nil {
		t.Fatal(err)
	}
	if got := look(); got.Transport != FCM || string(got.Target) != string(fresh) {
		t.Errorf("dropping an old target took the new one: %+v", got)
	}
	if err := d.DropTarget(ctx, device.ID, look().Target); err != nil {
		t.Fatal(err)
	}
	if got := look(); got.Transport != Polling || got.Target != nil {
		t.Errorf("dropped target = %+v", got)
	}
	if err := d.SetTarget(ctx, device.ID, WebPush, nil); err == nil {
		t.Error("a transport without a target was stored")
	}

	at.add(59 * time.Second)
	if err := d.Saw(ctx, device.ID); err != nil || !look().Seen.Equal(device.Seen) {
		t.Errorf("seen again within a minute: %v, %v", look().Seen, err)
	}
	at.add(time.Second)
	if err := d.Saw(ctx, device.ID); err != nil || !look().Seen.Equal(at.now()) {
		t.Errorf("seen after a minute: %v, %v", look().Seen, err)
	}
}

// Many at once share statements, and each gets its own.
func TestDevicesAtOnce(t *testing.T) {
	db, at := testenv.Migrated(t), newClock()
	admin, d := openUsers(t, db, at.now), openDevices(t, db, "pushnotifier", at.now)
	ctx := t.Context()
	owned := make(map[string][]string) // ids of devices, the oldest first
	for i := range 5 {
		u := create(t, admin, User{Name: string(rune('a' + i))}, "").ID
		for range i % 3 {
			owned[u] = append(owned[u], enroll(t, d, u, "phone").ID)
			at.add(time.Second)
		}
		owned[u] = append(owned[u], "") // so that users without any are in
	}
	at.add(time.Hour)
	var wg sync.WaitGroup
	for range 20 {
		for u, ids := range owned {
			wg.Go(func() {
				found, err := d.List(ctx, u)
				same := len(found) == len(ids)-1
				for i := range found {
					same = same && found[i].User == u && found[i].ID == ids[i]
				}
				if err != nil || !same {
					t.Errorf("devices of %s: %+v, %v, want %v", u, found, err, ids)
				}
			})
			for _, id := range ids {
				wg.Go(func() {
					if err := d.Saw(ctx, id); err != nil {
						t.Error(err)
					}
					found, err := d.Get(ctx, id)
					if id == "" && !errors.Is(err, ErrNoDevice) || id != "" && (err != nil || found.ID != id || found.User != u || !found.Seen.Equal(at.now())) {
						t.Errorf("device %q: %+v, %v", id, found, err)
					}
				})
			}
		}
	}
	wg.Wait()
}

// A user who holds several invitations at once, as parallel requests give, gets no more devices than a user may have.
func TestDevicesAreCounted(t *testing.T) {
	db, at := testenv.Migrated(t), newClock()
	admin, console := openUsers(t, db, at.now), openDevices(t, db, "console", at.now)
	phones := []*Devices{openDevices(t, db, "pushnotifier", at.now), openDevices(t, db, "pushnotifier", at.now)}
	super, ctx := db.Pool(t, ""), t.Context()
	for round := range 10 {
		u := create(t, admin, User{Name: string(rune('a' + round))}, "").ID
		const enrolls, links = 6, 2
		for i := range enrolls {
			_, err := super.Exec(ctx, `INSERT INTO directory.activations (hash, user_id, expires_at, created_at) VALUES ($1, $2, $3, $4)`,
				activationHash(fmt.Sprint(u, i)), u, at.now().Add(lifetime), at.now())
			if err != nil {
				t.Fatal(err)
			}
		}
		errs := make([]error, enrolls+links)
		var wg sync.WaitGroup
		for i := range enrolls {
			wg.Go(func() {
				_, errs[i] = phones[i%2].Enroll(ctx, fmt.Sprint(u, i), Device{Name: "phone", PublicKey: point, Gateway: "web"}, most)
			})
		}
		for i := range links {
			wg.Go(func() {
				_, _, errs[enrolls+i] = console.Link(ctx, Device{User: u, Name: "Mamoru", Account: fmt.Sprint(i), Gateway: "web"}, most)
			})
		}
		wg.Wait()
		list, err := phones[0].List(ctx, u)
		if err != nil || len(list) != most {
			t.Fatalf("%d devices, %v, want %d", len(list), err, most)
		}
		refused := slices.DeleteFunc(errs, func(err error) bool { return err == nil })
		if len(refused) != enrolls+links-most || slices.ContainsFunc(refused, func(err error) bool { return !errors.Is(err, ErrTooManyDevices) }) {
			t.Fatalf("refused: %v", refused)
		}
		// The invitation of who was refused is still good, once there is room.
		if err := console.Remove(ctx, u, list[0].ID, ""); err != nil {
			t.Fatal(err)
		}
		used := 0
		for i := range enrolls {
			if _, err := phones[0].Enroll(ctx, fmt.Sprint(u, i), Device{Name: "phone", PublicKey: point, Gateway: "web"}, most); err == nil {
				used++
			}
		}
		if used != 1 {
			t.Fatalf("%d enrolled where there was room for one", used)
		}
	}
}

func TestLink(t *testing.T) {
	db, at := testenv.Migrated(t), newClock()
	admin, console, d := openUsers(t, db, at.now), openDevices(t, db, "console", at.now), openDevices(t, db, "pushnotifier", at.now)
	ctx := t.Context()
	u := create(t, admin, User{Name: "u"}, "").ID
	if _, _, err := console.Link(ctx, Device{User: "nobody", Name: "x", Account: "y"}, most); !errors.Is(err, ErrNotFound) {
		t.Errorf("link of nobody: %v", err)
	}
	id, name, err := console.Link(ctx, Device{User: u, Name: "Mamoru", Account: "u@mamoru", Gateway: "web"}, most)
	if err != nil || name != "Mamoru" {
		t.Fatal(name, err)
	}
	if got, err := d.Get(ctx, id); err != nil || got.Kind != Mamoru || got.Account != "u@mamoru" || got.PublicKey != nil || got.User != u {
		t.Errorf("linked %+v, %v", got, err)
	}
	left := len(outbox(t, db))
	if again, name, err := console.Link(ctx, Device{User: u, Name: "another name", Account: "u@mamoru", Gateway: "web"}, 1); again != id || name != "Mamoru" || err != nil {
		t.Errorf("linked again: %q, %q, %v", again, name, err)
	}
	if _, _, err := console.Link(ctx, Device{User: u, Name: "Mamoru", Account: "other", Gateway: "web"}, 1); !errors.Is(err, ErrTooManyDevices) {
		t.Errorf("one too many: %v", err)
	}
	if n := len(outbox(t, db)); n != left {
		t.Errorf("%d events of links that changed nothing", n-left)
	}
}
