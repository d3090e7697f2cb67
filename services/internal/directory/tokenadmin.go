package directory

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

// A TokenChange is the data of the events about tokens.
type TokenChange struct {
	Token string `json:"token"` // opaque id
}

// Import adds tokens that are nobody's. Of an OTPToken it takes serial, token, state, maker, model and bounds. A serial that is there
// already is left as it is, and returned.
func (t *Tokens) Import(ctx context.Context, tokens []OTPToken) (there []string, err error) {
	batch, now := &pgx.Batch{}, t.now()
	for _, token := range tokens {
		id := rand.Text()
		batch.Queue(`
			INSERT INTO directory.tokens (id, serial, algorithm, suite, hash, digits, period, secret, next, drift, disabled,
				manufacturer, model, starts_at, expires_at, imported_at)
			VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, false, $11, $12, $13, $14, $15)
			ON CONFLICT (serial) DO NOTHING`,
			id, token.Serial, token.Token.Algorithm, token.Token.Suite, token.Token.Hash, token.Token.Digits, int64(token.Token.Period/time.Second),
			t.seal(id, "secret", token.Token.Secret), token.State.Next, token.State.Drift, token.Manufacturer, token.Model,
			orNull(token.Starts), orNull(token.Expires), now)
	}
	err = pgx.BeginFunc(ctx, t.db, func(tx pgx.Tx) error {
		there = nil
		results := tx.SendBatch(ctx, batch)
		for _, token := range tokens {
			tag, err := results.Exec()
			if err != nil {
				return errors.Join(err, results.Close())
			}
			if tag.RowsAffected() == 0 {
				there = append(there, token.Serial)
			}
		}
		return results.Close()
	})
	if err != nil {
		return nil, fmt.Errorf("directory: import tokens: %w", err)
	}
	return there, nil
}

func orNull(at time.Time) *time.Time {
	if at.IsZero() {
		return nil
	}
	return &at
}

const selectTokens = `
	SELECT ` + tokenColumns + `, coalesce(u.name, ''), coalesce(c.failures, 0), coalesce(c.locked_until > $1, false)
	FROM directory.tokens t
	LEFT JOIN directory.users u ON u.id = t.user_id
	LEFT JOIN directory.counters c ON c.authenticator = 'token:' || t.user_id AND c.device = '' `

// A reader is the database or a transaction.
type reader interface {
	Query(ctx context.Context, query string, args ...any) (pgx.Rows, error)
}

func (t *Tokens) list(ctx context.Context, db reader, condition string, args ...any) ([]OTPToken, error) {
	rows, err := db.Query(ctx, selectTokens+condition, append([]any{t.now()}, args...)...)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (OTPToken, error) {
		var (
			name     string
			failures int
			locked   bool
		)
		found, err := t.scan(row, &name, &failures, &locked)
		found.UserName, found.Failures, found.Locked = name, failures, locked
		return found, err
	})
}

func (t *Tokens) get(ctx context.Context, db reader, serial string) (OTPToken, error) {
	found, err := t.list(ctx, db, `WHERE t.serial = $2`, serial)
	if err == nil && len(found) == 0 {
		err = ErrNoToken
	}
	if err != nil {
		return OTPToken{}, err
	}
	return found[0], nil
}

// Get is the token of a serial, or [ErrNoToken].
func (t *Tokens) Get(ctx context.Context, serial string) (OTPToken, error) {
	found, err := t.get(ctx, t.db, serial)
	if err != nil {
		err = fmt.Errorf("directory: read token: %w", err)
	}
	return found, err
}

// List lists the tokens whose serial, or whose user's name in any spelling, starts with prefix, by serial. Pages are those of [Users.List].
func (t *Tokens) List(ctx context.Context, prefix string, page int) (tokens []OTPToken, more bool, err error) {
	name, err := CanonicalName(prefix)
	if err != nil {
		name = prefix // no name begins so, unless it is dots
	}
	tokens, err = t.list(ctx, t.db, `WHERE t.serial ^@ $2 OR u.name ^@ $3 ORDER BY t.serial LIMIT $4 OFFSET $5`, prefix, name, PageSize+1, (page-1)*PageSize)
	if err != nil {
		return nil, false, fmt.Errorf("directory: list tokens: %w", err)
	}
	if len(tokens) > PageSize {
		return tokens[:PageSize], true, nil
	}
	return tokens, false, nil
}

