package identityverifier

import (
	"context"
	"crypto/sha256"

	"github.com/sekisho/sekisho/events"
	"github.com/sekisho/sekisho/services/internal/directory"
)

// Reasons of refused: for operators, never shown to the user.
const (
	wrongPassword = "wrong_password"
	unknownUser   = "unknown_user"
	locked        = "locked" // by an admin, or by failures
	disabled      = "disabled"
	noPassword    = "no_password"
)

// right is the verdict on a right password; other verdicts are the reason of the refusal.
const right = "right"

// checkPassword returns the reason to refuse, "" for none. Whatever the name and the password, it takes the same statements and
// one hash.
func (v *verifier) checkPassword(ctx context.Context, e *events.Event, requested *events.Requested, password, name string, account *directory.Account) (reason string, err error) {
	attempt := directory.Attempt{Event: e.ID(), Digest: digest(requested.Identity)}
	if account != nil {
		attempt.Authenticator, attempt.Device = directory.PasswordOf(account.ID), account.Device
	} else {
		attempt.Authenticator = directory.PasswordOf("?" + v.stranger(name).ID)
	}
	outdated := false
	if attempt.Verdict, outdated, err = v.compare(ctx, account, password); err != nil {
		return "", err
	}
	attempt.Right = attempt.Verdict == right
	verdict, err := v.users.Judge(ctx, attempt)
	switch {
	case err != nil:
		return "", err
	case account == nil: // also if the user was deleted since an earlier delivery
		return unknownUser, nil
	case verdict == "":
		return locked, nil
	case verdict != right:
		return verdict, nil
	case outdated:
		return "", v.rehash(ctx, account, password)
	default:
		return "", nil
	}
}

// compare says what a password comes to, if it may be looked at, and whether its hash is to be made anew.
func (v *verifier) compare(ctx context.Context, account *directory.Account, password string) (verdict string, outdated bool, err error) {
	hash := "" // of nobody: never right
	switch {
	case account == nil:
		verdict = unknownUser
	case account.Locked:
		verdict = locked
	case !account.Enabled:
		verdict = disabled
	case account.Primary != directory.Password || account.Password == "":
		verdict = noPassword
	default:
		verdict, hash = wrongPassword, account.Password
	}
	ok, outdated, err := v.hasher.Verify(ctx, password, hash)
	if ok {
		verdict = right
	}
	return verdict, ok && outdated, err
}

// rehash makes the hash of a right password one of today's cost.
func (v *verifier) rehash(ctx context.Context, account *directory.Account, password string) error {
	fresh, err := v.hasher.Hash(ctx, password)
	if err != nil {
		return err
	}
	return v.users.Rehash(ctx, account.ID, account.Password, fresh)
}

// digest tells payloads apart without being a hash of what is inside.
func digest(s *events.Sealed) []byte {
	hash := sha256.New()
	hash.Write(s.Enc)
	hash.Write(s.Box)
	return hash.Sum(nil)
}
