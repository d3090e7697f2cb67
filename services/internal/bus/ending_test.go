package bus_test

import (
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/sekisho/sekisho/events"
	"github.com/sekisho/sekisho/services/internal/bus"
	"github.com/sekisho/sekisho/services/internal/testenv"
)

// closed is an ending with every outcome's data.
func closed(login events.Login, outcome events.Outcome) *events.Event {
	data := &events.Closed{Outcome: outcome, Decision: events.Decision{Policy: "p", After: "x", Facts: events.Facts{Now: time.Now()}}}
	if outcome == events.Granted {
		data.App, data.User, data.AMR, data.ACR = "demo", "u1", []string{"pwd"}, "1fa"
		data.AuthTime, data.Expires = time.Now(), time.Now().Add(time.Hour)
	}
	return events.New(login, 0, data)
}

// A login has one ending. What the broker takes beside the first is only a record that says the same.
func TestTheBrokerTakesOneEnding(t *testing.T) {
	broker := testenv.NATS(t)
	issuer, recorder := broker.Bus(t, "sessionissuer"), broker.Bus(t, "recorder")
	for _, outcome := range []events.Outcome{events.Granted, events.Denied, events.Failed, events.CancelledBy, events.Expired} {
		t.Run("lapsed after "+string(outcome), func(t *testing.T) {
			login := newLogin(t)
			if _, mine, err := issuer.Publish(t.Context(), nil, closed(login, outcome)); !mine || err != nil {
				t.Fatalf("closed: %v %v", mine, err)
			}
			if err := recorder.Lapse(t.Context(), login, "late"); err != nil { // it has ended: nothing is left to do
				t.Fatal(err)
			}
			sameSteps(t, broker, login, events.StepClosed)
		})
		t.Run(string(outcome)+" after lapsed", func(t *testing.T) {
			login := newLogin(t)
			if err := recorder.Lapse(t.Context(), login, ""); err != nil {
				t.Fatal(err)
			}
			_, mine, err := issuer.Publish(t.Context(), nil, closed(login, outcome))
			if outcome == events.Expired {
				if !mine || err != nil {
					t.Errorf("the record of it: %v %v", mine, err)
				}
				sameSteps(t, broker, login, events.StepLapsed, events.StepClosed)
				return
			}
			if !errors.Is(err, bus.ErrStale) {
				t.Errorf("another ending: %v %v, want to look again", mine, err)
			}
			sameSteps(t, broker, login, events.StepLapsed)
		})
	}
}

// Grants and lapses of the same logins race: each login gets one of them.
func TestEndingsRace(t *testing.T) {
	broker := testenv.NATS(t)
	issuer, recorder := broker.Bus(t, "sessionissuer"), broker.Bus(t, "recorder")
	logins := make([]events.Login, 300)
	var wg sync.WaitGroup
	for i := range logins {
		logins[i] = newLogin(t)
		race := []func(){
			func() { _, _, _ = issuer.Publish(t.Context(), nil, closed(logins[i], events.Granted)) },
			func() { _ = recorder.Lapse(t.Context(), logins[i], "") },
		}
		if i%2 == 0 {
			slices.Reverse(race)
		}
		for _, publish := range race {
			wg.Go(publish)
		}
	}
	wg.Wait()
	viewer := broker.Bus(t, bus.UserViewer)
	won := make(map[events.Step]int)
	for _, login := range logins {
		history, err := viewer.Login(t.Context(), login)
		if err != nil {
			t.Fatal(err)
		}
		if len(history) != 1 {
			t.Fatalf("%s has %d endings", login, len(history))
		}
		won[history[0].Step]++
	}
	t.Logf("won: %v", won)
}

func newLogin(t *testing.T) events.Login {
	t.Helper()
	login, err := events.NewLogin("web")
	if err != nil {
		t.Fatal(err)
	}
	return login
}

func sameSteps(t *testing.T, broker *testenv.Broker, login events.Login, want ...events.Step) {
	t.Helper()
	history, err := broker.Bus(t, bus.UserViewer).Login(t.Context(), login)
	if err != nil {
		t.Fatal(err)
	}
	var have []events.Step
	for _, e := range history {
		have = append(have, e.Step)
	}
	if fmt.Sprint(have) != fmt.Sprint(want) {
		t.Errorf("the stream has %v, want %v", have, want)
	}
}
