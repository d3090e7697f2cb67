package identityverifier

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"

	"github.com/sekisho/sekisho/events"
	"github.com/sekisho/sekisho/services/internal/bus"
	"github.com/sekisho/sekisho/services/internal/config"
	"github.com/sekisho/sekisho/services/internal/credentials"
	"github.com/sekisho/sekisho/services/internal/directory"
	"github.com/sekisho/sekisho/services/internal/oath"
	"github.com/sekisho/sekisho/services/internal/runtime"
	"github.com/sekisho/sekisho/services/internal/sessions"
	"github.com/sekisho/sekisho/services/internal/testenv"
)

func TestMain(m *testing.M) { testenv.Main(m) }

// world is the worker on a real broker and a real database, with the users of the tests.
type world struct {
	*testing.T
	broker *testenv.Broker
	db     *testenv.Database
	folder *credentials.Folder
	env    *runtime.Env
	users  *directory.Users // as an admin
	sealer *events.Sealer
	ids    map[string]string // by name
}

const password = "correct horse battery"

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{T: t, broker: testenv.NATS(t), db: testenv.Migrated(t), folder: credentials.Open(t.TempDir()), ids: make(map[string]string)}
	w.check(w.folder.Ensure(credentials.Contents{Keys: []string{"directory"}}))
	w.check(w.folder.RotateSealing([]string{Name, "riskassessor"}, time.Now(), time.Hour))
	var err error
	w.sealer, err = w.folder.Sealer()
	w.check(err)

	cfg := config.Default()
	cfg.Password = config.Password{Memory: 64, Time: 1, Threads: 1, Concurrent: 4}
	w.env = &runtime.Env{
		Name: Name, Config: cfg, Log: zerolog.Nop(), DB: w.db.Pool(t, Name), Bus: w.broker.Bus(t, Name),
		Credentials: w.folder, Metrics: prometheus.NewRegistry(), Now: time.Now,
	}
	w.users = directory.NewUsers(directory.NewOutbox(w.db.Pool(t, "console"), time.Now))

	hasher := directory.NewHasher(directory.Cost{Memory: 64, Time: 1, Threads: 1}, 1)
	hash, err := hasher.Hash(t.Context(), password)
	w.check(err)
	for name, u := range map[string]struct {
		directory.User
		hash   string
		change directory.Change
	}{
		"alice":    {directory.User{Primary: directory.Password, Phone: "+819012345678"}, hash, directory.Change{}},
		"bob":      {directory.User{Primary: directory.Password}, hash, directory.Change{}},
		"carol":    {directory.User{Primary: directory.Token}, hash, directory.Change{}},
		"dave":     {directory.User{Primary: directory.Password, Phone: "+819012345678"}, hash, directory.Change{Locked: new(true)}},
		"erin":     {directory.User{Primary: directory.Password, Phone: "+819012345678"}, hash, directory.Change{Enabled: new(false)}},
		"nohash":   {directory.User{Primary: directory.Password}, "", directory.Change{}},
		"e\u0301a": {directory.User{Primary: directory.Password}, hash, directory.Change{}},
	} {
		u.Name, err = directory.CanonicalName(name)
		w.check(err)
		u.Locale = "ja"
		created, err := w.users.Create(t.Context(), u.User, u.hash)
		w.check(err)
		_, err = w.users.Change(t.Context(), created.ID, u.change)
		w.check(err)
		w.ids[created.Name] = created.ID
	}
	return w
}

func (w *world) check(err error) {
	w.Helper()
	if err != nil {
		w.Fatal(err)
	}
}

// start runs an instance of the worker until the test ends.
func (w *world) start() {
	w.Helper()
	worker, err := Build(w.Context(), w.env)
	w.check(err)
	w.Cleanup(worker.Close)
	testenv.Start(w, w.env.Bus, worker.Handlers...)
}

