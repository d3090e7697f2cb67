package identityverifier

import (
	"context"
	"crypto/sha256"
	"time"

	"github.com/sekisho/sekisho/events"
	"github.com/sekisho/sekisho/services/internal/bus"
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

// contention is how soon an attempt is tried again after it met a lock that other logins of the user may be about to take back. After a
// second it is a lock like any other. Names that nobody has are locked in the same way.
const contention = 50 * time.Millisecond

// checkPassword looks the user up and returns the reason to refuse, "" for none, and the result of the attempt.
// Whatever the name and the password, it takes the same statements and one hash.
func (v *verifier) checkPassword(ctx context.Context, claim directory.Claim, password string) (
	account *directory.Account, reason string, result *directory.Result, err error) {
	account, attempt, standing, err := v.claims.Begin(ctx, claim)
	if err != nil {
		return nil, "", nil, err
	}
	if standing.Contended {
		return nil, "", nil, bus.RetryAfter(contention, nil)
	}
	verdict := standing.Verdict
	if verdict == "" {
		if verdict, err = v.judge(ctx, account, standing.Allowed, password); err != nil {
			return nil, "", nil, err
		}
	}
	switch {
	case account == nil: // also if the user was deleted since an earlier delivery
		reason = unknownUser
	case verdict != right:
		reason = verdict
	}
	return account, reason, &directory.Result{Attempt: attempt, Verdict: verdict, Right: reason == ""}, nil
}

func (v *verifier) judge(ctx context.Context, account *directory.Account, allowed bool, password string) (verdict string, err error) {
	hash := "" // of nobody: never right
	switch {
	case account == nil:
		verdict = unknownUser
	case account.Locked || !allowed:
		verdict = locked
	case !account.Enabled:
		verdict = disabled
	case account.Primary != directory.Password || account.Password == "":
		verdict = noPassword
	default:
		verdict, hash = wrongPassword, account.Password
	}
	ok, outdated, err := v.hasher.Verify(ctx, password, hash)
	if err != nil || !ok {
		return verdict, err
	}
	if outdated {
		fresh, err := v.hasher.Hash(ctx, password)
		if err != nil {
			return "", err
		}
		if err := v.claims.Rehash(ctx, account.ID, hash, fresh); err != nil {
			return "", err
		}
	}
	return right, nil
}

// digest tells payloads apart without being a hash of what is inside.
func digest(s *events.Sealed) []byte {
	hash := sha256.New()
	hash.Write(s.Enc)
	hash.Write(s.Box)
	return hash.Sum(nil)
}
