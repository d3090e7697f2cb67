package sessions

import (
	"errors"
	"reflect"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/sekisho/sekisho/events"
	"github.com/sekisho/sekisho/services/internal/directory"
	"github.com/sekisho/sekisho/services/internal/testenv"
)

func TestMain(m *testing.M) { testenv.Main(m) }

// world is a database with users, and a clock that the test moves.
type world struct {
	*testing.T
	db    *testenv.Database
	users *directory.Users
	mu    sync.Mutex
	t     time.Time
}

func newWorld(t *testing.T) *world {
	w := &world{T: t, db: testenv.Migrated(t), t: time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC)}
	w.users = directory.NewUsers(directory.NewOutbox(w.db.Pool(t, "console"), w.now))
	return w
}

func (w *world) now() time.Time      { w.mu.Lock(); defer w.mu.Unlock(); return w.t }
func (w *world) add(d time.Duration) { w.mu.Lock(); defer w.mu.Unlock(); w.t = w.t.Add(d) }

// store gives a Store with the privileges of a worker.
func (w *world) store(role string) *Store {
	s := New(w.db.Pool(w, role), w.now)
	w.Cleanup(s.Close)
	return s
}

func (w *world) user(name string) string {
	w.Helper()
	u, err := w.users.Create(w.Context(), directory.User{Name: name, Locale: "ja", Primary: directory.Password}, "")
	if err != nil {
		w.Fatal(err)
	}
	return u.ID
}

func (w *world) session(user string) Session {
	w.Helper()
	login := testenv.NewLogin(w, "web")
	return Session{Login: login, User: user, App: "demo", AMR: []string{"pwd", "sms"}, ACR: "2fa", AuthTime: w.now(),
		Idle: time.Hour, Expires: w.now().Add(12 * time.Hour)}
}

func (w *world) insert(s *Store, v Session, want bool) {
	w.Helper()
	if got, err := s.Insert(w.Context(), v); err != nil || got != want {
		w.Fatalf("Insert = %v, %v, want %v", got, err, want)
	}
}

func TestInsertAndGet(t *testing.T) {
	w := newWorld(t)
	issuer, gateway := w.store("sessionissuer"), w.store("gateway")
	v := w.session(w.user("alice"))
	v.Verdict = events.Review
	w.insert(issuer, v, true)
	w.insert(issuer, v, true) // again

	got, err := gateway.Get(t.Context(), v.Login)
	if err != nil {
		t.Fatal(err)
	}
	want := v
	want.Name, want.Created, want.LastSeen = "alice", w.now(), w.now()
	for _, at := range []*time.Time{&got.AuthTime, &got.Created, &got.LastSeen, &got.Expires} {
		*at = at.UTC()
	}
	if !reflect.DeepEqual(*got, want) || !got.Live(w.now()) {
		t.Errorf("Get = %+v, want %+v", *got, want)
	}

	stolen := v
	stolen.User = w.user("mallory")
	w.insert(issuer, stolen, false) // a login has one user
	if err := issuer.Remove(t.Context(), v.Login); err != nil {
		t.Fatal(err)
	}
	if _, err := gateway.Get(t.Context(), v.Login); !errors.Is(err, ErrNotFound) {
		t.Errorf("Get after Remove = %v, want ErrNotFound", err)
	}
}

// A login that found an account of another generation rests on what has been changed or taken away since.
func TestInsertOfAnotherGeneration(t *testing.T) {
	w := newWorld(t)
	issuer, user := w.store("sessionissuer"), w.user("alice")
	for generation, want := range map[int]bool{0: true, 1: true, 2: false} { // 0: not known
		v := w.session(user)
		v.Generation = generation
		w.insert(issuer, v, want)
	}
	if _, err := w.users.Change(t.Context(), user, directory.Change{Phone: new("+819012345678")}); err != nil {
		t.Fatal(err)
	}
	for generation, want := range map[int]bool{1: false, 2: true} {
		v := w.session(user)
		v.Generation = generation
		w.insert(issuer, v, want)
	}
}

