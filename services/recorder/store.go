package recorder

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/rs/zerolog"

	"github.com/sekisho/sekisho/events"
)

// lock is the advisory lock of the active recorder; any number that nobody else uses.
const lock = 0x7265636f72646572 // "recorder"

// An auditLog is the right to write the audit log: the connection that holds the lock.
type auditLog struct{ conn *pgx.Conn }

const (
	lockRetry  = time.Second      // how often one that waits asks for the lock
	waitingFor = time.Minute      // how often it says that it waits
	answerWait = 10 * time.Second // for the database to answer what takes no time
)

// vigilance has the server end the connection, and so the lock, when nobody is at its other end any more: when that host is gone, after some
// 15 s rather than after two hours, and when something in between keeps the connection up, after a minute without a ping. On a Unix
// socket the first four say nothing.
const vigilance = `SET tcp_keepalives_idle = 5; SET tcp_keepalives_interval = 3; SET tcp_keepalives_count = 3; SET tcp_user_timeout = '15s';
	SET idle_session_timeout = '60s'; SET idle_in_transaction_session_timeout = '60s'`

// open waits for the lock. It returns nil when ctx ends first.
func open(ctx context.Context, db *pgxpool.Pool, said zerolog.Logger) (*auditLog, error) {
	pooled, err := db.Acquire(ctx)
	if err != nil {
		if ctx.Err() != nil {
			return nil, nil
		}
		return nil, fmt.Errorf("recorder: %w", err)
	}
	log := &auditLog{pooled.Hijack()} // the lock lives as long as the connection, so it must not go back into the pool
	err = log.soon(ctx, vigilance)
	ok := false
	if err == nil {
		ok, err = log.acquire(ctx, said)
	}
	if !ok {
		log.close()
	}
	switch {
	case ctx.Err() != nil:
		return nil, nil
	case err != nil:
		return nil, fmt.Errorf("recorder: %w", err)
	}
	return log, nil
}

func (l *auditLog) acquire(ctx context.Context, said zerolog.Logger) (ok bool, err error) {
	tick := time.NewTicker(lockRetry)
	defer tick.Stop()
	for tries := 0; ; tries++ {
		// Asked for again and again: a statement that waits for a lock keeps the whole server from cleaning up dead rows.
		if ok, err = l.try(ctx); err != nil {
			return false, err
		}
		if ok {
			break
		}
		if tries%int(waitingFor/lockRetry) == 0 {
			said.Info().Msg("another recorder holds the lock")
		}
		select {
		case <-ctx.Done():
			return false, nil
		case <-tick.C:
		}
	}
	err = l.soon(ctx, `CREATE TEMPORARY TABLE staging (LIKE audit.events) ON COMMIT DELETE ROWS`)
	return err == nil, err
}

func (l *auditLog) try(ctx context.Context) (ok bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, answerWait)
	defer cancel()
	err = l.conn.QueryRow(ctx, `SELECT pg_try_advisory_lock($1)`, int64(lock)).Scan(&ok)
	return ok, err
}

// soon runs statements that take no time.
func (l *auditLog) soon(ctx context.Context, statements string) error {
	ctx, cancel := context.WithTimeout(ctx, answerWait)
	defer cancel()
	_, err := l.conn.Exec(ctx, statements)
	return err
}

// ping says to the server that the holder of the lock is alive, and closes a connection without an answer.
func (l *auditLog) ping(ctx context.Context, wait time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	return l.conn.Ping(ctx)
}

func (l *auditLog) close() {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	_ = l.conn.Close(ctx) // the server ends the lock when the connection is gone, however it went
}

// lost tells whether the connection, and so the lock, is gone.
func (l *auditLog) lost() bool { return l.conn.IsClosed() }

var columns = []string{"id", "stream", "sequence", "stored_at", "time", "source", "type", "about", "gateway", "login", "step", "n",
	"cause", "trace", "data", "problem"}

// uniqueViolation is the SQLSTATE of a line that is there already.
const uniqueViolation = "23505"

// write adds lines and what they tell of logins, all or nothing. Lines that are there already stay as they are: a batch with
// such lines comes when a recorder died before its acks, and takes the longer way.
func (l *auditLog) write(ctx context.Context, lines []line, logins map[events.Login]*login) error {
	err := l.add(ctx, pgx.Identifier{"audit", "events"}, "", lines, logins)
	if refused, ok := errors.AsType[*pgconn.PgError](err); ok && refused.Code == uniqueViolation {
		err = l.add(ctx, pgx.Identifier{"staging"}, `INSERT INTO audit.events SELECT * FROM staging ON CONFLICT (id) DO NOTHING`, lines, logins)
	}
	if err != nil {
		return fmt.Errorf("recorder: write: %w", err)
	}
	return nil
}

