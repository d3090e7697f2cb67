package pushnotifier

import (
	"crypto/ecdh"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/sekisho/sekisho/services/internal/provider"
	"github.com/sekisho/sekisho/services/simulators"
)

func webPushTo(t testing.TB, far vendorsFar, base provider.Settings) *WebPush {
	return webPushAt(t, clients(t, base), far.host())
}

func webPushAt(t testing.TB, open func(provider.Settings) *provider.Client, hosts ...string) *WebPush {
	t.Helper()
	key, err := ecdh.P256().GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return NewWebPush(WebPushConfig{Key: key, Subject: "mailto:ops@example.com", Hosts: hosts}, open)
}

func TestWebPushDelivers(t *testing.T) {
	far := startVendors(t, nil)
	w := webPushTo(t, far, provider.Settings{})
	bound, _ := far.subscribe(t, "alice", simulators.WebPush, w.PublicKey())
	m := Message{Topic: "login-1_A", TTL: 90 * time.Second, Urgency: UrgencyHigh, Body: []byte(`{"kind":"prompt"}`)}
	if err := w.Send(t.Context(), bound, m); err != nil {
		t.Fatal(err)
	}
	got := far.PushMessages("alice")
	if len(got) != 1 || got[0].Body != string(m.Body) || got[0].Topic != m.Topic || got[0].Urgency != "high" || got[0].TTL != 90 || got[0].Provider != simulators.WebPush {
		t.Fatalf("the phone got %+v", got)
	}
	// A message that is past its time is for a phone that is on.
	if err := w.Send(t.Context(), bound, Message{TTL: -time.Second}); err != nil {
		t.Fatal(err)
	}
	if got := far.PushMessages("alice"); len(got) != 2 || got[0].TTL != 0 {
		t.Fatalf("the phone got %+v", got)
	}
}

// By a proxy, which looks up names itself, known services are called, and nobody else.
func TestWebPushByAProxy(t *testing.T) {
	asked := make(chan string, 10)
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked <- r.Method + " " + r.Host
		w.WriteHeader(http.StatusBadGateway)
	}))
	at, err := url.Parse(proxy.URL)
	if err != nil {
		t.Fatal(err)
	}
	far := startVendors(t, nil)
	key, err := ecdh.P256().GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	w := NewWebPush(WebPushConfig{Key: key, Subject: "mailto:ops@example.com", Proxy: at}, clients(t, provider.Settings{}))
	defer w.Close()
	target, _ := far.subscribe(t, "alice", simulators.WebPush, "")
	var address map[string]any
	if err := json.Unmarshal(target.Address, &address); err != nil {
		t.Fatal(err)
	}
	for _, endpoint := range []string{"https://updates.push.services.mozilla.com/x", "https://elsewhere.example/x", "https://127.0.0.1/x"} {
		known := strings.Contains(endpoint, "mozilla")
		address["endpoint"] = endpoint
		if target.Address, err = json.Marshal(address); err != nil {
			t.Fatal(err)
		}
		if err := w.Check(target.Address); known != (err == nil) {
			t.Errorf("%s: %v", endpoint, err)
		}
		if err := w.Send(t.Context(), target, Message{}); known != errors.Is(err, provider.ErrUnavailable) {
			t.Errorf("%s: %v", endpoint, err)
		}
	}
	proxy.Close()
	close(asked)
	var got []string
	for request := range asked {
		got = append(got, request)
	}
	if !slices.Equal(got, []string{"CONNECT updates.push.services.mozilla.com:443"}) {
		t.Errorf("the proxy was asked for %q", got)
	}
}

