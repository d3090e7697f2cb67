package directory

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/sekisho/sekisho/events"
	"github.com/sekisho/sekisho/services/internal/oath"
	"github.com/sekisho/sekisho/services/internal/testenv"
)

// A drawer is a database with users and tokens, as admins and otpvalidator open it.
type drawer struct {
	*testing.T
	db       *testenv.Database
	at       *clock
	users    *Users
	tokens   *Tokens // as an admin
	validate *Tokens // as otpvalidator
	attempts *Attempts
	n        int // events so far
}

var tokenKey = bytes.Repeat([]byte{7}, 32)

func openTokens(t *testing.T, db *testenv.Database, role string, now func() time.Time) *Tokens {
	t.Helper()
	tokens, err := NewTokens(NewOutbox(db.Pool(t, role), now), tokenKey)
	if err != nil {
		t.Fatal(err)
	}
	return tokens
}

func openDrawer(t *testing.T) *drawer {
	t.Helper()
	db, at := testenv.Migrated(t), newClock()
	return &drawer{T: t, db: db, at: at, users: openUsers(t, db, at.now), tokens: openTokens(t, db, "console", at.now),
		validate: openTokens(t, db, "otpvalidator", at.now), attempts: openAttempts(t, db, "otpvalidator", at.now)}
}

func (d *drawer) check(err error) {
	d.Helper()
	if err != nil {
		d.Fatal(err)
	}
}

// token is one that counts events, whose secret follows from its serial.
func token(serial string) OTPToken {
	return OTPToken{Serial: serial, Token: oath.Token{Algorithm: oath.HOTP, Hash: oath.SHA1, Digits: 6, Secret: fmt.Appendf(nil, "%020s", serial)}}
}

// put imports tokens, and assigns them to a user unless that is "".
func (d *drawer) put(user string, tokens ...OTPToken) {
	d.Helper()
	there, err := d.tokens.Import(d.Context(), tokens)
	d.check(err)
	if len(there) > 0 {
		d.Fatalf("%d tokens are there already", len(there))
	}
	for _, token := range tokens {
		if user != "" {
			d.change(d.tokens.Assign(d.Context(), token.Serial, user, 5))
		}
	}
}

func (d *drawer) change(token OTPToken, err error) OTPToken {
	d.Helper()
	d.check(err)
	return token
}

func (d *drawer) get(serial string) OTPToken {
	d.Helper()
	token, err := d.tokens.Get(d.Context(), serial)
	d.check(err)
	return token
}

func (d *drawer) user(name string) string {
	d.Helper()
	return create(d.T, d.users, User{Name: name}, "").ID
}

func (d *drawer) generation(user string) (n int) {
	d.Helper()
	d.check(d.db.Pool(d.T, "").QueryRow(d.Context(), `SELECT generation FROM directory.users WHERE id = $1`, user).Scan(&n))
	return n
}

func (d *drawer) code(token OTPToken, moment int64) string {
	d.Helper()
	code, err := token.Token.Code(moment, "12345678", token.PIN)
	d.check(err)
	return code
}

// begin counts an attempt with a user's tokens.
func (d *drawer) begin(user string) Attempt {
	d.Helper()
	d.n++
	a := Attempt{Event: fmt.Sprint("answer", d.n), Digest: []byte{byte(d.n)}, Authenticator: TokenOf(user)}
	if s, err := d.attempts.Begin(d.Context(), a); err != nil || s != (Standing{Allowed: true}) {
		d.Fatalf("Begin = %+v, %v", s, err)
	}
	return a
}

func (d *drawer) accept(a Attempt, token OTPToken, to oath.State) bool {
	d.Helper()
	taken, err := d.validate.Accept(d.Context(), d.attempts, token, to, Result{a, "right", true})
	d.check(err)
	return taken
}

func (d *drawer) verdict(a Attempt) string {
	d.Helper()
	s, err := d.attempts.Begin(d.Context(), a)
	d.check(err)
	return s.Verdict
}

// plain is a token without times, whose locations differ, for comparison.
func plain(token OTPToken) OTPToken {
	token.Starts, token.Expires, token.Imported, token.Assigned, token.Used = time.Time{}, time.Time{}, time.Time{}, time.Time{}, time.Time{}
	return token
}

