package directory

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// Primary is how a user begins a login.
type Primary string

// The primary methods.
const (
	Password Primary = "password"
	Token    Primary = "token" // user name and one-time password
)

// ErrTaken says that the name belongs to another user.
var ErrTaken = errors.New("directory: the user name is taken")

// PageSize is the number of users in a page of a list.
const PageSize = 50

// A User is what an admin sees of a user.
type User struct {
	ID          string // opaque
	Name        string // canonical
	Locale      string // "ja" or "en"
	Primary     Primary
	Enabled     bool
	Locked      bool   // by an admin
	Phone       string // E.164; "" for none
	HasPassword bool
	HasDevice   bool
	HasToken    bool
	Created     time.Time
	Changed     time.Time
}

// Users is what an admin does with users.
type Users struct {
	db     *pgxpool.Pool
	now    func() time.Time
	outbox *Outbox
}

// NewUsers makes a Users, whose changes go through the outbox.
func NewUsers(outbox *Outbox) *Users { return &Users{db: outbox.db, now: outbox.now, outbox: outbox} }

const selectUser = `
	SELECT u.id, u.name, u.locale, u.primary_method, u.enabled, u.locked, coalesce(h.number, ''), p.user_id IS NOT NULL,
	       (SELECT true FROM directory.devices d WHERE d.user_id = u.id LIMIT 1) IS NOT NULL,
	       (SELECT true FROM directory.tokens t WHERE t.user_id = u.id LIMIT 1) IS NOT NULL, u.created_at, u.changed_at
	FROM directory.users u
	LEFT JOIN directory.phones h ON h.user_id = u.id
	LEFT JOIN directory.passwords p ON p.user_id = u.id `

// Get is the user of a canonical name, or [ErrNotFound].
func (u *Users) Get(ctx context.Context, name string) (User, error) {
	return u.get(ctx, `WHERE u.name = $1`, name)
}

// List lists the users whose canonical name starts with prefix, by name. Pages count from 1; more says that there is
// another page.
func (u *Users) List(ctx context.Context, prefix string, page int) (users []User, more bool, err error) {
	rows, err := u.db.Query(ctx, selectUser+`WHERE u.name ^@ $1 ORDER BY u.name LIMIT $2 OFFSET $3`,
		prefix, PageSize+1, (page-1)*PageSize)
	if err == nil {
		users, err = pgx.CollectRows(rows, pgx.RowToStructByPos[User])
	}
	if err != nil {
		return nil, false, fmt.Errorf("directory: list users: %w", err)
	}
	if len(users) > PageSize {
		return users[:PageSize], true, nil
	}
	return users, false, nil
}

// Create adds an enabled user. Of the User it takes name, locale, primary method and phone; hash is the PHC string of the
// password, "" for none. It returns [ErrTaken] if the name is another user's.
func (u *Users) Create(ctx context.Context, user User, hash string) (User, error) {
	id, authenticators := rand.Text(), []string{}
	if hash != "" {
		authenticators = append(authenticators, "password")
	}
	if user.Phone != "" {
		authenticators = append(authenticators, "sms")
	}
	err := u.outbox.commit(ctx, func(tx pgx.Tx) error {
		_, err := tx.Exec(ctx, `
			INSERT INTO directory.users (id, name, locale, primary_method, enabled, locked, created_at, changed_at)
			VALUES ($1, $2, $3, $4, true, false, $5, $5)`, id, user.Name, user.Locale, user.Primary, u.now())
		if err != nil {
			return err
		}
		if err := u.setFactors(ctx, tx, id, &hash, &user.Phone); err != nil {
			return err
		}
		return u.outbox.announce(ctx, tx, "created", id, map[string]any{"primary": user.Primary, "authenticators": authenticators})
	})
	if hasCode(err, uniqueViolation) {
		return User{}, ErrTaken
	}
	if err != nil {
		return User{}, fmt.Errorf("directory: create user: %w", err)
	}
	return u.Get(ctx, user.Name)
}

