package simulators_test

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/sekisho/sekisho/services/simulators"
)

func setFault(t *testing.T, sim *simulators.Simulators, provider string, f simulators.Fault) {
	t.Helper()
	if err := sim.SetFault(provider, f); err != nil {
		t.Fatal(err)
	}
}

func TestRateHitsThatShareOfTheCalls(t *testing.T) {
	sim, base := server(t, nil)
	for rate, want := range map[float64]int{1: 20, 0.5: 10, 0.3: 6, 0.05: 1} {
		setFault(t, sim, simulators.SMS, simulators.Fault{Mode: simulators.Error, Rate: rate})
		failed := 0
		for range 20 {
			if res, _ := karaden(t, base, "09012345678", "x"); res.StatusCode == 500 {
				failed++
			}
		}
		if failed != want {
			t.Errorf("rate %v hit %d of 20 calls", rate, failed)
		}
	}
}

func TestErrorSpeaksTheVendorsTongue(t *testing.T) {
	sim, base := server(t, nil)
	for provider, tc := range map[string]struct{ path, want string }{
		simulators.SMS:  {"/karaden/api/tenant/messages", `"object":"error"`},
		simulators.SMS2: {"/twilio/2010-04-01/Accounts/AC1/Messages.json", `"code":20500`},
		simulators.Risk: {"/omotion/assessments/a", `"error":"internal"`},
	} {
		setFault(t, sim, provider, simulators.Fault{Mode: simulators.Error})
		res, body := do(t, newRequest(t, "GET", base+tc.path, "", ""))
		if res.StatusCode != 500 || !strings.Contains(body, tc.want) {
			t.Errorf("%s: %s %s", provider, res.Status, body)
		}
	}
}

func TestResetIsATCPReset(t *testing.T) {
	sim, base := server(t, nil)
	setFault(t, sim, simulators.Risk, simulators.Fault{Mode: simulators.Reset})
	_, err := http.DefaultClient.Do(newRequest(t, "POST", base+"/omotion/devices", "", ""))
	if !errors.Is(err, syscall.ECONNRESET) {
		t.Fatal(err)
	}
}

func TestHangEndsWithTheClient(t *testing.T) {
	sim, base := server(t, nil)
	setFault(t, sim, simulators.Risk, simulators.Fault{Mode: simulators.Hang})
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		sim.WaitCall(ctx, simulators.Risk, simulators.OutcomePending)
		cancel()
	}()
	if _, err := http.DefaultClient.Do(newRequest(t, "GET", base+"/omotion/devices", "", "").WithContext(ctx)); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	if err := sim.WaitCall(t.Context(), simulators.Risk, string(simulators.Hang)); err != nil {
		t.Fatal(err)
	}
}

func TestHangEndsAfterTheDelay(t *testing.T) {
	sim, base := server(t, nil)
	setFault(t, sim, simulators.Risk, simulators.Fault{Mode: simulators.Hang, Delay: time.Millisecond})
	if res, err := http.DefaultClient.Do(newRequest(t, "POST", base+"/omotion/devices", "", "")); err == nil {
		t.Fatalf("answered %s", res.Status)
	}
}

func TestHangDoesNotBlockShutdown(t *testing.T) {
	sim := simulators.New(simulators.Config{})
	setFault(t, sim, simulators.Risk, simulators.Fault{Mode: simulators.Hang})
	s := httptest.NewUnstartedServer(sim)
	s.Config.RegisterOnShutdown(sim.Close)
	s.Start()
	defer s.Close()
	done := make(chan error)
	go func() {
		_, err := http.DefaultClient.Do(newRequest(t, "POST", s.URL+"/omotion/devices", "", ""))
		done <- err
	}()
	if err := sim.WaitCall(t.Context(), simulators.Risk, simulators.OutcomePending); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := s.Config.Shutdown(ctx); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err == nil {
		t.Fatal("the hanging call was answered")
	}
}

