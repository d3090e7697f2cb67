package directory

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/rs/zerolog"

	"github.com/sekisho/sekisho/services/internal/bus"
	"github.com/sekisho/sekisho/services/internal/runtime"
)

const (
	relayEvery  = 2 * time.Second  // what other processes left is looked for this often; what this one did, at once
	relayBatch  = 100              // events of one transaction
	relayWait   = 5 * time.Second  // for the broker to take one event
	relayHold   = 10 * time.Second // after which a transaction takes no further event, so that it ends long before it is frozen
	relayFrozen = "30s"            // PostgreSQL ends the transaction of a process that hangs for longer than that
	relayLock   = 0x6f7574626f78   // "outbox": the advisory lock of who publishes; any number that nobody else uses
)

// Outbox is where changes of accounts go through: the transaction that changes an account also writes the event that says so, and
// [Outbox.Relay] publishes it. So nothing is announced that did not happen, and what happened is announced whoever dies and however long
// the bus is away.
type Outbox struct {
	db    *pgxpool.Pool
	now   func() time.Time
	fresh chan struct{} // wakes Relay: there is something in the outbox
}

// NewOutbox makes an Outbox, for [NewUsers] and [NewDevices].
func NewOutbox(db *pgxpool.Pool, now func() time.Time) *Outbox {
	return &Outbox{db: db, now: now, fresh: make(chan struct{}, 1)}
}

// commit makes a change of an account in one transaction with the events that say so, and has them published.
func (o *Outbox) commit(ctx context.Context, change func(pgx.Tx) error) error {
	err := pgx.BeginFunc(ctx, o.db, change)
	if err == nil {
		o.wakeRelay()
	}
	return err
}

// announce writes an event into the outbox. data must hold nothing secret or personal.
func (o *Outbox) announce(ctx context.Context, tx pgx.Tx, kind, user string, data any) error {
	id, err := uuid.NewV7()
	if err != nil {
		return err
	}
	text, err := json.Marshal(data)
	if err != nil {
		return err
	}
	_, err = tx.Exec(ctx, `INSERT INTO directory.outbox (id, kind, user_id, data, created_at) VALUES ($1, $2, $3, $4, $5)`,
		id, kind, user, text, o.now())
	return err
}

// Announce has an event published about a change of a user that is not kept here, such as the end of sessions. kind is that of
// [bus.AccountEvent]; data must hold nothing secret or personal.
func (o *Outbox) Announce(ctx context.Context, kind, user string, data any) error {
	err := o.commit(ctx, func(tx pgx.Tx) error { return o.announce(ctx, tx, kind, user, data) })
	if err != nil {
		return fmt.Errorf("directory: announce: %w", err)
	}
	return nil
}

func (o *Outbox) wakeRelay() {
	select {
	case o.fresh <- struct{}{}:
	default: // it has been woken and has not looked yet
	}
}

// Relay publishes what is in the outbox until ctx ends: what is changed through this Outbox at once, and now and then what any process has
// left. Any number of processes may do so. Trouble is logged and tried again. An event is published again when it is not known
// whether the broker took it, under the same id.
func (o *Outbox) Relay(ctx context.Context, log zerolog.Logger, publish func(context.Context, bus.AccountEvent) error) error {
	return runtime.Repeat(ctx, log, relayEvery, o.fresh, "can not publish changes of accounts", func(ctx context.Context) (more bool, err error) {
		return o.relay(ctx, publish)
	})
}

// relay publishes the oldest events, and deletes those that the broker has taken. One process does so at a time, so that events
// stay in order and nobody publishes what another is about to delete.
func (o *Outbox) relay(ctx context.Context, publish func(context.Context, bus.AccountEvent) error) (more bool, err error) {
	var refused error
	err = pgx.BeginFunc(ctx, o.db, func(tx pgx.Tx) error {
		_, err := tx.Exec(ctx, `SELECT set_config('idle_in_transaction_session_timeout', $1, true), pg_advisory_xact_lock($2)`, relayFrozen, relayLock)
		if err != nil {
			return err
		}
		rows, err := tx.Query(ctx, `
			SELECT id::text, source, kind, user_id, data, created_at FROM directory.outbox ORDER BY id LIMIT $1`, relayBatch)
		if err != nil {
			return err
		}
		left, err := pgx.CollectRows(rows, pgx.RowToStructByPos[bus.AccountEvent])
		if err != nil || len(left) == 0 {
			return err
		}
		var taken []string
		begun := o.now()
		for _, event := range left {
			if o.now().Sub(begun) > relayHold {
				break
			}
			if refused = publishWithin(ctx, relayWait, publish, event); refused != nil {
				break
			}
			taken = append(taken, event.ID)
		}
		more = len(left) == relayBatch || len(taken) < len(left)
		_, err = tx.Exec(ctx, `DELETE FROM directory.outbox WHERE id = ANY($1::uuid[])`, taken)
		return err
	})
	if err == nil {
		err = refused
	}
	if err != nil {
		return false, fmt.Errorf("directory: relay: %w", err)
	}
	return more, nil
}

func publishWithin(ctx context.Context, wait time.Duration, publish func(context.Context, bus.AccountEvent) error, event bus.AccountEvent) error {
	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	return publish(ctx, event)
}