// A Change is what to change of a user; nil leaves a thing as it is.
type Change struct {
	PasswordHash *string // "" takes the password away
	Phone        *string // E.164; "" takes the phone away
	Locale       *string
	Primary      *Primary
	Enabled      *bool
	Locked       *bool // by an admin
}

// Ends tells whether logins and sessions that began before the change must not outlive it: whoever had what is changed or taken away may
// hold them.
func (c Change) Ends() bool {
	return c.PasswordHash != nil || c.Phone != nil || c.Enabled != nil && !*c.Enabled || c.Locked != nil && *c.Locked
}

// fields are the names of what is changed beside the lock, which has events of its own.
func (c Change) fields() (fields []string) {
	for field, given := range map[string]bool{
		"password": c.PasswordHash != nil, "phone": c.Phone != nil, "locale": c.Locale != nil, "primary": c.Primary != nil, "enabled": c.Enabled != nil,
	} {
		if given {
			fields = append(fields, field)
		}
	}
	slices.Sort(fields)
	return fields
}

// Change changes a user, or returns [ErrNotFound].
func (u *Users) Change(ctx context.Context, id string, c Change) (User, error) {
	err := u.outbox.commit(ctx, func(tx pgx.Tx) error {
		tag, err := tx.Exec(ctx, `
			UPDATE directory.users SET changed_at = $2, locale = coalesce($3, locale), primary_method = coalesce($4, primary_method),
				enabled = coalesce($5, enabled), locked = coalesce($6, locked), generation = generation + $7::boolean::integer
			WHERE id = $1`, id, u.now(), c.Locale, c.Primary, c.Enabled, c.Locked, c.Ends())
		if err != nil {
			return err
		}
		if tag.RowsAffected() == 0 {
			return ErrNotFound
		}
		if err := u.setFactors(ctx, tx, id, c.PasswordHash, c.Phone); err != nil {
			return err
		}
		if fields := c.fields(); len(fields) > 0 {
			if err := u.outbox.announce(ctx, tx, "changed", id, map[string]any{"fields": fields}); err != nil {
				return err
			}
		}
		switch {
		case c.Locked == nil:
			return nil
		case *c.Locked:
			return u.outbox.announce(ctx, tx, "locked", id, struct{}{})
		default:
			return u.outbox.announce(ctx, tx, "unlocked", id, struct{}{})
		}
	})
	if err != nil {
		return User{}, fmt.Errorf("directory: change user: %w", err)
	}
	return u.get(ctx, `WHERE u.id = $1`, id)
}

// setFactors stores or takes away a password and a phone. A new authenticator starts with a clean counter.
func (u *Users) setFactors(ctx context.Context, tx pgx.Tx, id string, hash, phone *string) error {
	for _, f := range []struct {
		value                  *string
		table, column, counter string
	}{
		{hash, "directory.passwords", "hash", PasswordOf(id)},
		{phone, "directory.phones", "number", SMSOf(id)},
	} {
		if f.value == nil {
			continue
		}
		statement, args := `DELETE FROM `+f.table+` WHERE user_id = $1`, []any{id}
		if *f.value != "" {
			statement = `INSERT INTO ` + f.table + ` (user_id, ` + f.column + `, changed_at) VALUES ($1, $2, $3)
				ON CONFLICT (user_id) DO UPDATE SET ` + f.column + ` = $2, changed_at = $3` // not excluded.…: an admin may not read a hash
			args = append(args, *f.value, u.now())
		}
		if _, err := tx.Exec(ctx, statement, args...); err != nil {
			return err
		}
		if err := clearCounters(ctx, tx, f.counter); err != nil {
			return err
		}
	}
	return nil
}

// Unlock takes back an admin's lock and everything that failed attempts did.
func (u *Users) Unlock(ctx context.Context, id string) error {
	err := u.outbox.commit(ctx, func(tx pgx.Tx) error {
		tag, err := tx.Exec(ctx, `UPDATE directory.users SET locked = false, changed_at = $2 WHERE id = $1`, id, u.now())
		if err != nil {
			return err
		}
		if err := clearCounters(ctx, tx, PasswordOf(id), SMSOf(id), TokenOf(id)); err != nil || tag.RowsAffected() == 0 {
			return err
		}
		return u.outbox.announce(ctx, tx, "unlocked", id, struct{}{})
	})
	if err != nil {
		return fmt.Errorf("directory: unlock: %w", err)
	}
	return nil
}

