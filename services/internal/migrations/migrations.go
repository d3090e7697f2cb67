// Package migrations holds the tables of the record in PostgreSQL, one file per owner, and the roles that may touch them.
//
// Old and new versions of Sekisho run side by side while a deployment rolls, so a later migration only adds: tables,
// columns with a default, indexes, grants. Every statement in the code names its columns.
package migrations

import (
	"context"
	"database/sql"
	"embed"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5/pgtype"
	_ "github.com/jackc/pgx/v5/stdlib" // registers "pgx" with database/sql, which goose needs
	"github.com/pressly/goose/v3"
)

//go:embed *.sql
var files embed.FS

// Roles are the PostgreSQL roles: each worker connects as the role of its name, and holds the privileges that the
// migrations grant and nothing else. Whoever provisions the server sets their passwords.
var Roles = []string{
	"gateway", "identityverifier", "riskassessor", "sessionissuer", "smsdispatcher", "pushnotifier", "otpvalidator",
	"recorder", "console",
}

// lock is the advisory lock that keeps two Apply of one database apart; any number that nobody else uses.
const lock = 0x73656b6973686f // "sekisho"

// Apply creates missing roles and brings the database up to date. url is of a role that may do so, such as the
// superuser. Any number of processes may apply at once.
func Apply(ctx context.Context, url string) (err error) {
	db, err := sql.Open("pgx", url)
	if err != nil {
		return fmt.Errorf("migrations: %w", err)
	}
	defer db.Close()
	conn, err := db.Conn(ctx)
	if err != nil {
		return fmt.Errorf("migrations: connect: %w", err)
	}
	defer conn.Close() // with db.Close it ends the database session, and so the lock
	if _, err := conn.ExecContext(ctx, "SELECT pg_advisory_lock($1)", int64(lock)); err != nil {
		return fmt.Errorf("migrations: lock: %w", err)
	}
	for _, role := range Roles {
		if err := createRole(ctx, conn, role); err != nil {
			return err
		}
	}
	provider, err := goose.NewProvider(goose.DialectPostgres, db, files)
	if err != nil {
		return fmt.Errorf("migrations: %w", err)
	}
	if _, err := provider.Up(ctx); err != nil {
		return fmt.Errorf("migrations: %w", err)
	}
	return checkRights(ctx, conn)
}

// checkRights finds roles that may do nothing. A dump that was restored before its roles has lost all rights, and no migration, each of
// which runs once, grants them again.
func checkRights(ctx context.Context, conn *sql.Conn) error {
	var without []string
	err := conn.QueryRowContext(ctx, `
		SELECT coalesce(array_agg(r), '{}') FROM unnest($1::text[]) r
		WHERE NOT EXISTS (SELECT FROM pg_class WHERE relkind IN ('r', 'v') AND relnamespace::regnamespace::text !~ '^(pg_|information_schema|public)'
			AND has_any_column_privilege(r, oid, 'SELECT'))`, Roles).Scan(pgtype.NewMap().SQLScanner(&without))
	if err != nil {
		return fmt.Errorf("migrations: rights: %w", err)
	}
	if len(without) > 0 {
		return fmt.Errorf("migrations: roles without rights: %s; a dump was restored before they were there: restore them first, then the dump again",
			strings.Join(without, ", "))
	}
	return nil
}

// createRole also bears with another database of the same server that creates the role at the same moment: roles are
// of the server, the lock is of one database.
func createRole(ctx context.Context, conn *sql.Conn, role string) error {
	_, err := conn.ExecContext(ctx, `DO $$ BEGIN
		IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = '`+role+`') THEN
			CREATE ROLE `+role+` LOGIN;
		END IF;
	EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL;
	END $$`)
	if err != nil {
		return fmt.Errorf("migrations: create role %s: %w", role, err)
	}
	return nil
}