// What a phone names is its own fault: none of it opens the breaker in front of other phones.
func TestWebPushRefusals(t *testing.T) {
	far := startVendors(t, nil)
	w := webPushTo(t, far, provider.Settings{Failures: 1, Open: time.Hour})
	good, _ := far.subscribe(t, "alice", simulators.WebPush, w.PublicKey())
	other := webPushTo(t, far, provider.Settings{}).PublicKey()
	foreign, _ := far.subscribe(t, "mallory", simulators.WebPush, other)
	gone, id := far.subscribe(t, "mallory", simulators.WebPush, "")
	far.remove(t, id)
	unknown := good
	unknown.Address = json.RawMessage(strings.Replace(string(good.Address), "/webpush/", "/webpush/x", 1))
	for name, tc := range map[string]struct {
		target Target
		m      Message
		want   error
	}{
		"subscription of another key": {foreign, Message{}, provider.ErrRefused},
		"ended subscription":          {gone, Message{}, errGone},
		"unknown subscription":        {unknown, Message{}, errGone},
		"topic that is none":          {good, Message{Topic: "a topic"}, provider.ErrRefused},
		"too long":                    {good, Message{Body: make([]byte, 5000)}, provider.ErrRefused},
	} {
		err := w.Send(t.Context(), tc.target, tc.m)
		if !errors.Is(err, tc.want) || !errors.Is(err, provider.ErrRefused) || errors.Is(err, errGone) != (tc.want == errGone) {
			t.Errorf("%s: %v, want %v", name, err, tc.want)
		}
	}
	if err := w.Send(t.Context(), good, Message{}); err != nil {
		t.Fatalf("the breaker is open for everybody: %v", err)
	}
}

func TestWebPushStatuses(t *testing.T) {
	for status, want := range map[int]error{
		200: nil, 201: nil, 202: nil,
		400: provider.ErrRefused, 401: provider.ErrRefused, 403: provider.ErrRefused, 404: errGone, 410: errGone, 413: provider.ErrRefused,
		301: provider.ErrUnavailable, 307: provider.ErrUnavailable, 500: provider.ErrUnavailable, 503: provider.ErrUnavailable,
	} {
		calls := 0
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			calls++
			w.Header().Set("Location", "/elsewhere")
			w.WriteHeader(status)
		}))
		w := webPushAt(t, clients(t, provider.Settings{}), strings.TrimPrefix(server.URL, "http://"))
		err := w.Send(t.Context(), Target{Address: subscriptionTo(server.URL + "/one")}, Message{})
		if !errors.Is(err, want) || (err == nil) != (want == nil) || calls != 1 {
			t.Errorf("status %d after %d calls: %v, want %v", status, calls, err, want)
		}
		w.Close()
		server.Close()
	}
}

// One service of a misbehaving phone's choice does not silence the others.
func TestWebPushServicesFailApart(t *testing.T) {
	good, bad := startVendors(t, nil), startVendors(t, nil)
	w := webPushAt(t, clients(t, provider.Settings{Failures: 1, Open: time.Hour}), good.host(), bad.host())
	bad.fault(t, simulators.Error, 0)
	mallory, _ := bad.subscribe(t, "mallory", simulators.WebPush, "")
	alice, _ := good.subscribe(t, "alice", simulators.WebPush, "")
	for _, want := range []error{provider.ErrUnavailable, provider.ErrOpen} {
		if err := w.Send(t.Context(), mallory, Message{}); !errors.Is(err, want) {
			t.Fatalf("%v, want %v", err, want)
		}
	}
	if err := w.Send(t.Context(), alice, Message{}); err != nil {
		t.Fatal(err)
	}
}

const (
	somePoint  = "BCVxsr7N_eNgVRqvHtD0zTZsEc6-VV-JvLexhqUzORcxaOzi6-AYWXvTBHm4bjyPjs7Vd8pZGH6SRpkNtoIAiw4" // RFC 8291 section 5
	someSecret = "BTBZMqHH6r4Tts7J_aSIgg"
)

func subscriptionTo(endpoint string) json.RawMessage {
	return fmt.Appendf(nil, `{"endpoint":%q,"expirationTime":null,"keys":{"p256dh":%q,"auth":%q}}`, endpoint, somePoint, someSecret)
}