// request publishes a login and returns what identityverifier makes of it.
func (w *world) request(method events.Method, identity events.Identity, adjust ...func(*events.Event, *events.Requested)) *events.Event {
	w.Helper()
	e := w.requested(method, identity, adjust...)
	w.broker.Publish(w, e)
	return w.outcome(e.Login)
}

func (w *world) requested(method events.Method, identity events.Identity, adjust ...func(*events.Event, *events.Requested)) *events.Event {
	w.Helper()
	login := testenv.NewLogin(w, "web")
	data := &events.Requested{App: "demo", Method: method, Deadline: time.Now().Add(5 * time.Minute)}
	e := events.New(login, 0, data)
	e.By, e.Time = "gateway/web", time.Now()
	for _, f := range adjust {
		f(e, data)
	}
	if data.Identity == nil {
		sealed, err := w.sealer.Seal(Name, e.Subject(), "identity", identity)
		w.check(err)
		data.Identity = sealed
	}
	return e
}

// outcome waits for the first of identified, refused and lapsed.
func (w *world) outcome(login events.Login) *events.Event {
	w.Helper()
	viewer := w.broker.Bus(w, bus.UserViewer)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); <-tick.C {
		for _, step := range []events.Step{events.StepIdentified, events.StepRefused, events.StepLapsed} {
			if e, err := viewer.Event(w.Context(), login, step, 0); err == nil {
				return e
			}
		}
	}
	w.Fatalf("nothing came of %s", login)
	return nil
}

// says is an outcome in one word: "identified", "lapsed" or the reason of the refusal.
func says(e *events.Event) string {
	if refused, ok := e.Data.(*events.Refused); ok {
		return refused.Reason
	}
	return string(e.Step)
}

func TestPassword(t *testing.T) {
	w := newWorld(t)
	w.start()
	for name, tt := range map[string]struct{ user, password, want string }{
		"right":                 {"alice", password, "identified"},
		"another spelling":      {"ＡＬＩＣＥ", password, "identified"},
		"composed letters":      {"\u00c9a", password, "identified"},
		"wrong":                 {"alice", "wrong", "wrong_password"},
		"empty":                 {"alice", "", "wrong_password"},
		"cut":                   {"alice", password[:len(password)-1], "wrong_password"},
		"too long":              {"alice", strings.Repeat("x", 2000), "wrong_password"},
		"unknown":               {"nobody", password, "unknown_user"},
		"no name":               {"", password, "unknown_user"},
		"impossible name":       {"a b\x00", password, "unknown_user"},
		"locked by an admin":    {"dave", password, "locked"},
		"disabled":              {"erin", password, "disabled"},
		"token user":            {"carol", password, "no_password"},
		"without a password":    {"nohash", "", "no_password"},
		"locked, wrong":         {"dave", "wrong", "locked"},
		"disabled and no match": {"erin", "wrong", "disabled"},
	} {
		t.Run(name, func(t *testing.T) {
			e := w.request(events.Password, events.Identity{User: tt.user, Password: tt.password})
			if says(e) != tt.want {
				t.Errorf("%s, want %s", says(e), tt.want)
			}
			if e.Expires.IsZero() || e.Expires.After(e.Stored.Add(10*time.Minute)) {
				t.Errorf("expires %v", e.Expires)
			}
		})
	}
}

// session puts a session of a user there.
func (w *world) session(gateway, user string, adjust ...func(*sessions.Session)) string {
	w.Helper()
	login, err := events.NewLogin(gateway)
	w.check(err)
	now := time.Now()
	s := sessions.Session{Login: login, User: w.ids[user], App: "demo", AMR: []string{"pwd"}, ACR: "1fa", AuthTime: now, Idle: time.Hour, Expires: now.Add(time.Hour)}
	for _, f := range adjust {
		f(&s)
	}
	store := sessions.New(w.db.Pool(w, ""), time.Now)
	defer store.Close()
	there, err := store.Insert(w.Context(), s)
	w.check(err)
	if !there {
		w.Fatal("no session")
	}
	return login.ID
}

