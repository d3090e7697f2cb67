package smsdispatcher

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"

	"github.com/sekisho/sekisho/services/internal/provider"
	"github.com/sekisho/sekisho/services/internal/testenv"
	"github.com/sekisho/sekisho/services/simulators"
)

const phone = "+819012345678"

// simulated is a server with the far ends of both adapters.
type simulated struct {
	*simulators.Simulators
	url string
}

func startSimulators(t testing.TB) simulated {
	sim := simulators.New(simulators.Config{
		KaradenTenant: "tenant", KaradenToken: "karaden-token", TwilioAccount: "AC1", TwilioToken: "twilio-token",
	})
	server := httptest.NewServer(sim)
	t.Cleanup(func() {
		sim.Close()
		server.Close()
	})
	return simulated{sim, server.URL}
}

// fault switches a fault on.
func (s simulated) fault(t testing.TB, name string, f simulators.Fault) {
	t.Helper()
	if err := s.SetFault(name, f); err != nil {
		t.Fatal(err)
	}
}

func newClient(t *testing.T, timeout time.Duration) *provider.Client {
	c := provider.New(provider.Settings{Name: "far", Timeout: timeout, Failures: 100}, prometheus.NewRegistry(), zerolog.Nop())
	t.Cleanup(c.CloseIdle)
	return c
}

func (s simulated) karaden(c *provider.Client) *Karaden {
	return NewKaraden(c, KaradenConfig{URL: s.url + "/karaden/api", Tenant: "tenant", Token: "karaden-token", ServiceID: 1})
}

func (s simulated) twilio(c *provider.Client) *Twilio {
	return NewTwilio(c, TwilioConfig{URL: s.url + "/twilio", Account: "AC1", Token: "twilio-token", From: "+815012345678"})
}

// eachAdapter runs a test with either vendor; name is the provider's at the simulators.
func eachAdapter(t *testing.T, test func(t *testing.T, sim simulated, name string, with func(*provider.Client) sender)) {
	t.Run("karaden", func(t *testing.T) {
		sim := startSimulators(t)
		test(t, sim, simulators.SMS, func(c *provider.Client) sender { return sim.karaden(c) })
	})
	t.Run("twilio", func(t *testing.T) {
		sim := startSimulators(t)
		test(t, sim, simulators.SMS2, func(c *provider.Client) sender { return sim.twilio(c) })
	})
}

func codeMessage(tag string) Message {
	return Message{To: phone, Body: "123456 は認証コードです (" + tag + ")", Tag: tag, NotAfter: time.Now().Add(5 * time.Minute)}
}

func TestSendReachesThePhone(t *testing.T) {
	eachAdapter(t, func(t *testing.T, sim simulated, name string, with func(*provider.Client) sender) {
		a := with(newClient(t, time.Minute))
		m := codeMessage("one")
		receipt, err := a.Send(t.Context(), m)
		if err != nil {
			t.Fatal(err)
		}
		if receipt.State != StateAccepted || receipt.ID == "" {
			t.Fatalf("receipt is %+v", receipt)
		}
		got := sim.Messages(phone)
		if len(got) != 1 || got[0].Body != m.Body || got[0].Provider != name {
			t.Fatalf("the phone got %+v", got)
		}
		// Accepted, sent and received are three facts.
		for _, want := range []State{StateSent, StateReceived, StateReceived} {
			state, err := a.Status(t.Context(), receipt.ID)
			if err != nil || state != want {
				t.Fatalf("status is %q, %v; want %q", state, err, want)
			}
		}
	})
}

