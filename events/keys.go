package events

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
)

// Recipients lists the workers that values are sealed to. They have a key pair each.
var Recipients = []string{identityverifier, riskassessor, otpvalidator, pushnotifier}

// refreshKeys is how often sealing keys are read again. A recipient's old key stays good for much longer.
const refreshKeys = 10 * time.Minute

// readKeys reads the newest public sealing key of each recipient from the KEYS stream. Recipients without a key are left out.
func readKeys(ctx context.Context, nc *nats.Conn) ([]PublicKey, error) {
	var keys []PublicKey
	for _, recipient := range Recipients {
		msg, err := directGet(ctx, nc, "KEYS", "keys."+recipient)
		if errors.Is(err, ErrNotFound) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("events: sealing key of %s: %w", recipient, err)
		}
		var key PublicKey
		if err := decode(msg.Data, &key); err != nil {
			return nil, fmt.Errorf("events: sealing key of %s: %w", recipient, err)
		}
		if key.Recipient != recipient {
			return nil, fmt.Errorf("events: sealing key of %s: it is of %q", recipient, key.Recipient)
		}
		keys = append(keys, key)
	}
	return keys, nil
}

// fetchKeys takes the recipients' newest keys into use.
func (c *Client) fetchKeys(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, c.options.Patience)
	defer cancel()
	keys, err := readKeys(ctx, c.nc)
	if err != nil {
		return err
	}
	for _, key := range keys {
		if err := c.sealer.Use(key); err != nil {
			return err
		}
	}
	return nil
}

// keepKeys refreshes the keys until ctx ends. A refresh that fails changes nothing: the keys at hand stay good until
// long after the next.
func (c *Client) keepKeys(ctx context.Context) {
	tick := time.NewTicker(refreshKeys)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			_ = c.fetchKeys(ctx)
		}
	}
}

// seal seals a value, and asks for the recipient's key first if none is known yet.
func (c *Client) seal(ctx context.Context, recipient, subject, field string, value any) (*Sealed, error) {
	if !c.sealer.knows(recipient) {
		if err := c.fetchKeys(ctx); err != nil {
			return nil, err
		}
	}
	return c.sealer.Seal(recipient, subject, field, value)
}
