package directory

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sekisho/sekisho/events"
	"github.com/sekisho/sekisho/services/internal/testenv"
)

func TestMain(m *testing.M) { testenv.Main(m) }

var rule = Rule{After: 5, First: time.Minute, Max: time.Hour, DisableAfter: 100}

// clock is a time that the test moves.
type clock struct {
	mu sync.Mutex
	t  time.Time
}

func newClock() *clock { return &clock{t: time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC)} }

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.t
}

func (c *clock) add(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.t = c.t.Add(d)
}

// openUsers gives a Users with the privileges of an admin.
func openUsers(t *testing.T, db *testenv.Database, now func() time.Time) *Users {
	t.Helper()
	return NewUsers(NewOutbox(db.Pool(t, "console"), now))
}

// openDevices gives a Devices with the privileges of a worker.
func openDevices(t *testing.T, db *testenv.Database, role string, now func() time.Time) *Devices {
	t.Helper()
	d := NewDevices(NewOutbox(db.Pool(t, role), now))
	t.Cleanup(d.Close)
	return d
}

// openAttempts gives an Attempts with the privileges of a worker.
func openAttempts(t *testing.T, db *testenv.Database, role string, now func() time.Time) *Attempts {
	t.Helper()
	a := NewAttempts(db.Pool(t, role), rule, now)
	t.Cleanup(a.Close)
	return a
}

// openClaims gives a Claims with the privileges of identityverifier.
func openClaims(t *testing.T, db *testenv.Database, now func() time.Time) *Claims {
	t.Helper()
	c := NewClaims(db.Pool(t, "identityverifier"), rule, now)
	t.Cleanup(c.Close)
	return c
}

func create(t *testing.T, admin *Users, u User, hash string) User {
	t.Helper()
	if u.Locale == "" {
		u.Locale, u.Primary = "ja", Password
	}
	created, err := admin.Create(t.Context(), u, hash)
	if err != nil {
		t.Fatal(err)
	}
	return created
}

func TestUsers(t *testing.T) {
	db, at := testenv.Migrated(t), newClock()
	d := openUsers(t, db, at.now)
	ctx := t.Context()

	alice := create(t, d, User{Name: "alice", Locale: "en", Primary: Password, Phone: "+819012345678"}, "$hash")
	want := User{ID: alice.ID, Name: "alice", Locale: "en", Primary: Password, Enabled: true, Phone: "+819012345678",
		HasPassword: true, Created: at.now(), Changed: at.now()}
	alice.Created, alice.Changed = alice.Created.UTC(), alice.Changed.UTC()
	if alice != want || len(alice.ID) < 20 {
		t.Fatalf("created %+v, want %+v", alice, want)
	}
	if _, err := d.Create(ctx, User{Name: "alice", Locale: "ja", Primary: Password}, ""); !errors.Is(err, ErrTaken) {
		t.Errorf("second alice: %v, want ErrTaken", err)
	}
	if _, err := d.Get(ctx, "nobody"); !errors.Is(err, ErrNotFound) {
		t.Errorf("nobody: %v, want ErrNotFound", err)
	}

	at.add(time.Minute)
	off := false
	changed, err := d.Change(ctx, alice.ID, Change{Phone: new(""), Locale: new("ja"), Enabled: &off})
	if err != nil || changed.Phone != "" || changed.Locale != "ja" || changed.Enabled || !changed.HasPassword || !changed.Changed.Equal(at.now()) {
		t.Errorf("changed to %+v, %v", changed, err)
	}
	if _, err := d.Change(ctx, "nobody", Change{}); !errors.Is(err, ErrNotFound) {
		t.Errorf("change nobody: %v, want ErrNotFound", err)
	}
	if err := d.Delete(ctx, alice.ID); err != nil {
		t.Fatal(err)
	}
	if _, err := d.Get(ctx, "alice"); !errors.Is(err, ErrNotFound) {
		t.Errorf("deleted alice: %v, want ErrNotFound", err)
	}
}

