// Package directory is the authentication database: users, their passwords, phones and devices, the counters of failed attempts,
// the verdicts that make a redelivered event be answered alike, and the outbox of events about accounts. All of the schema
// directory's SQL is here; what a worker may call is decided by the grants of its PostgreSQL role (package migrations).
package directory

import (
	"errors"
	"slices"

	"github.com/jackc/pgx/v5/pgconn"
)

// ErrNotFound says that there is no such user.
var ErrNotFound = errors.New("directory: no such user")

// maxBatch is how many requests share a statement. Beyond it the gain is small, and locks are held for longer.
const maxBatch = 64

// PostgreSQL's error codes that the directory knows what to do about.
const (
	uniqueViolation     = "23505"
	foreignKeyViolation = "23503"
	deadlockDetected    = "40P01"
)

func hasCode(err error, codes ...string) bool {
	pg, ok := errors.AsType[*pgconn.PgError](err)
	return ok && slices.Contains(codes, pg.Code)
}
