package smsdispatcher

import (
	"errors"
	"net/http"
	"testing"
	"time"

	"github.com/sekisho/sekisho/services/internal/provider"
)

func TestTwilioBoundsTheValidity(t *testing.T) {
	sim := startSimulators(t)
	a := sim.twilio(newClient(t, time.Minute))
	m := codeMessage("late")

	m.NotAfter = time.Now()
	if _, err := a.Send(t.Context(), m); !errors.Is(err, provider.ErrRefused) || !provider.Unsent(err) {
		t.Fatalf("past its time: %v", err)
	}
	// The simulator refuses what is longer than four hours.
	for _, notAfter := range []time.Time{time.Now().AddDate(0, 0, 3), {}} {
		m.NotAfter = notAfter
		if _, err := a.Send(t.Context(), m); err != nil {
			t.Fatal(err)
		}
	}
}

func TestTwilioFindsAcrossMidnight(t *testing.T) {
	sim := startSimulators(t)
	a := sim.twilio(newClient(t, time.Minute))
	m := codeMessage("one")
	if _, err := a.Send(t.Context(), m); err != nil {
		t.Fatal(err)
	}
	for ahead, want := range map[int]bool{0: true, 1: true, 3: false} {
		a.now = func() time.Time { return time.Now().AddDate(0, 0, ahead) }
		if _, found, err := a.Find(t.Context(), m); err != nil || found != want {
			t.Errorf("%d days later: found %t, %v", ahead, found, err)
		}
	}
}

func TestTwilioFindComparesTheBody(t *testing.T) {
	sim := startSimulators(t)
	a := sim.twilio(newClient(t, time.Minute))
	if _, err := a.Send(t.Context(), codeMessage("one")); err != nil {
		t.Fatal(err)
	}
	if _, found, err := a.Find(t.Context(), codeMessage("two")); err != nil || found {
		t.Fatalf("found %t, %v", found, err)
	}
}

func TestTwilioStates(t *testing.T) {
	for status, want := range map[string]State{
		"accepted": StateAccepted, "scheduled": StateAccepted, "queued": StateAccepted, "sending": StateAccepted,
		"sent": StateSent, "delivered": StateReceived, "read": StateReceived,
		"undelivered": StateFailed, "failed": StateFailed, "canceled": StateFailed,
		"": "", "teleported": "",
	} {
		got, err := twilioMessage{SID: "SM1", Status: status}.receipt()
		if got.State != want || (err == nil) != (want != "") {
			t.Errorf("%q is %q, %v; want %q", status, got.State, err, want)
		}
	}
}

func FuzzTwilioAnswer(f *testing.F) {
	const message = `{"sid":"SM1","to":"+819012345678","body":"123456","status":"queued"}`
	f.Add(201, []byte(message))
	f.Add(200, []byte(`{"messages":[`+message+`]}`))
	f.Add(400, []byte(`{"code":21211,"message":"Invalid 'To' Phone Number","status":400}`))
	f.Add(503, []byte(`<html>`))
	sent := Message{To: phone, Body: "123456"}
	f.Fuzz(func(t *testing.T, status int, body []byte) {
		r := &provider.Response{Status: status, Header: http.Header{}, Body: body}
		receipt, err := twilioReceipt(r)
		checkReceipt(t, receipt, err)
		if err == nil && r.Class() != nil {
			t.Fatalf("status %d passed for a success", status)
		}
		receipt, found, err := twilioFind(r, sent)
		if found {
			checkReceipt(t, receipt, err)
		}
		if found && (err != nil || r.Class() != nil) {
			t.Fatalf("found by status %d, %v", status, err)
		}
	})
}