func TestUsersByPrefix(t *testing.T) {
	d := openUsers(t, testenv.Migrated(t), newClock().now)
	for i := range PageSize + 1 {
		create(t, d, User{Name: fmt.Sprintf("a%02d", i)}, "")
	}
	create(t, d, User{Name: "b%"}, "")
	for _, tt := range []struct {
		prefix string
		page   int
		first  string
		n      int
		more   bool
	}{
		{"", 1, "a00", PageSize, true},
		{"", 2, "a50", 2, false},
		{"a1", 1, "a10", 10, false},
		{"b%", 1, "b%", 1, false},
		{"%", 1, "", 0, false},
	} {
		users, more, err := d.List(t.Context(), tt.prefix, tt.page)
		if err != nil || len(users) != tt.n || more != tt.more || tt.n > 0 && users[0].Name != tt.first {
			t.Errorf("List(%q, %d) = %d users, more %v, %v", tt.prefix, tt.page, len(users), more, err)
		}
	}
}

// nobody is told what an attempt came to.
func nobody() error { return nil }

// guess begins and finishes one attempt, and reports whether it was looked at.
func guess(t *testing.T, d *Attempts, event, authenticator, device string, right bool) bool {
	t.Helper()
	a := Attempt{Event: event, Digest: []byte(event), Authenticator: authenticator, Device: device}
	s, err := d.Begin(t.Context(), a)
	if err != nil {
		t.Fatal(err)
	}
	verdict := "wrong"
	if right && s.Allowed {
		verdict = "right"
	}
	if err := d.Finish(t.Context(), Result{a, verdict, right && s.Allowed}, nobody); err != nil {
		t.Fatal(err)
	}
	return s.Allowed
}

func TestParallelGuesses(t *testing.T) {
	db, at := testenv.Migrated(t), newClock()
	processes := []*Attempts{openAttempts(t, db, "identityverifier", at.now), openAttempts(t, db, "otpvalidator", at.now)}
	var wg sync.WaitGroup
	allowed := make(chan bool, 50)
	for i := range 50 {
		wg.Go(func() {
			s, err := processes[i%2].Begin(t.Context(), Attempt{Event: fmt.Sprint(i), Digest: []byte{1}, Authenticator: "sms:u"})
			if err != nil {
				t.Error(err)
			}
			allowed <- s.Allowed
		})
	}
	wg.Wait()
	close(allowed)
	n := 0
	for ok := range allowed {
		if ok {
			n++
		}
	}
	if n != rule.After {
		t.Errorf("%d of 50 parallel guesses may be looked at, want %d", n, rule.After)
	}
}

func TestLockGrows(t *testing.T) {
	db, at := testenv.Migrated(t), newClock()
	d, n := openAttempts(t, db, "identityverifier", at.now), 0
	try := func(right bool) bool { n++; return guess(t, d, fmt.Sprint(n), "password:u", "", right) }
	for range rule.After {
		if !try(false) {
			t.Fatal("locked too early")
		}
	}
	for failures, lock := rule.After, rule.First; failures < rule.DisableAfter; failures, lock = failures+1, min(2*lock, rule.Max) {
		if try(true) {
			t.Fatalf("%d failures: not locked", failures)
		}
		at.add(lock - time.Millisecond)
		if try(true) {
			t.Fatalf("%d failures: locked for less than %v", failures, lock)
		}
		at.add(time.Millisecond)
		if !try(false) {
			t.Fatalf("%d failures: locked for longer than %v", failures, lock)
		}
	}
	at.add(1000 * 24 * time.Hour)
	if try(true) {
		t.Fatal("not disabled")
	}
	admin := openUsers(t, db, at.now)
	u := create(t, admin, User{Name: "u"}, "")
	if err := admin.Unlock(t.Context(), u.ID); err != nil { // of somebody else
		t.Fatal(err)
	}
	if try(true) {
		t.Fatal("unlocking another user unlocked this one")
	}
	if err := admin.Unlock(t.Context(), "u"); err != nil {
		t.Fatal(err)
	}
	if !try(true) {
		t.Fatal("still disabled after an admin unlocked")
	}
}

