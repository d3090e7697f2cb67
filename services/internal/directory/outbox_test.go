package directory

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/rs/zerolog"

	"github.com/sekisho/sekisho/services/internal/bus"
	"github.com/sekisho/sekisho/services/internal/testenv"
)

// outbox is what is left to publish, the oldest first: "worker kind user data".
func outbox(t *testing.T, db *testenv.Database) []string {
	t.Helper()
	rows, err := db.Pool(t, "").Query(t.Context(), `SELECT concat_ws(' ', source, kind, user_id, data) FROM directory.outbox ORDER BY id`)
	if err != nil {
		t.Fatal(err)
	}
	left, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		t.Fatal(err)
	}
	return left
}

// Each change leaves the event that says so and wakes the relay, and a change that was not made leaves none.
func TestOutbox(t *testing.T) {
	db, at := testenv.Migrated(t), newClock()
	o := NewOutbox(db.Pool(t, "console"), at.now)
	admin, console, phones := NewUsers(o), NewDevices(o), openDevices(t, db, "pushnotifier", at.now)
	t.Cleanup(console.Close)
	ctx := t.Context()
	check := func(_ any, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	woken := func() {
		t.Helper()
		select {
		case <-o.fresh:
		default:
			t.Error("the relay is not woken")
		}
	}
	u := create(t, admin, User{Name: "u", Phone: "+819012345678"}, "hash").ID
	check(admin.Change(ctx, u, Change{Phone: new(""), Locale: new("en"), Locked: new(true)}))
	check(admin.Change(ctx, u, Change{}))
	check(nil, admin.Unlock(ctx, u))
	woken()
	phone := enroll(t, phones, u, "phone").ID
	check(phones.Rename(ctx, u, phone, "old phone", phone))
	link, _, err := console.Link(ctx, Device{User: u, Name: "Mamoru", Account: "u", Gateway: "web"}, most)
	check(nil, err)
	woken()
	check(nil, console.Remove(ctx, u, link, ""))
	check(nil, phones.Remove(ctx, u, phone, phone))
	check(nil, o.Announce(ctx, "sessions_revoked", u, map[string]int{"sessions": 2}))
	check(nil, admin.Delete(ctx, u))

	for what, err := range map[string]error{
		"changed":  func() error { _, err := admin.Change(ctx, u, Change{Locked: new(true)}); return err }(),
		"renamed":  func() error { _, err := phones.Rename(ctx, u, phone, "x", ""); return err }(),
		"removed":  phones.Remove(ctx, u, phone, ""),
		"enrolled": func() error { _, err := phones.Enroll(ctx, "x", Device{}, most); return err }(),
	} {
		if err == nil {
			t.Errorf("%s of a user who is gone", what)
		}
	}
	check(nil, admin.Unlock(ctx, u))
	check(nil, admin.Delete(ctx, u))

	want := []string{
		`console created ` + u + ` {"authenticators":["password","sms"],"primary":"password"}`,
		`console changed ` + u + ` {"fields":["locale","phone"]}`,
		`console locked ` + u + ` {}`,
		`console unlocked ` + u + ` {}`,
		`pushnotifier device-enrolled ` + u + ` {"device":"` + phone + `","by":"` + phone + `"}`,
		`pushnotifier device-renamed ` + u + ` {"device":"` + phone + `","by":"` + phone + `"}`,
		`console device-enrolled ` + u + ` {"device":"` + link + `"}`,
		`console device-removed ` + u + ` {"device":"` + link + `"}`,
		`pushnotifier device-removed ` + u + ` {"device":"` + phone + `","by":"` + phone + `"}`,
		`console sessions_revoked ` + u + ` {"sessions":2}`,
		`console deleted ` + u + ` {}`,
	}
	if got := outbox(t, db); !slices.Equal(got, want) {
		t.Errorf("outbox %q\nwant %q", got, want)
	}
}

// relays runs Relay in so many processes until the test ends; all of them publish to the channel.
func relays(t *testing.T, published chan<- bus.AccountEvent, all ...*Outbox) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	for _, o := range all {
		running.Go(func() {
			err := o.Relay(ctx, zerolog.Nop(), func(_ context.Context, e bus.AccountEvent) error { published <- e; return nil })
			if err != nil {
				t.Error(err)
			}
		})
	}
	t.Cleanup(func() { cancel(); running.Wait() })
}

func next(t *testing.T, published <-chan bus.AccountEvent) bus.AccountEvent {
	t.Helper()
	select {
	case e := <-published:
		return e
	case <-time.After(20 * time.Second):
		t.Fatal("nothing is published")
		return bus.AccountEvent{}
	}
}

