package runtime

import (
	"context"
	"fmt"
	"maps"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"

	"github.com/sekisho/sekisho/events"
	"github.com/sekisho/sekisho/services/internal/bus"
	"github.com/sekisho/sekisho/services/internal/postgres"
)

const (
	retryEvery = 250 * time.Millisecond // between two tries to reach a broker or a database that is not there yet
	sayEvery   = 5 * time.Second        // between two lines of log about it
	pingWait   = 2 * time.Second        // for a database to answer
)

// connectBus waits for the broker.
func (p *process) connectBus(ctx context.Context, name string, log zerolog.Logger, reg prometheus.Registerer) (*bus.Bus, error) {
	user := name
	if name == events.GatewayWorker {
		user = p.Config.Gateway.Name // gateways are users under their own names: there may be several
	}
	seed, err := p.Credentials.Seed(user)
	if err != nil {
		return nil, err
	}
	var b *bus.Bus
	err = retry(ctx, log, "waiting for the bus", func(context.Context) (err error) {
		b, err = bus.Connect(bus.Config{
			Worker: name, User: user, URL: p.NATSURL, Seed: seed, Log: log, Metrics: reg, Now: p.Now, Options: p.NATSOptions,
		})
		return err
	})
	return b, err
}

// connectDB waits for the database.
func (p *process) connectDB(ctx context.Context, name string, log zerolog.Logger) (*pgxpool.Pool, error) {
	cfg, err := pgxpool.ParseConfig(p.PostgresURL)
	if err != nil {
		return nil, fmt.Errorf("database: %w", err) // pgx leaves the password out
	}
	password, err := p.Credentials.Password(name)
	if err != nil {
		return nil, err
	}
	cfg.ConnConfig.User, cfg.ConnConfig.Password = name, password
	cfg.ConnConfig.RuntimeParams["application_name"] = "sekisho " + name
	maps.Copy(cfg.ConnConfig.RuntimeParams, postgres.Planner)
	cfg.MaxConns = int32(p.Config.Database.Connections)
	cfg.PingTimeout = pingWait // connections that have gone silent while idle are many: none may take the whole time of who gets it
	// A standby, or a database that was made read-only, answers and is of no use. Of several hosts in the URL the one that takes writes is used.
	cfg.ConnConfig.ValidateConnect = pgconn.ValidateConnectTargetSessionAttrsReadWrite
	pool, err := pgxpool.NewWithConfig(ctx, cfg)
	if err != nil {
		return nil, fmt.Errorf("database: %w", err)
	}
	err = retry(ctx, log, "waiting for the database", func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, pingWait)
		defer cancel()
		return pool.Ping(ctx)
	})
	if err != nil {
		pool.Close()
		return nil, err
	}
	return pool, nil
}

// retry calls fn until it succeeds or ctx ends.
func retry(ctx context.Context, log zerolog.Logger, what string, fn func(context.Context) error) error {
	tick := time.NewTicker(retryEvery)
	defer tick.Stop()
	var said time.Time
	for {
		err := fn(ctx)
		if err == nil {
			return nil
		}
		if now := time.Now(); now.Sub(said) >= sayEvery {
			log.Warn().Err(err).Msg(what)
			said = now
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
}
