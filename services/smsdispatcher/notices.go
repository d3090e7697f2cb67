package smsdispatcher

import (
	"context"
	"fmt"
	"regexp"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"

	"github.com/sekisho/sekisho/events"
	"github.com/sekisho/sekisho/services/internal/bus"
	"github.com/sekisho/sekisho/services/internal/runtime"
)

const (
	noticeBatch     = 100                   // changes of accounts that are looked at together
	noticeWait      = 10 * time.Millisecond // for a batch to fill
	noticeRetry     = time.Minute           // after the first try at least; doubles with each
	noticeRetryMost = time.Hour
	noticeFor       = 24 * time.Hour // a change that is older is not told any more
)

// notices tell users of the phones that are added to their accounts or removed, so that a thief who adds one is seen.
// Changes become rows first, which asks no provider, so an outage holds nothing up; then rows that are due are claimed
// and sent, by any number of processes. A claim moves the next try on: a process that dies leaves a row that was tried,
// about which all providers are asked before it is sent again.
//
// Notices have a limit of their own, so that nobody is flooded with them and none takes the place of a code. It is per
// user alone: whose number is whose is an admin's doing.
type notices struct {
	*dispatcher
	bus        *bus.Bus
	perUser    int // in limitWindow
	concurrent int
	retry      time.Duration
	fresh      chan struct{} // wakes tell: there are new intents
}

func newNotices(env *runtime.Env, d *dispatcher, patience time.Duration) *notices {
	return &notices{
		dispatcher: d, bus: env.Bus, perUser: env.Config.Limits.NoticesPerUser,
		concurrent: d.deliveries.concurrent, // the providers' share for what no login waits for
		retry:      max(noticeRetry, patience), fresh: make(chan struct{}, 1),
	}
}

// A notice is a row of sms.notices.
type notice struct {
	Event   string
	User    string
	Kind    string
	Changed time.Time
	Tries   int // that were begun before
}

// follow writes the changes of phones down until ctx ends.
func (n *notices) follow(ctx context.Context) error {
	return n.bus.Batches(ctx, bus.StreamAccount, noticeBatch, noticeWait, n.intend)
}

// change is a subject of a change that is told. Names of phones are not: they are the user's alone.
var change = regexp.MustCompile(`^account\.(device-enrolled|device-removed)\.([A-Za-z0-9_-]{1,64})$`)

// intend writes the intents of notices. A change that was seen before, or that is too old, makes none. Those beyond the
// limit are counted under an advisory lock, in whatever process they arise, and stay dropped.
func (n *notices) intend(ctx context.Context, stored []bus.Stored) error {
	var (
		ids, users, kinds []string
		times             []time.Time
	)
	now := n.now()
	for _, m := range stored {
		about := change.FindStringSubmatch(m.Subject)
		if about == nil || now.Sub(m.Time) >= noticeFor {
			continue
		}
		ce, err := events.ReadMessage(m.Header, m.Data)
		if err != nil || uuid.Validate(ce.ID()) != nil {
			continue // not an event of ours
		}
		ids, kinds, users, times = append(ids, ce.ID()), append(kinds, about[1]), append(users, about[2]), append(times, m.Time)
	}
	if len(ids) == 0 {
		return nil
	}
	batch := &pgx.Batch{} // one transaction; the second statement sees what was committed until the first got its lock
	batch.Queue(`SELECT pg_advisory_xact_lock($1)`, lockKey("notices", nil))
	dropped := 0
	batch.Queue(`
		WITH fresh AS (
			SELECT *, row_number() OVER (PARTITION BY user_id ORDER BY n) AS of_user
			FROM unnest($1::uuid[], $2::text[], $3::text[], $4::timestamptz[]) WITH ORDINALITY AS a (event, user_id, kind, changed_at, n)
			WHERE NOT EXISTS (SELECT FROM sms.notices s WHERE s.event = a.event)
		), judged AS (
			SELECT *, of_user + (SELECT count(*) FROM sms.notices s
				WHERE s.user_id = f.user_id AND s.created_at > $6 AND s.state <> 'dropped') <= $7 AS within FROM fresh f
		)
		INSERT INTO sms.notices (event, user_id, kind, changed_at, created_at, state, due_at)
		SELECT event, user_id, kind, changed_at, $5::timestamptz, CASE WHEN within THEN 'intent' ELSE 'dropped' END, CASE WHEN within THEN $5::timestamptz END
		FROM judged ON CONFLICT (event) DO NOTHING RETURNING state = 'dropped'`,
		ids, users, kinds, times, now, now.Add(-limitWindow), n.perUser,
	).Query(func(rows pgx.Rows) error {
		var over bool
		_, err := pgx.ForEachRow(rows, []any{&over}, func() error {
			if over {
				dropped++
			}
			return nil
		})
		return err
	})
	if err := n.store.db.SendBatch(ctx, batch).Close(); err != nil {
		return fmt.Errorf("smsdispatcher: write intents of notices: %w", err)
	}
	wake(n.fresh)
	if dropped > 0 {
		n.log.Warn().Int("notices", dropped).Msg("changes of phones not told by text message: more than limits.notices_per_user")
	}
	return nil
}

