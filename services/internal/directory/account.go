package directory

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/sekisho/sekisho/events"
	"github.com/sekisho/sekisho/services/internal/coalesce"
)

// Accounts reads the accounts of users who are known by their opaque ids.
type Accounts struct {
	db    *pgxpool.Pool
	reads *coalesce.Group[string, string, bool]
}

// NewAccounts makes an Accounts.
func NewAccounts(db *pgxpool.Pool) *Accounts {
	a := &Accounts{db: db}
	a.reads = coalesce.New(a.mayLogIn, func(user string) string { return user }, maxBatch)
	return a
}

// Close waits for what is under way.
func (a *Accounts) Close() { a.reads.Close() }

// MayLogIn reports whether the account exists, is enabled and is not locked by an admin.
func (a *Accounts) MayLogIn(ctx context.Context, user string) (bool, error) {
	return a.reads.Do(ctx, user)
}

func (a *Accounts) mayLogIn(ctx context.Context, users []string) (may []bool, err error) {
	const query = `
		SELECT coalesce(a.may_log_in, false)
		FROM unnest($1::text[]) WITH ORDINALITY AS q (user_id, n) LEFT JOIN directory.accounts a USING (user_id)
		ORDER BY q.n`
	rows, err := a.db.Query(ctx, query, users)
	if err == nil {
		may, err = pgx.CollectRows(rows, pgx.RowTo[bool])
	}
	if err != nil {
		return nil, fmt.Errorf("directory: read accounts: %w", err)
	}
	return may, nil
}

// Enrolled is what a user has to log in with: a password or none, and factors, those that are locked too.
func (a *Accounts) Enrolled(ctx context.Context, user string, now time.Time) (password bool, factors []events.Factor, err error) {
	var phone, push, token bool
	err = a.db.QueryRow(ctx, `
		SELECT EXISTS (SELECT FROM directory.passwords WHERE user_id = $2),
			EXISTS (SELECT FROM directory.phones WHERE user_id = $2),
			EXISTS (SELECT FROM directory.devices WHERE user_id = $2),
			EXISTS (SELECT FROM directory.tokens t WHERE t.user_id = $2 AND `+tokenIsGood+`)`, now, user).Scan(&password, &phone, &push, &token)
	if err != nil {
		return false, nil, fmt.Errorf("directory: what is enrolled: %w", err)
	}
	if phone {
		factors = append(factors, events.SMS)
	}
	if push {
		factors = append(factors, events.Push)
	}
	if token {
		factors = append(factors, events.Token)
	}
	return password, factors, nil
}

// NameOf is the canonical name of a user, for the phone that shows whose it is, or [ErrNotFound].
func (a *Accounts) NameOf(ctx context.Context, user string) (name string, err error) {
	err = a.db.QueryRow(ctx, `SELECT name FROM directory.users WHERE id = $1`, user).Scan(&name)
	if errors.Is(err, pgx.ErrNoRows) {
		return "", ErrNotFound
	}
	if err != nil {
		return "", fmt.Errorf("directory: name of a user: %w", err)
	}
	return name, nil
}