func TestInsertManyAtOnce(t *testing.T) {
	w := newWorld(t)
	issuers, gateway := []*Store{w.store("sessionissuer"), w.store("sessionissuer")}, w.store("gateway")
	user := w.user("alice")
	var wg sync.WaitGroup
	for range 50 {
		v := w.session(user)
		for _, s := range issuers { // each login handled twice, as after a redelivery
			wg.Go(func() {
				if there, err := s.Insert(t.Context(), v); err != nil || !there {
					t.Errorf("Insert = %v, %v", there, err)
				}
				if got, err := gateway.Get(t.Context(), v.Login); err != nil || got.Login != v.Login {
					t.Errorf("Get = %+v, %v", got, err)
				}
			})
		}
	}
	wg.Wait()
	if list, err := w.store("console").List(t.Context(), user); err != nil || len(list) != 50 {
		t.Errorf("%d sessions, %v, want 50", len(list), err)
	}
}

func TestInsertForWhomMayNotLogIn(t *testing.T) {
	w := newWorld(t)
	issuer := w.store("sessionissuer")
	w.insert(issuer, w.session("nobody"), false)
	for name, change := range map[string]directory.Change{"disabled": {Enabled: new(false)}, "locked": {Locked: new(true)}} {
		id := w.user(name)
		if _, err := w.users.Change(t.Context(), id, change); err != nil {
			t.Fatal(err)
		}
		w.insert(issuer, w.session(id), false)
	}
}

