package up

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/sekisho/sekisho/services/console"
	"github.com/sekisho/sekisho/services/internal/directory"
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
	{name: "carol", primary: directory.Token, about: "logs in with a token; none is assigned to her yet"},
	{name: "dave", phone: "+819012349999", primary: directory.Password, locked: true, about: "locked: every login is denied"},
}

// makeDemo makes the demo accounts, once per data dir: what an operator changes or deletes later stays so. It gives their password.
func (u *up) makeDemo(ctx context.Context) (password string, err error) {
	if password, err = keptSecret(filepath.Join(u.Environment.DataDir, "demo-password")); err != nil {
		return "", err
	}
	made := filepath.Join(u.Environment.DataDir, "demo-made")
	if _, err := os.Stat(made); err == nil {
		return password, nil
	}
	as, err := pgxpool.ParseConfig(u.postgresURL)
	if err != nil {
		return "", fmt.Errorf("demo accounts: %w", err)
	}
	as.ConnConfig.RuntimeParams["role"] = console.Name // as an admin would: it is announced under that name
	pool, err := pgxpool.NewWithConfig(ctx, as)
	if err != nil {
		return "", fmt.Errorf("demo accounts: %w", err)
	}
	defer pool.Close()
	cost := u.Config.Password
	users := directory.NewUsers(directory.NewOutbox(pool, time.Now))
	hasher := directory.NewHasher(directory.Cost{Memory: cost.Memory, Time: cost.Time, Threads: cost.Threads}, cost.Concurrent)
	for _, a := range demo {
		if err := a.create(ctx, users, hasher, password); err != nil {
			return "", fmt.Errorf("demo account %s: %w", a.name, err)
		}
	}
	return password, writeFile(made, nil)
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