// A login steps up from a live session of its user at its gateway, and from nothing else.
func TestStepUp(t *testing.T) {
	w := newWorld(t)
	w.start()
	store := sessions.New(w.db.Pool(t, ""), time.Now)
	t.Cleanup(store.Close)
	revoked := w.session("web", "alice")
	_, err := store.Revoke(t.Context(), events.Login{Gateway: "web", ID: revoked}, "user")
	w.check(err)
	unknown := testenv.NewLogin(w, "web")
	for name, tt := range map[string]struct {
		user, session, want string
	}{
		"live":                {"alice", w.session("web", "alice"), "identified"},
		"revoked":             {"alice", revoked, "no_session"},
		"of another user":     {"alice", w.session("web", "bob"), "no_session"},
		"at another gateway":  {"alice", w.session("example", "alice"), "no_session"},
		"at its end":          {"alice", w.session("web", "alice", func(s *sessions.Session) { s.Expires = time.Now() }), "no_session"},
		"unknown":             {"alice", unknown.ID, "no_session"},
		"no id":               {"alice", "' OR true", "no_session"},
		"of nobody":           {"nobody", w.session("web", "alice"), "no_session"},
		"with another casing": {"ALICE", w.session("web", "alice"), "identified"},
	} {
		t.Run(name, func(t *testing.T) {
			e := w.request(events.None, events.Identity{User: tt.user, Session: tt.session})
			if says(e) != tt.want {
				t.Fatalf("%s, want %s", says(e), tt.want)
			}
			if i, ok := e.Data.(*events.Identified); ok && (i.User != w.ids["alice"] || i.Primary != events.None || i.Decoy ||
				i.Session == nil || i.Session.ID != tt.session || !slices.Equal(i.Session.AMR, []string{"pwd"}) || i.Session.AuthTime.IsZero()) {
				t.Errorf("%+v, session %+v", i, i.Session)
			}
		})
	}
	e := w.request(events.Password, events.Identity{User: "alice", Password: password, Session: w.session("web", "alice")})
	if i, ok := e.Data.(*events.Identified); !ok || i.Session != nil {
		t.Errorf("a login with a password stepped up: %s", says(e))
	}
	locked := w.session("web", "alice")
	_, err = w.users.Change(t.Context(), w.ids["alice"], directory.Change{Locked: new(true)})
	w.check(err)
	if e := w.request(events.None, events.Identity{User: "alice", Session: locked}); says(e) != "no_session" {
		t.Errorf("of a locked user: %s", says(e))
	}
}

func TestIdentified(t *testing.T) {
	w := newWorld(t)
	w.start()
	deadline := time.Now().Add(3 * time.Minute).Truncate(time.Second).UTC()
	e := w.request(events.Password, events.Identity{User: "Alice", Password: password, Device: "browser", DeviceUsers: []string{w.ids["alice"]}},
		func(_ *events.Event, r *events.Requested) {
			r.Deadline, r.Locale, r.Prefer, r.Need = deadline, "en", events.SMS, 2
		})
	got, ok := e.Data.(*events.Identified)
	if !ok {
		t.Fatal(says(e))
	}
	if got.App != "demo" || got.User != w.ids["alice"] || got.Primary != events.Password || got.Generation != 1 || got.Decoy || got.Locale != "en" ||
		!slices.Equal(got.Factors, []events.Factor{events.SMS}) || !got.Deadline.Equal(deadline) || !e.Expires.Equal(deadline) || got.Prefer != events.SMS || got.Need != 2 {
		t.Errorf("identified = %+v, expires %v", got, e.Expires)
	}
	device := sha256.Sum256([]byte("browser"))
	if got.Device != hex.EncodeToString(device[:])[:32] {
		t.Errorf("device = %q", got.Device)
	}
	opener, err := w.folder.Opener("riskassessor")
	w.check(err)
	var subject events.Subject
	w.check(opener.Open(got.Subject, e.Subject(), "subject", &subject))
	if hash := sha256.Sum256([]byte("alice")); subject.UserHash != hex.EncodeToString(hash[:]) {
		t.Errorf("user hash = %q", subject.UserHash)
	}

	e = w.request(events.Password, events.Identity{User: "bob", Password: password, Device: "browser", DeviceUsers: []string{w.ids["alice"]}},
		func(_ *events.Event, r *events.Requested) { r.Deadline = time.Now().Add(time.Hour) })
	got = e.Data.(*events.Identified)
	if got.Device != "" || got.Factors != nil || got.Locale != "ja" {
		t.Errorf("bob on alice's browser = %+v", got)
	}
	if most := w.requestStored(e).Add(10 * time.Minute); !got.Deadline.Equal(most) {
		t.Errorf("deadline = %v, want ten minutes after the broker's timestamp, %v", got.Deadline, most)
	}
}

