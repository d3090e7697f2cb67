package bus

import (
	"encoding/json"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"github.com/sekisho/sekisho/events"
)

// An oracle is a stand-in for replicas of LOGIN: it answers batched direct gets as a function of how many there were says.
func oracle(t *testing.T, answer func(n int, subjects []string, reply func(status string, e *events.Event))) *Bus {
	t.Helper()
	s, err := server.NewServer(&server.Options{Host: "127.0.0.1", Port: server.RANDOM_PORT, NoSigs: true, NoLog: true})
	if err != nil {
		t.Fatal(err)
	}
	s.Start()
	t.Cleanup(func() { s.Shutdown(); s.WaitForShutdown() })
	if !s.ReadyForConnections(10 * time.Second) {
		t.Fatal("no server")
	}
	nc, err := nats.Connect(s.ClientURL())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	asked := 0
	_, err = nc.Subscribe("$JS.API.DIRECT.GET.LOGIN", func(msg *nats.Msg) {
		var request struct {
			MultiLast []string `json:"multi_last"`
		}
		if err := json.Unmarshal(msg.Data, &request); err != nil {
			t.Error(err)
		}
		asked++
		answer(asked, request.MultiLast, func(status string, e *events.Event) {
			out := nats.NewMsg(msg.Reply)
			if e != nil {
				stored, err := e.Message()
				if err != nil {
					t.Error(err)
				}
				out.Data, out.Header = stored.Data, stored.Header
				out.Header.Set("Nats-Subject", e.Subject())
				out.Header.Set("Nats-Sequence", fmt.Sprint(e.Sequence))
				out.Header.Set("Nats-Time-Stamp", time.Now().UTC().Format(time.RFC3339Nano))
			} else {
				out.Header.Set("Status", status)
				out.Header.Set("Nats-UpTo-Sequence", "9")
			}
			if err := nc.PublishMsg(out); err != nil {
				t.Error(err)
			}
		})
	})
	if err != nil {
		t.Fatal(err)
	}
	return &Bus{worker: "sessionissuer", nc: nc, getter: newGetter(nc), now: time.Now}
}

func cancelledAndLapsed(t *testing.T) (cancelled, lapsed *events.Event) {
	t.Helper()
	login, err := events.NewLogin("web")
	if err != nil {
		t.Fatal(err)
	}
	cancelled, lapsed = events.New(login, 0, &events.Cancelled{}), events.New(login, 0, &events.Lapsed{})
	for i, e := range []*events.Event{cancelled, lapsed} {
		e.By, e.Time, e.Sequence = "gateway/web", time.Now(), uint64(i+1)
	}
	return cancelled, lapsed
}

// An answer that got lost with a connection is asked for again, and not waited for.
func TestReadOfALostAnswer(t *testing.T) {
	cancelled, _ := cancelledAndLapsed(t)
	b := oracle(t, func(n int, _ []string, reply func(string, *events.Event)) {
		if n > 1 {
			reply("", cancelled)
			reply("204", nil)
		}
	})
	b.getter.wait = time.Millisecond
	h, err := b.Login(t.Context(), cancelled.Login)
	if err != nil || len(h) != 1 || h[0].ID() != cancelled.ID() {
		t.Errorf("history %v, %v", h, err)
	}
}

// What one replica does not have is no proof of what another has: a history rests on one answer.
func TestHistoryOfTwoReplicas(t *testing.T) {
	cancelled, lapsed := cancelledAndLapsed(t)
	b := oracle(t, func(n int, subjects []string, reply func(string, *events.Event)) {
		if n == 1 { // it is behind
			reply("404", nil)
			return
		}
		for _, e := range []*events.Event{cancelled, lapsed} {
			if slices.Contains(subjects, e.Subject()) {
				reply("", e)
			}
		}
		reply("204", nil)
	})
	h, err := b.History(t.Context(), lapsed, events.StepCancelled, events.StepLapsed)
	if err != nil || len(h) != 2 || h[0].ID() != cancelled.ID() || h[1] != lapsed {
		t.Errorf("history %v, %v", h, err)
	}
}
