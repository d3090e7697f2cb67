package pushnotifier

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sekisho/sekisho/services/internal/provider"
	"github.com/sekisho/sekisho/services/simulators"
)

func fcmTo(t testing.TB, far vendorsFar, base provider.Settings) *FCM {
	open := clients(t, base)
	return NewFCM(open(provider.Settings{Name: "fcm", MaxRetryAfter: pushRetryAfter}), open(provider.Settings{Name: "fcm-token"}), FCMConfig{
		URL: far.url + "/fcm", Project: farProject,
		Account: ServiceAccount{Email: farEmail, KeyID: "key-1", Key: farKey(), TokenURL: far.url + "/fcm/token"},
	})
}

// tokenCalls is how often the token server was asked.
func (f vendorsFar) tokenCalls() (n int) {
	for _, c := range f.Calls(simulators.Push) {
		if c.Path == "/fcm/token" {
			n++
		}
	}
	return n
}

func TestFCMDelivers(t *testing.T) {
	far := startVendors(t, nil)
	f := fcmTo(t, far, provider.Settings{})
	app, _ := far.subscribe(t, "alice", simulators.FCM, "")
	for _, m := range []Message{
		{Topic: "login-1", TTL: 90 * time.Second, Urgency: UrgencyHigh, Body: []byte(`{"kind":"prompt"}`)},
		{Topic: "notice-1", TTL: -time.Second, Urgency: UrgencyNormal, Body: []byte(`{"kind":"notice"}`)},
	} {
		if err := f.Send(t.Context(), app, m); err != nil {
			t.Fatal(err)
		}
		got := far.PushMessages("alice")[0]
		if got.Body != string(m.Body) || got.Topic != m.Topic || got.Urgency != string(m.Urgency) || got.TTL != int(max(0, m.TTL)/time.Second) || got.Provider != simulators.FCM {
			t.Fatalf("the phone got %+v", got)
		}
	}
}

func TestFCMKeepsItsAccessToken(t *testing.T) {
	now := time.Now()
	clock := func() time.Time { return now }
	far := startVendors(t, clock)
	f := fcmTo(t, far, provider.Settings{})
	f.now = clock
	app, _ := far.subscribe(t, "alice", simulators.FCM, "")
	for _, step := range []struct {
		pass time.Duration
		want int
	}{{0, 1}, {0, 1}, {time.Hour - renewAhead - time.Second, 1}, {time.Second, 2}, {0, 2}} {
		now = now.Add(step.pass)
		if err := f.Send(t.Context(), app, Message{}); err != nil {
			t.Fatal(err)
		}
		if n := far.tokenCalls(); n != step.want {
			t.Fatalf("%d tokens after %v, want %d", n, step.pass, step.want)
		}
	}
}

// Many messages at once ask for one token, not for many.
func TestFCMAsksForOneTokenAtATime(t *testing.T) {
	far := startVendors(t, nil)
	f := fcmTo(t, far, provider.Settings{})
	app, _ := far.subscribe(t, "alice", simulators.FCM, "")
	far.fault(t, simulators.Hang, 0)
	ctx, cancel := context.WithCancel(t.Context())
	var calls sync.WaitGroup
	for range 8 {
		calls.Go(func() {
			if err := f.Send(ctx, app, Message{}); !errors.Is(err, context.Canceled) {
				t.Error(err)
			}
		})
	}
	if err := far.WaitCall(t.Context(), simulators.Push, simulators.OutcomePending); err != nil {
		t.Fatal(err)
	}
	cancel()
	calls.Wait()
	for _, c := range far.Calls(simulators.Push) {
		if c.Path != "/fcm/token" {
			t.Errorf("%s was called without a token", c.Path)
		}
	}
}

func TestFCMReplacesARevokedToken(t *testing.T) {
	far := startVendors(t, nil)
	f := fcmTo(t, far, provider.Settings{})
	app, _ := far.subscribe(t, "alice", simulators.FCM, "")
	f.access.Store(&accessToken{secret: "revoked", renewAt: time.Now().Add(time.Hour)})
	if err := f.Send(t.Context(), app, Message{}); !errors.Is(err, provider.ErrUnavailable) {
		t.Fatal(err)
	}
	if err := f.Send(t.Context(), app, Message{}); err != nil {
		t.Fatal(err)
	}
}

func TestFCMRefusals(t *testing.T) {
	far := startVendors(t, nil)
	f := fcmTo(t, far, provider.Settings{Failures: 1, Open: time.Hour})
	good, _ := far.subscribe(t, "alice", simulators.FCM, "")
	gone, id := far.subscribe(t, "mallory", simulators.FCM, "")
	far.remove(t, id)
	for name, tc := range map[string]struct {
		target Target
		want   error
	}{
		"removed app":     {gone, errGone},
		"unknown token":   {Target{Address: json.RawMessage(`{"token":"unknown"}`)}, provider.ErrRefused},
		"no token":        {Target{Address: json.RawMessage(`{}`)}, provider.ErrRefused},
		"malformed token": {Target{Address: json.RawMessage(`{"token":"a b"}`)}, provider.ErrRefused},
	} {
		err := f.Send(t.Context(), tc.target, Message{})
		if !errors.Is(err, tc.want) || errors.Is(err, errGone) != (tc.want == errGone) {
			t.Errorf("%s: %v, want %v", name, err, tc.want)
		}
	}
	if err := f.Send(t.Context(), good, Message{}); err != nil {
		t.Fatalf("the breaker is open for everybody: %v", err)
	}
}