func TestImport(t *testing.T) {
	d := openDrawer(t)
	hotp, totp, ocra := token("K2"), token("K1"), token("k1")
	hotp.State.Next, hotp.Manufacturer, hotp.Model = 7, "maker", "model"
	totp.Token = oath.Token{Algorithm: oath.TOTP, Hash: oath.SHA512, Digits: 8, Period: time.Minute, Secret: totp.Token.Secret}
	totp.State, totp.Starts, totp.Expires = oath.State{Next: 3, Drift: -2}, d.at.now().Add(-time.Hour), d.at.now().Add(time.Hour)
	ocra.Token = oath.Token{Algorithm: oath.OCRA, Suite: "OCRA-1:HOTP-SHA256-8:C-QN08-PSHA1", Secret: ocra.Token.Secret}
	all := []OTPToken{hotp, totp, ocra}
	d.put("", all...)
	ids := make(map[string]bool)
	for _, want := range all {
		got := d.get(want.Serial)
		if !got.Starts.Equal(want.Starts) || !got.Expires.Equal(want.Expires) || !got.Imported.Equal(d.at.now()) || !got.Assigned.IsZero() || !got.Used.IsZero() {
			t.Errorf("times of %+v", got)
		}
		if len(got.ID) < 20 || ids[got.ID] {
			t.Errorf("id %q", got.ID)
		}
		ids[got.ID] = true
		want.ID = got.ID
		if !reflect.DeepEqual(plain(got), plain(want)) {
			t.Errorf("imported %+v, want %+v", plain(got), plain(want))
		}
	}

	before, again := d.get("K2"), token("K2")
	again.Token.Secret, again.Model = bytes.Repeat([]byte{1}, 20), "another"
	there, err := d.tokens.Import(t.Context(), []OTPToken{again, token("new"), again, token("new")})
	if err != nil || !slices.Equal(there, []string{"K2", "K2", "new"}) {
		t.Errorf("there already are %q, %v", there, err)
	}
	if after := d.get("K2"); !reflect.DeepEqual(after, before) {
		t.Errorf("a token that is there became %+v, was %+v", after, before)
	}

	bad := token("bad-serial")
	bad.Token.Algorithm = "none"
	if there, err := d.tokens.Import(t.Context(), []OTPToken{token("first"), token("K2"), bad, token("last")}); err == nil || there != nil ||
		strings.Contains(err.Error(), "bad-serial") || strings.Contains(err.Error(), string(bad.Token.Secret)) {
		t.Errorf("import of what can not be: %q, %v", there, err)
	}
	for _, serial := range []string{"first", "last"} {
		if _, err := d.tokens.Get(t.Context(), serial); !errors.Is(err, ErrNoToken) {
			t.Errorf("a token of a failed import: %v", err)
		}
	}
	if there, err := d.tokens.Import(t.Context(), nil); err != nil || there != nil {
		t.Errorf("import of nothing: %q, %v", there, err)
	}
	if left := outbox(t, d.db); len(left) > 0 {
		t.Errorf("announced %q of tokens that are nobody's", left)
	}
}

func TestTokensByPrefix(t *testing.T) {
	d := openDrawer(t)
	alice, bob := d.user("alice"), d.user("b%")
	var all []OTPToken
	for i := range PageSize + 1 {
		all = append(all, token(fmt.Sprintf("A%02d", i)))
	}
	d.put("", append(all, token("al"))...)
	d.put(alice, token("Z1"), token("Z2"))
	d.put(bob, token("Z3"))
	for _, tt := range []struct {
		prefix string
		page   int
		first  string
		n      int
		more   bool
	}{
		{"", 1, "A00", PageSize, true},
		{"", 2, "A50", 5, false},
		{"A1", 1, "A10", 10, false},
		{"al", 1, "Z1", 3, false}, // two of alice's, and a serial
		{"b%", 1, "Z3", 1, false},
		{"%", 1, "", 0, false},
	} {
		found, more, err := d.tokens.List(t.Context(), tt.prefix, tt.page)
		if err != nil || len(found) != tt.n || more != tt.more || tt.n > 0 && found[0].Serial != tt.first {
			t.Errorf("List(%q, %d) = %d tokens, more %v, %v", tt.prefix, tt.page, len(found), more, err)
		}
	}
	if _, err := d.tokens.Get(t.Context(), "Z"); !errors.Is(err, ErrNoToken) {
		t.Errorf("a part of a serial: %v", err)
	}
	guess(t, d.attempts, "wrong", TokenOf(alice), "", false)
	if got := d.get("Z2"); got.User != alice || got.UserName != "alice" || !got.Assigned.Equal(d.at.now()) || got.Failures != 1 || got.Locked {
		t.Errorf("alice's token = %+v", got)
	}
	for i := range rule.After - 1 {
		guess(t, d.attempts, fmt.Sprint(i), TokenOf(alice), "", false)
	}
	if got := d.get("Z1"); got.Failures != rule.After || !got.Locked {
		t.Errorf("alice's token after %d failures = %+v", rule.After, got)
	}
	if got := d.get("Z3"); got.Failures != 0 || got.Locked {
		t.Errorf("bob's token after alice's failures = %+v", got)
	}
}