func TestWebPushEndpoints(t *testing.T) {
	open := clients(t, provider.Settings{})
	anywhere := webPushAt(t, open, "127.0.0.1:8090", "push.internal:443")
	listed := webPushAt(t, open, "push.apple.com", "127.0.0.1:8090")
	for endpoint, want := range map[string]struct{ anywhere, listed bool }{
		"https://web.push.apple.com/x":           {true, true},
		"https://push.apple.com:443/x":           {true, true},
		"https://WEB.push.Apple.com/x":           {true, true},
		"http://127.0.0.1:8090/x":                {true, true},
		"https://127.0.0.1:8090/x":               {true, true},
		"https://push.internal/x":                {true, false},
		"https://fcm.googleapis.com/x":           {true, false},
		"https://push.example.org/x":             {true, false},
		"https://evilpush.apple.com/x":           {true, false},
		"https://push.apple.com.evil.org/x":      {true, false},
		"http://push.internal/x":                 {false, false},
		"http://web.push.apple.com/x":            {false, false},
		"http://web.push.apple.com:443/x":        {false, false},
		"https://web.push.apple.com:8443/x":      {false, false},
		"http://127.0.0.1:8091/x":                {false, false},
		"http://localhost:8090/x":                {false, false},
		"https://user@web.push.apple.com/x":      {false, false},
		"https://web.push.apple.com/x#y":         {false, false},
		"//web.push.apple.com/x":                 {false, false},
		"web.push.apple.com":                     {false, false},
		"https://":                               {false, false},
		"":                                       {false, false},
		"ftp://web.push.apple.com/x":             {false, false},
		"https://web.push.apple.com/\x00":        {false, false},
		"https://a/" + strings.Repeat("x", 2048): {false, false},
	} {
		for w, want := range map[*WebPush]bool{anywhere: want.anywhere, listed: want.listed} {
			if got := w.clientOf(endpoint) != nil; got != want {
				t.Errorf("%.60q with hosts %v: allowed %t", endpoint, w.config.Hosts, got)
			}
		}
	}
	if anywhere.clientOf("https://a.example/") != anywhere.others || anywhere.clientOf("https://web.push.apple.com/") == anywhere.others {
		t.Error("known services share a breaker with strangers")
	}
	if len(listed.services) != 1 || listed.others != nil {
		t.Error("hosts beside the listed ones are allowed")
	}
}

func TestWebPushReachesNoPrivateAddress(t *testing.T) {
	for _, addr := range []string{
		"127.0.0.1:443", "127.9.9.9:443", "localhost:443", "10.0.0.1:443", "172.16.0.1:443", "192.168.1.1:443", "169.254.169.254:443",
		"100.64.0.1:443", "0.0.0.0:443", "192.0.2.1:443", "224.0.0.1:443", "255.255.255.255:443", "198.51.100.7:8443",
	} {
		if conn, err := dialPublic(t.Context(), "tcp", addr); !errors.Is(err, provider.ErrRefused) {
			t.Errorf("%s: %v, %v", addr, conn, err)
		}
	}
	for _, addr := range []string{
		"[::1]:443", "[::]:443", "[::ffff:127.0.0.1]:443", "[::ffff:10.0.0.1]:443", "[fe80::1]:443", "[fd00::1]:443", "[64:ff9b::7f00:1]:443", "[2002:7f00:1::]:443", "[ff02::1]:443",
	} {
		if err := public.Safe("tcp6", addr, nil); err == nil {
			t.Errorf("%s passes for public", addr)
		}
	}
	for network, addr := range map[string]string{"tcp4": "17.57.144.1:443", "tcp6": "[2a00:1450:4001::1]:443"} {
		if err := public.Safe(network, addr, nil); err != nil {
			t.Errorf("%s: %v", addr, err)
		}
	}
}

