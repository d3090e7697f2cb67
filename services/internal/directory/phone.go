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

// Phone is a user's phone number in E.164, "" when there is none. The role of smsdispatcher can read this of the
// directory and nothing else.
func Phone(ctx context.Context, db *pgxpool.Pool, user string) (number string, err error) {
	err = db.QueryRow(ctx, `SELECT number FROM directory.phones WHERE user_id = $1`, user).Scan(&number)
	if err != nil && !errors.Is(err, pgx.ErrNoRows) {
		return "", fmt.Errorf("directory: phone number: %w", err)
	}
	return number, nil
}
