package pushnotifier

import (
	"context"

	"github.com/jackc/pgx/v5"

	"github.com/sekisho/sekisho/events"
)

const (
	maxPrompts = 10 // open prompts that a device gets at once, newest first
	maxNotices = 50 // notices that a device gets at once, newest first
)

type reader struct{ user, device string }

// A list is what waits for a device, newest first. Notices of changes of the user's devices come before those of logins: anybody can
// cause the latter, and must not be able to hide with them that a phone was added.
type list struct {
	prompts []prompt // of its user, that may still be answered
	notices []notice // that it has not seen yet
}

// waiting is the list of a device of a user.
func (s *store) waiting(ctx context.Context, user, device string) (list, error) {
	return s.lists.Do(ctx, reader{user, device})
}

// list reads many lists by two statements in one round trip.
func (s *store) list(ctx context.Context, readers []reader) ([]list, error) {
	users, devices := make([]string, len(readers)), make([]string, len(readers))
	for i, r := range readers {
		users[i], devices[i] = r.user, r.device
	}
	now := s.now()
	out := make([]list, len(readers))
	batch := &pgx.Batch{}
	batch.Queue(`
		SELECT `+promptColumns+`, q.n FROM unnest($1::text[]) WITH ORDINALITY AS q (user_id, n), LATERAL (
			SELECT * FROM push.prompts WHERE user_id = q.user_id AND created_at > $2 AND expires_at > $3 AND ended_at IS NULL AND NOT decoy
			ORDER BY created_at DESC LIMIT $4
		) p ORDER BY q.n, p.created_at DESC`, users, now.Add(-events.MaxDeadline), now, maxPrompts,
	).Query(scan((*prompt).columns, func(n int, p *prompt) {
		out[n-1].prompts = append(out[n-1].prompts, *p)
		s.listed.Add(p.place, *p)
	}))
	batch.Queue(`
		SELECT `+noticeColumns+`, q.n FROM unnest($1::text[]) WITH ORDINALITY AS q (device, n), LATERAL (
			SELECT * FROM push.notices WHERE device = q.device AND seen_at IS NULL ORDER BY kind = $3, created_at DESC, id LIMIT $2
		) v ORDER BY q.n, v.kind = $3, v.created_at DESC, v.id`, devices, maxNotices, unknownEnvironment,
	).Query(scan((*notice).columns, func(n int, told *notice) { out[n-1].notices = append(out[n-1].notices, *told) }))
	return out, failed("list prompts and notices", s.db.SendBatch(ctx, batch).Close())
}