func TestAssign(t *testing.T) {
	d := openDrawer(t)
	ctx := t.Context()
	alice, bob := d.user("alice"), d.user("bob")
	d.put("", token("1"), token("2"), token("3"))
	guess(t, d.attempts, "wrong", TokenOf(alice), "", false)
	first := d.change(d.tokens.Assign(ctx, "1", alice, 2))
	if first.User != alice || first.UserName != "alice" || first.Failures != 0 || !first.Assigned.Equal(d.at.now()) {
		t.Errorf("assigned %+v", first)
	}
	d.at.add(time.Minute)
	if again := d.change(d.tokens.Assign(ctx, "1", alice, 1)); !reflect.DeepEqual(again, first) {
		t.Errorf("assigned again to the same user: %+v", again)
	}
	d.change(d.tokens.Assign(ctx, "2", alice, 2))
	for what, c := range map[string]struct {
		serial, user string
		want         error
	}{
		"another's":     {"1", bob, ErrAssigned},
		"too many":      {"3", alice, ErrTooManyTokens},
		"unknown user":  {"3", "nobody", ErrNotFound},
		"unknown token": {"4", alice, ErrNoToken},
	} {
		if _, err := d.tokens.Assign(ctx, c.serial, c.user, 2); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", what, err, c.want)
		}
	}
	if got := d.get("3"); got.User != "" || !got.Assigned.IsZero() {
		t.Errorf("nobody's token = %+v", got)
	}
	of, err := d.validate.Of(ctx, alice)
	if err != nil || len(of) != 2 || of[0].Serial != "2" || of[1].Serial != "1" || !bytes.Equal(of[1].Token.Secret, token("1").Token.Secret) {
		t.Errorf("tokens of alice = %+v, %v", of, err)
	}
	if of, err := d.validate.Of(ctx, bob); err != nil || len(of) != 0 {
		t.Errorf("tokens of bob = %+v, %v", of, err)
	}
}

// A user has no more tokens than may be, and a token one user, whoever assigns at the same moment.
func TestAssignAtOnce(t *testing.T) {
	d := openDrawer(t)
	consoles := []*Tokens{d.tokens, openTokens(t, d.db, "console", d.at.now)}
	users := []string{d.user("alice"), d.user("bob")}
	const n = 8
	for i := range n {
		d.put("", token(fmt.Sprint("of one ", i)), token(fmt.Sprint("of two ", i)))
	}
	one := d.user("one")
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			if _, err := consoles[i%2].Assign(t.Context(), fmt.Sprint("of one ", i), one, 3); err != nil && !errors.Is(err, ErrTooManyTokens) {
				t.Error(err)
			}
		})
		for j, user := range users {
			wg.Go(func() {
				if _, err := consoles[j].Assign(t.Context(), fmt.Sprint("of two ", i), user, 100); err != nil && !errors.Is(err, ErrAssigned) {
					t.Error(err)
				}
			})
		}
	}
	wg.Wait()
	count := func(user string) int {
		of, err := d.validate.Of(t.Context(), user)
		d.check(err)
		return len(of)
	}
	if got := count(one); got != 3 {
		t.Errorf("a user got %d tokens, want 3", got)
	}
	if got := count(users[0]) + count(users[1]); got != n {
		t.Errorf("two users got %d tokens of %d", got, n)
	}
}

// Admins who change a token and its user at the same moment wait for each other, and none is told of that.
func TestTokenChangesAtOnce(t *testing.T) {
	d := openDrawer(t)
	ctx := t.Context()
	d.put("", token("1"), token("2"))
	for i := range 30 {
		u := d.user(fmt.Sprint("u", i))
		var wg sync.WaitGroup
		for what, do := range map[string]func() error{
			"assign":   func() error { _, err := d.tokens.Assign(ctx, "1", u, 5); return err },
			"second":   func() error { _, err := d.tokens.Assign(ctx, "2", u, 5); return err },
			"unassign": func() error { _, err := d.tokens.Unassign(ctx, "1"); return err },
			"disable":  func() error { _, err := d.tokens.Disable(ctx, "1"); return err },
			"pin":      func() error { _, err := d.tokens.SetPIN(ctx, "2", "1234"); return err },
			"unlock":   func() error { return d.users.Unlock(ctx, u) },
			"delete":   func() error { return d.users.Delete(ctx, u) },
		} {
			wg.Go(func() {
				if err := do(); err != nil && !errors.Is(err, ErrAssigned) && !errors.Is(err, ErrNotAssigned) && !errors.Is(err, ErrNotFound) {
					t.Errorf("%s: %v", what, err)
				}
			})
		}
		wg.Wait()
		d.check(d.users.Delete(ctx, u))
		if first, second := d.get("1"), d.get("2"); first.User != "" || second.User != "" || second.PIN != "" {
			t.Fatalf("tokens of a deleted user: %+v, %+v", first, second)
		}
	}
}