// A wrong key or project is ours to mend: no phone is forgotten for it.
func TestFCMWrongAccount(t *testing.T) {
	far := startVendors(t, nil)
	app, _ := far.subscribe(t, "alice", simulators.FCM, "")
	for name, spoil := range map[string]func(*FCMConfig){
		"account": func(c *FCMConfig) { c.Account.Email = "other@demo.example" },
		"project": func(c *FCMConfig) { c.Project = "other" },
	} {
		f := fcmTo(t, far, provider.Settings{})
		spoil(&f.config)
		if err := f.Send(t.Context(), app, Message{}); !errors.Is(err, provider.ErrUnavailable) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func fcmErrorBody(status int, code string) string {
	return fmt.Sprintf(`{"error":{"code":%d,"message":"secret","status":"X","details":[{"@type":"type.googleapis.com/google.firebase.fcm.v1.FcmError","errorCode":%q}]}}`, status, code)
}

func TestFCMErrors(t *testing.T) {
	for _, tc := range []struct {
		status int
		body   string
		want   error
	}{
		{200, `{"name":"projects/demo/messages/0:1"}`, nil},
		{200, `{"name":"x"}`, provider.ErrUnavailable},
		{200, `{}`, provider.ErrUnavailable},
		{400, fcmErrorBody(400, "INVALID_ARGUMENT"), provider.ErrRefused},
		{401, fcmErrorBody(401, "THIRD_PARTY_AUTH_ERROR"), provider.ErrRefused}, // a phone must not open the breaker by its token
		{401, fcmErrorBody(401, ""), provider.ErrUnavailable},
		{403, fcmErrorBody(403, "SENDER_ID_MISMATCH"), provider.ErrRefused},
		{403, fcmErrorBody(403, ""), provider.ErrUnavailable},
		{404, fcmErrorBody(404, "UNREGISTERED"), errGone},
		{404, `{"error":{"code":404,"status":"NOT_FOUND"}}`, provider.ErrUnavailable},
		{404, `<html>no such page`, provider.ErrUnavailable},
		{400, fcmErrorBody(404, "UNREGISTERED"), provider.ErrUnavailable},
		{500, fcmErrorBody(500, "INTERNAL"), provider.ErrUnavailable},
		{503, fcmErrorBody(503, "UNAVAILABLE"), provider.ErrUnavailable},
	} {
		far := startVendors(t, nil)
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.WriteHeader(tc.status)
			w.Write([]byte(tc.body))
		}))
		f := fcmTo(t, far, provider.Settings{})
		f.config.URL = server.URL
		err := f.Send(t.Context(), Target{Address: json.RawMessage(`{"token":"t"}`)}, Message{})
		if !errors.Is(err, tc.want) || (err == nil) != (tc.want == nil) || errors.Is(err, errGone) != (tc.want == errGone) {
			t.Errorf("%d %s: %v, want %v", tc.status, tc.body, err, tc.want)
		}
		if strings.Contains(fmt.Sprint(err), "secret") {
			t.Errorf("the text quotes the answer: %v", err)
		}
		if dropped := f.access.Load() == nil; dropped != (tc.status == 401 && tc.want == provider.ErrUnavailable) {
			t.Errorf("%d %s: dropped the access token: %t", tc.status, tc.body, dropped)
		}
		f.Close()
		server.Close()
	}
}

func serviceAccountFile(t testing.TB, tokenURL string) []byte {
	der, err := x509.MarshalPKCS8PrivateKey(farKey())
	if err != nil {
		t.Fatal(err)
	}
	file, err := json.Marshal(map[string]string{
		"type": "service_account", "client_email": farEmail, "private_key_id": "key-1", "token_uri": tokenURL,
		"private_key": string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})),
	})
	if err != nil {
		t.Fatal(err)
	}
	return file
}

func TestParseServiceAccount(t *testing.T) {
	file := serviceAccountFile(t, "https://oauth2.example.com/token")
	got, err := ParseServiceAccount(file)
	if err != nil || got.Email != farEmail || got.KeyID != "key-1" || got.TokenURL != "https://oauth2.example.com/token" || !got.Key.Equal(farKey()) {
		t.Fatalf("%+v, %v", got, err)
	}
	for field, bad := range map[string]string{"client_email": "", "token_uri": "ftp://secret", "private_key": "secret"} {
		var m map[string]string
		if err := json.Unmarshal(file, &m); err != nil {
			t.Fatal(err)
		}
		m[field] = bad
		spoiled, err := json.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := ParseServiceAccount(spoiled); err == nil || strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: %v", field, err)
		}
	}
}

func FuzzFCMAnswer(f *testing.F) {
	f.Add(200, []byte(`{"name":"projects/demo/messages/0:1"}`))
	f.Add(200, []byte(`{"access_token":"ya29.x","expires_in":3599,"token_type":"Bearer"}`))
	f.Add(400, []byte(`{"access_token":"ya29.x","expires_in":3599,"token_type":"Bearer"}`))
	f.Add(404, []byte(fcmErrorBody(404, "UNREGISTERED")))
	f.Add(503, []byte(`<html>`))
	f.Fuzz(func(t *testing.T, status int, body []byte) {
		r := &provider.Response{Status: status, Body: body}
		err := fcmAnswer(r)
		if (err == nil) && r.Class() != nil {
			t.Fatalf("status %d passed for a success", status)
		}
		if errors.Is(err, errGone) && r.Class() == nil {
			t.Fatalf("status %d drops a phone", status)
		}
		now := time.Unix(0, 0)
		access, err := fcmAccessToken(r, now)
		if (access == nil) != (err != nil) || err == nil && (r.Class() != nil || strings.ContainsAny(access.secret, "\r\n ") || access.renewAt.Sub(now) > 24*time.Hour) {
			t.Fatalf("%+v, %v", access, err)
		}
	})
}
