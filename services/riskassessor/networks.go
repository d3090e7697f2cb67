package riskassessor

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"errors"
	"fmt"
	"net/netip"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/rs/zerolog"

	"github.com/sekisho/sekisho/events"
	"github.com/sekisho/sekisho/services/internal/coalesce"
	"github.com/sekisho/sekisho/services/internal/runtime"
)

const (
	// A provider gives its customers one of many addresses, and another tomorrow: what is remembered is the network around it.
	networkBits4, networkBits6 = 24, 48
	// seenEvery is how old last_seen may get. A network that is in daily use is written once a day.
	seenEvery  = 24 * time.Hour
	purgeEvery = time.Hour
	maxBatch   = 64 // logins that share a statement
)

// networks remembers from which networks users were granted a login: risk.networks. It keeps no address. What concurrent
// handlers ask for goes into one statement.
type networks struct {
	db   *pgxpool.Pool
	key  []byte
	keep time.Duration
	now  func() time.Time
	log  zerolog.Logger

	looks  *coalesce.Group[visit, visit, *time.Time]
	visits *coalesce.Group[visit, visit, struct{}]

	// lately says until when a visit needs no look-up, since its row need not be written before: users who log in several times a day
	// are not looked up each time. No row is purged while it is in here (risk.keep is two days at least).
	lately *lru.Cache[visit, time.Time]
	// current holds logins from such networks, most of all: there is nothing to write when they are granted.
	current *lru.Cache[events.Login, struct{}]
}

// maxLately bounds what is kept in mind, some megabytes.
const maxLately = 10_000

// A visit is a user in a network.
type visit struct {
	user    string
	network [sha256.Size]byte // keyed hash
}

func newNetworks(db *pgxpool.Pool, key []byte, keep time.Duration, now func() time.Time, log zerolog.Logger) (*networks, error) {
	n := &networks{db: db, key: key, keep: keep, now: now, log: log}
	var errs [2]error
	n.lately, errs[0] = lru.New[visit, time.Time](maxLately)
	n.current, errs[1] = lru.New[events.Login, struct{}](maxLately)
	if err := errors.Join(errs[:]...); err != nil {
		return nil, fmt.Errorf("riskassessor: %w", err)
	}
	itself := func(v visit) visit { return v }
	n.looks = coalesce.New(n.look, itself, maxBatch)
	n.visits = coalesce.New(n.write, itself, maxBatch)
	return n, nil
}

// close waits for what is under way.
func (n *networks) close() {
	n.looks.Close()
	n.visits.Close()
}

// visit names the network of an address by a hash that is each user's own, so that it can be compared with other networks of the same
// user only. It reports false for what is no address: a gateway need not tell it.
func (n *networks) visit(user, ip string) (visit, bool) {
	addr, err := netip.ParseAddr(ip)
	if err != nil {
		return visit{}, false
	}
	addr = addr.Unmap().WithZone("")
	bits := networkBits4
	if addr.Is6() {
		bits = networkBits6
	}
	network, err := addr.Prefix(bits)
	if err != nil {
		return visit{}, false
	}
	mac := hmac.New(sha256.New, n.key)
	mac.Write([]byte(user + "\x00" + network.String())) // never fails (hash.Hash)
	return visit{user, [sha256.Size]byte(mac.Sum(nil))}, true
}

// known tells whether the user was granted a login in the network of an address before; login is the one to be assessed. Where none
// is told nothing counts as unknown; what is told and is no address is unknown, so that somebody notices.
func (n *networks) known(ctx context.Context, login events.Login, user, ip string) (bool, error) {
	v, ok := n.visit(user, ip)
	if !ok {
		return ip == "", nil
	}
	until, _ := n.lately.Get(v)
	if !n.now().Before(until) {
		seen, err := n.looks.Do(ctx, v)
		if err != nil || seen == nil {
			return false, err
		}
		until = seen.Add(seenEvery)
	}
	if n.now().Before(until) {
		n.lately.Add(v, until)
		n.current.Add(login, struct{}{})
	}
	return true, nil
}

// remember makes the network of an address one that is known. It writes nothing if it was seen there in the last day.
func (n *networks) remember(ctx context.Context, user, ip string) error {
	v, ok := n.visit(user, ip)
	if !ok {
		return nil
	}
	_, err := n.visits.Do(ctx, v)
	return err
}

// look says when users were last seen in networks, nil for never.
func (n *networks) look(ctx context.Context, list []visit) ([]*time.Time, error) {
	users, hashes := columns(list)
	rows, err := n.db.Query(ctx, `
		SELECT n.last_seen
		FROM unnest($1::text[], $2::bytea[]) WITH ORDINALITY AS q (user_id, network, i)
		LEFT JOIN risk.networks n ON n.user_id = q.user_id AND n.network = q.network ORDER BY q.i`, users, hashes)
	if err != nil {
		return nil, fmt.Errorf("riskassessor: look up networks: %w", err)
	}
	found, err := pgx.CollectRows(rows, pgx.RowTo[*time.Time])
	if err != nil {
		return nil, fmt.Errorf("riskassessor: look up networks: %w", err)
	}
	return found, nil
}

// write touches only rows that are new or a day old: a conflict alone would lock, and so write, the row.
func (n *networks) write(ctx context.Context, list []visit) ([]struct{}, error) {
	users, hashes := columns(list)
	now := n.now()
	_, err := n.db.Exec(ctx, `
		INSERT INTO risk.networks AS n (user_id, network, last_seen)
		SELECT q.user_id, q.network, $3 FROM unnest($1::text[], $2::bytea[]) AS q (user_id, network)
		WHERE NOT EXISTS (SELECT FROM risk.networks k WHERE k.user_id = q.user_id AND k.network = q.network AND k.last_seen > $4)
		ORDER BY q.user_id, q.network -- one order for all, so that no two batches wait for each other
		ON CONFLICT (user_id, network) DO UPDATE SET last_seen = greatest(n.last_seen, excluded.last_seen)`,
		users, hashes, now, now.Add(-seenEvery))
	if err != nil {
		return nil, fmt.Errorf("riskassessor: remember networks: %w", err)
	}
	return make([]struct{}, len(list)), nil
}

// columns are visits as the arrays that unnest takes.
func columns(list []visit) (users []string, hashes [][]byte) {
	for _, v := range list {
		users, hashes = append(users, v.user), append(hashes, v.network[:])
	}
	return users, hashes
}

// purge forgets networks that were not seen for long, until ctx ends.
func (n *networks) purge(ctx context.Context) error {
	return runtime.Repeat(ctx, n.log, purgeEvery, nil, "can not purge", func(ctx context.Context) (bool, error) { return false, n.forget(ctx) })
}

func (n *networks) forget(ctx context.Context) error {
	if _, err := n.db.Exec(ctx, `DELETE FROM risk.networks WHERE last_seen < $1`, n.now().Add(-n.keep)); err != nil {
		return fmt.Errorf("riskassessor: purge: %w", err)
	}
	return nil
}
