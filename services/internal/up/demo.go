package up

import (
	"context"
	"crypto/rand"
	"encoding/base32"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/sekisho/sekisho/services/console"
	"github.com/sekisho/sekisho/services/internal/directory"
	"github.com/sekisho/sekisho/services/internal/oath"
)

// A demoAccount is a user to try things with. Their numbers are of nobody: simulated phones get the messages.
type demoAccount struct {
	name, phone string
	primary     directory.Primary
	locked      bool
	about       string
}

var demo = []demoAccount{
	{name: "alice", phone: "+819012341234", primary: directory.Password, about: "password, then a code by text message (the risk simulator says REVIEW)"},
	{name: "bob", phone: "+819012345678", primary: directory.Password, about: "password (the risk simulator says OK), or the ID alone once a phone is activated"},
	{name: tokenUser, primary: directory.Token, about: "no password: ID and one-time password of a token, see below"},
	{name: "dave", phone: "+819012349999", primary: directory.Password, locked: true, about: "locked: every login is denied"},
}

const (
	tokenUser   = "carol"
	tokenSerial = "DEMO0001"
)

// A demoProof is what the demo accounts log in with.
type demoProof struct {
	password string
	token    string // secret of carol's token, in base32; "" if she was given none
}

// makeDemo makes the demo accounts and carol's token, each once per data dir: what an operator changes or deletes later stays so.
func (u *up) makeDemo(ctx context.Context) (proof demoProof, err error) {
	if proof.password, err = keptSecret(u.demoFile("password"), rand.Text); err != nil {
		return proof, err
	}
	as, err := pgxpool.ParseConfig(u.postgresURL)
	if err != nil {
		return proof, fmt.Errorf("demo accounts: %w", err)
	}
	as.ConnConfig.RuntimeParams["role"] = console.Name // as an admin would: it is announced under that name
	pool, err := pgxpool.NewWithConfig(ctx, as)
	if err != nil {
		return proof, fmt.Errorf("demo accounts: %w", err)
	}
	defer pool.Close()
	outbox := directory.NewOutbox(pool, time.Now)
	if err := once(u.demoFile("made"), func() error { return u.makeAccounts(ctx, outbox, proof.password) }); err != nil {
		return proof, err
	}
	// A data dir from before there were tokens has its accounts, and no token yet.
	if err := once(u.demoFile("token-made"), func() error { return u.makeToken(ctx, outbox) }); err != nil {
		return proof, fmt.Errorf("token of demo account %s: %w", tokenUser, err)
	}
	secret, err := os.ReadFile(u.demoFile("token"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return proof, err
	}
	proof.token = strings.TrimSpace(string(secret))
	return proof, nil
}

func (u *up) demoFile(name string) string { return filepath.Join(u.Environment.DataDir, "demo-"+name) }

// once does something unless a file says that it was done.
func once(marker string, do func() error) error {
	if _, err := os.Stat(marker); err == nil {
		return nil
	}
	if err := do(); err != nil {
		return err
	}
	return writeFile(marker, nil)
}

func (u *up) makeAccounts(ctx context.Context, outbox *directory.Outbox, password string) error {
	cost := u.Config.Password
	users := directory.NewUsers(outbox)
	hasher := directory.NewHasher(directory.Cost{Memory: cost.Memory, Time: cost.Time, Threads: cost.Threads}, cost.Concurrent)
	for _, a := range demo {
		if err := a.create(ctx, users, hasher, password); err != nil {
			return fmt.Errorf("demo account %s: %w", a.name, err)
		}
	}
	return nil
}

// makeToken gives carol a token, unless she has one or an operator has deleted her. A start that did not come to its end is taken up.
func (u *up) makeToken(ctx context.Context, outbox *directory.Outbox) error {
	user, err := directory.NewUsers(outbox).Get(ctx, tokenUser)
	if errors.Is(err, directory.ErrNotFound) || user.HasToken {
		return nil
	}
	if err != nil {
		return err
	}
	key, err := u.folder.Key("token")
	if err != nil {
		return err
	}
	tokens, err := directory.NewTokens(outbox, key)
	if err != nil {
		return err
	}
	text, err := keptSecret(u.demoFile("token"), newTokenSecret)
	if err != nil {
		return err
	}
	secret, err := base32.StdEncoding.DecodeString(text)
	if err != nil {
		return fmt.Errorf("%s: %w", u.demoFile("token"), err)
	}
	token := oath.Token{Algorithm: oath.TOTP, Hash: oath.SHA1, Digits: 6, Period: 30 * time.Second, Secret: secret} // what every program takes for granted
	if _, err := tokens.Import(ctx, []directory.OTPToken{{Serial: tokenSerial, Token: token, Manufacturer: "Sekisho"}}); err != nil {
		return err
	}
	_, err = tokens.Assign(ctx, tokenSerial, user.ID, u.Config.Token.PerUser)
	return err
}

// newTokenSecret is as long as SHA-1's value (RFC 4226 section 4, R6).
func newTokenSecret() string {
	secret := make([]byte, 20)
	rand.Read(secret) // never fails
	return base32.StdEncoding.EncodeToString(secret)
}

// create leaves a user of that name alone: an earlier start that did not come to its end made it, or it is somebody's.
func (a demoAccount) create(ctx context.Context, users *directory.Users, hasher *directory.Hasher, password string) (err error) {
	hash := ""
	if a.primary == directory.Password {
		if hash, err = hasher.Hash(ctx, password); err != nil {
			return err
		}
	}
	user, err := users.Create(ctx, directory.User{Name: a.name, Locale: "ja", Primary: a.primary, Phone: a.phone}, hash)
	if errors.Is(err, directory.ErrTaken) {
		return nil
	}
	if err == nil && a.locked {
		_, err = users.Change(ctx, user.ID, directory.Change{Locked: new(true)})
	}
	return err
}