func (w *world) requestStored(e *events.Event) time.Time {
	w.Helper()
	requested, err := w.broker.Bus(w, bus.UserViewer).Event(w.Context(), e.Login, events.StepRequested, 0)
	w.check(err)
	return requested.Stored
}

func TestByNameOnly(t *testing.T) {
	w := newWorld(t)
	w.start()
	identify := func(name string) *events.Identified {
		t.Helper()
		e := w.request(events.None, events.Identity{User: name})
		got, ok := e.Data.(*events.Identified)
		if !ok {
			t.Fatalf("%s: %s", name, says(e))
		}
		return got
	}
	if got := identify("alice"); got.Decoy || got.User != w.ids["alice"] || got.Primary != events.None || got.Factors == nil {
		t.Errorf("alice = %+v", got)
	}
	seen := make(map[string]bool)
	for _, name := range []string{"nobody", "nobody2", "dave", "erin", "bob", "a b"} { // unknown, locked, disabled, without a factor, impossible
		first, again := identify(name), identify(strings.ToUpper(name))
		if !first.Decoy || first.Primary != events.None || len(first.Factors) == 0 || first.Subject == nil ||
			len(first.User) != len(w.ids["alice"]) || first.User == w.ids[name] || seen[first.User] {
			t.Errorf("%s = %+v", name, first)
		}
		if name != "a b" && (first.User != again.User || !slices.Equal(first.Factors, again.Factors)) {
			t.Errorf("%s is another stranger the next time", name)
		}
		seen[first.User] = true
	}
	w.enroll("bob")
	if got := identify("bob"); got.Decoy || got.User != w.ids["bob"] || !slices.Equal(got.Factors, []events.Factor{events.Push}) {
		t.Errorf("bob with a phone = %+v", got)
	}
}

// Attempts count as failures while they are looked at. The owner, who comes many times at once and is right, is not locked out by that.
func TestManyRightPasswordsAtOnce(t *testing.T) {
	w := newWorld(t)
	w.start()
	var wg sync.WaitGroup
	for range 30 {
		e := w.requested(events.Password, events.Identity{User: "alice", Password: password})
		wg.Go(func() {
			w.broker.Publish(t, e)
			if got := says(w.outcome(e.Login)); got != "identified" {
				t.Errorf("outcome %s", got)
			}
		})
	}
	wg.Wait()
}

// Strangers have what users can have, phones for pushes among it, and each has always the same.
func TestStrangers(t *testing.T) {
	v := &verifier{secret: []byte("secret")}
	ids, kinds := make(map[string]bool), make(map[string]int)
	for i := range 200 {
		name := fmt.Sprint("stranger", i)
		a := v.stranger(name)
		if again := v.stranger(name); again.ID != a.ID || !slices.Equal(again.Factors, a.Factors) {
			t.Errorf("%s is another stranger the next time", name)
		}
		ids[a.ID] = true
		kinds[fmt.Sprint(a.Factors)]++
	}
	if len(ids) != 200 || len(kinds) != 3 || kinds["[sms]"] < 20 || kinds["[sms push]"] < 20 || kinds["[push]"] < 20 {
		t.Errorf("%d strangers who have %v", len(ids), kinds)
	}
}