func TestRightAnswerInTime(t *testing.T) {
	db, at := testenv.Migrated(t), newClock()
	d := openAttempts(t, db, "identityverifier", at.now)
	for i := range rule.After - 1 {
		guess(t, d, fmt.Sprint("wrong", i), "password:u", "", false)
	}
	if !guess(t, d, "right", "password:u", "", true) {
		t.Fatal("the last attempt before the lock was not looked at")
	}
	for i := range rule.After { // it took everything back
		if !guess(t, d, fmt.Sprint("again", i), "password:u", "", false) {
			t.Fatalf("locked after %d failures since a success", i)
		}
	}
}

// TestNobodyLearnsBeforeItIsStored: a wrong guess is in the database for good when it is told of, and a right one's login does not wait for that.
func TestNobodyLearnsBeforeItIsStored(t *testing.T) {
	db := testenv.Migrated(t)
	d, admin := openAttempts(t, db, "identityverifier", time.Now), db.Pool(t, "")
	for verdict, want := range map[string]string{"wrong": "wrong", "right": ""} {
		a := Attempt{Event: verdict, Digest: []byte(verdict), Authenticator: "password:" + verdict}
		if s, err := d.Begin(t.Context(), a); err != nil || !s.Allowed {
			t.Fatalf("Begin = %+v, %v", s, err)
		}
		stored := "not told"
		err := d.Finish(t.Context(), Result{a, verdict, verdict == "right"}, func() error {
			return admin.QueryRow(t.Context(), `SELECT verdict FROM directory.verdicts WHERE event = $1`, a.Event).Scan(&stored)
		})
		if err != nil || stored != want {
			t.Errorf("%s: told while the verdict was %q, %v", verdict, stored, err)
		}
		away := errors.New("the bus is away")
		if err := d.Finish(t.Context(), Result{a, verdict, verdict == "right"}, func() error { return away }); !errors.Is(err, away) {
			t.Errorf("%s: %v, want that it was not told", verdict, err)
		}
	}
}

func TestRepeatedEvent(t *testing.T) {
	db, at := testenv.Migrated(t), newClock()
	d := openAttempts(t, db, "identityverifier", at.now)
	ctx := t.Context()
	a := Attempt{Event: "e", Digest: []byte("payload"), Authenticator: "password:u"}
	for range 3 { // redelivered before a verdict
		if s, err := d.Begin(ctx, a); err != nil || s != (Standing{Allowed: true}) {
			t.Fatalf("Begin = %+v, %v", s, err)
		}
	}
	for range 2 {
		if err := d.Finish(ctx, Result{a, "wrong", false}, nobody); err != nil {
			t.Fatal(err)
		}
	}
	if err := d.Finish(ctx, Result{a, "right", true}, nobody); err != nil { // too late to be another verdict
		t.Fatal(err)
	}
	if s, err := d.Begin(ctx, a); err != nil || s != (Standing{Allowed: true, Verdict: "wrong"}) {
		t.Fatalf("Begin after the verdict = %+v, %v", s, err)
	}
	other := a
	other.Digest = []byte("another payload")
	if s, err := d.Begin(ctx, other); err != nil || s != (Standing{}) {
		t.Fatalf("Begin of another payload = %+v, %v", s, err)
	}
	for i := range rule.After - 1 { // all of the above counted once
		if !guess(t, d, fmt.Sprint(i), "password:u", "", false) {
			t.Fatalf("attempt %d: repeats were counted", i)
		}
	}
	if guess(t, d, "last", "password:u", "", true) {
		t.Fatal("not locked")
	}
	if s, err := d.Begin(ctx, a); err != nil || s != (Standing{Allowed: true, Verdict: "wrong"}) {
		t.Fatalf("Begin of the old event while locked = %+v, %v", s, err)
	}
}

