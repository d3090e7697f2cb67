package simulators_test

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/sekisho/sekisho/services/internal/httpapi"
	"github.com/sekisho/sekisho/services/simulators"
)

var epoch = time.Date(2026, 4, 1, 12, 0, 0, 0, time.UTC)

// server runs simulators whose clock is at *now, or at epoch.
func server(t *testing.T, now *time.Time) (*simulators.Simulators, string) {
	if now == nil {
		now = &epoch
	}
	sim := simulators.New(simulators.Config{
		KaradenTenant: "tenant", KaradenToken: "karaden-token", TwilioAccount: "AC1", TwilioToken: "twilio-token",
		OMotionSignature: "signature", RiskReview: []string{"alice"}, Now: func() time.Time { return *now },
	})
	s := httptest.NewServer(sim)
	t.Cleanup(func() {
		sim.Close()
		s.Close()
	})
	return sim, s.URL
}

// do sends a request and returns its answer with the body read.
func do(t *testing.T, req *http.Request) (*http.Response, string) {
	t.Helper()
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res, string(body)
}

func newRequest(t *testing.T, method, url, contentType, body string) *http.Request {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	if contentType != "" {
		req.Header.Set("Content-Type", contentType)
	}
	return req
}

func decode[T any](t *testing.T, body string) T {
	t.Helper()
	var v T
	if err := json.Unmarshal([]byte(body), &v); err != nil {
		t.Fatalf("%s: %v", body, err)
	}
	return v
}

// karaden sends one text message by the Karaden API.
func karaden(t *testing.T, base, to, body string) (*http.Response, string) {
	t.Helper()
	return do(t, karadenRequest(t, http.MethodPost, base+"/karaden/api/tenant/messages", url.Values{
		"service_id": {"1"}, "to": {to}, "body": {body}, "tags[]": {body},
	}))
}

func karadenRequest(t *testing.T, method, url string, form url.Values) *http.Request {
	t.Helper()
	req := newRequest(t, method, url, "application/x-www-form-urlencoded", form.Encode())
	req.Header.Set("Authorization", "Bearer karaden-token")
	req.Header.Set("Karaden-Version", "2024-03-01")
	return req
}

func TestMessagesOfPhones(t *testing.T) {
	now := epoch
	sim, base := server(t, &now)
	karaden(t, base, "09012345678", "first")
	now = now.Add(time.Minute)
	karaden(t, base, "09012345678", "second")
	karaden(t, base, "08000000000", "other phone")

	since := url.QueryEscape(now.Format(time.RFC3339))
	inJapan := now.In(time.FixedZone("JST", 9*60*60)).Format(time.RFC3339) // its plus sign is not escaped below
	for query, want := range map[string]string{
		"":                                 "other phone,second,first",
		"?to=%2B819012345678":              "second,first",
		"?to=+819012345678":                "second,first",
		"?to=09012345678":                  "second,first",
		"?to=09099999999":                  "",
		"?since=" + since:                  "other phone,second",
		"?to=09012345678&since=" + inJapan: "second",
	} {
		res, body := do(t, newRequest(t, "GET", base+"/sim/sms/messages"+query, "", ""))
		if res.StatusCode != 200 || res.Header.Get("Content-Type") != "application/json" {
			t.Fatalf("%s: %s", query, res.Status)
		}
		var bodies []string
		for _, m := range decode[[]map[string]any](t, body) {
			bodies = append(bodies, m["body"].(string))
		}
		if got := strings.Join(bodies, ","); got != want {
			t.Errorf("%s: got %q, want %q", query, got, want)
		}
	}

	_, body := do(t, newRequest(t, "GET", base+"/sim/sms/messages?to=08000000000", "", ""))
	if want := `[{"to":"+818000000000","body":"other phone","at":"2026-04-01T12:01:00Z","provider":"sms"}]`; strings.TrimSpace(body) != want {
		t.Errorf("got %s, want %s", body, want)
	}
	if got := sim.Messages("+819012345678"); len(got) != 2 || got[0].Body != "second" {
		t.Errorf("got %v", got)
	}
	_, body = do(t, newRequest(t, "GET", base+"/sim/push/messages?user=alice", "", ""))
	if strings.TrimSpace(body) != "[]" {
		t.Errorf("push messages: %s", body)
	}
}

func TestCalls(t *testing.T) {
	_, base := server(t, nil)
	karaden(t, base, "09012345678", "good")
	karaden(t, base, "1", "bad")
	do(t, newRequest(t, "PUT", base+"/sim/faults/sms", "application/json", `{"mode":"error"}`))
	karaden(t, base, "09012345678", "unlucky")
	do(t, newRequest(t, "GET", base+"/omotion/devices", "", ""))

	_, body := do(t, newRequest(t, "GET", base+"/sim/calls?provider=sms", "", ""))
	var outcomes []string
	for _, c := range decode[[]simulators.Call](t, body) {
		if c.Provider != "sms" || c.Method != "POST" || c.Path != "/karaden/api/tenant/messages" || !c.At.Equal(epoch) {
			t.Errorf("call is %+v", c)
		}
		outcomes = append(outcomes, c.Outcome)
	}
	if got := strings.Join(outcomes, ","); got != "error,refused,answered" {
		t.Errorf("outcomes are %s", got)
	}
	_, body = do(t, newRequest(t, "GET", base+"/sim/calls", "", ""))
	if n := len(decode[[]simulators.Call](t, body)); n != 4 {
		t.Errorf("%d calls in all, want 4", n)
	}
}

