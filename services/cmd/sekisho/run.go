package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/rs/zerolog"
	"golang.org/x/term"

	"github.com/sekisho/sekisho/events"
	"github.com/sekisho/sekisho/services"
	"github.com/sekisho/sekisho/services/internal/config"
	"github.com/sekisho/sekisho/services/internal/credentials"
	"github.com/sekisho/sekisho/services/internal/runtime"
	"github.com/sekisho/sekisho/services/internal/setup"
	"github.com/sekisho/sekisho/services/internal/up"
)

// load reads what every command needs.
func load() (*config.Config, config.Environment, zerolog.Logger, error) {
	env, err := config.ReadEnvironment(os.Getenv)
	if err != nil {
		return nil, env, zerolog.Nop(), err
	}
	if err := checkURLs(env); err != nil {
		return nil, env, zerolog.Nop(), err
	}
	cfg, err := config.Load(env.ConfigFile)
	if err != nil {
		return nil, env, zerolog.Nop(), err
	}
	var out io.Writer = logs
	if term.IsTerminal(int(os.Stderr.Fd())) {
		out = zerolog.ConsoleWriter{Out: os.Stderr, TimeFormat: time.TimeOnly}
	}
	level, err := zerolog.ParseLevel(cfg.Log.Level)
	if err != nil {
		return nil, env, zerolog.Nop(), err
	}
	return cfg, env, zerolog.New(out).Level(level).With().Timestamp().Logger(), nil
}

func runUp(ctx context.Context, out io.Writer) error {
	cfg, env, log, err := load()
	if err != nil {
		return err
	}
	return up.Run(ctx, up.Options{Services: services.All, Config: cfg, Environment: env, Log: log, Out: out})
}

func runSetup(ctx context.Context) error {
	cfg, env, log, err := load()
	if err != nil {
		return err
	}
	if err := requireURLs(env); err != nil {
		return err
	}
	return setup.Run(ctx, cfg, env, log)
}

// runRotate keeps the sealing keys fresh, which `up` does by itself.
func runRotate(ctx context.Context) error {
	cfg, env, log, err := load()
	if err != nil {
		return err
	}
	if env.NATSURL == "" {
		return errors.New("not set: SEKISHO_NATS_URL (`sekisho up` rotates its keys by itself)")
	}
	signal.Ignore(syscall.SIGHUP) // which is for workers; here it would end the process without a word
	folder := credentials.Open(env.CredentialsDir)
	nc, err := setup.Connect(ctx, env.NATSURL, folder, log)
	if err != nil {
		return err
	}
	defer nc.Close()
	log.Info().Str("folder", folder.Dir()).Stringer("rotate", cfg.Sealing.Rotate).Msg("sealing keys are watched")
	setup.KeepRotating(ctx, nc, cfg, folder, log)
	return nil
}

// runWorkers runs the named workers on a broker and a database that `sekisho setup` has provisioned.
func runWorkers(ctx context.Context, names []string) error {
	chosen, err := choose(services.All, names)
	if err != nil {
		return err
	}
	cfg, env, log, err := load()
	if err != nil {
		return err
	}
	if err := requireURLs(env); err != nil {
		return err
	}
	if cfg.AdminToken, err = env.ReadAdminToken(); err != nil {
		return err
	}
	folder := credentials.Open(env.CredentialsDir)
	if err := cfg.FillProviders(folder.Providers()); err != nil {
		return err
	}
	// Several of these run side by side on one machine, so the default is a free port.
	ops, err := runtime.Listen("SEKISHO_OPS_ADDR", cmp.Or(env.OpsAddr, "127.0.0.1:0"))
	if err != nil {
		return err
	}
	defer ops.Close()
	log.Info().Str("addr", ops.Addr().String()).Msg("operations: /healthz, /readyz, /metrics")
	var public net.Listener
	if slices.Contains(names, events.GatewayWorker) {
		if public, err = runtime.Listen("SEKISHO_HTTP_ADDR", cmp.Or(env.HTTPAddr, "127.0.0.1:8080")); err != nil {
			return err
		}
		defer public.Close()
		log.Info().Str("addr", public.Addr().String()).Msg("gateway")
	}
	return runtime.Run(ctx, runtime.Options{
		Services:    chosen,
		Config:      cfg,
		Credentials: folder,
		Log:         log,
		NATSURL:     env.NATSURL,
		PostgresURL: env.PostgresURL,
		Public:      public,
		Ops:         ops,
		Ready:       func() { log.Info().Strs("workers", names).Msg("ready") },
	})
}

func requireURLs(env config.Environment) error {
	var missing []string
	if env.NATSURL == "" {
		missing = append(missing, "SEKISHO_NATS_URL")
	}
	if env.PostgresURL == "" {
		missing = append(missing, "SEKISHO_POSTGRES_URL")
	}
	if missing != nil {
		return errors.New("not set: " + strings.Join(missing, ", ") + " (`sekisho up` needs neither)")
	}
	return nil
}

// checkURLs finds a URL that can not be parsed before anybody waits for what it names. The errors do not quote it: it may hold a password.
func checkURLs(env config.Environment) error {
	for address := range strings.SplitSeq(env.NATSURL, ",") { // as the client reads it
		if address = strings.TrimSpace(address); !strings.Contains(address, "://") {
			address = "nats://" + address
		}
		if _, err := url.Parse(address); err != nil {
			return errors.New("SEKISHO_NATS_URL is malformed")
		}
	}
	if env.PostgresURL != "" {
		if _, err := pgx.ParseConfig(env.PostgresURL); err != nil {
			return errors.New("SEKISHO_POSTGRES_URL is malformed, or names a file that can not be read")
		}
	}
	return nil
}

// choose finds the named services.
func choose(all []runtime.Service, wanted []string) ([]runtime.Service, error) {
	if len(wanted) == 0 {
		return nil, fmt.Errorf("%w: run which workers?", errUsage)
	}
	var chosen []runtime.Service
	for n, name := range wanted {
		i := slices.IndexFunc(all, func(s runtime.Service) bool { return s.Name == name })
		if i < 0 {
			return nil, fmt.Errorf("%w: unknown worker %q", errUsage, name)
		}
		if slices.Contains(wanted[:n], name) {
			return nil, fmt.Errorf("%w: worker %q stands twice", errUsage, name)
		}
		chosen = append(chosen, all[i])
	}
	return chosen, nil
}

func names(all []runtime.Service) []string {
	list := make([]string, len(all))
	for i, s := range all {
		list[i] = s.Name
	}
	return list
}