func TestEveryFaultHasItsClass(t *testing.T) {
	eachAdapter(t, func(t *testing.T, sim simulated, name string, with func(*provider.Client) sender) {
		testenv.EachFault(t, func(t *testing.T, fault simulators.Fault, timeout time.Duration, want error) {
			a := with(newClient(t, timeout))
			sim.fault(t, name, fault)
			before := len(sim.Messages(phone))

			m := codeMessage(string(fault.Mode))
			_, err := a.Send(t.Context(), m)
			check := func(call string, err error) {
				t.Helper()
				if !errors.Is(err, want) || provider.Unsent(err) {
					t.Fatalf("%s: %v, want %v", call, err, want)
				}
				if err != nil && (strings.Contains(err.Error(), "9012345678") || strings.Contains(err.Error(), "123456")) {
					t.Fatalf("%s tells too much: %v", call, err)
				}
			}
			check("Send", err)
			_, found, err := a.Find(t.Context(), m)
			check("Find", err)
			_, statusErr := a.Status(t.Context(), "no-such-message")
			if want == nil {
				want = provider.ErrRefused
			}
			check("Status", statusErr)

			sent := len(sim.Messages(phone)) - before
			if arrived := err == nil; arrived != (sent == 1) || arrived != found {
				t.Fatalf("%d messages arrived, found %t, error %v", sent, found, err)
			}
		})
	})
}

// The answer is lost but not the message: who asks before sending again sends once.
func TestFindAfterALostAnswer(t *testing.T) {
	eachAdapter(t, func(t *testing.T, sim simulated, name string, with func(*provider.Client) sender) {
		for _, mode := range []simulators.Mode{simulators.Error, simulators.Garbage, simulators.Reset, simulators.Hang} {
			t.Run(string(mode), func(t *testing.T) {
				m := codeMessage(string(mode))
				if _, found, err := with(newClient(t, time.Minute)).Find(t.Context(), m); err != nil || found {
					t.Fatalf("found before it was sent: %t, %v", found, err)
				}

				sim.fault(t, name, simulators.Fault{Mode: mode, Late: true})
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				if mode == simulators.Hang {
					arrived := len(sim.Messages(phone)) + 1
					go func() {
						sim.WaitMessage(ctx, phone, arrived)
						cancel()
					}()
				}
				_, err := with(newClient(t, time.Minute)).Send(ctx, m)
				if err == nil || provider.Unsent(err) {
					t.Fatalf("send: %v", err)
				}

				sim.fault(t, name, simulators.Fault{})
				receipt, found, err := with(newClient(t, time.Minute)).Find(t.Context(), m)
				if err != nil || !found || receipt.ID == "" || receipt.State == StateFailed {
					t.Fatalf("found %t %+v, %v", found, receipt, err)
				}
				if _, found, _ := with(newClient(t, time.Minute)).Find(t.Context(), codeMessage("another")); found {
					t.Fatal("another message was taken for this one")
				}
			})
		}
	})
}

func TestBadCredentialsAreOurFault(t *testing.T) {
	eachAdapter(t, func(t *testing.T, sim simulated, name string, with func(*provider.Client) sender) {
		a := with(newClient(t, time.Minute))
		switch a := a.(type) {
		case *Karaden:
			a.config.Token = "wrong"
		case *Twilio:
			a.config.Token = "wrong"
		}
		if _, err := a.Send(t.Context(), codeMessage("one")); !errors.Is(err, provider.ErrUnavailable) || strings.Contains(err.Error(), "wrong") {
			t.Fatal(err)
		}
	})
}

func TestRefusedMessages(t *testing.T) {
	eachAdapter(t, func(t *testing.T, sim simulated, name string, with func(*provider.Client) sender) {
		a := with(newClient(t, time.Minute))
		long := codeMessage("long")
		long.Body = strings.Repeat("あ", 1601)
		odd := codeMessage("odd")
		odd.To = "12"
		for _, m := range []Message{long, odd} {
			if _, err := a.Send(t.Context(), m); !errors.Is(err, provider.ErrRefused) {
				t.Fatalf("%s: %v", m.Tag, err)
			}
		}
		for _, id := range []string{"", "../x", "a/b", strings.Repeat("x", 65)} {
			if _, err := a.Status(t.Context(), id); !errors.Is(err, provider.ErrRefused) || !provider.Unsent(err) {
				t.Fatalf("id %q: %v", id, err)
			}
		}
		if got := sim.Messages(""); len(got) != 0 {
			t.Fatalf("phones got %v", got)
		}
	})
}

