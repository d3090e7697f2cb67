package testenv

import (
	"maps"
	"testing"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/sekisho/sekisho/services/internal/migrations"
	"github.com/sekisho/sekisho/services/internal/postgres"
)

// A Database is a migrated database that belongs to one test.
type Database struct{ URL string } // the superuser's

// Migrated makes a database with all tables and roles, as in production.
func Migrated(t testing.TB) *Database {
	t.Helper()
	return &Database{Template(t, "migrated", migrations.Apply)}
}

// Pool connects as a worker does, with the privileges of its role, or as the superuser if role is "". It is closed with the test.
func (d *Database) Pool(t testing.TB, role string) *pgxpool.Pool {
	t.Helper()
	cfg, err := pgxpool.ParseConfig(d.URL)
	check(t, err)
	if role != "" {
		cfg.ConnConfig.RuntimeParams["role"] = role
		maps.Copy(cfg.ConnConfig.RuntimeParams, postgres.Planner)
	}
	pool, err := pgxpool.NewWithConfig(t.Context(), cfg)
	check(t, err)
	t.Cleanup(pool.Close)
	return pool
}