// Two processes get one event at the same moment: whoever comes second must not count it again.
func TestSameEventAtOnce(t *testing.T) {
	db, at := testenv.Migrated(t), newClock()
	processes := []*Attempts{openAttempts(t, db, "identityverifier", at.now), openAttempts(t, db, "identityverifier", at.now)}
	for i := range 200 {
		a := Attempt{Event: fmt.Sprint(i), Digest: []byte{1}, Authenticator: fmt.Sprint("sms:", i)}
		var wg sync.WaitGroup
		for _, d := range processes {
			wg.Go(func() {
				if s, err := d.Begin(t.Context(), a); err != nil || !s.Allowed {
					t.Errorf("Begin = %+v, %v", s, err)
				}
			})
		}
		wg.Wait()
	}
	var most int
	if err := db.Pool(t, "").QueryRow(t.Context(), `SELECT max(failures) FROM directory.counters`).Scan(&most); err != nil || most != 1 {
		t.Errorf("one event counted %d times, %v", most, err)
	}
}

func TestDeviceCounter(t *testing.T) {
	db, at := testenv.Migrated(t), newClock()
	d := openAttempts(t, db, "identityverifier", at.now)
	for i := range 3 * rule.After {
		guess(t, d, fmt.Sprint("outsider", i), "password:u", "", false)
	}
	if !guess(t, d, "owner", "password:u", "phone", true) {
		t.Fatal("an outsider's failures lock the owner's device out")
	}
	if guess(t, d, "outsider", "password:u", "", true) {
		t.Fatal("a success on a device unlocked everybody else")
	}

	at.add(24 * time.Hour)
	looked := 0
	for i := range 50 {
		if guess(t, d, fmt.Sprint("thief", i), "password:v", "phone", false) {
			looked++
		}
	}
	if looked != 2*rule.After { // the device's own, then with everybody else
		t.Errorf("%d guesses from a known device were looked at, want %d", looked, 2*rule.After)
	}
	at.add(rule.First)
	if !guess(t, d, "back", "password:v", "phone", true) || !guess(t, d, "back again", "password:v", "phone", true) {
		t.Error("the device does not come back after the lock")
	}
	if !guess(t, d, "other", "password:v", "", false) {
		t.Error("a success that counted with everybody else did not unlock")
	}
}

// A gateway whose key was stolen can bring a device that nobody knows with each guess, and say that the user logged in with it.
func TestDevicesTogether(t *testing.T) {
	db, at := testenv.Migrated(t), newClock()
	d := openAttempts(t, db, "identityverifier", at.now)
	if !guess(t, d, "owner", "password:u", "phone", true) {
		t.Fatal("the owner's login was not looked at")
	}
	looked := 0
	for i := range 3 * rule.DisableAfter {
		if guess(t, d, fmt.Sprint("thief", i), "password:u", fmt.Sprint("device", i), false) {
			looked++
		}
	}
	if want := rule.DisableAfter + rule.After; looked != want { // the devices' own, then with everybody else
		t.Errorf("%d guesses were looked at, want %d", looked, want)
	}
	if !guess(t, d, "owner again", "password:u", "phone", true) {
		t.Error("the owner's device is locked out")
	}
	if !guess(t, d, "another", "password:v", "phone", true) {
		t.Error("another user is locked out")
	}
}

func TestFirstLockLongerThanTheLongest(t *testing.T) {
	db, at := testenv.Migrated(t), newClock()
	d := NewAttempts(db.Pool(t, "identityverifier"), Rule{After: 1, First: 2 * time.Hour, Max: time.Hour, DisableAfter: 100}, at.now)
	defer d.Close()
	guess(t, d, "wrong", "password:u", "", false)
	at.add(2*time.Hour - time.Second)
	if guess(t, d, "early", "password:u", "", true) {
		t.Error("the lock is shorter than the rule's First")
	}
	at.add(time.Second)
	if !guess(t, d, "late", "password:u", "", true) {
		t.Error("the lock is longer than the rule's First")
	}
}

// What must not be told apart from outside must do the same work.
func TestUnknownNameCountsLikeAKnownOne(t *testing.T) {
	db, at := testenv.Migrated(t), newClock()
	d := openAttempts(t, db, "identityverifier", at.now)
	known, unknown := 0, 0
	for i := range 10 {
		if guess(t, d, fmt.Sprint("known", i), "password:u", "", false) {
			known++
		}
		if guess(t, d, fmt.Sprint("unknown", i), "password:?0123", "", false) {
			unknown++
		}
	}
	if known != unknown || known != rule.After {
		t.Errorf("%d attempts of a known name looked at, %d of an unknown one", known, unknown)
	}
}