// Delete removes a user and everything that the directory knows of it. Tokens stay, and are nobody's.
func (u *Users) Delete(ctx context.Context, id string) error {
	err := u.outbox.commit(ctx, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, `SELECT FROM directory.users WHERE id = $1 FOR UPDATE`, id); err != nil { // before its tokens, as in Tokens.change
			return err
		}
		if _, err := tx.Exec(ctx, `UPDATE directory.tokens SET user_id = NULL, assigned_at = NULL, pin = NULL WHERE user_id = $1`, id); err != nil {
			return err
		}
		tag, err := tx.Exec(ctx, `DELETE FROM directory.users WHERE id = $1`, id)
		if err != nil {
			return err
		}
		if err := clearCounters(ctx, tx, PasswordOf(id), SMSOf(id), TokenOf(id)); err != nil || tag.RowsAffected() == 0 {
			return err
		}
		return u.outbox.announce(ctx, tx, "deleted", id, struct{}{})
	})
	if err != nil {
		return fmt.Errorf("directory: delete user: %w", err)
	}
	return nil
}

func clearCounters(ctx context.Context, tx pgx.Tx, authenticators ...string) error {
	_, err := tx.Exec(ctx, `DELETE FROM directory.counters WHERE authenticator = ANY($1)`, authenticators)
	return err
}

// An Authenticator is something that a user can log in with.
type Authenticator struct {
	ID       string // "password", "sms", of a device "push:<device>", of a token "token:<id>"
	Kind     string // "password", "sms", "push", "token"
	Name     string // of a device, as the user calls it; of a token, its serial
	Changed  time.Time
	Failures int  // in a row, from unknown devices
	Locked   bool // by failures
}

// Authenticators lists what a user can log in with.
func (u *Users) Authenticators(ctx context.Context, id string) ([]Authenticator, error) {
	const query = `
		SELECT a.id, a.kind, a.name, a.changed_at, coalesce(c.failures, 0), coalesce(c.locked_until > $2, false)
		FROM (SELECT 'password' AS id, 'password' AS kind, '' AS name, user_id, changed_at FROM directory.passwords
		      UNION ALL SELECT 'sms', 'sms', '', user_id, changed_at FROM directory.phones
		      UNION ALL SELECT 'push:' || id, 'push', name, user_id, enrolled_at FROM directory.devices
		      UNION ALL SELECT 'token:' || id, 'token', serial, user_id, assigned_at FROM directory.tokens WHERE user_id IS NOT NULL) a
		LEFT JOIN directory.counters c ON c.authenticator = a.kind || ':' || a.user_id AND c.device = ''
		WHERE a.user_id = $1 ORDER BY a.kind, a.changed_at, a.id`
	rows, err := u.db.Query(ctx, query, id, u.now())
	if err != nil {
		return nil, fmt.Errorf("directory: authenticators: %w", err)
	}
	list, err := pgx.CollectRows(rows, pgx.RowToStructByPos[Authenticator])
	if err != nil {
		return nil, fmt.Errorf("directory: authenticators: %w", err)
	}
	return list, nil
}

func (u *Users) get(ctx context.Context, condition string, args ...any) (User, error) {
	rows, err := u.db.Query(ctx, selectUser+condition, args...)
	if err != nil {
		return User{}, fmt.Errorf("directory: read user: %w", err)
	}
	found, err := pgx.CollectExactlyOneRow(rows, pgx.RowToStructByPos[User])
	if errors.Is(err, pgx.ErrNoRows) {
		return User{}, ErrNotFound
	}
	if err != nil {
		return User{}, fmt.Errorf("directory: read user: %w", err)
	}
	return found, nil
}
