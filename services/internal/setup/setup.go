// Package setup provisions what Sekisho runs on: the folder of credentials, the streams, consumers and keys in NATS, and the tables
// and roles in PostgreSQL. It is safe to repeat, and several may run at once. What exists is not changed: a stream with other
// settings is an error that lists the differences.
package setup

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"path/filepath"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/nats-io/nats.go"
	"github.com/rs/zerolog"

	"github.com/sekisho/sekisho/events"
	"github.com/sekisho/sekisho/services/internal/bus"
	"github.com/sekisho/sekisho/services/internal/config"
	"github.com/sekisho/sekisho/services/internal/credentials"
	"github.com/sekisho/sekisho/services/internal/migrations"
)

// connectWait is how long setup waits for a broker or a database that does not answer yet.
const connectWait = 30 * time.Second

// Gateways names the gateways that have a NATS user: the web gateway and those outside.
func Gateways(cfg *config.Config) []string {
	return append([]string{cfg.Gateway.Name}, cfg.Bus.Gateways...)
}

// NKeys gives the public nkey of each NATS user, as a broker must know them.
func NKeys(cfg *config.Config, folder *credentials.Folder) (map[string]string, error) {
	keys := make(map[string]string)
	for _, u := range bus.Users(Gateways(cfg)) {
		key, err := folder.PublicNKey(u.Name)
		if err != nil {
			return nil, err
		}
		keys[u.Name] = key
	}
	return keys, nil
}

// Credentials makes what is missing in the folder, and rotates the sealing keys.
func Credentials(cfg *config.Config, folder *credentials.Folder, now time.Time) error {
	contents := credentials.Contents{
		Roles:   migrations.Roles,
		Keys:    []string{"code", "token", "directory", "risk", "gateway-" + cfg.Gateway.Name},
		Signing: []string{"vapid"},
	}
	for _, u := range bus.Users(Gateways(cfg)) {
		contents.Users = append(contents.Users, u.Name)
	}
	if err := folder.Ensure(contents); err != nil {
		return err
	}
	keys, err := NKeys(cfg, folder)
	if err != nil {
		return err
	}
	if err := folder.Write("nats-users.conf", []byte(bus.UsersConf(Gateways(cfg), keys))); err != nil {
		return err
	}
	return folder.RotateSealing(events.Recipients, now, cfg.Sealing.Rotate)
}

// NATS provisions the broker, and tells it the public sealing keys.
func NATS(ctx context.Context, nc *nats.Conn, cfg *config.Config, folder *credentials.Folder) error {
	differ := bus.Provision(ctx, nc, cfg.Bus.Replicas)
	if differ != nil && !errors.Is(differ, bus.ErrDiffers) {
		return differ
	}
	return errors.Join(differ, publishKeys(ctx, nc, folder))
}

// rotateEvery is the time between two looks at the age of the sealing keys.
const rotateEvery = 5 * time.Minute

// KeepRotating calls [RotateKeys] at once and then now and then, until ctx ends. Any number of processes may do so. What it changes is
// logged, and trouble, which is tried again.
func KeepRotating(ctx context.Context, nc *nats.Conn, cfg *config.Config, folder *credentials.Folder, log zerolog.Logger) {
	folder = folder.Logged(log)
	tick := time.NewTicker(rotateEvery)
	defer tick.Stop()
	for {
		if err := RotateKeys(ctx, nc, cfg, folder, time.Now()); err != nil && ctx.Err() == nil {
			log.Error().Err(err).Msg("sealing keys were not rotated, tries again")
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// RotateKeys replaces the sealing keys that are due, and tells senders.
func RotateKeys(ctx context.Context, nc *nats.Conn, cfg *config.Config, folder *credentials.Folder, now time.Time) error {
	if err := folder.RotateSealing(events.Recipients, now, cfg.Sealing.Rotate); err != nil {
		return err
	}
	return publishKeys(ctx, nc, folder)
}

func publishKeys(ctx context.Context, nc *nats.Conn, folder *credentials.Folder) error {
	keys, err := folder.PublicKeys()
	if err != nil {
		return err
	}
	return bus.PublishKeys(ctx, nc, keys)
}

// Connect connects to the broker as the URL's user if it names one, else as the user setup.
func Connect(ctx context.Context, address string, folder *credentials.Folder, log zerolog.Logger, options ...nats.Option) (*nats.Conn, error) {
	u, err := url.Parse(address)
	if err != nil {
		return nil, errors.New("the NATS URL is malformed") // it may hold a password
	}
	var seed []byte
	if u.User == nil {
		if seed, err = folder.Seed(bus.UserSetup); err != nil {
			return nil, err
		}
	}
	var nc *nats.Conn
	err = wait(ctx, log, "waiting for the broker", func(context.Context) (err error) {
		nc, err = bus.Dial(address, bus.UserSetup, seed, log, options...)
		return err
	})
	if errors.Is(err, nats.ErrAuthorization) {
		// nats-server takes every path of an include as relative to the file that it stands in, one that begins with / too.
		return nil, fmt.Errorf("%w: the broker does not know the user; put `include \"%s/nats-users.conf\"` into its configuration in %s (from another folder, another relative path) and reload it, or give a user in SEKISHO_NATS_URL",
			err, filepath.Base(folder.Dir()), filepath.Dir(folder.Dir()))
	}
	return nc, err
}

// Run is `sekisho setup`: everything, on the broker and the database of the two URLs.
func Run(ctx context.Context, cfg *config.Config, env config.Environment, log zerolog.Logger) error {
	folder := credentials.Open(env.CredentialsDir)
	if err := Credentials(cfg, folder, time.Now()); err != nil {
		return err
	}
	log.Info().Str("folder", folder.Dir()).Msg("credentials are complete")
	nc, err := Connect(ctx, env.NATSURL, folder, log)
	if err != nil {
		return err
	}
	defer nc.Close()
	differ := NATS(ctx, nc, cfg, folder)
	if differ != nil && !errors.Is(differ, bus.ErrDiffers) {
		return differ
	}
	if differ == nil {
		log.Info().Strs("gateways", Gateways(cfg)).Msg("streams, consumers and keys are complete")
	}
	if err := Postgres(ctx, env.PostgresURL, folder, log); err != nil {
		return errors.Join(differ, err)
	}
	log.Info().Msg("tables and roles are complete")
	return differ
}

// refused tells an answer of a server that is there from one that is not there yet.
func refused(err error) bool {
	if e, ok := errors.AsType[*pgconn.PgError](err); ok {
		return !strings.HasPrefix(e.Code, "57P") // it is starting or stopping (operator intervention)
	}
	return errors.Is(err, nats.ErrAuthorization) || errors.Is(err, nats.ErrNkeysNotSupported)
}

// wait calls fn until it succeeds, is refused, or connectWait is over.
func wait(ctx context.Context, log zerolog.Logger, what string, fn func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, connectWait)
	defer cancel()
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		err := fn(ctx)
		if err == nil || refused(err) {
			return err
		}
		log.Warn().Err(err).Msg(what)
		select {
		case <-ctx.Done():
			if errors.Is(ctx.Err(), context.Canceled) {
				return ctx.Err()
			}
			return err
		case <-tick.C:
		}
	}
}