// tell sends the notices that are due until ctx ends.
func (n *notices) tell(ctx context.Context) error {
	return runtime.Repeat(ctx, n.log, lookEvery, n.fresh, "can not tell users of changes of their phones", func(ctx context.Context) (bool, error) {
		count, err := n.sendDue(ctx)
		return count == n.concurrent, err
	})
}

// sendDue claims as many notices as may be under way at a time and tries them. It returns how many were due.
func (n *notices) sendDue(ctx context.Context) (int, error) {
	now := n.now()
	rows, err := n.store.db.Query(ctx, `
		UPDATE sms.notices s SET tries = tries + 1, due_at = $1 + least($2::interval * power(2, tries), $3::interval)
		FROM (SELECT event FROM sms.notices WHERE due_at <= $1 ORDER BY due_at LIMIT $4 FOR UPDATE SKIP LOCKED) due
		WHERE s.event = due.event
		RETURNING s.event::text, s.user_id, s.kind, s.changed_at, s.tries - 1`,
		now, n.retry, max(noticeRetryMost, n.retry), n.concurrent)
	if err != nil {
		return 0, fmt.Errorf("smsdispatcher: claim notices: %w", err)
	}
	due, err := pgx.CollectRows(rows, pgx.RowToStructByPos[notice])
	if err != nil {
		return 0, fmt.Errorf("smsdispatcher: claim notices: %w", err)
	}
	var group errgroup.Group // without a context: the failure of one is none of the others'
	for _, told := range due {
		group.Go(func() error { return n.try(ctx, told) })
	}
	return len(due), group.Wait()
}

// try hands a notice to a provider, unless nobody is to be told any more. What no provider takes is tried again later.
func (n *notices) try(ctx context.Context, told notice) error {
	expires := told.Changed.Add(noticeFor)
	if !n.now().Before(expires) {
		n.log.Warn().Str("event", told.Event).Msg("change of a phone not told by text message: no provider took it in time")
		return n.finish(ctx, told, "", Receipt{State: StateFailed})
	}
	number, locale, err := n.phones.Contact(ctx, told.User)
	if err != nil {
		return err
	}
	if number == "" {
		return n.finish(ctx, told, "", Receipt{State: stateDropped})
	}
	by, receipt, failures := n.hand(ctx, Message{
		To: number, Body: noticeText(locale, told.Kind, told.Changed), Tag: tag(told.Event), NotAfter: expires,
	}, told.Tries == 0)
	switch {
	case by != "":
		n.deliveries.count(by, receipt.State)
		return n.finish(ctx, told, by, receipt)
	case ctx.Err() == nil && reasonOf(failures) == events.UndeliveredRefused: // the number's fault, which time does not mend
		return n.finish(ctx, told, "", Receipt{State: StateFailed})
	default:
		return nil
	}
}

// stateDropped is the state of a notice that nobody gets: it is over the limit, or its user has no number.
const stateDropped State = "dropped"

// finish records what became of a notice, which is then tried no more.
func (n *notices) finish(ctx context.Context, told notice, by string, receipt Receipt) error {
	_, err := n.store.db.Exec(ctx, `
		UPDATE sms.notices SET state = $2, provider = $3, provider_id = $4, due_at = NULL WHERE event = $1 AND state = 'intent'`,
		told.Event, receipt.State, by, receipt.ID)
	if err != nil {
		return fmt.Errorf("smsdispatcher: record a notice: %w", err)
	}
	return nil
}
