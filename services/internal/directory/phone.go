package directory

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/nyaruka/phonenumbers"
)

// ErrPhone says that a text can not be a phone number.
var ErrPhone = errors.New("directory: not a phone number")

// ParsePhone reads a number in international form, or in the national form of region (ISO 3166-1, such as "JP"), and
// returns it as E.164.
func ParsePhone(number, region string) (string, error) {
	if len(number) > 64 {
		return "", ErrPhone
	}
	parsed, err := phonenumbers.Parse(number, region)
	if err != nil || !phonenumbers.IsValidNumber(parsed) || parsed.GetExtension() != "" {
		return "", ErrPhone
	}
	return phonenumbers.Format(parsed, phonenumbers.E164), nil
}

// Phones looks phone numbers and languages up. The role of smsdispatcher can read this of the directory and nothing else.
type Phones struct {
	db *pgxpool.Pool
}

// NewPhones makes a Phones; the pool stays the caller's.
func NewPhones(db *pgxpool.Pool) *Phones { return &Phones{db: db} }

// Contact is a user's phone number in E.164 and language ("ja" or "en"), "" when there is no number.
func (p *Phones) Contact(ctx context.Context, user string) (number, locale string, err error) {
	err = p.db.QueryRow(ctx, `
		SELECT p.number, u.locale FROM directory.phones p JOIN directory.users u ON u.id = p.user_id WHERE p.user_id = $1`, user,
	).Scan(&number, &locale)
	if err != nil && !errors.Is(err, pgx.ErrNoRows) {
		return "", "", fmt.Errorf("directory: contact: %w", err)
	}
	return number, locale, nil
}