func TestAccount(t *testing.T) {
	db, at := testenv.Migrated(t), newClock()
	admin, d := openUsers(t, db, at.now), openClaims(t, db, at.now)
	ctx := t.Context()
	alice := create(t, admin, User{Name: "alice", Phone: "+819012345678"}, "$hash")
	create(t, admin, User{Name: "carol", Locale: "en", Primary: Token}, "")

	look := func(who Who) *Account {
		t.Helper()
		a, err := d.Account(ctx, who)
		if err != nil {
			t.Fatal(err)
		}
		return a
	}
	var wg sync.WaitGroup
	for range 20 { // many of one name in one batch
		wg.Go(func() {
			if a := look(Who{Name: "alice"}); a == nil || a.ID != alice.ID || a.Password != "$hash" || !a.Enabled || a.Locked ||
				!slices.Equal(a.Factors, []events.Factor{events.SMS}) || a.Device != "" {
				t.Errorf("alice = %+v", a)
			}
			if a := look(Who{Name: "carol"}); a == nil || a.Primary != Token || a.Locale != "en" || a.Password != "" || a.Factors != nil {
				t.Errorf("carol = %+v", a)
			}
			if a := look(Who{Name: "nobody"}); a != nil {
				t.Errorf("nobody = %+v", a)
			}
		})
	}
	wg.Wait()

	mine, others := Who{"alice", "dev", []string{"x", alice.ID}}, Who{"alice", "dev", []string{"x"}}
	if a := look(mine); a.Device != "dev" {
		t.Errorf("alice on her device = %+v", a)
	}
	if a := look(others); a.Device != "" {
		t.Errorf("alice on somebody else's device = %+v", a)
	}
	for i := range rule.After {
		guess(t, d.Attempts, fmt.Sprint(i), SMSOf(alice.ID), "", false)
	}
	if a := look(others); a.Factors != nil {
		t.Errorf("factors while locked = %v", a.Factors)
	}
	if a := look(mine); a.Factors == nil {
		t.Error("an outsider's failures took the factor from the owner's device")
	}
	for i := range rule.After {
		guess(t, d.Attempts, fmt.Sprint("dev", i), SMSOf(alice.ID), "dev", false)
	}
	if a := look(mine); a.Factors != nil {
		t.Errorf("factors on a device that was given up, while locked = %v", a.Factors)
	}
	list, err := admin.Authenticators(ctx, alice.ID)
	if err != nil || len(list) != 2 || list[0].ID != "password" || list[0].Locked || list[1].ID != "sms" || !list[1].Locked || list[1].Failures != rule.After {
		t.Errorf("authenticators = %+v, %v", list, err)
	}
	if _, err := admin.Change(ctx, alice.ID, Change{Phone: new("+819087654321")}); err != nil {
		t.Fatal(err)
	}
	if a := look(others); a.Factors == nil {
		t.Error("a new phone is locked by the failures of the old one")
	}
}

func TestGeneration(t *testing.T) {
	db, at := testenv.Migrated(t), newClock()
	admin, verifier, phones := openUsers(t, db, at.now), openClaims(t, db, at.now), openDevices(t, db, "pushnotifier", at.now)
	u := create(t, admin, User{Name: "u"}, "hash")
	device := enroll(t, phones, u.ID, "phone").ID
	change := func(c Change) func() error {
		return func() error {
			_, err := admin.Change(t.Context(), u.ID, c)
			return err
		}
	}
	generation := 1
	for _, step := range []struct {
		what string
		do   func() error
		ends bool
	}{
		{"another password", change(Change{PasswordHash: new("other")}), true},
		{"another number", change(Change{Phone: new("+819011112222")}), true},
		{"no number", change(Change{Phone: new("")}), true},
		{"a lock", change(Change{Locked: new(true)}), true},
		{"an unlock", func() error { return admin.Unlock(t.Context(), u.ID) }, false},
		{"disabled", change(Change{Enabled: new(false)}), true},
		{"enabled", change(Change{Enabled: new(true)}), false},
		{"another language", change(Change{Locale: new("en")}), false},
		{"a phone less", func() error { return phones.Remove(t.Context(), u.ID, device, "") }, true},
	} {
		if err := step.do(); err != nil {
			t.Fatal(step.what, err)
		}
		if step.ends {
			generation++
		}
		if a, err := verifier.Account(t.Context(), Who{Name: "u"}); err != nil || a.Generation != generation {
			t.Errorf("after %s: %+v, %v, want generation %d", step.what, a, err, generation)
		}
	}
}

