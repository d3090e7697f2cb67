package pushnotifier

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"crypto/rsa"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"

	"github.com/sekisho/sekisho/services/internal/config"
	"github.com/sekisho/sekisho/services/internal/credentials"
	"github.com/sekisho/sekisho/services/internal/directory"
	"github.com/sekisho/sekisho/services/internal/provider"
	"github.com/sekisho/sekisho/services/internal/runtime"
	"github.com/sekisho/sekisho/services/internal/testenv"
	"github.com/sekisho/sekisho/services/simulators"
)

// vendorsFar is a server with the far ends of all push vendors.
type vendorsFar struct {
	*simulators.Simulators
	url string
}

const farProject, farEmail, farToken = "demo", "push@demo.example", "mamoru-token"

var farKey = sync.OnceValue(func() *rsa.PrivateKey {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		panic(err)
	}
	return key
})

// startVendors runs the far ends, whose clock is real unless now says otherwise.
func startVendors(t testing.TB, now func() time.Time) vendorsFar {
	sim := simulators.New(simulators.Config{
		FCMProject: farProject, FCMEmail: farEmail, FCMKey: &farKey().PublicKey, MamoruToken: farToken, Now: now,
	})
	server := httptest.NewServer(sim)
	t.Cleanup(func() {
		sim.Close()
		server.Close()
	})
	return vendorsFar{sim, server.URL}
}

func (f vendorsFar) host() string { return strings.TrimPrefix(f.url, "http://") }

func (f vendorsFar) fault(t testing.TB, mode simulators.Mode, delay time.Duration) {
	t.Helper()
	if err := f.SetFault(simulators.Push, simulators.Fault{Mode: mode, Delay: delay}); err != nil {
		t.Fatal(err)
	}
}

// subscribe makes an app of a user, and returns where it is told.
func (f vendorsFar) subscribe(t testing.TB, user, transport, vapid string) (target Target, id string) {
	t.Helper()
	body, err := json.Marshal(map[string]string{"user": user, "transport": transport, "vapid": vapid})
	if err != nil {
		t.Fatal(err)
	}
	res, err := http.Post(f.url+"/sim/push/subscriptions", "application/json", bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	var made struct {
		ID        string
		Transport directory.Transport
		Target    json.RawMessage
	}
	if err := json.NewDecoder(res.Body).Decode(&made); err != nil || res.StatusCode != http.StatusCreated {
		t.Fatal(res.Status, err)
	}
	return Target{Device: "device of " + user, Transport: made.Transport, Address: made.Target}, made.ID
}

// remove removes an app.
func (f vendorsFar) remove(t testing.TB, id string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodDelete, f.url+"/sim/push/subscriptions/"+id, nil)
	if err != nil {
		t.Fatal(err)
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	res.Body.Close()
	if res.StatusCode != http.StatusNoContent {
		t.Fatal(res.Status)
	}
}

// clients makes clients that differ from the defaults as given.
func clients(t testing.TB, base provider.Settings) func(provider.Settings) *provider.Client {
	registry := prometheus.NewRegistry()
	return func(s provider.Settings) *provider.Client {
		s.Timeout = cmp.Or(base.Timeout, time.Minute)
		s.Failures = cmp.Or(base.Failures, 1000)
		s.Open = base.Open
		s.MaxConcurrent = base.MaxConcurrent
		c := provider.New(s, registry, zerolog.Nop())
		t.Cleanup(c.CloseIdle)
		return c
	}
}

// everyVendor gives both senders, and an app of alice at each.
func everyVendor(t *testing.T, far vendorsFar, base provider.Settings) map[directory.Transport]func() error {
	w, f := webPushTo(t, far, base), fcmTo(t, far, base)
	browser, _ := far.subscribe(t, "alice", simulators.WebPush, "")
	phone, _ := far.subscribe(t, "alice", simulators.FCM, "")
	m := Message{Topic: "topic", TTL: time.Minute, Urgency: UrgencyHigh, Body: []byte("body")}
	return map[directory.Transport]func() error{
		directory.WebPush: func() error { return w.Send(t.Context(), browser, m) },
		directory.FCM:     func() error { return f.Send(t.Context(), phone, m) },
	}
}

func TestSendersFaults(t *testing.T) {
	testenv.EachFault(t, func(t *testing.T, fault simulators.Fault, timeout time.Duration, want error) {
		far := startVendors(t, nil)
		senders := everyVendor(t, far, provider.Settings{Timeout: timeout})
		far.fault(t, fault.Mode, fault.Delay)
		for name, send := range senders {
			want := want
			if fault.Mode == simulators.Garbage && name == directory.WebPush {
				want = nil // the status says it all
			}
			if err := send(); !errors.Is(err, want) || want == nil && err != nil {
				t.Errorf("%s: %v, want %v", name, err, want)
			}
		}
	})
}

func TestSendersBreakerOpens(t *testing.T) {
	far := startVendors(t, nil)
	senders := everyVendor(t, far, provider.Settings{Failures: 2, Open: time.Hour})
	far.fault(t, simulators.Error, 0)
	for name, send := range senders {
		for range 2 {
			if err := send(); !errors.Is(err, provider.ErrUnavailable) {
				t.Fatalf("%s: %v", name, err)
			}
		}
		before := len(far.Calls(simulators.Push))
		if err := send(); !errors.Is(err, provider.ErrOpen) {
			t.Errorf("%s: %v, want an open breaker", name, err)
		}
		if n := len(far.Calls(simulators.Push)); n != before {
			t.Errorf("%s was called with its breaker open", name)
		}
	}
}

func TestSendersBreakerCloses(t *testing.T) {
	far := startVendors(t, nil)
	senders := everyVendor(t, far, provider.Settings{Failures: 1, Open: time.Nanosecond})
	for name, send := range senders {
		far.fault(t, simulators.Error, 0)
		if err := send(); !errors.Is(err, provider.ErrUnavailable) {
			t.Fatalf("%s: %v", name, err)
		}
		far.fault(t, simulators.None, 0)
		err := send()
		for ; errors.Is(err, provider.ErrOpen) && t.Context().Err() == nil; err = send() {
		}
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestSendersHonorRetryAfter(t *testing.T) {
	limited := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Retry-After", "3600")
		w.WriteHeader(http.StatusTooManyRequests)
	}))
	defer limited.Close()
	far := startVendors(t, nil)
	open := clients(t, provider.Settings{Failures: 1})

	w := webPushAt(t, open, strings.TrimPrefix(limited.URL, "http://"))
	subscription, _ := far.subscribe(t, "alice", simulators.WebPush, "")
	subscription.Address = bytes.Replace(subscription.Address, []byte(far.url), []byte(limited.URL), 1)
	f := fcmTo(t, far, provider.Settings{Failures: 1})
	f.config.URL = limited.URL
	app, _ := far.subscribe(t, "alice", simulators.FCM, "")

	for name, send := range map[directory.Transport]func() error{
		directory.WebPush: func() error { return w.Send(t.Context(), subscription, Message{}) },
		directory.FCM:     func() error { return f.Send(t.Context(), app, Message{}) },
	} {
		for _, unsent := range []bool{false, true} { // the second is not even tried
			err := send()
			e, ok := errors.AsType[*provider.Error](err)
			if !ok || !errors.Is(err, provider.ErrLimited) || provider.Unsent(err) != unsent || e.RetryAfter <= 0 {
				t.Errorf("%s: %v, unsent %t", name, err, provider.Unsent(err))
			}
			if e.RetryAfter > pushRetryAfter {
				t.Errorf("%s: one phone silences its service for %v", name, e.RetryAfter)
			}
		}
	}
}