// change makes a change of a token in one transaction, in which nobody else changes it; how says what of it. Events are announced of the
// token's user, before or after. It returns the token as it is then, or [ErrNoToken].
func (t *Tokens) change(ctx context.Context, serial string, how func(tx pgx.Tx, token OTPToken) (event string, err error)) (changed OTPToken, err error) {
	errMoved := errors.New("directory: the token went to another user meanwhile")
	run := func(tx pgx.Tx) error {
		// The user first, as when a user is deleted with all authenticators, so that the two do not wait for each other.
		var user string
		if err := tx.QueryRow(ctx, `SELECT coalesce(user_id, '') FROM directory.tokens WHERE serial = $1`, serial).Scan(&user); err != nil {
			return instead(err, ErrNoToken)
		}
		if _, err := tx.Exec(ctx, `SELECT FROM directory.users WHERE id = $1 FOR NO KEY UPDATE`, user); err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, `SELECT FROM directory.tokens WHERE serial = $1 FOR UPDATE`, serial); err != nil {
			return err
		}
		before, err := t.get(ctx, tx, serial)
		if err != nil {
			return err
		}
		if before.User != user {
			return errMoved
		}
		event, err := how(tx, before)
		if err != nil {
			return err
		}
		if changed, err = t.get(ctx, tx, serial); errors.Is(err, ErrNoToken) {
			changed, err = before, nil // it was deleted
		}
		if user = cmp.Or(changed.User, before.User); err == nil && event != "" && user != "" {
			err = t.outbox.announce(ctx, tx, event, user, TokenChange{before.ID})
		}
		return err
	}
	for err = errMoved; errors.Is(err, errMoved); {
		err = t.outbox.commit(ctx, run)
	}
	if err != nil {
		return OTPToken{}, fmt.Errorf("directory: change token: %w", err)
	}
	return changed, nil
}

// Assign gives a token to a user, who starts with a clean counter, unless they have `most` tokens, which is [ErrTooManyTokens].
// A token that the user has already stays as it is; another user's is [ErrAssigned]; [ErrNotFound] if there is no such user.
func (t *Tokens) Assign(ctx context.Context, serial, user string, most int) (OTPToken, error) {
	return t.change(ctx, serial, func(tx pgx.Tx, token OTPToken) (string, error) {
		switch token.User {
		case user:
			return "", nil
		case "":
		default:
			return "", ErrAssigned
		}
		var held string // so that their tokens are counted by one at a time
		if err := tx.QueryRow(ctx, `SELECT id FROM directory.users WHERE id = $1 FOR NO KEY UPDATE`, user).Scan(&held); err != nil {
			return "", instead(err, ErrNotFound)
		}
		tag, err := tx.Exec(ctx, `
			UPDATE directory.tokens SET user_id = $2, assigned_at = $3
			WHERE id = $1 AND (SELECT count(*) FROM directory.tokens WHERE user_id = $2) < $4`, token.ID, user, t.now(), most)
		if err != nil {
			return "", err
		}
		if tag.RowsAffected() == 0 {
			return "", ErrTooManyTokens
		}
		return "token-assigned", clearCounters(ctx, tx, TokenOf(user))
	})
}

// taken is what follows when a user's token may not be used any more, or not as before: logins and sessions that began before must not
// outlive that.
func (t *Tokens) taken(ctx context.Context, tx pgx.Tx, token OTPToken) error {
	_, err := tx.Exec(ctx, `UPDATE directory.users SET generation = generation + 1 WHERE id = $1`, token.User)
	return err
}