// add copies lines into a table, runs a statement, if any, that takes them on from there, and merges the logins.
func (l *auditLog) add(ctx context.Context, table pgx.Identifier, onward string, lines []line, logins map[events.Login]*login) error {
	return pgx.BeginFunc(ctx, l.conn, func(tx pgx.Tx) error {
		_, err := tx.CopyFrom(ctx, table, columns, pgx.CopyFromSlice(len(lines), func(i int) ([]any, error) {
			v := lines[i]
			return []any{v.id, v.stream, v.sequence, v.stored, v.time, v.source, v.kind, v.about, v.gateway, v.login, v.step, v.n,
				v.cause, v.trace, v.data, v.problem}, nil
		}))
		if err == nil && onward != "" {
			_, err = tx.Exec(ctx, onward)
		}
		if err != nil {
			return err
		}
		return writeLogins(ctx, tx, logins)
	})
}

// writeLogins merges: a value that a login's row has already stays as it is.
func writeLogins(ctx context.Context, tx pgx.Tx, logins map[events.Login]*login) error {
	if len(logins) == 0 {
		return nil
	}
	var (
		gateways, ids             []string
		opened, deadlines, closed []*time.Time
		apps, methods, users      []*string
		outcomes, reasons         []*string
	)
	for name, l := range logins {
		gateways, ids = append(gateways, name.Gateway), append(ids, name.ID)
		opened, deadlines, closed = append(opened, l.opened), append(deadlines, l.deadline), append(closed, l.closed)
		apps, methods, users = append(apps, l.app), append(methods, l.method), append(users, l.user)
		outcomes, reasons = append(outcomes, l.outcome), append(reasons, l.reason)
	}
	_, err := tx.Exec(ctx, `
		INSERT INTO audit.logins AS l (gateway, login, opened_at, deadline, app, method, user_id, outcome, reason, closed_at)
		SELECT * FROM unnest($1::text[], $2::uuid[], $3::timestamptz[], $4::timestamptz[], $5::text[], $6::text[], $7::text[],
			$8::text[], $9::text[], $10::timestamptz[])
		ON CONFLICT (gateway, login) DO UPDATE SET
			opened_at = coalesce(l.opened_at, excluded.opened_at), deadline = coalesce(l.deadline, excluded.deadline),
			app = coalesce(l.app, excluded.app), method = coalesce(l.method, excluded.method),
			user_id = coalesce(l.user_id, excluded.user_id),
			outcome = coalesce(l.outcome, excluded.outcome), reason = coalesce(l.reason, excluded.reason),
			closed_at = coalesce(l.closed_at, excluded.closed_at)`,
		gateways, ids, opened, deadlines, apps, methods, users, outcomes, reasons, closed)
	return err
}

// overdue lists logins that are open and whose deadline was before an instant, the oldest first.
func overdue(ctx context.Context, db *pgxpool.Pool, before time.Time) ([]events.Login, error) {
	rows, err := db.Query(ctx, `
		SELECT gateway, login::text FROM audit.logins WHERE closed_at IS NULL AND deadline < $1 ORDER BY deadline LIMIT $2`, before, sweepBatch)
	if err != nil {
		return nil, fmt.Errorf("recorder: overdue: %w", err)
	}
	logins, err := pgx.CollectRows(rows, pgx.RowToStructByPos[events.Login])
	if err != nil {
		return nil, fmt.Errorf("recorder: overdue: %w", err)
	}
	return logins, nil
}

// forget deletes what is older than an instant, in portions so that no transaction is long.
func forget(ctx context.Context, db *pgxpool.Pool, before time.Time) error {
	for _, statement := range []string{
		`DELETE FROM audit.events WHERE id IN (SELECT id FROM audit.events WHERE stored_at < $1 LIMIT $2)`,
		`DELETE FROM audit.logins WHERE (gateway, login) IN (
			SELECT gateway, login FROM audit.logins WHERE coalesce(closed_at, deadline, opened_at) < $1 LIMIT $2)`,
	} {
		for {
			done, err := db.Exec(ctx, statement, before, purgeBatch)
			if err != nil {
				return fmt.Errorf("recorder: purge: %w", err)
			}
			if done.RowsAffected() < purgeBatch {
				break
			}
		}
	}
	return nil
}
