package e2e

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/sekisho/sekisho/events"
	"github.com/sekisho/sekisho/services"
	"github.com/sekisho/sekisho/services/internal/bus"
)

const (
	lasts = 2 * time.Second  // each of the logins
	slack = 10 * time.Second // on a machine that is busy; the sweep, which ends everything, comes after a minute
)

// Whoever is down, a login that nobody answers has expired at its deadline. When those are back who were down, they close it
// as expired, whatever it would have come to, and nobody gets a session.
func TestExpiresWhoeverIsDown(t *testing.T) {
	s := &system{t: t, dir: t.TempDir()}
	s.run("password: {memory: 8, time: 1}\nlogin: {denied_floor: 0s, deadline: 2s}\n", nil)
	c := &cluster{t: t, system: s, binary: build(t), running: make(map[string][]*process)}
	t.Cleanup(c.stop)
	var all, others []string
	for _, worker := range services.All {
		all = append(all, worker.Name)
		c.start(worker.Name)
	}
	others = slices.DeleteFunc(slices.Clone(all), func(worker string) bool { return worker == "gateway" })
	s.HTTP = c.gateway()

	// The risk provider lets bob in by his password alone, so he is stopped by those only who come before the grant.
	beforeGrant := []string{"identityverifier", "riskassessor", "sessionissuer"}
	down := map[string][]string{"all but the gateway": others}
	for _, worker := range all {
		down[worker] = []string{worker}
	}
	for name, workers := range down {
		t.Run(name, func(t *testing.T) {
			user := "alice"
			if slices.ContainsFunc(workers, func(worker string) bool { return slices.Contains(beforeGrant, worker) }) {
				user = "bob"
			}
			if name != "gateway" {
				for _, worker := range workers {
					c.kill(worker)
				}
			}
			began := time.Now()
			l := s.beginWith(map[string]any{"user": user, "method": "password", "password": s.Password, "wait": "1ms"})
			if name == "gateway" { // the one that began the login does not see its end
				c.killOne("gateway")
				s.HTTP = c.gateway()
			}
			expired := s.untilStatus(l, "expired")
			if took := time.Since(began); took < lasts || took > lasts+slack {
				t.Errorf("expired after %v", took)
			}
			if name != "gateway" {
				for _, worker := range workers {
					c.start(worker)
				}
			}
			c.recorded(events.Login{Gateway: "web", ID: l.ID})
			if now := s.look(l); now.Status != expired.Status || now.Version != expired.Version || now.Session != nil {
				t.Errorf("%+v was shown, and now %+v", expired, now)
			}
		})
	}
}

// gateway waits for the cluster's gateway and is its address.
func (c *cluster) gateway() string {
	c.t.Helper()
	c.awaitReady(c.running["gateway"][0])
	return c.running["gateway"][0].http
}

// recorded waits until a login is recorded as expired, everywhere.
func (c *cluster) recorded(login events.Login) {
	c.t.Helper()
	viewer := c.system.dial(bus.UserViewer)
	var closed *events.Event
	poll(c.t, "closed", func() (ok bool) {
		var err error
		closed, err = events.Get(c.t.Context(), viewer, login, events.StepClosed, 0)
		if err != nil && !errors.Is(err, events.ErrNotFound) {
			c.t.Fatal(err)
		}
		return err == nil
	})
	if outcome := closed.Data.(*events.Closed).Outcome; outcome != events.Expired {
		c.t.Errorf("%s is closed as %s", login, outcome)
	}
	db, err := pgx.Connect(c.t.Context(), c.system.Postgres)
	must(c.t, err)
	defer db.Close(context.WithoutCancel(c.t.Context()))
	poll(c.t, "audited", func() bool {
		var outcome string
		err := db.QueryRow(c.t.Context(), "SELECT coalesce(outcome, '') FROM audit.logins WHERE login = $1", login.ID).Scan(&outcome)
		if outcome != "" && outcome != string(events.Expired) {
			c.t.Fatalf("%s is recorded as %s", login, outcome)
		}
		return err == nil && outcome != ""
	})
	var sessions int
	must(c.t, db.QueryRow(c.t.Context(), "SELECT count(*) FROM sessions.sessions WHERE login = $1", login.ID).Scan(&sessions))
	if sessions != 0 {
		c.t.Errorf("%s has a session", login)
	}
}