// give gives a user a token.
func (w *world) give(user, serial string) *directory.Tokens {
	w.Helper()
	tokens, err := directory.NewTokens(directory.NewOutbox(w.db.Pool(w, "console"), time.Now), make([]byte, 32))
	w.check(err)
	_, err = tokens.Import(w.Context(), []directory.OTPToken{{Serial: serial, Token: oath.Token{
		Algorithm: oath.HOTP, Hash: oath.SHA1, Digits: 6, Secret: make([]byte, 20)}}})
	w.check(err)
	_, err = tokens.Assign(w.Context(), serial, w.ids[user], 1)
	w.check(err)
	return tokens
}

// Who has a token is asked for it; and so is, from the first login of a process on, whoever brings a code, under any name.
func TestTokens(t *testing.T) {
	w := newWorld(t)
	w.give("carol", "1")
	w.enroll("bob")
	w.start()
	for _, tt := range []struct {
		user   string
		prefer events.Factor
		decoy  bool
		want   []events.Factor
	}{
		{"carol", "", false, []events.Factor{events.Token}},
		{"carol", events.Token, false, []events.Factor{events.Token}},
		{"bob", "", false, []events.Factor{events.Push}},
		{"bob", events.Push, false, []events.Factor{events.Push}},
		{"bob", events.Token, true, []events.Factor{events.Token}},
		{"nobody", events.Token, true, []events.Factor{events.Token}},
		{"a b", events.Token, true, []events.Factor{events.Token}},
	} {
		e := w.request(events.None, events.Identity{User: tt.user}, func(_ *events.Event, r *events.Requested) { r.Prefer = tt.prefer })
		got, ok := e.Data.(*events.Identified)
		if !ok || got.Decoy != tt.decoy || got.Decoy == (got.User == w.ids[tt.user]) || !slices.Equal(got.Factors, tt.want) {
			t.Errorf("%s, who prefers %q: %+v", tt.user, tt.prefer, e.Data)
		}
	}
}

// What is looked for again and again is seen when it changes.
func TestLook(t *testing.T) {
	w := newWorld(t)
	v := &verifier{claims: directory.NewClaims(w.env.DB, directory.Rule(w.env.Config.Lock), time.Now)}
	t.Cleanup(v.claims.Close)
	look := func(want bool) {
		t.Helper()
		if more, err := v.look(t.Context()); more || err != nil || v.tokens.Load() != want {
			t.Errorf("look = %v, %v, tokens %v, want %v", more, err, v.tokens.Load(), want)
		}
	}
	look(false)
	tokens := w.give("carol", "1")
	look(true)
	w.check(w.users.Delete(t.Context(), w.ids["carol"]))
	look(true) // it is nobody's
	_, err := tokens.Delete(t.Context(), "1")
	w.check(err)
	look(false)
}

// enroll gives a user a phone.
func (w *world) enroll(user string) {
	w.Helper()
	devices := directory.NewDevices(directory.NewOutbox(w.db.Pool(w, "pushnotifier"), time.Now))
	w.Cleanup(devices.Close)
	code, _, err := devices.Activate(w.Context(), w.ids[user], time.Minute, 1)
	w.check(err)
	_, err = devices.Enroll(w.Context(), code, directory.Device{Name: "phone", PublicKey: append([]byte{4}, make([]byte, 64)...), Gateway: "web"}, 1)
	w.check(err)
}