// However an admin's lock and new sessions meet: once lock and revocation are done, no session of the user lives.
func TestInsertAgainstLock(t *testing.T) {
	w := newWorld(t)
	issuers := []*Store{w.store("sessionissuer"), w.store("sessionissuer")}
	admin := w.store("console")
	for _, name := range []string{"a", "b", "c", "d", "e", "f", "g", "h", "i", "j"} {
		id := w.user(name)
		var wg sync.WaitGroup
		for i := range 20 {
			v := w.session(id)
			wg.Go(func() {
				if _, err := issuers[i%2].Insert(t.Context(), v); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Go(func() {
			if _, err := w.users.Change(t.Context(), id, directory.Change{Locked: new(true)}); err != nil {
				t.Error(err)
			}
			if _, err := admin.RevokeUser(t.Context(), id, "admin"); err != nil {
				t.Error(err)
			}
		})
		wg.Wait()
		var live int
		err := w.db.Pool(t, "").QueryRow(t.Context(),
			`SELECT count(*) FROM sessions.sessions WHERE user_id = $1 AND revoked_at IS NULL`, id).Scan(&live)
		if err != nil || live != 0 {
			t.Errorf("%d sessions outlive the lock, %v", live, err)
		}
	}
}

// The same, made to meet: the insert finds the lock under way and must wait for what comes of it.
func TestInsertWaitsForLock(t *testing.T) {
	w := newWorld(t)
	issuer, id := w.store("sessionissuer"), w.user("alice")
	tx, err := w.db.Pool(t, "").Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Rollback(t.Context())
	if _, err := tx.Exec(t.Context(), `UPDATE directory.users SET locked = true WHERE id = $1`, id); err != nil {
		t.Fatal(err)
	}
	inserted := w.whenBlocked(func() (bool, error) { return issuer.Insert(t.Context(), w.session(id)) })
	if err := tx.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	if <-inserted {
		t.Error("a session was inserted for a locked user")
	}
}

// whenBlocked starts an insert and returns when it waits for a lock in the database.
func (w *world) whenBlocked(insert func() (bool, error)) <-chan bool {
	w.Helper()
	inserted := make(chan bool, 1)
	go func() {
		there, err := insert()
		if err != nil {
			w.Error(err)
		}
		inserted <- there
	}()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	admin := w.db.Pool(w, "")
	for waiting := false; !waiting; {
		select {
		case there := <-inserted:
			w.Fatalf("Insert = %v before the lock was decided", there)
		case <-tick.C:
		}
		err := admin.QueryRow(w.Context(), `SELECT EXISTS (SELECT FROM pg_stat_activity
			WHERE datname = current_database() AND wait_event_type = 'Lock' AND query LIKE '%INSERT INTO sessions%')`).Scan(&waiting)
		if err != nil {
			w.Fatal(err)
		}
	}
	return inserted
}

// A session replaces one only that lives, is of the same user and of the same gateway.
func TestReplace(t *testing.T) {
	w := newWorld(t)
	issuer, gateway := w.store("sessionissuer"), w.store("gateway")
	alice, bob := w.user("alice"), w.user("bob")
	old, others, short := w.session(alice), w.session(bob), w.session(alice)
	foreign := w.session(alice)
	foreign.Login.Gateway = "example"
	short.Idle = time.Minute
	for _, v := range []Session{old, others, short, foreign} {
		w.insert(issuer, v, true)
	}
	replacing := func(id string) Session {
		v := w.session(alice)
		v.Replaces = id
		return v
	}
	plain := w.session(alice)
	w.insert(issuer, replacing(plain.Login.ID), false) // there is no such session
	w.insert(issuer, replacing(others.Login.ID), false)
	w.insert(issuer, replacing(foreign.Login.ID), false)
	other := w.session(alice) // in one statement with another gateway's
	other.Login.Gateway = "example"
	if there, err := issuer.insert(t.Context(), []Session{replacing(foreign.Login.ID), other}); err != nil || there[0] || !there[1] {
		t.Errorf("insert = %v, %v", there, err)
	}
	w.insert(issuer, replacing(short.Login.ID), true)
	w.add(time.Minute)
	w.insert(issuer, replacing(short.Login.ID), false) // idle
	v := replacing(old.Login.ID)
	w.insert(issuer, v, true)
	w.insert(issuer, v, true) // again
	if got, err := gateway.Get(t.Context(), old.Login); err != nil || !got.Live(w.now()) {
		t.Errorf("the replaced session: %+v, %v: it ends only when the login has ended well", got, err)
	}
	if ended, err := issuer.Revoke(t.Context(), old.Login, "step_up"); err != nil || !ended {
		t.Errorf("Revoke = %v, %v", ended, err)
	}
	w.insert(issuer, replacing(old.Login.ID), false)
	w.insert(issuer, v, false) // a late redelivery: the ending that is stored counts
	w.add(13 * time.Hour)
	w.insert(issuer, replacing(others.Login.ID), false) // at its absolute end
}

// However a log-out and a step-up meet: the session that was replaced first is the one that the log-out has to find.
func TestReplaceWaitsForRevoke(t *testing.T) {
	w := newWorld(t)
	issuer, id := w.store("sessionissuer"), w.user("alice")
	old := w.session(id)
	w.insert(issuer, old, true)
	tx, err := w.db.Pool(t, "").Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Rollback(t.Context())
	if _, err := tx.Exec(t.Context(), `UPDATE sessions.sessions SET revoked_at = now() WHERE login = $1`, old.Login.ID); err != nil {
		t.Fatal(err)
	}
	v := w.session(id)
	v.Replaces = old.Login.ID
	inserted := w.whenBlocked(func() (bool, error) { return issuer.Insert(t.Context(), v) })
	if err := tx.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	if <-inserted {
		t.Error("a session replaced one that was being revoked")
	}
}

func TestRevoke(t *testing.T) {
	w := newWorld(t)
	issuer, gateway, admin := w.store("sessionissuer"), w.store("gateway"), w.store("console")
	alice, bob := w.user("alice"), w.user("bob")
	one, two, other := w.session(alice), w.session(alice), w.session(bob)
	for _, v := range []Session{one, two, other} {
		w.insert(issuer, v, true)
	}
	live := func(v Session) bool {
		t.Helper()
		got, err := gateway.Get(t.Context(), v.Login)
		if err != nil {
			t.Fatal(err)
		}
		return got.Live(w.now())
	}

	for i, want := range []bool{true, false} {
		if ended, err := gateway.Revoke(t.Context(), one.Login, "user"); err != nil || ended != want {
			t.Errorf("Revoke %d = %v, %v", i, ended, err)
		}
	}
	if live(one) || !live(two) || !live(other) {
		t.Error("Revoke ended another session, or not the one")
	}
	w.insert(issuer, one, false) // a late redelivery brings nothing back
	if ended, err := admin.RevokeUser(t.Context(), alice, "admin"); err != nil || len(ended) != 1 || ended[0] != two.Login {
		t.Errorf("RevokeUser = %v, %v, want %v", ended, err, two.Login)
	}
	if live(two) || !live(other) {
		t.Error("RevokeUser ended another user's session, or not all of the user's")
	}
	if list, err := admin.List(t.Context(), alice); err != nil || len(list) != 0 {
		t.Errorf("List after RevokeUser = %v, %v", list, err)
	}
	if _, err := w.users.Change(t.Context(), bob, directory.Change{Enabled: new(false)}); err != nil {
		t.Fatal(err)
	}
	if live(other) {
		t.Error("the session of a disabled user lives")
	}
}

func TestTimes(t *testing.T) {
	w := newWorld(t)
	issuer, gateway, recorder := w.store("sessionissuer"), w.store("gateway"), w.store("recorder")
	v := w.session(w.user("alice"))
	start := w.now()
	w.insert(issuer, v, true)
	read := func() *Session {
		t.Helper()
		if err := gateway.Touch(t.Context(), v.Login); err != nil {
			t.Fatal(err)
		}
		got, err := gateway.Get(t.Context(), v.Login)
		if err != nil {
			t.Fatal(err)
		}
		return got
	}
	if got := read(); !got.Used() {
		t.Error("the first use is not told from none")
	}
	w.add(59 * time.Second)
	if got := read(); got.LastSeen.Sub(start) > time.Microsecond {
		t.Errorf("last seen %v after 59 s: written more than once a minute", got.LastSeen)
	}
	w.add(time.Second + time.Microsecond)
	got := read()
	if !got.LastSeen.Equal(w.now()) {
		t.Errorf("last seen %v after a minute, want %v", got.LastSeen, w.now())
	}
	if seen := w.now(); !got.Live(seen.Add(time.Hour-1)) || got.Live(seen.Add(time.Hour)) {
		t.Error("the idle time is not an hour since last seen")
	}
	got.LastSeen = v.Expires
	if !got.Live(v.Expires.Add(-1)) || got.Live(v.Expires) {
		t.Error("the session does not end at its absolute end")
	}
	for _, tt := range []struct {
		at   time.Time
		want error
	}{{v.Expires, nil}, {v.Expires.Add(keep + time.Second), ErrNotFound}} {
		if err := recorder.Purge(t.Context(), tt.at); err != nil {
			t.Fatal(err)
		}
		if _, err := gateway.Get(t.Context(), v.Login); !errors.Is(err, tt.want) {
			t.Errorf("Get after Purge at %v = %v, want %v", tt.at, err, tt.want)
		}
	}
}

// Gateways that touch the same sessions at once do not wait for each other in a circle.
func TestTouchTogether(t *testing.T) {
	w := newWorld(t)
	user, issuer := w.user("u"), w.store("sessionissuer")
	there := make([]events.Login, 16)
	for i := range there {
		v := w.session(user)
		if ok, err := issuer.Insert(t.Context(), v); err != nil || !ok {
			t.Fatal(ok, err)
		}
		there[i] = v.Login
	}
	back := slices.Clone(there)
	slices.Reverse(back)
	one, other := w.store("gateway"), w.store("gateway")
	for range 40 {
		w.add(2 * time.Minute)
		var together sync.WaitGroup
		for s, order := range map[*Store][]events.Login{one: there, other: back} {
			together.Go(func() {
				if _, err := s.touch(t.Context(), order); err != nil {
					t.Error(err)
				}
			})
		}
		together.Wait()
		if t.Failed() {
			return
		}
	}
}

// Whoever may revoke a session can not undo it.
func TestRevokedStaysRevoked(t *testing.T) {
	w := newWorld(t)
	v := w.session(w.user("u"))
	if ok, err := w.store("sessionissuer").Insert(t.Context(), v); err != nil || !ok {
		t.Fatal(ok, err)
	}
	if _, err := w.store("console").Revoke(t.Context(), v.Login, "admin"); err != nil {
		t.Fatal(err)
	}
	for _, role := range []string{"gateway", "console", "pushnotifier", ""} {
		for _, at := range []string{"NULL", "now() + interval '1 year'"} {
			if _, err := w.db.Pool(t, role).Exec(t.Context(), `UPDATE sessions.sessions SET revoked_at = `+at); err == nil {
				t.Errorf("%q set revoked_at = %s", role, at)
			}
		}
	}
	if _, err := w.store("gateway").Revoke(t.Context(), v.Login, "user"); err != nil { // once more changes nothing
		t.Error(err)
	}
}