func TestMayLogIn(t *testing.T) {
	db, at := testenv.Migrated(t), newClock()
	admin, d := openUsers(t, db, at.now), NewAccounts(db.Pool(t, "sessionissuer"))
	t.Cleanup(d.Close)
	ids := map[string]string{"nobody": "nobody"}
	for _, name := range []string{"good", "disabled", "locked"} {
		ids[name] = create(t, admin, User{Name: name}, "").ID
	}
	admin.Change(t.Context(), ids["disabled"], Change{Enabled: new(false)})
	admin.Change(t.Context(), ids["locked"], Change{Locked: new(true)})
	var wg sync.WaitGroup
	for name, id := range ids {
		for range 3 {
			wg.Go(func() {
				if may, err := d.MayLogIn(t.Context(), id); err != nil || may != (name == "good") {
					t.Errorf("%s may log in: %v, %v", name, may, err)
				}
			})
		}
	}
	wg.Wait()
}

func TestPurge(t *testing.T) {
	db, at := testenv.Migrated(t), newClock()
	d, recorder := openAttempts(t, db, "identityverifier", at.now), db.Pool(t, "recorder")
	guess(t, d, "1", "password:u", "", false)
	guess(t, d, "2", "password:?0123", "", false)
	guess(t, d, "3", "password:v", "", true)
	guess(t, d, "4", "token:?0123", "", false)
	count := func(table string) (n int) {
		t.Helper()
		if err := db.Pool(t, "").QueryRow(t.Context(), `SELECT count(*) FROM `+table).Scan(&n); err != nil {
			t.Fatal(err)
		}
		return n
	}
	if err := Purge(t.Context(), recorder, at.now()); err != nil {
		t.Fatal(err)
	}
	if v, c := count("directory.verdicts"), count("directory.counters"); v != 4 || c != 4 {
		t.Errorf("purged too early: %d verdicts, %d counters are left", v, c)
	}
	if err := Purge(t.Context(), recorder, at.now().Add(keep+time.Second)); err != nil {
		t.Fatal(err)
	}
	if v, c := count("directory.verdicts"), count("directory.counters"); v != 0 || c != 1 {
		t.Errorf("after a day %d verdicts and %d counters are left, want 0 and the known user's 1", v, c)
	}
}

func TestRehash(t *testing.T) {
	db, at := testenv.Migrated(t), newClock()
	admin, d := openUsers(t, db, at.now), openClaims(t, db, at.now)
	u := create(t, admin, User{Name: "u"}, "$new")
	for _, tt := range []struct{ old, hash, want string }{{"$old", "$late", "$new"}, {"$new", "$fresh", "$fresh"}} {
		if err := d.Rehash(t.Context(), u.ID, tt.old, tt.hash); err != nil {
			t.Fatal(err)
		}
		if a, err := d.Account(t.Context(), Who{Name: "u"}); err != nil || a.Password != tt.want {
			t.Errorf("after Rehash(%q, %q): %q, %v", tt.old, tt.hash, a.Password, err)
		}
	}
}

