package directory

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/sekisho/sekisho/services/internal/oath"
)

// TokenOf names what a user's tokens count failures as, all together: any of them may answer.
func TokenOf(user string) string { return "token:" + user }

// Errors of tokens.
var (
	ErrNoToken       = errors.New("directory: no such token")
	ErrAssigned      = errors.New("directory: the token is another user's")
	ErrNotAssigned   = errors.New("directory: the token is nobody's")
	ErrTooManyTokens = errors.New("directory: the user has as many tokens as a user may have")
	ErrNoMatch       = errors.New("directory: the codes are not two in a row of that token")
)

// An OTPToken is a one-time password token.
type OTPToken struct {
	ID           string // opaque
	Serial       string // as it is printed on the token
	User         string // opaque id; "" for nobody
	UserName     string // canonical; of those that admins see only
	Token        oath.Token
	State        oath.State
	PIN          string // with which it is to be used; "" for none
	Wide         bool   // where it stands is not known, see [oath.Token.CheckWide]
	Disabled     bool   // by an admin
	Unreadable   bool   // sealed under another key: it has neither secret nor PIN here, and is good for nothing but to be deleted
	Manufacturer string
	Model        string
	Starts       time.Time // zero: no bound, as below
	Expires      time.Time
	Imported     time.Time
	Assigned     time.Time // zero: nobody's
	Used         time.Time // zero: not yet
	Failures     int       // in a row, of the user's tokens together, from unknown devices
	Locked       bool      // by them
}

// Good reports whether the token may be used at a time.
func (t OTPToken) Good(now time.Time) bool {
	return !t.Unreadable && !t.Disabled && !now.Before(t.Starts) && (t.Expires.IsZero() || now.Before(t.Expires))
}

// tokenIsGood is [OTPToken.Good] of a row t; the parameter $1 is the time.
const tokenIsGood = `NOT t.disabled AND coalesce(t.starts_at <= $1, true) AND coalesce(t.expires_at > $1, true)`

// Tokens keeps one-time password tokens. Their secrets and PINs lie sealed in the database, each for its own row, under a key that only
// console and otpvalidator have.
type Tokens struct {
	db     *pgxpool.Pool
	now    func() time.Time
	outbox *Outbox
	vault  cipher.AEAD
}

// NewTokens makes a Tokens, whose changes by admins go through the outbox. key has 32 bytes.
func NewTokens(outbox *Outbox, key []byte) (*Tokens, error) {
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, fmt.Errorf("directory: key of tokens: %w", err)
	}
	vault, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		return nil, fmt.Errorf("directory: key of tokens: %w", err)
	}
	return &Tokens{db: outbox.db, now: outbox.now, outbox: outbox, vault: vault}, nil
}

func (t *Tokens) seal(id, field string, value []byte) []byte {
	return t.vault.Seal(nil, nil, value, []byte("sekisho token v1\x00"+id+"\x00"+field))
}

func (t *Tokens) open(id, field string, box []byte) ([]byte, error) {
	return t.vault.Open(nil, nil, box, []byte("sekisho token v1\x00"+id+"\x00"+field))
}

const tokenColumns = `t.id, t.serial, coalesce(t.user_id, ''), t.algorithm, t.suite, t.hash, t.digits, t.period, t.secret, t.pin, t.next, t.drift,
	t.wide_until, t.disabled, t.manufacturer, t.model, t.starts_at, t.expires_at, t.imported_at, t.assigned_at, t.used_at`

// scan reads tokenColumns, and opens what is sealed, if it can.
func (t *Tokens) scan(row pgx.CollectableRow, more ...any) (found OTPToken, err error) {
	var (
		period                                int64
		secret, pin                           []byte
		wide, starts, expires, assigned, used *time.Time
	)
	err = row.Scan(append([]any{&found.ID, &found.Serial, &found.User, &found.Token.Algorithm, &found.Token.Suite, &found.Token.Hash, &found.Token.Digits, &period,
		&secret, &pin, &found.State.Next, &found.State.Drift, &wide, &found.Disabled, &found.Manufacturer, &found.Model, &starts, &expires,
		&found.Imported, &assigned, &used}, more...)...)
	if err != nil {
		return found, err
	}
	found.Token.Period = time.Duration(period) * time.Second
	found.Wide = t.now().Before(orZero(wide))
	found.Starts, found.Expires, found.Assigned, found.Used = orZero(starts), orZero(expires), orZero(assigned), orZero(used)
	if found.Token.Secret, err = t.open(found.ID, "secret", secret); err == nil && pin != nil {
		pin, err = t.open(found.ID, "pin", pin)
		found.PIN = string(pin)
	}
	if err != nil {
		found.Token.Secret, found.PIN, found.Unreadable = nil, "", true
	}
	return found, nil
}

func orZero(at *time.Time) time.Time {
	if at == nil {
		return time.Time{}
	}
	return *at
}

// Of are the tokens of a user, the newest assignment first. It is an error if none of them can be opened: their codes are not wrong, but
// nobody can say so.
func (t *Tokens) Of(ctx context.Context, user string) ([]OTPToken, error) {
	return t.of(ctx, t.db, user)
}

func (t *Tokens) of(ctx context.Context, db reader, user string) ([]OTPToken, error) {
	rows, err := db.Query(ctx, `SELECT `+tokenColumns+` FROM directory.tokens t WHERE t.user_id = $1 ORDER BY t.assigned_at DESC, t.id`, user)
	var found []OTPToken
	if err == nil {
		found, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (OTPToken, error) { return t.scan(row) })
	}
	if err == nil && len(found) > 0 && !slices.ContainsFunc(found, func(token OTPToken) bool { return !token.Unreadable }) {
		err = errors.New("sealed under another key than keys/token.key")
	}
	if err != nil {
		return nil, fmt.Errorf("directory: tokens of a user: %w", err)
	}
	return found, nil
}

// Accept moves a token on to where a code has brought it, and finishes the attempt as right, in one transaction: whichever of two answers
// with one code comes second finds the code used up, which is false. So does a second delivery of one answer, which finds the verdict
// with [Attempts.Begin] then, and an answer whose token was taken away or disabled meanwhile.
func (t *Tokens) Accept(ctx context.Context, a *Attempts, token OTPToken, to oath.State, r Result) (taken bool, err error) {
	// The attempt is held first, so that the token does not move on for one that another delivery has rejected. A token that is asked a
	// question, and counts nothing, stays where it is.
	const statement = `
		UPDATE directory.tokens SET next = $3, drift = $4, wide_until = NULL, used_at = $5
		FROM (SELECT FROM directory.verdicts WHERE event = $7 AND digest = $8 AND verdict = '' FOR UPDATE) undecided
		WHERE id = $1 AND user_id = $2 AND NOT disabled AND (next < $3 OR next = $3 AND $6)`
	err = again(func() error {
		taken = false
		return pgx.BeginFunc(ctx, t.db, func(tx pgx.Tx) error {
			tag, err := tx.Exec(ctx, statement, token.ID, token.User, to.Next, to.Drift, t.now(), to.Next == token.State.Next, r.Event, r.Digest)
			if err != nil || tag.RowsAffected() == 0 {
				return err
			}
			taken = true
			return a.note(ctx, tx, []Result{r}, false)
		})
	})
	if err != nil {
		return false, fmt.Errorf("directory: accept a token's code: %w", err)
	}
	return taken, nil
}