func TestGuessingLocksTheUserAndNotTheDevice(t *testing.T) {
	w := newWorld(t)
	w.start()
	var wg sync.WaitGroup
	reasons := make(chan string, 50)
	for i := range 50 { // in several spellings
		name := []string{"alice", "Alice", "ＡＬＩＣＥ"}[i%3]
		e := w.requested(events.Password, events.Identity{User: name, Password: fmt.Sprint("wrong", i)})
		wg.Go(func() {
			w.broker.Publish(t, e)
			reasons <- says(w.outcome(e.Login))
		})
	}
	wg.Wait()
	close(reasons)
	count := make(map[string]int)
	for r := range reasons {
		count[r]++
	}
	if count["wrong_password"] != 5 || count["locked"] != 45 {
		t.Errorf("50 parallel guesses: %v, want 5 looked at", count)
	}
	if got := says(w.request(events.Password, events.Identity{User: "alice", Password: password})); got != "locked" {
		t.Errorf("right password from elsewhere: %s, want locked", got)
	}
	owner := events.Identity{User: "alice", Password: password, Device: "browser", DeviceUsers: []string{w.ids["alice"]}}
	if got := says(w.request(events.Password, owner)); got != "identified" {
		t.Errorf("right password from the owner's browser: %s", got)
	}
	odd := events.Identity{User: "alice", Password: password, Device: "browser", DeviceUsers: []string{"\x00", "a b", w.ids["alice"]}}
	if got := says(w.request(events.Password, odd)); got != "identified" {
		t.Errorf("right password from the owner's browser, beside what no user can be: %s", got)
	}
	liar := events.Identity{User: "alice", Password: password, Device: "browser", DeviceUsers: []string{w.ids["bob"]}}
	if got := says(w.request(events.Password, liar)); got != "locked" {
		t.Errorf("right password from a browser that alice did not log in with: %s", got)
	}
}

// What comes to the database for a name must not depend on whether it exists.
func TestStatementsOfKnownAndUnknownUsers(t *testing.T) {
	w := newWorld(t)
	w.start()
	rows := func() (n [2]int) {
		t.Helper()
		w.check(w.db.Pool(t, "").QueryRow(t.Context(), `SELECT (SELECT count(*) FROM directory.verdicts WHERE verdict <> ''),
			(SELECT sum(failures) FROM directory.counters)::int`).Scan(&n[0], &n[1]))
		return n
	}
	for i, name := range []string{"alice", "nobody", "dave", "erin", "carol", "nohash", "a b"} {
		w.request(events.Password, events.Identity{User: name, Password: "wrong"})
		want := [2]int{i + 1, i + 1}
		testenv.Eventually(t, "a verdict on "+name, func() bool { return rows()[0] >= want[0] }) // noted after the answer
		if got := rows(); got != want {
			t.Errorf("%s: %v verdicts and failures, want %v", name, got, want)
		}
	}
}

func TestRedelivery(t *testing.T) {
	w := newWorld(t)
	opener, err := w.folder.Opener(Name)
	w.check(err)
	v := &verifier{claims: directory.NewClaims(w.env.DB, directory.Rule(w.env.Config.Lock), time.Now), opener: opener, sealer: w.sealer,
		hasher: directory.NewHasher(directory.Cost{Memory: 64, Time: 1, Threads: 1}, 1), secret: []byte("secret"), now: time.Now}
	t.Cleanup(v.claims.Close)
	right := w.requested(events.Password, events.Identity{User: "alice", Password: password})
	wrong := w.requested(events.Password, events.Identity{User: "alice", Password: "wrong"})
	run := func(e *events.Event) string {
		t.Helper()
		e.Stored = time.Now()
		answer, result, err := v.answer(t.Context(), e, e.Data.(*events.Requested))
		w.check(err)
		w.check(v.claims.Finish(t.Context(), *result, func() error { return nil }))
		return says(answer)
	}
	for range 10 { // far more than the failures that lock
		if got := run(wrong); got != "wrong_password" {
			t.Fatalf("wrong password, redelivered: %s", got)
		}
		if got := run(right); got != "identified" {
			t.Fatalf("right password, redelivered: %s", got)
		}
	}
	w.check(w.users.Delete(t.Context(), w.ids["alice"]))
	if got := run(right); got != "unknown_user" {
		t.Errorf("redelivered after the user was deleted: %s", got)
	}
}