func newTestCourier(t *testing.T, far vendorsFar, base provider.Settings) *courier {
	c := newCourier(map[directory.Transport]sender{directory.WebPush: webPushTo(t, far, base), directory.FCM: fcmTo(t, far, base)})
	t.Cleanup(c.close)
	return c
}

// outcomes collects what a courier reports.
type outcomes struct {
	mu sync.Mutex
	of map[string]error // by device
}

func (o *outcomes) report(t Target, err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.of == nil {
		o.of = make(map[string]error)
	}
	o.of[t.Device] = err
}

func TestCourierReportsEveryTarget(t *testing.T) {
	far := startVendors(t, nil)
	c := newTestCourier(t, far, provider.Settings{})
	alice, _ := far.subscribe(t, "alice", simulators.WebPush, "")
	bob, _ := far.subscribe(t, "bob", simulators.FCM, "")
	gone, id := far.subscribe(t, "gone", simulators.WebPush, "")
	far.remove(t, id)
	lost, id := far.subscribe(t, "lost", simulators.FCM, "")
	far.remove(t, id)
	odd := Target{Device: "odd", Transport: "pigeon", Address: json.RawMessage(`{}`)}

	var got outcomes
	<-c.send([]Target{alice, bob, gone, lost, odd}, Message{Topic: "t", TTL: time.Minute, Urgency: UrgencyHigh, Body: []byte("ring")}, got.report)
	for device, want := range map[string]error{
		alice.Device: nil, bob.Device: nil, gone.Device: errGone, lost.Device: errGone, odd.Device: provider.ErrRefused,
	} {
		if err, told := got.of[device]; !told || !errors.Is(err, want) || (err == nil) != (want == nil) {
			t.Errorf("%s: %v (told: %t), want %v", device, err, told, want)
		}
	}
	for _, user := range []string{"alice", "bob"} {
		if got := far.PushMessages(user); len(got) != 1 || got[0].Body != "ring" {
			t.Errorf("%s got %v", user, got)
		}
	}
	<-c.send(nil, Message{}, got.report) // nobody to tell is told at once
}