func TestKaradenTakesJapaneseMobilesOnly(t *testing.T) {
	sim := startSimulators(t)
	a := sim.karaden(newClient(t, time.Minute))
	for _, to := range []string{"+14155550123", "+81312345678", "09012345678", "+8190123456789", "+81901234567x", "+81９０12345678", ""} {
		m := codeMessage("one")
		m.To = to
		if _, err := a.Send(t.Context(), m); !errors.Is(err, provider.ErrRefused) || !provider.Unsent(err) {
			t.Errorf("Send to %q: %v", to, err)
		}
		if _, _, err := a.Find(t.Context(), m); !errors.Is(err, provider.ErrRefused) {
			t.Errorf("Find of %q: %v", to, err)
		}
	}
	if calls := sim.Calls(""); len(calls) != 0 {
		t.Fatalf("calls went out: %v", calls)
	}
}

func TestKaradenAccountMistakesAreOurFault(t *testing.T) {
	sim := startSimulators(t)
	a := sim.karaden(newClient(t, time.Minute))
	a.config.Tenant = "other"
	if _, err := a.Send(t.Context(), codeMessage("one")); !errors.Is(err, provider.ErrUnavailable) || !strings.Contains(err.Error(), "invalid_tenant") {
		t.Fatal(err)
	}
}

func TestKaradenGivesUpAfterNotAfter(t *testing.T) {
	sim := startSimulators(t)
	a := sim.karaden(newClient(t, time.Minute))
	m := codeMessage("late")
	m.NotAfter = time.Now().Add(-time.Second)
	receipt, err := a.Send(t.Context(), m)
	if err != nil {
		t.Fatal(err)
	}
	if state, err := a.Status(t.Context(), receipt.ID); err != nil || state != StateFailed {
		t.Fatalf("state is %q, %v", state, err)
	}
	if got := sim.Messages(""); len(got) != 0 {
		t.Fatalf("phones got %v", got)
	}
	if receipt, found, err := a.Find(t.Context(), m); err != nil || !found || receipt.State != StateFailed {
		t.Fatalf("found %t %+v, %v", found, receipt, err)
	}
}

func TestFindPrefersWhatDidNotFail(t *testing.T) {
	sim := startSimulators(t)
	a := sim.karaden(newClient(t, time.Minute))
	good, late := codeMessage("one"), codeMessage("one")
	late.NotAfter = time.Now().Add(-time.Second)
	want, err := a.Send(t.Context(), good)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := a.Send(t.Context(), late); err != nil {
		t.Fatal(err)
	}
	if got, found, err := a.Find(t.Context(), good); err != nil || !found || got.ID != want.ID {
		t.Fatalf("found %t %+v, %v; want %s", found, got, err, want.ID)
	}
}

func TestKaradenStates(t *testing.T) {
	for fields, want := range map[[3]string]State{ // result, status, sent_result
		{"processing", "waiting", "none"}:     StateAccepted,
		{"processing", "done", "none"}:        StateSent,
		{"processing", "done", "unconnected"}: StateSent,
		{"done", "done", "unknown"}:           StateSent,
		{"done", "done", "received"}:          StateReceived,
		{"done", "done", "unconnected"}:       StateFailed,
		{"done", "done", "error"}:             StateFailed,
		{"done", "error", "none"}:             StateFailed,
		{"done", "canceled", "none"}:          StateFailed,
		{"done", "processing_error", "none"}:  StateFailed,
		{"processing", "delayed", "none"}:     "",
		{"processing", "done", "teleported"}:  "",
		{"processing", "", "received"}:        "",
	} {
		got, err := karadenMessage{Result: fields[0], Status: fields[1], SentResult: fields[2]}.state()
		if got != want || (err == nil) != (want != "") {
			t.Errorf("%v is %q, %v; want %q", fields, got, err, want)
		}
	}
}

// What a provider's filter lets through by mistake must not pass for this message.
func TestFindChecksWhatItIsGiven(t *testing.T) {
	for list, want := range map[string]bool{
		`{"object":"list","data":[{"object":"message","id":"1","to":"09012345678","tags":["zero","one"],"status":"waiting"}]}`: true,
		`{"object":"list","data":[{"object":"message","id":"1","to":"09012345678","tags":["two"],"status":"waiting"}]}`:        false,
		`{"object":"list","data":[{"object":"message","id":"1","to":"08012345678","tags":["one"],"status":"waiting"}]}`:        false,
		`{"object":"list","data":[]}`: false,
	} {
		_, found, err := karadenFind(&provider.Response{Status: 200, Body: []byte(list)}, "09012345678", "one")
		if err != nil || found != want {
			t.Errorf("%s: found %t, %v", list, found, err)
		}
	}
}