// A fault that is switched off may keep the fields that switched it on.
func TestFaultIsSwitchedOff(t *testing.T) {
	_, base := server(t, nil)
	req := newRequest(t, "PUT", base+"/sim/faults/sms", "application/json", `{"mode":"none","rate":0,"delay":"0s"}`)
	if res, body := do(t, req); res.StatusCode != http.StatusNoContent {
		t.Errorf("%s %s", res.Status, body)
	}
}

func TestControlRefusesBadInput(t *testing.T) {
	sim, base := server(t, nil)
	const jsonType = "application/json"
	for name, tc := range map[string]struct {
		method, path, contentType, body string
		status                          int
		blamed                          string // the field, or what may be done instead
	}{
		"unknown resource":  {"GET", "/sim/nothing", "", "", 404, ""},
		"unknown provider":  {"PUT", "/sim/faults/pigeon", jsonType, `{"mode":"none"}`, 404, "provider"},
		"method of faults":  {"POST", "/sim/faults/sms", jsonType, `{"mode":"none"}`, 405, "PUT"},
		"method of risk":    {"DELETE", "/sim/risk/users/alice", "", "", 405, "PUT"},
		"method of inbox":   {"PUT", "/sim/sms/messages", jsonType, `{}`, 405, "GET"},
		"no content type":   {"PUT", "/sim/faults/sms", "", `{"mode":"none"}`, 415, "application/json"},
		"not JSON":          {"PUT", "/sim/faults/sms", jsonType, `{mode}`, 400, ""},
		"too large":         {"PUT", "/sim/faults/sms", jsonType, `{"mode":"` + strings.Repeat("x", 1<<17) + `"}`, 413, ""},
		"unknown member":    {"PUT", "/sim/faults/sms", jsonType, `{"mode":"none","late":true}`, 422, "late"},
		"wrong type":        {"PUT", "/sim/faults/sms", jsonType, `{"mode":"none","rate":"half"}`, 422, "rate"},
		"no mode":           {"PUT", "/sim/faults/sms", jsonType, `{}`, 422, "mode"},
		"unknown mode":      {"PUT", "/sim/faults/sms", jsonType, `{"mode":"explode"}`, 422, "mode"},
		"rate 0":            {"PUT", "/sim/faults/sms", jsonType, `{"mode":"hang","rate":0}`, 422, "rate"},
		"rate above 1":      {"PUT", "/sim/faults/sms", jsonType, `{"mode":"hang","rate":1.1}`, 422, "rate"},
		"rate below 0":      {"PUT", "/sim/faults/sms", jsonType, `{"mode":"hang","rate":-1}`, 422, "rate"},
		"odd delay":         {"PUT", "/sim/faults/sms", jsonType, `{"mode":"slow","delay":"2 seconds"}`, 422, "delay"},
		"negative delay":    {"PUT", "/sim/faults/sms", jsonType, `{"mode":"slow","delay":"-2s"}`, 422, "delay"},
		"delay of days":     {"PUT", "/sim/faults/sms", jsonType, `{"mode":"slow","delay":"48h"}`, 422, "delay"},
		"unknown result":    {"PUT", "/sim/risk/users/alice", jsonType, `{"result":"MAYBE"}`, 422, "result"},
		"no result":         {"PUT", "/sim/risk/users/alice", jsonType, `{}`, 422, "result"},
		"odd number":        {"GET", "/sim/sms/messages?to=alice", "", "", 422, "to"},
		"odd time":          {"GET", "/sim/sms/messages?since=yesterday", "", "", 422, "since"},
		"calls of a pigeon": {"GET", "/sim/calls?provider=pigeon", "", "", 422, "provider"},
	} {
		t.Run(name, func(t *testing.T) {
			res, body := do(t, newRequest(t, tc.method, base+tc.path, tc.contentType, tc.body))
			problem, allow := decode[httpapi.Problem](t, body), res.Header.Get("Allow")
			if res.StatusCode != tc.status || problem.Status != tc.status || (allow != "") != (tc.status == 405) ||
				res.Header.Get("Content-Type") != "application/problem+json" || !strings.Contains(problem.Field+problem.Detail+allow, tc.blamed) {
				t.Errorf("%s, Allow %q, %s", res.Status, allow, body)
			}
		})
	}
	if res, body := karaden(t, base, "09012345678", "still well"); res.StatusCode != 200 {
		t.Errorf("bad input switched a fault on: %s", body)
	}
	if n := len(sim.Calls("")); n != 1 {
		t.Errorf("%d calls, want 1: the control API's own do not count", n)
	}
}

func TestPutFaultTakesEveryForm(t *testing.T) {
	_, base := server(t, nil)
	for _, provider := range simulators.Providers {
		for _, body := range []string{
			`{"mode":"error"}`, `{"mode":"hang","rate":0.3,"delay":"2s"}`, `{"mode":"garbage","rate":1}`,
			`{"mode":"reset"}`, `{"mode":"slow"}`, `{"mode":"none"}`,
		} {
			res, answer := do(t, newRequest(t, "PUT", base+"/sim/faults/"+provider, "application/json; charset=utf-8", body))
			if res.StatusCode != 204 {
				t.Errorf("%s %s: %s %s", provider, body, res.Status, answer)
			}
		}
	}
}
