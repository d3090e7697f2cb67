package pushnotifier

import (
	"context"
	"slices"

	"github.com/jackc/pgx/v5"

	"github.com/sekisho/sekisho/services/internal/directory"
)

// A usedProof names a proof, or an assertion, that a device has used.
type usedProof struct{ device, id string }

// useProof records the id of a device's proof, and finds the device. It returns nil when the device is not there, or has used the
// proof before.
func (s *store) useProof(ctx context.Context, device, id string) (*directory.Device, error) {
	return s.proofs.Do(ctx, usedProof{device, id})
}

func (s *store) use(ctx context.Context, proofs []usedProof) ([]*directory.Device, error) {
	devices, ids := make([]string, len(proofs)), make([]string, len(proofs))
	for i, p := range proofs {
		devices[i], ids[i] = p.device, p.id
	}
	var first []usedProof
	out, batch := make([]*directory.Device, len(proofs)), &pgx.Batch{}
	batch.Queue(`
		INSERT INTO push.proofs (device, id, used_at) SELECT d, i, $3 FROM unnest($1::text[], $2::text[]) AS p (d, i) ORDER BY d, i
		ON CONFLICT DO NOTHING RETURNING device, id`, devices, ids, s.now(),
	).Query(func(rows pgx.Rows) (err error) {
		first, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (p usedProof, err error) { return p, row.Scan(&p.device, &p.id) })
		return err
	})
	directory.QueueDevices(batch, devices, func(i int, device directory.Device) {
		if slices.Contains(first, proofs[i]) {
			out[i] = &device
		}
	})
	return out, failed("record proofs", s.db.SendBatch(ctx, batch).Close())
}