func TestSlowAnswersRightly(t *testing.T) {
	sim, base := server(t, nil)
	setFault(t, sim, simulators.SMS, simulators.Fault{Mode: simulators.Slow, Delay: 20 * time.Millisecond})
	start := time.Now()
	if res, body := karaden(t, base, "09012345678", "x"); res.StatusCode != 200 || time.Since(start) < 20*time.Millisecond {
		t.Fatalf("%s %s after %v", res.Status, body, time.Since(start))
	}
	if n := len(sim.Messages("")); n != 1 {
		t.Fatalf("%d messages", n)
	}
}

func TestLateFaultLosesTheAnswerOnly(t *testing.T) {
	sim, base := server(t, nil)
	for late, want := range map[bool]int{false: 0, true: 1} {
		before := len(sim.Messages(""))
		setFault(t, sim, simulators.SMS, simulators.Fault{Mode: simulators.Error, Late: late})
		if res, _ := karaden(t, base, "09012345678", "x"); res.StatusCode != 500 {
			t.Fatal(res.Status)
		}
		if n := len(sim.Messages("")) - before; n != want {
			t.Errorf("late %t: %d messages", late, n)
		}
	}
}

func TestSetFaultRefusesMistakes(t *testing.T) {
	sim, _ := server(t, nil)
	for _, f := range []simulators.Fault{
		{Mode: "explode"}, {Mode: simulators.Hang, Rate: 2}, {Mode: simulators.Hang, Rate: -1},
		{Mode: simulators.Slow, Delay: -1}, {Mode: simulators.Slow, Late: true}, {Late: true},
	} {
		if err := sim.SetFault(simulators.SMS, f); err == nil {
			t.Errorf("%+v was taken", f)
		}
	}
	if err := sim.SetFault("pigeon", simulators.Fault{}); err == nil {
		t.Error("a fault of an unknown provider was taken")
	}
}

func TestOversizedRequestIsRefused(t *testing.T) {
	sim, base := server(t, nil)
	res, _ := do(t, karadenRequest(t, "POST", base+"/karaden/api/tenant/messages", url.Values{"body": {strings.Repeat("x", 1<<17)}}))
	if res.StatusCode != 413 || sim.Calls("")[0].Outcome != simulators.OutcomeBroken {
		t.Fatalf("%s, %v", res.Status, sim.Calls(""))
	}
}

func TestWaitMessage(t *testing.T) {
	sim, base := server(t, nil)
	got := make(chan []simulators.Message, 1)
	go func() {
		messages, _ := sim.WaitMessage(t.Context(), "09012345678", 2)
		got <- messages
	}()
	karaden(t, base, "09012345678", "first")
	karaden(t, base, "08000000000", "other phone")
	karaden(t, base, "09012345678", "second")
	if messages := <-got; len(messages) != 2 || messages[0].Body != "second" {
		t.Fatalf("got %v", messages)
	}

	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := sim.WaitMessage(ended, "09012345678", 3); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	if err := sim.WaitCall(ended, simulators.Risk, simulators.OutcomePending); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
}

func TestMemoryIsBounded(t *testing.T) {
	sim, _ := server(t, nil)
	const kept = 10_000
	form := url.Values{"service_id": {"1"}, "to": {"09012345678"}, "body": {"old"}}
	send := func() {
		w := httptest.NewRecorder()
		if sim.ServeHTTP(w, karadenRequest(t, "POST", "/karaden/api/tenant/messages", form)); w.Code != 200 {
			t.Fatal(w.Body)
		}
	}
	send()
	form.Set("body", "new")
	for range kept {
		send()
	}
	messages := sim.Messages("")
	if len(messages) != kept || messages[0].Body != "new" || messages[kept-1].Body != "new" {
		t.Fatalf("%d messages, the oldest %v", len(messages), messages[len(messages)-1])
	}
	if n := len(sim.Calls("")); n != kept {
		t.Fatalf("%d calls", n)
	}
}
