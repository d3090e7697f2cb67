package testenv

import (
	"testing"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/sekisho/sekisho/services/internal/migrations"
)

// A Database is a migrated database that belongs to one test.
type Database struct{ URL string } // the superuser's

// Migrated makes a database with all tables and roles, as in production.
func Migrated(t testing.TB) *Database {
	t.Helper()
	return &Database{Template(t, "migrated", migrations.Apply)}
}

// Pool connects with the privileges of a worker's role, or with the superuser's if role is "". It is closed with the test.
func (d *Database) Pool(t testing.TB, role string) *pgxpool.Pool {
	t.Helper()
	cfg, err := pgxpool.ParseConfig(d.URL)
	check(t, err)
	if role != "" {
		cfg.ConnConfig.RuntimeParams["role"] = role
	}
	pool, err := pgxpool.NewWithConfig(t.Context(), cfg)
	check(t, err)
	t.Cleanup(pool.Close)
	return pool
}
