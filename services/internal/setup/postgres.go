package setup

import (
	"context"
	"crypto/hmac"
	"crypto/pbkdf2"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/rs/zerolog"

	"github.com/sekisho/sekisho/services/internal/credentials"
	"github.com/sekisho/sekisho/services/internal/migrations"
)

// passwordLock is an advisory lock; any number that nobody else uses.
const passwordLock = int64(0x73656b697077) // "sekipw"

// Postgres brings the tables up to date and gives the roles the folder's passwords. Roles are of the whole server: two
// installations on one server need one folder. address is of a user who may create roles.
func Postgres(ctx context.Context, address string, folder *credentials.Folder, log zerolog.Logger) error {
	var conn *pgx.Conn
	err := wait(ctx, log, "waiting for the database", func(ctx context.Context) (err error) {
		conn, err = pgx.Connect(ctx, address)
		return err
	})
	if err != nil {
		return fmt.Errorf("database: %w", err)
	}
	defer conn.Close(context.WithoutCancel(ctx))
	if err := migrations.Apply(ctx, address); err != nil {
		return err
	}
	// Two who change one role at the same moment would fail. The lock ends with the connection.
	if _, err := conn.Exec(ctx, "SELECT pg_advisory_lock($1)", passwordLock); err != nil {
		return fmt.Errorf("database: %w", err)
	}
	for _, role := range migrations.Roles {
		password, err := folder.Password(role)
		if err != nil {
			return err
		}
		if err := setPassword(ctx, conn, role, password); err != nil {
			return fmt.Errorf("password of role %s: %w", role, err)
		}
	}
	return nil
}

// setPassword lets a role log in with a password, unless it can already. That may lack as well: a dump of roles has it in a statement that
// an admin who is no superuser may not make.
func setPassword(ctx context.Context, conn *pgx.Conn, role, password string) error {
	as := conn.Config().Copy()
	as.User, as.Password = role, password
	if probe, err := pgx.ConnectConfig(ctx, as); err == nil {
		return probe.Close(ctx)
	} else if !refused(err) {
		return err
	}
	secret, err := scram(password)
	if err != nil {
		return err
	}
	var statement string // ALTER ROLE takes no parameters; the server itself quotes them
	if err := conn.QueryRow(ctx, "SELECT format('ALTER ROLE %I LOGIN PASSWORD %L', $1::text, $2::text)", role, secret).Scan(&statement); err != nil {
		return err
	}
	_, err = conn.Exec(ctx, statement)
	return err
}

// scram is the form in which PostgreSQL keeps a password (RFC 5803, SCRAM-SHA-256), so that the password itself does not stand in
// a statement, which a server may log. PostgreSQL's own default is 4096 rounds; our passwords are random, and need none.
func scram(password string) (string, error) {
	const rounds = 4096
	salt := make([]byte, 16)
	rand.Read(salt) // never fails (crypto/rand)
	salted, err := pbkdf2.Key(sha256.New, password, salt, rounds, sha256.Size)
	if err != nil {
		return "", err
	}
	sum := func(label string) []byte {
		m := hmac.New(sha256.New, salted)
		m.Write([]byte(label))
		return m.Sum(nil)
	}
	stored := sha256.Sum256(sum("Client Key"))
	b64 := base64.StdEncoding.EncodeToString
	return fmt.Sprintf("SCRAM-SHA-256$%d:%s$%s:%s", rounds, b64(salt), b64(stored[:]), b64(sum("Server Key"))), nil
}
