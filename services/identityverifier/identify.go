package identityverifier

import (
	"cmp"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base32"
	"encoding/hex"
	"errors"
	"regexp"
	"slices"
	"time"

	"github.com/sekisho/sekisho/events"
	"github.com/sekisho/sekisho/services/internal/bus"
	"github.com/sekisho/sekisho/services/internal/directory"
)

// maxSkew is how far the time in a login's id may be from the broker's. Write-once ends when a message expires, after
// 20 minutes: an old id could then be used a second time.
const maxSkew = 2 * time.Minute

// identify answers a request with identified or refused.
func (v *verifier) identify(ctx context.Context, e *events.Event, requested *events.Requested) ([]*events.Event, error) {
	answer, result, err := v.answer(ctx, e, requested)
	switch {
	case err != nil:
		return nil, err
	case result == nil:
		return []*events.Event{answer}, nil
	}
	return nil, v.claims.Finish(ctx, *result, func() error { return v.bus.Store(ctx, e, answer) })
}

// userID matches what can be a user's opaque id. What a gateway names besides shares a statement with other gateways' logins, which it must not fail.
var userID = regexp.MustCompile(`^[A-Za-z0-9_-]{1,64}$`)

const maxDeviceUsers = 16 // users that a browser remembers, at most; our own gateway keeps five

// answer finds out who it is. result is what is to be finished, nil where no attempt with a password was counted.
func (v *verifier) answer(ctx context.Context, e *events.Event, requested *events.Requested) (answer *events.Event, result *directory.Result, err error) {
	if e.Login.Time().Sub(e.Stored).Abs() > maxSkew {
		return nil, nil, bus.Permanent(errors.New("the time in the login id is more than two minutes from the broker's"))
	}
	e.Expires = requested.Ends(e.Stored) // from here on all events of the login carry its deadline
	if !v.now().Before(e.Expires) {
		return events.New(e.Login, 0, &events.Lapsed{}), nil, nil
	}
	var identity events.Identity
	if err := v.opener.Open(requested.Identity, e.Subject(), "identity", &identity); err != nil {
		return nil, nil, bus.Permanent(err)
	}
	name, err := directory.CanonicalName(identity.User)
	if err != nil {
		name = "" // nobody; looked up like any other
	}
	users := slices.DeleteFunc(identity.DeviceUsers, func(id string) bool { return !userID.MatchString(id) })
	who := directory.Who{Name: name, Device: deviceHash(identity.Device), DeviceUsers: users[:min(len(users), maxDeviceUsers)]}
	name = cmp.Or(name, identity.User)

	var account *directory.Account
	found, reason := &events.Identified{
		App: requested.App, Primary: requested.Method, Deadline: e.Expires, Prefer: requested.Prefer, Need: requested.Need, SourceTag: requested.SourceTag,
		Environment: requested.Environment,
	}, ""
	if requested.Method == events.Password {
		claim := directory.Claim{Who: who, Stranger: "?" + v.stranger(name).ID, Event: e.ID(), Digest: digest(requested.Identity)}
		account, reason, result, err = v.checkPassword(ctx, claim, identity.Password)
	} else if account, err = v.claims.Account(ctx, who); err == nil {
		switch {
		case identity.Session != "":
			from := events.Login{Gateway: e.Login.Gateway, ID: identity.Session}
			found.Session, reason, err = v.checkSession(ctx, from, account)
		case requested.Prefer == events.Token && v.tokens.Load() && !may(account, events.Token):
			// Who brings a token's code is asked for it under any name, so that it does not tell who has a token.
			account, found.Decoy = v.stranger(name), true
			account.Factors = []events.Factor{events.Token}
		case !may(account, events.Factors...):
			account, found.Decoy = v.stranger(name), true
		}
	}
	if err != nil {
		return nil, nil, err
	}
	if reason != "" {
		return events.New(e.Login, 0, &events.Refused{Reason: reason}), result, nil
	}
	found.User, found.Generation, found.Factors, found.Device = account.ID, account.Generation, account.Factors, account.Device
	found.Locale = cmp.Or(requested.Locale, account.Locale)
	hash := sha256.Sum256([]byte(name))
	found.Subject, err = v.sealer.Seal("riskassessor", e.Login.Subject(events.StepIdentified, 0), "subject",
		events.Subject{UserHash: hex.EncodeToString(hash[:])})
	return events.New(e.Login, 0, found), result, err
}

// may reports whether there is such an account, which may log in and has one of the factors.
func may(account *directory.Account, factors ...events.Factor) bool {
	return account != nil && account.Enabled && !account.Locked &&
		slices.ContainsFunc(account.Factors, func(f events.Factor) bool { return slices.Contains(factors, f) })
}

// deviceHash is the name of a browser as counters and events carry it.
func deviceHash(device string) string {
	if device == "" {
		return ""
	}
	hash := sha256.Sum256([]byte(device))
	return hex.EncodeToString(hash[:16])
}

// stranger stands in for a user who does not exist or can not log in: an account that is the same for a name at each
// try, looks like any other, and that nobody can make or guess without the secret. It has what users here can have: a factor
// that nobody can enroll would give it away.
func (v *verifier) stranger(name string) *directory.Account {
	mac := hmac.New(sha256.New, v.secret)
	mac.Write([]byte("sekisho stranger v1\x00" + name))
	sum := mac.Sum(nil)
	plausible := [][]events.Factor{{events.SMS}, {events.SMS, events.Push}, {events.SMS, events.Push}, {events.Push}}
	return &directory.Account{
		ID:      base32.StdEncoding.EncodeToString(sum)[:26], // as long as the ids of package directory
		Locale:  "ja",
		Factors: plausible[sum[31]%4],
	}
}