// What a process leaves that dies between commit and publish is published by another, under the name of the first.
func TestRelayOfWhatAnotherLeft(t *testing.T) {
	db, at := testenv.Migrated(t), newClock()
	dead := openUsers(t, db, at.now)
	u := create(t, dead, User{Name: "u"}, "").ID
	published := make(chan bus.AccountEvent, 10)
	relays(t, published, NewOutbox(db.Pool(t, "pushnotifier"), newClock().now))
	e := next(t, published)
	if id, err := uuid.Parse(e.ID); err != nil || id.Version() != 7 {
		t.Errorf("id %q", e.ID)
	}
	e.ID = ""
	if want := fmt.Sprint(bus.AccountEvent{Source: "console", Kind: "created", User: u, Time: at.now(), Data: e.Data}); fmt.Sprint(utc(e)) != want {
		t.Errorf("published %+v, want %s", e, want)
	}
	create(t, dead, User{Name: "later"}, "") // nobody wakes the other
	if e := next(t, published); e.Kind != "created" {
		t.Errorf("published %+v", e)
	}
}

func utc(e bus.AccountEvent) bus.AccountEvent {
	e.Time = e.Time.UTC()
	return e
}

// Several relays publish each event once, and the events of a user in their order.
func TestRelays(t *testing.T) {
	db, at := testenv.Migrated(t), newClock()
	all := []*Outbox{NewOutbox(db.Pool(t, "console"), at.now), NewOutbox(db.Pool(t, "console"), at.now), NewOutbox(db.Pool(t, "pushnotifier"), at.now)}
	admins := []*Users{NewUsers(all[0]), NewUsers(all[1])}
	published := make(chan bus.AccountEvent, 10_000)
	relays(t, published, all...)
	const users, changes = 4, 40
	var wg sync.WaitGroup
	for i := range users {
		wg.Go(func() {
			u, err := admins[i%2].Create(t.Context(), User{Name: fmt.Sprint("u", i), Locale: "ja", Primary: Password}, "")
			for n := range changes {
				if err == nil {
					_, err = admins[n%2].Change(t.Context(), u.ID, Change{Locked: new(n%2 == 0)})
				}
			}
			if err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	seen, of := make(map[string]bool), make(map[string]int)
	for range users * (changes + 1) {
		e := next(t, published)
		want := []string{"unlocked", "locked"}[of[e.User]%2]
		if of[e.User] == 0 {
			want = "created"
		}
		if seen[e.ID] || e.Kind != want {
			t.Fatalf("published %+v as event %d of the user, before: %v", e, of[e.User], seen[e.ID])
		}
		seen[e.ID] = true
		of[e.User]++
	}
	if _, err := all[0].relay(t.Context(), func(_ context.Context, e bus.AccountEvent) error { return fmt.Errorf("%+v is left", e) }); err != nil {
		t.Error(err)
	}
	if n := len(published); n > 0 {
		t.Errorf("%d events more than changes", n)
	}
}

// What the broker takes is deleted, and what it does not take stays, with everything after it.
func TestRelayOfRefusedEvents(t *testing.T) {
	db, at := testenv.Migrated(t), newClock()
	o := NewOutbox(db.Pool(t, "console"), at.now)
	for i := range 3 {
		create(t, NewUsers(o), User{Name: fmt.Sprint(i)}, "")
	}
	left := outbox(t, db)
	away, n := errors.New("the bus is away"), 0
	_, err := o.relay(t.Context(), func(context.Context, bus.AccountEvent) error {
		if n++; n == 2 {
			return away
		}
		return nil
	})
	if !errors.Is(err, away) || n != 2 {
		t.Errorf("%d tried, %v", n, err)
	}
	if got := outbox(t, db); !slices.Equal(got, left[1:]) {
		t.Errorf("left %q, want %q", got, left[1:])
	}
}

// A broker that takes its time must not hold a transaction for ever: what it has taken is deleted before the rest is tried.
func TestRelayToASlowBroker(t *testing.T) {
	db, at := testenv.Migrated(t), newClock()
	o := NewOutbox(db.Pool(t, "console"), at.now)
	for i := range 4 {
		create(t, NewUsers(o), User{Name: fmt.Sprint(i)}, "")
	}
	left := outbox(t, db)
	more, err := o.relay(t.Context(), func(context.Context, bus.AccountEvent) error { at.add(relayHold/2 + time.Second); return nil })
	if err != nil || !more {
		t.Errorf("more %v, %v", more, err)
	}
	if got := outbox(t, db); !slices.Equal(got, left[2:]) {
		t.Errorf("left %q, want %q", got, left[2:])
	}
}
