package testenv

import (
	"context"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// Role returns connections to the database of url that have the rights of one role, as a worker's have, or those of the
// superuser for "". They are closed when the test ends.
func Role(t testing.TB, url, role string) *pgxpool.Pool {
	t.Helper()
	config, err := pgxpool.ParseConfig(url)
	check(t, err)
	if role != "" {
		config.AfterConnect = func(ctx context.Context, conn *pgx.Conn) error {
			_, err := conn.Exec(ctx, "SET ROLE "+quote(role))
			return err
		}
	}
	pool, err := pgxpool.NewWithConfig(context.Background(), config)
	check(t, err)
	t.Cleanup(pool.Close)
	return pool
}