func TestCanonicalName(t *testing.T) {
	for in, want := range map[string]string{
		"alice": "alice", "Alice": "alice", "ＡＬＩＣＥ": "alice", "E\u0301va": "\u00e9va", "たろう": "たろう", "a@example.com": "a@example.com",
		"": "", ".": "", "..": "", "．": "", "...": "...", "a b": "", "a\x00": "", "a\tb": "", "\xff": "", "\u202ealice": "", strings.Repeat("a", 129): "", strings.Repeat("a", 1<<20): "",
	} {
		got, err := CanonicalName(in)
		if got != want || (err == nil) != (want != "") || err != nil && !errors.Is(err, ErrName) {
			t.Errorf("CanonicalName(%.20q) = %q, %v, want %q", in, got, err, want)
		}
	}
}

func TestParsePhone(t *testing.T) {
	for in, want := range map[string]string{
		"09012345678": "+819012345678", "090-1234-5678": "+819012345678", "+819012345678": "+819012345678", "+1 650 253 0000": "+16502530000",
		"": "", "123": "", "abc": "", "09012345678 ext. 7": "", strings.Repeat("0", 100): "",
	} {
		got, err := ParsePhone(in, "JP")
		if got != want || (err == nil) != (want != "") {
			t.Errorf("ParsePhone(%.20q) = %q, %v, want %q", in, got, err, want)
		}
	}
}

func TestHasher(t *testing.T) {
	ctx := t.Context()
	h := NewHasher(Cost{Memory: 64, Time: 1, Threads: 1}, 2)
	long := strings.Repeat("x", MaxPassword)
	for name, tt := range map[string]struct {
		stored, given string
		right         bool
	}{
		"right":           {"correct horse", "correct horse", true},
		"wrong":           {"correct horse", "correct horsf", false},
		"case":            {"correct horse", "Correct horse", false},
		"space":           {"correct horse", "correct horse ", false},
		"other form":      {"pa\u0301ss", "p\u00e1ss", true},
		"long":            {long, long, true},
		"differs at end":  {long, long[1:] + "y", false},
		"too long":        {long, long + "x", false},
		"empty":           {"correct horse", "", false},
		"empty and empty": {"", "", false},
	} {
		t.Run(name, func(t *testing.T) {
			phc, err := h.Hash(ctx, tt.stored)
			if err != nil || !strings.HasPrefix(phc, "$argon2id$v=19$m=64,t=1,p=1$") {
				t.Fatalf("Hash = %q, %v", phc, err)
			}
			if right, outdated, err := h.Verify(ctx, tt.given, phc); right != tt.right || outdated || err != nil {
				t.Errorf("Verify = %v, %v, %v", right, outdated, err)
			}
		})
	}
	old, _ := NewHasher(Cost{Memory: 32, Time: 1, Threads: 1}, 1).Hash(ctx, "secret")
	if right, outdated, err := h.Verify(ctx, "secret", old); !right || !outdated || err != nil {
		t.Errorf("Verify of an old cost = %v, %v, %v", right, outdated, err)
	}
	if right, _, err := h.Verify(ctx, "anything", ""); right || err != nil {
		t.Errorf("Verify without a hash = %v, %v", right, err)
	}
	for _, phc := range []string{"$2a$10$abc", old + "x", strings.Replace(old, "t=1", "t=0", 1), strings.Replace(old, "t=1", "t=01", 1), "$$$$$"} {
		if right, _, err := h.Verify(ctx, "secret", phc); right || err == nil || strings.Contains(err.Error(), phc) {
			t.Errorf("Verify of %q = %v, %v", phc, right, err)
		}
	}
	h.slots <- struct{}{}
	h.slots <- struct{}{}
	ended, cancel := context.WithCancel(ctx)
	cancel()
	if _, _, err := h.Verify(ended, "secret", old); !errors.Is(err, context.Canceled) {
		t.Errorf("Verify while all slots are taken = %v", err)
	}
}

// RFC 9106 leaves PHC strings out; this one is of the reference implementation's command line (salt "somesalt", password "password").
func TestKnownHash(t *testing.T) {
	h := NewHasher(Cost{Memory: 64 << 10, Time: 2, Threads: 1}, 1)
	const known = "$argon2id$v=19$m=65536,t=2,p=1$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc"
	if right, outdated, err := h.Verify(t.Context(), "password", known); !right || outdated || err != nil {
		t.Errorf("Verify = %v, %v, %v", right, outdated, err)
	}
}