func TestWebPushBlamesTheAddress(t *testing.T) {
	nowhere := &net.OpError{Op: "dial", Err: &net.DNSError{Err: "no such host", Name: "secret", IsNotFound: true}}
	if err := blameAddress(nowhere); !errors.Is(err, provider.ErrRefused) || strings.Contains(err.Error(), "secret") {
		t.Error(err)
	}
	for _, ours := range []error{&net.OpError{Op: "dial", Err: &net.DNSError{Err: "server misbehaving", IsTemporary: true}}, syscall.ECONNREFUSED, nil} {
		if err := blameAddress(ours); err != ours {
			t.Errorf("%v became %v", ours, err)
		}
	}
}

// The check is in the way of the calls, and does not open the breaker.
func TestWebPushSendsToNoPrivateAddress(t *testing.T) {
	server := httptest.NewTLSServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("called") }))
	defer server.Close()
	w := webPushAt(t, clients(t, provider.Settings{Failures: 1, Open: time.Hour}))
	for _, endpoint := range []string{"https://127.0.0.1/x", "https://localhost/x", "https://[::1]/x", "https://169.254.169.254/latest", server.URL} {
		err := w.Send(t.Context(), Target{Address: subscriptionTo(endpoint)}, Message{})
		if !errors.Is(err, provider.ErrRefused) || !provider.Unsent(err) {
			t.Errorf("%s: %v", endpoint, err)
		}
		if strings.Contains(fmt.Sprint(err), "127.0.0.1") || strings.Contains(fmt.Sprint(err), "169.254") {
			t.Errorf("the text tells too much: %v", err)
		}
	}
}

func TestWebPushReadsSubscriptionsStrictly(t *testing.T) {
	w := webPushAt(t, clients(t, provider.Settings{}))
	good := string(subscriptionTo("https://web.push.apple.com/x"))
	if err := w.Check(json.RawMessage(good)); err != nil {
		t.Fatal(err)
	}
	off := "BCVxsr7N_eNgVRqvHtD0zTZsEc6-VV-JvLexhqUzORcxaOzi6-AYWXvTBHm4bjyPjs7Vd8pZGH6SRpkNtoIAiA4" // not on the curve
	for _, bad := range []string{
		"", "null", "[]", "{}", `"x"`, good[:len(good)-1],
		strings.Replace(good, somePoint, "", 1), strings.Replace(good, somePoint, off, 1), strings.Replace(good, somePoint, somePoint[:80], 1),
		strings.Replace(good, somePoint, "BA"+strings.Repeat("A", 85), 1), // zeros: no point
		strings.Replace(good, someSecret, "", 1), strings.Replace(good, someSecret, someSecret+"AA", 1), strings.Replace(good, someSecret, "*", 1),
	} {
		if err := w.Check(json.RawMessage(bad)); !errors.Is(err, provider.ErrRefused) || !provider.Unsent(err) {
			t.Errorf("%s: %v", bad, err)
		}
	}
}

func FuzzSubscription(f *testing.F) {
	w := webPushAt(f, clients(f, provider.Settings{}), "push.apple.com", "127.0.0.1:8090")
	for _, endpoint := range []string{"https://web.push.apple.com/x", "http://127.0.0.1:8090/x", "http://10.0.0.1/", "https://push.apple.com@evil.org/", "https://evil.org?push.apple.com"} {
		f.Add([]byte(subscriptionTo(endpoint)))
	}
	known := []string{"push.apple.com", "127.0.0.1"}
	f.Fuzz(func(t *testing.T, address []byte) {
		s, client, err := w.subscription(address)
		if err != nil {
			if !errors.Is(err, provider.ErrRefused) {
				t.Fatal(err)
			}
			return
		}
		// What net/http makes of the endpoint is what counts.
		req, err := http.NewRequest(http.MethodPost, s.Endpoint, nil)
		if err != nil {
			t.Fatal(err)
		}
		host := strings.ToLower(req.URL.Hostname())
		if client == nil || !slices.ContainsFunc(known, func(k string) bool { return host == k || strings.HasSuffix(host, ".push.apple.com") }) {
			t.Fatalf("%q may be called", s.Endpoint)
		}
	})
}