func TestCourierRefusesLongMessages(t *testing.T) {
	far := startVendors(t, nil)
	c := newTestCourier(t, far, provider.Settings{})
	browser, _ := far.subscribe(t, "alice", simulators.WebPush, "")
	phone, _ := far.subscribe(t, "bob", simulators.FCM, "")
	for size, want := range map[int]error{maxMessage: nil, maxMessage + 1: provider.ErrRefused} {
		var got outcomes
		<-c.send([]Target{browser, phone}, Message{Body: bytes.Repeat([]byte("x"), size)}, got.report)
		for device, err := range got.of {
			if !errors.Is(err, want) || (err == nil) != (want == nil) {
				t.Errorf("%s, %d bytes: %v, want %v", device, size, err, want)
			}
		}
	}
}

func TestCourierChecksTargets(t *testing.T) {
	far := startVendors(t, nil)
	c := newTestCourier(t, far, provider.Settings{})
	browser, _ := far.subscribe(t, "alice", simulators.WebPush, "")
	phone, _ := far.subscribe(t, "alice", simulators.FCM, "")
	for _, good := range []Target{browser, phone} {
		if err := c.check(good); err != nil {
			t.Errorf("%s: %v", good.Transport, err)
		}
	}
	for _, bad := range []Target{
		{Transport: directory.FCM, Address: browser.Address}, {Transport: directory.WebPush, Address: phone.Address},
		{Transport: "pigeon", Address: phone.Address}, {Transport: directory.FCM}, {Transport: directory.WebPush},
	} {
		if err := c.check(bad); !errors.Is(err, provider.ErrRefused) {
			t.Errorf("%s %s: %v", bad.Transport, bad.Address, err)
		}
	}
}

// Whoever waits for a hanging service does so by his own will, and the end of the worker ends the calls.
func TestCourierEndsHangingCalls(t *testing.T) {
	far := startVendors(t, nil)
	c := newTestCourier(t, far, provider.Settings{})
	alice, _ := far.subscribe(t, "alice", simulators.WebPush, "")
	far.fault(t, simulators.Hang, 0)
	var got outcomes
	done := c.send([]Target{alice}, Message{}, got.report)
	if err := far.WaitCall(t.Context(), simulators.Push, simulators.OutcomePending); err != nil {
		t.Fatal(err)
	}
	select {
	case <-done:
		t.Fatal("a hanging call has ended")
	default:
	}
	c.close()
	<-done
	if err := got.of[alice.Device]; !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
}

func TestOpenVendors(t *testing.T) {
	far := startVendors(t, nil)
	folder := credentials.Open(t.TempDir())
	if err := folder.Ensure(credentials.Contents{Signing: []string{"vapid"}}); err != nil {
		t.Fatal(err)
	}
	for name, data := range map[string][]byte{"fcm.json": serviceAccountFile(t, far.url+"/fcm/token"), "mamoru.token": []byte(farToken + "\n")} {
		if err := folder.Write(name, data); err != nil {
			t.Fatal(err)
		}
	}
	env := &runtime.Env{Config: config.Default(), Credentials: folder, Metrics: prometheus.NewRegistry()}
	browser, _ := far.subscribe(t, "alice", simulators.WebPush, "")
	phone, _ := far.subscribe(t, "alice", simulators.FCM, "")

	none, err := openVendors(env)
	if err != nil {
		t.Fatal(err)
	}
	defer none.close()
	if none.vapid != "" || none.mamoru != nil || none.courier.check(browser) == nil || none.courier.check(phone) == nil {
		t.Errorf("without settings there is %+v", none)
	}

	push := &env.Config.Push
	push.WebPush.Subject, push.WebPushHosts = "mailto:ops@example.com", []string{far.host()}
	push.FCM = config.FCM{URL: far.url + "/fcm", Project: farProject, KeyFile: filepath.Join(folder.Dir(), "fcm.json")}
	push.Mamoru = config.Mamoru{URL: far.url + "/mamoru", TokenFile: filepath.Join(folder.Dir(), "mamoru.token")}
	all, err := openVendors(env)
	if err != nil {
		t.Fatal(err)
	}
	defer all.close()
	bound, _ := far.subscribe(t, "alice", simulators.WebPush, all.vapid)
	var got outcomes
	<-all.courier.send([]Target{bound}, Message{Body: []byte("browser")}, got.report)
	<-all.courier.send([]Target{phone}, Message{Body: []byte("phone")}, got.report)
	if messages := far.PushMessages("alice"); len(messages) != 2 || got.of[phone.Device] != nil {
		t.Errorf("the phones got %v: %v", messages, got.of)
	}
	if page := startMamoru(t, all.mamoru, "alice", "web/1"); !strings.HasPrefix(page, far.url+"/mamoru/approve?") {
		t.Errorf("the browser would go to %s", page)
	}

	for name, spoil := range map[string]func(){
		"key file":   func() { push.FCM.KeyFile = push.Mamoru.TokenFile },
		"token file": func() { push.FCM.Project, push.Mamoru.TokenFile = "", filepath.Join(folder.Dir(), "missing") },
	} {
		spoil()
		if _, err := openVendors(env); err == nil || strings.Contains(err.Error(), farToken) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