func TestErrorEnvelopes(t *testing.T) {
	for _, tc := range []struct {
		parse func(*provider.Response) error
		name  string
		code  int
		body  string
		class error // nil for garbage
	}{
		{karadenError, "karaden", 422, `{"object":"error","code":"validation_error","errors":{"to":["bad"]}}`, provider.ErrRefused},
		{karadenError, "karaden", 404, `{"object":"error","code":"model_not_found"}`, provider.ErrRefused},
		{karadenError, "karaden", 400, `{"object":"error","code":"invalid_version"}`, provider.ErrUnavailable},
		{karadenError, "karaden", 500, `{"object":"error","code":"unknown"}`, provider.ErrUnavailable},
		{karadenError, "karaden", 422, `{"object":"list","code":"validation_error"}`, nil},
		{karadenError, "karaden", 422, `{"object":"error","code":"09012345678 is bad"}`, nil},
		{karadenError, "karaden", 404, `<html>`, nil},
		{twilioError, "twilio", 400, `{"code":21211,"message":"bad +819012345678","status":400}`, provider.ErrRefused},
		{twilioError, "twilio", 401, `{"code":20003,"status":401}`, provider.ErrUnavailable},
		{twilioError, "twilio", 400, `{"code":21211,"status":500}`, nil},
		{twilioError, "twilio", 404, `{}`, nil},
		{twilioError, "twilio", 404, `<html>`, nil},
	} {
		err := tc.parse(&provider.Response{Status: tc.code, Body: []byte(tc.body)})
		if err == nil || strings.Contains(err.Error(), "9012345678") {
			t.Errorf("%s %d %s: %v", tc.name, tc.code, tc.body, err)
		}
		for _, class := range []error{provider.ErrRefused, provider.ErrUnavailable} {
			if errors.Is(err, class) != (class == tc.class) {
				t.Errorf("%s %d %s: %v, want %v", tc.name, tc.code, tc.body, err, tc.class)
			}
		}
	}
}

func TestFailedAtOnceIsRefused(t *testing.T) {
	if err := refuseFailed(Receipt{State: StateFailed}, nil); !errors.Is(err, provider.ErrRefused) {
		t.Fatal(err)
	}
	if err := refuseFailed(Receipt{State: StateAccepted}, nil); err != nil {
		t.Fatal(err)
	}
}

func checkReceipt(t *testing.T, r Receipt, err error) {
	t.Helper()
	states := []State{StateAccepted, StateSent, StateReceived, StateFailed}
	if err == nil && (!slices.Contains(states, r.State) || !messageID.MatchString(r.ID)) {
		t.Fatalf("a receipt without a fact: %+v", r)
	}
}

func FuzzKaradenAnswer(f *testing.F) {
	const message = `{"object":"message","id":"9d2c6f0e-1","to":"09012345678","tags":["one"],"result":"processing","status":"waiting","sent_result":"none"}`
	f.Add(200, []byte(message))
	f.Add(200, []byte(`{"object":"list","has_more":false,"data":[`+message+`]}`))
	f.Add(422, []byte(`{"object":"error","code":"validation_error","message":"","errors":{"to":["bad"]}}`))
	f.Add(500, []byte(`<html>`))
	f.Fuzz(func(t *testing.T, status int, body []byte) {
		r := &provider.Response{Status: status, Header: http.Header{}, Body: body}
		receipt, err := karadenReceipt(r)
		checkReceipt(t, receipt, err)
		if err == nil && r.Class() != nil {
			t.Fatalf("status %d passed for a success", status)
		}
		receipt, found, err := karadenFind(r, "09012345678", "one")
		if found {
			checkReceipt(t, receipt, err)
		}
		if found && (err != nil || r.Class() != nil) {
			t.Fatalf("found by status %d, %v", status, err)
		}
	})
}