// What admins do to a token, what comes of it, and that logins under way do not outlive what they rest on.
func TestTokenChanges(t *testing.T) {
	d := openDrawer(t)
	ctx := t.Context()
	for name, c := range map[string]struct {
		do    func(serial string) (OTPToken, error)
		want  func(*OTPToken)
		event string
		ends  bool
	}{
		"unassign": {func(s string) (OTPToken, error) { return d.tokens.Unassign(ctx, s) },
			func(k *OTPToken) { k.User, k.UserName, k.PIN, k.Failures = "", "", "", 0 }, "token-unassigned", true},
		"disable": {func(s string) (OTPToken, error) { return d.tokens.Disable(ctx, s) },
			func(k *OTPToken) { k.Disabled = true }, "token-disabled", true},
		"unlock": {func(s string) (OTPToken, error) { return d.tokens.Unlock(ctx, s) },
			func(k *OTPToken) { k.Failures = 0 }, "token-unlocked", false},
		"reset": {func(s string) (OTPToken, error) { return d.tokens.Reset(ctx, s, time.Hour) },
			func(k *OTPToken) { k.Failures, k.Wide = 0, true }, "token-reset", false},
		"another PIN": {func(s string) (OTPToken, error) { return d.tokens.SetPIN(ctx, s, "87654321") },
			func(k *OTPToken) { k.PIN = "87654321" }, "token-pin-set", true},
		"no PIN": {func(s string) (OTPToken, error) { return d.tokens.SetPIN(ctx, s, "") },
			func(k *OTPToken) { k.PIN = "" }, "token-pin-set", true},
		"resync": {func(s string) (OTPToken, error) {
			return d.tokens.Resync(ctx, s, d.code(token(s), 90), d.code(token(s), 91), 100)
		}, func(k *OTPToken) { k.State.Next = 92 }, "token-resynced", false},
		"delete": {func(s string) (OTPToken, error) { return d.tokens.Delete(ctx, s) }, func(*OTPToken) {}, "token-unassigned", true},
	} {
		t.Run(name, func(t *testing.T) {
			u := d.user("user of " + name)
			d.put(u, token(name))
			d.change(d.tokens.SetPIN(ctx, name, "1234"))
			guess(t, d.attempts, name, TokenOf(u), "", false)
			want, generation, announced := d.get(name), d.generation(u), len(outbox(t, d.db))
			if want.PIN != "1234" || want.Failures != 1 {
				t.Fatalf("before: %+v", want)
			}
			c.want(&want)
			got, err := c.do(name)
			if err != nil || !reflect.DeepEqual(plain(got), plain(want)) {
				t.Errorf("changed to %+v, %v, want %+v", got, err, want)
			}
			if got.User == "" && !got.Assigned.IsZero() {
				t.Errorf("nobody's token is assigned at %v", got.Assigned)
			}
			if ended := d.generation(u) > generation; ended != c.ends {
				t.Errorf("ends logins under way: %v, want %v", ended, c.ends)
			}
			line := fmt.Sprintf(`console %s %s {"token":"%s"}`, c.event, u, got.ID) // neither serial nor anything secret
			if left := outbox(t, d.db)[announced:]; !slices.Equal(left, []string{line}) {
				t.Errorf("announced %q, want %q", left, line)
			}
			if there, err := d.tokens.Get(ctx, name); name == "delete" {
				if !errors.Is(err, ErrNoToken) {
					t.Errorf("a deleted token: %v", err)
				}
			} else if !reflect.DeepEqual(there, got) {
				t.Errorf("kept as %+v", there)
			}
		})
	}
	for name, do := range map[string]func() (OTPToken, error){
		"assign":   func() (OTPToken, error) { return d.tokens.Assign(ctx, "nothing", "u", 5) },
		"unassign": func() (OTPToken, error) { return d.tokens.Unassign(ctx, "nothing") },
		"delete":   func() (OTPToken, error) { return d.tokens.Delete(ctx, "nothing") },
		"PIN":      func() (OTPToken, error) { return d.tokens.SetPIN(ctx, "nothing", "1234") },
	} {
		if _, err := do(); !errors.Is(err, ErrNoToken) || strings.Contains(err.Error(), "nothing") {
			t.Errorf("%s of no token: %v", name, err)
		}
	}
}

// A token that is nobody's is changed without a word, and can have no PIN.
func TestNobodysToken(t *testing.T) {
	d := openDrawer(t)
	ctx := t.Context()
	d.put("", token("1"))
	if _, err := d.tokens.SetPIN(ctx, "1", "1234"); !errors.Is(err, ErrNotAssigned) {
		t.Errorf("PIN: %v", err)
	}
	d.change(d.tokens.Unassign(ctx, "1"))
	d.change(d.tokens.Reset(ctx, "1", time.Hour))
	d.change(d.tokens.Resync(ctx, "1", d.code(token("1"), 5), d.code(token("1"), 6), 100))
	d.change(d.tokens.Disable(ctx, "1"))
	if got := d.get("1"); !got.Disabled || got.State.Next != 7 || got.Wide || got.PIN != "" {
		t.Errorf("became %+v", got)
	}
	if got := d.change(d.tokens.Unlock(ctx, "1")); got.Disabled {
		t.Error("not unlocked")
	}
	d.change(d.tokens.Delete(ctx, "1"))
	if left := outbox(t, d.db); len(left) > 0 {
		t.Errorf("announced %q", left)
	}
}