// Unassign takes a token away from its user, and its PIN with it. Where the token stands stays, so that no code is good twice.
func (t *Tokens) Unassign(ctx context.Context, serial string) (OTPToken, error) {
	return t.change(ctx, serial, func(tx pgx.Tx, token OTPToken) (string, error) {
		if token.User == "" {
			return "", nil
		}
		if _, err := tx.Exec(ctx, `UPDATE directory.tokens SET user_id = NULL, assigned_at = NULL, pin = NULL WHERE id = $1`, token.ID); err != nil {
			return "", err
		}
		return "token-unassigned", t.taken(ctx, tx, token)
	})
}

// Delete removes a token. One that is imported again starts where its file says: its old codes may be good again.
func (t *Tokens) Delete(ctx context.Context, serial string) (OTPToken, error) {
	return t.change(ctx, serial, func(tx pgx.Tx, token OTPToken) (string, error) {
		if _, err := tx.Exec(ctx, `DELETE FROM directory.tokens WHERE id = $1`, token.ID); err != nil {
			return "", err
		}
		return "token-unassigned", t.taken(ctx, tx, token)
	})
}

// Disable has a token not used until it is unlocked.
func (t *Tokens) Disable(ctx context.Context, serial string) (OTPToken, error) {
	return t.change(ctx, serial, func(tx pgx.Tx, token OTPToken) (string, error) {
		if _, err := tx.Exec(ctx, `UPDATE directory.tokens SET disabled = true WHERE id = $1`, token.ID); err != nil {
			return "", err
		}
		return "token-disabled", t.taken(ctx, tx, token)
	})
}

// Unlock takes back that a token was disabled, and what failures did.
func (t *Tokens) Unlock(ctx context.Context, serial string) (OTPToken, error) {
	return t.change(ctx, serial, func(tx pgx.Tx, token OTPToken) (string, error) {
		if _, err := tx.Exec(ctx, `UPDATE directory.tokens SET disabled = false WHERE id = $1`, token.ID); err != nil {
			return "", err
		}
		return "token-unlocked", clearCounters(ctx, tx, TokenOf(token.User))
	})
}

// Reset takes back what failures did, and has the token's next right code be looked for far away, within a time: for one that was away for
// long. Guesses hit more easily so.
func (t *Tokens) Reset(ctx context.Context, serial string, within time.Duration) (OTPToken, error) {
	return t.change(ctx, serial, func(tx pgx.Tx, token OTPToken) (string, error) {
		if _, err := tx.Exec(ctx, `UPDATE directory.tokens SET wide_until = $2 WHERE id = $1`, token.ID, t.now().Add(within)); err != nil {
			return "", err
		}
		return "token-reset", clearCounters(ctx, tx, TokenOf(token.User))
	})
}

// Resync finds where a token stands by two codes in a row, up to `far` events or steps away, or returns [ErrNoMatch]. The codes are used
// up by that.
func (t *Tokens) Resync(ctx context.Context, serial, first, second string, far int64) (OTPToken, error) {
	return t.change(ctx, serial, func(tx pgx.Tx, token OTPToken) (string, error) {
		state, ok := token.Token.Resync(first, second, token.State, t.now(), far)
		if !ok || token.Unreadable { // the codes of an empty secret are no secret
			return "", ErrNoMatch
		}
		_, err := tx.Exec(ctx, `UPDATE directory.tokens SET next = $2, drift = $3, wide_until = NULL WHERE id = $1`, token.ID, state.Next, state.Drift)
		return "token-resynced", err
	})
}

// SetPIN sets the PIN with which a token is to be used; "" takes it away. A token that is nobody's is [ErrNotAssigned]: a PIN is a person's.
func (t *Tokens) SetPIN(ctx context.Context, serial, pin string) (OTPToken, error) {
	return t.change(ctx, serial, func(tx pgx.Tx, token OTPToken) (string, error) {
		if token.User == "" {
			return "", ErrNotAssigned
		}
		var box []byte
		if pin != "" {
			box = t.seal(token.ID, "pin", []byte(pin))
		}
		if _, err := tx.Exec(ctx, `UPDATE directory.tokens SET pin = $2 WHERE id = $1`, token.ID, box); err != nil {
			return "", err
		}
		return "token-pin-set", t.taken(ctx, tx, token)
	})
}