func TestRehash(t *testing.T) {
	w := newWorld(t)
	w.env.Config.Password.Memory = 128
	w.start()
	for _, tt := range []struct{ password, cost string }{{"wrong", "m=64,"}, {password, "m=128,"}, {password, "m=128,"}} {
		w.request(events.Password, events.Identity{User: "alice", Password: tt.password})
		var hash string
		w.check(w.db.Pool(t, "").QueryRow(t.Context(), `SELECT hash FROM directory.passwords WHERE user_id = $1`, w.ids["alice"]).Scan(&hash))
		if !strings.Contains(hash, tt.cost) {
			t.Errorf("after %q the hash is %.30s…, want %s", tt.password, hash, tt.cost)
		}
	}
}

func TestBadRequests(t *testing.T) {
	w := newWorld(t)
	w.start()
	letters := w.broker.Dial(t, bus.UserSetup)
	heard, err := letters.SubscribeSync("dead." + Name + ".>")
	w.check(err)
	w.check(letters.Flush())
	old := func(d time.Duration) func(*events.Event, *events.Requested) {
		return func(e *events.Event, _ *events.Requested) { e.Login.ID = idAt(t, time.Now().Add(d)) }
	}
	elsewhere, err := w.sealer.Seal(Name, "login.requested.web.another", "identity", events.Identity{User: "alice", Password: password})
	w.check(err)
	for name, adjust := range map[string]func(*events.Event, *events.Requested){
		"old id":           old(-3 * time.Minute),
		"id of the future": old(3 * time.Minute),
		"sealed elsewhere": func(_ *events.Event, r *events.Requested) { r.Identity = elsewhere },
	} {
		t.Run(name, func(t *testing.T) {
			e := w.requested(events.Password, events.Identity{User: "alice", Password: password}, adjust)
			w.broker.Publish(t, e)
			letter, err := heard.NextMsg(20 * time.Second)
			if err != nil {
				t.Fatalf("no dead letter: %v", err)
			}
			if letter.Subject != "dead."+Name+"."+e.Subject() || letter.Header.Get(bus.DeadReason) == "" {
				t.Errorf("dead letter %s, %v", letter.Subject, letter.Header)
			}
			if lapsed := w.broker.Await(t, e.Login, events.StepLapsed, 0).Data.(*events.Lapsed); lapsed.Reason != "dead_letter" {
				t.Errorf("lapsed %+v", lapsed)
			}
		})
	}
	if got := says(w.request(events.Password, events.Identity{User: "alice", Password: password})); got != "identified" {
		t.Errorf("a good request after bad ones: %s", got)
	}
	if got := says(w.request(events.Password, events.Identity{User: "alice", Password: password}, old(-time.Minute))); got != "identified" {
		t.Errorf("a request of a gateway whose clock is a minute behind: %s", got)
	}
	late := func(_ *events.Event, r *events.Requested) { r.Deadline = time.Now().Add(-time.Second) }
	if got := says(w.request(events.Password, events.Identity{User: "alice", Password: password}, late)); got != "lapsed" {
		t.Errorf("a request past its deadline: %s", got)
	}
}

// idAt is a login id of another time.
func idAt(t *testing.T, at time.Time) string {
	t.Helper()
	id, err := uuid.NewV7()
	if err != nil {
		t.Fatal(err)
	}
	for i, ms := 5, at.UnixMilli(); i >= 0; i, ms = i-1, ms>>8 {
		id[i] = byte(ms)
	}
	return id.String()
}