func TestResync(t *testing.T) {
	d := openDrawer(t)
	ctx := t.Context()
	u := d.user("u")
	far := token("1")
	far.State.Next = 10
	d.put(u, far)
	d.change(d.tokens.Reset(ctx, "1", time.Hour))
	before, left := d.get("1"), outbox(t, d.db)
	for name, codes := range map[string][2]int64{"not in a row": {20, 22}, "the wrong way round": {21, 20}, "used up": {9, 10}, "too far": {200, 201}, "one twice": {20, 20}} {
		if _, err := d.tokens.Resync(ctx, "1", d.code(far, codes[0]), d.code(far, codes[1]), 100); !errors.Is(err, ErrNoMatch) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if after := d.get("1"); !reflect.DeepEqual(after, before) || !slices.Equal(outbox(t, d.db), left) {
		t.Errorf("without a match the token became %+v", after)
	}
	after := d.change(d.tokens.Resync(ctx, "1", d.code(far, 109), d.code(far, 110), 100))
	for _, used := range []int64{109, 110} {
		if _, ok := after.Token.Check(oath.Typed{Code: d.code(far, used)}, after.State, d.at.now(), 10); ok {
			t.Error("a code that told where the token stands is still good")
		}
	}
	if _, err := d.tokens.Resync(ctx, "1", d.code(far, 109), d.code(far, 110), 100); !errors.Is(err, ErrNoMatch) {
		t.Errorf("with the same codes again: %v", err)
	}
}

// Who reads the table has no secret and no PIN, and who writes it can not make one token another.
func TestTokensAreSealed(t *testing.T) {
	d := openDrawer(t)
	ctx, admin := t.Context(), d.db.Pool(t, "")
	alice, bob := d.user("alice"), d.user("bob")
	d.put(alice, token("1"))
	d.put(bob, token("2"))
	d.change(d.tokens.SetPIN(ctx, "1", "73519"))
	d.change(d.tokens.SetPIN(ctx, "2", "73519"))
	rows, err := admin.Query(ctx, `SELECT tokens::text FROM directory.tokens`)
	d.check(err)
	texts, err := pgx.CollectRows(rows, pgx.RowTo[string])
	d.check(err)
	for _, secret := range [][]byte{token("1").Token.Secret, token("2").Token.Secret, []byte("73519")} {
		for _, text := range texts {
			if strings.Contains(text, string(secret)) || strings.Contains(text, hex.EncodeToString(secret)) {
				t.Error("a secret can be read in the table")
			}
		}
	}
	another, err := NewTokens(NewOutbox(d.db.Pool(t, "otpvalidator"), d.at.now), bytes.Repeat([]byte{8}, 32))
	d.check(err)
	if _, err := another.Of(ctx, alice); err == nil || !strings.Contains(err.Error(), "keys/token.key") || strings.Contains(err.Error(), "73519") {
		t.Errorf("opened with another key: %v", err)
	}
	if _, err := NewTokens(NewOutbox(d.db.Pool(t, "otpvalidator"), d.at.now), make([]byte, 15)); err == nil {
		t.Error("a key of 15 bytes is taken")
	}
	for name, statement := range map[string]string{
		"a secret of another row":  `UPDATE directory.tokens t SET secret = o.secret FROM directory.tokens o WHERE t.serial = '1' AND o.serial = '2'`,
		"a PIN of another row":     `UPDATE directory.tokens t SET pin = o.pin FROM directory.tokens o WHERE t.serial = '1' AND o.serial = '2'`,
		"the secret as PIN":        `UPDATE directory.tokens SET pin = secret WHERE serial = '1'`,
		"the PIN as secret":        `UPDATE directory.tokens SET secret = pin WHERE serial = '1'`,
		"a secret without its box": `UPDATE directory.tokens SET secret = '12345678901234567890' WHERE serial = '1'`,
		"no secret":                `UPDATE directory.tokens SET secret = '' WHERE serial = '1'`,
		"an empty PIN":             `UPDATE directory.tokens SET pin = '' WHERE serial = '1'`,
	} {
		tx, err := admin.Begin(ctx)
		d.check(err)
		_, err = tx.Exec(ctx, statement)
		d.check(err)
		if found, err := d.validate.of(ctx, tx, alice); err == nil || found != nil {
			t.Errorf("%s: opened as %+v", name, found)
		}
		if found, err := d.tokens.get(ctx, tx, "1"); err != nil || !found.Unreadable {
			t.Errorf("%s: an admin sees %+v, %v", name, found, err)
		}
		d.check(tx.Rollback(ctx))
	}
	if of, err := d.validate.Of(ctx, alice); err != nil || of[0].PIN != "73519" {
		t.Errorf("alice's tokens: %v", err)
	}
}

// When the key is lost, an admin sees what is left, and removes it to import it again.
func TestTokensOfALostKey(t *testing.T) {
	d := openDrawer(t)
	ctx := t.Context()
	d.put(d.user("alice"), token("1"))
	d.change(d.tokens.SetPIN(ctx, "1", "73519"))
	fresh, err := NewTokens(NewOutbox(d.db.Pool(t, "console"), d.at.now), bytes.Repeat([]byte{8}, 32))
	d.check(err)
	found, more, err := fresh.List(ctx, "", 1)
	if err != nil || more || len(found) != 1 || !found[0].Unreadable || found[0].UserName != "alice" || found[0].Token.Secret != nil || found[0].PIN != "" {
		t.Fatalf("an admin sees %+v, %v", found, err)
	}
	empty := oath.Token{Algorithm: oath.HOTP, Hash: oath.SHA1, Digits: 6}
	if _, err := fresh.Resync(ctx, "1", d.code(OTPToken{Token: empty}, 0), d.code(OTPToken{Token: empty}, 1), 10); !errors.Is(err, ErrNoMatch) {
		t.Errorf("resynchronized with codes that anybody can make: %v", err)
	}
	d.change(fresh.Delete(ctx, "1"))
	if there, err := fresh.Import(ctx, []OTPToken{token("1")}); err != nil || there != nil {
		t.Errorf("imported again: %q, %v", there, err)
	}
	if got := d.change(fresh.Get(ctx, "1")); got.Unreadable {
		t.Errorf("imported again as %+v", got)
	}
}

func TestDeletedUserLeavesTokens(t *testing.T) {
	d := openDrawer(t)
	ctx := t.Context()
	alice, bob := d.user("alice"), d.user("bob")
	d.put(alice, token("1"), token("2"))
	d.put(bob, token("3"))
	for _, serial := range []string{"1", "3"} {
		d.change(d.tokens.SetPIN(ctx, serial, "1234"))
	}
	d.change(d.tokens.Resync(ctx, "1", d.code(token("1"), 5), d.code(token("1"), 6), 100))
	guess(t, d.attempts, "wrong", TokenOf(alice), "", false)
	d.check(d.users.Delete(ctx, alice))
	for _, serial := range []string{"1", "2"} {
		if got := d.get(serial); got.User != "" || got.PIN != "" || !got.Assigned.IsZero() || serial == "1" && got.State.Next != 7 {
			t.Errorf("a deleted user's token = %+v", got)
		}
	}
	if got := d.get("3"); got.User != bob || got.PIN != "1234" {
		t.Errorf("another user's token = %+v", got)
	}
	var counters int
	d.check(d.db.Pool(t, "").QueryRow(ctx, `SELECT count(*) FROM directory.counters`).Scan(&counters))
	if counters != 0 {
		t.Errorf("%d counters are left", counters)
	}
	if got := d.change(d.tokens.Assign(ctx, "1", bob, 5)); got.User != bob || got.PIN != "" {
		t.Errorf("given to another: %+v", got)
	}
}

// What a login, a phone and an admin see of a user's tokens.
func TestTokenAsFactor(t *testing.T) {
	d := openDrawer(t)
	ctx := t.Context()
	claims, accounts := openClaims(t, d.db, d.at.now), NewAccounts(d.db.Pool(t, "pushnotifier"))
	u := d.user("u")
	early, late := token("early"), token("late")
	early.Starts, late.Expires = d.at.now().Add(time.Hour), d.at.now().Add(time.Hour)
	d.put("", early, late)
	sees := func(what string, login, kept bool) {
		t.Helper()
		account, err := claims.Account(ctx, Who{Name: "u"})
		d.check(err)
		claimed, _, _, err := claims.Begin(ctx, Claim{Who: Who{Name: "u"}, Stranger: "?", Event: what, Digest: []byte{1}})
		d.check(err)
		_, enrolled, err := accounts.Enrolled(ctx, u, d.at.now())
		d.check(err)
		user, err := d.users.Get(ctx, "u")
		d.check(err)
		some, err := claims.Tokens(ctx)
		d.check(err)
		want := map[bool][]events.Factor{true: {events.Token}}
		if !slices.Equal(account.Factors, want[login]) || !slices.Equal(claimed.Factors, want[login]) {
			t.Errorf("%s: a login sees %v and %v", what, account.Factors, claimed.Factors)
		}
		if !slices.Equal(enrolled, want[login]) || user.HasToken != kept || !some {
			t.Errorf("%s: enrolled %v, the user has a token: %v, there are tokens: %v", what, enrolled, user.HasToken, some)
		}
	}
	sees("nobody's", false, false)
	d.change(d.tokens.Assign(ctx, "early", u, 5))
	sees("not yet valid", false, true)
	d.at.add(time.Hour)
	sees("valid", true, true)
	d.change(d.tokens.Disable(ctx, "early"))
	sees("disabled", false, true)
	d.change(d.tokens.Assign(ctx, "late", u, 5))
	sees("expired", false, true)
	id := d.change(d.tokens.Unlock(ctx, "early")).ID
	for i := range rule.After { // a login does not tell of the lock
		guess(t, d.attempts, fmt.Sprint(i), TokenOf(u), "", false)
	}
	sees("locked", true, true)

	found, err := d.users.Authenticators(ctx, u)
	if err != nil || len(found) != 2 || found[0].ID != "token:"+id || found[0].Kind != "token" || found[0].Name != "early" || found[0].Failures != rule.After || !found[0].Locked {
		t.Errorf("authenticators = %+v, %v", found, err)
	}
	d.check(d.users.Unlock(ctx, u))
	if got := d.get("early"); got.Failures != 0 || got.Locked {
		t.Errorf("after the user was unlocked: %+v", got)
	}
}

func TestAccept(t *testing.T) {
	d := openDrawer(t)
	ctx := t.Context()
	u := d.user("u")
	d.put(u, token("1"))
	d.change(d.tokens.Reset(ctx, "1", time.Hour))
	for range 3 {
		d.begin(u)
	}
	d.at.add(time.Minute)
	of, err := d.validate.Of(ctx, u)
	d.check(err)
	to, ok := of[0].Token.CheckWide(oath.Typed{Code: d.code(of[0], 50)}, of[0].State, d.at.now(), 100)
	if !ok {
		t.Fatal("the code is not found")
	}
	a := d.begin(u)
	if !d.accept(a, of[0], to) {
		t.Fatal("not taken")
	}
	if got := d.get("1"); got.State != to || got.Wide || !got.Used.Equal(d.at.now()) || got.Failures != 0 {
		t.Errorf("accepted: %+v, want %+v", got, to)
	}
	if got := d.verdict(a); got != "right" {
		t.Errorf("verdict %q", got)
	}
	// The code is used up, and every one before it; the next is good, for whoever read the token before too.
	for next, want := range map[int64]bool{to.Next: false, to.Next - 1: false} {
		a := d.begin(u)
		if got := d.accept(a, of[0], oath.State{Next: next}); got != want || d.verdict(a) != "" {
			t.Errorf("event %d: taken %v, verdict %q", next-1, got, d.verdict(a))
		}
	}
	if got := d.get("1"); got.State != to || got.Failures != 2 {
		t.Errorf("after codes that were used up: %+v", got)
	}
	if !d.accept(d.begin(u), of[0], oath.State{Next: to.Next + 1}) {
		t.Error("the next code is not taken")
	}
}

// What was taken away or decided between the look at a token and its code is so.
func TestAcceptTooLate(t *testing.T) {
	d := openDrawer(t)
	ctx := t.Context()
	other := d.user("other")
	for name, meanwhile := range map[string]func(serial string, a Attempt){
		"unassigned": func(s string, _ Attempt) { d.change(d.tokens.Unassign(ctx, s)) },
		"disabled":   func(s string, _ Attempt) { d.change(d.tokens.Disable(ctx, s)) },
		"deleted":    func(s string, _ Attempt) { d.change(d.tokens.Delete(ctx, s)) },
		"another's": func(s string, _ Attempt) {
			d.change(d.tokens.Unassign(ctx, s))
			d.change(d.tokens.Assign(ctx, s, other, 5))
		},
		"resynchronized": func(s string, _ Attempt) {
			d.change(d.tokens.Resync(ctx, s, d.code(token(s), 0), d.code(token(s), 1), 10))
		},
		"rejected by another delivery": func(_ string, a Attempt) { d.check(d.attempts.Finish(ctx, Result{a, "wrong", false}, nobody)) },
		"never begun":                  func(_ string, a Attempt) { d.forget(a) },
	} {
		t.Run(name, func(t *testing.T) {
			u := d.user("user of " + name)
			d.put(u, token(name))
			of, err := d.validate.Of(ctx, u)
			d.check(err)
			a := d.begin(u)
			meanwhile(name, a)
			before, _ := d.tokens.Get(ctx, name)
			if d.accept(a, of[0], oath.State{Next: 1}) {
				t.Error("taken")
			}
			if after, _ := d.tokens.Get(ctx, name); !reflect.DeepEqual(after, before) {
				t.Errorf("the token moved on: %+v", after)
			}
			if got := d.verdict(a); got == "right" {
				t.Error("the attempt is right")
			}
		})
	}
}

// forget undoes an attempt, as a crash of the database may.
func (d *drawer) forget(a Attempt) {
	d.Helper()
	_, err := d.db.Pool(d.T, "").Exec(d.Context(), `DELETE FROM directory.verdicts WHERE event = $1`, a.Event)
	d.check(err)
}

// A token that answers questions and counts nothing stays where it is.
func TestAcceptAnswerToQuestion(t *testing.T) {
	d := openDrawer(t)
	u := d.user("u")
	asked := token("1")
	asked.Token = oath.Token{Algorithm: oath.OCRA, Suite: "OCRA-1:HOTP-SHA1-6:QN08", Secret: asked.Token.Secret}
	d.put(u, asked)
	for range 2 {
		of, err := d.validate.Of(t.Context(), u)
		d.check(err)
		to, ok := of[0].Token.Check(oath.Typed{Code: d.code(asked, 0), Question: "12345678"}, of[0].State, d.at.now(), 10)
		a := d.begin(u)
		if !ok || !d.accept(a, of[0], to) || d.verdict(a) != "right" {
			t.Error("the answer is not taken")
		}
		if d.accept(a, of[0], to) {
			t.Error("one event is taken twice")
		}
	}
	if got := d.get("1"); got.State != (oath.State{}) || got.Used.IsZero() {
		t.Errorf("the token moved to %+v", got)
	}
}

// One code, many answers and processes: one is taken.
func TestAcceptAtOnce(t *testing.T) {
	d := openDrawer(t)
	processes := []*Tokens{d.validate, openTokens(t, d.db, "otpvalidator", d.at.now)}
	attempts := []*Attempts{d.attempts, openAttempts(t, d.db, "otpvalidator", d.at.now)}
	counts, asked := token("counts"), token("asked")
	asked.Token = oath.Token{Algorithm: oath.OCRA, Suite: "OCRA-1:HOTP-SHA1-6:QN08", Secret: asked.Token.Secret}
	for i, c := range slices.Repeat([]struct {
		what   string
		token  OTPToken
		next   int64
		events int
		other  string // verdict of what is not taken
	}{
		{"many logins", counts, 1, 30, ""},
		{"one event", counts, 2, 1, "right"},
		{"one event and a question", asked, 0, 1, "right"},
	}, 8) {
		name := fmt.Sprint(c.what, i)
		u := d.user("user " + name)
		c.token.Serial, c.token.Token.Secret = name, []byte(name)
		d.put(u, c.token)
		of, err := d.validate.Of(t.Context(), u)
		d.check(err)
		var all []Attempt
		for range c.events {
			d.check(d.users.Unlock(t.Context(), u)) // else they lock
			all = append(all, d.begin(u))
		}
		taken := make(chan string, 30)
		var wg sync.WaitGroup
		for i := range 30 {
			a := all[i%len(all)]
			wg.Go(func() {
				ok, err := processes[i%2].Accept(t.Context(), attempts[i%2], of[0], oath.State{Next: c.next}, Result{a, "right", true})
				if err != nil {
					t.Error(err)
				}
				s, err := attempts[i%2].Begin(t.Context(), a)
				if err != nil || ok && s.Verdict != "right" || !ok && s.Verdict != c.other {
					t.Errorf("%s: taken %v, verdict %q, %v", name, ok, s.Verdict, err)
				}
				if ok {
					taken <- a.Event
				}
			})
		}
		wg.Wait()
		if n := len(taken); n != 1 {
			t.Errorf("%s: taken %d times", name, n)
		}
		if got := d.get(name); got.State.Next != c.next {
			t.Errorf("%s: the token stands at %d", name, got.State.Next)
		}
	}
}

// A used code is on the disk before anybody learns that it was right: no crash of the database makes it good again.
func TestAcceptWaitsForTheDisk(t *testing.T) {
	d := openDrawer(t)
	ctx, admin := t.Context(), d.db.Pool(t, "")
	for _, statement := range []string{ // the servers of tests wait for nothing
		`DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET synchronous_commit = on', current_database()); END $$`,
		`CREATE TABLE public.commits (waits text)`,
		`CREATE FUNCTION public.commits() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS
			$$ BEGIN INSERT INTO public.commits VALUES (current_setting('synchronous_commit')); RETURN NULL; END $$`,
		`CREATE CONSTRAINT TRIGGER commits AFTER UPDATE ON directory.verdicts DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION public.commits()`,
	} {
		_, err := admin.Exec(ctx, statement)
		d.check(err)
	}
	attempts, tokens := openAttempts(t, d.db, "otpvalidator", d.at.now), openTokens(t, d.db, "otpvalidator", d.at.now) // of connections from now on
	u := d.user("u")
	d.put(u, token("1"))
	waits := func() (setting string) {
		t.Helper()
		d.check(admin.QueryRow(ctx, `DELETE FROM public.commits RETURNING waits`).Scan(&setting))
		return setting
	}
	d.check(attempts.Finish(ctx, Result{d.begin(u), "right", true}, nobody))
	if got := waits(); got != "off" { // what makes the other case worth something
		t.Errorf("Finish commits with %q", got)
	}
	of, err := tokens.Of(ctx, u)
	d.check(err)
	if taken, err := tokens.Accept(ctx, attempts, of[0], oath.State{Next: 1}, Result{d.begin(u), "right", true}); !taken || err != nil {
		t.Fatalf("Accept = %v, %v", taken, err)
	}
	if got := waits(); got != "on" {
		t.Errorf("Accept commits with %q", got)
	}
}

// An Accept that is given up leaves the code good and the attempt open.
func TestAcceptGivenUp(t *testing.T) {
	d := openDrawer(t)
	u := d.user("u")
	d.put(u, token("1"))
	of, err := d.validate.Of(t.Context(), u)
	d.check(err)
	a := d.begin(u)
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if taken, err := d.validate.Accept(ended, d.attempts, of[0], oath.State{Next: 1}, Result{a, "right", true}); taken || !errors.Is(err, context.Canceled) {
		t.Errorf("Accept = %v, %v", taken, err)
	}
	if d.verdict(a) != "" || !d.accept(a, of[0], oath.State{Next: 1}) {
		t.Error("the code is lost")
	}
}
